//! What holds in the end, value by value, and where each comes from: relay.toml, a variable, the catalogue, or
//! a default.
//!
//! Made of the same parsed text and the same table of keys that the sections read. What must never enter: what
//! stands behind `env:` or `file:` (only the reference is said), a value of a key that holds a secret.

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::defaults::default;
use super::environment::{self, Overrides};
use super::keys::{self, Kind};
use super::report::Findings;

/// What is said in the place of a secret.
const MASKED: &str = "(not shown)";

/// One value that holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The table, as its header names it: `integrations.slack`.
    pub table: String,
    /// The key in it.
    pub key: String,
    /// The value as it is written; a secret only as its reference.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Origin {
    /// relay.toml.
    File {
        /// Its name.
        file: String,
        /// The line, from 1.
        line: usize,
    },
    /// The environment.
    Variable {
        /// Its name.
        name: String,
    },
    /// The catalogue.
    Catalog {
        /// The entry.
        entry: String,
    },
    /// Nobody wrote it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Variable { name } => write!(f, "variable {name}"),
            Self::Catalog { entry } => write!(f, "catalog:{entry}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The settings table by table, as TOML with each value's origin behind it.
pub fn shown(settings: &[Setting]) -> String {
    let mut text = String::new();
    let mut table = None;
    for setting in settings {
        if table != Some(&setting.table) {
            text.push_str(if table.is_some() { "\n[" } else { "[" });
            text.push_str(&setting.table);
            text.push_str("]\n");
            table = Some(&setting.table);
        }
        let line = format!("{} = {}", setting.key, inline(&setting.value));
        text.push_str(&format!("{line:<56}  # {}\n", setting.origin));
    }
    text
}

/// A value in one line of TOML.
pub fn inline(value: &Value) -> String {
    match value {
        Value::Object(members) if members.is_empty() => "{}".to_owned(),
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(key, value)| format!("{} = {}", bare(key), inline(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        Value::Array(members) => {
            let members: Vec<String> = members.iter().map(inline).collect();
            format!("[{}]", members.join(", "))
        }
        // A terminal obeys control characters, and JSON escapes only some of them.
        Value::String(text) => {
            let plain: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            Value::String(plain).to_string()
        }
        other => other.to_string(),
    }
}

fn bare(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !key.is_empty() && key.bytes().all(plain) { key.to_owned() } else { inline(&Value::from(key)) }
}

/// The settings of a document that was judged to be without errors.
pub(super) fn settings(
    document: &DeTable<'_>,
    overrides: &Overrides,
    findings: &Findings,
    name: &str,
    text: &str,
) -> Vec<Setting> {
    let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
    let mut walk = Walk { overrides, findings, name, ends, found: Vec::new() };
    for (key, _) in keys::shape("").map(|shape| shape.keys).unwrap_or_default() {
        match document.get(*key).map(Spanned::get_ref) {
            Some(DeValue::Array(members)) => {
                for (number, member) in members.iter().enumerate() {
                    walk.table(&format!("{key}[{number}]"), key, member.get_ref().as_table());
                }
            }
            value => walk.table(key, key, value.and_then(DeValue::as_table)),
        }
    }
    walk.found
}

struct Walk<'a> {
    overrides: &'a Overrides,
    findings: &'a Findings,
    name: &'a str,
    /// Where lines end.
    ends: Vec<usize>,
    found: Vec<Setting>,
}

impl Walk<'_> {
    /// A table and what is below it. `path` is as people write it, `pattern` as the table of keys has it.
    fn table(&mut self, path: &str, pattern: &str, entries: Option<&DeTable<'_>>) {
        let Some(shape) = keys::shape(pattern) else { return };
        if shape.keys.is_empty() {
            let below = format!("{pattern}.*");
            for (name, value) in in_order(entries) {
                match value.get_ref().as_table() {
                    Some(entries) => self.table(&format!("{path}.{}", bare(name)), &below, Some(entries)),
                    None => {
                        let origin = self.origin(value.span().start);
                        let (table, key) = (path.to_owned(), bare(name));
                        self.found.push(Setting {
                            table,
                            key,
                            value: plain(value.get_ref(), &below),
                            origin,
                        });
                    }
                }
            }
            return;
        }
        let mut below = Vec::new();
        for (key, kind) in shape.keys {
            let entry = entries.and_then(|entries| entries.get(*key));
            let deeper = format!("{pattern}.{key}");
            let table = entry.map(Spanned::get_ref).and_then(DeValue::as_table);
            let divided = keys::shape(&deeper).is_some()
                && !matches!(entry.map(Spanned::get_ref), Some(DeValue::Array(_)));
            let value = (!divided || (table.is_none() && default(pattern, key).is_some()))
                .then(|| self.value(path, pattern, key, *kind, entry))
                .flatten();
            match value {
                Some((value, origin)) => {
                    self.found.push(Setting {
                        table: path.to_owned(),
                        key: (*key).to_owned(),
                        value,
                        origin,
                    });
                }
                None if divided => below.push((format!("{path}.{key}"), deeper, table)),
                None => {}
            }
        }
        for (path, pattern, table) in below {
            self.table(&path, &pattern, table);
        }
    }

    fn value(
        &self,
        path: &str,
        pattern: &str,
        key: &str,
        kind: Kind,
        entry: Option<&Spanned<DeValue<'_>>>,
    ) -> Option<(Value, Origin)> {
        if let Some((variable, value)) = self.overrides.peek(&format!("{path}.{key}")) {
            let value = masked(kind, Value::from(value));
            return Some((value, Origin::Variable { name: variable.to_owned() }));
        }
        let Some(entry) = entry else {
            let name =
                path.rsplit('.').next().filter(|_| (pattern, key) == ("integrations.*.fields.*", "label"));
            return name
                .map(Value::from)
                .or_else(|| default(pattern, key))
                .map(|value| (value, Origin::Default));
        };
        let value = plain(entry.get_ref(), &format!("{pattern}.{key}"));
        let origin = self.origin(entry.span().start);
        // What the catalogue says is no secret.
        let value = if matches!(origin, Origin::Catalog { .. }) { value } else { masked(kind, value) };
        Some((value, origin))
    }

    fn origin(&self, at: usize) -> Origin {
        if let Some(entry) = self.findings.entry_at(at) {
            return Origin::Catalog { entry: entry.to_owned() };
        }
        let line = self.ends.partition_point(|end| *end < at) + 1;
        Origin::File { file: self.name.to_owned(), line }
    }
}

/// In the order of the text.
fn in_order<'t, 'd>(entries: Option<&'t DeTable<'d>>) -> Vec<(&'t str, &'t Spanned<DeValue<'d>>)> {
    let mut all: Vec<_> = entries.into_iter().flatten().collect();
    all.sort_by_key(|(key, _)| key.span().start);
    all.into_iter().map(|(key, value)| (key.get_ref().as_ref(), value)).collect()
}

fn masked(kind: Kind, value: Value) -> Value {
    let reference = value.as_str().is_some_and(|text| environment::source(text).is_some());
    if kind == Kind::Secret && !reference { Value::from(MASKED) } else { value }
}

/// The value as JSON has it; what the table of keys calls a secret is masked inside it too.
fn plain(value: &DeValue<'_>, pattern: &str) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(on) => Value::from(*on),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::from(number.to_string()), Value::from),
        DeValue::Float(number) => {
            number.as_str().parse::<f64>().map_or_else(|_| Value::from(number.to_string()), Value::from)
        }
        DeValue::Array(members) => members.iter().map(|member| plain(member.get_ref(), pattern)).collect(),
        DeValue::Table(entries) => in_order(Some(entries))
            .into_iter()
            .map(|(key, value)| {
                let inside = plain(value.get_ref(), &format!("{pattern}.{key}"));
                let kind = keys::kind(pattern, key).unwrap_or(Kind::Compound);
                (key.to_owned(), masked(kind, inside))
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => Value::from(format!("{other:?}")),
    }
}
