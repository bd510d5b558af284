//! Access tokens: had, kept, renewed once however many wait, never sent when they have expired, and given up in
//! words when the vendor says so.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use relay::refusal::Code;
use serde_json::{Value, json};

use crate::rig::client::{Answer, Client};
use crate::rig::oauth::{OAuth, form};
use crate::rig::vendor::{self, Received, Vendor};
use crate::rig::{Rig, Settings};

/// The other ways to a token, and answers that are none.
mod grants;
/// What the vendor gave is kept, whatever happens to the store, the data keys and the integration meanwhile.
mod keeping;
/// The settings and their mistakes.
mod settings;

const INJECT: &str = "inject = [{ header = \"authorization\", value = \"Bearer {access_token}\" }]";

fn settings(vendor: &Vendor, oauth2: &str) -> Settings {
    let token = format!("token = \"https://localhost:{}/oauth/token\"", vendor.port);
    Settings { integration: format!("{INJECT}\noauth2 = {{ {token}, {oauth2} }}"), ..Settings::default() }
}

const REFRESH: &str = "grant = \"refresh_token\", client_id = \"relay\", scope = \"read write\"";

/// A relay, its vendor, and a connected customer's secret.
fn connected(lives: u64) -> (Arc<OAuth>, Rig, String) {
    let (oauth, vendor) = OAuth::start(lives);
    let rig = Rig::before(settings(&vendor, REFRESH), vendor);
    oauth.connect(rig.canary.text());
    let id = add(&rig);
    (oauth, rig, id)
}

fn add(rig: &Rig) -> String {
    rig.secret_with("acme", "vendor", &[("refresh_token", rig.canary.text())])
}

fn ask(rig: &Rig, id: &str) -> Answer {
    rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"))
}

