//! `relay key`: works on the keys of a running relay, one file per subcommand.

mod purge;
mod rotate;
mod status;

use clap::Subcommand;

use super::Context;
use super::exit::Failure;
use super::target::Which;

/// Works on the keys of a running relay.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Wraps all data keys by the KMS key of relay.toml, while relay serves: relay key rotate
    Rotate {
        /// Give every customer a new data key and seal everything anew
        #[arg(long)]
        data: bool,
        /// Ask the KMS for a new version of its key first
        #[arg(long, conflicts_with = "data")]
        new_version: bool,
        #[command(flatten)]
        which: Which,
    },
    /// Says which KMS key holds how many data keys, and what job is under way: relay key status
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// Takes every data key out of memory, so that the next use of each asks the KMS: relay key purge
    Purge {
        #[command(flatten)]
        which: Which,
    },
}

/// Runs one of them.
///
/// # Errors
/// As the admin API answers.
pub(super) async fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Rotate { data, new_version, which } => rotate::run(context, data, new_version, &which).await,
        Command::Status { which } => status::run(context, &which).await,
        Command::Purge { which } => purge::run(context, &which).await,
    }
}
