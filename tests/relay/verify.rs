//! A credential is tried before it is sealed, and what the vendor says of it is told in words.

use relay::refusal::Code;
use serde_json::{Value, json};

use crate::rig::client::Answer;
use crate::rig::vendor::{self, Vendor};
use crate::rig::{Rig, Settings};

fn rig(verify: &str, answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Rig {
    let integration = format!(
        "inject = [{{ header = \"authorization\", value = \"Bearer {{token}}\" }}, {{ header = \"x-version\", value = \"7\" }}]\nverify = {verify}"
    );
    Rig::with(Settings { integration, ..Settings::default() }, move |request, out| {
        let (status, body) = answer(request.header("authorization").unwrap_or_default());
        vendor::answer(out, status, &[("content-type", "application/json")], body.as_bytes());
    })
}

fn add(rig: &Rig, more: &Value) -> Answer {
    let mut body =
        json!({ "customer": "acme", "integration": "vendor", "fields": { "token": rig.canary.text() } });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rig.admin("POST", "/v1/secrets", Some(&body.to_string()))
}

fn secrets(rig: &Rig) -> usize {
    rig.admin("GET", "/v1/secrets?customer=acme", None).json()["secrets"].as_array().unwrap().len()
}

#[test]
fn a_credential_that_works_is_sealed_and_one_that_does_not_is_refused_in_the_vendors_words() {
    let ok = |body: &'static str| move |_: &str| (200, body.to_owned());
    let rows: [(&str, Box<dyn Fn(&str) -> (u16, String) + Send + Sync>, bool, &str); 8] = [
        ("{ get = \"/me\" }", Box::new(ok("{}")), true, "any 2xx"),
        (
            "{ get = \"/me\", expect = 200 }",
            Box::new(|_| (204, String::new())),
            false,
            "another 2xx than the one",
        ),
        (
            "{ get = \"/me\", expect = 404 }",
            Box::new(|_| (404, "{}".to_owned())),
            true,
            "a status that says it",
        ),
        (
            "{ get = \"/me\" }",
            Box::new(|_| (401, "{\"message\":\"bad\\u0007 key\"}".to_owned())),
            false,
            "401",
        ),
        (
            "{ post = \"/auth.test\", json = \"/ok\", equals = true }",
            Box::new(ok("{\"ok\":true}")),
            true,
            "ok in JSON",
        ),
        (
            "{ post = \"/auth.test\", json = \"/ok\", equals = true }",
            Box::new(ok("{\"ok\":false,\"error\":\"invalid_auth\"}")),
            false,
            "200 and not ok",
        ),
        ("{ get = \"/me\", json = \"/ok\", equals = true }", Box::new(ok("<html>")), false, "no JSON"),
        ("{ get = \"/me\", json = \"/n\", equals = 7 }", Box::new(ok("{\"n\":7}")), true, "a number"),
    ];
    for (verify, answer, works, mistake) in rows {
        let rig = rig(verify, answer);
        let added = add(&rig, &json!({}));
        assert_eq!(added.status, if works { 201 } else { 424 }, "{mistake}: {}", added.text());
        assert_eq!(secrets(&rig), usize::from(works), "{mistake}");
        let sent = rig.vendor.last();
        assert_eq!(
            sent.header("authorization"),
            Some(format!("Bearer {}", rig.canary.text()).as_str()),
            "{mistake}"
        );
        assert_eq!(sent.header("x-version"), Some("7"), "{mistake}: all placements are there");
        assert!(sent.target().starts_with("/base/"), "{mistake}: below the upstream's path");
        assert!(sent.header("user-agent").unwrap().starts_with("relay/"), "{mistake}");
        let system: Vec<_> = rig.audit().into_iter().filter(|r| r["method"] == "secret.verify").collect();
        assert_eq!(system.len(), 2, "{mistake}");
        assert!(system.iter().all(|r| r["kind"] == "system" && r["customer"] == "acme"), "{mistake}");
    }
}

#[test]
fn what_the_vendor_says_is_short_clean_and_without_the_credential() {
    let rig = rig("{ get = \"/me\" }", |sent| (401, format!("no\u{1b}[31m {sent} \u{0}{}", "é".repeat(500))));
    let answer = add(&rig, &json!({}));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("refused the credential (401)"), "{detail}");
    assert!(detail.contains("--no-verify"), "{detail}");
    assert!(!detail.chars().any(char::is_control) && detail.chars().count() < 400, "{detail}");
    assert!(!detail.contains(rig.canary.text()), "{detail}");
}

#[test]
fn a_vendor_that_cannot_be_asked_is_no_verdict_and_trying_can_be_skipped() {
    let integration =
        "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\nverify = { get = \"/me\" }";
    let vendor = Vendor::start(|_, _| {});
    let upstream = Some("https://127.0.0.1:9/base".to_owned());
    let settings = Settings { integration: integration.to_owned(), upstream, ..Settings::default() };
    let rig = Rig::before(settings, vendor);
    let answer = add(&rig, &json!({}));
    assert_eq!((answer.status, answer.code()), (502, Code::VendorUnreachable.as_str()), "{}", answer.text());
    assert!(answer.text().contains("--no-verify"), "{}", answer.text());
    assert_eq!(secrets(&rig), 0);
    let answer = add(&rig, &json!({ "verify": false }));
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[test]
fn a_new_version_is_tried_too_and_the_old_one_stays() {
    let rig = rig("{ get = \"/me\" }", |sent| {
        if sent.ends_with("-wrong") { (403, "{}".to_owned()) } else { (200, "{}".to_owned()) }
    });
    let id = add(&rig, &json!({})).json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/secrets/{id}/versions");
    let version = |verify: bool| {
        let body = json!({ "fields": { "token": format!("{}-wrong", rig.canary.text()) }, "verify": verify });
        rig.admin("POST", &path, Some(&body.to_string()))
    };
    assert_eq!(version(true).status, 424);
    assert_eq!(rig.admin("GET", &format!("/v1/secrets/{id}"), None).json()["version"], 1);
    assert_eq!(version(false).status, 201);
    assert_eq!(rig.admin("GET", &format!("/v1/secrets/{id}"), None).json()["version"], 2);
}

#[test]
fn a_call_that_comes_again_is_not_tried_again() {
    let rig = rig("{ get = \"/me\" }", |_| (200, "{}".to_owned()));
    let body =
        json!({ "customer": "acme", "integration": "vendor", "fields": { "token": rig.canary.text() } })
            .to_string();
    let ids: Vec<String> = (0..2)
        .map(|_| {
            let mut client = crate::rig::client::Client::connect(rig.running().admin, rig.shown.clone());
            client.send(&format!(
                "POST /v1/secrets HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {}\r\nidempotency-key: one\r\ncontent-length: {}\r\n\r\n{body}",
                crate::rig::ADMIN_TOKEN,
                body.len()
            ));
            client.answer("POST").json()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(rig.vendor.requests().len(), 1);
}
