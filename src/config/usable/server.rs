//! `[server]` and `[server.limits]`: listeners and limits.
//!
//! Nothing is bound here. A limit has a floor under which relay could serve nobody and a ceiling over
//! which it would be none.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::written::{Given, Table, Written};
use super::super::{Limits, Listen, Server, ServerTls};
use crate::model::Origin;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Reads `[server]`; all of it has defaults.
pub(super) fn server(written: &mut Written<'_>, root: &Table<'_>) -> Server {
    let table = written.child(root, "server", "server");
    let default = SocketAddr::from(([127, 0, 0, 1], 8480));
    let listen = listen(written, &table)
        .unwrap_or_else(|| Given { value: Listen::plain(default), place: table.place_of("listen") });
    let admin_listen = admin_listen(written, &table);
    if overlap(&listen.value, &Listen::plain(admin_listen.value)) {
        let given = [&admin_listen.place, &listen.place].into_iter().find(|place| **place != table.place);
        written.findings.error(
            given.unwrap_or(&table.place),
            "[server] listen and admin_listen are the same address",
            "give admin_listen another port: operators and apps never share one",
        );
    } else if !admin_listen.value.ip().is_loopback() {
        written.findings.warning(
            &admin_listen.place,
            "[server] admin_listen can be reached from other machines, without TLS",
            "keep it on 127.0.0.1, or let only operators reach it",
        );
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let workers = written.whole(&table, "workers", 1..=1024, cores.min(1024));
    let tls = tls(written, &table);
    needs_certificate(written, &listen, tls.is_some() || table.entry("tls").is_some());
    Server {
        listen: listen.value,
        tls,
        admin_listen: admin_listen.value,
        public_url: public_url(written, &table),
        workers: usize::try_from(workers).unwrap_or(1),
        grace: written.duration(&table, "grace", Duration::ZERO..=HOUR, Duration::from_secs(25)),
        drain_delay: written.duration(&table, "drain_delay", Duration::ZERO..=HOUR, Duration::ZERO),
        limits: limits(written, &table),
    }
}

/// `listen` of `table`: an address, `tls:` and an address, or `unix:` and a path.
pub(super) fn listen(written: &mut Written<'_>, table: &Table<'_>) -> Option<Given<Listen>> {
    let given = written.text(table, "listen")?;
    if let Some(path) = given.value.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        let value = Listen::Unix(written.folder.join(path));
        return Some(Given { value, place: given.place });
    }
    let (tls, address) = match given.value.strip_prefix("tls:") {
        Some(address) => (true, address),
        None => (false, given.value.as_str()),
    };
    match address.parse() {
        Ok(address) => Some(Given { value: Listen::Tcp { address, tls }, place: given.place }),
        Err(_) => {
            let message = format!("{} listen is not an IP address and a port", table.shown);
            let fix = "write listen = \"127.0.0.1:8480\", \"tls:127.0.0.1:8443\" or \"unix:relay.sock\"; names are not looked up";
            written.findings.error(&given.place, message, fix);
            None
        }
    }
}

/// Reports a listener that speaks TLS where there is no certificate.
pub(super) fn needs_certificate(written: &mut Written<'_>, listen: &Given<Listen>, there: bool) {
    if listen.value.is_tls() && !there {
        let message = "this listener speaks TLS, and there is no [server.tls]";
        let fix = "add [server.tls] with certificate and key";
        written.findings.error(&listen.place, message, fix);
    }
}

fn tls(written: &mut Written<'_>, server: &Table<'_>) -> Option<ServerTls> {
    server.entry("tls")?;
    let table = written.child(server, "tls", "server.tls");
    let mut file = |key: &str, what: &str, needed: bool| {
        if written.absent(&table, key) {
            if needed {
                written.missing(&table, key, &format!("write {key} = \"{key}.pem\": {what}"));
            }
            return None;
        }
        let given = written.path(&table, key, "")?;
        written.expect_file(&format!("[server.tls] {key}"), &given.value, &given.place, what);
        Some(given.value)
    };
    let certificate = file("certificate", "the certificate and what it was issued by, as PEM", true);
    let key = file("key", "the certificate's private key, as PEM", true);
    let client_ca = file("client_ca", "the authorities of clients' certificates, as PEM", false);
    Some(ServerTls { certificate: certificate?, key: key?, client_ca })
}

fn admin_listen(written: &mut Written<'_>, table: &Table<'_>) -> Given<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], 8481));
    let otherwise = || Given { value: default, place: table.place_of("admin_listen") };
    let Some(given) = written.text(table, "admin_listen") else { return otherwise() };
    match given.value.parse() {
        Ok(value) => Given { value, place: given.place },
        Err(_) => {
            let message = format!("{} admin_listen is not an IP address and a port", table.shown);
            let fix = format!("write admin_listen = \"{default}\"; names are not looked up");
            written.findings.error(&given.place, message, fix);
            otherwise()
        }
    }
}

/// Whether binding both must fail. Port 0 is a fresh one each time.
pub(super) fn overlap(one: &Listen, other: &Listen) -> bool {
    let (one, other) = match (one, other) {
        (Listen::Unix(one), Listen::Unix(other)) => return one == other,
        (Listen::Tcp { address: one, .. }, Listen::Tcp { address: other, .. }) => (one, other),
        (Listen::Tcp { .. }, Listen::Unix(_)) | (Listen::Unix(_), Listen::Tcp { .. }) => return false,
    };
    let everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || everywhere)
}

fn public_url(written: &mut Written<'_>, table: &Table<'_>) -> Option<String> {
    let given = written.text(table, "public_url")?;
    match Origin::parse(given.value.trim_end_matches('/')) {
        Ok(origin) => Some(origin.to_string()),
        Err(_) => {
            // Whoever writes more than an origin may have written a password into it.
            written.mask(&given.place);
            let message = "[server] public_url is no plain address of relay";
            let fix = "write https://host or https://host:port, in lower case and without a path";
            written.findings.error(&given.place, message, fix);
            None
        }
    }
}

fn limits(written: &mut Written<'_>, server: &Table<'_>) -> Limits {
    let table = written.child(server, "limits", "server.limits");
    let default = Limits::default();
    let mut count = |key: &str, range: std::ops::RangeInclusive<usize>, default: usize| {
        let range = *range.start() as u64..=*range.end() as u64;
        usize::try_from(written.whole(&table, key, range, default as u64)).unwrap_or(default)
    };
    let head_bytes = count("head_bytes", 8 * 1024..=1024 * 1024, default.head_bytes);
    let head_fields = count("head_fields", 16..=1_000, default.head_fields);
    let connections = count("connections", 1..=1_000_000, default.connections);
    let in_flight_per_customer =
        count("in_flight_per_customer", 1..=1_000_000, default.in_flight_per_customer);
    let idle_per_origin = count("idle_per_origin", 0..=10_000, default.idle_per_origin);
    let cache = 1024 * 1024..=1024 * 1024 * 1024 * 1024;
    Limits {
        head_bytes,
        head_fields,
        head_timeout: written.duration(&table, "head_timeout", SECOND..=5 * MINUTE, default.head_timeout),
        connections,
        in_flight_per_customer,
        record_cache_bytes: written.whole(&table, "record_cache_bytes", cache, default.record_cache_bytes),
        data_keys: written.whole(&table, "data_keys", 1..=10_000_000, default.data_keys),
        idle_per_origin,
        idle_timeout: written.duration(&table, "idle_timeout", SECOND..=10 * MINUTE, default.idle_timeout),
    }
}
