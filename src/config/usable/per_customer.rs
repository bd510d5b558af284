//! `upstream` with fields in it: each customer's own host, or own path.
//!
//! The text around the fields is judged like any upstream; the fields by what their `match` can be. What must
//! never enter: a host that a customer picks without `any_host_danger`, and a value of the operator's own in a
//! request that goes to such a host.

use toml::de::DeValue;

use super::super::FieldSetting;
use super::super::report::Place;
use super::super::suggest;
use super::super::upstream::{UpstreamPart, UpstreamTemplate};
use super::super::written::{Given, Table, Written};
use super::upstream;
use crate::model::FieldName;

/// Tables that may hold values of the operator's own, by `env:` or `file:`.
const OWNED: [&str; 4] = ["oauth2", "login", "sign", "client_certificate"];

/// Reads an upstream that has fields in it.
pub(super) fn template(
    written: &mut Written<'_>,
    table: &Table<'_>,
    given: &Given<String>,
    fields: &[(FieldSetting, Place)],
    any_host: bool,
) -> Option<UpstreamTemplate> {
    let wrong = |written: &mut Written<'_>, message: &str, fix: &str| {
        written.findings.error(&given.place, format!("{} upstream {message}", table.shown), fix);
    };
    let parts = match Parts::read(&given.value) {
        Ok(parts) => parts,
        Err((message, fix)) => {
            if given.value.contains(['@', '?', '#']) {
                written.mask(&given.place);
            }
            wrong(written, message, fix);
            return None;
        }
    };
    let mut whole = true;
    for name in parts.names() {
        if let Some((message, fix)) = unfit(name, fields) {
            wrong(written, &message, &fix);
            whole = false;
        }
    }
    if !whole {
        return None;
    }
    let pattern = |name: &FieldName| setting(name, fields).and_then(|field| field.pattern.clone());
    let Parts { host, port, base } = parts;
    let shown = given.value.trim_end_matches('/').to_owned();
    match UpstreamTemplate::new(shown, (host, port, base), pattern, any_host) {
        Ok(template) => Some(template),
        Err((message, fix)) => {
            wrong(written, &message, &fix);
            None
        }
    }
}

/// What an integration whose host a customer picks may not have: a value of the operator's own could be sent to
/// that host. `inject` knows fields alone.
pub(super) fn refuse_owned_values(written: &mut Written<'_>, table: &Table<'_>) {
    for key in OWNED {
        let Some(value) = table.entry(key) else { continue };
        if holds_owned(value.get_ref()) {
            let message = format!(
                "{} {key} has a value of your own, and with any_host_danger the customer says where it goes",
                table.shown
            );
            let fix = "end the host in a fixed domain, or make the value a field of the secret";
            written.findings.error(&table.place_of(key), message, fix);
        }
    }
}

fn holds_owned(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::String(text) => text.starts_with("env:") || text.starts_with("file:"),
        DeValue::Array(all) => all.iter().any(|value| holds_owned(value.get_ref())),
        DeValue::Table(table) => table.iter().any(|(_, value)| holds_owned(value.get_ref())),
        _ => false,
    }
}

fn setting<'f>(name: &FieldName, fields: &'f [(FieldSetting, Place)]) -> Option<&'f FieldSetting> {
    fields.iter().map(|(field, _)| field).find(|field| field.spec.name == *name)
}

fn unfit(name: &FieldName, fields: &[(FieldSetting, Place)]) -> Option<(String, String)> {
    let Some(field) = setting(name, fields) else {
        let near = suggest::nearest(name.as_str(), fields.iter().map(|(field, _)| field.spec.name.as_str()));
        let hint = near.map(|near| format!("; did you mean {{{near}}}?")).unwrap_or_default();
        let message = format!("has {{{name}}}, which is not one of its fields{hint}");
        return Some((
            message,
            format!("declare it: {name} = {{ secret = false, match = \"[a-z0-9-]{{1,40}}\" }}"),
        ));
    };
    if field.spec.secret {
        let message = format!("has {{{name}}}, a secret field: an address is seen by many");
        return Some((message, format!("write secret = false in {name}, or take another field")));
    }
    if field.pattern.is_none() {
        let message = format!("has {{{name}}}, of which nothing says what it may be");
        return Some((message, format!("write match = \"[a-z0-9-]{{1,40}}\" in {name}")));
    }
    None
}

