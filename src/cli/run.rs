//! `relay run`: relay as configured, until it is told to stop; SIGHUP has it read its configuration again.

use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::Failure;
use super::systemd::Notify;
use super::{Context, process};
use crate::app::{self, Options, Running, Source};
use crate::config;

/// How long tasks beside the data path have to end behind everything else.
const LAST_TASKS: Duration = Duration::from_millis(100);

/// Runs until SIGTERM or SIGINT; then the listeners close, and what is under way may end. A second one ends relay
/// at once, behind the audit's last anchor.
///
/// # Errors
/// Invalid configuration (exit code 3); whatever cannot be opened or bound.
pub fn run(context: &mut Context, file: &Path, accept_older_store: bool) -> Result<(), Failure> {
    process::close_memory(context);
    process::log(context);
    let loaded = config::load(file, &context.environment).map_err(|report| context.invalid(&report))?;
    if loaded.warnings.warnings() > 0 {
        let text = loaded.warnings.render(context.fancy());
        context.say(text.trim_end());
    }
    let notify = Notify::of(context);
    let source = Source { path: file.to_owned(), environment: context.environment.clone() };
    let control = process::control()?;
    let ended = control.block_on(async {
        // Watched before anything is opened, so that none of them ends relay by its default.
        let mut hangups = signal(SignalKind::hangup()).map_err(Failure::failed)?;
        let options = Options { accept_older_store, source: Some(source), ..Options::default() };
        let running = app::start_with(loaded.config, options, control.handle().clone());
        let running = running.await.map_err(Failure::failed)?;
        tracing::info!(app = %running.app, admin = %running.admin, version = env!("CARGO_PKG_VERSION"), "relay runs");
        notify.ready("serving");
        let stop = process::asked_to_stop();
        tokio::select! {
            asked = stop => asked.map_err(Failure::failed)?,
            () = serve(&running, &mut hangups, &notify) => {}
        }
        tracing::info!("relay stops: no new connections, what is under way may end");
        notify.stopping();
        let last_word = running.last_word();
        tokio::select! {
            () = running.stop() => Ok(()),
            () = watched(&notify, || true) => Ok(()),
            _ = process::asked_to_stop() => {
                last_word.say().await;
                Err(Failure::failed("told to stop a second time: what was under way is cut"))
            }
        }
    });
    // What still runs is waited for by nobody: a disk that hangs, or anything after a second signal.
    control.shutdown_timeout(LAST_TASKS);
    ended
}

/// What is done beside serving, for as long as that lasts.
async fn serve(running: &Running, hangups: &mut Signal, notify: &Notify) {
    let reloads = async {
        while hangups.recv().await.is_some() {
            notify.reloading();
            // What came of it stands in the log, the metrics and the audit.
            let done = running.reload().await;
            notify.ready(if done.is_ok() { "serving" } else { "serving by the last good relay.toml" });
        }
        std::future::pending::<()>().await;
    };
    tokio::join!(reloads, watched(notify, || running.is_alive()));
}

/// Tells systemd's watchdog that relay is alive, while it is; never ends.
async fn watched(notify: &Notify, alive: impl Fn() -> bool) {
    let Some(period) = notify.watchdog() else { return std::future::pending().await };
    loop {
        if alive() {
            notify.alive();
        }
        tokio::time::sleep(period).await;
    }
}
