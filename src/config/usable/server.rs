//! `[server]` and `[server.limits]`: listeners and limits.
//!
//! Nothing is bound here. A limit has a floor under which relay could serve nobody and a ceiling over
//! which it would be none.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::written::{Given, Table, Written};
use super::super::{Limits, Server};
use crate::model::Origin;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Reads `[server]`; all of it has defaults.
pub(super) fn server(written: &mut Written<'_>, root: &Table<'_>) -> Server {
    let table = written.child(root, "server", "server");
    let listen = address(written, &table, "listen", 8480);
    let admin_listen = address(written, &table, "admin_listen", 8481);
    if overlap(listen.value, admin_listen.value) {
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
    Server {
        listen: listen.value,
        admin_listen: admin_listen.value,
        public_url: public_url(written, &table),
        workers: usize::try_from(workers).unwrap_or(1),
        grace: written.duration(&table, "grace", Duration::ZERO..=HOUR, Duration::from_secs(25)),
        limits: limits(written, &table),
    }
}

fn address(written: &mut Written<'_>, table: &Table<'_>, key: &str, port: u16) -> Given<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], port));
    let otherwise = || Given { value: default, place: table.place_of(key) };
    let Some(given) = written.text(table, key) else { return otherwise() };
    match given.value.parse() {
        Ok(value) => Given { value, place: given.place },
        Err(_) => {
            let message = format!("{} {key} is not an IP address and a port", table.shown);
            let fix = format!("write {key} = \"{default}\"; names are not looked up");
            written.findings.error(&given.place, message, fix);
            otherwise()
        }
    }
}

/// Whether binding both must fail. Port 0 is a fresh one each time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
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
