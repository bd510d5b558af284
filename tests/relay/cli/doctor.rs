//! `relay doctor` beside a stopped and a running relay, and with one thing wrong at a time.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::{Home, err, out};
use crate::rig::ADMIN_TOKEN;
use crate::rig::issuer::{Issuer, Says};

/// What doctor says, as its exit code and its checks.
fn asked(home: &Home) -> (Option<i32>, Value) {
    let output = home.relay(&["doctor", "--format", "json"], None);
    let answer: Value = serde_json::from_str(&out(&output)).unwrap_or_else(|_| panic!("{}", err(&output)));
    assert_eq!(answer["good"], output.status.success());
    (output.status.code(), answer)
}

/// The verdicts of `check`, each with what was found.
fn of(answer: &Value, check: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = answer["checks"].as_array().unwrap().iter().filter(|one| one["check"] == check);
    all.map(|one| (text(&one["verdict"]), text(&one["found"]))).collect()
}

/// Asserts that exactly `check` fails, with these words, and that it is said what to do.
fn fails(home: &Home, check: &str, words: &str) {
    let (code, answer) = asked(home);
    assert_eq!(code, Some(1), "{answer:#}");
    let failed: Vec<&Value> =
        answer["checks"].as_array().unwrap().iter().filter(|one| one["verdict"] == "fail").collect();
    assert_eq!(failed.len(), 1, "{words}: {answer:#}");
    assert_eq!(failed[0]["check"], check, "{answer:#}");
    assert!(failed[0]["found"].as_str().unwrap().contains(words), "{answer:#}");
    assert!(failed[0]["fix"].as_str().is_some_and(|fix| fix.len() > 4), "{answer:#}");
}

fn edit(home: &Home, file: &str, with: impl Fn(&str) -> String) {
    let text = std::fs::read_to_string(home.path(file)).unwrap();
    std::fs::write(home.path(file), with(&text)).unwrap();
}

#[test]
fn a_healthy_relay_is_well_before_its_first_start_running_and_stopped() {
    let mut home = Home::new();
    let (code, answer) = asked(&home);
    assert_eq!((code, &answer["running"]), (Some(0), &Value::Bool(false)), "{answer:#}");
    for check in ["configuration", "relay", "keys", "store", "audit", "disk", "listeners", "issuers", "clock"]
    {
        let found = of(&answer, check);
        assert!(
            !found.is_empty() && found.iter().all(|(verdict, _)| verdict != "fail"),
            "{check}: {found:?}"
        );
    }
    assert!(of(&answer, "store")[0].1.contains("not there yet"));
    assert!(!home.path("relay.db").exists(), "looking made no store");

    home.run();
    let id = home.add("acme");
    let token = home.token("acme");
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
    let (code, answer) = asked(&home);
    assert_eq!((code, &answer["running"]), (Some(0), &Value::Bool(true)), "{answer:#}");
    assert!(of(&answer, "relay")[0].1.contains("is ready"));
    assert!(of(&answer, "listeners").iter().all(|(_, found)| found.ends_with(" answers")));
    assert!(of(&answer, "audit")[0].1.contains("records verified"));
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200, "it was not disturbed");

    assert_eq!(home.terminate(), Some(0));
    let before = std::fs::read(home.path("audit.jsonl")).unwrap();
    let (code, answer) = asked(&home);
    assert_eq!(code, Some(0), "{answer:#}");
    assert!(of(&answer, "store")[0].1.contains("opens and answers"));
    assert!(of(&answer, "keys")[0].1.contains("a data key was made and opened"));
    assert_eq!(std::fs::read(home.path("audit.jsonl")).unwrap(), before, "looking is not recorded");
    let said = home.relay(&["doctor"], None);
    assert!(out(&said).lines().last().unwrap().ends_with(" 0 FAIL"), "{}", out(&said));
    for secret in ["admin.token", "relay.key", "issuer.key"] {
        let secret = std::fs::read_to_string(home.path(secret)).unwrap();
        assert!(!out(&said).contains(secret.trim()) && !answer.to_string().contains(secret.trim()));
    }
}

#[test]
fn one_thing_that_is_wrong_is_found_with_what_to_do() {
    let mut home = Home::new();
    home.run();
    let id = home.add("acme");
    let token = home.token("acme");
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
    assert_eq!(home.terminate(), Some(0));
    let kept = |file: &str| std::fs::read(home.path(file)).unwrap();

    let taken = TcpListener::bind(home.app).unwrap();
    fails(&home, "listeners", "cannot be listened on");
    drop(taken);

    let jwks = kept("jwks.json");
    std::fs::write(home.path("jwks.json"), "{\"keys\":[]}").unwrap();
    fails(&home, "issuers", "no key of the JWKS can verify");
    std::fs::write(home.path("jwks.json"), jwks).unwrap();

    let folder = home.path("relay.db");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    fails(&home, "store", "open to other users");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();

    let audit = kept("audit.jsonl");
    edit(&home, "audit.jsonl", |text| text.replacen("\"customer\":\"acme\"", "\"customer\":\"evil\"", 1));
    fails(&home, "audit", "problems: ");
    edit(&home, "audit.jsonl", |text| text.lines().take(1).map(|line| format!("{line}\n")).collect());
    fails(&home, "audit", "problems: ");
    std::fs::rename(home.path("audit.jsonl"), home.path("elsewhere")).unwrap();
    fails(&home, "audit", "is not there, and the store knows its anchor");
    std::fs::write(home.path("audit.jsonl"), audit).unwrap();

    let key = kept("relay.key");
    std::fs::remove_file(home.path("relay.key")).unwrap();
    relay::kms::local::Local::create(&home.path("relay.key")).map(|_| ()).unwrap();
    fails(&home, "keys", "no configured KMS key wrapped");
    std::fs::write(home.path("relay.key"), "nonsense\n").unwrap();
    let (code, answer) = asked(&home);
    assert_eq!((code, of(&answer, "keys")[0].0.as_str()), (Some(1), "fail"), "{answer:#}");
    std::fs::write(home.path("relay.key"), key).unwrap();
    assert_eq!(asked(&home).0, Some(0), "all is well again");

    edit(&home, "relay.toml", |text| text.replacen("[server]", "[sevrer]", 1));
    fails(&home, "configuration", "is invalid");
}

