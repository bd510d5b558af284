//! When a segment is full, and when one is old enough to be deleted.
//!
//! Ages are by the clock that is never stepped. Only what is deleted goes by the wall clock, and not at all
//! while the two disagree: a clock that jumped a year ahead must not erase a year of audit.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::line::time_of;
use crate::clock;

/// How long a turn that failed is left alone.
const TURN_AGAIN: Duration = Duration::from_secs(60);
/// By how much the two clocks may differ from how they stood at the start.
const CLOCKS_AGREE: u64 = 60;

/// When segments end, and how long they are kept.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// A segment ends once it has so many bytes.
    pub bytes: Option<u64>,
    /// A segment ends once it is so old, if anything was recorded in it.
    pub every: Option<Duration>,
    /// A segment is deleted so long after it ended.
    pub retain: Option<Duration>,
    /// How both clocks stood at the start.
    pub began: (Instant, SystemTime),
}

impl Default for Rotation {
    /// One segment, for ever.
    fn default() -> Self {
        Self { bytes: None, every: None, retain: None, began: (Instant::now(), SystemTime::now()) }
    }
}

impl Rotation {
    pub(super) fn is_due(&self, len: u64, age: &Age) -> bool {
        let full = self.bytes.is_some_and(|most| len >= most);
        let old = || self.every.is_some_and(|every| age.began.elapsed() >= every);
        // The anchor that begins a segment is not worth another one.
        len > age.first && (full || old()) && age.tried.is_none_or(|at| at.elapsed() >= TURN_AGAIN)
    }

    /// Segments that ended before this are deleted; seconds since 1970.
    pub(super) fn forgets_before(&self) -> Option<u64> {
        let retain = self.retain?;
        let (instant, wall) = self.began;
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let steady = since(wall).saturating_add(instant.elapsed().as_secs());
        let now = clock::unix_seconds();
        if now.abs_diff(steady) > CLOCKS_AGREE {
            tracing::warn!(
                "the wall clock jumped: no segment of the audit is deleted until relay starts again"
            );
            return None;
        }
        now.checked_sub(retain.as_secs())
    }
}

/// How old a segment is.
pub(super) struct Age {
    began: Instant,
    /// Bytes that it began with: its first anchor.
    first: u64,
    tried: Option<Instant>,
}

impl Age {
    /// Of one whose first line is this; one without any begins now.
    pub(super) fn of(first_line: Option<&[u8]>) -> Self {
        let now = Instant::now();
        let since = first_line.and_then(time_of).map(|time| clock::unix_seconds().saturating_sub(time));
        let began = since.and_then(|seconds| now.checked_sub(Duration::from_secs(seconds)));
        let first = first_line.map_or(0, |line| line.len() as u64 + 1);
        Self { began: began.unwrap_or(now), first, tried: None }
    }

    /// It has its first line now.
    pub(super) const fn begins_with(&mut self, bytes: u64) {
        self.first = bytes;
    }

    pub(super) fn turn_tried(&mut self) {
        self.tried = Some(Instant::now());
    }
}
