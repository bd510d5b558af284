use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Lines of code in one file, without blank lines, comments alone on a line, and inline tests.
const MOST_LINES: usize = 400;

/// Every source file as (path below `src`, text).
fn rooms() -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                walk(&entry.path(), found);
            } else if entry.path().extension().is_some_and(|e| e == "rs") {
                found.push(entry.path());
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&source, &mut found);
    assert!(found.len() > 40, "the walk found the source");
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&source).unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap()
}

/// The first part of a path below `src`: the room.
fn room(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

const STAGES: [&str; 10] = [
    "route",
    "authenticate",
    "authorize",
    "record",
    "gather",
    "connect",
    "unseal",
    "inject",
    "send",
    "scrub",
];

/// What a room may import, as the table of the design says it; `None` is anything.
fn allowed(room: &str) -> Option<Vec<&'static str>> {
    let words = ["model", "secret", "clock", "framing"];
    let tools = [
        "config",
        "envelope",
        "kms",
        "store",
        "jwks",
        "audit",
        "net",
        "metrics",
        "refusal",
        "reply",
        "dependency",
    ];
    let with = |more: &[&'static str]| Some([&words[..], more].concat());
    match room {
        "clock" | "framing" => Some(vec![]),
        "model" => Some(vec!["clock"]),
        // The words may name each other.
        "secret" => Some(vec!["model", "clock"]),
        // `net` is open to the other tools; a configuration names the audit's durability and what a KMS
        // is told and how long its keys are held; a reply is a refusal's; the table of dependencies says
        // refusals' codes. The catalogue is text that the configuration reads like relay.toml.
        "config" => with(&["net", "audit", "kms", "catalog"]),
        "catalog" => Some(vec![]),
        "reply" | "dependency" => with(&["net", "refusal"]),
        "envelope" | "kms" | "store" | "jwks" | "audit" | "metrics" | "refusal" => with(&["net"]),
        "net" => with(&[]),
        "stage" | "seal" => with(&[&tools[..], &["stage"]].concat()),
        "lifecycle" => with(&[&tools[..], &["stage", "seal"]].concat()),
        "pipeline" | "admin" => with(&[&tools[..], &["stage", "seal", "lifecycle"]].concat()),
        "listen" => with(&["pipeline", "admin", "metrics", "reply", "refusal"]),
        _ => None,
    }
}

/// Each `crate::room` that a file names in code.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap();
        for (at, _) in code.match_indices("crate::") {
            let word: String =
                code[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if !word.is_empty() {
                found.push((number + 1, word));
            }
        }
    }
    found
}

fn wrong_imports(path: &str, text: &str) -> Vec<String> {
    let own = room(path);
    let Some(allowed) = allowed(own) else { return Vec::new() };
    imports(without_tests(text))
        .into_iter()
        .filter(|(_, word)| word != own && !allowed.contains(&word.as_str()))
        .map(|(line, word)| format!("src/{path}:{line}: {own} must not import {word}"))
        .collect()
}

#[test]
fn imports_point_one_way() {
    let wrong: Vec<String> = rooms().iter().flat_map(|(path, text)| wrong_imports(path, text)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The check can fail:
    assert!(!wrong_imports("net/pool.rs", "use crate::config::Config;").is_empty());
    assert!(!wrong_imports("admin/secrets.rs", "use crate::pipeline::serve;").is_empty());
}

#[test]
fn a_stage_knows_only_the_stages_before_it() {
    let mut wrong = Vec::new();
    for (path, text) in rooms() {
        let Some(own) = path.strip_prefix("stage/").map(|rest| room(rest).to_owned()) else { continue };
        let Some(at) = STAGES.iter().position(|stage| *stage == own) else { continue };
        for (number, line) in without_tests(&text).lines().enumerate() {
            for later in &STAGES[at + 1..] {
                let code = line.split("//").next().unwrap();
                if code.contains(&format!("stage::{later}")) || code.contains(&format!("super::{later}::")) {
                    wrong.push(format!("src/{path}:{}: {own} must not know {later}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn admin_never_unseals_injects_or_sends() {
    for (path, text) in rooms().iter().filter(|(path, _)| path.starts_with("admin/")) {
        for word in ["stage::unseal", "stage::inject", "stage::send", "envelope::open"] {
            assert!(!text.contains(word), "src/{path} names {word}");
        }
    }
}

#[test]
fn plaintext_is_exposed_only_where_the_design_says() {
    // Where `Secret::expose` may be called, and why.
    let rooms_that_may = [
        "secret",          // the door itself, and what is derived from a data key
        "envelope/",       // seals and opens
        "kms/",            // wraps data keys
        "seal/",           // checks what is about to be sealed
        "stage/inject",    // puts it into the request
        "stage/sign/",     // signs with it
        "stage/unseal.rs", // hands a client certificate to a handshake
        "stage/scrub/",    // looks for it in the answer
        "store/postgres/", // hands the URL and the password to the driver
        "jwks/",           // the HS256 key; the token that an issuer wants to be shown
        "audit/anchor.rs", // the signing seed
        "lifecycle/",      // puts it into a token request, and out of the words of its answer
        "admin/door.rs",   // the admin token, compared in constant time
        "config/",         // the length of a token read from a file
        "cli/",            // the admin token and the issuer's key, on their way out
        "listen/",         // what the app itself was shown, for `relay dev`
    ];
    for (path, text) in rooms() {
        if text.contains(".expose()") {
            assert!(rooms_that_may.iter().any(|may| path.starts_with(may)), "src/{path} exposes a secret");
        }
    }
}

#[test]
fn every_file_opens_by_saying_what_the_room_is_for() {
    let silent: Vec<String> =
        rooms().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn no_file_outgrows_four_hundred_lines_of_code() {
    for (path, text) in rooms() {
        let lines = without_tests(&text)
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
            .count();
        assert!(lines <= MOST_LINES, "src/{path} has {lines} lines of code: divide the room");
    }
}

#[test]
fn the_corridor_fits_a_screen_and_names_its_ten_steps_in_order() {
    let pipeline = &rooms()["pipeline.rs"];
    let walk = &pipeline[pipeline.find("async fn relay(").unwrap()..];
    let walk = &walk[..walk.find("\n}\n").unwrap()];
    assert!(walk.lines().count() <= 40, "the corridor has {} lines", walk.lines().count());
    let steps = [
        "route(",
        "authenticate(",
        "authorize(",
        "record::open(",
        "gather(",
        "connect(",
        "unseal(",
        "inject(",
        "send(",
        "scrub(",
    ];
    let mut at = 0;
    for step in steps {
        let found = walk[at..].find(step).unwrap_or_else(|| panic!("{step} is missing or out of order"));
        at += found;
    }
}

#[test]
fn no_drawer_is_called_utils() {
    for path in rooms().keys() {
        for word in ["utils", "util", "common", "helpers", "helper", "manager", "types"] {
            assert!(!path.split(['/', '.']).any(|part| part == word), "src/{path}");
        }
    }
    for (path, text) in rooms() {
        assert!(!text.contains("fn get_"), "src/{path}: names are nouns here, not get_");
    }
}