/// A change takes effect within a second.
fn answers(rig: &Rig, id: &str, code: &str) {
    let begun = std::time::Instant::now();
    while ask(rig, id).code() != code {
        assert!(begun.elapsed() < Duration::from_secs(1), "never {code:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn expire() {
    std::thread::sleep(Duration::from_millis(2100));
}

/// The audit's records of one operation, as (note's first word, code).
fn system(rig: &Rig, operation: &str) -> Vec<String> {
    let ours = rig.audit().into_iter().filter(|r| r["kind"] == "system" && r["method"] == operation);
    ours.map(|r| r["note"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_refresh_token_becomes_an_access_token_that_is_used_until_it_ages() {
    let (oauth, rig, id) = connected(3600);
    assert_eq!(oauth.count(), 1, "the first token is had when the secret is added");
    for _ in 0..3 {
        let answer = ask(&rig, &id);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(oauth.count(), 1, "and serves until it ages");
    let asked = &oauth.asked()[0];
    let wanted = [
        ("grant_type", "refresh_token"),
        ("refresh_token", rig.canary.text()),
        ("client_id", "relay"),
        ("scope", "read write"),
    ];
    assert_eq!(form(&asked.body), wanted.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert_eq!(asked.header("accept"), Some("application/json"));
    let sent = rig.vendor.last();
    assert_eq!(sent.header("authorization"), Some(format!("Bearer {}-access-1", rig.canary.text()).as_str()));
    let shown = rig.admin("GET", &format!("/v1/secrets/{id}"), None).json();
    assert_eq!(shown["token_state"], "valid", "{shown}");
    assert!(shown["token_expires_at"].is_string() && shown["token_obtained_at"].is_string(), "{shown}");
    assert!(
        rig.running()
            .metrics()
            .render()
            .contains("relay_token_refresh_total{integration=\"vendor\",outcome=\"first\"} 1")
    );
    assert_eq!(system(&rig, "secret.verify"), ["asked", "it works"]);
}

#[test]
fn two_hundred_requests_on_an_expired_token_make_one_renewal() {
    let (oauth, rig, id) = connected(1);
    expire();
    oauth.lives.store(3600, Ordering::SeqCst);
    oauth.thinks.store(500, Ordering::SeqCst);
    let token = rig.token("acme");
    let (app, shown, path) = (rig.app(), rig.shown.clone(), format!("/vendor/{id}/x"));
    let auth = format!("Bearer {token}");
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let one = || {
            let mut client = Client::connect(app, shown.clone());
            client.request("GET", &path, &[("authorization", &auth)], b"").status
        };
        let all: Vec<_> = (0..200).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(oauth.count(), 2, "one when it was added, one for the two hundred");
    let used = rig.vendor.requests().into_iter().filter(|r| r.target().starts_with("/base"));
    assert!(used.clone().all(|r| r.header("authorization").unwrap().ends_with("-access-2")));
    assert_eq!(used.count(), 200, "the expired token was never sent");
}

#[test]
fn a_replaced_refresh_token_is_the_one_that_is_used_next_also_after_a_restart() {
    // Of one second a busy machine may have used the last part by the time that the token is stored.
    let (oauth, mut rig, id) = connected(2);
    for round in 2..=5 {
        expire();
        if round == 4 {
            rig.stop();
            rig.start();
        }
        let answer = ask(&rig, &id);
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
        assert_eq!(oauth.count(), round);
    }
    let last = form(&oauth.asked()[4].body);
    let used = last.iter().find(|(name, _)| name == "refresh_token").unwrap();
    assert_eq!(used.1, format!("{}-refresh-4", rig.canary.text()));
}

#[test]
fn a_dead_refresh_token_is_said_at_once_and_from_then_on_until_the_customer_connects_again() {
    let (oauth, mut rig, id) = connected(1);
    expire();
    oauth.disconnect();
    for round in 0..3 {
        let answer = ask(&rig, &id);
        assert_eq!((answer.status, answer.code()), (424, Code::ReconnectRequired.as_str()), "{round}");
        assert!(answer.text().contains("invalid_grant"), "{}", answer.text());
        assert!(!answer.text().contains(rig.canary.text()), "{}", answer.text());
        if round == 1 {
            rig.stop();
            rig.start();
        }
    }
    assert_eq!(oauth.count(), 2, "the vendor is asked once");
    assert!(rig.vendor.requests().iter().all(|r| !r.target().starts_with("/base")), "nothing was sent");
    let shown = rig.admin("GET", &format!("/v1/secrets/{id}"), None).json();
    assert_eq!(shown["token_state"], "reconnect_required", "{shown}");
    assert!(shown["token_reason"].as_str().unwrap().contains("invalid_grant"), "{shown}");
    let again = format!("{}-again", rig.canary.text());
    oauth.connect(&again);
    oauth.lives.store(3600, Ordering::SeqCst);
    let body = json!({ "fields": { "refresh_token": again } }).to_string();
    let answer = rig.admin("POST", &format!("/v1/secrets/{id}/versions"), Some(&body));
    assert_eq!(answer.status, 201, "{}", answer.text());
    answers(&rig, &id, "");
    assert_eq!(ask(&rig, &id).status, 200, "a new version makes it good again");
    assert_eq!(oauth.count(), 3);
}

#[test]
fn while_the_token_endpoint_is_down_the_old_token_serves_and_then_nothing_does() {
    let (oauth, rig, id) = connected(4);
    oauth.down.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(2200));
    assert_eq!(ask(&rig, &id).status, 200, "it ages, and cannot be renewed, and is good for a while");
    std::thread::sleep(Duration::from_millis(2200));
    let before = oauth.count();
    for _ in 0..20 {
        let answer = ask(&rig, &id);
        assert_eq!((answer.status, answer.code()), (502, Code::VendorBroken.as_str()), "{}", answer.text());
        assert!(answer.header("retry-after").is_some_and(|wait| wait.parse::<u64>().unwrap() >= 1));
    }
    assert!(oauth.count() <= before + 2, "not one call per request: {} then {}", before, oauth.count());
    oauth.down.store(false, Ordering::SeqCst);
    oauth.lives.store(3600, Ordering::SeqCst);
    let again = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        ask(&rig, &id).status == 200
    });
    assert!(again, "it heals by itself");
}

#[test]
fn an_ageing_token_is_renewed_beside_the_requests_that_use_it() {
    let (oauth, rig, id) = connected(10);
    // Half of its life is the most that a short one is renewed ahead.
    std::thread::sleep(Duration::from_millis(5200));
    oauth.thinks.store(700, Ordering::SeqCst);
    oauth.lives.store(3600, Ordering::SeqCst);
    let begun = std::time::Instant::now();
    let answer = ask(&rig, &id);
    assert_eq!(answer.status, 200);
    assert!(begun.elapsed() < Duration::from_millis(600), "nobody waited: {:?}", begun.elapsed());
    let renewed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        ask(&rig, &id);
        rig.vendor.last().header("authorization").is_some_and(|sent| sent.ends_with("-access-2"))
    });
    assert!(renewed);
    assert_eq!(oauth.count(), 2);
}

#[test]
fn a_refused_token_is_renewed_and_a_request_without_a_body_sent_once_more() {
    let (oauth, rig, id) = connected(3600);
    oauth.revoked.store(true, Ordering::SeqCst);
    let answer = ask(&rig, &id);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(oauth.count(), 2);
    let records = rig.audit_until(|all| all.iter().filter(|r| r["kind"] == "outcome").count() >= 2);
    let ours: Vec<(String, Value)> = records
        .iter()
        .filter(|r| r["path"] == "/x")
        .map(|r| (r["kind"].as_str().unwrap().to_owned(), r["status"].clone()))
        .collect();
    let wanted =
        [("intent", Value::Null), ("outcome", json!(401)), ("intent", Value::Null), ("outcome", json!(200))];
    assert_eq!(
        ours,
        wanted.map(|(kind, status)| (kind.to_owned(), status)),
        "each sending has its own intent"
    );
    // Again at once: another token would fare no better.
    oauth.revoked.store(true, Ordering::SeqCst);
    let answer = ask(&rig, &id);
    assert_eq!((answer.status, answer.code()), (401, ""), "the vendor's own answer passes");
    assert_eq!(oauth.count(), 2);
}

#[test]
fn a_refused_request_with_a_body_is_not_sent_again_and_the_next_one_has_a_new_token() {
    let (oauth, rig, id) = connected(3600);
    oauth.revoked.store(true, Ordering::SeqCst);
    let auth = format!("Bearer {}", rig.token("acme"));
    let post = |rig: &Rig| {
        rig.client().request("POST", &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"money")
    };
    assert_eq!(post(&rig).status, 401);
    let sent = rig.vendor.requests().iter().filter(|r| r.target().starts_with("/base")).count();
    assert_eq!(sent, 1, "it was sent once");
    let renewed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        oauth.count() == 2
    });
    assert!(renewed);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(post(&rig).status, 200);
}

