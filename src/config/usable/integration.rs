//! `[integrations.NAME]`: one third-party API each.
//!
//! The origin is fixed here and nowhere else. What is unclear (an empty `allow`, plaintext without a
//! private address) is refused, so that no request has to be.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::super::renewal::{Renewal, Verify};
use super::super::report::Place;
use super::super::rule::Rule;
use super::super::signing::{ClientCertificate, Signing};
use super::super::upstream::UpstreamTemplate;
use super::super::written::{Given, Table, Written};
use super::super::{FieldSetting, Integration, OnReflect, Placement, Timeouts};
use super::doors::Doors;
use super::material::Around;
use super::{fields, login, per_customer, placement, renewal, server, signing, upstream};
use crate::model::{IntegrationName, Origin};

/// Reads every integration, in the order of the file.
pub(super) fn integrations(
    written: &mut Written<'_>,
    root: &Table<'_>,
    doors: &mut Doors,
) -> Vec<Integration> {
    let table = written.child(root, "integrations", "integrations");
    let all = table.in_order();
    if all.is_empty() && !written.torn {
        let message = "there is no integration: relay would refuse every request";
        written.findings.warning(&table.place, message, "add [integrations.NAME] with upstream and inject");
    }
    let mut integrations = Vec::new();
    for (name, place, _) in all {
        let entry = written.child(&table, name, "integrations.*");
        let read = entry.exists().then(|| integration(written, &entry, doors)).flatten();
        match IntegrationName::parse(name) {
            Ok(name) => integrations.extend(read.map(|read| Integration { name, ..read })),
            Err(wanted) => {
                written.findings.error(
                    &place,
                    wanted.to_string(),
                    "name it like this: [integrations.my_erp]",
                );
            }
        }
    }
    integrations
}

/// Everything but the name, for which a stand-in is left.
fn integration(written: &mut Written<'_>, table: &Table<'_>, doors: &mut Doors) -> Option<Integration> {
    let private_cidrs = private_cidrs(written, table);
    let plaintext_danger = written.switch(table, "plaintext_danger").is_some_and(|given| given.value);
    let Travel { fields, address, client_certificate, sign, renewal, verify, inject } =
        travel(written, table, (plaintext_danger, !private_cidrs.is_empty()));
    let allow = rules(written, table, "allow");
    let mut deny = rules(written, table, "deny");
    let base = address.as_ref().map_or("", |address| address.base_path.as_str());
    deny.extend(renewal.iter().filter_map(|renewal| renewal.closed_to_apps(base)));
    let ca_file = ca_file(written, table);
    let timeout = timeout(written, table);
    let listen = server::listen(written, table);
    let listen = doors.listen(written, table, listen);
    let host = host(written, table);
    let host = doors.host(written, table, host);
    // Read only where it is given, so that the default is on.
    let http2 = written.switch(table, "http2").is_none_or(|given| given.value);
    let cookies = written.switch(table, "cookies").is_some_and(|given| given.value);
    let ranges = written.switch(table, "ranges").is_some_and(|given| given.value);
    let websocket = written.switch(table, "websocket").is_some_and(|given| given.value);
    let isolate = written.choice(table, "isolate", &[("customer", true)], &[]);
    let rewrite_json = rewrite(written, table);
    let reflect = [("redact", OnReflect::Redact), ("block", OnReflect::Block), ("alert", OnReflect::Alert)];
    let on_reflect = written.choice(table, "on_reflect", &reflect, &[]).unwrap_or(OnReflect::Redact);
    let Pace { rate, burst, concurrency } = pace(written, table);
    let default_secret = written.choice(table, "default_secret", &[("only", true)], &[]);
    let collects = sign.is_some() || inject.iter().any(Placement::is_in_body);
    let body_limit = body_limit(written, table, collects);
    let Address { origin, base_path, per_customer } = address?;
    Some(Integration {
        name: IntegrationName::parse("unnamed").ok()?,
        origin,
        base_path,
        per_customer,
        listen,
        host,
        http2,
        fields: fields.into_iter().map(|(field, _)| field).collect(),
        inject,
        sign,
        client_certificate,
        allow,
        deny,
        ca_file,
        ca_pem: None,
        private_cidrs,
        plaintext_danger,
        timeout,
        cookies,
        ranges,
        websocket,
        isolate_customers: isolate.unwrap_or(false),
        rewrite_json,
        on_reflect,
        default_secret: default_secret.unwrap_or(false),
        body_limit: usize::try_from(body_limit).ok()?,
        rate,
        burst,
        concurrency,
        renewal: renewal.map(Arc::new),
        verify,
    })
}

/// How a credential comes to the vendor: what it consists of, where it goes, and in which shape.
struct Travel {
    fields: Vec<(FieldSetting, Place)>,
    address: Option<Address>,
    client_certificate: Option<ClientCertificate>,
    sign: Option<Signing>,
    renewal: Option<Renewal>,
    verify: Option<Verify>,
    inject: Vec<Placement>,
}

