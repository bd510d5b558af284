//! `relay store`: the store itself, not what is in it.

mod migrate;

use std::path::PathBuf;

use clap::Subcommand;

use super::exit::Failure;
use super::{Context, process};

/// What can be done with the store.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes the schema in PostgreSQL, or brings it up to date: relay store migrate --serving-role relay
    Migrate {
        /// The configuration; its [store] url names the owner of the database, by RELAY__STORE__URL for this once
        #[arg(long, value_name = "FILE", default_value = "relay.toml")]
        config: PathBuf,
        /// Also give this role what serving needs, and nothing more
        #[arg(long, value_name = "ROLE")]
        serving_role: Option<String>,
    },
}

/// Runs one of them.
///
/// # Errors
/// As the command says.
pub(super) fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Migrate { config, serving_role } => {
            process::block_on(migrate::run(context, &config, serving_role.as_deref()))?
        }
    }
}
