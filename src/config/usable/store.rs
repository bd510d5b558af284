//! `[store]`: which engine keeps the sealed records.
//!
//! A key of one engine beside another is an error, since a setting that is ignored is a belief that is wrong. A URL
//! may be written literally only without a password. What must never enter: a connection, the URL in a message.

use std::time::Duration;

use super::super::environment;
use super::super::report::Place;
use super::super::written::{Given, Table, Written};
use super::super::{PostgresChoice, StoreChoice};
use super::{GivenPath, section};
use crate::secret::Secret;

/// What `[store]` said, and the folder for the check that no two things share a path.
pub(super) struct Read {
    pub(super) choice: Option<StoreChoice>,
    pub(super) path: Option<GivenPath>,
    pub(super) retain: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sled,
    Postgres,
}

const ENGINES: &[(&str, Engine)] = &[("sled", Engine::Sled), ("postgres", Engine::Postgres)];

/// The keys that belong to one engine.
const OWNED: &[(&str, Engine)] = &[
    ("path", Engine::Sled),
    ("url", Engine::Postgres),
    ("password", Engine::Postgres),
    ("ca_file", Engine::Postgres),
    ("connections", Engine::Postgres),
    ("plaintext_danger", Engine::Postgres),
];

/// Each replica takes as many of PostgreSQL's sessions, which has 100 unless told otherwise.
const CONNECTIONS: u64 = 16;

const URL: &str = "write url = \"env:RELAY_STORE_URL\", which holds postgres://USER@HOST:5432/DATABASE";

/// Reads `[store]`.
pub(super) fn store(written: &mut Written<'_>, root: &Table<'_>) -> Read {
    let table = section(written, root, "store", "no secret could be kept");
    let engine = if written.absent(&table, "engine") {
        Some(Engine::Sled)
    } else {
        written.choice(&table, "engine", ENGINES, &[])
    };
    if let Some(engine) = engine {
        foreign(written, &table, engine);
    }
    let path = match engine {
        Some(Engine::Sled) => written.path(&table, "path", "relay.db"),
        _ => None,
    };
    let choice = match engine {
        Some(Engine::Sled) => path.as_ref().map(|path| StoreChoice::Sled { path: path.value.clone() }),
        Some(Engine::Postgres) => postgres(written, &table).map(StoreChoice::Postgres),
        None => None,
    };
    // From a minute, in which a mistake is seen, to ten years.
    let (least, most) = (Duration::from_secs(60), Duration::from_secs(315_576_000));
    let retain = written.duration(&table, "retain", least..=most, Duration::from_secs(30 * 24 * 3600));
    Read { choice, path, retain }
}

fn foreign(written: &mut Written<'_>, table: &Table<'_>, engine: Engine) {
    for (key, owner) in OWNED {
        if *owner != engine && !written.absent(table, key) {
            let word = ENGINES.iter().find(|(_, other)| *other == engine).map_or("", |(word, _)| *word);
            let message = format!("{} {key} means nothing to engine = \"{word}\"", table.shown);
            written.findings.error(&table.place_of(key), message, "remove it, or name another engine");
        }
    }
}

fn postgres(written: &mut Written<'_>, table: &Table<'_>) -> Option<PostgresChoice> {
    let url = url(written, table);
    let password = match written.absent(table, "password") {
        true => None,
        false => written.secret(table, "password", 1).map(|given| given.value),
    };
    let ca_file = match written.absent(table, "ca_file") {
        true => None,
        false => written.path(table, "ca_file", "ca.pem"),
    };
    if let Some(file) = &ca_file {
        let fix = "put the certificate of PostgreSQL's authority there, as PEM";
        written.expect_file("[store] ca_file", &file.value, &file.place, fix);
    }
    let connections = written.whole(table, "connections", 1..=1000, CONNECTIONS);
    let plaintext = written.switch(table, "plaintext_danger");
    if let (Some(Given { value: true, place }), Some(_)) = (&plaintext, &ca_file) {
        let message = format!("{} ca_file means nothing beside plaintext_danger = true", table.shown);
        written.findings.error(place, message, "remove one of them");
    }
    Some(PostgresChoice {
        url: url?,
        password,
        ca_file: ca_file.map(|file| file.value),
        connections: usize::try_from(connections).unwrap_or(16),
        plaintext_danger: plaintext.is_some_and(|given| given.value),
    })
}

/// The URL from a variable or a file, or as it is written if no password stands in it.
fn url(written: &mut Written<'_>, table: &Table<'_>) -> Option<Secret> {
    if written.absent(table, "url") {
        written.missing(table, "url", URL);
        return None;
    }
    let given = written.raw(table, "url")?;
    let elsewhere = environment::source(&given.value).is_some() || matches!(given.place, Place::Variable(_));
    if elsewhere {
        return written.secret(table, "url", 1).map(|given| given.value);
    }
    if holds_password(&given.value) {
        written.mask(&given.place);
        let message = format!("{} url holds a password and may not stand in relay.toml itself", table.shown);
        written.findings.error(&given.place, message, "write url = \"env:NAME\", and replace this password");
        return None;
    }
    if !given.value.starts_with("postgres://") && !given.value.starts_with("postgresql://") {
        written.mask(&given.place);
        let message = format!("{} url is no URL of PostgreSQL", table.shown);
        written.findings.error(&given.place, message, URL);
        return None;
    }
    Some(Secret::new(given.value.into_bytes()))
}

/// Whether a password may stand in it, as `user:password@` or as a parameter. What is unclear is one.
fn holds_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let user = rest.rsplit_once('@').map(|(user, _)| user);
    user.is_some_and(|user| user.contains([':', '/', '?'])) || rest.to_ascii_lowercase().contains("password")
}
