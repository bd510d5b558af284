//! `inject`: where a credential goes, and what stands there.
//!
//! Judged against the declared fields before relay starts: no request ever meets a template that cannot
//! be filled. A credential written into a template literally is refused and never quoted.

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use super::super::FieldSetting;
use super::super::placement::{Placement, Pointer, Segment, Where};
use super::super::report::Place;
use super::super::suggest;
use super::super::template::{Part, Template};
use super::super::written::{Given, Table, Written};
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

/// The same of parameters, members and fields.
const MORE_CREDENTIALS: &[&str] = &["auth", "key", "pass", "pwd", "sig"];

/// The places, as they are written.
const PLACES: [&str; 6] = ["header", "query", "path", "cookie", "json", "form"];

/// Reads `inject` against the integration's fields. Fields that no placement uses get a warning, but those that
/// are used `elsewhere`; where there are such, `inject` may be left away.
pub(super) fn placements(
    written: &mut Written<'_>,
    integration: &Table<'_>,
    fields: &[(FieldSetting, Place)],
    elsewhere: &[FieldName],
) -> Vec<Placement> {
    let others = ["sign", "client_certificate"].iter().any(|key| integration.entry(key).is_some());
    if others && integration.entry("inject").is_none() {
        return Vec::new();
    }
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
        if let Some((problem, fix)) = placements.iter().find_map(|other| clash(&other.at, &read.value.at)) {
            let message = format!("inject of {} {problem}", integration.shown);
            written.findings.error(&read.place, message, fix);
        }
        placements.push(read.value);
    }
    if whole && (integration.entry("fields").is_some() || !elsewhere.is_empty()) {
        let unused: Vec<_> =
            fields.iter().filter(|(field, _)| !named_elsewhere(integration, field)).collect();
        warn_of_unused(written, &placements, &unused, elsewhere);
    }
    placements
}

/// Why two places cannot stand in one request, and what to do about it.
fn clash(one: &Where, other: &Where) -> Option<(String, &'static str)> {
    let leave_one = "leave one";
    match (one, other) {
        (Where::Header(a), Where::Header(b)) if folded(a) == folded(b) => {
            Some((format!("names the header {b} twice"), "leave one; - and _ count as the same letter"))
        }
        (Where::Query(a), Where::Query(b)) if a == b => {
            Some((format!("names the parameter {b} twice"), leave_one))
        }
        (Where::Path(_), Where::Path(_)) => Some(("has two paths".to_owned(), "write one with both in it")),
        (Where::Cookie(a), Where::Cookie(b)) if a == b => {
            Some((format!("names the cookie {b} twice"), leave_one))
        }
        (Where::Cookie(_), Where::Header(name)) | (Where::Header(name), Where::Cookie(_))
            if *name == http::header::COOKIE =>
        {
            Some(("has the header cookie beside a cookie".to_owned(), "write each cookie by its name"))
        }
        (Where::Json(a), Where::Json(b)) if a.meets(b) => {
            Some(("has two JSON pointers of which one leads through the other".to_owned(), leave_one))
        }
        (Where::Form(a), Where::Form(b)) if a == b => Some((format!("names the field {b} twice"), leave_one)),
        (Where::Json(_), Where::Form(_)) | (Where::Form(_), Where::Json(_)) => {
            Some(("has json beside form: a body is only one of them".to_owned(), leave_one))
        }
        _ => None,
    }
}

/// Whether another key of the integration has the field in a template: its upstream, its signature.
fn named_elsewhere(integration: &Table<'_>, field: &FieldSetting) -> bool {
    fn has(value: &DeValue<'_>, wanted: &str) -> bool {
        match value {
            DeValue::String(text) => text.contains(wanted),
            DeValue::Array(all) => all.iter().any(|value| has(value.get_ref(), wanted)),
            DeValue::Table(table) => table.iter().any(|(_, value)| has(value.get_ref(), wanted)),
            _ => false,
        }
    }
    let wanted = format!("{{{}}}", field.spec.name);
    let others = integration.in_order().into_iter().filter(|(key, ..)| !["fields", "inject"].contains(key));
    others.into_iter().any(|(_, _, value)| has(value.get_ref(), &wanted))
}

