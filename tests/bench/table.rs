//! Rounds, tables, verdicts.

use std::fmt::Write as _;

use crate::contenders::Contender;
use crate::cpu::Meter;
use crate::plan::Plan;
use crate::sample::median;
use crate::wrk::Loaded;

/// What the CPU time is divided by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Per {
    Request,
    Mebibyte,
}

/// One contender's turn in one round.
pub struct Turn {
    /// CPU time of the proxy's process per request or MiB, microseconds.
    pub cpu_us: f64,
    /// Requests or MiB.
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Share of its core that the proxy used.
    pub busy: f64,
    pub rss_mib: f64,
    pub requests: u64,
    pub failed: u64,
    /// The CPU time is from ticks.
    pub coarse: bool,
}

/// All rounds of one contender.
pub struct Row {
    pub name: String,
    pub turns: Vec<Turn>,
}

/// One line of what is raced.
pub struct Runner<'f> {
    pub name: String,
    pub proxy: &'f Contender,
    /// Loads the proxy for so many seconds.
    pub load: Box<dyn Fn(u64) -> Loaded + 'f>,
}

/// Every runner once a round, each round beginning with another.
pub fn race(plan: &Plan, per: Per, runners: &[Runner<'_>]) -> Vec<Row> {
    let mut rows: Vec<Row> =
        runners.iter().map(|runner| Row { name: runner.name.clone(), turns: Vec::new() }).collect();
    if !plan.small {
        // Warmed up; nobody counts.
        for runner in runners {
            let _ = (runner.load)(1);
        }
    }
    for round in 0..plan.rounds() {
        plan.say(&format!("round {} of {}", round + 1, plan.rounds()));
        for place in 0..runners.len() {
            let at = (place + round) % runners.len();
            let turn = turn(plan, per, &runners[at]);
            plan.say(&format!("{}: {:.1} us, {:.0}/s", rows[at].name, turn.cpu_us, turn.per_second));
            rows[at].turns.push(turn);
        }
    }
    rows
}

fn turn(plan: &Plan, per: Per, runner: &Runner<'_>) -> Turn {
    let process = runner.proxy.process();
    let meter = Meter::start(process);
    let loaded = (runner.load)(plan.seconds());
    let spent = meter.stop();
    let units = match per {
        Per::Request => loaded.requests as f64,
        Per::Mebibyte => loaded.bytes as f64 / f64::from(1 << 20),
    };
    Turn {
        cpu_us: spent.us / units,
        per_second: units / loaded.seconds,
        p50_ms: loaded.p50_us / 1e3,
        p99_ms: loaded.p99_us / 1e3,
        busy: spent.us / 1e6 / loaded.seconds,
        rss_mib: process.status_kib("VmRSS:") as f64 / 1024.0,
        requests: loaded.requests,
        // A contender that answers nothing at all is broken, whatever the tool says.
        failed: loaded.failed + u64::from(loaded.requests == 0),
        coarse: spent.coarse,
    }
}

impl Row {
    pub fn median(&self, of: impl Fn(&Turn) -> f64) -> f64 {
        median(&mut self.turns.iter().map(of).collect::<Vec<f64>>())
    }

    pub fn cpu_us(&self) -> f64 {
        self.median(|turn| turn.cpu_us)
    }

    pub fn failed(&self) -> u64 {
        self.turns.iter().map(|turn| turn.failed).sum()
    }

    pub fn requests(&self) -> u64 {
        self.turns.iter().map(|turn| turn.requests).sum()
    }

    /// CPU beside `other`: of the medians, and the median of the rounds' own.
    pub fn beside(&self, other: &Self) -> (f64, f64) {
        let mut ratios: Vec<f64> =
            self.turns.iter().zip(&other.turns).map(|(one, other)| one.cpu_us / other.cpu_us).collect();
        (self.cpu_us() / other.cpu_us(), median(&mut ratios))
    }
}

/// The Markdown table. The third column is CPU beside the row named `stick`.
pub fn print(title: &str, per: Per, rows: &[Row], stick: &str) {
    let unit = if per == Per::Request { "request" } else { "MiB" };
    println!("\n### {title}\n");
    println!("| | CPU us/{unit} | x {stick} | {unit}s/s | p50 ms | p99 ms | core busy | RSS MiB | failed |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let beside = rows.iter().find(|row| row.name == stick).expect("the row to compare with");
    for row in rows {
        println!(
            "| {} | {:.1} | {:.2} | {:.0} | {:.2} | {:.2} | {:.0} % | {:.1} | {} |",
            row.name,
            row.cpu_us(),
            row.beside(beside).0,
            row.median(|turn| turn.per_second),
            row.median(|turn| turn.p50_ms),
            row.median(|turn| turn.p99_ms),
            row.median(|turn| turn.busy) * 100.0,
            row.median(|turn| turn.rss_mib),
            row.failed()
        );
    }
    println!();
    let coarse: usize = rows.iter().map(|row| row.turns.iter().filter(|turn| turn.coarse).count()).sum();
    if coarse > 0 {
        println!("{coarse} figures of CPU time are from 10 ms ticks: threads ended meanwhile.\n");
    }
}

/// What a case says at its end: `name=value` pairs, and whether each limit was kept.
pub struct Summary {
    case: String,
    pairs: String,
    failed: u64,
}

impl Summary {
    pub fn of(case: &str, requests: u64, failed: u64) -> Self {
        Self { case: case.to_owned(), pairs: format!("n={requests}"), failed }
    }

    pub fn figure(&mut self, name: &str, value: f64) {
        let _ = write!(self.pairs, " {name}={value:.2}");
    }

    /// A ratio of two rows as both ways of taking it.
    pub fn ratio(&mut self, name: &str, (medians, rounds): (f64, f64)) {
        self.figure(&format!("ratio_{name}"), medians);
        self.figure(&format!("rounds_{name}"), rounds);
    }

    pub fn at_most(&mut self, what: &str, value: f64, limit: f64) {
        self.verdict(what, value, "at most", limit, value <= limit);
    }

    pub fn at_least(&mut self, what: &str, value: f64, limit: f64) {
        self.verdict(what, value, "at least", limit, value >= limit);
    }

    fn verdict(&self, what: &str, value: f64, bound: &str, limit: f64, kept: bool) {
        let word = if kept { "kept" } else { "short" };
        println!("- {what}: {value:.2}, {bound} {limit:.2}: {word}");
    }

    /// Prints the line; how many requests failed.
    pub fn print(self, plan: &Plan) -> u64 {
        let size = if plan.small { " size=small" } else { "" };
        println!("\n    {} {} failed={} commit={}{size}", self.case, self.pairs, self.failed, plan.commit);
        self.failed
    }
}
