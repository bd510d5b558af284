//! `relay key purge`: no data key stays in memory.

use http::Method;
use serde_json::Value;

use super::super::exit::Failure;
use super::super::target::{Target, Which};
use super::super::{Context, Format};

/// Asks the running relay, and says how many keys it held.
pub(super) async fn run(context: &mut Context, which: &Which) -> Result<(), Failure> {
    let answer = Target::find(context, which)?.call(Method::POST, "/v1/keys/purge", None).await?;
    match context.format {
        Format::Json => context.json(&answer),
        Format::Text => {
            let dropped = answer.get("dropped").and_then(Value::as_u64).unwrap_or_default();
            let keys = if dropped == 1 { "data key" } else { "data keys" };
            context.line(&format!("{dropped} {keys} left memory"))
        }
    }
}
