//! `relay integration`: rebind.

use clap::Subcommand;
use http::Method;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::target::{Target, Which};
use super::{Context, job};
use crate::model::IntegrationName;

/// Works on integrations.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Seals an integration's secrets for the name and origin that it has today:
    /// relay integration rebind slack --from https://old.slack.example
    Rebind {
        /// The integration, as named in relay.toml
        name: String,
        /// The origin it had before, its name before, or token:ORIGIN, the token endpoint's origin before; all
        /// that have changed
        #[arg(long, required = true, value_name = "ORIGIN|NAME|token:ORIGIN")]
        from: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
}

/// Runs one of them.
///
/// # Errors
/// As the admin API answers.
pub(super) async fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    let Command::Rebind { name, from, which } = command;
    let name = IntegrationName::parse(&name).map_err(|why| Failure::new(Exit::Usage, why.to_string()))?;
    let target = Target::find(context, &which)?;
    let body = json!({ "from": from }).to_string().into_bytes();
    let path = format!("/v1/integrations/{}/rebind", name.as_str());
    let begun = target.call(Method::POST, &path, Some(body)).await?;
    let job = job::watch(context, &target, &begun, None).await?;
    if job::moved(&job) == 0 {
        context.say("nothing was moved: no secret is sealed for what --from says, or all were moved before");
    }
    context.say("only secrets sealed for all that --from says are moved: `relay secret list` shows the rest");
    Ok(())
}
