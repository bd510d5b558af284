//! What was typed becomes what is usable: one file per section, each judging its own.
//!
//! A section always answers, with defaults in place of what was wrong; whether the whole may be used is
//! decided once, by whether an error was noted. What must never enter: TOML, a file's contents.

mod audit;
mod callers;
mod doors;
mod fields;
mod integration;
mod kms;
mod login;
mod material;
mod per_customer;
mod placement;
mod renewal;
mod server;
mod signing;
mod store;
mod traces;
mod upstream;

use std::path::Path;

use toml::de::DeTable;

use doors::Doors;

use super::report::Place;
use super::written::{Given, Table, Written};
use super::{Admin, Config, StoreChoice, Told};
use crate::secret::Secret;

/// Reads every section. `None` if any of it was wrong or could not be had.
pub(super) fn config(written: &mut Written<'_>, document: &DeTable<'_>) -> Option<Config> {
    let root = written.root(document);
    let server = server::server(written, &root);
    let callers = callers::callers(written, &root);
    let keys = kms::keys(written, &root);
    let store = store::store(written, &root);
    let audit = audit::audit(written, &root);
    let traces = traces::traces(written, &root);
    let admin = admin(written, &root);
    let integrations = integration::integrations(written, &root, &mut Doors::of(&server));
    one_path_one_use(
        written,
        (
            keys.as_ref().and_then(|keys| keys.file.as_ref()),
            store.path.as_ref(),
            audit.as_ref().and_then(|a| a.path.as_ref()),
        ),
    );
    let overrides = std::mem::take(&mut written.overrides);
    overrides.report_unused(&mut written.findings);
    if written.findings.has_errors() || written.incomplete {
        return None;
    }
    let audit = audit?;
    Some(Config {
        server,
        callers: callers?,
        keys: keys?.keys,
        store: store.choice?,
        retain: store.retain,
        audit: audit.usable(),
        traces,
        admin: Admin { token: admin? },
        integrations,
        told: Told::default(),
    })
}

/// Reads `[store]` alone.
pub(super) fn store(written: &mut Written<'_>, document: &DeTable<'_>) -> Option<StoreChoice> {
    let root = written.root(document);
    store::store(written, &root).choice
}

/// The table of a section that must be there; `why` says what relay would do without it.
fn section<'d>(written: &mut Written<'_>, root: &Table<'d>, name: &'static str, why: &str) -> Table<'d> {
    let table = written.child(root, name, name);
    if root.entry(name).is_none() && !root.misspells(name) && !written.torn {
        let message = format!("there is no [{name}] section: {why}");
        written.findings.error(
            &Place::File,
            message,
            format!("add [{name}]; `relay init` writes a whole file"),
        );
    }
    table
}

type GivenPath = Given<std::path::PathBuf>;

fn admin(written: &mut Written<'_>, root: &Table<'_>) -> Option<Secret> {
    let table = section(written, root, "admin", "nobody could add a secret");
    if written.absent(&table, "token") {
        written.missing(&table, "token", "write token = \"file:admin.token\"");
    }
    Some(written.secret(&table, "token", 32)?.value)
}

/// The key, the store and the audit would each destroy what another wrote to the same path.
fn one_path_one_use(
    written: &mut Written<'_>,
    (keys, store, audit): (Option<&GivenPath>, Option<&GivenPath>, Option<&GivenPath>),
) {
    let mut seen: Vec<(&'static str, &Path)> = Vec::new();
    for (name, given) in [("[keys] file", keys), ("[store] path", store), ("[audit] path", audit)] {
        let Some(given) = given else { continue };
        if let Some((other, _)) = seen.iter().find(|(_, path)| *path == given.value) {
            let message = format!("{name} is the same path as {other}");
            written.findings.error(&given.place, message, "give each its own");
        }
        seen.push((name, &given.value));
    }
}
