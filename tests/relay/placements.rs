//! A credential stands wherever the vendor wants it, escaped for the place, and nowhere else.

#![allow(clippy::disallowed_methods)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use relay::refusal::Code;

use crate::refusals::refused;
use crate::rig::client::Answer;
use crate::rig::vendor::{self, Received};
use crate::rig::vendor_http2;
use crate::rig::{Rig, Settings};

/// A relay before a vendor that answers everything, with these `inject` and further lines.
pub fn placing(inject: &str, more: &str) -> Rig {
    let integration = format!("inject = [{inject}]\n{more}");
    Rig::with(Settings { integration, ..Settings::default() }, |request, out| {
        vendor::answer_to(request, out, b"ok");
    })
}

/// Everything that could break out of its place, round the canary.
fn hostile(rig: &Rig) -> String {
    format!("a&b=c;d%26\"e'f+g h?i#j,k{{token}}{{{{{}", rig.canary.text())
}

/// Percent-encoded, but for what never needs it.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

fn ask(rig: &Rig, method: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Answer {
    let auth = format!("Bearer {}", rig.token("acme"));
    let headers: Vec<_> =
        [("authorization", auth.as_str())].into_iter().chain(more.iter().copied()).collect();
    rig.client().request(method, path, &headers, body)
}

fn sent(rig: &Rig, method: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Received {
    let answer = ask(rig, method, path, more, body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    rig.vendor.last()
}

#[test]
fn headers_take_any_scheme_and_several_of_them() {
    let rig = placing(
        r#"{ header = "authorization", value = "SSWS {token}" }, { header = "x-a", value = "Token token={token}" },
           { header = "x-b", value = "{user}:{token}" }, { header = "x-c", value = "Basic base64(api:{token})" },
           { header = "x-d", value = "base64({token}:)" }, { header = "x-e", value = "basic({user}, token)" },
           { header = "x-f", value = "{{token}} {token}" }, { header = "x-version", value = "2" }"#
            .replace('\n', "")
            .as_str(),
        "fields = { user = { secret = false }, token = {} }",
    );
    let canary = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "vendor", &[("user", "{token}"), ("token", &canary)]);
    let got = sent(&rig, "GET", &format!("/vendor/{id}/x"), &[("x-a", "mine"), ("X_B", "mine")], b"");
    let encode = |text: String| STANDARD.encode(text);
    for (name, wanted, mistake) in [
        ("authorization", format!("SSWS {canary}"), "a scheme of the vendor's own"),
        ("x-a", format!("Token token={canary}"), "a parameter"),
        ("x-b", format!("{{token}}:{canary}"), "a value is not expanded again"),
        ("x-c", format!("Basic {}", encode(format!("api:{canary}"))), "a fixed user"),
        ("x-d", encode(format!("{canary}:")), "no password"),
        ("x-e", format!("Basic {}", encode(format!("{{token}}:{canary}"))), "braces round an argument"),
        ("x-f", format!("{{token}} {canary}"), "braces themselves"),
        ("x-version", "2".to_owned(), "a fixed text"),
    ] {
        assert_eq!(got.all(name), [wanted], "{mistake}");
    }
    assert!(!got.head.contains("mine"), "{}", got.head);
}

#[test]
fn a_query_parameter_is_encoded_and_has_no_twin() {
    let rig = placing(r#"{ query = "api[key]", value = "{token}" }, { query = "v", value = "2" }"#, "");
    let value = hostile(&rig);
    let id = rig.secret_with("acme", "vendor", &[("token", &value)]);
    let placed = format!("api%5Bkey%5D={}&v=2", percent(&value));
    for (asked, wanted, mistake) in [
        ("", "", "no query"),
        ("?", "&", "an empty query"),
        ("?a=1&b=%2f+%zz", "a=1&b=%2f+%zz&", "others byte for byte"),
        ("?api[key]=mine&a=1", "a=1&", "the same name"),
        ("?a=1&api%5bkey%5D=mine", "a=1&", "escaped"),
        ("?%61pi[key]=mine&a&api%255Bkey]=mine&b", "a&b&", "escaped in part, and twice"),
        ("?a=1;api[key]=mine", "a=1&", "behind a semicolon"),
        ("?v=1&v=3&api[key]&a=v", "a=v&", "several, and one without a value"),
        ("?V=1&vv=2&xv=3", "V=1&vv=2&xv=3&", "others that look alike"),
    ] {
        let got = sent(&rig, "GET", &format!("/vendor/{id}/x{asked}"), &[], b"");
        let wanted = wanted.strip_prefix('&').unwrap_or(wanted);
        assert_eq!(got.target(), format!("/base/x?{wanted}{placed}"), "{mistake}");
        assert!(!got.head.contains("mine") && !got.head.contains(&rig.token("acme")), "{mistake}");
    }
}

#[test]
fn a_path_segment_is_replaced_and_nobody_else_sees_it() {
    let rig = placing(r#"{ path = "/v1/bot{token}" }"#, "allow = [\"GET /getMe\", \"POST /**\"]");
    let value = format!("123:{} ?#&;=+\"", rig.canary.text());
    let id = rig.secret_with("acme", "vendor", &[("token", &value)]);
    let segment = percent(&value).replace("%3A", ":");
    for (path, wanted, mistake) in [
        ("/v1/botX/getMe".to_owned(), "/getMe", "anything at the key's place"),
        ("/v1/bot%41/getMe?a=%2F".to_owned(), "/getMe?a=%2F", "a query"),
        ("//v1/bot1:2/getMe".to_owned(), "/getMe", "two slashes"),
    ] {
        let got = sent(&rig, "GET", &format!("/vendor/{id}{path}"), &[], b"");
        assert_eq!(got.target(), format!("/base/v1/bot{segment}{wanted}"), "{mistake}");
    }
    let got = sent(&rig, "POST", &format!("/vendor/{id}/v1/botX/a/b"), &[], b"x");
    assert_eq!(got.target(), format!("/base/v1/bot{segment}/a/b"));
    let before = rig.vendor.requests().len();
    for (path, code, mistake) in [
        ("/getMe", Code::PathRefused, "without the segments"),
        ("/v1/getMe", Code::PathRefused, "without the second"),
        ("/v1/bot/getMe", Code::PathRefused, "nothing at the key's place"),
        ("/V1/botX/getMe", Code::PathRefused, "another case"),
        ("/v1%2FbotX/getMe", Code::PathRefused, "an escaped slash"),
        ("/v1/bot%2F../getMe", Code::PathRefused, "dots at the key's place"),
        ("/v1/botX/../getMe", Code::PathRefused, "dots behind it"),
        ("/v1/botX/v1/botY/getMe", Code::RequestDenied, "the rules see what is behind it"),
        ("/v1/botX", Code::RequestDenied, "nothing behind it"),
    ] {
        refused(&ask(&rig, "GET", &format!("/vendor/{id}{path}"), &[], b""), code);
        assert_eq!(rig.vendor.requests().len(), before, "{mistake}");
    }
    let helps = ask(&rig, "GET", &format!("/vendor/{id}/getMe"), &[], b"");
    assert!(helps.text().contains("/v1/botKEY"), "{}", helps.text());
    let audit = rig.audit_until(|records| records.iter().filter(|r| r["kind"] == "intent").count() >= 4);
    let paths: Vec<_> = audit.iter().filter(|r| r["kind"] == "intent").map(|r| r["path"].clone()).collect();
    assert_eq!(paths, ["/getMe", "/getMe", "/getMe", "/a/b"]);
}

#[test]
fn a_credential_that_would_leave_its_segment_is_not_sent() {
    let rig = placing(r#"{ path = "/{token}" }"#, "fields = { token = { scrub = \"off_danger\" } }");
    for value in ["..", ".", "a/../b", "a\\b", "..%2f", "..;x", "..?", "%2e%2e", "..#a"] {
        let id = rig.secret_with("acme", "vendor", &[("token", value)]);
        refused(&ask(&rig, "GET", &format!("/vendor/{id}/X/a"), &[], b""), Code::CredentialUnusable);
    }
    assert!(rig.vendor.requests().is_empty());
    let id = rig.secret_with("acme", "vendor", &[("token", "...")]);
    assert_eq!(sent(&rig, "GET", &format!("/vendor/{id}/X"), &[], b"").target(), "/base/...");
}

#[test]
fn cookies_are_relays_and_the_apps_stay_behind() {
    let rig = placing(
        r#"{ cookie = "session", value = "{token}" }, { cookie = "b", value = "base64({token} x)" }"#,
        "",
    );
    let canary = rig.canary.text().to_owned();
    let id = rig.secret("acme");
    let theirs = [("cookie", "session=mine; other=mine"), ("cookie", "x=mine")];
    let got = sent(&rig, "GET", &format!("/vendor/{id}/x"), &theirs, b"");
    let wanted = format!("session={canary}; b={}", STANDARD.encode(format!("{canary} x")));
    assert_eq!(got.all("cookie"), [wanted]);
    for (odd, mistake) in [
        (";", "a second cookie"),
        (",", "a comma"),
        (" ", "a space"),
        ("\"", "a quote"),
        ("\\", "a backslash"),
    ] {
        let id = rig.secret_with("acme", "vendor", &[("token", &format!("{canary}{odd}x=y"))]);
        let answer = ask(&rig, "GET", &format!("/vendor/{id}/x"), &[], b"");
        assert_eq!(answer.code(), Code::CredentialUnusable.as_str(), "{mistake}");
    }
    assert_eq!(rig.vendor.requests().len(), 1);
}

#[test]
fn a_link_to_another_origin_is_not_told_what_the_app_wrote_for_the_credential() {
    let inject = r#"inject = [{ path = "/bot{token}" }, { query = "key", value = "{token}" }]"#;
    let settings = Settings { integration: inject.to_owned(), ..Settings::default() };
    let rig = Rig::with(settings, |request, out| {
        let (path, query) = request.target().split_once('?').unwrap();
        let own = request.header("host").unwrap();
        let elsewhere = format!("https://elsewhere.test{path}/next?{query}");
        let link = format!("<{elsewhere}>; rel=\"next\", <https://{own}{path}?{query}>; rel=\"first\"");
        vendor::answer(out, 302, &[("location", &elsewhere), ("link", &link)], b"");
    });
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let path = format!("/vendor/{id}/bot{token}/list?key={token}");
    let answer = rig.client().request("GET", &path, &[], b"");
    let (location, link) = (answer.header("location").unwrap(), answer.header("link").unwrap());
    assert!(location.starts_with("https://elsewhere.test/base/bot"), "{location}");
    assert!(!location.contains(&token) && !location.contains(rig.canary.text()), "{location}");
    let (next, first) = link.split_once(", ").unwrap();
    assert!(next.contains("elsewhere.test") && !next.contains(&token), "{link}");
    assert_eq!(
        first,
        format!("<http://relay.test{path}>; rel=\"first\""),
        "what stays inside is as it was asked"
    );
}

#[test]
fn links_that_repeat_the_target_lead_back_as_the_app_wrote_it() {
    let rig = Rig::with(
        Settings {
            integration: r#"inject = [{ path = "/bot{token}" }, { query = "k[1]", value = "{token}" }]"#
                .to_owned(),
            ..Settings::default()
        },
        |request, out| {
            let host = request.header("host").unwrap();
            let (path, query) = request.target().split_once('?').unwrap();
            let key = query.rsplit('&').next().unwrap();
            let slot = path.strip_suffix("/list").unwrap();
            let link = format!(
                "<https://{host}{path}?page=2&{key}>; rel=\"next\", <?page=3&{key}>; rel=\"last\", <{slot}x/y>; rel=\"up\", </base/other>; rel=\"a\""
            );
            let location = format!("{slot}/new?{key}");
            vendor::answer(out, 201, &[("location", &location), ("link", &link)], b"ok");
        },
    );
    let id = rig.secret("acme");
    let answer = ask(&rig, "GET", &format!("/vendor/{id}/botmine/list?k%5b1]=dummy&page=1"), &[], b"");
    let here = format!("http://relay.test/vendor/{id}/botmine");
    assert_eq!(answer.header("location"), Some(format!("{here}/new?k%5B1%5D=dummy").as_str()));
    let link = answer.header("link").unwrap();
    let wanted = format!(
        "<{here}/list?page=2&k%5B1%5D=dummy>; rel=\"next\", <{here}/list?page=3&k%5B1%5D=dummy>; rel=\"last\""
    );
    assert_eq!(link, wanted, "a segment that only begins alike, and a path outside, are no links of ours");
    // What a link says can be asked for.
    let again = ask(&rig, "GET", &format!("/vendor/{id}/botmine/list?page=2&k%5B1%5D=dummy"), &[], b"");
    assert_eq!(again.status, 201);
    let canary = rig.canary.text();
    assert_eq!(rig.vendor.last().target(), format!("/base/bot{canary}/list?page=2&k%5B1%5D={canary}"));
}

#[test]
fn an_echo_of_what_stands_anywhere_is_overwritten() {
    let rig = Rig::with(
        Settings {
            integration: r#"inject = [{ query = "key", value = "base64({user}:{token})" }, { json = "/a", value = "{token}" }, { cookie = "c", value = "base64({token}:{user})" }]
                fields = { user = { secret = false }, token = {} }"#
                .to_owned(),
            ..Settings::default()
        },
        |request, out| {
            let echo = format!(
                "{} {} {}",
                request.target(),
                request.header("cookie").unwrap(),
                String::from_utf8_lossy(&request.body)
            );
            vendor::answer(out, 200, &[("content-type", "text/plain")], echo.as_bytes());
        },
    );
    let value = format!("{}\"\\&", rig.canary.text());
    let id = rig.secret_with("acme", "vendor", &[("user", "somebody"), ("token", &value)]);
    let json = [("content-type", "application/json")];
    let answer = ask(&rig, "POST", &format!("/vendor/{id}/x"), &json, b"{}");
    let got = rig.vendor.last();
    assert_eq!(
        got.target(),
        format!("/base/x?key={}", percent(&STANDARD.encode(format!("somebody:{value}"))))
    );
    assert!(answer.text().contains("[redacted by relay]"), "{}", answer.text());
    for form in
        [STANDARD.encode(format!("{value}:somebody")), value.replace('\\', "\\\\").replace('"', "\\\"")]
    {
        assert!(!answer.text().contains(&form), "{}", answer.text());
    }
}

#[test]
fn every_place_reaches_a_vendor_that_speaks_http2() {
    let integration = r#"inject = [{ query = "key", value = "{token}" }, { path = "/bot{token}" },
        { cookie = "c", value = "{token}" }, { form = "key", value = "{token}" }]"#;
    let vendor = vendor_http2::start(|request| {
        Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            // Not the body itself: it would be overwritten.
            http::Response::new(vendor_http2::whole(format!("{} {}", body.len(), body.ends_with(b"0"))))
        })
    });
    let settings = Settings { integration: integration.to_owned(), workers: 1, ..Settings::default() };
    let rig = Rig::before(settings, vendor);
    let id = rig.secret_with("acme", "vendor", &[("token", &format!("{}0", rig.canary.text()))]);
    for _ in 0..3 {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let answer = ask(&rig, "POST", &format!("/vendor/{id}/botX/a?b"), &form, b"c=d&key=mine");
        let canary = format!("{}0", rig.canary.text());
        assert_eq!(answer.text(), format!("{} true", "c=d&key=".len() + canary.len()));
        let got = rig.vendor.last();
        assert!(got.target().ends_with(&format!("/base/bot{canary}/a?b&key={canary}")), "{}", got.target());
        assert_eq!(got.all("cookie"), [format!("c={canary}")]);
    }
    assert_eq!(rig.vendor.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn an_sdk_that_knows_a_host_and_a_key_alone_needs_no_more() {
    let rig = placing(r#"{ path = "/bot{token}" }"#, "host = \"relay.test\"\ndefault_secret = \"only\"");
    rig.secret("acme");
    let token = rig.token("acme");
    let answer = rig.client().request("POST", &format!("/bot{token}/getMe"), &[], b"{}");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(rig.vendor.last().target(), format!("/base/bot{}/getMe", rig.canary.text()));
    let wrong = rig.client().request(
        "GET",
        &format!("/{token}/getMe"),
        &[("authorization", &format!("Bearer {token}"))],
        b"",
    );
    refused(&wrong, Code::PathRefused);
    let audit = rig.audit_until(|records| records.iter().any(|r| r["kind"] == "refused"));
    assert_eq!(audit.iter().find(|r| r["kind"] == "refused").unwrap()["path"], "");
}

#[test]
fn a_value_that_is_no_secret_may_come_back() {
    let rig = Rig::with(
        Settings {
            integration:
                r#"inject = [{ header = "x-key", value = "{token}" }, { query = "mail", value = "{mail}" }]
                fields = { token = {}, mail = { secret = false } }"#
                    .to_owned(),
            ..Settings::default()
        },
        |request, out| {
            vendor::answer(out, 200, &[("content-type", "text/plain")], request.target().as_bytes())
        },
    );
    let canary = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "vendor", &[("token", &canary), ("mail", "somebody@acme.example")]);
    assert_eq!(
        ask(&rig, "GET", &format!("/vendor/{id}/x"), &[], b"").text(),
        "/base/x?mail=somebody%40acme.example"
    );
}
