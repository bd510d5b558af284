//! Whether an audit file is what relay wrote: streaming, in constant memory per chain.
//!
//! Chains show an edit and name the record, anchors show who wrote them and in which order, and the
//! newest anchor, kept outside the file, shows a cut. Nothing in the file is believed before an anchor's
//! signature bears it out; what stands behind the last anchor is counted as unsealed.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead};

use uuid::Uuid;

use super::anchor::Why;
use super::line::{self, GAP_START, Read, Record};
use super::problem::Problem;
use super::record::{Hash, Order, hash};
use super::tracks::Tracks;
use super::{Anchor, PublicKey};

/// Intents without an outcome that are followed at once; relay has no more requests under way.
const MOST_OPEN: usize = 200_000;
/// Problems, and unfinished requests, that are listed one by one.
const MOST_LISTED: usize = 10_000;

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Which replica wrote it, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// The files that were checked, where there were several, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Records, anchors included.
    pub records: u64,
    /// How many there are of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// Intents without an outcome: under way, or cut off by a crash.
    pub unfinished: u64,
    /// The request ids of the first of them.
    pub unfinished_ids: Vec<String>,
    /// What shows that the file is not what relay wrote.
    pub problems: Vec<Problem>,
    /// What does not.
    pub warnings: Vec<String>,
    /// When the newest valid anchor was made, RFC 3339.
    pub newest_anchor: Option<String>,
    /// Records behind it, which nothing vouches for yet.
    pub unsealed: u64,
}

impl Verdict {
    /// Whether nothing shows that the file was touched.
    pub const fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Checks all lines of `source`. Without a `key` the first anchor's own is taken, which proves only that
/// one hand wrote the whole. `newest` is the anchor kept outside the file; take it before `source` is
/// opened, or a relay that still writes looks as if its file had been cut.
pub fn verify(
    mut source: impl BufRead,
    key: Option<PublicKey>,
    newest: Option<&Anchor>,
) -> io::Result<Verdict> {
    let mut check = Check::new(key, newest);
    if key.is_none() {
        check.warn("no key was given: the anchors are checked against the file's own first one".into());
    }
    check.read(&mut source)?;
    Ok(check.end())
}

/// One replica's audit, line by line.
pub(super) struct Check<'a> {
    key: Option<PublicKey>,
    /// Lines so far, and with which of them each file began.
    lines: u64,
    files: Vec<(u64, String)>,
    /// Where the first anchor of all stands, and which one is missing before it.
    begins_behind: Option<(u64, u64)>,
    /// Up to which anchor relay itself says that it deleted segments.
    cut: u64,
    /// Whether what stands before the first line and behind the last is none of its business.
    part: bool,
    newest: Option<&'a Anchor>,
    newest_seen: bool,
    verdict: Verdict,
    tracks: Tracks,
    order: Order,
    /// The last anchor's number and hash.
    before: Option<(u64, Hash)>,
    /// Whether that anchor was not what relay wrote.
    before_is_bad: bool,
    damaged_at: Option<u64>,
    /// Intents without an outcome, and where they stand.
    open: HashMap<Uuid, u64>,
}

impl<'a> Check<'a> {
    pub(super) fn new(key: Option<PublicKey>, newest: Option<&'a Anchor>) -> Self {
        Self {
            key,
            lines: 0,
            files: Vec::new(),
            begins_behind: None,
            cut: 0,
            part: false,
            newest,
            newest_seen: false,
            verdict: Verdict::default(),
            tracks: Tracks::default(),
            order: Order::new(),
            before: None,
            before_is_bad: false,
            damaged_at: None,
            open: HashMap::new(),
        }
    }

    /// Only a part of the whole is to be checked.
    pub(super) const fn only_a_part(&mut self) {
        self.part = true;
    }

    /// What is read next is this file.
    pub(super) fn file(&mut self, name: String) {
        self.verdict.files.push(name.clone());
        self.files.push((self.lines, name));
    }

