//! `relay store info`: what the store is and how much is in it, from the running relay or from the store itself.
//!
//! What must never enter: a customer's name, or anything of a record.

use http::Method;
use serde_json::Value;
use tokio::runtime::Handle;

use super::super::exit::{Exit, Failure};
use super::super::target::{Target, Which};
use super::super::{Context, Format};
use super::export::{existing, stopped};
use crate::admin;

pub(super) async fn run(context: &mut Context, which: &Which, control: &Handle) -> Result<(), Failure> {
    let target = Target::find(context, which)?;
    let asked = match target.call(Method::GET, "/v1/store", None).await {
        Err(failure) if failure.exit == Exit::Unreachable => {
            let Some(config) = stopped(&context.environment, which) else { return Err(failure) };
            let store = existing(&config?, control).await?;
            admin::described(&*store).await.map_err(Failure::failed)?
        }
        asked => asked?,
    };
    match context.format {
        Format::Json => context.json(&asked),
        Format::Text => context.line(&told(&asked)),
    }
}

fn told(info: &Value) -> String {
    let text = |name: &str| info.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let count = |name: &str| info.get(name).and_then(Value::as_u64);
    let number = |name: &str| count(name).map_or_else(|| "?".to_owned(), |number| number.to_string());
    let replicas = info.get("replicas").and_then(Value::as_array).into_iter().flatten();
    let replicas: Vec<&str> = replicas.filter_map(Value::as_str).collect();
    let lines = [
        ("engine", format!("{}, format {}", text("engine"), number("format"))),
        ("customers", number("customers")),
        ("data keys", number("data_keys")),
        ("secrets", number("secrets")),
        ("replicas", if replicas.is_empty() { "none yet".to_owned() } else { replicas.join(", ") }),
        ("size", count("bytes").map_or_else(|| "in memory".to_owned(), size)),
        ("writable", if info.get("writable") == Some(&Value::Bool(true)) { "yes" } else { "no" }.to_owned()),
    ];
    lines.map(|(name, value)| format!("{name:<9}  {value}")).join("\n")
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
