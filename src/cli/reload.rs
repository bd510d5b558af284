//! `relay reload`: the running relay reads its relay.toml again, or says what is wrong with it.

use http::Method;
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::target::{Target, Which};
use super::{Context, Format};

/// Asks for it.
///
/// # Errors
/// Invalid configuration (exit code 3), a key that needs a restart (1), unreachable (4), denied (5).
pub(super) async fn run(context: &mut Context, which: &Which) -> Result<(), Failure> {
    let target = Target::find(context, which)?;
    let path = format!("/v1/reload?fancy={}", context.fancy());
    let answer = target.ask(Method::POST, &path, None).await?;
    let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |name: &str| told.get(name).and_then(Value::as_str).unwrap_or_default();
    if answer.status.is_success() {
        if context.format == Format::Json {
            return context.json(&told);
        }
        let changed = told.get("changed").and_then(Value::as_array).into_iter().flatten();
        let changed: Vec<&str> = changed.filter_map(Value::as_str).collect();
        return match changed.as_slice() {
            [] => context.line("relay.toml is what it was"),
            keys => keys.iter().try_for_each(|key| context.line(key)),
        };
    }
    if context.format == Format::Json {
        context.json(&told)?;
    }
    match text("code") {
        "config_invalid" => {
            Err(Failure::new(Exit::ConfigInvalid, format!("{}\n{}", text("message"), text("report"))))
        }
        "restart_needed" | "config_unusable" | "config_no_file" => Err(Failure::failed(text("message"))),
        _ => Err(target.refused(&answer)),
    }
}