    /// Takes all lines of `source`.
    pub(super) fn read(&mut self, source: &mut impl BufRead) -> io::Result<()> {
        let mut text = Vec::new();
        loop {
            let read = line::read(source, &mut text)?;
            if read == Read::End {
                return Ok(());
            }
            self.lines += 1;
            self.line(self.lines, &text, read);
        }
    }

    /// Whether this is the first line of a file.
    fn begins_file(&self, number: u64) -> bool {
        number == 1 || self.files.last().is_some_and(|(before, _)| before + 1 == number)
    }
}

impl Check<'_> {
    fn line(&mut self, number: u64, text: &[u8], read: Read) {
        if let Some(anchor) = Anchor::parse(text) {
            self.count("anchor");
            self.anchor(number, &anchor);
            return;
        }
        // In no chain and under no signature, so it excuses nothing: what is missing is a problem.
        if text.starts_with(GAP_START) && read == Read::Whole {
            let (file, number) = self.place(number);
            let said = String::from_utf8_lossy(text).escape_debug().to_string();
            return self
                .warn(format!("{file}line {number}: relay itself says that lines are missing: {said}"));
        }
        let hash = hash(text);
        self.order.add(&hash);
        match Record::parse(text) {
            Ok(record) => {
                self.count(record.kind);
                self.verdict.unsealed += 1;
                self.follow(number, &record);
                self.tracks.record(number, &record, hash);
            }
            Err(_) if read == Read::Open => {
                let (file, number) = self.place(number);
                self.warn(format!(
                    "{file}line {number}: the last line is not whole: a crash, or still being written"
                ));
            }
            Err(what) => {
                self.damaged_at = Some(number);
                self.tracks.damaged(number, what);
            }
        }
    }

    fn anchor(&mut self, number: u64, anchor: &Anchor) {
        let key = *self.key.get_or_insert(anchor.key());
        let seq = anchor.seq();
        if anchor.is_signed_by(key) {
            let goes_on = self.succession(number, anchor);
            if goes_on {
                self.tracks.seal(number, anchor);
                self.judge_section(number, anchor);
            } else {
                self.tracks.begin(number, anchor);
            }
            self.cut = self.cut.max(anchor.cut.unwrap_or(0));
            self.before_is_bad = false;
            self.verdict.unsealed = 0;
            self.verdict.newest_anchor = Some(anchor.time().to_owned());
        } else {
            let other = "is an anchor signed with another key";
            let altered = "is an anchor that its signature does not bear out: it was altered";
            self.tracks.problem(number, Some(seq), if anchor.key() == key { altered } else { other });
            self.before_is_bad = true;
        }
        let found = self.tracks.take();
        self.report(found);
        self.order = Order::new();
        self.before = Some((seq, anchor.hash()));
    }

    /// Whether the anchor follows the one before it, and is the one that is known outside. False if whole
    /// segments are not here, so that it is the anchor itself that says where the chains stand.
    fn succession(&mut self, number: u64, anchor: &Anchor) -> bool {
        let seq = anchor.seq();
        if let Some(replica) = anchor.replica() {
            match &self.verdict.replica {
                Some(own) if own != replica => {
                    self.tracks.problem(number, Some(seq), "is another replica's");
                }
                Some(_) => {}
                None => self.verdict.replica = Some(replica.to_owned()),
            }
        }
        if let Some(newest) = self.newest.filter(|newest| newest.seq() == seq) {
            self.newest_seen = true;
            if newest.hash() != anchor.hash() {
                self.tracks.problem(
                    number,
                    Some(seq),
                    "is not the anchor of that number kept outside the file",
                );
            }
        }
        if self.before_is_bad || anchor.follows(self.before) {
            return true;
        }
        let next = self.before.map_or(1, |(seq, _)| seq.saturating_add(1));
        if seq <= next {
            self.tracks.problem(number, Some(seq), "does not follow the anchor before it");
        } else if number == 1 {
            self.begins_behind = Some((number, seq - 1));
            return false;
        } else if self.begins_file(number) {
            let what = format!("is the first of a file, and {next} should be: a segment between is missing");
            self.tracks.problem(number, Some(seq), &what);
            return false;
        } else {
            self.tracks.anchors_missing(next, seq - 1, number);
        }
        true
    }

    /// What only the order of all lines since the last anchor shows; and whether a line that is no
    /// record was torn by a crash: then the next process sealed it as it found it.
    fn judge_section(&mut self, number: u64, anchor: &Anchor) {
        let as_written = anchor.order == self.order.value();
        let torn = self.damaged_at.filter(|at| at + 1 == number && self.tracks.only_damaged(*at));
        match torn {
            Some(at) if as_written && anchor.why == Why::Start => {
                self.tracks.take();
                let (file, at) = self.place(at);
                self.warn(format!("{file}line {at}: torn by a crash before relay started again"));
            }
            _ if !as_written && self.tracks.clean() => {
                let what = "does not name the lines before it in this order: some were swapped";
                self.tracks.problem(number, Some(anchor.seq()), what);
            }
            _ => {}
        }
    }

    fn follow(&mut self, number: u64, record: &Record<'_>) {
        let Some(id) = record.request_id.and_then(|id| Uuid::try_parse(id).ok()) else { return };
        match record.kind {
            "intent" if self.open.len() < MOST_OPEN => {
                self.open.insert(id, number);
                if self.open.len() == MOST_OPEN {
                    self.warn(format!("over {MOST_OPEN} intents are open at once: not all are followed"));
                }
            }
            "outcome" => drop(self.open.remove(&id)),
            _ => {}
        }
    }

    /// What was found.
    pub(super) fn end(mut self) -> Verdict {
        let lines = self.lines;
        self.tracks.end(lines + 1);
        if let Some((line, last)) = self.begins_behind.filter(|(_, last)| !self.part && *last > self.cut) {
            self.tracks.anchors_missing(1, last, line);
        }
        if let Some(newest) = self.newest.filter(|_| !self.part) {
            if self.key.is_some_and(|key| !newest.is_signed_by(key)) {
                self.tracks.problem(
                    lines,
                    Some(newest.seq()),
                    "as kept outside the file is not signed with this key",
                );
            }
            if !self.newest_seen {
                let what = format!("of {} is known outside but not in the file: it was cut", newest.time());
                self.tracks.problem(lines, Some(newest.seq()), &what);
            }
        }
        let found = self.tracks.take();
        self.report(found);
        let mut open: Vec<_> = self.open.into_iter().map(|(id, line)| (line, id)).collect();
        open.sort_unstable();
        self.verdict.unfinished = open.len() as u64;
        self.verdict.unfinished_ids = open.iter().take(10).map(|(_, id)| id.to_string()).collect();
        self.verdict
    }

    fn file_of(&self, line: u64) -> Option<&(u64, String)> {
        self.files.iter().rev().find(|(before, _)| *before < line)
    }

    /// The file's name, if there are several, and the line in it.
    fn place(&self, line: u64) -> (String, u64) {
        let file = self.file_of(line);
        file.map_or((String::new(), line), |(before, name)| (format!("{name} "), line - before))
    }

    fn count(&mut self, kind: &str) {
        self.verdict.records += 1;
        let known = ["intent", "outcome", "refused", "admin", "system", "anchor"].contains(&kind);
        let kind = if known { kind } else { "other" };
        match self.verdict.kinds.get_mut(kind) {
            Some(count) => *count += 1,
            None => drop(self.verdict.kinds.insert(kind.to_owned(), 1)),
        }
    }

    fn report(&mut self, found: Vec<Problem>) {
        let room = MOST_LISTED.saturating_sub(self.verdict.problems.len());
        if found.len() > room && room > 0 {
            self.warn(format!("there are more problems than the {MOST_LISTED} listed"));
        }
        for mut problem in found.into_iter().take(room) {
            if let Some((before, name)) = self.file_of(problem.line) {
                problem.file = Some(name.clone());
                problem.line -= before;
            }
            self.verdict.problems.push(problem);
        }
    }

    pub(super) fn warn(&mut self, what: String) {
        if self.verdict.warnings.len() < MOST_LISTED {
            self.verdict.warnings.push(what);
        }
    }
}
