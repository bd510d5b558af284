//! The caller's token stands where the credential will go, in each of the places that vendors' SDKs use.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use relay::refusal::Code;

use crate::placements::placing;
use crate::refusals::refused;
use crate::rig::Rig;
use crate::rig::client::Answer;

/// Every place at once.
const ALL: &str = r#"{ header = "x-api-key", value = "{token}" }, { header = "private-token", value = "{token}" },
    { query = "key", value = "{token}" }, { path = "/bot{token}" }, { cookie = "session", value = "{token}" },
    { header = "x-account", value = "{account}" }, { query = "account", value = "{account}" }"#;
const FIELDS: &str = "fields = { token = {}, account = { secret = false } }";

fn rig() -> (Rig, String) {
    let rig = placing(ALL, FIELDS);
    let canary = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "vendor", &[("token", &canary), ("account", "somebody")]);
    (rig, id)
}

fn ask(rig: &Rig, target: &str, fields: &[(&str, &str)]) -> Answer {
    rig.client().request("GET", target, fields, b"")
}

#[test]
fn each_slot_carries_the_token_and_none_of_it_goes_on() {
    let (rig, id) = rig();
    let token = rig.token("acme");
    let pair = |text: String| format!("Basic {}", STANDARD.encode(text));
    let rows = [
        ("botX/a", ("authorization", format!("Bearer {token}")), "Bearer, most SDKs"),
        ("botX/a", ("authorization", format!("bearer {token}")), "octokit"),
        ("botX/a", ("authorization", format!("token {token}")), "PyGithub"),
        ("botX/a", ("authorization", pair(format!("AC123:{token}"))), "Twilio's password"),
        ("botX/a", ("authorization", pair(format!("{token}:"))), "the user of Basic"),
        ("botX/a", ("x-api-key", token.clone()), "anthropic 0.40.0"),
        ("botX/a", ("private-token", token.clone()), "python-gitlab"),
        ("bot{}/a", ("accept", "*/*".to_owned()), "python-telegram-bot"),
        ("botX/a?b=1&key={}", ("accept", "*/*".to_owned()), "a parameter"),
        ("botX/a?k%65y={}&b=1", ("accept", "*/*".to_owned()), "a parameter, escaped"),
        ("botX/a", ("cookie", format!("a=b; session={token}")), "a cookie"),
        ("botX/a", ("cookie", format!("session=\"{token}\"")), "a cookie in quotes"),
        ("bot{}/a?key={}", ("x-api-key", token.clone()), "the same token in three"),
    ];
    for (target, (name, value), who) in rows {
        let target = format!("/vendor/{id}/{}", target.replace("{}", &token));
        let answer = ask(&rig, &target, &[(name, &value)]);
        assert_eq!(answer.status, 200, "{who}: {}", answer.text());
        let got = rig.vendor.last();
        let (signature, canary) = (token.rsplit('.').next().unwrap(), rig.canary.text());
        assert!(!got.head.contains(signature) && !got.head.contains(&id), "{who}: {}", got.head);
        assert_eq!(got.header("x-api-key"), Some(canary), "{who}");
        assert_eq!(got.header("private-token"), Some(canary), "{who}");
        assert_eq!(got.header("cookie"), Some(format!("session={canary}").as_str()), "{who}");
        assert_eq!(got.header("authorization"), None, "{who}");
        assert!(got.target().starts_with(&format!("/base/bot{canary}/a?")), "{who}: {}", got.target());
        assert!(got.target().ends_with(&format!("key={canary}&account=somebody")), "{who}: {}", got.target());
    }
    let audit = rig.audit_until(|records| records.iter().filter(|r| r["kind"] == "outcome").count() >= 13);
    assert!(audit.iter().filter(|r| r["kind"] == "intent").all(|record| record["path"] == "/a"));
    let text = std::fs::read_to_string(rig.audit_path()).unwrap();
    assert!(!text.contains(token.rsplit('.').next().unwrap()), "the audit holds the token");
}

#[test]
fn with_relay_authorization_the_slots_are_stripped_and_not_read() {
    let (rig, id) = rig();
    let (token, other) = (rig.token("acme"), rig.token("globex"));
    let own = format!("Bearer {token}");
    let target = format!("/vendor/{id}/bot{other}/a?key={other}&b=1");
    let cookie = format!("session={other}");
    let bearer = format!("Bearer {other}");
    let fields = [
        ("relay-authorization", own.as_str()),
        ("authorization", &bearer),
        ("x-api-key", &other),
        ("private-token", &other),
        ("cookie", &cookie),
    ];
    let answer = ask(&rig, &target, &fields);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let got = rig.vendor.last();
    for token in [&token, &other] {
        assert!(!got.head.contains(token.rsplit('.').next().unwrap()), "{}", got.head);
    }
    let canary = rig.canary.text();
    assert_eq!(got.target(), format!("/base/bot{canary}/a?b=1&key={canary}&account=somebody"));
}

#[test]
fn two_tokens_are_one_too_many_and_a_dummy_is_none() {
    let (rig, id) = rig();
    let (token, other) = (rig.token("acme"), rig.token("globex"));
    let cookie = format!("session={other}");
    for (target, fields, mistake) in [
        (format!("bot{other}/a"), vec![("x-api-key", token.as_str())], "path and header"),
        (format!("botX/a?key={token}&key={other}"), vec![], "a parameter twice"),
        (format!("botX/a?key={token}"), vec![("cookie", cookie.as_str())], "parameter and cookie"),
        ("botX/a".to_owned(), vec![("x-api-key", token.as_str()), ("x-api-key", &other)], "a header twice"),
    ] {
        let answer = ask(&rig, &format!("/vendor/{id}/{target}"), &fields);
        assert_eq!(answer.code(), Code::TokenAmbiguous.as_str(), "{mistake}: {}", answer.text());
    }
    for (target, fields, mistake) in [
        ("botX/a?key=sk-dummy".to_owned(), vec![("x-api-key", "sk-dummy")], "no token anywhere"),
        (format!("botX/a?other={token}"), vec![], "a parameter that is no slot"),
        (format!("x{token}/a"), vec![], "a segment that is none"),
        (format!("botX/a?account={token}"), vec![], "a parameter of a field that is not secret"),
        ("botX/a".to_owned(), vec![("x-account", token.as_str())], "a header of such a field"),
        ("botX/a".to_owned(), vec![("x-other", token.as_str())], "a header that is no slot"),
    ] {
        let answer = ask(&rig, &format!("/vendor/{id}/{target}"), &fields);
        assert_eq!(answer.code(), Code::TokenMissing.as_str(), "{mistake}: {}", answer.text());
    }
    assert!(rig.vendor.requests().is_empty());
    let dummy = ask(&rig, &format!("/vendor/{id}/bot1.2/a?key=sk-1.2"), &[("x-api-key", &token)]);
    assert_eq!(dummy.status, 200, "a dummy beside the token: {}", dummy.text());
}

#[test]
fn a_token_beside_its_slot_is_not_forwarded() {
    let (rig, id) = rig();
    let token = rig.token("acme");
    for (target, mistake) in [
        (format!("botX/{token}"), "further on in the path"),
        (format!("botX/a?other={token}"), "in another parameter"),
        (format!("botX/a?KEY={token}"), "in a parameter of another case"),
    ] {
        let answer = ask(&rig, &format!("/vendor/{id}/{target}"), &[("x-api-key", &token)]);
        refused(&answer, Code::PathRefused);
        assert!(rig.vendor.requests().is_empty(), "{mistake}");
    }
}