fn travel(written: &mut Written<'_>, table: &Table<'_>, (plaintext_danger, private): (bool, bool)) -> Travel {
    let declared = table.entry("fields").is_none().then(|| renewal::default_fields(table)).flatten();
    let mut fields = declared.unwrap_or_else(|| fields::fields(written, table));
    let address = address(written, table, (plaintext_danger, private), &fields);
    let secure = address.as_ref().is_none_or(|address| address.origin.is_secure());
    let client_certificate = signing::client_certificate(written, table, &mut fields, secure);
    let sign = signing::signing(written, table, &fields);
    let around = Around {
        upstream: address.as_ref().map(|address| &address.origin),
        per_customer: address.as_ref().is_some_and(|address| address.per_customer.is_some()),
        plaintext: plaintext_danger && private,
    };
    let (renewal, had_with) = renewal::renewal(written, table, &fields, &around);
    let verify = login::verify(written, table);
    if let Some(renewal) = &renewal {
        renewal::keys(renewal, &mut fields);
    }
    let mut elsewhere = signing::used(sign.as_ref(), client_certificate.as_ref());
    elsewhere.extend(had_with);
    let seen: Vec<_> = fields.iter().cloned().chain(renewal::access_token(table)).collect();
    let inject = placement::placements(written, table, &seen, &elsewhere);
    if verify.is_some() && inject.iter().any(Placement::is_in_body) {
        let message = format!("{} verify cannot try a credential that stands in a body", table.shown);
        written.findings.error(&table.place_of("verify"), message, "leave verify away");
    }
    signing::apart(written, table, &fields, sign.as_ref(), &inject);
    Travel { fields, address, client_certificate, sign, renewal, verify, inject }
}

struct Pace {
    rate: Option<u32>,
    burst: Option<u32>,
    concurrency: Option<usize>,
}

/// How much a customer may ask of the integration.
fn pace(written: &mut Written<'_>, table: &Table<'_>) -> Pace {
    let rate = written.whole_if_given(table, "rate", 1..=1_000_000);
    let burst = written.whole_if_given(table, "burst", 1..=1_000_000);
    let concurrency = written.whole_if_given(table, "concurrency", 1..=1_000_000);
    if burst.is_some() && rate.is_none() && written.absent(table, "rate") {
        let message = format!("{} burst is nothing without a rate", table.shown);
        written.findings.error(
            &table.place_of("burst"),
            message,
            "write rate = 50 as well, or leave burst away",
        );
    }
    let small = |number: Option<u64>| number.and_then(|number| u32::try_from(number).ok());
    let concurrency = concurrency.and_then(|number| usize::try_from(number).ok());
    Pace { rate: small(rate), burst: small(burst), concurrency }
}

/// The most bytes of a body that are collected; worth a look where none ever is.
fn body_limit(written: &mut Written<'_>, table: &Table<'_>, collects: bool) -> u64 {
    if table.entry("body_limit").is_some() && !collects {
        let message = format!("{} body_limit changes nothing: no body is collected here", table.shown);
        written.findings.warning(&table.place_of("body_limit"), message, "leave it away");
    }
    written.whole(table, "body_limit", 1024..=16 * 1024 * 1024, 1024 * 1024)
}

/// A host name of relay's own: letters, digits, dots and hyphens, as a `Host` field names it without its port.
fn host(written: &mut Written<'_>, table: &Table<'_>) -> Option<Given<String>> {
    let given = written.text(table, "host")?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let name = given.value.as_str();
    if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) || name.split('.').any(str::is_empty) {
        let message = format!("{} host is no host name in lower case, without a port", table.shown);
        let fix = "write the name that the app uses for relay: host = \"slack.relay.internal\"";
        written.findings.error(&given.place, message, fix);
        return None;
    }
    Some(given)
}

struct Address {
    origin: Origin,
    base_path: String,
    per_customer: Option<UpstreamTemplate>,
}

fn address(
    written: &mut Written<'_>,
    table: &Table<'_>,
    (plaintext_danger, private): (bool, bool),
    fields: &[(FieldSetting, Place)],
) -> Option<Address> {
    let fix = "write where the vendor is: upstream = \"https://api.vendor.example\"";
    let any_host = written.switch(table, "any_host_danger").is_some_and(|given| given.value);
    let given = written.needed_text(table, "upstream", fix)?;
    if given.value.contains(['{', '}']) {
        if any_host {
            per_customer::refuse_owned_values(written, table);
        }
        if any_host && private {
            let message =
                format!("{}: with any_host_danger every host in private_cidrs can be named", table.shown);
            written.findings.warning(&table.place_of("private_cidrs"), message, "leave private_cidrs away");
        }
        let template = per_customer::template(written, table, &given, fields, any_host)?;
        if any_host && !template.has_own_host() {
            unneeded(written, table, "any_host_danger", "a host that is fixed");
        }
        if plaintext_danger {
            unneeded(written, table, "plaintext_danger", "an https upstream");
        }
        let origin = Integration::nowhere()?;
        return Some(Address { origin, base_path: String::new(), per_customer: Some(template) });
    }
    if any_host {
        unneeded(written, table, "any_host_danger", "a host that is fixed");
    }
    let (origin, base_path) = match upstream::parse(&given.value) {
        Ok(address) => address,
        Err((problem, fix)) => {
            // A user, a query or a fragment may be a credential.
            if given.value.contains(['@', '?', '#']) {
                written.mask(&given.place);
            }
            written.findings.error(&given.place, format!("{} upstream {problem}", table.shown), fix);
            return None;
        }
    };
    let opened = plaintext_danger && private;
    if !origin.is_secure() && !opened {
        let message = format!("{} upstream is http: the credential would go out in the clear", table.shown);
        let fix = "write https://, or for a private address plaintext_danger = true with private_cidrs";
        written.findings.error(&given.place, message, fix);
    }
    if origin.is_secure() && plaintext_danger {
        let message = format!("{} plaintext_danger changes nothing for an https upstream", table.shown);
        written.findings.warning(&table.place_of("plaintext_danger"), message, "leave it away");
    }
    Some(Address { origin, base_path, per_customer: None })
}

