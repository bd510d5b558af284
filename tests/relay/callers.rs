//! Real issuers over TLS with keys that come and go; times in milliseconds where the default is minutes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relay::app::Options;
use relay::cli::token::LocalIssuer;
use relay::jwks::{Standing, Times};
use relay::refusal::Code;
use serde_json::{Value, json};

use crate::refusals::refused;
use crate::rig::client::{Answer, Client};
use crate::rig::issuer::{Issuer, Says, claims, signed, together};
use crate::rig::vendor;
use crate::rig::{ISSUER, Rig, Settings};

const MOMENT: Duration = Duration::from_millis(150);

/// Everything is read again after a moment.
fn quick() -> Times {
    Times {
        age: MOMENT,
        least_age: MOMENT,
        floor: MOMENT,
        first_retry: MOMENT,
        look: MOMENT,
        ..Times::default()
    }
}

/// Nothing is read again by itself, and only the floor is short.
fn on_demand() -> Times {
    Times { floor: MOMENT, ..Times::default() }
}

fn relay(callers: String, times: Times) -> Rig {
    let settings = Settings {
        callers,
        options: Box::new(move || Options { key_times: times, ..Options::default() }),
        ..Settings::default()
    };
    Rig::with(settings, |request, out| vendor::answer_to(request, out, b"ok"))
}

/// Waits until `wanted` holds.
fn until(what: &str, wanted: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !wanted() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn standing(rig: &Rig) -> Standing {
    rig.running().issuers()[0].standing
}

fn loaded(rig: &Rig) {
    until("the keys are read", || {
        rig.running().issuers().iter().all(|issuer| issuer.standing == Standing::Loaded)
    });
}

/// Waits until reading fails for a reason that holds `words`.
fn fails(rig: &Rig, words: &str) {
    until(words, || {
        let state = rig.running().issuers().remove(0);
        state.failing.is_some_and(|(_, why)| why.contains(words))
    });
}

/// Where relay is, for threads.
#[derive(Clone)]
struct Door(SocketAddr, Arc<Mutex<Vec<u8>>>);

impl Door {
    fn of(rig: &Rig) -> Self {
        Self(rig.app(), rig.shown.clone())
    }

    fn ask(&self, id: &str, keys: &LocalIssuer, kid: &str) -> u16 {
        let token = format!("Bearer {}", signed(keys, kid, &claims(ISSUER, "acme")));
        let mut client = Client::connect(self.0, self.1.clone());
        client.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &token)], b"").status
    }
}

/// Asks with a fresh token by `keys` for acme.
fn asked(rig: &Rig, id: &str, keys: &LocalIssuer) -> Answer {
    rig.get(&format!("/vendor/{id}/x"), &signed(keys, &keys.kid, &claims(ISSUER, "acme")))
}

