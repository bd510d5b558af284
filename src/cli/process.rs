//! This process: its runtime, its log, its signals, and what others may read of its memory.
//!
//! Logs go to stderr. Whatever level is asked for, libraries beneath relay are held at INFO: their finer
//! levels print headers.

use std::io::IsTerminal;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::Context;
use super::exit::Failure;

/// Runs one command's future on a small runtime.
///
/// # Errors
/// If no runtime can be made.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    Ok(Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?.block_on(future))
}

/// The runtime of everything that is not the data path.
///
/// # Errors
/// If it cannot be made.
pub fn control() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("relay-control")
        .enable_all()
        .build()
        .map_err(Failure::failed)
}

/// No core dump, no debugger, no other user's look into this memory.
pub fn close_memory(context: &mut Context) {
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    if setrlimit(Resource::Core, no_core).is_err()
        || set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err()
    {
        context.say("relay: this system does not let a process close its memory to others");
    }
}

/// Logs to stderr: text on a terminal, JSON lines elsewhere. `RELAY_LOG` sets relay's own level: error,
/// warn, info (default), debug, trace.
pub fn log(context: &Context) {
    let asked = context.variable("RELAY_LOG").and_then(|level| level.parse().ok());
    let own: LevelFilter = asked.unwrap_or(LevelFilter::INFO);
    let others = own.min(LevelFilter::INFO);
    // What AWS's SDK says of credentials that it could not have holds the whole answer of who should have given
    // them; relay's own error says why without it.
    let filter = EnvFilter::new(format!("{others},aws_config=off,relay={own}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second log in one process (tests) keeps the first.
    let _ = if std::io::stderr().is_terminal() {
        builder.with_ansi(context.fancy()).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    // The default hook prints a panic's payload, which may hold anything.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a task panicked; its request has failed");
    }));
}

/// Resolves on SIGTERM or SIGINT.
///
/// # Errors
/// If signals cannot be watched.
pub async fn asked_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
