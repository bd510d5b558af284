//! `relay run`: relay as configured, until it is told to stop.

use std::path::Path;

use super::exit::Failure;
use super::{Context, process};
use crate::app::{self, Options};
use crate::config;

/// Runs until SIGTERM or SIGINT; then new requests are refused and those under way may end.
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
    let control = process::control()?;
    control.block_on(async {
        let options = Options { accept_older_store, ..Options::default() };
        let running = app::start_with(loaded.config, options, control.handle().clone());
        let running = running.await.map_err(Failure::failed)?;
        tracing::info!(app = %running.app, admin = %running.admin, version = env!("CARGO_PKG_VERSION"), "relay runs");
        process::asked_to_stop().await.map_err(Failure::failed)?;
        tracing::info!("relay stops: no new requests, those under way may end");
        running.stop().await;
        Ok(())
    })
}
