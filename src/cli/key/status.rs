//! `relay key status`: KMS keys, what is under them, and the newest job.

use http::Method;
use serde_json::Value;

use super::super::exit::Failure;
use super::super::target::{Target, Which};
use super::super::{Context, Format, job};

pub(super) async fn run(context: &mut Context, which: &Which) -> Result<(), Failure> {
    let status = Target::find(context, which)?.call(Method::GET, "/v1/keys", None).await?;
    if context.format == Format::Json {
        return context.json(&status);
    }
    for key in status.get("keys").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let count = |name: &str| key.get(name).and_then(Value::as_u64).unwrap_or_default();
        let version = text("version").map(|version| format!(" version {version}")).unwrap_or_default();
        let now =
            if key.get("wraps_now").and_then(Value::as_bool) == Some(true) { "wraps now" } else { "earlier" };
        context.line(&format!(
            "{:<8} {}{version}  {now}  data keys {} ({} to {})  store keys {}",
            text("provider").unwrap_or("-"),
            text("key").unwrap_or("-"),
            count("data_keys"),
            text("oldest").unwrap_or("-"),
            text("newest").unwrap_or("-"),
            count("store_keys"),
        ))?;
    }
    match status.get("unknown").and_then(Value::as_u64) {
        None | Some(0) => {}
        Some(unknown) => {
            context.line(&format!("{unknown} data keys are under KMS keys that [keys] does not name"))?
        }
    }
    match status.get("job").filter(|job| job.is_object()) {
        Some(job) => context.line(&job::line(job)),
        None => Ok(()),
    }
}
