//! `relay health`: is the running relay ready? For probes in images without curl.

use http::Method;
use serde_json::Value;

use super::exit::Failure;
use super::target::{Target, Which};
use super::{Context, Format};

/// Asks `/readyz`.
///
/// # Errors
/// Unreachable (exit code 4), not ready (1).
pub async fn run(context: &mut Context, which: &Which) -> Result<(), Failure> {
    let answer = Target::find(context, which)?.call(Method::GET, "/readyz", None).await?;
    match context.format {
        Format::Json => context.json(&answer),
        Format::Text => {
            for check in answer.get("checks").and_then(Value::as_array).into_iter().flatten() {
                let name = check.get("name").and_then(Value::as_str).unwrap_or("-");
                let ok = check.get("ok").and_then(Value::as_bool) == Some(true);
                context.line(&format!("{name:<12} {}", if ok { "ok" } else { "not ok" }))?;
            }
            Ok(())
        }
    }
}
