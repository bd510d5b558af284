//! `relay key`: works on the keys of a running relay, one file per subcommand.

mod purge;

use clap::Subcommand;

use super::Context;
use super::exit::Failure;
use super::target::Which;

/// Works on the keys of a running relay.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Takes every data key out of memory, so that the next use of each asks the KMS: relay key purge
    Purge {
        #[command(flatten)]
        which: Which,
    },
}

/// Runs one of them.
pub(super) async fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Purge { which } => purge::run(context, &which).await,
    }
}
