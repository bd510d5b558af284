//! `relay key`, `customer`, `integration`, and the versions of `relay secret`.

use serde_json::Value;

use super::{Home, err, out};

#[test]
fn keys_are_rotated_and_told_from_the_command_line() {
    let mut home = Home::new();
    home.run();
    let (id, _) = (home.add("acme"), home.add("globex"));
    let token = home.token("acme");
    let status = home.ok(&["key", "status"], None);
    assert!(status.contains("wraps now  data keys 2 (") && status.contains("store keys 2"), "{status}");
    let said = home.ok(&["key", "rotate", "--new-version"], None);
    assert!(
        said.starts_with("rewrap ended ") && said.contains("customers 2 of 2, moved 2, left 0"),
        "{said}"
    );
    let said = home.ok(&["key", "rotate", "--data"], None);
    assert!(said.starts_with("data ended ") && said.contains("customers 2 of 2, moved 2, left 0"), "{said}");
    let status = home.ok(&["key", "status"], None);
    assert_eq!(status.lines().count(), 2, "one KMS key and the job: {status}");
    assert!(status.contains("data ended "), "{status}");
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
    let json = home.ok(&["--format", "json", "key", "status"], None);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["keys"][0]["data_keys"], 2);
    let json = home.ok(&["--format", "json", "key", "rotate"], None);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["kind"], "rewrap", "{json}");
    let both = home.relay(&["key", "rotate", "--data", "--new-version"], None);
    assert_eq!(both.status.code(), Some(2), "{}", err(&both));
}

#[test]
fn a_customer_is_forgotten_only_when_that_is_confirmed() {
    let mut home = Home::new();
    home.run();
    home.add("acme");
    let unasked = home.relay(&["customer", "forget", "acme"], Some(b"acme\n"));
    assert_eq!(unasked.status.code(), Some(2), "{}", err(&unasked));
    assert!(err(&unasked).contains("--yes"), "{}", err(&unasked));
    assert_eq!(home.ok(&["secret", "list", "--customer", "acme"], None).lines().count(), 1);
    let said = home.ok(&["customer", "forget", "acme", "--yes"], None);
    assert_eq!(said, "forgotten: 1 secrets, 1 data keys\n");
    let nobody = home.relay(&["customer", "forget", "acme", "--yes"], None);
    assert_eq!(nobody.status.code(), Some(5), "{}{}", out(&nobody), err(&nobody));
    home.add("acme");
    let json = home.ok(&["--format", "json", "customer", "forget", "acme", "--yes"], None);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["secrets"], 1, "{json}");
}

#[test]
fn a_secrets_versions_are_listed_and_put_back_and_its_end_is_changed() {
    let mut home = Home::new();
    home.run();
    let id = home.add("acme");
    home.ok(&["secret", "rotate", &id], Some(b"another-value-of-it"));
    let listed = home.ok(&["secret", "versions", &id], None);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].starts_with("v1 ") && lines[0].contains(" until 20"), "{listed}");
    assert!(lines[1].starts_with("v2 ") && lines[1].ends_with("current"), "{listed}");
    let back = home.ok(&["secret", "rollback", &id, "--to", "1"], None);
    assert!(back.lines().any(|line| line.split_whitespace().eq(["version", "3"])), "{back}");
    let token = home.token("acme");
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
    assert!(home.vendor.last().head.contains(home.canary.text()), "the first value is sent again");
    let wrong = home.relay(&["secret", "rollback", &id, "--to", "9"], None);
    assert_eq!(wrong.status.code(), Some(1), "{}", err(&wrong));
    assert!(err(&wrong).contains("there is no version 9"), "{}", err(&wrong));
    let ends = home.ok(&["secret", "expire", &id, "2100-01-01T00:00:00Z"], None);
    assert!(ends.contains("2100-01-01T00:00:00Z"), "{ends}");
    assert!(!home.ok(&["secret", "expire", &id, "never"], None).contains("2100-01-01"));
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
    let wrong = home.relay(&["secret", "expire", &id, "tomorrow"], None);
    assert_eq!(wrong.status.code(), Some(1), "{}", err(&wrong));
}

#[test]
fn an_integrations_secrets_are_rebound_from_the_command_line() {
    let mut home = Home::new();
    let file = home.path("relay.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (old, new) = ("https://127.0.0.1:", "https://localhost:");
    std::fs::write(&file, text.replace(new, old)).unwrap();
    home.run();
    let id = home.add("acme");
    let token = home.token("acme");
    home.terminate();
    std::fs::write(&file, text).unwrap();
    home.run();
    assert_ne!(home.get(&format!("/github/{id}/x"), &token).status, 200, "sealed for the old origin");
    let from = format!("{old}{}", home.vendor.port);
    let said = home.ok(&["integration", "rebind", "github", "--from", &from], None);
    assert!(said.starts_with("rebind ended ") && said.contains("moved 1, left 0"), "{said}");
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
    for (args, code) in [
        (["integration", "rebind", "nothing", "--from", &from], 5),
        (["integration", "rebind", "No Name", "--from", &from], 2),
        (["integration", "rebind", "github", "--from", &format!("{new}{}", home.vendor.port)], 1),
    ] {
        let output = home.relay(&args, None);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", err(&output));
    }
}
