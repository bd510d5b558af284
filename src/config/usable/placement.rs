//! `inject`: where a credential goes. Headers only, so far.
//!
//! Judged against the declared fields before relay starts: no request ever meets a template that cannot
//! be filled. A credential written into a template literally is refused and never quoted.

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use super::super::report::Place;
use super::super::suggest;
use super::super::template::{Part, Template};
use super::super::written::{Given, Table, Written};
use super::super::{FieldSetting, Placement};
use crate::model::FieldName;

/// Headers that relay writes itself: framing, addressing and what belongs to one hop (RFC 9110 sections
/// 7.2 and 7.6).
const OWNED: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "via",
    "expect",
    "forwarded",
    "proxy-connection",
    "http2-settings",
];

/// Beginnings of header names that are relay's own or a proxy's, never a vendor's.
const OWNED_FAMILIES: &[&str] = &["relay-", "proxy-", "x-forwarded-"];

/// Parts of the names of headers that carry credentials.
const CREDENTIALS: &[&str] = &["authorization", "cookie", "token", "secret", "password", "api-key", "apikey"];

/// Where else vendors want credentials; not built yet.
const LATER: &[&str] = &["query", "path", "body", "basic", "form", "sigv4"];

/// Reads `inject` against the integration's fields. Fields that neither a placement nor what stands `elsewhere`
/// uses get a warning.
pub(super) fn placements(
    written: &mut Written<'_>,
    integration: &Table<'_>,
    fields: &[(FieldSetting, Place)],
    elsewhere: &[FieldName],
) -> Vec<Placement> {
    if integration.entry("inject").is_none() {
        let fix = "write inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]";
        written.missing(integration, "inject", fix);
        return Vec::new();
    }
    let Some(members) = written.list(integration, "inject") else { return Vec::new() };
    if members.is_empty() {
        let message = format!("inject of {} is empty: the vendor would see no credential", integration.shown);
        let fix = "write [{ header = \"authorization\", value = \"Bearer {token}\" }]";
        written.findings.error(&integration.place_of("inject"), message, fix);
    }
    let mut placements: Vec<Placement> = Vec::new();
    let mut whole = true;
    for member in members {
        let Some(read) = placement(written, integration, member, fields) else {
            whole = false;
            continue;
        };
        let twin = |other: &Placement| folded(&other.header) == folded(&read.value.header);
        if placements.iter().any(twin) {
            let message =
                format!("inject of {} names the header {} twice", integration.shown, read.value.header);
            written.findings.error(&read.place, message, "leave one; - and _ count as the same letter");
        }
        placements.push(read.value);
    }
    if whole && (integration.entry("fields").is_some() || !elsewhere.is_empty()) {
        let mut fields = fields.to_vec();
        fields.retain(|(field, _)| !elsewhere.contains(&field.spec.name));
        warn_of_unused(written, &placements, &fields);
    }
    placements
}

fn placement(
    written: &mut Written<'_>,
    integration: &Table<'_>,
    member: &Spanned<DeValue<'_>>,
    fields: &[(FieldSetting, Place)],
) -> Option<Given<Placement>> {
    let shown = format!("inject of {}", integration.shown);
    if let Some(later) = LATER.iter().find(|word| member.get_ref().get(**word).is_some()) {
        super::super::written::mask_all(&mut written.findings, member);
        let message = format!("{shown}: a placement in \"{later}\" is not built into relay yet");
        let fix = "only { header = \"...\", value = \"...\" } is there";
        written.findings.error(&Place::Bytes(member.span()), message, fix);
        return None;
    }
    let table = written.member(
        shown,
        "integrations.*.inject",
        member,
        "write { header = \"...\", value = \"...\" }",
    )?;
    let header = header(written, &table);
    let value = template(written, &table, header.as_ref().map(|given| &given.value), fields);
    let header = header?;
    Some(Given { value: Placement { header: header.value, value: value? }, place: header.place })
}

