use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use relay::app::{Options, Source};
use relay::refusal::Code;

use crate::refusals::refused;
use crate::rig::client::Client;
use crate::rig::vendor::{self, Received};
use crate::rig::{ADMIN_TOKEN, Rig, Settings, write_private};

const BEARER: &str = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";

/// A rig whose relay.toml can be read again: [`Rig::restart_with`] is the first reading of it.
fn set(settings: Settings, script: impl Fn(&Received, &mut vendor::Out<'_>) + Send + Sync + 'static) -> Rig {
    let mut rig = Rig::with(settings, script);
    let path = rig.folder.path().join("relay.toml");
    std::fs::write(&path, rig.toml()).unwrap();
    rig.restart_with(|settings| {
        settings.options = Box::new(move || Options {
            source: Some(Source { path: path.clone(), environment: Vec::new() }),
            ..Options::default()
        });
    });
    rig
}

fn plain() -> Rig {
    set(Settings::default(), |request, out| vendor::answer(out, 200, &[], request.target().as_bytes()))
}

/// Writes the rig's relay.toml with `from` replaced.
fn write(rig: &Rig, from: &str, to: &str) {
    let toml = rig.toml();
    assert!(toml.contains(from), "{from} is not in {toml}");
    std::fs::write(rig.folder.path().join("relay.toml"), toml.replace(from, to)).unwrap();
}

fn reloaded(rig: &Rig) -> Vec<String> {
    let answer = rig.admin("POST", "/v1/reload", None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let changed = answer.json()["changed"].as_array().unwrap().clone();
    changed.iter().map(|key| key.as_str().unwrap().to_owned()).collect()
}

fn metric(rig: &Rig, name: &str) -> String {
    let text = rig.running().metrics().render();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

#[test]
fn an_integration_is_added_changed_and_removed_while_requests_go_on() {
    let rig = plain();
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let mut open = rig.client();
    let bearer = format!("Bearer {token}");
    let mut ask = |path: &str| open.request("GET", path, &[("authorization", &bearer)], b"");
    assert_eq!(ask(&format!("/vendor/{id}/x")).text(), "/base/x");
    let connections = || rig.vendor.connections.load(Ordering::Relaxed);
    let begun = connections();

    assert_eq!(reloaded(&rig), Vec::<String>::new(), "nothing was changed");
    assert_eq!(ask(&format!("/vendor/{id}/x")).status, 200);
    assert_eq!(connections(), begun, "what did not change keeps its connections");

    let vendor = "[integrations.vendor]";
    let other = format!(
        "[integrations.other]\nupstream = \"https://localhost:{}/other\"\nprivate_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\nca_file = \"ca.pem\"\n{BEARER}\n{vendor}",
        rig.vendor.port
    );
    write(&rig, vendor, &other);
    let changed = reloaded(&rig);
    assert!(changed.iter().all(|key| key.starts_with("integrations.other.")), "{changed:?}");
    let canary = rig.canary.text().to_owned();
    let added = rig.secret_with("acme", "other", &[("token", &canary)]);
    assert_eq!(ask(&format!("/other/{added}/y")).text(), "/other/y");
    assert_eq!(connections(), begun + 1, "the other one stands beside it");

    write(&rig, BEARER.trim_end(), &format!("{BEARER}deny = [\"GET /x\"]"));
    let changed = reloaded(&rig);
    assert!(changed.contains(&"integrations.vendor.deny".to_owned()), "{changed:?}");
    refused(&ask(&format!("/vendor/{id}/x")), Code::RequestDenied);
    assert_eq!(ask(&format!("/vendor/{id}/z")).status, 200);
    assert!(connections() > begun + 1, "a connection made by the former settings carries nothing any more");

    refused(&ask(&format!("/other/{added}/y")), Code::IntegrationUnknown);
    let body =
        serde_json::json!({ "customer": "acme", "integration": "other", "fields": { "token": canary } });
    let add = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
    assert_eq!(add.code(), "integration_unknown", "nothing is sealed for what is gone");
}

#[test]
fn a_broken_file_keeps_the_last_good_one_and_says_where_it_is_broken() {
    let rig = plain();
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let good = metric(&rig, "relay_config_last_reload_timestamp_seconds");
    assert_eq!(metric(&rig, "relay_config_last_reload_successful"), "1");
    write(&rig, "inject = [", "injekt = [");
    let answer = rig.admin("POST", "/v1/reload", None);
    assert_eq!((answer.status, answer.json()["code"].as_str()), (422, Some("config_invalid")));
    let report = answer.json()["report"].as_str().unwrap().to_owned();
    assert!(report.contains("injekt") && report.contains("^^^^^^"), "{report}");
    assert!(answer.json()["findings"][0]["line"].as_u64().is_some());
    assert_eq!(metric(&rig, "relay_config_last_reload_successful"), "0");
    assert_eq!(metric(&rig, "relay_config_last_reload_timestamp_seconds"), good);
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &token).status, 200);

    // Valid, and yet it cannot be: half of it would hold if it were taken over piece by piece.
    write(&rig, "ca_file = \"ca.pem\"", "ca_file = \"relay.toml\"\nallow = [\"GET /none\"]");
    let answer = rig.admin("POST", "/v1/reload", None);
    assert_ne!(answer.status, 200, "{}", answer.text());
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &token).status, 200);

    std::fs::remove_file(rig.folder.path().join("relay.toml")).unwrap();
    assert_eq!(rig.admin("POST", "/v1/reload", None).json()["code"], "config_invalid");
    std::fs::write(rig.folder.path().join("relay.toml"), rig.toml()).unwrap();
    assert_eq!(reloaded(&rig), Vec::<String>::new());
    assert_eq!(metric(&rig, "relay_config_last_reload_successful"), "1");
}

