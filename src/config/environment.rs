//! What comes from outside the text: `RELAY__SECTION__KEY` variables, and `env:NAME` and `file:PATH` values.
//!
//! The environment is handed in; this room never reads the process's own. A variable that sets nothing is
//! an error, like an unknown key. What is fetched here may be a secret and is never quoted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroize as _;

use super::keys::{self, Kind};
use super::report::{Findings, Place};
use super::suggest;

/// Where a variable that overrides a key begins.
const PREFIX: &str = "RELAY__";

/// The largest file that a `file:` value may name, in bytes.
const LARGEST_VALUE: u64 = 64 * 1024;

/// The overrides found in the environment, by the dotted path of the key they set.
#[derive(Default)]
pub(super) struct Overrides {
    found: BTreeMap<String, Override>,
}

struct Override {
    variable: String,
    value: String,
    used: bool,
}

impl Overrides {
    /// Sorts the variables of `environment` that begin with `RELAY__`; `integrations` are the names in the
    /// file, because a variable cannot add an integration.
    pub(super) fn collect(
        environment: &[(String, String)],
        integrations: &[&str],
        findings: &mut Findings,
    ) -> Self {
        let mut found = BTreeMap::new();
        let mut ours: Vec<_> = environment.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        ours.sort();
        for (variable, value) in ours {
            match key_of(variable, integrations) {
                Ok(path) => {
                    found.insert(
                        path,
                        Override { variable: variable.clone(), value: value.clone(), used: false },
                    );
                }
                Err((message, fix)) => findings.error(&Place::Variable(variable.clone()), message, fix),
            }
        }
        Self { found }
    }

    /// The variable that sets the key at `path`, and its value.
    pub(super) fn take(&mut self, path: &str) -> Option<(String, String)> {
        let found = self.found.get_mut(path)?;
        found.used = true;
        Some((found.variable.clone(), found.value.clone()))
    }

    /// As [`Overrides::take`], without counting as asked for.
    pub(super) fn peek(&self, path: &str) -> Option<(&str, &str)> {
        self.found.get(path).map(|found| (found.variable.as_str(), found.value.as_str()))
    }

    /// Reports the variables that no section asked for.
    pub(super) fn report_unused(&self, findings: &mut Findings) {
        for unused in self.found.values().filter(|o| !o.used) {
            findings.error(
                &Place::Variable(unused.variable.clone()),
                "this variable sets a key of a table that relay.toml does not have",
                "add the table to relay.toml, or unset the variable",
            );
        }
    }
}

type Wrong = (String, String);

/// The dotted path that a variable names.
fn key_of(variable: &str, integrations: &[&str]) -> Result<String, Wrong> {
    let unset = "unset it: it would change nothing".to_owned();
    if variable.bytes().any(|b| b.is_ascii_lowercase()) {
        let fix = format!("write {}, or unset it", variable.to_ascii_uppercase());
        return Err(("a variable that overrides a key is written in capitals".to_owned(), fix));
    }
    let lower = variable.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
    let candidates: Vec<(String, String)> = match lower.strip_prefix("integrations__") {
        None => {
            let path = lower.replace("__", ".");
            vec![(path.clone(), path)]
        }
        Some(rest) => integrations
            .iter()
            .filter_map(|name| {
                let tail = rest.strip_prefix(name)?.strip_prefix("__")?.replace("__", ".");
                Some((format!("integrations.{name}.{tail}"), format!("integrations.*.{}", starred(&tail))))
            })
            .collect(),
    };
    if candidates.is_empty() {
        let there = integrations.join(", ");
        return Err((format!("this variable names no integration of relay.toml (there: {there})"), unset));
    }
    for (path, pattern) in &candidates {
        let Some((table, key)) = pattern.rsplit_once('.') else { continue };
        match keys::kind(table, key) {
            _ if table == "integrations.*.inject" => {}
            Some(Kind::Scalar | Kind::Secret) => return Ok(path.clone()),
            Some(Kind::Compound) => {
                let message = "this variable names a list or a table, which only relay.toml can hold";
                return Err((message.to_owned(), "unset it and write the key in relay.toml".to_owned()));
            }
            None => {}
        }
    }
    let spelled = spelled();
    let near = suggest::nearest(&lower.replace("__", "."), spelled.iter().map(String::as_str));
    Err(match near {
        Some(near) => {
            let near = format!("{PREFIX}{}", near.replace('.', "__").to_ascii_uppercase());
            let message = format!("this variable names no key of relay.toml; did you mean {near}?");
            (message, format!("write {near}, or unset it"))
        }
        None => ("this variable names no key of relay.toml".to_owned(), unset),
    })
}

/// `fields.NAME.key` as the table of keys spells it.
fn starred(tail: &str) -> String {
    match tail.strip_prefix("fields.").and_then(|rest| rest.rsplit_once('.')) {
        Some((_, key)) => format!("fields.*.{key}"),
        None => tail.to_owned(),
    }
}

/// The paths without a name that people choose.
fn spelled() -> Vec<String> {
    keys::known()
        .filter(|(table, _)| !table.contains('*') && !table.is_empty())
        .map(|(table, key)| format!("{table}.{key}"))
        .collect()
}

/// Where a value that is not literal comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// `env:NAME`
    Variable(&'a str),
    /// `file:PATH`
    File(&'a str),
}

/// `env:NAME` or `file:PATH`; anything else is literal.
pub(super) fn source(text: &str) -> Option<Source<'_>> {
    if let Some(name) = text.strip_prefix("env:") {
        return Some(Source::Variable(name));
    }
    text.strip_prefix("file:").map(Source::File)
}

/// A file's bytes without the one newline at their end, or why not: missing, a folder, unreadable, too large.
pub(super) fn read_value(path: &Path) -> Result<Vec<u8>, Unread> {
    let mut file = File::open(path).map_err(|e| Unread::from(&e))?;
    if file.metadata().map_err(|e| Unread::from(&e))?.is_dir() {
        return Err(Unread::Because("it is a folder".to_owned()));
    }
    // Room for all of it at once: a vector that grows leaves copies of a secret behind.
    let mut bytes = Vec::with_capacity(usize::try_from(LARGEST_VALUE).unwrap_or_default() + 1);
    let read = file.by_ref().take(LARGEST_VALUE + 1).read_to_end(&mut bytes);
    let too_large = u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LARGEST_VALUE;
    if let Err(error) = &read {
        bytes.zeroize();
        return Err(Unread::from(error));
    }
    if too_large {
        bytes.zeroize();
        return Err(Unread::Because(format!("it is larger than {LARGEST_VALUE} bytes")));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(bytes)
}

/// Why a file gave no bytes.
pub(super) enum Unread {
    /// There is none.
    Missing,
    /// There is one, but.
    Because(String),
}

impl From<&std::io::Error> for Unread {
    fn from(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::Missing,
            std::io::ErrorKind::PermissionDenied => {
                Self::Because("this user is not allowed to read it".to_owned())
            }
            _ => Self::Because(error.to_string()),
        }
    }
}
