use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::app::Options;
use relay::model::{Customer, SecretId};
use relay::refusal::Code;
use relay::store::memory::Memory;
use relay::store::{Expected, SecretRow, Store};
use serde_json::{Value, json};

use crate::refusals::refused;
use crate::rig::client::Answer;
use crate::rig::vendor;
use crate::rig::{AUDIENCE, ISSUER, Rig, Settings};

/// What the rig's integration injects.
const INJECT: &str = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";

fn with(integration: &str) -> Rig {
    let settings = Settings { integration: format!("{INJECT}{integration}"), ..Settings::default() };
    Rig::with(settings, |request, out| vendor::answer_to(request, out, b"ok"))
}

/// Adds the canary with limits of its own.
fn limited(rig: &Rig, customer: &str, policy: &Value) -> Answer {
    let fields = json!({ "token": rig.canary.text() });
    let body = json!({ "customer": customer, "integration": "vendor", "fields": fields, "policy": policy });
    rig.admin("POST", "/v1/secrets", Some(&body.to_string()))
}

fn id_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn set(rig: &Rig, id: &str, policy: &Value) -> Answer {
    rig.admin("PUT", &format!("/v1/secrets/{id}/policy"), Some(&policy.to_string()))
}

fn call(rig: &Rig, method: &str, path: &str, more: &[(&str, &str)]) -> Answer {
    let auth = format!("Bearer {}", rig.token("acme"));
    let mut headers = vec![("authorization", auth.as_str())];
    headers.extend(more);
    rig.client().request(method, path, &headers, b"")
}

/// Asks until `wanted`: a change is on its way to the cache of records.
fn until(mut ask: impl FnMut() -> Answer, wanted: impl Fn(&Answer) -> bool) -> Answer {
    for _ in 0..300 {
        let answer = ask();
        if wanted(&answer) {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    ask()
}

#[test]
fn a_secrets_own_rules_narrow_what_its_integration_allows() {
    let rig = with("allow = [\"* /files/**\", \"GET /users/*\"]\ndeny = [\"* /files/secret/**\"]\n");
    let id = id_of(&limited(
        &rig,
        "acme",
        &json!({ "allow": ["GET /files/**", "POST /orders"], "deny": ["* /files/mine/**"] }),
    ));
    let free = rig.secret("acme");
    let rows = [
        ("GET", "/files/a", "", "", "both allow it"),
        ("HEAD", "/files/a", "request_denied", "", "a rule for GET allows no HEAD"),
        ("POST", "/files/a", "request_denied", "", "the secret's own rules allow GET alone"),
        ("GET", "/users/1", "request_denied", "", "the integration allows it, the secret does not"),
        ("POST", "/orders", "request_denied", "request_denied", "the secret cannot widen the integration"),
        ("GET", "/files/secret/x", "request_denied", "request_denied", "the integration denies it"),
        ("GET", "/files/mine/x", "request_denied", "", "the secret's own deny"),
        ("GET", "/files/%6dine/x", "request_denied", "", "the same, escaped"),
    ];
    for (method, path, own, others, mistake) in rows {
        assert_eq!(call(&rig, method, &format!("/vendor/{id}{path}"), &[]).code(), own, "{mistake}");
        assert_eq!(
            call(&rig, method, &format!("/vendor/{free}{path}"), &[]).code(),
            others,
            "{mistake}: without limits"
        );
    }
    let overridden = [("x-http-method-override", "DELETE")];
    let answer = call(&rig, "GET", &format!("/vendor/{id}/files/a"), &overridden);
    refused(&answer, Code::RequestDenied);
    assert!(answer.text().contains("This secret's own rules"), "{}", answer.text());
}

#[test]
fn limits_are_shown_changed_kept_and_lifted() {
    let rig = with("");
    let policy = json!({ "allow": ["GET /a"], "rate": 50, "burst": 70, "concurrency": 3 });
    let id = id_of(&limited(&rig, "acme", &policy));
    let shown = || rig.admin("GET", &format!("/v1/secrets/{id}"), None).json();
    assert_eq!(shown()["policy"], policy);
    let canary = rig.canary.text().to_owned();
    let fields = json!({ "fields": { "token": canary } }).to_string();
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/versions"), Some(&fields)).status, 201);
    assert_eq!(shown()["policy"], policy, "a new version keeps them");
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/rollback"), Some("{\"to\":1}")).status, 201);
    assert_eq!(shown()["policy"], policy, "and so does an old one put back");
    let path = format!("/vendor/{id}/b");
    refused(&call(&rig, "GET", &path, &[]), Code::RequestDenied);
    assert_eq!(
        set(&rig, &id, &json!({ "allow": ["GET /b"] })).json()["policy"],
        json!({ "allow": ["GET /b"] })
    );
    let answer = until(|| call(&rig, "GET", &path, &[]), |answer| answer.status == 200);
    assert_eq!(answer.status, 200, "what is not said is not limited any more");
    assert_eq!(set(&rig, &id, &json!({})).status, 200);
    assert_eq!(shown().get("policy"), None);
    let answer = until(|| call(&rig, "GET", &format!("/vendor/{id}/a"), &[]), |answer| answer.status == 200);
    assert_eq!(answer.status, 200);
    let records = rig.audit_until(|all| {
        all.iter().filter(|r| r["kind"] == "admin" && r["method"] == "secret.policy").count() == 4
    });
    assert!(records.iter().any(|r| r["method"] == "secret.policy" && r["secret"] == id.as_str()));
}

