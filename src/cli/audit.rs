//! `relay audit tail`, `verify` and `key`: what the audit says, whether it is true, and with which key.
//!
//! Plain functions over readers and writers; who finds the file, the key and the newest anchor calls
//! them. A record's text was written by callers, so nothing of it reaches a terminal unescaped.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write};
use std::time::Duration;

use serde_json::Value;

use crate::audit::{self, Anchor, PublicKey, Verdict};

/// How `relay audit tail` shows records.
#[derive(Debug, Clone, Copy)]
pub struct Tail {
    /// How many of the newest records to begin with.
    pub lines: usize,
    /// Whether to go on with what is added.
    pub follow: bool,
    /// Whether to pass the lines as they stand, for programs.
    pub json: bool,
}

/// How `relay audit verify` answers.
#[derive(Debug, Clone, Copy)]
pub struct Verify {
    /// Whether the verdict is one JSON object, for programs.
    pub json: bool,
    /// How many bytes there are to check, if progress is to be shown.
    pub size: Option<u64>,
}

/// Shows the newest records, and with `follow` what is added for as long as `goes_on` says. The exit code.
/// What went wrong goes to `talk`.
pub fn tail(
    args: Tail,
    file: &mut File,
    goes_on: &dyn Fn() -> bool,
    out: &mut dyn Write,
    talk: &mut dyn Write,
) -> u8 {
    exit_code(newest(args, file, goes_on, out), talk)
}

/// Checks the audit in `source` and says what was found; progress goes to `talk`. The exit code: 0 if
/// nothing shows that it was touched, else 1. `newest` must have been taken before `source` was opened.
pub fn verify(
    args: Verify,
    source: impl Read,
    (key, newest): (Option<PublicKey>, Option<&Anchor>),
    out: &mut dyn Write,
    talk: &mut dyn Write,
) -> u8 {
    let counted = Counted { source, size: args.size.unwrap_or(0), read: 0, shown: 0, talk: &mut *talk };
    let verdict = match audit::verify(BufReader::with_capacity(256 * 1024, counted), key, newest) {
        Ok(verdict) => verdict,
        Err(error) => return exit_code(Err(error), talk),
    };
    let said = if args.json { as_json(&verdict, out) } else { as_text(&verdict, out) };
    exit_code(said, talk).max(u8::from(!verdict.is_good()))
}

/// Prints the public key that anchors are checked with. The exit code.
pub fn key(key: PublicKey, out: &mut dyn Write) -> u8 {
    u8::from(writeln!(out, "{key}").is_err())
}

/// A pipe that was closed by its reader is no failure.
fn exit_code(result: io::Result<()>, talk: &mut dyn Write) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            let _ = writeln!(talk, "error: {error}");
            1
        }
    }
}

fn newest(args: Tail, file: &mut File, goes_on: &dyn Fn() -> bool, out: &mut dyn Write) -> io::Result<()> {
    let start = start_of_last(file, args.lines)?;
    file.seek(SeekFrom::Start(start))?;
    let mut source = BufReader::new(file);
    let mut lines: VecDeque<Vec<u8>> = VecDeque::new();
    let mut line = Vec::new();
    while source.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        lines.push_back(std::mem::take(&mut line));
        if lines.len() > args.lines {
            lines.pop_front();
        }
    }
    lines.iter().try_for_each(|line| show(line, args.json, out))?;
    out.flush()?;
    while args.follow && goes_on() {
        source.read_until(b'\n', &mut line)?;
        if line.ends_with(b"\n") {
            show(&line, args.json, out)?;
            out.flush()?;
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

fn as_json(verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    let mut object = serde_json::to_value(verdict).map_err(io::Error::other)?;
    if let Some(members) = object.as_object_mut() {
        members.insert("good".into(), verdict.is_good().into());
    }
    writeln!(out, "{object}")
}

fn as_text(verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    let kinds: Vec<_> = verdict.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    writeln!(out, "records: {} ({})", verdict.records, kinds.join(", "))?;
    match &verdict.newest_anchor {
        Some(time) => {
            writeln!(out, "sealed:  until {time}; {} records behind that are not yet", verdict.unsealed)?
        }
        None => writeln!(out, "sealed:  nothing: there is no valid anchor")?,
    }
    if verdict.unfinished > 0 {
        writeln!(out, "unfinished: {} intents without an outcome", verdict.unfinished)?;
        verdict.unfinished_ids.iter().try_for_each(|id| writeln!(out, "  request {id}"))?;
    }
    verdict.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))?;
    verdict.problems.iter().try_for_each(|problem| writeln!(out, "problem: {problem}"))?;
    match verdict.problems.len() {
        0 => writeln!(out, "good: nothing was altered, removed, moved or added"),
        count => writeln!(out, "NOT GOOD: {count} problems"),
    }
}

/// Passes a source on and shows how far it is.
struct Counted<'a, R> {
    source: R,
    size: u64,
    read: u64,
    shown: u64,
    talk: &'a mut dyn Write,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const STEP: u64 = 64 * 1024 * 1024;
        let count = self.source.read(buffer)?;
        self.read += count as u64;
        if self.size > STEP && (self.read - self.shown >= STEP || count == 0 && self.shown > 0) {
            self.shown = self.read;
            let percent = (self.read.saturating_mul(100) / self.size).min(100);
            let end = if count == 0 { "\n" } else { "" };
            let _ = write!(self.talk, "\rchecked {percent} % of {} MiB{end}", self.size / 1024 / 1024);
            let _ = self.talk.flush();
        }
        Ok(count)
    }
}
