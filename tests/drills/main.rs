//! The long measurements behind `tests/drill NAME [--full]`: one file per promise, against real processes.
//!
//! Called by the script with the binaries to drive; alone it says which drills there are. The last line
//! printed is the figure; the exit code is 0 only if the promise held.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::type_complexity,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

/// A relay whose KMS is a fake of AWS's, and customers with a secret each.
mod cloud;
/// Requests as bytes, each with the mistake that it carries and what must come of it.
#[path = "../corpus/framing.rs"]
mod corpus;
/// A relay whose store and audit stand on disks that can go wrong.
mod fault;
/// What a drill is asked for, and the line that it ends with.
mod figure;
/// h2load, and what it says.
mod load;
/// nginx, as vendor and as the proxy to compare with.
mod nginx;
/// A fixed rate over many secrets.
mod paced;
/// A process that ends with its owner, and what the kernel knows of it.
mod process;
/// Vendors without TLS that keep every byte, or that ignore bodies.
mod recorder;
/// Other programs that read HTTP/1.1.
mod replay;
/// A real relay, a real vendor, a canary credential and the hunt for it.
#[path = "../rig/mod.rs"]
mod rig;
/// Medians, and how sure they are.
mod sample;
/// `relay run` over a folder of its own, and the built-in vendor, as processes.
mod stage;
/// Secrets by the hundred thousand, sealed and stored as relay does.
mod stock;
/// System calls per request.
mod strace;
/// Apps against replicas that come and go.
mod traffic;

/// A store moves from sled into PostgreSQL and back.
mod across;
/// How often the KMS is called.
mod calls;
/// Nothing that relay shows to anyone but the vendor holds the credential; the hunt would find it.
mod canary;
/// A wall clock that is set, by an hour and by five years.
mod clock;
/// The credential stands in relay's memory no longer than its connection to the vendor.
mod core;
/// Disks that are full.
mod diskfull;
/// Two replicas take turns under load, each told to stop while streams run.
mod drain;
/// PostgreSQL's primary is killed and its standby promoted, and nobody loses anything.
#[cfg(feature = "postgres")]
mod failover;
/// Ten gibibytes pass each way unchanged, in flat memory.
mod gib;
/// An app that guesses the next byte learns nothing from what comes back.
mod guess;
/// What was acknowledged survives kill -9.
mod kill9;
/// Every spelling of a credential in every coding, cut at every place: none reaches the app.
mod matrix;
/// A store as large as a large SaaS has it is exported and imported elsewhere: the same, fast, in flat memory.
mod moving;
/// One customer that asks for far too much leaves its neighbours alone.
mod neighbours;
/// Another customer's UUID is answered as an unknown one, and as fast.
mod oracle;
/// A KMS that is down is bridged, and one that denies is obeyed.
mod outage;
/// A name whose addresses change from answer to answer leads to no address that may not be called.
mod rebind;
/// relay.toml is read again under load, good and broken in turn.
mod reload;
/// Every request of a load is answered and recorded, and the record shows every edit.
mod requests;
/// What is stopped on one replica is stopped on the other, also while that one hears nothing.
mod revoke;
/// Keys are rotated under load without a failed request, and killed in the middle without a loss.
mod rotate;
/// A store as large as a large SaaS has it: start, memory, lookups, and the bounds of the caches.
mod scale;
/// A PostgreSQL as large as a large SaaS has it, and the replicas on it: start, memory, lookups, and their idling.
#[cfg(feature = "postgres")]
mod scale_postgres;
/// Thousands of slow clients, and one that is not.
mod slow;
/// Disks that hang, and disks that fail.
mod slowdisk;
/// As many requests as relay says reach the vendor, and every reader finds as many in the same bytes.
mod smuggle;
/// CPU per request beside nginx.
mod speed;
/// Events are not delayed.
mod sse;
/// Apps that stop reading, and vendors that do, cost relay a bounded amount of memory.
mod stalled;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use figure::{Figure, Plan};

type Drill = fn(&Plan) -> Figure;

const DRILLS: &[(&str, Drill)] = &[
    ("requests", requests::run),
    ("gib", gib::run),
    ("sse", sse::run),
    ("guess", guess::run),
    ("kill9", kill9::run),
    ("canary", canary::run),
    ("matrix", matrix::run),
    ("oracle", oracle::run),
    ("speed", speed::run),
    ("stalled", stalled::run),
    ("scale", scale::run),
    #[cfg(feature = "postgres")]
    ("scale_postgres", scale_postgres::run),
    ("smuggle", smuggle::run),
    ("slow", slow::run),
    ("rebind", rebind::run),
    ("core", core::run),
    ("outage", outage::run),
    ("calls", calls::run),
    ("rotate", rotate::run),
    ("neighbours", neighbours::run),
    ("revoke", revoke::run),
    ("move", moving::run),
    ("drain", drain::run),
    ("reload", reload::run),
    #[cfg(feature = "postgres")]
    ("failover", failover::run),
    ("diskfull", diskfull::run),
    ("slowdisk", slowdisk::run),
    ("clock", clock::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(plan) = Plan::of(&arguments) else {
        eprintln!("drills: called by tests/drill NAME [--full]; NAME is one of");
        DRILLS.iter().for_each(|(name, _)| eprintln!("  {name}"));
        return ExitCode::from(2);
    };
    let Some((name, drill)) = DRILLS.iter().find(|(name, _)| *name == plan.name) else {
        eprintln!("drills: there is no drill {:?}", plan.name);
        return ExitCode::from(2);
    };
    let begun = Instant::now();
    // A panic is a drill that could not be carried out, or whose real processes did the unexpected.
    let figure = catch_unwind(AssertUnwindSafe(|| drill(&plan))).unwrap_or_else(|_| Figure::broken());
    let size = if plan.full { "" } else { " size=small" };
    println!(
        "{name} n={} result={} seconds={:.1} commit={}{size}",
        figure.n,
        figure.result,
        begun.elapsed().as_secs_f64(),
        plan.commit
    );
    if figure.kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
