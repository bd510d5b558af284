//! `default_secret = "only"`: a request that names no secret gets the only one there is, or none.

use std::time::Duration;

use relay::refusal::Code;

use crate::placements::placing;
use crate::refusals::refused;
use crate::rig::Rig;
use crate::rig::client::Answer;

const INJECT: &str = r#"{ header = "authorization", value = "Bearer {token}" }"#;

fn rig() -> Rig {
    placing(
        INJECT,
        "default_secret = \"only\"\n[integrations.other]\nupstream = \"https://other.example\"\ninject = [{ header = \"a\", value = \"{token}\" }]",
    )
}

fn add(rig: &Rig, customer: &str, more: &str) -> String {
    let body = format!(
        "{{\"customer\":\"{customer}\",\"integration\":\"vendor\",\"fields\":{{\"token\":\"{}\"}}{more}}}",
        rig.canary.text()
    );
    let answer = rig.admin("POST", "/v1/secrets", Some(&body));
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// The answer once a change has gone round.
fn settled(rig: &Rig, customer: &str, status: u16) -> Answer {
    let token = rig.token(customer);
    for _ in 0..100 {
        let answer = rig.get("/vendor/x", &token);
        if answer.status == status {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never {status}: {}", rig.get("/vendor/x", &token).text());
}

#[test]
fn a_request_that_names_no_secret_gets_the_only_one() {
    let rig = rig();
    let token = rig.token("acme");
    refused(&rig.get("/vendor/x", &token), Code::SecretNotFound);
    rig.secret("globex");
    rig.secret_with("acme", "other", &[("token", rig.canary.text())]);
    refused(&rig.get("/vendor/x", &token), Code::SecretNotFound);
    let id = add(&rig, "acme", ",\"label\":\"Acme's bot\"");
    assert_eq!(settled(&rig, "acme", 200).status, 200);
    let got = rig.vendor.last();
    assert_eq!(
        (got.target(), got.header("authorization")),
        ("/base/x", Some(format!("Bearer {}", rig.canary.text()).as_str()))
    );
    let audit = rig.audit_until(|records| records.iter().any(|r| r["kind"] == "outcome"));
    let intent = audit.iter().find(|r| r["kind"] == "intent").unwrap();
    assert_eq!(intent["secret"], id.as_str());

    let second = add(&rig, "acme", ",\"label\":\"Acme's other bot\"");
    let answer = settled(&rig, "acme", 400);
    refused(&answer, Code::SecretAmbiguous);
    for named in [&id, "Acme's bot", &second, "Acme's other bot"] {
        assert!(answer.text().contains(named), "{named}: {}", answer.text());
    }
    // Named, each can be used.
    for id in [&id, &second] {
        assert_eq!(rig.get(&format!("/vendor/{id}/x"), &token).status, 200);
    }
    rig.admin("POST", &format!("/v1/secrets/{second}/disable"), None);
    settled(&rig, "acme", 200);
    rig.admin("POST", &format!("/v1/secrets/{second}/enable"), None);
    settled(&rig, "acme", 400);
    rig.admin("DELETE", &format!("/v1/secrets/{id}"), None);
    settled(&rig, "acme", 200);
    rig.admin("DELETE", &format!("/v1/secrets/{second}"), None);
    refused(&settled(&rig, "acme", 404), Code::SecretNotFound);
    // The other customer's was never in question.
    settled(&rig, "globex", 200);
}

#[test]
fn an_expired_secret_is_none_and_a_pinned_one_needs_no_list() {
    let rig = rig();
    let soon = std::time::SystemTime::now() + Duration::from_secs(3);
    let soon = humantime::format_rfc3339_seconds(soon);
    let expiring = add(&rig, "acme", &format!(",\"expires_at\":\"{soon}\""));
    let id = add(&rig, "acme", "");
    refused(&settled(&rig, "acme", 400), Code::SecretAmbiguous);
    let pinned = rig.token_with("acme", Some(&expiring), None);
    assert_eq!(rig.get("/vendor/x", &pinned).status, 200, "the token names it");
    std::thread::sleep(Duration::from_millis(3200));
    // Nothing has changed in the store: the list is as it was, and the time is looked at.
    assert_eq!(rig.get("/vendor/x", &rig.token("acme")).status, 200);
    let last = rig.audit_until(|records| records.iter().filter(|r| r["kind"] == "intent").count() == 2);
    assert_eq!(last.iter().rfind(|r| r["kind"] == "intent").unwrap()["secret"], id.as_str());
    let scoped = rig.token_with("acme", None, Some("relay:use:other"));
    refused(&rig.get("/vendor/x", &scoped), Code::ScopeDenied);
    refused(&rig.get("/other/x", &rig.token("acme")), Code::SecretMissing);
}

#[test]
fn at_most_ten_are_named() {
    let rig = rig();
    for n in 0..12 {
        add(&rig, "acme", &format!(",\"label\":\"bot {n}\""));
    }
    let answer = settled(&rig, "acme", 400);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!((detail.matches("(bot ").count(), detail.contains(", and more")), (10, true), "{detail}");
}
