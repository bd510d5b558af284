//! `relay audit tail`, `verify`, `export` and `key`: what the audit says, whether it is true, and with which key.
//!
//! Plain functions over files and writers; who finds the files, the key and the newest anchors calls
//! them. A record's text was written by callers, so nothing of it reaches a terminal unescaped.

mod export;
mod tail;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use indicatif::{ProgressBar, ProgressStyle};

use crate::audit::several::{Found, Trust, verify_files};
use crate::audit::{PublicKey, Verdict};

pub use export::{Export, export, pass};
pub use tail::{Tail, Wanted, tail};

/// How `relay audit verify` answers.
#[derive(Debug, Clone, Copy)]
pub struct Verify {
    /// Whether the verdict is one JSON object, for programs.
    pub json: bool,
    /// Whether a bar shows how far it is.
    pub bar: bool,
}

/// Checks the audit in `files` and says what was found. The exit code: 0 if nothing shows that it was touched,
/// else 1. What is to be trusted must have been taken before the files were found.
pub fn verify(
    args: Verify,
    files: Vec<Found>,
    trust: &Trust,
    out: &mut dyn Write,
    talk: &mut dyn Write,
) -> u8 {
    let bar = args.bar.then(|| bar(files.iter().map(|file| file.size).sum()));
    let mut count = |file| -> Box<dyn Read> {
        match &bar {
            Some(bar) => Box::new(bar.wrap_read(file)),
            None => Box::new(file),
        }
    };
    let verdicts = verify_files(files, trust, &mut count);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let verdicts = match verdicts {
        Ok(verdicts) => verdicts,
        Err(error) => return exit_code(Err(error), talk),
    };
    let said = if args.json { as_json(&verdicts, out) } else { as_text(&verdicts, out) };
    exit_code(said, talk).max(u8::from(!are_good(&verdicts)))
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

fn bar(size: u64) -> ProgressBar {
    let bar = ProgressBar::new(size);
    if let Ok(style) =
        ProgressStyle::with_template("[{wide_bar}] {binary_bytes} of {binary_total_bytes} {eta}")
    {
        bar.set_style(style);
    }
    bar
}

/// Nothing at all is no audit.
fn are_good(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(Verdict::is_good) && !verdicts.is_empty()
}

/// All replicas as if they were one, and each by itself.
fn as_json(verdicts: &[Verdict], out: &mut dyn Write) -> io::Result<()> {
    let mut object = serde_json::to_value(total(verdicts)).map_err(io::Error::other)?;
    if let Some(members) = object.as_object_mut() {
        members.insert("good".into(), are_good(verdicts).into());
        let each: io::Result<Vec<_>> = verdicts.iter().map(one_as_json).collect();
        members.insert("replicas".into(), each?.into());
    }
    writeln!(out, "{object}")
}

fn one_as_json(verdict: &Verdict) -> io::Result<serde_json::Value> {
    let mut object = serde_json::to_value(verdict).map_err(io::Error::other)?;
    if let Some(members) = object.as_object_mut() {
        members.insert("good".into(), verdict.is_good().into());
    }
    Ok(object)
}

fn total(verdicts: &[Verdict]) -> Verdict {
    if let [one] = verdicts {
        return one.clone();
    }
    let mut total = Verdict::default();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for verdict in verdicts {
        total.records += verdict.records;
        total.unfinished += verdict.unfinished;
        total.unsealed += verdict.unsealed;
        verdict.kinds.iter().for_each(|(kind, count)| *kinds.entry(kind.clone()).or_default() += count);
        total.unfinished_ids.extend_from_slice(&verdict.unfinished_ids);
        total.problems.extend_from_slice(&verdict.problems);
        total.warnings.extend_from_slice(&verdict.warnings);
    }
    total.kinds = kinds;
    // Up to when all of them are sealed.
    let all: Option<Vec<&String>> = verdicts.iter().map(|verdict| verdict.newest_anchor.as_ref()).collect();
    total.newest_anchor = all.and_then(|times| times.into_iter().min().cloned());
    total
}

fn as_text(verdicts: &[Verdict], out: &mut dyn Write) -> io::Result<()> {
    if verdicts.is_empty() {
        return writeln!(out, "NOT GOOD: there is no record at all");
    }
    for verdict in verdicts {
        if let Some(replica) = &verdict.replica {
            let files = match verdict.files.len() {
                0 => String::new(),
                count => format!(" ({count} files)"),
            };
            writeln!(out, "replica: {}{files}", replica.escape_debug())?;
        }
        one_as_text(verdict, out)?;
    }
    let bad = verdicts.iter().filter(|verdict| !verdict.is_good()).count();
    match (verdicts.len(), bad) {
        (1, _) => Ok(()),
        (count, 0) => writeln!(out, "all {count} replicas are good"),
        (count, bad) => writeln!(out, "NOT GOOD: {bad} of {count} replicas"),
    }
}

fn one_as_text(verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
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
