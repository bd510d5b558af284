//! `relay audit tail`: the newest records, over segments and as they come.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::exit_code;
use crate::audit::segments::segments;
use crate::clock;

/// How `relay audit tail` shows records.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    /// How many of the newest records to begin with; all that are wanted if `None`.
    pub lines: Option<usize>,
    /// Whether to go on with what is added.
    pub follow: bool,
    /// Whether to pass the lines as they stand, for programs.
    pub json: bool,
    /// Which records.
    pub wanted: Wanted,
}

/// Which records are wanted: those for which all of this holds.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of this customer.
    pub customer: Option<String>,
    /// Of this integration.
    pub integration: Option<String>,
    /// Of this secret.
    pub secret: Option<String>,
    /// What relay refused.
    pub denied: bool,
    /// Written at or after this, in seconds since 1970.
    pub since: Option<u64>,
}

impl Wanted {
    const fn is_all(&self) -> bool {
        let Self { customer, integration, secret, denied, since } = self;
        customer.is_none() && integration.is_none() && secret.is_none() && !*denied && since.is_none()
    }

    fn wants(&self, line: &[u8]) -> bool {
        if self.is_all() {
            return true;
        }
        let Ok(record) = serde_json::from_slice::<Value>(line) else { return false };
        let text = |name: &str| record.get(name).and_then(Value::as_str);
        let is = |name: &str, wanted: &Option<String>| wanted.is_none() || text(name) == wanted.as_deref();
        let late = |since: u64| text("time").and_then(clock::parse_rfc3339).is_some_and(|at| at >= since);
        let refused = text("kind") == Some("refused") || record.get("code").is_some();
        is("customer", &self.customer)
            && is("integration", &self.integration)
            && is("secret", &self.secret)
            && (!self.denied || refused)
            && self.since.is_none_or(late)
    }
}

/// Shows the newest records of the audit at `path` and its segments, and with `follow` what is added for as long
/// as `goes_on` says. The exit code. What went wrong goes to `talk`.
pub fn tail(
    args: &Tail,
    path: &Path,
    goes_on: &dyn Fn() -> bool,
    out: &mut dyn Write,
    talk: &mut dyn Write,
) -> u8 {
    exit_code(shown(args, path, goes_on, out), talk)
}

fn shown(args: &Tail, path: &Path, goes_on: &dyn Fn() -> bool, out: &mut dyn Write) -> io::Result<()> {
    // Opened before the segments are listed, so that none ends unseen in between.
    let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut active = File::open(path).map_err(at)?;
    let own = active.metadata()?.ino();
    let mut earlier = segments(path)?;
    earlier.retain(|segment| fs::metadata(&segment.path).is_ok_and(|there| there.ino() != own));
    let mut lines: VecDeque<Vec<u8>> = VecDeque::new();
    let plain = args.wanted.is_all();
    let most = args.lines.unwrap_or(usize::MAX);
    if plain {
        let mut before = Vec::new();
        let mut missing = most.saturating_sub(count_of_last(&mut active, most)?);
        while let Some(segment) = earlier.pop().filter(|_| missing > 0) {
            let mut file = File::open(&segment.path)?;
            missing -= count_of_last(&mut file, missing)?.min(missing);
            before.push(file);
        }
        for file in before.into_iter().rev() {
            collect(args, file, &mut lines)?;
        }
    } else {
        let old = |ended: u64| args.wanted.since.is_some_and(|since| ended < since);
        for segment in earlier.iter().filter(|segment| !old(segment.ended)) {
            collect(args, File::open(&segment.path)?, &mut lines)?;
        }
        active.rewind()?;
    }
    let (source, line) = collect(args, active, &mut lines)?;
    lines.iter().try_for_each(|line| show(line, args.json, out))?;
    out.flush()?;
    if args.follow { follow(args, path, (source, line), goes_on, out) } else { Ok(()) }
}

/// Seeks to where the last `lines` lines begin, or to the beginning; how many there are from there.
fn count_of_last(file: &mut File, lines: usize) -> io::Result<usize> {
    let start = if lines == usize::MAX { 0 } else { start_of_last(file, lines)? };
    if start > 0 {
        file.seek(SeekFrom::Start(start))?;
        return Ok(lines);
    }
    file.rewind()?;
    let count = BufReader::new(&mut *file).split(b'\n').count();
    file.rewind()?;
    Ok(count)
}

/// Takes what is wanted of the whole lines from where the file stands, and what follows them.
fn collect(args: &Tail, file: File, lines: &mut VecDeque<Vec<u8>>) -> io::Result<(BufReader<File>, Vec<u8>)> {
    let mut source = BufReader::with_capacity(64 * 1024, file);
    let mut line = Vec::new();
    while source.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        let taken = std::mem::take(&mut line);
        if args.wanted.wants(&taken) {
            lines.push_back(taken);
        }
        if args.lines.is_some_and(|most| lines.len() > most) {
            lines.pop_front();
        }
    }
    Ok((source, line))
}

fn follow(
    args: &Tail,
    path: &Path,
    (mut source, mut line): (BufReader<File>, Vec<u8>),
    goes_on: &dyn Fn() -> bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    while goes_on() {
        // Asked before the rest is read: what ended this segment stands in it by then.
        let there = fs::metadata(path).map(|there| there.ino());
        let ended = there.is_ok_and(|there| source.get_ref().metadata().is_ok_and(|own| own.ino() != there));
        source.read_until(b'\n', &mut line)?;
        if line.ends_with(b"\n") {
            if args.wanted.wants(&line) {
                show(&line, args.json, out)?;
                out.flush()?;
            }
            line.clear();
        } else if ended {
            source = BufReader::new(File::open(path)?);
            line.clear();
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

/// Where the last `lines` lines begin. Reads backwards, so that a long file costs nothing.
fn start_of_last(file: &mut File, lines: usize) -> io::Result<u64> {
    const PIECE: u64 = 64 * 1024;
    let mut end = file.seek(SeekFrom::End(0))?;
    // The last line's own line feed ends no line before it.
    let mut wanted = lines.saturating_add(1);
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        let mut piece = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::take(&mut *file, end - start).read_to_end(&mut piece)?;
        for at in memchr::memrchr_iter(b'\n', &piece) {
            wanted -= 1;
            if wanted == 0 {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

fn show(line: &[u8], json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return out.write_all(line);
    }
    let Ok(record) = serde_json::from_slice::<Value>(line) else {
        return writeln!(out, "(not a record: {} bytes)", line.len());
    };
    let mut words = Vec::new();
    for name in ["time", "kind", "customer", "integration", "method", "path", "status", "code", "note", "why"]
    {
        words.extend(record.get(name).map(printable));
    }
    words.extend(record.get("ms").map(|ms| format!("{}ms", printable(ms))));
    words.extend(record.get("reflected").filter(|r| **r == Value::Bool(true)).map(|_| "REFLECTED".into()));
    words.extend(record.get("request_id").map(printable));
    writeln!(out, "{}", words.join("  "))
}

fn printable(value: &Value) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}