fn unneeded(written: &mut Written<'_>, table: &Table<'_>, key: &str, what: &str) {
    let message = format!("{} {key} changes nothing for {what}", table.shown);
    written.findings.error(&table.place_of(key), message, "leave it away");
}

fn rules(written: &mut Written<'_>, table: &Table<'_>, key: &str) -> Vec<Rule> {
    let Some(given) = written.texts(table, key) else { return Vec::new() };
    let empty_list =
        table.entry(key).and_then(|value| value.get_ref().as_array()).is_some_and(|a| a.is_empty());
    if key == "allow" && empty_list {
        let message = format!("{} allow is an empty list: everything, or nothing?", table.shown);
        let fix =
            "leave allow away to allow anything below upstream, or write deny = [\"* /**\"] for nothing";
        written.findings.error(&given.place, message, fix);
    }
    let mut rules = Vec::new();
    for text in given.value {
        match Rule::parse(&text.value) {
            Ok(rule) => rules.push(rule),
            Err(problem) => {
                let message = format!("{} {key}: {problem}", table.shown);
                written.findings.error(
                    &text.place,
                    message,
                    "write it like \"GET /users/*\" or \"* /files/**\"",
                );
            }
        }
    }
    rules
}

/// `rewrite = ["json"]`; whether JSON is among what is named.
fn rewrite(written: &mut Written<'_>, table: &Table<'_>) -> bool {
    let Some(given) = written.texts(table, "rewrite") else { return false };
    let mut json = false;
    for text in given.value {
        if text.value == "json" {
            json = true;
        } else {
            let message = format!("{} rewrite knows \"json\" alone", table.shown);
            written.findings.error(&text.place, message, "write rewrite = [\"json\"]");
        }
    }
    json
}

fn private_cidrs(written: &mut Written<'_>, table: &Table<'_>) -> Vec<IpNet> {
    let Some(given) = written.texts(table, "private_cidrs") else { return Vec::new() };
    let mut networks = Vec::new();
    for text in given.value {
        let fix = "write a network such as \"10.1.0.0/16\", or one address as \"10.1.2.3/32\"";
        match text.value.parse::<IpNet>() {
            Err(_) => {
                let message = format!("{} private_cidrs: this is no network", table.shown);
                written.findings.error(&text.place, message, fix);
            }
            Ok(network) if network.trunc() != network => {
                let message =
                    format!("{} private_cidrs: this address has bits behind its prefix", table.shown);
                let network = network.trunc();
                written.findings.error(
                    &text.place,
                    message,
                    format!("write \"{network}\", or a longer prefix"),
                );
            }
            Ok(network) => {
                if network.prefix_len() == 0 {
                    let message = format!("{} private_cidrs opens every private address", table.shown);
                    written.findings.warning(&text.place, message, "name the vendor's own network");
                }
                networks.push(network);
            }
        }
    }
    networks
}

fn ca_file(written: &mut Written<'_>, table: &Table<'_>) -> Option<PathBuf> {
    if written.absent(table, "ca_file") {
        return None;
    }
    let given = written.path(table, "ca_file", "ca.pem")?;
    let name = format!("{} ca_file", table.shown);
    written.expect_file(
        &name,
        &given.value,
        &given.place,
        "put the vendor's root certificates there, as PEM",
    );
    Some(given.value)
}

fn timeout(written: &mut Written<'_>, integration: &Table<'_>) -> Timeouts {
    let table = written.child(integration, "timeout", "integrations.*.timeout");
    let default = Timeouts::default();
    let least = Duration::from_millis(10);
    let hour = Duration::from_secs(3600);
    Timeouts {
        connect: written.duration(&table, "connect", least..=Duration::from_secs(60), default.connect),
        first_byte: written.duration(&table, "first_byte", least..=hour, default.first_byte),
        idle: written.duration(&table, "idle", least..=24 * hour, default.idle),
    }
}
