//! `relay health`: is the running relay ready, or alive at all? For probes in images without curl, and where the admin
//! listener is on a loopback that the prober is not on.

use http::Method;
use serde_json::Value;

use super::exit::Failure;
use super::target::{Target, Which};
use super::{Context, Format};

/// Asks `/readyz`, or `/healthz` if it is enough that relay is `alive`.
///
/// # Errors
/// Unreachable (exit code 4), not ready (1).
pub async fn run(context: &mut Context, which: &Which, alive: bool) -> Result<(), Failure> {
    if alive {
        let answer = Target::find(context, which)?.ask(Method::GET, "/healthz", None).await?;
        return if answer.status.is_success() { Ok(()) } else { Err(Failure::failed("relay is not alive")) };
    }
    let answer = Target::find(context, which)?.ask(Method::GET, "/readyz", None).await?;
    let ready: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match context.format {
        Format::Json => context.json(&ready)?,
        Format::Text => {
            for check in ready.get("checks").and_then(Value::as_array).into_iter().flatten() {
                let name = check.get("name").and_then(Value::as_str).unwrap_or("-");
                let text = |member: &str| check.get(member).and_then(Value::as_str).unwrap_or("-");
                let ok = check.get("ok").and_then(Value::as_bool) == Some(true);
                let since = if ok { String::new() } else { format!(" since {}", text("since")) };
                context.line(&format!("{name:<12} {}{since}", text("state")))?;
            }
            if ready.get("degraded").and_then(Value::as_bool) == Some(true) && answer.status.is_success() {
                context.line("degraded     relay serves, and something needs you: its log says what")?;
            }
        }
    }
    if answer.status.is_success() { Ok(()) } else { Err(Failure::failed("relay is not ready")) }
}