#[test]
fn a_dead_refresh_token_behind_a_refused_access_token_is_said() {
    let (oauth, rig, id) = connected(3600);
    oauth.revoked.store(true, Ordering::SeqCst);
    oauth.disconnect();
    assert_eq!(ask(&rig, &id).code(), Code::ReconnectRequired.as_str());
    assert_eq!(ask(&rig, &id).code(), Code::ReconnectRequired.as_str());
    assert_eq!(oauth.count(), 2);
}

#[test]
fn tokens_outlive_a_new_data_key_and_go_with_the_secret() {
    let (oauth, rig, id) = connected(3600);
    assert_eq!(ask(&rig, &id).status, 200);
    let begun = rig.admin("POST", "/v1/keys/rotate", Some("{\"data\":true}"));
    assert!(matches!(begun.status, 200 | 202), "{}", begun.text());
    let ended = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        !rig.admin("GET", "/v1/jobs", None).json()["job"]["ended_at"].is_null()
    });
    assert!(ended);
    assert_eq!(ask(&rig, &id).status, 200);
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/disable"), None).status, 200);
    answers(&rig, &id, Code::SecretDisabled.as_str());
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/enable"), None).status, 200);
    answers(&rig, &id, "");
    assert_eq!(oauth.count(), 1, "the first token serves through all of it");
    let expiry = json!({ "expires_at": "2099-01-01T00:00:00Z" }).to_string();
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/expire"), Some(&expiry)).status, 200);
    assert_eq!(ask(&rig, &id).status, 200);
    assert_eq!(oauth.count(), 1, "and is sealed for the new expiry");
    assert_eq!(rig.admin("DELETE", &format!("/v1/secrets/{id}"), None).status, 204);
    answers(&rig, &id, Code::SecretNotFound.as_str());
}

