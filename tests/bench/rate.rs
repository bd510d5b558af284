//! A fixed rate, and what relay adds to each request: through relay, and straight to the vendor, in turns.

use std::fs;

use tempfile::NamedTempFile;

use crate::contenders::Field;
use crate::load::h2load;
use crate::plan::{OTHER_CPU, Plan};
use crate::sample::median;
use crate::table::Summary;
use crate::vendor::Vendor;

const CLIENTS: u64 = 20;
const EACH_PER_SECOND: u64 = 100;

/// All rounds of one way to the vendor.
#[derive(Default)]
struct Way {
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    per_second: Vec<f64>,
    requests: u64,
    failed: u64,
}

pub fn run(plan: &Plan, field: &Field) -> u64 {
    let relay = field.relay();
    let through = (format!("http://{}/vendor/1k", relay.address), relay.headers.clone());
    let direct = (
        format!("https://{}/1k", field.vendor.address()),
        vec![("authorization".to_owned(), Vendor::bearer())],
    );
    let (mut relayed, mut straight) = (Way::default(), Way::default());
    for round in 0..plan.rounds() {
        plan.say(&format!("round {} of {}", round + 1, plan.rounds()));
        let mut both = [(&mut relayed, &through), (&mut straight, &direct)];
        both.rotate_left(round % 2);
        both.into_iter().for_each(|(way, (url, headers))| way.go(plan.seconds(), url, headers));
    }
    report(plan, &mut relayed, &mut straight)
}

impl Way {
    fn go(&mut self, seconds: u64, url: &str, headers: &[(String, String)]) {
        let log = NamedTempFile::new().unwrap();
        let (path, count) = (log.path().display().to_string(), CLIENTS * EACH_PER_SECOND * seconds);
        let how = [
            &format!("--clients={CLIENTS}"),
            &format!("--rps={EACH_PER_SECOND}"),
            &format!("--requests={count}"),
            &format!("--log-file={path}"),
        ];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let loaded = h2load(&["taskset", "-c", OTHER_CPU], &how.map(String::as_str), url, &headers);
        // Start in microseconds, status, microseconds until the answer's end.
        let text = fs::read_to_string(log.path()).unwrap();
        let took = |line: &str| line.split('\t').nth(2)?.parse::<f64>().ok();
        let mut times: Vec<f64> = text.lines().filter_map(took).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        self.p50_us.push(at(0.50));
        self.p99_us.push(at(0.99));
        self.per_second.push(loaded.per_second);
        self.requests += loaded.succeeded;
        self.failed += loaded.errors + count.saturating_sub(times.len() as u64);
    }
}

fn report(plan: &Plan, relayed: &mut Way, straight: &mut Way) -> u64 {
    // Of each round's own difference, before the medians sort the rounds.
    let added = |one: &[f64], other: &[f64]| {
        let mut pairs: Vec<f64> = one.iter().zip(other).map(|(one, other)| (one - other) / 1e3).collect();
        median(&mut pairs)
    };
    let (p50, p99) = (added(&relayed.p50_us, &straight.p50_us), added(&relayed.p99_us, &straight.p99_us));
    println!("\n### rate: GET, 1 KiB, {} requests a second\n", CLIENTS * EACH_PER_SECOND);
    println!("| | requests/s | p50 ms | p99 ms | failed |\n| --- | ---: | ---: | ---: | ---: |");
    for (name, way) in [("through relay", &mut *relayed), ("straight to the vendor", &mut *straight)] {
        println!(
            "| {name} | {:.0} | {:.3} | {:.3} | {} |",
            median(&mut way.per_second),
            median(&mut way.p50_us) / 1e3,
            median(&mut way.p99_us) / 1e3,
            way.failed
        );
    }
    println!();
    let mut summary =
        Summary::of("rate", relayed.requests + straight.requests, relayed.failed + straight.failed);
    summary.figure("p50_added_ms", p50);
    summary.figure("p99_added_ms", p99);
    summary.at_most("p50 added, ms", p50, 0.3);
    summary.at_most("p99 added, ms", p99, 1.0);
    summary.print(plan)
}