#[test]
fn what_is_read_only_at_start_refuses_the_reload_as_a_whole_and_is_named() {
    let rig = plain();
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let denies = format!("{BEARER}deny = [\"GET /x\"]");
    let rows = [
        ("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\"", "server.listen"),
        ("workers = 2", "workers = 3", "server.workers"),
        ("path = \"relay.db\"", "path = \"other.db\"", "store.path"),
        ("path = \"audit.jsonl\"", "path = \"other.jsonl\"", "audit.path"),
        ("[integrations.vendor]", "[traces]\nsample = 0.5\n[integrations.vendor]", "traces.sample"),
        ("provider = \"local\"", "provider = \"local\"\ncontext = \"hash\"", "keys.context"),
        (
            "[integrations.vendor]",
            "[integrations.vendor]\nlisten = \"127.0.0.1:0\"",
            "integrations.vendor.listen",
        ),
        ("grace = \"2s\"", "grace = \"2s\"\nlimits = { head_fields = 50 }", "server.limits.head_fields"),
    ];
    for (from, to, key) in rows {
        let toml = rig.toml().replacen(from, to, 1).replace(BEARER.trim_end(), &denies);
        std::fs::write(rig.folder.path().join("relay.toml"), &toml).unwrap();
        let answer = rig.admin("POST", "/v1/reload", None);
        assert_eq!(answer.status, 409, "{key}: {}", answer.text());
        assert_eq!(answer.json()["keys"], serde_json::json!([key]));
        assert!(answer.json()["message"].as_str().unwrap().contains("restart"), "{}", answer.text());
        assert_eq!(
            rig.get(&format!("/vendor/{id}/x"), &token).status,
            200,
            "{key}: and nothing else of it holds"
        );
    }
    write(&rig, BEARER.trim_end(), &denies);
    assert_eq!(reloaded(&rig), ["integrations.vendor.deny"], "the control");
    refused(&rig.get(&format!("/vendor/{id}/x"), &token), Code::RequestDenied);
}

#[test]
fn a_token_that_was_good_by_former_rules_is_judged_anew() {
    let rig = plain();
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let path = format!("/vendor/{id}/x");
    for _ in 0..3 {
        assert_eq!(rig.get(&path, &token).status, 200);
        write(&rig, "audience = \"relay\"", "audience = \"another\"");
        assert_eq!(reloaded(&rig), ["callers.audience"]);
        refused(&rig.get(&path, &token), Code::TokenAudience);
        std::fs::write(rig.folder.path().join("relay.toml"), rig.toml()).unwrap();
        reloaded(&rig);
    }
    let keys = rig.folder.path().join("jwks.json");
    let mine = std::fs::read(&keys).unwrap();
    let other = relay::cli::token::LocalIssuer::generate("other").unwrap();
    std::fs::write(rig.folder.path().join("others.json"), &other.jwks).unwrap();
    write(&rig, "file:jwks.json", "file:others.json");
    assert_eq!(reloaded(&rig), ["callers.jwks"]);
    refused(&rig.get(&path, &token), Code::TokenInvalid);
    assert_eq!(std::fs::read(&keys).unwrap(), mine);
}