fn placement(
    written: &mut Written<'_>,
    integration: &Table<'_>,
    member: &Spanned<DeValue<'_>>,
    fields: &[(FieldSetting, Place)],
) -> Option<Given<Placement>> {
    let shown = format!("inject of {}", integration.shown);
    let fix = "write { header = \"...\", value = \"...\" }";
    let table = written.member(shown, "integrations.*.inject", member, fix)?;
    let places: Vec<&str> = PLACES.into_iter().filter(|place| table.entry(place).is_some()).collect();
    let at = match places.as_slice() {
        ["path"] => return path(written, &table, fields),
        [] | ["header"] => header(written, &table).map(|given| given.map(Where::Header)),
        [kind] => named(written, &table, kind),
        [one, other, ..] => {
            super::super::written::mask_all(&mut written.findings, member);
            let message = format!("{} names two places in one: {one} and {other}", table.shown);
            written.findings.error(&table.place_of(other), message, "write { } round each with its value");
            return None;
        }
    };
    let sensitive = at.as_ref().is_none_or(|given| is_sensitive(&given.value));
    let value = template(written, &table, "value", at.as_ref().map(|_| sensitive), fields);
    let (at, (value, place)) = (at?, value?);
    if let Some((problem, fix)) = misplaced(&at.value, &value) {
        written.findings.error(&place, format!("{}: {problem}", table.shown), fix);
        return None;
    }
    Some(Given { value: Placement { at: at.value, value }, place: at.place })
}

/// What a place cannot hold, whatever the fields are.
fn misplaced(at: &Where, value: &Template) -> Option<(&'static str, &'static str)> {
    if matches!(value, Template::Basic { .. }) && !matches!(at, Where::Header(_)) {
        return Some(("basic() is a header's", "write base64({user}:{password}) for the pair alone"));
    }
    let is_octets = |text: &str| text.bytes().all(is_cookie_octet);
    if matches!(at, Where::Cookie(_)) && !value.literals().all(is_octets) {
        let problem = "a cookie's value has no space, quote, comma, semicolon or backslash in it";
        return Some((problem, "write base64(...) round it if the vendor reads that"));
    }
    None
}

/// RFC 6265 section 4.1.1.
const fn is_cookie_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

/// `path = "/bot{token}"`: place and value in one.
fn path(
    written: &mut Written<'_>,
    table: &Table<'_>,
    fields: &[(FieldSetting, Place)],
) -> Option<Given<Placement>> {
    let fix = "write path = \"/bot{token}\"";
    if table.entry("value").is_some() {
        let message = format!("{}: a path is its own value", table.shown);
        written.findings.error(&table.place_of("value"), message, format!("{fix} and leave value away"));
        return None;
    }
    let (value, place) = template(written, table, "path", Some(true), fields)?;
    match Segment::all_of(&value) {
        Ok(segments) => Some(Given { value: Placement { at: Where::Path(segments), value }, place }),
        Err(problem) => {
            written.findings.error(&place, format!("{}: {problem}", table.shown), fix);
            None
        }
    }
}

/// A place that has a name: a parameter, a cookie, a member, a field.
fn named(written: &mut Written<'_>, table: &Table<'_>, kind: &str) -> Option<Given<Where>> {
    let (wanted, fix) = match kind {
        "query" => ("a parameter's name", "write query = \"api_key\""),
        "cookie" => ("a cookie's name", "write cookie = \"session\""),
        "json" => ("a pointer to a member", "write json = \"/auth/token\""),
        _ => ("a field's name", "write form = \"api_key\""),
    };
    let given = written.needed_text(table, kind, fix)?;
    let name = given.value;
    let plain = name.len() <= 128 && name.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let at = match kind {
        "json" => Pointer::parse(&name).map(Where::Json),
        "query" if plain => Ok(Where::Query(name)),
        "form" if plain => Ok(Where::Form(name)),
        // A cookie's name is a token, as a header's is (RFC 6265 section 4.1.1).
        "cookie" if plain && HeaderName::from_bytes(name.as_bytes()).is_ok() => Ok(Where::Cookie(name)),
        "cookie" => Err("it is letters, digits, - and _"),
        _ => Err("it is 1 to 128 bytes of ASCII without control characters"),
    };
    match at {
        Ok(value) => Some(Given { value, place: given.place }),
        Err(problem) => {
            let message = format!("{}: this is not {wanted}: {problem}", table.shown);
            written.findings.error(&given.place, message, fix);
            None
        }
    }
}

