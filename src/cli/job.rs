//! A job of the running relay, watched: a bar on a terminal, plain lines elsewhere.
//!
//! Whoever stops watching stops nothing: the job is relay's.

use std::io::IsTerminal;
use std::time::Duration;

use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::exit::Failure;
use super::target::Target;
use super::{Context, Format};

const ASKED_EVERY: Duration = Duration::from_millis(200);
/// How often a line is said where there is no terminal.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Follows the job that a call began, or found under way, to its end, and tells it as it was then. One of the kind `same` that was found is as
/// good as one begun; another is not what was asked for.
///
/// # Errors
/// As the admin API answers; if another job is under way; if something could not be moved.
pub(super) async fn watch(
    context: &mut Context,
    target: &Target,
    begun: &Value,
    same: Option<&str>,
) -> Result<Value, Failure> {
    let mut job = begun.get("job").cloned().unwrap_or_default();
    let id = text(&job, "id").to_owned();
    let other = begun.get("begun").and_then(Value::as_bool) != Some(true);
    if other {
        context.say("a job is under way already; this is its progress, and nothing new was begun");
    }
    let bar = std::io::stderr().is_terminal().then(bar);
    let mut said = Instant::now();
    while job.get("ended_at").is_none_or(Value::is_null) {
        match &bar {
            Some(bar) => show(bar, &job),
            None if said.elapsed() >= SAID_EVERY => {
                said = Instant::now();
                context.say(&line(&job));
            }
            None => {}
        }
        sleep(ASKED_EVERY).await;
        let answer = target.call(Method::GET, "/v1/jobs", None).await?;
        job = answer.get("job").cloned().unwrap_or_default();
        if text(&job, "id") != id {
            return Err(Failure::failed("the job has ended, and another one is under way: relay key status"));
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    match context.format {
        Format::Json => context.json(&job)?,
        Format::Text => context.line(&line(&job))?,
    }
    if other && same != Some(text(&job, "kind")) {
        return Err(Failure::failed("another job was under way, and this one was not begun: ask again"));
    }
    match number(&job, "left") {
        0 => Ok(job),
        left => Err(Failure::failed(format!(
            "{left} could not be moved and stay as they were; the log names them"
        ))),
    }
}

/// How much it moved.
pub(super) fn moved(job: &Value) -> u64 {
    number(job, "moved")
}

/// A job on one line.
pub(super) fn line(job: &Value) -> String {
    let state = match (text(job, "ended_at"), text(job, "paused")) {
        ("", "") => "under way".to_owned(),
        ("", why) => format!("paused ({why})"),
        (at, _) => format!("ended {at}"),
    };
    let of = job.get("of").and_then(Value::as_u64).map(|of| format!(" of {of}")).unwrap_or_default();
    format!(
        "{} {state}: customers {}{of}, moved {}, left {}",
        text(job, "kind"),
        number(job, "customers"),
        number(job, "moved"),
        number(job, "left")
    )
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} customers {eta}");
    let bar = ProgressBar::new(0);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, job: &Value) {
    bar.set_length(number(job, "of").max(number(job, "customers")));
    bar.set_position(number(job, "customers"));
    let paused = if text(job, "paused").is_empty() { "" } else { " (paused)" };
    bar.set_message(format!("{}{paused}", text(job, "kind")));
}

fn text<'a>(job: &'a Value, name: &str) -> &'a str {
    job.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(job: &Value, name: &str) -> u64 {
    job.get(name).and_then(Value::as_u64).unwrap_or_default()
}
