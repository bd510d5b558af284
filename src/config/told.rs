//! What relay was told, as one digest per key: two readings are compared without keeping a value of either.
//!
//! A value that stands in a file counts with what the file holds. Where relay follows a file by itself, or reads
//! it only at start (`[keys]`), its name alone counts. What must never enter: a value; what must never leave:
//! more than the names of keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use serde_json::Value;

use super::effective::Setting;

/// The keys whose files are followed, by the last part of their names.
const FOLLOWED: [&str; 2] = ["jwks", "jwks_token"];

type Sum = [u8; 32];

/// One reading of relay.toml, with the environment and the files that it names.
#[derive(Clone, Default)]
pub struct Told {
    text: Sum,
    keys: BTreeMap<String, Sum>,
}

impl Told {
    /// The reading of `text` that led to these settings; relative paths start at `folder`.
    pub(super) fn of(text: &str, settings: &[Setting], folder: &Path) -> Self {
        let key = |setting: &Setting| {
            let name = format!("{}.{}", setting.table, setting.key);
            let opens = !name.starts_with("keys.") && !FOLLOWED.contains(&setting.key.as_str());
            let mut sum = Context::new(&SHA256);
            sum.update(setting.value.to_string().as_bytes());
            if opens {
                files(&mut sum, &setting.key, &setting.value, folder);
            }
            (name, plain(&sum.finish()))
        };
        Self { text: plain(&digest(&SHA256, text.as_bytes())), keys: settings.iter().map(key).collect() }
    }

    /// The SHA-256 of relay.toml's text, in hex.
    pub fn digest(&self) -> String {
        self.text.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The keys in which `newer` differs, in order.
    pub fn changes(&self, newer: &Self) -> Vec<String> {
        let all: BTreeSet<&String> = self.keys.keys().chain(newer.keys.keys()).collect();
        all.into_iter().filter(|key| self.keys.get(*key) != newer.keys.get(*key)).cloned().collect()
    }

    /// What stands below `table`, but for tables of the same beginning: `[integrations.a]`, not those of `ab`.
    pub fn below<'t>(&'t self, table: &'t str) -> impl Iterator<Item = (&'t str, &'t [u8; 32])> {
        self.keys
            .iter()
            .filter_map(move |(key, sum)| Some((key.strip_prefix(table)?.strip_prefix('.')?, sum)))
    }
}

/// What the files hold that a value names: `file:PATH`, or the path of a `ca_file`.
fn files(sum: &mut Context, key: &str, value: &Value, folder: &Path) {
    match value {
        Value::String(text) => {
            let path = text.strip_prefix("file:").or_else(|| (key == "ca_file").then_some(text.as_str()));
            // A file that cannot be read has been reported, or counts as an empty one.
            let held = path.and_then(|path| std::fs::read(folder.join(path)).ok()).unwrap_or_default();
            sum.update(digest(&SHA256, &held).as_ref());
        }
        Value::Array(members) => members.iter().for_each(|member| files(sum, key, member, folder)),
        Value::Object(members) => members.iter().for_each(|(key, member)| files(sum, key, member, folder)),
        _ => {}
    }
}

fn plain(sum: &Digest) -> Sum {
    let mut plain = [0; 32];
    plain.copy_from_slice(sum.as_ref());
    plain
}
