//! `relay doctor`: is everything that relay needs as it must be? Each part with what to do.
//!
//! It calls what relay would call: the KMS makes and opens a data key, each issuer is asked for its keys, the
//! store is opened or its relay asked, the audit is verified. Beside a running relay it asks that one, and touches
//! nothing of its. What must never enter: a write to anything but the terminal, a value of a secret.

mod anchors;
mod around;
mod finding;
mod held;
mod issuers;
mod parts;

use std::path::Path;

use http::Method;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::exit::{Exit, Failure};
use super::target::{Target, Which};
use super::{Context, Format, process};
use crate::config::{self, Config, Files};

use finding::{Findings, Verdict};

/// The relay of this configuration, as it was found.
enum Here {
    /// None runs.
    Stopped,
    /// It runs, and this is its admin API.
    Runs(Box<Target>),
    /// Something answers in its place.
    Taken,
}

/// Looks at everything; the exit code is 0 if nothing fails, else 1.
///
/// # Errors
/// If stdout takes no more.
pub(super) fn run(context: &mut Context, file: &Path) -> Result<u8, Failure> {
    process::close_memory(context);
    let control = process::control()?;
    let (findings, running) = control.block_on(examine(context, file, control.handle()));
    match context.format {
        Format::Json => context.json(&json!({
            "file": file.display().to_string(),
            "running": running,
            "good": findings.worst() != Verdict::Fail,
            "checks": findings.to_json(),
        }))?,
        Format::Text => context.line(findings.to_text().trim_end())?,
    }
    Ok(if findings.worst() == Verdict::Fail { Exit::Failed as u8 } else { Exit::Ok as u8 })
}

async fn examine(context: &mut Context, file: &Path, control: &Handle) -> (Findings, bool) {
    let mut findings = Findings::default();
    let Some(config) = configuration(context, file, &mut findings) else { return (findings, false) };
    let here = running(context, file, &config, &mut findings).await;
    let mut around = around::Around::default();
    let ring = parts::keys(&config, &mut findings).await;
    let store = parts::store(&config, &here, control, &mut findings).await;
    let keys = ring.map(|ring| held::Keys::of(ring, control));
    let held = held::keys_in_use(&here, (store.as_deref(), keys.as_ref()), &mut findings).await;
    let keys = keys.filter(|_| held);
    parts::audit(&config, &here, (store.as_deref(), keys.as_ref()), (&mut around, &mut findings)).await;
    parts::disk(&config, &mut findings);
    around::listeners(&config, &here, &mut findings).await;
    let runs = matches!(here, Here::Runs(_));
    issuers::issuers(config.callers, &mut around, &mut findings).await;
    around.clock(&mut findings);
    (findings, runs)
}

fn configuration(context: &mut Context, file: &Path, findings: &mut Findings) -> Option<Config> {
    let (config, report) = config::examine_file(file, &context.environment, Files::Required);
    let check = "configuration";
    if report.errors() + report.warnings() > 0 {
        let text = report.render(context.fancy());
        context.say(text.trim_end());
    }
    let shown = file.display();
    match (&config, report.warnings()) {
        (Some(_), 0) => findings.ok(check, format!("{shown} is valid")),
        (Some(_), count) => {
            let found = format!("{shown} is valid, warnings: {count}");
            findings.warn(check, found, "see above; `relay check` shows each with its fix");
        }
        (None, _) => {
            let found = format!("{shown} is invalid, errors: {}", report.errors());
            findings.fail(check, found, "see above; `relay check` shows each with its fix");
        }
    }
    config
}

/// Whether the relay of this configuration runs, and is well.
async fn running(context: &Context, file: &Path, config: &Config, findings: &mut Findings) -> Here {
    let (check, place) = ("relay", config.server.admin_listen);
    let which = Which { config: Some(file.to_owned()) };
    let target = match Target::find(context, &which) {
        Ok(target) => target,
        Err(failure) => {
            findings.fail(check, failure.to_string(), "mend the configuration");
            return Here::Stopped;
        }
    };
    let ready = match target.ask(Method::GET, "/readyz", None).await {
        Ok(ready) => ready,
        Err(failure) if failure.exit == Exit::Unreachable => {
            findings.ok(check, format!("none runs at {place}: what it needs is looked at from here"));
            return Here::Stopped;
        }
        Err(failure) => {
            findings.fail(
                check,
                failure.to_string(),
                "see what listens there, or change [server] admin_listen",
            );
            return Here::Taken;
        }
    };
    if let Err(failure) = target.call(Method::GET, "/v1/audit/key", None).await {
        let fix = "see what listens there: another relay, or this one with an older [admin] token, which needs a restart";
        findings.fail(check, format!("what answers at {place} does not take [admin] token: {failure}"), fix);
        return Here::Taken;
    }
    if ready.status.is_success() {
        findings.ok(check, format!("it runs at {place} and is ready"));
    } else {
        let answer: Value = serde_json::from_slice(&ready.body).unwrap_or_default();
        let checks = answer.get("checks").and_then(Value::as_array).into_iter().flatten();
        let bad = checks.filter(|check| check.get("ok").and_then(Value::as_bool) == Some(false));
        let names: Vec<&str> = bad.filter_map(|check| check.get("name").and_then(Value::as_str)).collect();
        let found = format!("it runs at {place} and is not ready: {}", names.join(", "));
        findings.fail(check, found, "see below, and its log");
    }
    Here::Runs(Box::new(target))
}