#[test]
fn a_key_line_that_is_still_in_use_is_missed_running_and_stopped() {
    let mut home = Home::new();
    home.run();
    home.add("acme");
    let whole = std::fs::read_to_string(home.path("relay.key")).unwrap();
    let other = home.path("other.key");
    relay::kms::local::Local::create(&other).map(|_| ()).unwrap();
    let other = std::fs::read_to_string(other).unwrap();

    std::fs::write(home.path("relay.key"), format!("{other}{whole}")).unwrap();
    let (code, answer) = asked(&home);
    assert_eq!(code, Some(0), "{answer:#}");
    assert!(
        of(&answer, "keys").iter().any(|(verdict, found)| verdict == "warn" && found.contains("another key"))
    );

    std::fs::write(home.path("relay.key"), &other).unwrap();
    let (code, answer) = asked(&home);
    assert_eq!(code, Some(1), "{answer:#}");
    let keys = of(&answer, "keys");
    assert!(
        keys.iter().any(|(verdict, found)| verdict == "fail" && found.contains("no longer configured")),
        "{keys:?}"
    );
    assert_eq!(home.terminate(), Some(0));
    fails(&home, "keys", "no configured KMS key wrapped");
    std::fs::write(home.path("relay.key"), whole).unwrap();
    assert_eq!(asked(&home).0, Some(0), "all is well again");
}

#[test]
fn a_store_that_relay_would_not_start_with_is_an_older_copy() {
    let mut home = Home::new();
    home.run();
    home.add("acme");
    assert_eq!(home.terminate(), Some(0));
    let (store, older) = (home.path("relay.db"), home.path("older.db"));
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    copied(&store, &older);
    home.run();
    home.add("acme");
    assert_eq!(home.terminate(), Some(0));
    std::fs::rename(&store, home.path("newer.db")).unwrap();
    copied(&older, &store);
    let (code, answer) = asked(&home);
    assert_eq!(code, Some(1), "{answer:#}");
    let found = of(&answer, "store");
    assert!(
        found.iter().any(|(verdict, found)| verdict == "fail" && found.contains("an older copy")),
        "{found:?}"
    );
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(home.path("newer.db"), &store).unwrap();
    assert_eq!(asked(&home).0, Some(0), "the newer one is well");
}

#[test]
fn of_a_large_audit_the_end_is_verified() {
    let mut home = Home::new();
    home.run();
    home.add("acme");
    assert_eq!(home.terminate(), Some(0));
    let audit = std::fs::read_to_string(home.path("audit.jsonl")).unwrap();
    // What stands before the last 4 MiB is not looked at here: `relay audit verify` does that.
    let before = "{\"v\":1}\n".repeat(8 << 20);
    let with = |end: &str| std::fs::write(home.path("audit.jsonl"), format!("{before}{end}")).unwrap();
    with(&audit);
    let (code, answer) = asked(&home);
    assert_eq!(code, Some(0), "{answer:#}");
    assert!(of(&answer, "audit")[0].1.contains("too large to be verified whole here"), "{answer:#}");
    let anchors: Vec<usize> = audit.match_indices("\"kind\":\"anchor\"").map(|(at, _)| at).collect();
    let cut = audit[..*anchors.last().unwrap()].rfind('\n').unwrap() + 1;
    with(&audit[..cut]);
    fails(&home, "audit", if anchors.len() > 1 { "it was cut" } else { "no anchor in its last 4 MiB" });
    let last = &audit[cut..];
    let forged = last.replacen("\"time\":\"2", "\"time\":\"3", 1);
    assert_ne!(forged, last);
    with(&format!("{}{forged}", &audit[..cut]));
    fails(&home, "audit", "not signed with the store's key");
}

#[test]
fn the_issuer_is_asked_and_its_clock_compared() {
    let home = Home::new();
    let issuer = Issuer::new("remote");
    edit(&home, "relay.toml", |text| {
        let at =
            format!("jwks = \"{}\"\nca_file = \"{}\"", issuer.url("/jwks"), issuer.path("ca.pem").display());
        let line = text.lines().find(|line| line.starts_with("jwks")).unwrap();
        text.replacen(line, &at, 1)
    });
    let date = |seconds_ago: u64| {
        let at = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds_ago);
        let text = httpdate(at);
        Says::Text(issuer.keys.jwks.clone(), vec![("date", Box::leak(text.into_boxed_str()))])
    };
    issuer.says(date(0));
    let (code, answer) = asked(&home);
    assert_eq!(code, Some(0), "{answer:#}");
    assert!(of(&answer, "issuers")[0].1.contains("keys that fit: 1 (remote)"), "{answer:#}");
    assert!(of(&answer, "clock")[0].1.contains("s from that of"), "{answer:#}");
    issuer.says(date(3600));
    fails(&home, "clock", "more than leeway forgives");
    issuer.says(Says::Status(404));
    fails(&home, "issuers", "answered 404");
    assert!(!format!("{:?}", asked(&home)).contains(ADMIN_TOKEN));
}

/// By `date`, so that it is not relay's own reader that wrote it.
fn httpdate(at: std::time::SystemTime) -> String {
    let seconds = at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let date = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}"), "+%a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}
