//! h2load, and what it says.

use std::process::Command;

use crate::process::output;

/// What one run came to.
#[derive(Debug, Default)]
pub struct Loaded {
    pub succeeded: u64,
    /// Failed, errored, timed out, or answered with anything but 2xx.
    pub errors: u64,
    pub per_second: f64,
}

/// Runs h2load over HTTP/1.1. `how` says how long or how many, and over how many connections; `through`
/// is what it is started by.
pub fn h2load(through: &[&str], how: &[&str], url: &str, headers: &[(&str, &str)]) -> Loaded {
    let words: Vec<&str> = through.iter().copied().chain(["h2load", "--h1"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(how);
    for (name, value) in headers {
        command.arg("-H").arg(format!("{name}: {value}"));
    }
    let done = output(command.arg(url));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "h2load: {text}{}", String::from_utf8_lossy(&done.stderr));
    read(&text).unwrap_or_else(|| panic!("h2load says something else by now: {text}"))
}

fn read(text: &str) -> Option<Loaded> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let number = |line: &str, word: &str| {
        let part = line.split(',').find(|part| part.trim_end().ends_with(word))?;
        part.split_whitespace().next()?.parse::<f64>().ok()
    };
    let (requests, codes, speed) = (line("requests: ")?, line("status codes: ")?, line("finished in ")?);
    let whole = |line: &str, word: &str| number(line, word).map(|number| number as u64);
    let (done, good) = (whole(requests, " done")?, whole(codes, "2xx")?);
    let broken = whole(requests, "failed")? + whole(requests, "errored")? + whole(requests, "timeout")?;
    let errors = broken + done.saturating_sub(good);
    Some(Loaded { succeeded: good, errors, per_second: number(speed, "req/s")? })
}
