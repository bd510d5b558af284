//! What is measured.

use crate::contenders::{Contender, Field};
use crate::plan::Plan;
use crate::table::{Per, Row, Runner, Summary, print, race};
use crate::wrk::{Request, load};
use crate::{many, rate};

/// A closed loop that every contender runs.
struct Shape {
    title: &'static str,
    method: &'static str,
    path: &'static str,
    body: usize,
    answer: u64,
    connections: u32,
    per: Per,
}

const CONNECTIONS: u32 = 32;

/// Runs one case and prints it; how many requests failed.
pub fn run(plan: &Plan, field: &Field, name: &str) -> u64 {
    plan.say(name);
    let get = |title, path, answer| Shape {
        title,
        method: "GET",
        path,
        body: 0,
        answer,
        connections: CONNECTIONS,
        per: Per::Request,
    };
    match name {
        "get1k" => compare(plan, field, name, &get("GET, 1 KiB of JSON", "/1k", 1024)),
        "get64k" => compare(plan, field, name, &get("GET, 64 KiB of JSON", "/64k", 64 << 10)),
        "post16k" => {
            let shape = get("POST of 16 KiB, answered with 1 KiB", "/sink", 1024);
            compare(plan, field, name, &Shape { method: "POST", body: 16 << 10, ..shape })
        }
        "get10m" => {
            let shape = get("GET, 10 MiB of JSON", "/10m", 10 << 20);
            compare(plan, field, name, &Shape { connections: 8, per: Per::Mebibyte, ..shape })
        }
        "many" => many::run(plan, field),
        "synced" => synced(plan, field),
        "rate" => rate::run(plan, field),
        "before" => before(plan, field),
        other => panic!("there is no case {other}"),
    }
}

/// `requests` in turn, over [`CONNECTIONS`] connections, each answered with 1 KiB.
pub fn one_kib<'f>(name: &str, proxy: &'f Contender, requests: Vec<Request>) -> Runner<'f> {
    let load = move |seconds| load(proxy.address, &requests, 1024, CONNECTIONS, seconds);
    Runner { name: name.to_owned(), proxy, load: Box::new(load) }
}

fn compare(plan: &Plan, field: &Field, name: &str, shape: &Shape) -> u64 {
    let runner = |proxy| {
        let request = vec![Contender::request(proxy, shape.method, shape.path, shape.body)];
        let load = move |seconds| load(proxy.address, &request, shape.answer, shape.connections, seconds);
        Runner { name: proxy.name.to_owned(), proxy, load: Box::new(load) }
    };
    let runners: Vec<Runner<'_>> = field.contenders.iter().map(runner).collect();
    let rows = race(plan, shape.per, &runners);
    print(&format!("{name}: {}", shape.title), shape.per, &rows, "nginx");
    let mut summary = total(name, &rows);
    for (short, row) in SHORT.iter().zip(&rows) {
        summary.figure(&format!("{short}_us"), row.cpu_us());
    }
    let row = |short: &str| &rows[SHORT.iter().position(|one| *one == short).unwrap()];
    let (nginx, bare) = (row("relay").beside(row("nginx")), row("relay").beside(row("bare")));
    let envoy = row("envoy_es256").beside(row("relay"));
    summary.ratio("nginx", nginx);
    summary.ratio("bare", bare);
    summary.ratio("envoy_es256", envoy);
    match name {
        "get1k" => {
            summary.at_most("relay / nginx", nginx.0, 1.00);
            summary.at_most("relay / bare hyper proxy", bare.0, 1.10);
            summary.at_least("Envoy, ES256 cached / relay", envoy.0, 2.00);
        }
        "get10m" => summary.at_most("relay / nginx, per MiB", nginx.0, 1.20),
        _ => println!("- relay / nginx: {:.2}; relay / bare hyper proxy: {:.2}", nginx.0, bare.0),
    }
    summary.print(plan)
}

/// The contenders' names in summaries, in the order of [`Field::contenders`].
const SHORT: [&str; 7] = ["relay", "bare", "nginx", "haproxy", "haproxy_es256", "envoy", "envoy_es256"];

pub fn total(name: &str, rows: &[Row]) -> Summary {
    Summary::of(name, rows.iter().map(Row::requests).sum(), rows.iter().map(Row::failed).sum())
}

/// Each request waits until its record is on the disk, together with its neighbours.
fn synced(plan: &Plan, field: &Field) -> u64 {
    let (other, _) = Contender::relay(&plan.relay, &field.vendor, "synced");
    let get = |relay: &Contender| vec![relay.request("GET", "/1k", 0)];
    let runners =
        [one_kib("written", field.relay(), get(field.relay())), one_kib("synced", &other, get(&other))];
    let rows = race(plan, Per::Request, &runners);
    print("synced: GET, 1 KiB, the audit on disk before anything is sent", Per::Request, &rows, "written");
    let mut summary = total("synced", &rows);
    summary.figure("written_us", rows[0].cpu_us());
    summary.figure("synced_us", rows[1].cpu_us());
    summary.ratio("written", rows[1].beside(&rows[0]));
    summary.figure("synced_per_second", rows[1].median(|turn| turn.per_second));
    summary.print(plan)
}

/// An earlier relay beside this one: what was added since must not cost requests that do not use it.
fn before(plan: &Plan, field: &Field) -> u64 {
    let program = plan.before.as_ref().expect("the case `before` wants an earlier relay: BEFORE=FILE");
    let (other, _) = Contender::relay(program, &field.vendor, "written");
    let mut failed = 0;
    for (name, path, answer) in [("before1k", "/1k", 1024), ("before64k", "/64k", 64 << 10)] {
        let runner = |name: &str, proxy| {
            let request = vec![Contender::request(proxy, "GET", path, 0)];
            let load = move |seconds| load(proxy.address, &request, answer, CONNECTIONS, seconds);
            Runner { name: name.to_owned(), proxy, load: Box::new(load) }
        };
        let rows = race(plan, Per::Request, &[runner("relay", field.relay()), runner("before", &other)]);
        print(&format!("{name}: GET {path}, an earlier relay"), Per::Request, &rows, "before");
        let mut summary = total(name, &rows);
        summary.figure("relay_us", rows[0].cpu_us());
        summary.figure("before_us", rows[1].cpu_us());
        summary.ratio("before", rows[0].beside(&rows[1]));
        failed += summary.print(plan);
    }
    failed
}
