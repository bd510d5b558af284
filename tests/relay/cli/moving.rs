//! `relay store export` and `import`: beside a running relay, of a stopped one, onto another machine, and with
//! whatever can go wrong.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use super::{Home, err, out};

/// A secret with two versions, one that is disabled and one of another customer.
struct Kept {
    used: String,
    disabled: String,
}

fn stock(home: &Home) -> Kept {
    let (used, disabled) = (home.add("acme"), home.add("acme"));
    home.ok(&["secret", "rotate", &used], Some(home.canary.text().to_uppercase().as_bytes()));
    home.ok(&["secret", "disable", &disabled], None);
    home.add("globex");
    Kept { used, disabled }
}

fn fingerprints(home: &Home) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for customer in ["acme", "globex"] {
        let listed = home.ok(&["--format", "json", "secret", "list", "--customer", customer], None);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        for secret in listed.as_array().unwrap() {
            let text = |name: &str| secret[name].as_str().unwrap().to_owned();
            found.insert(text("id"), text("fingerprint"));
        }
    }
    found
}

/// A home on another machine: the files that a backup goes with, and no store.
fn elsewhere(home: &Home, with_audit: bool) -> Home {
    let other = Home::new();
    for file in ["relay.key", "jwks.json", "issuer.key", "audit.jsonl"] {
        if file != "audit.jsonl" || with_audit {
            std::fs::copy(home.path(file), other.path(file)).unwrap();
        }
    }
    // Secrets are sealed for where the vendor is.
    std::fs::copy(home.path("ca.pem"), other.path("ca.pem")).unwrap();
    let text = std::fs::read_to_string(other.path("relay.toml")).unwrap();
    let port = |home: &Home| format!("https://localhost:{}/", home.vendor.port);
    std::fs::write(other.path("relay.toml"), text.replace(&port(&other), &port(home))).unwrap();
    assert!(!other.path("relay.db").exists());
    other
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn notes(home: &Home, word: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(home.path("audit.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    records
        .filter(|record| record.to_string().contains(word))
        .map(|record| (text(&record, "kind"), text(&record, "note")))
        .collect()
}

#[test]
fn store_info_tells_the_same_of_a_running_relay_and_of_its_store_alone() {
    let mut home = Home::new();
    home.run();
    stock(&home);
    let counted = |home: &Home| -> Value {
        let told: Value = serde_json::from_str(&home.ok(&["store", "info", "--json"], None)).unwrap();
        assert_eq!((told["engine"].as_str(), told["format"].as_u64()), (Some("sled"), Some(1)), "{told}");
        assert_eq!((told["customers"].as_u64(), told["data_keys"].as_u64()), (Some(2), Some(2)), "{told}");
        assert_eq!((told["secrets"].as_u64(), told["writable"].as_bool()), (Some(3), Some(true)), "{told}");
        assert!(told["bytes"].as_u64().unwrap() > 64 * 1024, "{told}");
        told["replicas"].clone()
    };
    let running = counted(&home);
    assert_eq!(running.as_array().unwrap().len(), 1, "{running}");
    let text = home.ok(&["store", "info"], None);
    assert!(text.starts_with("engine     sled, format 1\n") && text.contains("\nsecrets    3\n"), "{text}");
    assert!(!text.contains("acme"), "a customer is named: {text}");
    assert_eq!(home.terminate(), Some(0));
    assert_eq!(counted(&home), running);
    std::fs::remove_dir_all(home.path("relay.db")).unwrap();
    let gone = home.relay(&["store", "info"], None);
    assert_eq!(gone.status.code(), Some(5), "{}", err(&gone));
    assert!(err(&gone).contains("there is no store at"), "{}", err(&gone));
    assert!(!home.path("relay.db").exists(), "it is not made");
}

#[test]
fn a_backup_of_a_running_relay_serves_on_another_machine() {
    let mut home = Home::new();
    home.run();
    let kept = stock(&home);
    let before = fingerprints(&home);
    let said = home.ok(&["store", "export", "--output", "backup.export"], None);
    assert!(said.starts_with("exported: customers 2, data keys 2, secrets 3, past versions 1; "), "{said}");
    let backup = home.path("backup.export");
    assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!home.path("backup.export.part").exists());
    let again = home.relay(&["store", "export", "--output", "backup.export"], None);
    assert_eq!(again.status.code(), Some(1));
    assert!(err(&again).contains("is not replaced"), "{}", err(&again));
    assert_eq!(home.get(&format!("/github/{}/x", kept.used), &home.token("acme")).status, 200);
    let asked = [("admin".to_owned(), "asked".to_owned())];
    let done = notes(&home, "store.export");
    assert_eq!(done[..1], asked);
    assert!(done[1].1.starts_with("done: customers 2, data keys 2, secrets 3"), "{done:?}");
    assert_eq!(done.len(), 2, "the export that was refused asked nobody: {done:?}");
    home.terminate();

    let mut other = elsewhere(&home, false);
    let said = other.ok(&["store", "import", shown(&backup)], None);
    assert!(
        said.starts_with(
            "imported: customers 2, data keys 2, secrets 3, past versions 1; the same as in export"
        ),
        "{said}"
    );
    let refused = other.relay(&["run"], None);
    assert_eq!(refused.status.code(), Some(1), "without its audit nobody can tell how old it is");
    assert!(err(&refused).contains("--accept-older-store"), "{}", err(&refused));
    let text = std::fs::read_to_string(other.path("relay.toml")).unwrap();
    assert!(text.contains("\n[audit]\n"));
    let renamed = text.replace("\n[audit]\n", "\n[audit]\nreplica = \"newcomer\"\n");
    std::fs::write(other.path("relay.toml"), renamed).unwrap();
    let refused = other.relay(&["run"], None);
    assert_eq!(refused.status.code(), Some(1), "nor can one by a name that the store does not know");
    let said = err(&refused);
    assert!(said.contains("came of an export") && said.contains("--accept-older-store"), "{said}");
    std::fs::write(other.path("relay.toml"), text).unwrap();
    accept(&mut other);
    other.run();
    assert_eq!(fingerprints(&other), before);
    let token = other.token("acme");
    assert_eq!(other.get(&format!("/github/{}/x", kept.used), &token).status, 200);
    assert_eq!(
        home.vendor.last().all("authorization"),
        [format!("Bearer {}", home.canary.text().to_uppercase())]
    );
    assert_eq!(other.get(&format!("/github/{}/x", kept.disabled), &token).code(), "secret_disabled");
    assert_eq!(
        other.get(&format!("/github/{}/x", kept.used), &other.token("globex")).code(),
        "secret_not_found"
    );
    other.ok(&["secret", "rollback", &kept.used, "--to", "1"], None);
    assert_eq!(other.get(&format!("/github/{}/x", kept.used), &token).status, 200);
    let told = notes(&other, "store.import");
    assert_eq!(told.len(), 1, "once, whatever restarts: {told:?}");
    assert!(told[0].0 == "system" && told[0].1.contains("customers 2, secrets 3"), "{told:?}");
    let verified = out(&other.relay(&["audit", "verify"], None));
    assert!(
        verified.contains("chain anchor is missing"),
        "the audit that was left behind is missed: {verified}"
    );
}

/// Starts once with `--accept-older-store`, and ends it.
fn accept(home: &mut Home) {
    home.run_as(&["run", "--accept-older-store"]);
    home.ok(&["health"], None);
    assert_eq!(home.terminate(), Some(0));
}

#[test]
fn a_stopped_relay_moves_with_its_audit_and_is_not_taken_for_an_older_copy() {
    let mut home = Home::new();
    home.run();
    let kept = stock(&home);
    let before = fingerprints(&home);
    home.terminate();
    // By a pipe, from one to the other.
    let exported = home.relay(&["store", "export"], None);
    assert!(exported.status.success(), "{}", err(&exported));
    assert!(err(&exported).contains("exported: customers 2"), "{}", err(&exported));
    let mut other = elsewhere(&home, true);
    let imported = other.relay(&["--format", "json", "store", "import", "-"], Some(&exported.stdout));
    assert!(imported.status.success(), "{}", err(&imported));
    let told: Value = serde_json::from_slice(&imported.stdout).unwrap();
    assert_eq!((&told["customers"], &told["secrets"]), (&2.into(), &3.into()), "{told}");
    other.run();
    assert_eq!(fingerprints(&other), before);
    assert_eq!(other.get(&format!("/github/{}/x", kept.used), &other.token("acme")).status, 200);
    assert!(other.ok(&["audit", "verify"], None).contains("good: "), "one audit, before and behind the move");
    other.terminate();
    let doctor = other.relay(&["doctor"], None);
    assert!(doctor.status.success(), "{}", out(&doctor));
}

#[test]
fn restoring_an_older_export_beside_a_newer_audit_is_noticed() {
    let mut home = Home::new();
    home.run();
    let kept = stock(&home);
    home.ok(&["store", "export", "--output", "monday.export"], None);
    home.ok(&["secret", "disable", &kept.used], None);
    home.terminate();
    std::fs::rename(home.path("relay.db"), home.path("newer.db")).unwrap();
    home.ok(&["store", "import", "monday.export"], None);
    for _ in 0..2 {
        let refused = home.relay(&["run"], None);
        assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
        let said = err(&refused);
        assert!(said.contains("older copy") && said.contains("--accept-older-store"), "{said}");
    }
    let doctor = home.relay(&["doctor"], None);
    assert!(out(&doctor).contains("older copy"), "{}", out(&doctor));
    accept(&mut home);
    home.run();
    let token = home.token("acme");
    assert_eq!(home.get(&format!("/github/{}/x", kept.used), &token).status, 200, "as it was on monday");
    assert_eq!(notes(&home, "--accept-older-store").len(), 1);
}

#[test]
fn what_is_no_whole_export_leaves_the_store_as_it_was() {
    let mut home = Home::new();
    home.run();
    stock(&home);
    home.ok(&["store", "export", "--output", "whole.export"], None);
    home.terminate();
    std::fs::rename(home.path("relay.db"), home.path("before.db")).unwrap();
    let whole = std::fs::read(home.path("whole.export")).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let mut newer = whole.clone();
    newer[18] = 9;
    for (bytes, words) in [
        (&whole[..whole.len() - 40], "cut off"),
        (&flipped[..], "damaged in block"),
        (&newer[..], "format 9"),
        (b"[server]\n", "no export of a relay store"),
        (b"", "cut off"),
    ] {
        std::fs::write(home.path("broken.export"), bytes).unwrap();
        let refused = home.relay(&["store", "import", "broken.export"], None);
        assert_eq!(refused.status.code(), Some(1), "{words}: {}", err(&refused));
        assert!(err(&refused).contains(words), "{words}: {}", err(&refused));
        assert!(!home.path("relay.db").exists(), "{words}: the store was touched");
    }
    let nothing = home.relay(&["store", "export", "--output", "nothing.export"], None);
    assert_eq!(nothing.status.code(), Some(5), "an export makes no store: {}", err(&nothing));
    assert!(!home.path("relay.db").exists() && !home.path("nothing.export").exists());
    home.ok(&["store", "import", "whole.export"], None);
    let twice = home.relay(&["store", "import", "whole.export"], None);
    assert!(err(&twice).contains("came of an import"), "{}", err(&twice));
}

#[test]
fn half_an_import_is_not_served_and_goes_on() {
    let mut home = Home::new();
    home.run();
    let kept = stock(&home);
    // The first block of records holds the store's own keys, so that a customer is in the second.
    home.ok(&["store", "export", "--output", "whole.export"], None);
    home.terminate();
    std::fs::rename(home.path("relay.db"), home.path("before.db")).unwrap();
    let whole = std::fs::read(home.path("whole.export")).unwrap();
    let cut = home.relay(&["store", "import", "-"], Some(&whole[..whole.len() - 40]));
    assert_eq!(cut.status.code(), Some(1), "{}", err(&cut));
    assert!(err(&cut).contains("cut off"), "{}", err(&cut));
    let refused = home.relay(&["run"], None);
    assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
    assert!(err(&refused).contains("relay store import"), "{}", err(&refused));
    let doctor = home.relay(&["doctor"], None);
    assert!(!doctor.status.success() && out(&doctor).contains("--resume"), "{}", out(&doctor));
    let again = home.relay(&["store", "import", "whole.export"], None);
    assert!(err(&again).contains("--resume"), "{}", err(&again));
    let resumed = home.relay(&["store", "import", "--resume", "whole.export"], None);
    assert!(resumed.status.success(), "{}", err(&resumed));
    assert!(err(&resumed).contains("goes on behind block"), "{}", err(&resumed));
    accept(&mut home);
    home.run();
    assert_eq!(home.get(&format!("/github/{}/x", kept.used), &home.token("acme")).status, 200);
}

#[test]
fn an_export_that_the_configured_keys_do_not_open_is_refused() {
    let mut home = Home::new();
    home.run();
    stock(&home);
    home.ok(&["store", "export", "--output", "whole.export"], None);
    home.terminate();
    let other = Home::new();
    let whole = home.path("whole.export");
    for resume in [&[][..], &["--resume"]] {
        let words = [&["store", "import", shown(&whole)], resume].concat();
        let refused = other.relay(&words, None);
        assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
        assert!(
            err(&refused).contains("do not open what the export holds in block 2: "),
            "{}",
            err(&refused)
        );
        assert!(err(&refused).contains("the store-wide key "), "{}", err(&refused));
        assert!(!other.path("relay.db").exists(), "the store was touched");
    }
    let bytes = std::fs::read(&whole).unwrap();
    let piped = other.relay(&["store", "import", "-"], Some(&bytes));
    assert!(err(&piped).contains("do not open what the export holds"), "{}", err(&piped));
    std::fs::remove_dir_all(other.path("relay.db")).unwrap();
    let forced = other.relay(&["store", "import", "--without-key-check-danger", shown(&whole)], None);
    assert!(forced.status.success(), "{}", err(&forced));
}

#[test]
fn a_store_in_use_takes_no_import_and_a_torn_export_no_name() {
    let mut home = Home::new();
    home.run();
    stock(&home);
    home.ok(&["store", "export", "--output", "whole.export"], None);
    let used = home.relay(&["store", "import", "whole.export"], None);
    assert_eq!(used.status.code(), Some(1), "{}", err(&used));
    assert!(err(&used).contains("in use by another process"), "{}", err(&used));
    // A part that a killed export left behind stands in nobody's way.
    std::fs::write(home.path("next.export.part"), "left behind").unwrap();
    home.ok(&["store", "export", "--output", "next.export"], None);
    assert!(!home.path("next.export.part").exists());
    let missing = home.relay(&["store", "export", "--output", "no/such/folder.export"], None);
    assert_eq!(missing.status.code(), Some(1), "{}", err(&missing));
    std::fs::write(home.path("admin.token"), "another-token-0123456789abcdef0123456789").unwrap();
    let denied = home.relay(&["store", "export", "--output", "denied.export"], None);
    assert_eq!(denied.status.code(), Some(5), "{}", err(&denied));
    assert!(!home.path("denied.export").exists() && !home.path("denied.export.part").exists());
}

/// Puts these lines into `[store]`, in the place of what stands there.
#[cfg(feature = "postgres")]
fn keep_by(home: &Home, lines: &str) {
    let text = std::fs::read_to_string(home.path("relay.toml")).unwrap();
    let (before, store) = text.split_once("[store]\n").unwrap();
    let (_, after) = store.split_once("\n[").unwrap();
    std::fs::write(home.path("relay.toml"), format!("{before}[store]\n{lines}\n[{after}")).unwrap();
}

#[cfg(feature = "postgres")]
#[test]
fn a_store_moves_to_postgresql_and_back_and_its_audit_goes_on() {
    let Some(server) = crate::rig::postgres::shared() else { return };
    let database = server.database();
    let mut home = Home::new();
    home.run();
    let kept = stock(&home);
    let (before, token) = (fingerprints(&home), home.token("acme"));
    home.terminate();
    home.ok(&["store", "export", "--output", "first.export"], None);
    std::fs::write(home.path("store.url"), database.url()).unwrap();
    let rows = "engine = \"postgres\"\nurl = \"file:store.url\"\n";
    for (number, lines) in [rows, "engine = \"sled\"\npath = \"back.db\"\n"].into_iter().enumerate() {
        let from = ["first.export", "second.export"][number];
        keep_by(&home, lines);
        let said = home.ok(&["store", "import", from], None);
        assert!(
            said.starts_with("imported: customers 2, data keys 2, secrets 3, past versions 1;"),
            "{said}"
        );
        home.run();
        assert_eq!(fingerprints(&home), before, "{lines}");
        assert_eq!(home.get(&format!("/github/{}/x", kept.used), &token).status, 200, "{lines}");
        assert_eq!(home.get(&format!("/github/{}/x", kept.disabled), &token).code(), "secret_disabled");
        home.ok(&["store", "export", "--output", &format!("beside-{number}.export")], None);
        assert!(home.ok(&["audit", "verify"], None).contains("good: "), "{lines}");
        home.ok(&["health"], None);
        home.terminate();
        home.ok(
            &["store", "export", "--output", "second.export"]
                .map(|word| if word == "second.export" && number == 1 { "third.export" } else { word }),
            None,
        );
    }
    assert_eq!(notes(&home, "store.import").len(), 2);
}
