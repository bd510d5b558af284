//! The audit on standard output, of a process of its own.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use super::{Home, err};

struct Printed {
    /// The secret that was used.
    id: String,
    /// The key that the audit is verified by.
    key: String,
    /// What stood on standard output in the end.
    text: String,
}

/// Runs it with these lines of `[audit]` in the place of its path, and uses a secret once.
fn printed(home: &mut Home, audit: &str) -> Printed {
    let good = std::fs::read_to_string(home.path("relay.toml")).unwrap();
    let line = good.lines().find(|line| line.contains("\"audit.jsonl\"")).unwrap().to_owned();
    std::fs::write(home.path("relay.toml"), good.replace(&line, audit)).unwrap();
    let mut command = home.command(&["run"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    home.running = Some(command.spawn().unwrap());
    let mut stdout = home.running.as_mut().unwrap().stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    for _ in 0..400 {
        if home.relay(&["health"], None).status.success() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let id = home.add("acme");
    let (token, key) = (home.token("acme"), home.ok(&["audit", "key"], None).trim_end().to_owned());
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
    assert_eq!(home.terminate(), Some(0));
    let text = reader.join().unwrap();
    home.shown.lock().unwrap().extend_from_slice(text.as_bytes());
    Printed { id, key, text }
}

fn of_kind(text: &str, kind: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == kind).collect()
}

#[test]
fn standard_output_has_the_same_lines_as_the_file_and_nothing_else() {
    let mut home = Home::new();
    let Printed { id, text, .. } = printed(&mut home, "path = \"audit.jsonl\"\nstdout = true");
    assert_eq!(text, std::fs::read_to_string(home.path("audit.jsonl")).unwrap());
    for kind in ["intent", "outcome"] {
        let records = of_kind(&text, kind);
        assert!(records.len() == 1 && records[0]["secret"] == id.as_str(), "{kind}: {text}");
    }
}

#[test]
fn standard_output_alone_is_an_audit_that_verifies() {
    let mut home = Home::new();
    let Printed { key, text, .. } = printed(&mut home, "stdout = true");
    assert!(!home.path("audit.jsonl").exists());
    assert_eq!(of_kind(&text, "intent").len(), 1, "{text}");
    std::fs::write(home.path("piped.jsonl"), &text).unwrap();
    let verify = ["audit", "verify", "piped.jsonl", "--key", &key];
    let verified = home.relay(&verify, None);
    assert_eq!(verified.status.code(), Some(0), "{}", err(&verified));
    let cut = text.replacen("\"intent\"", "\"outcome\"", 1);
    std::fs::write(home.path("piped.jsonl"), cut).unwrap();
    assert_eq!(home.relay(&verify, None).status.code(), Some(1));
}