#[test]
fn limits_that_would_widen_or_are_unclear_are_not_taken() {
    let rig = with("rate = 10\nconcurrency = 5\n");
    let id = rig.secret("acme");
    let many: Vec<String> = (0..51).map(|number| format!("GET /{number}")).collect();
    let long = format!("GET /{}", "a".repeat(200));
    let rows = [
        (json!({ "rate": 11 }), "more than the integration's rate"),
        (json!({ "concurrency": 6 }), "more than its concurrency"),
        (json!({ "rate": 0 }), "no request at all"),
        (json!({ "burst": 5 }), "a burst without a rate"),
        (json!({ "allow": [] }), "an empty list"),
        (json!({ "allow": ["get /x"] }), "a method in small letters"),
        (json!({ "deny": ["GET x"] }), "no path"),
        (json!({ "allow": ["GET /../x"] }), "a dot segment"),
        (json!({ "allow": many }), "too many rules"),
        (json!({ "allow": [long] }), "too long a rule"),
        (json!({ "quota": 5 }), "a limit that relay does not know"),
        (json!({ "rate": -1 }), "a number that is none"),
        (json!({ "rate": "5" }), "a number as text"),
        (json!([]), "a list"),
    ];
    for (policy, mistake) in rows {
        let answer = set(&rig, &id, &policy);
        assert_eq!(
            (answer.status, answer.code()),
            (400, "request_malformed"),
            "{mistake}: {}",
            answer.text()
        );
        let answer = limited(&rig, "acme", &policy);
        assert_eq!(answer.status, 400, "{mistake}, where a secret is added: {}", answer.text());
    }
    let unknown = SecretId::random().to_string();
    assert_eq!(set(&rig, &unknown, &json!({ "rate": 1 })).code(), "secret_not_found");
    assert_eq!(rig.admin("GET", &format!("/v1/secrets/{id}"), None).json().get("policy"), None);
}

#[test]
fn a_secrets_rate_has_a_burst_and_says_when_to_come_again() {
    let rig = with("");
    let id = id_of(&limited(&rig, "acme", &json!({ "rate": 1, "burst": 3 })));
    let free = rig.secret("acme");
    let path = format!("/vendor/{id}/x");
    let begun = Instant::now();
    for number in 0..3 {
        assert_eq!(call(&rig, "GET", &path, &[]).status, 200, "{number} of the burst");
    }
    let answer = call(&rig, "GET", &path, &[]);
    assert!(begun.elapsed() < Duration::from_secs(1), "too slow a machine for this test");
    refused(&answer, Code::RateLimited);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.text().contains("This secret's requests"), "{}", answer.text());
    assert_eq!(
        call(&rig, "GET", &format!("/vendor/{free}/x"), &[]).status,
        200,
        "another secret's is its own"
    );
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(call(&rig, "GET", &path, &[]).status, 200, "a second later one more");
    assert_eq!(call(&rig, "GET", &path, &[]).code(), "rate_limited");
}

#[test]
fn an_integrations_burst_is_its_own_number() {
    let rig = with("rate = 1\nburst = 5\n");
    let id = rig.secret("acme");
    let codes: Vec<String> =
        (0..7).map(|_| call(&rig, "GET", &format!("/vendor/{id}/x"), &[]).code().to_owned()).collect();
    assert!(codes[..5].iter().all(String::is_empty), "{codes:?}");
    assert!(codes[5..].iter().any(|code| code == "rate_limited"), "{codes:?}");
}

/// A rig with two vendors' integrations whose `/hang` answers only once the returned sender is dropped.
fn hanging(server: &str, integration: &str) -> (Rig, std::sync::mpsc::Sender<()>) {
    let (let_go, waits) = std::sync::mpsc::channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    let more = format!(
        "[integrations.other]\nupstream = \"https://localhost:{{PORT}}/other\"\nca_file = \"ca.pem\"\n\
         private_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\n{INJECT}"
    );
    let settings = Settings {
        server: server.to_owned(),
        integration: format!("{INJECT}{integration}"),
        more,
        ..Settings::default()
    };
    let rig = Rig::with(settings, move |request, out| {
        if request.target().ends_with("/hang") {
            let _ = waits.lock().unwrap().recv();
        }
        vendor::answer(out, 200, &[], b"ok");
    });
    (rig, let_go)
}

