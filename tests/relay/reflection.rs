use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use relay::refusal::Code;

use crate::refusals::refused;
use crate::rig::client::Answer;
use crate::rig::vendor::{self, raw};
use crate::rig::{Rig, Settings};

const BEARER: &str = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";
const BASIC: &str = "inject = [{ header = \"authorization\", value = \"basic(user, password)\" }]\n\
    fields = { user = { label = \"User\", secret = false }, password = { label = \"Password\", secret = true } }\n";

fn settings(integration: &str) -> Settings {
    Settings { integration: integration.to_owned(), ..Settings::default() }
}

/// What the vendor was given, without the scheme.
fn credential(request: &vendor::Received) -> String {
    request.header("authorization").unwrap().split_once(' ').unwrap().1.to_owned()
}

fn get(rig: &Rig, id: &str, path: &str) -> Answer {
    rig.get(&format!("/vendor/{id}/{path}"), &rig.token("acme"))
}

/// The outcome of the last request.
fn outcome(rig: &Rig, requests: usize) -> serde_json::Value {
    let records = rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == requests);
    records.into_iter().rfind(|r| r["kind"] == "outcome").unwrap()
}

fn reflected(rig: &Rig) -> u64 {
    let text = rig.running().metrics().render();
    let line = text
        .lines()
        .find(|line| line.starts_with("relay_reflected_total{"))
        .unwrap_or_else(|| panic!("{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The ways in which a vendor may write what it was given.
fn forms(secret: &str) -> Vec<(String, &'static str)> {
    vec![
        (secret.to_owned(), "as it is"),
        (STANDARD.encode(secret), "base64"),
        (STANDARD.encode(format!("x{secret}")), "base64 behind one byte"),
        (STANDARD.encode(format!("xy{secret}")), "base64 behind two"),
        (STANDARD.encode(format!("user:{secret}:more")), "base64 in the middle"),
        (URL_SAFE_NO_PAD.encode(secret), "base64url"),
        (format!("{secret}{secret}"), "twice, without a gap"),
        (format!("Bearer {secret}"), "with its scheme"),
        (format!("{{\"headers\":{{\"Authorization\":\"Bearer {secret}\"}}}}"), "in JSON"),
    ]
}

#[test]
fn a_credential_in_an_answers_body_is_overwritten_in_place() {
    let rig = Rig::with(settings(BEARER), |request, out| {
        let number: usize = request.target().rsplit('/').next().unwrap().parse().unwrap();
        let (form, _) = forms(&credential(request)).swap_remove(number);
        vendor::answer(out, 200, &[], format!("before {form} behind").as_bytes());
    });
    let id = rig.secret("acme");
    let all = forms(rig.canary.text());
    for (number, (form, mistake)) in all.iter().enumerate() {
        let answer = get(&rig, &id, &number.to_string());
        assert_eq!(answer.status, 200, "{mistake}");
        assert_eq!(answer.body.len(), form.len() + 14, "{mistake}: the length stays");
        assert!(
            answer.text().starts_with("before ") && answer.text().ends_with(" behind"),
            "{mistake}: {}",
            answer.text()
        );
        assert!(answer.text().contains('*'), "{mistake}: {}", answer.text());
        assert!(rig.canary.hunt("", &answer.body).is_empty(), "{mistake}: {}", answer.text());
        assert_eq!(outcome(&rig, number + 1)["reflected"], true, "{mistake}");
        assert_eq!(reflected(&rig), number as u64 + 1, "{mistake}");
    }
}

#[test]
fn a_credential_in_an_answers_head_is_overwritten_and_as_a_name_it_goes() {
    let rig = Rig::with(settings(BEARER), |request, out| {
        let secret = credential(request);
        let base64 = STANDARD.encode(format!("x{secret}"));
        let upper = secret.to_uppercase();
        raw(
            out,
            format!(
                "HTTP/1.1 200 {secret}\r\nx-echo: {secret}\r\nx-more: a, {secret}, b\r\nx-more: {base64}\r\n\
            {secret}: as a name\r\nx-{upper}-y: as part of one\r\nlocation: /base/{secret}/x\r\n\
            link: </base/x?key={secret}>; rel=next\r\nset-cookie: {secret}\r\ncontent-length: 2\r\n\r\nok"
            )
            .as_bytes(),
        );
    });
    let id = rig.secret("acme");
    let answer = get(&rig, &id, "x");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let secret = rig.canary.text();
    assert_eq!(answer.header("x-echo").unwrap().len(), secret.len());
    assert!(answer.header("x-more").unwrap().starts_with("a, "));
    let head = format!("{:?}", answer.headers).to_lowercase();
    assert!(
        !head.contains(secret) && !head.contains("as a name") && !head.contains("as part of one"),
        "{head}"
    );
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(outcome(&rig, 1)["reflected"], true);
    assert_eq!(reflected(&rig), 1);
}

#[test]
fn a_credential_that_is_cut_into_pieces_at_any_place_is_found() {
    let rig = Rig::with(settings(BEARER), |request, out| {
        let mut words = request.target().rsplit('/');
        let cut: usize = words.next().unwrap().parse().unwrap();
        let form: usize = words.next().unwrap().parse().unwrap();
        let text = format!("data: {};\n", forms(&credential(request)).swap_remove(form).0);
        let (a, b) = text.split_at(cut);
        raw(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for part in [a, b] {
            if !part.is_empty() {
                raw(out, format!("{:x}\r\n{part}\r\n", part.len()).as_bytes());
            }
        }
        raw(out, b"0\r\n\r\n");
    });
    let id = rig.secret("acme");
    let all = forms(rig.canary.text());
    let auth = format!("Bearer {}", rig.token("acme"));
    let mut client = rig.client();
    // Raw and each alignment of base64.
    for (form, (text, mistake)) in all.iter().enumerate().take(4) {
        for cut in 0..=text.len() + 8 {
            let path = format!("/vendor/{id}/{form}/{cut}");
            let answer = client.request("GET", &path, &[("authorization", &auth)], b"");
            assert!(
                answer.text().starts_with("data: ") && answer.text().ends_with(";\n"),
                "{mistake} at {cut}"
            );
            assert_eq!(answer.body.len(), text.len() + 8, "{mistake} at {cut}");
            let found = rig.canary.hunt("", &answer.body);
            assert!(found.is_empty() && answer.text().contains('*'), "{mistake} at {cut}: {}", answer.text());
        }
    }
}

#[test]
fn a_credential_that_comes_byte_by_byte_is_found() {
    let rig = Rig::with(settings(BEARER), |request, out| {
        raw(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for byte in format!("<{}>", credential(request)).chars() {
            raw(out, format!("1\r\n{byte}\r\n").as_bytes());
        }
        raw(out, b"0\r\n\r\n");
    });
    let id = rig.secret("acme");
    let answer = get(&rig, &id, "x");
    assert_eq!(answer.body.len(), rig.canary.text().len() + 2);
    assert!(answer.text().starts_with('<') && answer.text().ends_with('>'), "{}", answer.text());
}

#[test]
fn block_refuses_a_head_and_cuts_a_body() {
    let rig = Rig::with(settings(&format!("{BEARER}on_reflect = \"block\"\n")), |request, out| {
        let secret = credential(request);
        match request.target() {
            "/base/head" => vendor::answer(out, 200, &[("x-echo", &secret)], b"ok"),
            "/base/body" => {
                vendor::answer(out, 200, &[], format!("{} {secret} behind", "before ".repeat(40)).as_bytes())
            }
            "/base/late" => {
                raw(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\nbefore \r\n");
                std::thread::sleep(std::time::Duration::from_millis(100));
                raw(
                    out,
                    format!("{:x}\r\n{secret}\n\r\n6\r\nbehind\r\n0\r\n\r\n", secret.len() + 1).as_bytes(),
                );
            }
            _ => vendor::answer(out, 200, &[], b"harmless"),
        }
    });
    let id = rig.secret("acme");
    refused(&get(&rig, &id, "head"), Code::ResponseRefused);
    let record = outcome(&rig, 1);
    assert_eq!((&record["reflected"], &record["code"]), (&true.into(), &"response_refused".into()));
    for (number, path) in ["body", "late"].into_iter().enumerate() {
        let answer = get(&rig, &id, path);
        assert!(answer.status == 0 || answer.cut, "{path}: {answer:?}");
        assert!(!answer.text().contains("behind"), "{path}: {}", answer.text());
        let record = outcome(&rig, number + 2);
        assert_eq!(record["reflected"], true, "{path}: {record}");
        assert!(record["note"].as_str().unwrap().contains("on_reflect is block"), "{path}: {record}");
    }
    assert_eq!(get(&rig, &id, "x").text(), "harmless");
    assert_eq!(outcome(&rig, 4).get("reflected"), None);
    assert_eq!(reflected(&rig), 3);
}

#[test]
fn alert_overwrites_and_tells_the_operator() {
    let rig = Rig::with(settings(&format!("{BEARER}on_reflect = \"alert\"\n")), |request, out| {
        let secret = credential(request);
        vendor::answer(out, 200, &[], format!("before {secret} behind").as_bytes());
    });
    let id = rig.secret("acme");
    let answer = get(&rig, &id, "x");
    assert!(answer.text().starts_with("before ") && answer.text().ends_with(" behind"));
    let record = outcome(&rig, 1);
    assert_eq!(record["reflected"], true);
    let logs = String::from_utf8_lossy(&crate::rig::logs::captured()).into_owned();
    let request = record["request_id"].as_str().unwrap();
    let told = logs
        .lines()
        .any(|line| line.contains("WARN") && line.contains(request) && line.contains("held the credential"));
    assert!(told, "a warning names the request");
}

#[test]
fn basics_pair_and_its_password_are_both_overwritten_and_the_user_name_is_not() {
    let rig = Rig::with(settings(BASIC), |request, out| {
        let pair = credential(request);
        let decoded = String::from_utf8(STANDARD.decode(&pair).unwrap()).unwrap();
        let password = decoded.split_once(':').unwrap().1.to_owned();
        let text = format!("pair {pair} decoded {decoded} password {password} user acme-bot.");
        vendor::answer(out, 200, &[("x-pair", &pair)], text.as_bytes());
    });
    let canary = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "vendor", &[("user", "acme-bot"), ("password", &canary)]);
    let answer = get(&rig, &id, "x");
    let pair = STANDARD.encode(format!("acme-bot:{canary}"));
    assert!(!answer.text().contains(&pair) && !answer.text().contains(&canary), "{}", answer.text());
    assert!(!answer.header("x-pair").unwrap().contains(&pair[16..]), "{:?}", answer.headers);
    assert!(answer.text().ends_with(" user acme-bot."), "{}", answer.text());
    assert_eq!(reflected(&rig), 1, "once per answer, however often it stood in it");
}

#[test]
fn each_secret_field_is_overwritten() {
    let integration = "inject = [{ header = \"x-key\", value = \"{key}\" }, { header = \"x-sign\", value = \"v1={sign}\" }]\n\
        fields = { key = { label = \"Key\", secret = true }, sign = { label = \"Sign\", secret = true } }\n";
    let rig = Rig::with(settings(integration), |request, out| {
        let (key, sign) = (request.header("x-key").unwrap(), request.header("x-sign").unwrap());
        vendor::answer(out, 200, &[("x-both", &format!("{sign}/{key}"))], format!("{key}|{sign}").as_bytes());
    });
    let canary = rig.canary.text().to_owned();
    let sign: String = canary.chars().rev().collect();
    let id = rig.secret_with("acme", "vendor", &[("key", &canary), ("sign", &sign)]);
    let auth = format!("Bearer {}", rig.token("acme"));
    let answer = rig.client().request("GET", &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    for (secret, mistake) in [(&canary, "the first"), (&sign, "the second")] {
        assert!(!answer.text().contains(secret.as_str()), "{mistake}: {}", answer.text());
        assert!(!answer.header("x-both").unwrap().contains(secret.as_str()), "{mistake}");
    }
    assert!(answer.text().contains("|v1="), "what is not secret stays: {}", answer.text());
}

#[test]
fn a_value_too_short_to_be_scrubbed_is_refused_at_write_unless_told_otherwise() {
    let off = "inject = [{ header = \"x-pin\", value = \"{token}\" }]\n\
        fields = { token = { label = \"PIN\", secret = true, scrub = \"off_danger\" } }\n";
    for (integration, value, status, mistake) in [
        (BEARER, "1234567", 400, "7 bytes"),
        (BEARER, "12345678", 201, "8 bytes"),
        (off, "1234", 201, "4 bytes of a field that says off_danger"),
        (off, "", 400, "nothing at all"),
    ] {
        let rig = Rig::with(settings(integration), |_, out| vendor::answer(out, 200, &[], b"ok"));
        let body =
            serde_json::json!({ "customer": "acme", "integration": "vendor", "fields": { "token": value } });
        let answer = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
        assert_eq!(answer.status, status, "{mistake}: {}", answer.text());
        if status == 201 {
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            assert_eq!(get(&rig, &id, "x").status, 200, "{mistake}");
        } else if !value.is_empty() {
            assert!(!answer.text().contains(value), "{mistake}: the error is without the value");
        }
    }
}

#[test]
fn values_that_no_header_can_carry_are_refused_at_write_without_being_told() {
    let rig = Rig::plain();
    let long = format!("{}{}", rig.canary.text(), "x".repeat(64 * 1024));
    for (value, mistake) in [
        (format!("{}\r\nx-evil: 1", rig.canary.text()), "a line break"),
        (format!("{}\nx", rig.canary.text()), "a line feed"),
        (format!("{}\rx", rig.canary.text()), "a carriage return"),
        (format!("{}\0x", rig.canary.text()), "a NUL"),
        (long, "over 64 KiB"),
    ] {
        let body =
            serde_json::json!({ "customer": "acme", "integration": "vendor", "fields": { "token": value } });
        let answer = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
        assert_eq!(answer.status, 400, "{mistake}: {}", answer.text());
        let id = rig.secret("acme");
        let body = serde_json::json!({ "fields": { "token": value } });
        let answer = rig.admin("POST", &format!("/v1/secrets/{id}/versions"), Some(&body.to_string()));
        assert_eq!(answer.status, 400, "{mistake}, as a new version: {}", answer.text());
        assert_eq!(get(&rig, &id, "x").status, 200, "{mistake}: the old version serves on");
    }
}
