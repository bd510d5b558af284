//! The same work by relay and by others, side by side: called by `tests/bench/run [--small] [CASE...]`.
//!
//! Every proxy has the first core, load and vendor share the second; rounds alternate. What is printed is
//! Markdown, and a summary line for each case. The exit code speaks of failed requests alone: whether a
//! figure from this machine counts is for a person to say. What must never enter: a figure of a proxy that
//! was not seen to do its work.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

/// h2load, and what it says.
#[path = "../drills/load.rs"]
mod load;
/// nginx in the foreground.
#[path = "../drills/nginx.rs"]
mod nginx;
/// A process that ends with its owner.
#[path = "../drills/process.rs"]
mod process;
/// The plain client.
#[path = "../rig/mod.rs"]
mod rig;
/// Medians.
#[path = "../drills/sample.rs"]
mod sample;
/// `relay run` over a folder of its own.
#[path = "../drills/stage.rs"]
mod stage;

/// What is measured.
mod cases;
/// The proxies, and the proof that each does its work.
mod contenders;
/// CPU time of a process, finer than the clock tick.
mod cpu;
/// How Envoy is told to do it.
mod envoy;
/// How HAProxy is told to do it.
mod haproxy;
/// On what the figures were taken.
mod machine;
/// One customer's secret among a thousand.
mod many;
/// Requests at an even pace.
mod pace;
/// What was asked for.
mod plan;
/// A fixed rate, and what relay adds to each request.
mod rate;
/// Rounds, tables, verdicts.
mod table;
/// The vendor that all of them call.
mod vendor;
/// wrk, and what it says.
mod wrk;

use std::process::ExitCode;
use std::time::Instant;

use contenders::Field;
use plan::Plan;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(plan) = Plan::of(&arguments) else {
        eprintln!("bench: called by tests/bench/run [--small] [CASE...]; CASE is one of");
        plan::CASES.iter().for_each(|name| eprintln!("  {name}"));
        return ExitCode::from(2);
    };
    let begun = Instant::now();
    machine::print(&plan);
    let field = Field::set(&plan);
    let mut failed = 0;
    for name in &plan.cases {
        let before = machine::Ticks::now();
        failed += cases::run(&plan, &field, name);
        println!("\n- taken by others on the host meanwhile: {:.0} % of the cores", before.stolen() * 100.0);
    }
    println!("\nbench seconds={:.0} failed={failed} commit={}", begun.elapsed().as_secs_f64(), plan.commit);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