#[test]
fn a_secret_for_one_token_endpoint_is_not_sent_to_another() {
    let (oauth, vendor) = OAuth::start(3600);
    let elsewhere = |host: &str| {
        let token = format!("https://{host}:{}/oauth/token", vendor.port);
        format!("{INJECT}\noauth2 = {{ token = \"{token}\", {REFRESH} }}")
    };
    let (first, second) = (elsewhere("127.0.0.1"), elsewhere("localhost"));
    let mut rig = Rig::before(Settings { integration: first, ..Settings::default() }, vendor);
    oauth.connect(rig.canary.text());
    let id = add(&rig);
    assert_eq!(ask(&rig, &id).status, 200);
    rig.stop();
    rig.settings_mut().integration = second;
    rig.start();
    assert_eq!(ask(&rig, &id).code(), Code::CredentialUnusable.as_str());
    assert_eq!(oauth.count(), 1);
}

/// What a relay does that dies when the vendor has replaced the tokens and nobody knows the new ones yet: the real
/// program, killed with signal 9 by its own token endpoint.
#[test]
fn killed_between_the_vendors_answer_and_its_keeping_a_relay_says_that_it_must_be_connected_again() {
    let (oauth, mut rig, id) = connected(1);
    expire();
    rig.stop();
    std::fs::write(rig.folder.path().join("relay.toml"), rig.toml()).unwrap();
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_relay"))
        .args(["run", "--config"])
        .arg(rig.folder.path().join("relay.toml"))
        .env("RELAY__SERVER__LISTEN", "127.0.0.1:0")
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let app = listening(&mut process);
    let victim = i32::try_from(process.id()).unwrap();
    let kill = move || {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(victim).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    };
    *oauth.replaced.lock().unwrap() = Some(Box::new(kill));
    let auth = format!("Bearer {}", rig.token("acme"));
    let mut client = Client::connect(app, Arc::new(Mutex::new(Vec::new())));
    client.send(&format!("GET /vendor/{id}/x HTTP/1.1\r\nhost: relay\r\nauthorization: {auth}\r\n\r\n"));
    assert_eq!(client.head().0, 0, "it died before it answered");
    process.wait().unwrap();
    *oauth.replaced.lock().unwrap() = None;
    rig.start();
    let answer = ask(&rig, &id);
    assert_eq!(answer.code(), Code::ReconnectRequired.as_str(), "{}", answer.text());
    assert_eq!(ask(&rig, &id).code(), Code::ReconnectRequired.as_str());
    assert_eq!(oauth.count(), 3);
}

/// Where a real relay listens, as it says itself.
fn listening(process: &mut std::process::Child) -> std::net::SocketAddr {
    use std::io::BufRead;
    let mut lines = std::io::BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("relay runs")).expect("relay says where it listens");
    let line: Value = serde_json::from_str(&line).unwrap();
    line["app"].as_str().unwrap().parse().unwrap()
}

/// A vendor of tokens alone, as a script.
fn scripted(script: impl Fn(&Received) -> (u16, String) + Send + Sync + 'static) -> Vendor {
    Vendor::start(move |request, out| {
        let (status, body) = script(request);
        vendor::answer(out, status, &[("content-type", "application/json")], body.as_bytes());
    })
}

fn claims(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap_or_default());
    let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (next(), next())
}

fn basic(sent: &Received) -> String {
    let pair = sent.header("authorization").and_then(|value| value.strip_prefix("Basic ")).unwrap();
    String::from_utf8(STANDARD.decode(pair).unwrap()).unwrap()
}
