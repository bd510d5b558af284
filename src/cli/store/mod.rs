//! `relay store`: the store as a whole, one file per subcommand.

mod export;
mod import;
mod info;
mod migrate;
mod progress;
mod save;

use std::path::PathBuf;

use clap::Subcommand;

use super::exit::Failure;
use super::target::Which;
use super::{Context, Format, process};

/// Works on the store as a whole.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Writes all that the store holds, sealed as it is, into one file: relay store export --output store.export
    ///
    /// Beside a running relay it asks that one, which goes on serving; else it opens the store itself.
    Export {
        /// The file, which must not be there yet; - is stdout
        #[arg(long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
        #[command(flatten)]
        which: Which,
    },
    /// Fills an empty store from an export: relay store import store.export --config relay.toml
    Import {
        /// The export; - is stdin
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The configuration of the relay that will serve the store
        #[arg(long, value_name = "FILE", default_value = "relay.toml")]
        config: PathBuf,
        /// Go on with an import of the same export that was cut off
        #[arg(long)]
        resume: bool,
        /// Import although the KMS keys of [keys] do not open what the export holds, or cannot be asked
        #[arg(long)]
        without_key_check_danger: bool,
    },
    /// Says what the store is and how much is in it: relay store info --json
    ///
    /// Beside a running relay it asks that one; else it opens the store itself.
    Info {
        /// The same as --format json
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        which: Which,
    },
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
/// What each of them says.
pub(super) fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    process::close_memory(context);
    let control = process::control()?;
    let handle = control.handle().clone();
    control.block_on(async {
        match command {
            Command::Export { output, which } => export::run(context, &output, &which, &handle).await,
            Command::Import { file, config, resume, without_key_check_danger } => {
                let asked = import::Asked { file: &file, config: &config, resume, without_key_check_danger };
                import::run(context, asked, &handle).await
            }
            Command::Info { json, which } => {
                if json {
                    context.format = Format::Json;
                }
                info::run(context, &which, &handle).await
            }
            Command::Migrate { config, serving_role } => {
                migrate::run(context, &config, serving_role.as_deref()).await
            }
        }
    })
}