fn header(written: &mut Written<'_>, table: &Table<'_>) -> Option<Given<HeaderName>> {
    let given = written.needed_text(table, "header", "name the header: header = \"authorization\"")?;
    let Ok(name) = HeaderName::from_bytes(given.value.as_bytes()) else {
        let message = format!("{}: this is no name of a header", table.shown);
        written.findings.error(&given.place, message, "write letters, digits and -");
        return None;
    };
    let folded = folded(&name);
    if OWNED.contains(&folded.as_str()) || OWNED_FAMILIES.iter().any(|family| folded.starts_with(family)) {
        let message = format!("{}: the header {name} is relay's own to write", table.shown);
        written.findings.error(
            &given.place,
            message,
            "name the header that the vendor reads the credential from",
        );
        return None;
    }
    Some(Given { value: name, place: given.place })
}

fn template(
    written: &mut Written<'_>,
    table: &Table<'_>,
    header: Option<&HeaderName>,
    fields: &[(FieldSetting, Place)],
) -> Option<Template> {
    let fix = "write how its value is built: value = \"Bearer {token}\"";
    let Some(given) = written.raw(table, "value") else {
        if table.entry("value").is_none() {
            written.missing(table, "value", fix);
        }
        return None;
    };
    let template = match Template::parse(&given.value) {
        Ok(template) => template,
        Err(problem) => {
            // It may be a credential, typed where a template belongs.
            written.mask(&given.place);
            written.findings.error(&given.place, format!("{}: {problem}", table.shown), fix);
            return None;
        }
    };
    if template.fields().is_empty() {
        return literal(written, table, header, &given, template);
    }
    let mut whole = true;
    for name in template.fields() {
        if fields.iter().any(|(field, _)| field.spec.name == *name) {
            continue;
        }
        whole = false;
        let known = || fields.iter().map(|(field, _)| field.spec.name.as_str());
        let near = suggest::nearest(name.as_str(), known());
        let hint = near.map(|near| format!("; did you mean {{{near}}}?")).unwrap_or_default();
        let message = format!("{}: {{{name}}} is not one of its fields{hint}", table.shown);
        let there: Vec<String> = known().map(|name| format!("{{{name}}}")).collect();
        let fix = match near {
            Some(near) => format!("write {{{near}}}"),
            None => format!("use {}, or declare it in fields", there.join(", ")),
        };
        written.findings.error(&given.place, message, fix);
    }
    whole.then_some(template)
}

/// A value without any field: fine for a version or a client's name, a leak where a credential goes.
fn literal(
    written: &mut Written<'_>,
    table: &Table<'_>,
    header: Option<&HeaderName>,
    given: &Given<String>,
    template: Template,
) -> Option<Template> {
    let sensitive = |name: &HeaderName| {
        let folded = folded(name);
        CREDENTIALS.iter().any(|part| folded.contains(part))
    };
    // Without a readable header nobody knows what the value is.
    if header.is_none_or(sensitive) {
        written.mask(&given.place);
    }
    let empty = match &template {
        Template::Text(parts) => {
            !parts.iter().any(|p| matches!(p, Part::Literal(text) if !text.trim().is_empty()))
        }
        Template::Basic { .. } => false,
    };
    let fix = "name a field: value = \"Bearer {token}\"";
    if empty {
        written.findings.error(&given.place, format!("{}: this value is empty", table.shown), fix);
        return None;
    }
    if header.is_some_and(sensitive) {
        let message = format!("{}: a credential may not stand in relay.toml itself", table.shown);
        written.findings.error(&given.place, message, format!("{fix}, and replace this credential"));
        return None;
    }
    if given.value.starts_with("env:") || given.value.starts_with("file:") {
        let message = format!("{}: a template is written here, not fetched", table.shown);
        written.findings.error(&given.place, message, fix);
        return None;
    }
    Some(template)
}

fn warn_of_unused(written: &mut Written<'_>, placements: &[Placement], fields: &[(FieldSetting, Place)]) {
    for (field, place) in fields {
        let name = &field.spec.name;
        if !placements.iter().any(|placement| placement.value.fields().contains(&name)) {
            let message = format!("no placement uses the field \"{name}\"");
            let fix = format!("use {{{name}}} in inject, or leave the field away");
            written.findings.warning(place, message, fix);
        }
    }
}

/// Vendors' servers that follow CGI take `-` and `_` for the same letter.
fn folded(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}
