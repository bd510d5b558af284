//! `[audit]`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{GivenPath, section};
use crate::audit::replica::is_name;
use crate::audit::{Durability, Rotation};
use crate::config::audit::{Audit, Otlp};
use crate::config::written::{Table, Written, mask_all};
use crate::net::fetch::operators_address;

/// The least and the most bytes of a segment: a few thousand records, and a TiB.
const SEGMENT: (u64, u64) = (64 * 1024, 1 << 40);
const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(31_557_600);

/// What the section says.
pub(super) struct Given {
    pub(super) path: Option<GivenPath>,
    durability: Durability,
    replica: Option<String>,
    rotation: Rotation,
    stdout: bool,
    otlp: Option<Otlp>,
}

impl Given {
    pub(super) fn usable(self) -> Audit {
        let Self { path, durability, replica, rotation, stdout, otlp } = self;
        Audit { path: path.map(|path| path.value), durability, replica, rotation, stdout, otlp }
    }
}

pub(super) fn audit(written: &mut Written<'_>, root: &Table<'_>) -> Option<Given> {
    let table = section(written, root, "audit", "relay uses no secret that it cannot record");
    let words = [("written", Durability::Written), ("synced", Durability::Synced)];
    let durability = written.choice(&table, "durability", &words, &[]).unwrap_or(Durability::Written);
    let replica = replica(written, &table);
    let rotation = rotation(written, &table);
    let stdout = written.switch(&table, "stdout").is_some_and(|on| on.value);
    let given = table.entry("otlp").is_some();
    let otlp = otlp(written, &table);
    let path = if (stdout || given) && written.absent(&table, "path") {
        if rotation.bytes.is_some() || rotation.every.is_some() || rotation.retain.is_some() {
            let message = format!("{} has no path, and only a file has segments", table.shown);
            written.findings.error(&table.place, message, "write path = \"audit.jsonl\"");
        }
        None
    } else {
        Some(written.path(&table, "path", "audit.jsonl")?)
    };
    Some(Given { path, durability, replica, rotation, stdout, otlp })
}

fn otlp(written: &mut Written<'_>, parent: &Table<'_>) -> Option<Otlp> {
    parent.entry("otlp")?;
    let table = written.child(parent, "otlp", "audit.otlp");
    collector(written, &table, "audit.otlp.headers", "write endpoint = \"https://HOST:4318/v1/logs\"")
}

/// The collector that a table names, whose headers have this shape.
pub(super) fn collector(
    written: &mut Written<'_>,
    table: &Table<'_>,
    headers_shape: &'static str,
    fix: &str,
) -> Option<Otlp> {
    let endpoint = written.needed_text(table, "endpoint", fix);
    let endpoint = endpoint.and_then(|given| {
        let url = operators_address(&given.value);
        if url.is_none() {
            let message = format!("{} endpoint is no https address, nor http on this machine", table.shown);
            written.findings.error(&given.place, message, fix);
        }
        url
    });
    let mut headers = HeaderMap::new();
    if table.entry("headers").is_some() {
        let fields = written.child(table, "headers", headers_shape);
        for (name, place, value) in fields.in_order() {
            mask_all(&mut written.findings, value);
            let Some(value) = written.secret(&fields, name, 1) else { continue };
            let name = HeaderName::from_bytes(name.as_bytes()).ok();
            let value = HeaderValue::from_bytes(value.value.expose()).ok();
            let Some((name, mut value)) = name.zip(value) else {
                let message = format!("{} is no header field, or its value none", fields.shown);
                written.findings.error(&place, message, "write authorization = \"file:otlp.token\"");
                continue;
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    let ca_file =
        if written.absent(table, "ca_file") { None } else { written.path(table, "ca_file", "ca.pem") };
    if let Some(file) = &ca_file {
        let place = table.place_of("ca_file");
        written.expect_file("ca_file", &file.value, &place, "write the roots' PEM there");
    }
    Some(Otlp { endpoint: endpoint?, headers, ca_file: ca_file.map(|file| file.value) })
}

fn replica(written: &mut Written<'_>, table: &Table<'_>) -> Option<String> {
    let given = written.text(table, "replica")?;
    if is_name(&given.value) {
        return Some(given.value);
    }
    let message =
        format!("{} replica is no name: 1 to 64 of a-z, 0-9, dot, underscore and hyphen", table.shown);
    written.findings.error(
        &given.place,
        message,
        "write a name that no other replica has, such as \"relay-0\"",
    );
    None
}

fn rotation(written: &mut Written<'_>, table: &Table<'_>) -> Rotation {
    let bytes = written.whole_if_given(table, "rotate_bytes", SEGMENT.0..=SEGMENT.1);
    let every = duration(written, table, "rotate_every", (MINUTE, YEAR));
    let retain = duration(written, table, "retain", (60 * MINUTE, 100 * YEAR));
    if retain.is_some() && bytes.is_none() && every.is_none() {
        let message = format!("{} retain deletes whole segments, and there is only one", table.shown);
        let place = table.place_of("retain");
        written.findings.error(&place, message, "write rotate_bytes or rotate_every too");
    }
    Rotation { bytes, every, retain, ..Rotation::default() }
}

fn duration(
    written: &mut Written<'_>,
    table: &Table<'_>,
    key: &str,
    (least, most): (Duration, Duration),
) -> Option<Duration> {
    let given = !written.absent(table, key);
    given.then(|| written.duration(table, key, least..=most, most))
}
