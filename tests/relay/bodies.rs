//! A credential in a body: the rest stays byte for byte, what cannot take it is refused, and nobody waits with it.

use std::time::Duration;

use relay::refusal::Code;

use crate::placements::placing;
use crate::refusals::refused;
use crate::rig::Rig;
use crate::rig::client::{Answer, Client};

const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn post(rig: &Rig, id: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
    let auth = format!("Bearer {}", rig.token("acme"));
    let all: Vec<_> = [("authorization", auth.as_str())].into_iter().chain(fields.iter().copied()).collect();
    rig.client().request("POST", &format!("/vendor/{id}/x"), &all, body)
}

/// The head of an upload of which nothing has come yet.
fn begin(rig: &Rig, id: &str, fields: &str) -> Client {
    let mut client = rig.client();
    let token = rig.token("acme");
    client.send(&format!(
        "POST /vendor/{id}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n{fields}\r\n"
    ));
    client
}

#[test]
fn a_member_of_a_json_body_is_set_and_nothing_else_changes() {
    let rig = placing(
        r#"{ json = "/auth/token", value = "{token}" }, { json = "/v", value = "2" }, { header = "x-a", value = "{token}" }"#,
        "",
    );
    let value = format!("{}\"\\/{{token}}<", rig.canary.text());
    let id = rig.secret_with("acme", "vendor", &[("token", &value)]);
    let quoted = format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
    for (body, wanted, mistake) in [
        (r#"{"auth":{"token":"mine"},"v":1}"#, r#"{"auth":{"token":T},"v":"2"}"#, "replaced"),
        (r#"{"auth":{}}"#, r#"{"auth":{"token":T},"v":"2"}"#, "added"),
        (
            " {\"b\" : 1.50e+1, \"auth\" : {\"\\u0074oken\": [1] ,\"c\":\"\\u00e9\"} } \n",
            " {\"b\" : 1.50e+1, \"auth\" : {\"\\u0074oken\": T ,\"c\":\"\\u00e9\"} ,\"v\":\"2\"} \n",
            "as it was written",
        ),
        (
            r#"{"x":[{"auth":{"token":1}}],"auth":{"y":null}}"#,
            r#"{"x":[{"auth":{"token":1}}],"auth":{"y":null,"token":T},"v":"2"}"#,
            "elsewhere",
        ),
    ] {
        let answer =
            post(&rig, &id, &[("content-type", "Application/JSON; charset=\"UTF-8\"")], body.as_bytes());
        assert_eq!(answer.status, 200, "{mistake}: {}", answer.text());
        let got = rig.vendor.last();
        assert_eq!(String::from_utf8_lossy(&got.body), wanted.replace('T', &quoted), "{mistake}");
        assert_eq!(got.header("content-length"), Some(got.body.len().to_string().as_str()), "{mistake}");
        assert_eq!(got.header("transfer-encoding"), None, "{mistake}");
    }
    let answer = post(&rig, &id, &[("content-type", "application/vnd.erp+json")], b"{\"auth\":{}}");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let records = rig.audit_until(|records| records.iter().filter(|r| r["kind"] == "outcome").count() == 5);
    let first = records.iter().find(|r| r["kind"] == "outcome").unwrap();
    assert_eq!(first["bytes_in"], 31, "the app's bytes count, not what relay made of them");
}

#[test]
fn a_field_of_a_form_is_set_behind_the_others() {
    let rig = placing(r#"{ form = "api_key", value = "{token}" }, { form = "a b", value = "x&y" }"#, "");
    let value = format!("{}&a=b%2B +{{token}}", rig.canary.text());
    let id = rig.secret_with("acme", "vendor", &[("token", &value)]);
    let encoded: String = format!("{}%26a%3Db%252B%20%2B%7Btoken%7D", rig.canary.text());
    let placed = format!("api_key={encoded}&a%20b=x%26y");
    for (body, wanted, mistake) in [
        ("to=1&text=a+b%20c%zz", "to=1&text=a+b%20c%zz&", "others as they were written"),
        ("api_key=mine", "", "the only field"),
        ("api%5Fkey=mine&to=1&a+b=mine&a%20b=mine", "to=1&", "twins"),
        ("to=1;api_key=mine", "to=1&", "behind a semicolon"),
        ("\u{e9}=1", "\u{e9}=1&", "no ASCII"),
    ] {
        let answer = post(&rig, &id, &[FORM], body.as_bytes());
        assert_eq!(answer.status, 200, "{mistake}: {}", answer.text());
        assert_eq!(
            String::from_utf8_lossy(&rig.vendor.last().body),
            format!("{wanted}{placed}"),
            "{mistake}"
        );
    }
}

#[test]
fn a_body_that_cannot_take_a_credential_is_refused_before_anything_is_opened() {
    let rig = placing(r#"{ json = "/auth/token", value = "{token}" }"#, "body_limit = 1024");
    let id = rig.secret("acme");
    let good = br#"{"auth":{}}"#;
    let big = format!("{{\"auth\":{{}},\"x\":\"{}\"}}", "x".repeat(1024));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, good).unwrap();
    let gzip = gzip.finish().unwrap();
    let rows: [(&[(&str, &str)], &[u8], Code, &str); 19] = [
        (&[JSON], b"", Code::RequestMalformed, "no body"),
        (&[], good, Code::RequestMalformed, "no content type"),
        (&[("content-type", "text/plain")], good, Code::RequestMalformed, "another content type"),
        (&[FORM], good, Code::RequestMalformed, "a form"),
        (&[JSON, FORM], good, Code::RequestMalformed, "two content types"),
        (
            &[("content-type", "application/json; charset=utf-16")],
            good,
            Code::RequestMalformed,
            "another charset",
        ),
        (
            &[("content-type", "application/json; charset = utf-16")],
            good,
            Code::RequestMalformed,
            "another charset, with blanks where none may be",
        ),
        (
            &[("content-type", "application/json; charset=utf-8; charset=utf-16")],
            good,
            Code::RequestMalformed,
            "another charset behind the right one",
        ),
        (
            &[("content-type", "application/json; x=\"a;charset=utf-8\"; charset=utf-16")],
            good,
            Code::RequestMalformed,
            "another charset behind a text that looks like the right one",
        ),
        (&[JSON, ("content-encoding", "gzip")], &gzip, Code::RequestMalformed, "compressed"),
        (&[JSON], &gzip, Code::RequestMalformed, "compressed, and not said"),
        (&[JSON], br#"{"auth":{},"auth":{}}"#, Code::RequestMalformed, "a member twice on the way"),
        (&[JSON], br#"{"auth":{"token":1,"\u0074oken":2}}"#, Code::RequestMalformed, "the member twice"),
        (&[JSON], br#"{"auth":[{}]}"#, Code::RequestMalformed, "an array on the way"),
        (&[JSON], br#"{}"#, Code::RequestMalformed, "nothing on the way"),
        (&[JSON], br#"[{"auth":{}}]"#, Code::RequestMalformed, "no object"),
        (&[JSON], br#"{"auth":{}"#, Code::RequestMalformed, "cut short"),
        (&[JSON], b"{\"auth\":{},\"x\":\"\xff\"}", Code::RequestMalformed, "no UTF-8"),
        (&[JSON], big.as_bytes(), Code::BodyTooLarge, "too large"),
    ];
    for (fields, body, code, mistake) in rows {
        let answer = post(&rig, &id, fields, body);
        assert_eq!(answer.code(), code.as_str(), "{mistake}: {}", answer.text());
    }
    let auth = format!("Bearer {}", rig.token("acme"));
    let get = rig.client().request("GET", &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"");
    refused(&get, Code::RequestMalformed);
    assert!(get.text().contains("the request has none"), "{}", get.text());
    assert_eq!(rig.vendor.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(post(&rig, &id, &[JSON], good).status, 200);
}

#[test]
fn a_body_over_the_limit_is_refused_at_once_or_as_soon_as_it_is_passed() {
    let rig = placing(r#"{ json = "/token", value = "{token}" }"#, "body_limit = 1024");
    let id = rig.secret("acme");
    // Nothing of it is asked for.
    let mut client = begin(&rig, &id, "content-length: 1025\r\nexpect: 100-continue\r\n");
    refused(&client.answer("POST"), Code::BodyTooLarge);
    let mut client = begin(&rig, &id, "transfer-encoding: chunked\r\n");
    client.send(&format!("400\r\n{}\r\n", "x".repeat(1024)));
    std::thread::sleep(Duration::from_millis(100));
    client.send("1\r\nx\r\n");
    refused(&client.answer("POST"), Code::BodyTooLarge);
    // Exactly as much as allowed, in pieces.
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(1024 - 8));
    let mut client = begin(&rig, &id, "transfer-encoding: chunked\r\n");
    for piece in body.as_bytes().chunks(100) {
        client.send(&format!("{:x}\r\n", piece.len()));
        client.send_bytes(piece);
        client.send("\r\n");
    }
    client.send("0\r\nx-t: x\r\n\r\n");
    assert_eq!(client.answer("POST").status, 200);
    let got = rig.vendor.last();
    assert_eq!(got.header("content-length"), Some(got.body.len().to_string().as_str()));
    assert!(got.body.ends_with(format!(",\"token\":\"{}\"}}", rig.canary.text()).as_bytes()));
}

#[test]
fn an_upload_holds_no_connection_and_ends_by_silence_or_revocation() {
    let rig = placing(r#"{ json = "/token", value = "{token}" }"#, "timeout = { idle = \"1s\" }");
    let id = rig.secret("acme");
    let mut silent = begin(&rig, &id, "content-length: 10\r\n");
    silent.send("{\"a\"");
    refused(&silent.answer("POST"), Code::RequestMalformed);
    let mut cut = begin(&rig, &id, "content-length: 10\r\n");
    cut.send("{\"a\"");
    cut.stream.shutdown(std::net::Shutdown::Both).unwrap();
    let mut slow = begin(&rig, &id, "content-length: 8\r\n");
    for piece in ["{\"a", "\":1", " }"] {
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(rig.vendor.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
        slow.send(piece);
    }
    assert_eq!(slow.answer("POST").status, 200, "slow, but never silent");
    let mut revoked = begin(&rig, &id, "content-length: 10\r\n");
    revoked.send("{\"a\"");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/disable"), None).status, 200);
    refused(&revoked.answer("POST"), Code::SecretDisabled);
    assert_eq!(rig.vendor.requests().len(), 1);
}

#[test]
fn an_app_that_waits_to_be_asked_is_asked_by_relay() {
    let rig = placing(r#"{ json = "/token", value = "{token}" }"#, "");
    let id = rig.secret("acme");
    let mut client = begin(&rig, &id, "content-length: 2\r\nexpect: 100-continue\r\n");
    assert_eq!(client.head().0, 100);
    client.send("{}");
    assert_eq!(client.answer("POST").status, 200);
    let got = rig.vendor.last();
    assert_eq!(got.header("expect"), None, "the vendor gets it without being asked");
    assert_eq!(got.body, format!("{{\"token\":\"{}\"}}", rig.canary.text()).into_bytes());
}

#[test]
fn one_customers_uploads_that_stand_still_hold_so_much_and_no_more() {
    let rig = placing(r#"{ json = "/token", value = "{token}" }"#, "body_limit = 16777216\n");
    let id = rig.secret("acme");
    let other = rig.secret("globex");
    let piece = vec![b' '; 1 << 20];
    let uploads: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = begin(&rig, &id, "content-length: 16777216\r\n");
            (0..15).for_each(|_| client.send_bytes(&piece));
            client
        })
        .collect();
    let refused_then = |wanted: u16| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let mut body = vec![b' '; 8 << 20];
            body.extend_from_slice(b"{}");
            let answer = post(&rig, &id, &[JSON], &body);
            if answer.status == wanted || std::time::Instant::now() > deadline {
                return answer;
            }
        }
    };
    let answer = refused_then(429);
    refused(&answer, Code::TooBusy);
    let auth = format!("Bearer {}", rig.token("globex"));
    let fields = [("authorization", auth.as_str()), JSON];
    let served = rig.client().request("POST", &format!("/vendor/{other}/x"), &fields, b"{}");
    assert_eq!(served.status, 200, "another customer has room: {}", served.text());
    drop(uploads);
    assert_eq!(refused_then(200).status, 200, "what is over gives its room back");
}
