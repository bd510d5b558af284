//! System calls per request, counted by strace. Counting slows a process down many times over, so it is
//! never done while anything else is measured.

use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::load::Loaded;
use crate::process::Process;

/// What `load` makes `process` call: strace's table, and calls per request. `None` without strace, or
/// where it may not look.
pub fn count(process: &Process, load: impl FnOnce() -> Loaded) -> Option<(String, f64)> {
    let report = NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-q", "-o"]).arg(report.path()).args(["-p", &process.pid().to_string()]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let mut strace = Process(child);
    // Until it holds every thread.
    std::thread::sleep(Duration::from_millis(700));
    if strace.has_ended() {
        return None;
    }
    let loaded = load();
    strace.interrupt();
    let table = std::fs::read_to_string(report.path()).ok()?;
    let total = table.lines().find(|line| line.trim_end().ends_with(" total"))?;
    // % time, seconds, usecs/call, calls, and errors if there were any
    let calls: f64 = total.split_whitespace().nth(3)?.parse().ok()?;
    Some((table, calls / loaded.succeeded as f64))
}
