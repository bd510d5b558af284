//! `relay env`: the running dev relay's address, secret and token, for a shell to `eval`.
//!
//! What it prints is evaluated by a shell, so nothing from the file is printed that a shell could take
//! for more than a word. What must never enter: the issuer's key, the admin token.

use std::io::Write;

use serde_json::json;

use super::dev::state::{DevRelay, Whereabouts};
use super::exit::{Exit, Failure};

/// How `relay env` is asked to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One `export` line.
    Shell,
    /// One JSON object.
    Json,
}

/// Finds the running dev relay and prints how to reach it. [`Exit::Unreachable`] if none runs.
pub fn run(whereabouts: &Whereabouts, shape: Shape, out: &mut dyn Write) -> Result<(), Failure> {
    let relay = DevRelay::running(whereabouts)?;
    let written = match shape {
        Shape::Shell => writeln!(out, "{}", exports(&relay)?),
        Shape::Json => {
            writeln!(out, "{}", json!({ "url": relay.url, "secret": relay.secret, "token": relay.token }))
        }
    };
    written.map_err(|cause| Failure::because("the answer could not be written", &cause))
}

/// `export RELAY_URL=... RELAY_SECRET=... RELAY_TOKEN=...`
fn exports(relay: &DevRelay) -> Result<String, Failure> {
    let words = [("RELAY_URL", &relay.url), ("RELAY_SECRET", &relay.secret), ("RELAY_TOKEN", &relay.token)];
    let mut line = "export".to_owned();
    for (name, value) in words {
        if !is_plain(value) {
            return Err(Failure::new(
                Exit::Failed,
                format!("dev.json is damaged: its {name} is not one plain word; restart `relay dev`"),
            ));
        }
        // Brackets (an IPv6 address) are a pattern to some shells.
        let quote = if value.contains('[') { "'" } else { "" };
        line.push_str(&format!(" {name}={quote}{value}{quote}"));
    }
    Ok(line)
}

/// Whether a POSIX shell takes it as one word with no meaning beyond its letters.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b":/.-_[]".contains(&b))
}