struct Parts {
    host: Vec<UpstreamPart>,
    port: Option<u16>,
    base: Vec<UpstreamPart>,
}

impl Parts {
    fn read(text: &str) -> Result<Self, upstream::Wrong> {
        let pieces = cut(text)?;
        // With a letter in each field's place it must be an upstream like any other.
        let sample: String = pieces
            .iter()
            .map(|piece| match piece {
                UpstreamPart::Literal(text) => text.as_str(),
                UpstreamPart::Field(_) => "x",
            })
            .collect();
        let (origin, _) = upstream::parse(&sample)?;
        if !origin.is_secure() {
            return Err(("has fields and is not https", "begin it with https://"));
        }
        if origin.host().ends_with('.') || origin.host().starts_with('[') {
            return Err((
                "has fields, and a host that is no plain name",
                "write https://{subdomain}.vendor.example",
            ));
        }
        let (mut host, mut base, mut in_path) = (Vec::new(), Vec::new(), false);
        for (number, piece) in pieces.into_iter().enumerate() {
            match piece {
                UpstreamPart::Literal(text) if in_path => base.push(UpstreamPart::Literal(text)),
                UpstreamPart::Literal(text) => {
                    let text = if number == 0 { text.split_at("https://".len()).1.to_owned() } else { text };
                    let slash = text.find('/');
                    let (before, behind) = text.split_at(slash.unwrap_or(text.len()));
                    host.push(UpstreamPart::Literal(before.to_ascii_lowercase()));
                    base.extend((!behind.is_empty()).then(|| UpstreamPart::Literal(behind.to_owned())));
                    in_path = slash.is_some();
                }
                field if in_path => base.push(field),
                field => host.push(field),
            }
        }
        let port = literal_port(&mut host)?;
        host.retain(|part| *part != UpstreamPart::Literal(String::new()));
        if let Some(UpstreamPart::Literal(last)) = base.last_mut()
            && last.ends_with('/')
        {
            last.pop();
        }
        base.retain(|part| *part != UpstreamPart::Literal(String::new()));
        Ok(Self { host, port, base })
    }

    fn names(&self) -> impl Iterator<Item = &FieldName> {
        self.host.iter().chain(&self.base).filter_map(|part| match part {
            UpstreamPart::Field(name) => Some(name),
            UpstreamPart::Literal(_) => None,
        })
    }
}

/// The port that the text itself names, taken off the host.
fn literal_port(host: &mut [UpstreamPart]) -> Result<Option<u16>, upstream::Wrong> {
    let misplaced = ("has a port that is none", "write the port behind the host, as in :8443");
    let colons = |part: &UpstreamPart| matches!(part, UpstreamPart::Literal(text) if text.contains(':'));
    let Some(at) = host.iter().position(colons) else { return Ok(None) };
    let last = at + 1 == host.len();
    let Some(UpstreamPart::Literal(text)) = host.get_mut(at).filter(|_| last) else { return Err(misplaced) };
    let (name, digits) = text.split_once(':').ok_or(misplaced)?;
    let port = digits.parse().map_err(|_| misplaced)?;
    *text = name.to_owned();
    Ok(Some(port))
}

/// The text cut at its fields.
fn cut(text: &str) -> Result<Vec<UpstreamPart>, upstream::Wrong> {
    let unclear = ("has a { or } that belongs to no field", "write a field as {subdomain}");
    if !text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
        return Err(("has fields and is not https", "begin it with https://"));
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((literal, behind)) = rest.split_once('{') {
        let (name, behind) = behind.split_once('}').ok_or(unclear)?;
        if literal.contains('}') || name.contains('{') {
            return Err(unclear);
        }
        pieces.push(UpstreamPart::Literal(literal.to_owned()));
        let name = FieldName::parse(name);
        pieces.push(UpstreamPart::Field(
            name.map_err(|_| ("has a field with a name that is none", unclear.1))?,
        ));
        rest = behind;
    }
    if rest.contains('}') {
        return Err(unclear);
    }
    pieces.push(UpstreamPart::Literal(rest.to_owned()));
    Ok(pieces)
}
