//! `login` and `verify`: calls to the vendor's own API, below its upstream.

use std::time::Duration;

use http::Method;
use serde_json::Value;
use toml::de::DeValue;

use super::super::renewal::{Encoding, Grant, Pointers, Renewal, Verify};
use super::super::report::Place;
use super::super::written::{Table, Written, article};
use super::material::{Around, Reader};

const HOUR: Duration = Duration::from_secs(3600);

/// Reads `login`: the values go to an endpoint of the vendor's, which answers with a token.
pub(super) fn login(
    reader: &mut Reader<'_, '_, '_>,
    table: &Table<'_>,
    around: &Around<'_>,
) -> Option<Renewal> {
    let given = reader.written.needed_text(table, "post", "write where: post = \"/auth/login\"");
    let path = given.and_then(|given| reader.path(table, "post", &given));
    let json = reader.written.child(table, "json", "integrations.*.login.json");
    let form = reader.written.child(table, "form", "integrations.*.login.form");
    let (encoding, body) = match (json.exists(), form.exists()) {
        (true, true) => {
            let message = format!("{} has both json and form", table.shown);
            reader.written.findings.error(&table.place_of("form"), message, "keep what the vendor reads");
            (Encoding::Json, &json)
        }
        (false, true) => (Encoding::Form, &form),
        (_, false) => (Encoding::Json, &json),
    };
    let parameters = reader.all(body);
    if !json.exists() && !form.exists() {
        let fix = "write json = { username = \"{user}\", password = \"{password}\" }";
        reader.written.missing(table, "json", fix);
    }
    if table.entry("token").is_none() {
        reader.written.missing(table, "token", "say where the answer has it: token = \"/data/token\"");
    }
    let token = reader.pointer(table, "token");
    let (expires_in, expires_at) = (reader.pointer(table, "expires_in"), reader.pointer(table, "expires_at"));
    let most = Duration::from_secs(10)..=Duration::from_secs(31_536_000);
    let lifetime = reader.written.duration(table, "lifetime", most, HOUR);
    let origin = around.upstream?;
    Some(Renewal {
        origin: origin.clone(),
        token_origin: None,
        below_upstream: true,
        path: path?,
        kind: Grant::Login,
        client: None,
        parameters,
        encoding,
        answer: Pointers { token: token?, expires_in, expires_at, refresh: None },
        lifetime,
    })
}

/// Reads `verify`.
pub(super) fn verify(written: &mut Written<'_>, integration: &Table<'_>) -> Option<Verify> {
    let table = written.child(integration, "verify", "integrations.*.verify");
    if !table.exists() {
        return None;
    }
    let (get, post) = (path(written, &table, "get"), path(written, &table, "post"));
    let expect =
        written.whole_if_given(&table, "expect", 200..=499).and_then(|code| u16::try_from(code).ok());
    let pointer = written.text(&table, "json").filter(|given| {
        let right = given.value.starts_with('/');
        if !right {
            let message = format!("{} json is no JSON pointer", table.shown);
            written.findings.error(&given.place, message, "begin it with a slash: \"/ok\"");
        }
        right
    });
    let equals = equals(written, &table);
    let says = match (pointer, equals) {
        (Some(pointer), Some(value)) => Some((pointer.value, value)),
        (None, None) => None,
        (Some(_), None) => {
            written.missing(&table, "equals", "write what stands there: equals = true");
            None
        }
        (None, Some(_)) => {
            written.missing(&table, "json", "write where: json = \"/ok\"");
            None
        }
    };
    let (method, path) = match (get, post) {
        (Some(path), None) => (Method::GET, path),
        (None, Some(path)) => (Method::POST, path),
        (Some(_), Some(_)) => {
            let message = format!("{} has both get and post", table.shown);
            written.findings.error(&table.place_of("post"), message, "keep one call");
            return None;
        }
        (None, None) => {
            written.missing(&table, "get", "write a call that any credential may make: get = \"/me\"");
            return None;
        }
    };
    Some(Verify { method, path, expect, says })
}

fn path(written: &mut Written<'_>, table: &Table<'_>, key: &str) -> Option<String> {
    let given = written.text(table, key)?;
    let text = given.value.as_str();
    let clear = text.bytes().all(|b| (0x21..0x7f).contains(&b)) && !text.contains(['#', '\\', '{', '}']);
    let dots = text.split(['/', '?']).any(|segment| segment == "." || segment == "..");
    if !text.starts_with('/') || !clear || dots {
        let message = format!("{} {key} is no clear path below upstream", table.shown);
        written.findings.error(&given.place, message, "write it like /users/me?fields=id");
        return None;
    }
    Some(given.value)
}

/// A text, a number or a switch.
fn equals(written: &mut Written<'_>, table: &Table<'_>) -> Option<Value> {
    let value = table.entry("equals")?;
    match value.get_ref() {
        DeValue::String(text) => Some(Value::from(text.as_ref())),
        DeValue::Boolean(on) => Some(Value::from(*on)),
        DeValue::Integer(whole) => i64::from_str_radix(whole.as_str(), whole.radix()).ok().map(Value::from),
        other => {
            let message =
                format!("{} equals is a text, a number or a switch, not {}", table.shown, article(other));
            written.findings.error(&Place::Bytes(value.span()), message, "write equals = true");
            None
        }
    }
}