/// Requests that the vendor has and does not answer.
fn under_way(rig: &Rig, path: &str, count: usize) -> Vec<crate::rig::client::Client> {
    let token = rig.token("acme");
    let before = rig.vendor.requests().len();
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let mut client = rig.client();
            client.send(&format!(
                "GET {path} HTTP/1.1\r\nhost: relay.test\r\nauthorization: Bearer {token}\r\n\r\n"
            ));
            client
        })
        .collect();
    for _ in 0..500 {
        if rig.vendor.requests().len() >= before + count {
            return clients;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the vendor never got {count} requests");
}

#[test]
fn a_vendor_that_hangs_holds_half_of_a_customers_requests_at_most() {
    let (rig, let_go) = hanging("[server.limits]\nin_flight_per_customer = 8\n", "");
    let id = rig.secret("acme");
    let other = rig.secret_with("acme", "other", &[("token", rig.canary.text())]);
    let globex = rig.secret("globex");
    let held = under_way(&rig, &format!("/vendor/{id}/hang"), 4);
    let answer = call(&rig, "GET", &format!("/vendor/{id}/x"), &[]);
    refused(&answer, Code::TooBusy);
    assert!(answer.text().contains("on this integration"), "{}", answer.text());
    for _ in 0..8 {
        assert_eq!(call(&rig, "GET", &format!("/other/{other}/x"), &[]).status, 200, "another vendor");
        assert_eq!(
            rig.get(&format!("/vendor/{globex}/x"), &rig.token("globex")).status,
            200,
            "another customer"
        );
    }
    drop(let_go);
    for mut client in held {
        assert_eq!(client.answer("GET").status, 200);
    }
    let answer = until(|| call(&rig, "GET", &format!("/vendor/{id}/x"), &[]), |answer| answer.status == 200);
    assert_eq!(answer.status, 200, "what ended is free again");
}

#[test]
fn concurrency_is_what_the_integration_and_then_the_secret_say() {
    let (rig, let_go) = hanging("", "concurrency = 3\n");
    let narrow = id_of(&limited(&rig, "acme", &json!({ "concurrency": 1 })));
    let wide = rig.secret("acme");
    let mut held = under_way(&rig, &format!("/vendor/{narrow}/hang"), 1);
    let answer = call(&rig, "GET", &format!("/vendor/{narrow}/x"), &[]);
    refused(&answer, Code::TooBusy);
    assert!(answer.text().contains("This secret has"), "{}", answer.text());
    assert_eq!(call(&rig, "GET", &format!("/vendor/{wide}/x"), &[]).status, 200, "another secret");
    held.extend(under_way(&rig, &format!("/vendor/{wide}/hang"), 2));
    refused(&call(&rig, "GET", &format!("/vendor/{wide}/x"), &[]), Code::TooBusy);
    drop(let_go);
    held.iter_mut().for_each(|client| assert_eq!(client.answer("GET").status, 200));
    for id in [narrow, wide] {
        let answer =
            until(|| call(&rig, "GET", &format!("/vendor/{id}/x"), &[]), |answer| answer.status == 200);
        assert_eq!(answer.status, 200, "what ended is free again");
    }
}

#[test]
fn limits_that_are_edited_in_the_store_make_the_secret_unusable() {
    let store = Arc::new(Memory::new());
    let kept = store.clone();
    let options = Box::new(move || Options { store: Some(kept.clone()), ..Options::default() });
    let rig =
        Rig::with(Settings { options, ..Settings::default() }, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let id = id_of(&limited(&rig, "acme", &json!({ "allow": ["GET /a"], "rate": 5 })));
    refused(&call(&rig, "GET", &format!("/vendor/{id}/b"), &[]), Code::RequestDenied);
    let (customer, secret) = (Customer::parse("acme").unwrap(), SecretId::parse(&id).unwrap());
    let row = rig.runtime().block_on(store.secret(&customer, secret)).unwrap().unwrap();
    let mut head = row.head.to_vec();
    let at = memchr::memmem::find(&head, b"GET /a").expect("the head holds the rule");
    head[at..at + 6].copy_from_slice(b"GET /b");
    let edited = SecretRow { head: head.into(), ..row.clone() };
    rig.runtime().block_on(store.put_secret(edited, Expected::Head(row.head))).unwrap();
    let answer = until(
        || call(&rig, "GET", &format!("/vendor/{id}/b"), &[]),
        |answer| answer.code() == Code::CredentialUnusable.as_str(),
    );
    refused(&answer, Code::CredentialUnusable);
    assert!(rig.vendor.requests().is_empty());
}

/// A token of these claims beside what every token has.
fn token(rig: &Rig, more: &Value) -> String {
    let mut claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": relay::clock::unix_seconds() + 600,
        "customer_id": "acme" });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = Some(rig.issuer.kid.clone());
    let key = jsonwebtoken::EncodingKey::from_ec_pem(rig.issuer.key.expose()).unwrap();
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

#[test]
fn a_tokens_list_of_secrets_narrows_and_never_widens() {
    let rig = Rig::plain();
    let (mine, other, theirs) = (rig.secret("acme"), rig.secret("acme"), rig.secret("globex"));
    let many: Vec<String> = (0..100).map(|_| SecretId::random().to_string()).collect();
    let more: Vec<String> = many.iter().cloned().chain([mine.clone()]).collect();
    let rows = [
        (json!({}), "", "", "no list"),
        (json!({ "secrets": [mine] }), "", "secret_not_found", "the one"),
        (json!({ "secrets": [other, mine.to_uppercase(), mine] }), "", "", "both, one twice and in capitals"),
        (json!({ "secrets": [] }), "secret_not_found", "secret_not_found", "an empty list allows nothing"),
        (json!({ "secrets": [theirs] }), "secret_not_found", "secret_not_found", "another customer's"),
        (json!({ "secrets": many }), "secret_not_found", "secret_not_found", "a hundred others"),
        (json!({ "secrets": more }), "token_invalid", "token_invalid", "too many"),
        (json!({ "secrets": mine }), "token_invalid", "token_invalid", "a text"),
        (json!({ "secrets": null }), "token_invalid", "token_invalid", "null"),
        (json!({ "secrets": { "0": mine } }), "token_invalid", "token_invalid", "an object"),
        (json!({ "secrets": [mine, 5] }), "token_invalid", "token_invalid", "a number among them"),
        (json!({ "secrets": ["*"] }), "token_invalid", "token_invalid", "a star"),
        (json!({ "secrets": [mine.replace('-', "")] }), "token_invalid", "token_invalid", "no hyphens"),
        (
            json!({ "secrets": [other], "secret": mine }),
            "secret_not_found",
            "secret_ambiguous",
            "pinned to another",
        ),
    ];
    for (claims, first, second, mistake) in rows {
        let token = token(&rig, &claims);
        let said = |id: &str| rig.get(&format!("/vendor/{id}/x"), &token).code().to_owned();
        assert_eq!((said(&mine).as_str(), said(&other).as_str()), (first, second), "{mistake}");
        let never = said(&theirs);
        assert!(!never.is_empty(), "{mistake}: another customer's is never opened");
    }
    // A listed secret of another customer's, one that is not listed and an unknown one are told alike.
    let listed = token(&rig, &json!({ "secrets": [mine, theirs] }));
    let texts = [theirs, other, SecretId::random().to_string()].map(|id| {
        let mut body = rig.get(&format!("/vendor/{id}/x"), &listed).json();
        body["request_id"].take();
        body["instance"].take();
        body
    });
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:#?}");
}

#[test]
fn the_list_may_stand_in_another_claim() {
    let callers = format!("{}secrets = \"/saas/uuids\"\n", crate::rig::callers());
    let rig =
        Rig::with(Settings { callers, ..Settings::default() }, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let (mine, other) = (rig.secret("acme"), rig.secret("acme"));
    let token = token(&rig, &json!({ "secrets": "not read", "saas": { "uuids": [mine] } }));
    assert_eq!(rig.get(&format!("/vendor/{mine}/x"), &token).status, 200);
    refused(&rig.get(&format!("/vendor/{other}/x"), &token), Code::SecretNotFound);
}

#[test]
fn only_words_of_relays_own_in_a_scope_limit() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let rows = [
        (json!({}), "", "no scope"),
        (json!({ "scope": "" }), "", "an empty one"),
        (json!({ "scope": "openid profile" }), "", "foreign words alone"),
        (json!({ "scope": ["openid"] }), "", "as a list"),
        (json!({ "scope": "openid relay:use" }), "", "relay's beside a foreign one"),
        (json!({ "scope": "relay:use:vendor" }), "", "this integration"),
        (json!({ "scope": "relay:use:other" }), "scope_denied", "another integration"),
        (json!({ "scope": "relay:admin" }), "scope_denied", "a word of relay's that allows no use"),
        (json!({ "scope": "relay:use:" }), "scope_denied", "no integration's name"),
        (json!({ "scope": "RELAY:USE" }), "", "capitals are a foreign word"),
        (json!({ "scope": 5 }), "token_invalid", "a number"),
        (json!({ "scope": ["relay:use", 5] }), "token_invalid", "a number among them"),
    ];
    for (claims, wanted, mistake) in rows {
        assert_eq!(rig.get(&format!("/vendor/{id}/x"), &token(&rig, &claims)).code(), wanted, "{mistake}");
    }
}
