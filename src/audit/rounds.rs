//! What the writer does beside writing: ending segments, deleting old ones, noticing a file that was moved.
//!
//! None of it may cost a record: whatever fails here is told and tried again, and the audit goes on where
//! it is.

use std::time::{Duration, Instant};

use super::anchor::Why;
use super::writer::Writer;

/// How often it is looked whether the file still stands at its path.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether a segment's time is over, beside each end of one.
const RETAIN_EVERY: Duration = Duration::from_secs(600);

/// When each was done last.
#[derive(Default)]
pub(super) struct Rounds {
    looked: Option<Instant>,
    retained: Option<Instant>,
}

impl Writer {
    /// Before a write, so that what a moved file would swallow is at most a second old.
    pub(super) fn look(&mut self) {
        if self.rounds.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.rounds.looked = Some(Instant::now());
        match self.timed(|sink| sink.look()) {
            // Not while older lines are owed: those begin the new file then, and the next anchor follows them.
            Ok(true) if !self.owes() => drop(self.seal(Why::Segment)),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the audit file is not where it was opened"),
        }
    }

    /// Ends a segment that is full: an anchor closes it, and one begins the next.
    pub(super) fn turn(&mut self) {
        if !self.sink.turn_due() || self.owes() {
            return;
        }
        let Ok(last) = self.seal(Why::Turn) else { return };
        match self.timed(|sink| sink.turn(last.seq())) {
            Ok(()) => {
                let _ = self.seal(Why::Segment);
                self.rounds.retained = None;
            }
            Err(error) => {
                tracing::warn!(%error, "a new segment of the audit cannot be begun; it goes on in the old")
            }
        }
    }

    /// Says in an anchor which segments are to be deleted; who publishes it deletes them.
    pub(super) fn retain(&mut self) {
        if self.rounds.retained.is_some_and(|at| at.elapsed() < RETAIN_EVERY) || self.owes() {
            return;
        }
        self.rounds.retained = Some(Instant::now());
        match self.timed(|sink| sink.expired()) {
            Ok(Some(through)) => drop(self.seal_with(Why::Retain, Some(through))),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "old segments of the audit cannot be looked for"),
        }
    }
}