#[test]
fn the_admin_token_and_what_stands_in_files_are_read_again() {
    let rig = plain();
    let fresh = "another-admin-token-0123456789abcdef0123456789";
    write_private(&rig.folder.path().join("admin.token"), fresh);
    assert_eq!(reloaded(&rig), ["admin.token"]);
    let ask = |token: &str| {
        let mut client = Client::connect(rig.running().admin, rig.shown.clone());
        client.request("GET", "/v1/keys", &[("authorization", &format!("Bearer {token}"))], b"").status
    };
    assert_eq!((ask(ADMIN_TOKEN), ask(fresh)), (401, 200));

    // The authority's file holds another one by now: the vendor's certificate is none of its.
    let others = crate::rig::certificates::Certificates::new();
    std::fs::write(rig.folder.path().join("ca.pem"), others.ca_pem()).unwrap();
    let mut client = Client::connect(rig.running().admin, rig.shown.clone());
    let bearer = format!("Bearer {fresh}");
    let answer = client.request("POST", "/v1/reload", &[("authorization", &bearer)], b"");
    assert_eq!(
        answer.json()["changed"],
        serde_json::json!(["integrations.vendor.ca_file"]),
        "{}",
        answer.text()
    );
}

#[test]
fn a_reload_stands_in_the_audit_and_the_log_by_its_digest_and_by_names() {
    let rig = plain();
    write(&rig, "grace = \"2s\"", "grace = \"1s\"");
    let digest = rig.admin("POST", "/v1/reload", None).json()["digest"].as_str().unwrap().to_owned();
    rig.runtime().block_on(rig.running().reload()).unwrap();
    let records = rig.audit_until(|records| {
        records.iter().filter(|record| record["method"] == "config.reload").count() == 2
    });
    let told: Vec<_> = records.iter().filter(|record| record["method"] == "config.reload").collect();
    assert_eq!((&told[0]["kind"], &told[1]["kind"]), (&"admin".into(), &"system".into()));
    let note = told[0]["note"].as_str().unwrap();
    assert!(note.contains(&format!("sha256:{digest}")) && note.contains("server.grace"), "{note}");
    assert!(told[1]["note"].as_str().unwrap().contains("0 keys changed"));
}

#[test]
fn a_hundred_readings_under_load_fail_no_request_and_cut_no_stream() {
    let gone_on = Arc::new(AtomicBool::new(true));
    let streams = gone_on.clone();
    let rig = set(Settings::default(), move |request, out| {
        if request.target().ends_with("/stream") {
            vendor::raw(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            while streams.load(Ordering::Relaxed) {
                vendor::raw(out, b"5\r\ntick\n\r\n");
                std::thread::sleep(Duration::from_millis(5));
            }
            vendor::raw(out, b"0\r\n\r\n");
            return;
        }
        vendor::answer(out, 200, &[], b"ok");
    });
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let bearer = format!("Bearer {token}");
    let mut stream = rig.client();
    stream.send(&format!("GET /vendor/{id}/stream HTTP/1.1\r\nhost: a\r\nauthorization: {bearer}\r\n\r\n"));
    assert_eq!(stream.head().0, 200);
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut clients = [rig.client(), rig.client()];
    std::thread::scope(|scope| {
        for client in &mut clients {
            let (id, bearer, over, answered) = (&id, &bearer, &over, &answered);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let path = format!("/vendor/{id}/x");
                    let answer = client.request("GET", &path, &[("authorization", bearer)], b"");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let file = rig.folder.path().join("relay.toml");
        for number in 0..100 {
            let (text, wanted) = match number % 4 {
                0 => (rig.toml().replace(BEARER.trim_end(), &format!("{BEARER}ranges = true")), 200),
                1 => (rig.toml().replace("[store]", "[stoer]"), 422),
                2 => (rig.toml(), 200),
                _ => (rig.toml().replace("workers = 2", "workers = 5"), 409),
            };
            std::fs::write(&file, text).unwrap();
            let answer = rig.admin("POST", "/v1/reload", None);
            assert_eq!(answer.status, wanted, "{number}: {}", answer.text());
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 100, "there was a load");
    gone_on.store(false, Ordering::Relaxed);
    let mut rest = Vec::new();
    stream.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut piece = [0; 4096];
    while !rest.ends_with(b"0\r\n\r\n") {
        let read = stream.stream.read(&mut piece).unwrap();
        assert!(read > 0, "the stream was cut");
        rest.extend_from_slice(&piece[..read]);
    }
}