#[test]
fn relay_starts_without_an_issuer_in_reach_and_is_ready_once_its_keys_were_read() {
    let issuer = Issuer::new("one");
    issuer.says(Says::Status(503));
    let rig = relay(issuer.callers(ISSUER), quick());
    let id = rig.secret("acme");
    fails(&rig, "answered 503");
    assert_eq!(standing(&rig), Standing::Missing);
    let ready = rig.admin("GET", "/readyz", None);
    assert_eq!(ready.status, 503);
    let checks = ready.json()["checks"].clone();
    let check = checks.as_array().unwrap().iter().find(|check| check["name"] == "issuers").unwrap();
    assert_eq!(check["ok"], false);
    refused(&asked(&rig, &id, &issuer.keys), Code::IssuerUnavailable);
    issuer.publishes(&issuer.keys.jwks);
    loaded(&rig);
    assert_eq!(rig.admin("GET", "/readyz", None).status, 200);
    assert_eq!(asked(&rig, &id, &issuer.keys).status, 200);
    let metrics = rig.running().metrics().render();
    let wanted = format!("relay_jwks_keys{{issuer=\"{ISSUER}\"}} 1");
    assert!(metrics.contains(&wanted), "{metrics}");
    for outcome in ["failed", "changed"] {
        let begins = format!("relay_jwks_reads_total{{issuer=\"{ISSUER}\",outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&begins)).unwrap();
        assert!(line.parse::<u64>().unwrap() > 0, "{outcome}");
    }
}

#[test]
fn a_key_that_the_issuer_removed_dies_with_every_verdict_by_it() {
    let (issuer, next) = (Issuer::new("old"), LocalIssuer::generate("new").unwrap());
    let rig = relay(issuer.callers(ISSUER), quick());
    let id = rig.secret("acme");
    loaded(&rig);
    let path = format!("/vendor/{id}/x");
    let remembered = signed(&issuer.keys, "old", &claims(ISSUER, "acme"));
    // On both workers.
    for _ in 0..4 {
        assert_eq!(rig.get(&path, &remembered).status, 200);
    }
    issuer.publishes(&together(&[&issuer.keys, &next]));
    until("the next key is known", || asked(&rig, &id, &next).status == 200);
    assert_eq!(rig.get(&path, &remembered).status, 200, "the old one is still published");
    issuer.publishes(&next.jwks);
    until("the old key is dead", || rig.get(&path, &remembered).status == 401);
    for _ in 0..4 {
        refused(&rig.get(&path, &remembered), Code::TokenInvalid);
    }
    assert_eq!(asked(&rig, &id, &next).status, 200);
}

#[test]
fn a_key_published_just_now_is_known_by_one_reading_however_many_ask() {
    let (issuer, next) = (Issuer::new("old"), LocalIssuer::generate("new").unwrap());
    let rig = relay(issuer.callers(ISSUER), on_demand());
    let id = rig.secret("acme");
    loaded(&rig);
    assert_eq!(asked(&rig, &id, &issuer.keys).status, 200);
    issuer.says(Says::Waits(together(&[&issuer.keys, &next])));
    std::thread::sleep(MOMENT);
    let door = Door::of(&rig);
    std::thread::scope(|scope| {
        let many: Vec<_> = (0..40).map(|_| scope.spawn(|| door.ask(&id, &next, "new"))).collect();
        until("somebody asks the issuer", || issuer.asked() == 2);
        // Who names a known key does not wait for the reading that is under way.
        assert_eq!(asked(&rig, &id, &issuer.keys).status, 200);
        assert!(many.iter().all(|one| !one.is_finished()), "the others wait for it");
        issuer.release();
        for one in many {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    assert_eq!(issuer.asked(), 2, "one reading for all of them");
}

#[test]
fn a_reading_that_does_not_end_holds_nobody_for_longer_than_two_seconds() {
    let (issuer, next) = (Issuer::new("old"), LocalIssuer::generate("new").unwrap());
    let rig = relay(issuer.callers(ISSUER), on_demand());
    let id = rig.secret("acme");
    loaded(&rig);
    issuer.says(Says::Waits(next.jwks.clone()));
    std::thread::sleep(MOMENT);
    let began = Instant::now();
    refused(&asked(&rig, &id, &next), Code::TokenInvalid);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    issuer.release();
}

#[test]
fn a_thousand_unknown_keys_cause_one_reading_in_thirty_seconds() {
    let (issuer, stranger) = (Issuer::new("one"), LocalIssuer::generate("x").unwrap());
    // As by default, but that the first thirty seconds are over.
    let times = Times { floor: Duration::from_secs(2), ..Times::default() };
    let rig = relay(issuer.callers(ISSUER), times);
    let id = rig.secret("acme");
    loaded(&rig);
    assert_eq!(Times::default().floor, Duration::from_secs(30));
    let door = Door::of(&rig);
    let ask = |number: usize| door.ask(&id, &stranger, &format!("kid-{number}"));
    let began = Instant::now();
    assert_eq!(ask(0), 401);
    assert_eq!(issuer.asked(), 1, "the reading at start was just now");
    std::thread::sleep(Duration::from_secs(2).saturating_sub(began.elapsed()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let ask = &ask;
            scope.spawn(move || (1..=250).for_each(|number| assert_eq!(ask(part * 1000 + number), 401)));
        }
    });
    let most = 2 + usize::try_from(began.elapsed().as_secs() / 2).unwrap();
    assert!((2..=most).contains(&issuer.asked()), "{} readings, {most} allowed", issuer.asked());
    assert_eq!(asked(&rig, &id, &issuer.keys).status, 200);
}

#[test]
fn a_document_that_cannot_be_used_leaves_the_last_good_keys_and_is_told() {
    let issuer = Issuer::new("one");
    let other = LocalIssuer::generate("other").unwrap();
    let rig = relay(issuer.callers(ISSUER), quick());
    let id = rig.secret("acme");
    loaded(&rig);
    let text = |document: &str| Says::Text(document.to_owned(), Vec::new());
    let oct = r#"{"keys":[{"kty":"oct","kid":"other","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;
    let private = other.jwks.replace("\"kty\"", "\"d\":\"AAAA\",\"kty\"");
    let twins = together(&[&other, &other]);
    let large = format!("{{\"keys\":[]}}{}", " ".repeat(1024 * 1024));
    let rows = [
        (Says::Status(500), "answered 500", "an error"),
        (Says::Status(302), "redirects are not followed", "a redirect"),
        (Says::Status(204), "answered 204", "a success without a document"),
        (text("<html>"), "not a JWKS document", "a page"),
        (text(oct), "symmetric key", "a key that signs as well as it verifies"),
        (text(&private), "private key", "a key that should be nobody's"),
        (text(&twins), "which one signed is unclear", "one kid, two keys"),
        (text(&large), "longer than 1048576 bytes", "a document without end"),
    ];
    for (says, words, mistake) in rows {
        issuer.says(says);
        fails(&rig, words);
        assert_eq!(standing(&rig), Standing::Stale, "{mistake}");
        assert_eq!(asked(&rig, &id, &issuer.keys).status, 200, "{mistake}");
        assert_eq!(rig.admin("GET", "/readyz", None).status, 200, "{mistake}");
        issuer.publishes(&issuer.keys.jwks);
        loaded(&rig);
    }
    let requests = issuer.server.requests();
    assert!(requests.iter().all(|request| request.target() == "/jwks"), "no redirect was followed");
    assert!(
        requests
            .iter()
            .all(|request| request.header("user-agent").is_some_and(|who| who.starts_with("relay/")))
    );
}

#[test]
fn an_issuer_that_takes_all_its_keys_back_ends_all_its_tokens() {
    let issuer = Issuer::new("one");
    let rig = relay(issuer.callers(ISSUER), quick());
    let id = rig.secret("acme");
    loaded(&rig);
    assert_eq!(asked(&rig, &id, &issuer.keys).status, 200);
    issuer.publishes("{\"keys\":[]}");
    until("its tokens end", || asked(&rig, &id, &issuer.keys).status == 401);
    assert_eq!(rig.admin("GET", "/readyz", None).status, 503);
    issuer.publishes(&issuer.keys.jwks);
    loaded(&rig);
    assert_eq!(asked(&rig, &id, &issuer.keys).status, 200);
}

#[test]
fn in_an_outage_the_last_keys_serve_until_they_are_too_old() {
    let issuer = Issuer::new("one");
    let times = Times { stale: Duration::from_secs(2), ..quick() };
    assert_eq!(Times::default().stale, Duration::from_secs(24 * 3600));
    let rig = relay(issuer.callers(ISSUER), times);
    let id = rig.secret("acme");
    loaded(&rig);
    let path = format!("/vendor/{id}/x");
    let remembered = signed(&issuer.keys, "one", &claims(ISSUER, "acme"));
    assert_eq!(rig.get(&path, &remembered).status, 200);
    issuer.says(Says::Status(500));
    fails(&rig, "answered 500");
    assert_eq!(asked(&rig, &id, &issuer.keys).status, 200);
    until("the keys are too old", || standing(&rig) == Standing::Expired);
    refused(&asked(&rig, &id, &issuer.keys), Code::IssuerUnavailable);
    refused(&rig.get(&path, &remembered), Code::IssuerUnavailable);
    assert_eq!(rig.admin("GET", "/readyz", None).status, 503);
    issuer.publishes(&issuer.keys.jwks);
    loaded(&rig);
    assert_eq!(rig.get(&path, &remembered).status, 200);
}

#[test]
fn the_issuer_says_how_long_its_keys_are_good_within_bounds() {
    let issuer = Issuer::new("one");
    let times = Times { least_age: MOMENT, most_age: Duration::from_secs(3600), ..Times::default() };
    issuer.says(Says::Text(issuer.keys.jwks.clone(), vec![("cache-control", "max-age=0")]));
    let rig = relay(issuer.callers(ISSUER), times);
    loaded(&rig);
    until("it is read again after the least age", || issuer.asked() >= 3);
    issuer.says(Says::Text(issuer.keys.jwks.clone(), vec![("cache-control", "max-age=3000")]));
    std::thread::sleep(MOMENT * 2);
    let before = issuer.asked();
    std::thread::sleep(MOMENT * 4);
    assert_eq!(issuer.asked(), before, "it is good for 3000 s");
    let limits = Times::default();
    assert_eq!((limits.least_age.as_secs(), limits.age.as_secs()), (60, 300));
    assert!(
        limits.most_age + 2 * limits.call <= Duration::from_secs(600),
        "a removed key is dead in 10 minutes"
    );
}

#[test]
fn a_server_of_another_authority_is_not_believed() {
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    let callers = issuer.callers(ISSUER).replace(
        &issuer.path("ca.pem").display().to_string(),
        &stranger.path("ca.pem").display().to_string(),
    );
    let rig = relay(callers, quick());
    fails(&rig, "certificate");
    assert_eq!((standing(&rig), issuer.asked()), (Standing::Missing, 0));
}

#[test]
fn a_file_of_keys_is_read_again_when_it_changes_and_a_broken_one_changes_nothing() {
    let rig = relay(String::new(), quick());
    let (id, next) = (rig.secret("acme"), LocalIssuer::generate("next").unwrap());
    let path = rig.folder.path().join("jwks.json");
    let exchange = |text: &str| {
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
    };
    assert_eq!(asked(&rig, &id, &rig.issuer).status, 200);
    exchange("{\"keys\":");
    fails(&rig, "not a JWKS document");
    assert_eq!(asked(&rig, &id, &rig.issuer).status, 200);
    std::fs::remove_file(&path).unwrap();
    fails(&rig, "No such file");
    assert_eq!(asked(&rig, &id, &rig.issuer).status, 200);
    exchange(&next.jwks);
    until("the next key is known", || asked(&rig, &id, &next).status == 200);
    refused(&asked(&rig, &id, &rig.issuer), Code::TokenInvalid);
}

#[test]
fn discovery_finds_the_keys_of_the_issuer_that_was_meant_and_of_no_other() {
    let issuer = Issuer::new("one");
    let own = issuer.url("");
    issuer.calls_itself(&own, &issuer.url("/jwks"));
    let callers = issuer.section(&own, &format!("discovery = \"{own}/\""));
    let rig = relay(callers, quick());
    let id = rig.secret("acme");
    loaded(&rig);
    let ask = || {
        let token = signed(&issuer.keys, "one", &claims(&own, "acme"));
        rig.get(&format!("/vendor/{id}/x"), &token).status
    };
    assert_eq!(ask(), 200);
    let slash = format!("{own}/");
    let rows = [
        (slash.as_str(), issuer.url("/jwks"), "to the letter", "another issuer, if only by a slash"),
        (
            &own,
            "http://127.0.0.1:9/jwks".to_owned(),
            "not an https:// address",
            "this machine, named from afar",
        ),
        (&own, "http://auth.example/jwks".to_owned(), "not an https:// address", "in the clear"),
        (&own, "file:///etc/passwd".to_owned(), "not an https:// address", "a file"),
    ];
    for (name, target, words, mistake) in rows {
        issuer.calls_itself(name, &target);
        fails(&rig, words);
        assert_eq!((ask(), standing(&rig)), (200, Standing::Stale), "{mistake}");
    }
    issuer.calls_itself(&own, &issuer.url("/jwks"));
    loaded(&rig);
}

#[test]
fn the_token_for_the_address_is_read_anew_each_time_and_goes_nowhere_else() {
    let (issuer, elsewhere) = (Issuer::new("one"), Issuer::new("one"));
    let file = issuer.path("sa.token");
    std::fs::write(&file, "first-token\n").unwrap();
    let own = issuer.url("");
    issuer.calls_itself(&own, &issuer.url("/jwks"));
    // Both authorities are trusted: only the origin tells them apart.
    let both = format!("{}{}", issuer.server.ca_pem, elsewhere.server.ca_pem);
    std::fs::write(issuer.path("ca.pem"), both).unwrap();
    let keys = format!("discovery = \"{own}\"\njwks_token = \"file:{}\"", file.display());
    let _rig = relay(issuer.section(&own, &keys), quick());
    let shown = |server: &Issuer, token: &str| {
        let wanted = format!("Bearer {token}");
        server.server.requests().iter().any(|r| r.header("authorization") == Some(wanted.as_str()))
    };
    until("the first token is shown", || shown(&issuer, "first-token"));
    std::fs::write(&file, "second-token").unwrap();
    until("the second token is shown", || shown(&issuer, "second-token"));
    assert!(issuer.server.requests().iter().all(|request| request.header("authorization").is_some()));
    issuer.calls_itself(&own, &elsewhere.url("/jwks"));
    until("the other server is asked", || elsewhere.asked() > 0);
    assert!(elsewhere.server.requests().iter().all(|request| request.header("authorization").is_none()));
    let logs = crate::rig::logs::captured();
    assert!(memchr::memmem::find(&logs, b"second-token").is_none(), "no log has it");
}

/// Two issuers, each with its own key file, audience, claim and prefix.
fn two(folder: &Path, a: &LocalIssuer, b: &LocalIssuer) -> String {
    std::fs::write(folder.join("a.json"), &a.jwks).unwrap();
    std::fs::write(folder.join("b.json"), &b.jwks).unwrap();
    format!(
        "[[callers]]\njwks = \"file:{0}/a.json\"\nissuer = \"https://a.example\"\naudience = \"relay\"\n\
         algorithms = [\"ES256\"]\ncustomer = \"customer_id\"\n\n\
         [[callers]]\njwks = \"file:{0}/b.json\"\nissuer = \"https://b.example\"\naudience = \"relay-b\"\n\
         algorithms = [\"ES256\"]\ncustomer = \"/org/name\"\ncustomer_prefix = \"b/\"\n",
        folder.display()
    )
}

#[test]
fn each_of_two_issuers_is_believed_for_its_own_tokens_alone() {
    let folder = tempfile::tempdir().unwrap();
    // The same kid: only the issuer tells the keys apart.
    let (a, b) = (LocalIssuer::generate("k").unwrap(), LocalIssuer::generate("k").unwrap());
    let rig = relay(two(folder.path(), &a, &b), quick());
    let (of_a, of_b) = (rig.secret("acme"), rig.secret("b/acme"));
    let by_a = claims("https://a.example", "acme");
    let mut by_b = claims("https://b.example", "nobody");
    by_b["org"] = json!({ "name": "acme" });
    by_b["aud"] = "relay-b".into();
    let get = |id: &str, keys: &LocalIssuer, claims: &Value| {
        rig.get(&format!("/vendor/{id}/x"), &signed(keys, "k", claims))
    };
    assert_eq!(get(&of_a, &a, &by_a).status, 200);
    assert_eq!(get(&of_b, &b, &by_b).status, 200);
    refused(&get(&of_b, &a, &by_a), Code::SecretNotFound);
    refused(&get(&of_a, &b, &by_b), Code::SecretNotFound);
    refused(&get(&of_b, &a, &by_b), Code::TokenInvalid);
    refused(&get(&of_a, &b, &by_a), Code::TokenInvalid);
    let with = |base: &Value, name: &str, value: Value| {
        let mut claims = base.clone();
        claims[name] = value;
        claims
    };
    let stranger = get(&of_a, &a, &with(&by_a, "iss", "https://c.example".into()));
    refused(&stranger, Code::TokenIssuer);
    assert!(!stranger.text().contains(".example"), "the issuers are not listed: {}", stranger.text());
    refused(&get(&of_a, &a, &with(&by_a, "iss", json!(["https://a.example"]))), Code::TokenIssuer);
    refused(&get(&of_a, &a, &with(&by_a, "aud", "relay-b".into())), Code::TokenAudience);
    refused(&get(&of_b, &b, &with(&by_b, "aud", "relay".into())), Code::TokenAudience);
    refused(&get(&of_b, &b, &with(&by_b, "org", json!({ "name": "" }))), Code::TokenCustomer);
    refused(&get(&of_b, &b, &with(&by_b, "org", json!({ "name": 7 }))), Code::TokenCustomer);
    refused(&get(&of_b, &b, &with(&by_b, "org", "acme".into())), Code::TokenCustomer);
}

#[test]
fn one_issuer_with_two_audiences_has_rules_for_each_and_a_token_is_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let keys = LocalIssuer::generate("k").unwrap();
    let callers = two(folder.path(), &keys, &keys).replace("https://b.example", "https://a.example");
    let rig = relay(callers, quick());
    let (plain, prefixed) = (rig.secret("acme"), rig.secret("b/acme"));
    let mut claims = claims("https://a.example", "acme");
    claims["org"] = json!({ "name": "acme" });
    let get = |id: &str, aud: Value| {
        let mut claims = claims.clone();
        claims["aud"] = aud;
        rig.get(&format!("/vendor/{id}/x"), &signed(&keys, "k", &claims))
    };
    assert_eq!(get(&plain, "relay".into()).status, 200);
    assert_eq!(get(&prefixed, json!(["other", "relay-b"])).status, 200);
    refused(&get(&plain, "relay-b".into()), Code::SecretNotFound);
    refused(&get(&plain, json!(["relay", "relay-b"])), Code::TokenAudience);
    refused(&get(&plain, "other".into()), Code::TokenAudience);
}

#[test]
fn a_kubernetes_service_account_is_a_caller() {
    let cluster = Issuer::new("cluster");
    std::fs::write(cluster.path("token"), "the-pods-own").unwrap();
    let name = "https://kubernetes.default.svc.cluster.local";
    let callers = cluster
        .section(
            name,
            &format!(
                "jwks = \"{}\"\njwks_token = \"file:{}\"\ncustomer_prefix = \"k8s/\"",
                cluster.url("/openid/v1/jwks"),
                cluster.path("token").display()
            ),
        )
        .replace("\"customer_id\"", "\"/kubernetes.io/namespace\"");
    let rig = relay(callers, quick());
    let id = rig.secret("k8s/team-a");
    loaded(&rig);
    let now = relay::clock::unix_seconds();
    let token = |namespace: &str| {
        signed(
            &cluster.keys,
            "cluster",
            &json!({
                "aud": ["relay"], "exp": now + 3607, "iat": now, "nbf": now, "iss": name,
                "jti": "7b6a8f2e-9a0f-4a0e-9d59-4f1c0b1b9a2d",
                "kubernetes.io": {
                    "namespace": namespace,
                    "node": { "name": "node-1", "uid": "6f9a1b1e-0000-4000-8000-000000000001" },
                    "pod": { "name": "app-7c9", "uid": "6f9a1b1e-0000-4000-8000-000000000002" },
                    "serviceaccount": { "name": "app", "uid": "6f9a1b1e-0000-4000-8000-000000000003" }
                },
                "sub": format!("system:serviceaccount:{namespace}:app"),
            }),
        )
    };
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &token("team-a")).status, 200);
    refused(&rig.get(&format!("/vendor/{id}/x"), &token("team-b")), Code::SecretNotFound);
    let outcome = rig.audit_until(|records| records.iter().any(|record| record["kind"] == "outcome"));
    let outcome = outcome.iter().find(|record| record["kind"] == "outcome").unwrap();
    assert_eq!(outcome["customer"], "k8s/team-a");
    assert_eq!(outcome["sub"], "system:serviceaccount:team-a:app");
    let first = cluster.server.requests().remove(0);
    assert_eq!(first.header("authorization"), Some("Bearer the-pods-own"));
}
