//! `relay customer`: forget.

use std::io::IsTerminal;

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::target::{Target, Which};
use super::{Context, Format};

/// Works on customers.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Deletes a customer's data keys and secrets for good: relay customer forget acme --yes
    Forget {
        /// The customer
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        which: Which,
    },
}

/// Runs one of them.
///
/// # Errors
/// As the admin API answers.
pub(super) async fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    let Command::Forget { name, yes, which } = command;
    let target = Target::find(context, &which)?;
    if !yes {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(
                Exit::Usage,
                "forgetting asks first; give --yes where nobody can answer",
            ));
        }
        context.say(&format!(
            "this deletes every secret and every data key of {name}. Type the customer's name:"
        ));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(Failure::failed)?;
        if answer.trim_end_matches(['\n', '\r']) != name {
            return Err(Failure::failed("nothing was forgotten"));
        }
    }
    let gone = target.call(Method::DELETE, &format!("/v1/customers/{}", escaped(&name)), None).await?;
    if context.format == Format::Json {
        return context.json(&gone);
    }
    let count = |name: &str| gone.get(name).and_then(Value::as_u64).unwrap_or_default();
    context.line(&format!("forgotten: {} secrets, {} data keys", count("secrets"), count("data_keys")))
}

/// As one segment of a path (RFC 3986 section 3.3).
fn escaped(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