fn header(written: &mut Written<'_>, table: &Table<'_>) -> Option<Given<HeaderName>> {
    let given = written.needed_text(table, "header", "name the header: header = \"authorization\"")?;
    named_header(written, table, given)
}

/// A header that a vendor reads, and that is not relay's own.
pub(super) fn named_header(
    written: &mut Written<'_>,
    table: &Table<'_>,
    given: Given<String>,
) -> Option<Given<HeaderName>> {
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

/// The template under `key` and where it stands. `sensitive` says whether a credential belongs into the place,
/// if that is known.
fn template(
    written: &mut Written<'_>,
    table: &Table<'_>,
    key: &str,
    sensitive: Option<bool>,
    fields: &[(FieldSetting, Place)],
) -> Option<(Template, Place)> {
    let fix = match key {
        "path" => "write path = \"/bot{token}\"",
        _ => "write how its value is built: value = \"Bearer {token}\"",
    };
    let Some(given) = written.raw(table, key) else {
        if table.entry(key).is_none() {
            written.missing(table, key, fix);
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
    if template.fields().is_empty() && key == "path" {
        written.mask(&given.place);
        let message = format!("{}: this path has no field in it", table.shown);
        written.findings.error(&given.place, message, "write a fixed path behind upstream");
        return None;
    }
    if template.fields().is_empty() {
        return literal(written, table, sensitive, &given, template).map(|template| (template, given.place));
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
    whole.then_some((template, given.place))
}

/// A value without any field: fine for a version or a client's name, a leak where a credential goes.
fn literal(
    written: &mut Written<'_>,
    table: &Table<'_>,
    sensitive: Option<bool>,
    given: &Given<String>,
    template: Template,
) -> Option<Template> {
    // Without a readable place nobody knows what the value is.
    if sensitive.unwrap_or(true) {
        written.mask(&given.place);
    }
    let empty = match &template {
        Template::Text(parts) => {
            !parts.iter().any(|p| matches!(p, Part::Literal(text) if !text.trim().is_empty()))
        }
        Template::Basic { .. } | Template::Base64 { .. } => false,
    };
    let fix = "name a field: value = \"Bearer {token}\"";
    if empty {
        written.findings.error(&given.place, format!("{}: this value is empty", table.shown), fix);
        return None;
    }
    if sensitive == Some(true) {
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

/// Whether a credential belongs into this place, by its name.
fn is_sensitive(at: &Where) -> bool {
    let (name, more) = match at {
        Where::Path(_) | Where::Cookie(_) => return true,
        Where::Header(name) => (name.as_str(), &[][..]),
        Where::Query(name) | Where::Form(name) => (name.as_str(), MORE_CREDENTIALS),
        Where::Json(pointer) => (pointer.member(), MORE_CREDENTIALS),
    };
    let folded = name.to_ascii_lowercase().replace('_', "-");
    CREDENTIALS.iter().chain(more).any(|part| folded.contains(part))
}

fn warn_of_unused(
    written: &mut Written<'_>,
    placements: &[Placement],
    fields: &[&(FieldSetting, Place)],
    elsewhere: &[FieldName],
) {
    for (field, place) in fields {
        let name = &field.spec.name;
        let placed = placements.iter().any(|placement| placement.value.fields().contains(&name));
        if !placed && !elsewhere.contains(name) {
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
