//! `fields`: what a secret of an integration is made of.
//!
//! Only names, labels and flags; a value here would be a credential in relay.toml and is refused.

use super::super::FieldSetting;
use super::super::pattern::Pattern;
use super::super::report::Place;
use super::super::written::{Table, Written};
use crate::model::{FieldName, FieldSpec};

/// The fields in the order of the text, each with its place; one secret field `token` unless given.
pub(super) fn fields(written: &mut Written<'_>, integration: &Table<'_>) -> Vec<(FieldSetting, Place)> {
    let table = written.child(integration, "fields", "integrations.*.fields");
    if integration.entry("fields").is_none() {
        return default_field(&integration.place).into_iter().collect();
    }
    let mut fields = Vec::new();
    for (name, place, _) in table.in_order() {
        let entry = written.child(&table, name, "integrations.*.fields.*");
        match FieldName::parse(name) {
            Ok(name) => fields.push((field(written, &entry, name), place)),
            Err(wanted) => written.findings.error(&place, wanted.to_string(), "name it like this: api_key"),
        }
    }
    if table.exists() && table.in_order().is_empty() {
        let fix = "leave fields away for one secret field, \"token\", or name the fields";
        written.findings.error(&table.place, format!("{} is empty", table.shown), fix);
    } else if !fields.is_empty() && !fields.iter().any(|(field, _)| field.spec.secret) {
        let message = format!("{} has no secret field: nothing is scrubbed from answers", table.shown);
        written.findings.warning(&table.place, message, "leave secret = false away where a value is one");
    }
    fields
}

fn default_field(place: &Place) -> Option<(FieldSetting, Place)> {
    let name = FieldName::parse("token").ok()?;
    let spec = FieldSpec { name, secret: true };
    let label = "Token".to_owned();
    let field = FieldSetting {
        spec,
        label,
        help: None,
        example: None,
        scrub_off_danger: false,
        optional: false,
        pem: false,
        pattern: None,
    };
    Some((field, place.clone()))
}

fn field(written: &mut Written<'_>, table: &Table<'_>, name: FieldName) -> FieldSetting {
    let label = written.text(table, "label").map_or_else(|| name.to_string(), |given| given.value);
    if label.is_empty() || label.len() > 80 || label.chars().any(char::is_control) {
        let message = format!("{} label is 1 to 80 bytes without control characters", table.shown);
        written.findings.error(
            &table.place_of("label"),
            message,
            "write what to call it when asking a person",
        );
    }
    let secret = written.switch(table, "secret").is_none_or(|given| given.value);
    let scrub_off_danger = written.choice(table, "scrub", &[("off_danger", true)], &[]).unwrap_or(false);
    if scrub_off_danger && !secret {
        let message = format!("{} is not secret, so it is never scrubbed anyway", table.shown);
        written.findings.warning(&table.place_of("scrub"), message, "leave scrub away");
    }
    let help = help(written, table);
    let example = example(written, table, secret);
    let optional = written.switch(table, "optional").is_some_and(|given| given.value);
    let pattern = pattern(written, table);
    let spec = FieldSpec { name, secret };
    FieldSetting { spec, label, help, example, scrub_off_danger, optional, pem: false, pattern }
}

fn pattern(written: &mut Written<'_>, table: &Table<'_>) -> Option<Pattern> {
    let given = written.text(table, "match")?;
    match Pattern::parse(&given.value) {
        Ok(pattern) => Some(pattern),
        Err(why) => {
            let message = format!("{} match: {why}", table.shown);
            written.findings.error(&given.place, message, "write it like match = \"[a-z0-9-]{2,40}\"");
            None
        }
    }
}

/// An address that is printed in a terminal, and may become a link on a page.
fn help(written: &mut Written<'_>, table: &Table<'_>) -> Option<String> {
    let given = written.text(table, "help")?;
    let plain = given.value.bytes().all(|b| (0x21..0x7f).contains(&b) && !b"\"'<>\\`".contains(&b));
    let host =
        given.value.strip_prefix("https://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    if host.is_empty() || host.contains('@') || !plain || given.value.len() > 300 {
        let message = format!("{} help is no https:// address of at most 300 bytes", table.shown);
        let fix = "write where a person finds the value: help = \"https://vendor.example/settings/keys\"";
        written.findings.error(&given.place, message, fix);
        return None;
    }
    Some(given.value)
}

/// An example of a secret that is whole may be somebody's, so one that is not cut off is not quoted either.
fn example(written: &mut Written<'_>, table: &Table<'_>, secret: bool) -> Option<String> {
    let given = written.text(table, "example")?;
    let whole = secret && !given.value.contains("...");
    if whole {
        written.mask(&given.place);
        let message = format!("{} example of a secret must be cut off visibly", table.shown);
        written.findings.error(&given.place, message, "write how it begins: example = \"xoxb-...\"");
        return None;
    }
    if given.value.is_empty() || given.value.len() > 80 || given.value.chars().any(char::is_control) {
        let message = format!("{} example is 1 to 80 bytes without control characters", table.shown);
        written.findings.error(&given.place, message, "write what a value looks like");
        return None;
    }
    Some(given.value)
}
