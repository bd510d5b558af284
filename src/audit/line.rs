//! One line as it is read back: bounded, and only as much of it as checking needs.
//!
//! A line that relay did not write so is no record, however close it comes.

use std::borrow::Cow;
use std::io::{self, BufRead};

use serde::Deserialize;

use super::record::{Hash, from_text, hash};
use crate::clock;

/// A line longer than this is damage; the rest of it is read past. relay's longest is far below.
const LONGEST: usize = 1024 * 1024;

/// How every anchor begins, and no record does.
pub(super) const ANCHOR_START: &[u8] = b"{\"v\":1,\"chain\":\"anchor\",";

/// The chain that anchors form among themselves.
pub(super) const ANCHOR_CHAIN: &str = "anchor";

/// What a chain's first record names as its predecessor.
pub(super) fn genesis(chain: &str) -> Hash {
    hash(chain.as_bytes())
}

/// What a replica's first anchor names as its predecessor.
pub(super) fn anchor_genesis(replica: Option<&str>) -> Hash {
    replica.map_or_else(|| genesis(ANCHOR_CHAIN), |replica| genesis(&format!("{ANCHOR_CHAIN}/{replica}")))
}

/// Which replica wrote a chain, by its name.
pub(super) fn replica_of(chain: &str) -> Option<&str> {
    chain.rsplit_once('/').map(|(replica, _)| replica)
}

/// How a line begins that says that lines are missing here, which one of several sinks never got.
pub(super) const GAP_START: &[u8] = b"{\"v\":1,\"kind\":\"gap\",";

/// What checking needs of a record.
pub(super) struct Record<'a> {
    pub(super) chain: &'a str,
    pub(super) seq: u64,
    pub(super) prev: Hash,
    pub(super) kind: &'a str,
    pub(super) request_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Shape<'a> {
    v: u32,
    chain: &'a str,
    seq: u64,
    prev: &'a str,
    kind: &'a str,
    request_id: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// Reads a record; the error says in words what is wrong with the line.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, &'static str> {
        let shape: Shape<'a> =
            serde_json::from_slice(line).map_err(|_| "is damaged: it is not a record as relay writes it")?;
        if shape.v != 1 {
            return Err("is of a version that this relay does not know");
        }
        if shape.chain == ANCHOR_CHAIN || shape.kind == "anchor" {
            return Err("is damaged: it is no whole anchor");
        }
        let prev = from_text(shape.prev).ok_or("is damaged: its prev is no hash")?;
        let Shape { chain, seq, kind, request_id, .. } = shape;
        Ok(Self { chain, seq, prev, kind, request_id })
    }
}

/// When a line was written, in seconds since 1970.
pub(super) fn time_of(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Timed<'a> {
        #[serde(borrow)]
        time: Cow<'a, str>,
    }
    let timed: Timed<'_> = serde_json::from_slice(line).ok()?;
    clock::parse_rfc3339(&timed.time)
}

/// Whether a line was read, and whether it was whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// A line that ended in a line feed.
    Whole,
    /// The source ended before a line feed came.
    Open,
    /// The source has ended.
    End,
}

/// Reads one line into `line`, without its line feed.
pub(super) fn read(source: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Read> {
    line.clear();
    let mut any = false;
    loop {
        let piece = match source.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.is_empty() {
            return Ok(if any { Read::Open } else { Read::End });
        }
        any = true;
        let found = memchr::memchr(b'\n', piece);
        let end = found.unwrap_or(piece.len());
        let room = LONGEST.saturating_sub(line.len());
        line.extend(piece.iter().take(end.min(room)));
        let used = end + usize::from(found.is_some());
        source.consume(used);
        if found.is_some() {
            return Ok(Read::Whole);
        }
    }
}
