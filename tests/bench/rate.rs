//! A fixed rate, and what relay adds to each request: through relay, and straight to the vendor, in turns. What
//! nginx adds tells how much of it is a machine that wakes its cores slowly.
//!
//! Evenly spaced, which the limits are about; and as h2load does it, all clients in the same instant, where
//! a request also waits for those before it.

use std::fs;

use tempfile::NamedTempFile;

use crate::contenders::{Contender, Field};
use crate::load::h2load;
use crate::pace::{CLIENTS, PER_SECOND, Paced, Target};
use crate::plan::{OTHER_CPU, Plan};
use crate::sample::median;
use crate::table::Summary;
use crate::vendor::Vendor;

/// All rounds of one way to the vendor.
#[derive(Default)]
struct Way {
    name: &'static str,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    requests: u64,
    failed: u64,
}

pub fn run(plan: &Plan, field: &Field) -> u64 {
    let (relay, vendor) = (field.relay(), &field.vendor);
    let nginx = field.contenders.iter().find(|contender| contender.name == "nginx").expect("nginx");
    let authorization = [("authorization".to_owned(), Vendor::bearer())];
    let way = |name| Way { name, ..Way::default() };
    let mut ways = [
        way("spaced, through relay"),
        way("spaced, straight to the vendor"),
        way("spaced, through nginx"),
        way("bursts of 20, through relay"),
        way("bursts of 20, straight to the vendor"),
    ];
    for round in 0..plan.rounds() {
        plan.say(&format!("round {} of {}", round + 1, plan.rounds()));
        for place in 0..ways.len() {
            let at = (place + round) % ways.len();
            let paced = match at {
                0 => spaced(relay, VIA_RELAY).pace(plan.seconds()),
                1 => straight(vendor, &authorization).pace(plan.seconds()),
                2 => spaced(nginx, STRAIGHT).pace(plan.seconds()),
                3 => bursts(plan, &format!("http://{}{VIA_RELAY}", relay.address), &relay.headers),
                _ => bursts(plan, &format!("https://{}{STRAIGHT}", vendor.address()), &authorization),
            };
            ways[at].add(plan, &paced);
        }
    }
    report(plan, &mut ways)
}

const VIA_RELAY: &str = "/vendor/1k";
const STRAIGHT: &str = "/1k";

fn spaced<'t>(proxy: &'t Contender, path: &'t str) -> Target<'t> {
    Target { address: proxy.address, ca: None, path, headers: &proxy.headers }
}

fn straight<'t>(vendor: &'t Vendor, headers: &'t [(String, String)]) -> Target<'t> {
    Target { address: vendor.address(), ca: Some(&vendor.ca), path: STRAIGHT, headers }
}

fn bursts(plan: &Plan, url: &str, headers: &[(String, String)]) -> Paced {
    let log = NamedTempFile::new().unwrap();
    let how = [
        format!("--clients={CLIENTS}"),
        format!("--rps={}", PER_SECOND / CLIENTS),
        format!("--requests={}", PER_SECOND * plan.seconds()),
        format!("--log-file={}", log.path().display()),
    ];
    let how: Vec<&str> = how.iter().map(String::as_str).collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let loaded = h2load(&["taskset", "-c", OTHER_CPU], &how, url, &headers);
    // Start in microseconds, status, microseconds until the answer's end.
    let text = fs::read_to_string(log.path()).unwrap();
    let took = |line: &str| line.split('\t').nth(2)?.parse::<f64>().ok();
    let mut times: Vec<f64> = text.lines().filter_map(took).collect();
    times.sort_by(f64::total_cmp);
    Paced { times, failed: loaded.errors }
}

impl Way {
    fn add(&mut self, plan: &Plan, paced: &Paced) {
        let count = paced.times.len();
        let at = |share: f64| paced.times.get((count as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        self.p50_us.push(at(0.50));
        self.p99_us.push(at(0.99));
        self.requests += count as u64;
        let missing = (PER_SECOND * plan.seconds()).saturating_sub(count as u64);
        self.failed += paced.failed.max(missing);
    }
}

fn report(plan: &Plan, ways: &mut [Way; 5]) -> u64 {
    // Of each round's own difference, before the medians sort the rounds.
    let added = |one: &[f64], other: &[f64]| {
        let mut pairs: Vec<f64> = one.iter().zip(other).map(|(one, other)| (one - other) / 1e3).collect();
        median(&mut pairs)
    };
    let [through, straight, nginx, burst, burst_straight] = &*ways;
    let spaced = |way: &Way| (added(&way.p50_us, &straight.p50_us), added(&way.p99_us, &straight.p99_us));
    let ((p50, p99), (nginx_p50, nginx_p99)) = (spaced(through), spaced(nginx));
    let burst_p50 = added(&burst.p50_us, &burst_straight.p50_us);
    let burst_p99 = added(&burst.p99_us, &burst_straight.p99_us);
    println!("\n### rate: GET, 1 KiB, {PER_SECOND} requests a second\n");
    println!("| | p50 ms | p99 ms | failed |\n| --- | ---: | ---: | ---: |");
    for way in ways.iter_mut() {
        let (p50, p99) = (median(&mut way.p50_us) / 1e3, median(&mut way.p99_us) / 1e3);
        println!("| {} | {p50:.3} | {p99:.3} | {} |", way.name, way.failed);
    }
    println!();
    let count = |of: fn(&Way) -> u64| ways.iter().map(of).sum();
    let mut summary = Summary::of("rate", count(|way| way.requests), count(|way| way.failed));
    summary.figure("p50_added_ms", p50);
    summary.figure("p99_added_ms", p99);
    summary.figure("nginx_p50_added_ms", nginx_p50);
    summary.figure("nginx_p99_added_ms", nginx_p99);
    summary.figure("burst_p50_added_ms", burst_p50);
    summary.figure("burst_p99_added_ms", burst_p99);
    summary.at_most("p50 added, spaced, ms", p50, 0.3);
    summary.at_most("p99 added, spaced, ms", p99, 1.0);
    summary.print(plan)
}
