//! `use = "catalog:NAME"`: a catalogue entry's settings are laid below the integration's own.
//!
//! Tables merge, anything else of the integration's own takes the place of the entry's. Done on the parsed
//! text, before any section reads it, so that what is valid in relay.toml is valid in an entry and nothing
//! below knows of entries. What must never enter: a meaning of any key but `use`.
//!
//! The bytes of an entry are numbered as if it stood behind relay.toml, so that a place is still one number.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::Overrides;
use super::report::{Findings, Place};
use super::suggest;
use crate::catalog::{self, Entry, PREFIX};

/// Lays entries below the integrations that use one. The names of those whose `use` means nothing are
/// returned: what they seem to lack is not their mistake.
pub(super) fn settle<'d>(
    document: &mut DeTable<'d>,
    overrides: &mut Overrides,
    findings: &mut Findings,
) -> Vec<String> {
    let mut unsettled = Vec::new();
    let integrations = document.get_mut("integrations").map(Spanned::get_mut);
    let Some(DeValue::Table(integrations)) = integrations else { return unsettled };
    for (name, value) in integrations.iter_mut() {
        let DeValue::Table(own) = value.get_mut() else { continue };
        let Some((word, place)) = used(name.get_ref(), own, overrides) else { continue };
        match word.ok_or_else(unread).and_then(|word| entry(&word)) {
            Err((message, fix)) => {
                let message = format!("[integrations.{}] {message}", name.get_ref().escape_debug());
                findings.error(&place, message, fix);
                unsettled.push(name.get_ref().to_string());
            }
            Ok(entry) => {
                let base = findings.lend(entry.name, entry.text, &place);
                if let Some(below) = settings(entry, base) {
                    *own = merged(below, std::mem::take(own));
                }
            }
        }
    }
    unsettled
}

type Wrong = (String, String);

/// What `use` says, and where; the inner `None` is a value that is no text.
fn used(name: &str, own: &DeTable<'_>, overrides: &mut Overrides) -> Option<(Option<String>, Place)> {
    if let Some((variable, value)) = overrides.take(&format!("integrations.{name}.use")) {
        return Some((Some(value), Place::Variable(variable)));
    }
    let value = own.get("use")?;
    Some((value.get_ref().as_str().map(str::to_owned), Place::Bytes(value.span())))
}

fn unread() -> Wrong {
    ("use must be a text in quotes".to_owned(), "write use = \"catalog:NAME\"".to_owned())
}

fn entry(word: &str) -> Result<&'static Entry, Wrong> {
    let list = "`relay catalog list` shows them all".to_owned();
    let Some(name) = word.strip_prefix(PREFIX) else {
        let fix = format!("write use = \"{PREFIX}NAME\"; {list}");
        return Err(("use names no entry of the catalogue".to_owned(), fix));
    };
    match catalog::find(name) {
        Some(entry) if entry.needs().is_empty() => Ok(entry),
        Some(entry) => {
            let message = format!(
                "use: {PREFIX}{} needs {}, which relay does not have yet",
                entry.name,
                entry.needs().join(" and ")
            );
            Err((message, "use another entry, or write upstream and inject yourself".to_owned()))
        }
        None => {
            let near = suggest::nearest(name, catalog::usable().map(|entry| entry.name));
            let hint = near.map(|near| format!("; did you mean {PREFIX}{near}?")).unwrap_or_default();
            let fix = near.map_or(list, |near| format!("write use = \"{PREFIX}{near}\""));
            Err((format!("use: there is no such entry in the catalogue{hint}"), fix))
        }
    }
}

/// An entry's settings, their bytes counted from `base`. None for an entry that is no TOML, which the tests
/// do not let in.
fn settings(entry: &Entry, base: usize) -> Option<DeTable<'static>> {
    let mut document = DeTable::parse(entry.text).ok()?.into_inner();
    match document.remove("integration")?.into_inner() {
        DeValue::Table(table) => Some(moved_table(table, base)),
        _ => None,
    }
}

fn moved_table(table: DeTable<'_>, base: usize) -> DeTable<'_> {
    let key = |key: Spanned<_>| Spanned::new(moved(&key.span(), base), key.into_inner());
    table.into_iter().map(|(name, value)| (key(name), moved_value(value, base))).collect()
}

fn moved_value(value: Spanned<DeValue<'_>>, base: usize) -> Spanned<DeValue<'_>> {
    let span = moved(&value.span(), base);
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(moved_table(table, base)),
        DeValue::Array(members) => {
            DeValue::Array(members.into_iter().map(|member| moved_value(member, base)).collect())
        }
        scalar => scalar,
    };
    Spanned::new(span, value)
}

const fn moved(span: &Range<usize>, base: usize) -> Range<usize> {
    span.start + base..span.end + base
}

/// `own` over `below`. A table keeps the key of the one below it, so that fields stay in the entry's order
/// however many of them are written again.
fn merged<'d>(mut below: DeTable<'d>, own: DeTable<'d>) -> DeTable<'d> {
    for (key, value) in own {
        if let (Some(there), DeValue::Table(_)) = (below.get_mut(key.get_ref().as_ref()), value.get_ref())
            && let DeValue::Table(lower) = there.get_mut()
        {
            let lower = std::mem::take(lower);
            let span = value.span();
            if let DeValue::Table(upper) = value.into_inner() {
                *there = Spanned::new(span, DeValue::Table(merged(lower, upper)));
            }
            continue;
        }
        below.remove(key.get_ref().as_ref());
        below.insert(key, value);
    }
    below
}
