//! The running relay while its keys are rotated, its customers forgotten, its store exchanged.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use relay::app::{Options, start_with};
use relay::config::{self, Files};
use relay::refusal::Code;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::refusals::refused;
use crate::rig::Rig;
use crate::rig::client::Client;

/// Begins a job and waits for its end.
fn job(rig: &Rig, path: &str, body: &Value) -> Value {
    let begun = rig.admin("POST", path, Some(&body.to_string()));
    assert_eq!(begun.status, 202, "{}", begun.text());
    let id = begun.json()["job"]["id"].clone();
    for _ in 0..2000 {
        let job = rig.admin("GET", "/v1/jobs", None).json()["job"].clone();
        assert_eq!(job["id"], id, "another job");
        if !job["ended_at"].is_null() {
            return job;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the job does not end: {}", rig.admin("GET", "/v1/jobs", None).text());
}

fn rotate(rig: &Rig, data: bool, new_version: bool) -> Value {
    job(rig, "/v1/keys/rotate", &json!({ "data": data, "new_version": new_version }))
}

/// The lines of the key file, the one that wraps first.
fn key_lines(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("relay.key")).unwrap();
    text.lines().filter(|line| line.starts_with("relay-key-1")).map(str::to_owned).collect()
}

#[test]
fn no_request_fails_while_keys_are_rotated_and_the_old_kms_key_can_go() {
    let mut rig = Rig::plain();
    let customers: Vec<String> = (0..20).map(|number| format!("customer-{number}")).collect();
    let mut calls = Vec::new();
    for customer in &customers {
        let token = format!("Bearer {}", rig.token(customer));
        for _ in 0..5 {
            calls.push((format!("/vendor/{}/x", rig.secret(customer)), token.clone()));
        }
    }
    let told = |customer: &String| {
        let mut told = rig.admin("GET", &format!("/v1/secrets?customer={customer}"), None).json();
        told["secrets"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|secret| drop(secret["last_used_at"].take()));
        told
    };
    let before: Vec<Value> = customers.iter().map(told).collect();
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for place in 0..3 {
            let (calls, over, answered) = (&calls, &over, &answered);
            let mut client = rig.client();
            scope.spawn(move || {
                for turn in place.. {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (path, token) = &calls[turn * 7 % calls.len()];
                    let answer = client.request("GET", path, &[("authorization", token)], b"");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for data in [false, true, true, false] {
            let job = rotate(&rig, data, !data);
            assert_eq!(job["left"], 0);
            assert_eq!(job["moved"], if data { 100 } else { 20 });
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(answered.load(Ordering::SeqCst) > 100, "{answered:?} requests");
    assert_eq!(customers.iter().map(told).collect::<Vec<_>>(), before, "people see no change");
    let status = rig.admin("GET", "/v1/keys", None).json();
    let [key] = status["keys"].as_array().unwrap().as_slice() else { panic!("{status}") };
    assert_eq!(
        (&key["data_keys"], &key["store_keys"], &key["wraps_now"]),
        (&json!(20), &json!(2), &json!(true))
    );
    assert_eq!((&status["unknown"], &status["job"]["kind"]), (&json!(0), &json!("rewrap")));

    let lines = key_lines(rig.folder.path());
    assert_eq!(lines.len(), 3, "two new versions");
    rig.stop();
    crate::rig::write_private(&rig.folder.path().join("relay.key"), &lines[0]);
    rig.start();
    for (path, token) in &calls {
        let answer = rig.client().request("GET", path, &[("authorization", token)], b"");
        assert_eq!(answer.status, 200, "without the old lines: {}", answer.text());
    }
    let records = rig.audit();
    let notes = |kind: &str, note: &str| {
        records
            .iter()
            .filter(|r| r["kind"] == kind && r["note"].as_str().is_some_and(|n| n.starts_with(note)))
            .count()
    };
    assert_eq!((notes("admin", "asked"), notes("system", "begun"), notes("system", "ended")), (104, 4, 4));
    assert_eq!(notes("system", "new data key"), 40);
}

#[test]
fn a_secret_tells_the_hour_in_which_it_was_last_used() {
    let mut rig = Rig::plain();
    let (used, unused) = (rig.secret("acme"), rig.secret("acme"));
    let token = rig.token("acme");
    let last = |rig: &Rig, id: &str| {
        rig.admin("GET", &format!("/v1/secrets/{id}"), None).json()["last_used_at"]
            .as_str()
            .map(str::to_owned)
    };
    let before = relay::clock::unix_seconds();
    for _ in 0..20 {
        assert_eq!(rig.get(&format!("/vendor/{used}/x"), &token).status, 200);
    }
    refused(&rig.get(&format!("/vendor/{unused}/x"), &rig.token("globex")), Code::SecretNotFound);
    // Told each minute, and at the end.
    rig.stop();
    rig.start();
    let hour = relay::clock::parse_rfc3339(&last(&rig, &used).expect("it was used")).unwrap();
    assert!(
        hour.is_multiple_of(3600) && (before - before % 3600..=relay::clock::unix_seconds()).contains(&hour)
    );
    assert_eq!(last(&rig, &unused), None);
    let listed = rig.admin("GET", "/v1/secrets?customer=acme", None).json();
    let count = listed["secrets"].as_array().unwrap().iter().filter(|s| !s["last_used_at"].is_null()).count();
    assert_eq!(count, 1);
}

#[test]
fn a_second_start_is_told_of_the_job_under_way() {
    let rig = Rig::plain();
    for number in 0..200 {
        rig.secret(&format!("customer-{number}"));
    }
    let first = rig.admin("POST", "/v1/keys/rotate", Some(r#"{"data":true}"#));
    let second = rig.admin("POST", "/v1/keys/rotate", Some(r#"{"new_version":true}"#));
    assert_eq!((first.status, second.status), (202, 200), "{}", second.text());
    assert_eq!(second.json()["job"]["id"], first.json()["job"]["id"]);
    assert_eq!(second.json()["begun"], false);
    assert_eq!(key_lines(rig.folder.path()).len(), 1, "no new version was made for nothing");
    for body in [r#"{"dat":true}"#, "[1]", ""] {
        assert_eq!(rig.admin("POST", "/v1/keys/rotate", Some(body)).code(), "request_malformed");
    }
}

#[test]
fn a_forgotten_customers_requests_find_nothing_and_the_audit_says_who_was_forgotten() {
    let rig = Rig::plain();
    // A name that a path has to escape.
    let odd = "a/b c%d\u{e9}?";
    let (id, kept) = (rig.secret(odd), rig.secret("globex"));
    let (token, theirs) = (rig.token(odd), rig.token("globex"));
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &token).status, 200);
    let path = "/v1/customers/a%2Fb%20c%25d%C3%A9%3F";
    let gone = rig.admin("DELETE", path, None);
    assert_eq!(gone.status, 200, "{}", gone.text());
    assert_eq!(gone.json(), json!({ "customer": odd, "secrets": 1, "data_keys": 1 }));
    for _ in 0..200 {
        if rig.get(&format!("/vendor/{id}/x"), &token).status == 404 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    refused(&rig.get(&format!("/vendor/{id}/x"), &token), Code::SecretNotFound);
    assert_eq!(rig.get(&format!("/vendor/{kept}/x"), &theirs).status, 200);
    assert_eq!(rig.admin("DELETE", path, None).status, 404);
    let records = rig.audit();
    let forgets: Vec<&Value> = records.iter().filter(|r| r["method"] == "customer.forget").collect();
    let notes: Vec<_> =
        forgets.iter().map(|r| (r["kind"].as_str().unwrap(), r["note"].as_str().unwrap())).collect();
    let wanted = [
        ("admin", "asked"),
        ("admin", "done: 1 secrets, 1 data keys"),
        ("admin", "asked"),
        ("admin", "not done"),
    ];
    assert_eq!(notes, wanted);
    assert_eq!(forgets[1]["customer"], odd);
}

#[test]
fn a_secret_whose_vendor_moved_is_used_again_once_it_is_rebound() {
    let mut rig = Rig::plain();
    rig.stop();
    // Sealed by a relay for which the vendor was elsewhere.
    let new = format!("https://localhost:{}", rig.vendor.port);
    let old = format!("https://127.0.0.1:{}", rig.vendor.port);
    let toml = rig.toml();
    assert!(toml.contains(&new));
    let config =
        config::parse(&toml.replace(&new, &old), "relay.toml", rig.folder.path(), &[], Files::Required);
    let runtime = Runtime::new().unwrap();
    let config = config.map_err(|report| report.render(false)).unwrap();
    let running = runtime.block_on(start_with(config, Options::default(), runtime.handle().clone())).unwrap();
    let body =
        json!({ "customer": "acme", "integration": "vendor", "fields": { "token": rig.canary.text() } });
    let mut client = Client::connect(running.admin, rig.shown.clone());
    let bearer = format!("Bearer {}", crate::rig::ADMIN_TOKEN);
    let added =
        client.request("POST", "/v1/secrets", &[("authorization", &bearer)], body.to_string().as_bytes());
    let id = added.json()["id"].as_str().unwrap().to_owned();
    runtime.block_on(running.stop());
    runtime.shutdown_timeout(Duration::from_secs(2));

    rig.start();
    let (path, token) = (format!("/vendor/{id}/x"), rig.token("acme"));
    assert_ne!(rig.get(&path, &token).status, 200, "sealed for the old origin");
    let other =
        rig.admin("POST", "/v1/integrations/other/rebind", Some(&json!({ "from": [old] }).to_string()));
    assert_eq!(other.status, 404, "{}", other.text());
    for (from, mistake) in [
        (json!([]), "nothing"),
        (json!([new]), "today's"),
        (json!([old, "https://third.example"]), "two origins"),
        (json!(["https://Upper.example"]), "no origin"),
    ] {
        let body = json!({ "from": from }).to_string();
        let refused = rig.admin("POST", "/v1/integrations/vendor/rebind", Some(&body));
        assert_eq!(refused.code(), "request_malformed", "{mistake}: {}", refused.text());
    }
    let ended = job(&rig, "/v1/integrations/vendor/rebind", &json!({ "from": [old] }));
    assert_eq!((&ended["moved"], &ended["left"]), (&json!(1), &json!(0)));
    // The change feed is followed beside the requests.
    let served = (0..200).any(|_| rig.get(&path, &token).status == 200);
    assert!(served && rig.vendor.last().head.contains(rig.canary.text()));
    let records = rig.audit();
    let told = records.iter().filter(|r| r["method"] == "integration.rebind" && r["kind"] == "admin");
    let notes: Vec<&str> = told.filter_map(|r| r["note"].as_str()).collect();
    let wanted = ["begun", "sealed anew", "ended: moved 1, left 0, customers 1"];
    assert!(wanted.iter().all(|note| notes.contains(note)), "{notes:?}");
}

fn copy(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place)
        } else {
            drop(std::fs::copy(entry.path(), place))
        }
    }
}

#[test]
fn a_store_older_than_its_own_audit_is_refused_until_that_is_accepted() {
    let mut rig = Rig::plain();
    let id = rig.secret("acme");
    let (path, token) = (format!("/vendor/{id}/x"), rig.token("acme"));
    rig.stop();
    let (store, backup) = (rig.folder.path().join("relay.db"), rig.folder.path().join("backup.db"));
    copy(&store, &backup);
    // Without any write since, a copy is not older.
    for _ in 0..2 {
        rig.start();
        rig.stop();
    }
    rig.start();
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/disable"), None).status, 200);
    rig.stop();

    std::fs::rename(&store, rig.folder.path().join("newer.db")).unwrap();
    copy(&backup, &store);
    let runtime = Runtime::new().unwrap();
    let try_start = |accept_older_store| {
        let options = Options { accept_older_store, ..Options::default() };
        runtime.block_on(start_with(rig.config(), options, runtime.handle().clone()))
    };
    for attempt in 0..2 {
        let told = try_start(false).map(|_| ()).expect_err("it starts").to_string();
        assert!(
            told.contains("older copy") && told.contains("--accept-older-store"),
            "try {attempt}: {told}"
        );
    }
    let running = try_start(true).unwrap();
    runtime.block_on(running.stop());
    // The store is closed with the runtime's last task.
    runtime.shutdown_timeout(Duration::from_secs(2));
    // Accepted once, it is the store.
    rig.start();
    assert_eq!(rig.get(&path, &token).status, 200, "the older copy serves what was disabled since");
    let noted = |record: &Value| record["note"].as_str().unwrap_or_default().contains("--accept-older-store");
    assert_eq!(
        rig.audit().iter().filter(|record| noted(record)).count(),
        1,
        "that it was accepted is recorded"
    );

    // Without the audit that the store knows, nobody could tell.
    rig.stop();
    std::fs::remove_file(rig.audit_path()).unwrap();
    let runtime = Runtime::new().unwrap();
    let options = Options::default();
    let told = runtime.block_on(start_with(rig.config(), options, runtime.handle().clone())).map(|_| ());
    let told = told.expect_err("it starts without its audit").to_string();
    assert!(told.contains("--accept-older-store") && told.contains("none of it"), "{told}");
    let options = Options { accept_older_store: true, ..Options::default() };
    let running = runtime.block_on(start_with(rig.config(), options, runtime.handle().clone())).unwrap();
    runtime.block_on(running.stop());
    runtime.shutdown_timeout(Duration::from_secs(2));
    rig.start();
    assert!(rig.audit().iter().any(noted), "that it was accepted is recorded");
}

#[test]
fn a_relay_that_was_killed_is_not_taken_for_an_older_copy() {
    // What the store holds is at least what the newest anchor says, at any moment: an anchor is forced right
    // behind writes, and the store is copied as a crash would leave it.
    let mut rig = Rig::plain();
    for round in 0..3 {
        rig.secret("acme");
        rig.runtime().block_on(rig.running().log().anchor_now()).unwrap();
        let crashed = rig.folder.path().join(format!("crashed-{round}.db"));
        copy(&rig.folder.path().join("relay.db"), &crashed);
        let audit = std::fs::read(rig.audit_path()).unwrap();
        let aside = rig.folder.path().join(format!("crashed-{round}.jsonl"));
        std::fs::write(&aside, audit).unwrap();
        let toml = rig.toml().replace("relay.db", &format!("crashed-{round}.db"));
        let toml = toml.replace("audit.jsonl", &format!("crashed-{round}.jsonl"));
        let config = config::parse(&toml, "relay.toml", rig.folder.path(), &[], Files::Required);
        let runtime = Runtime::new().unwrap();
        let started = runtime.block_on(start_with(
            config.map_err(|report| report.render(false)).unwrap(),
            Options::default(),
            runtime.handle().clone(),
        ));
        let running = started.unwrap_or_else(|error| panic!("round {round}: {error}"));
        runtime.block_on(running.stop());
    }
    rig.stop();
    rig.start();
}
