//! How long the disk has been at one write.
//!
//! A disk that hangs gives no error: whoever waits for it is told, and whoever comes next is refused at once. A disk
//! that is slow ends one write after the other, and none of them takes that long. What must never enter: a way to
//! end the write itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// A disk that takes longer than this for one write hangs. Less than a second, so that whoever waits hears within one.
pub(super) const HUNG_AFTER: Duration = Duration::from_millis(900);

/// The two places where a write waits for the disk. One write at a time is in each.
pub(super) struct Pace {
    pub(super) applying: Stopwatch,
    pub(super) syncing: Stopwatch,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { applying: Stopwatch::new(), syncing: Stopwatch::new() }
    }

    /// Whether the write under way hangs.
    pub(super) fn hangs(&self) -> bool {
        self.applying.exceeds(HUNG_AFTER) || self.syncing.exceeds(HUNG_AFTER)
    }

    /// An error while a write hangs.
    pub(super) fn refuse_hung(&self) -> Result<(), StoreError> {
        if self.hangs() {
            let ms = HUNG_AFTER.as_millis();
            return Err(StoreError::Unavailable(format!("the disk has not answered for {ms} ms")));
        }
        Ok(())
    }
}

/// Runs during one write at a time.
pub(super) struct Stopwatch {
    /// When the write under way began, in milliseconds since `made` plus one; 0 between writes.
    since: AtomicU64,
    made: Instant,
}

impl Stopwatch {
    fn new() -> Self {
        Self { since: AtomicU64::new(0), made: Instant::now() }
    }

    /// Does the work while it runs.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.since.store(self.now(), Ordering::Relaxed);
        let _running = Running(self);
        work()
    }

    /// Whether the write under way began longer ago than that.
    fn exceeds(&self, most: Duration) -> bool {
        match self.since.load(Ordering::Relaxed) {
            0 => false,
            since => self.now().saturating_sub(since) > millis(most),
        }
    }

    fn now(&self) -> u64 {
        millis(self.made.elapsed()) + 1
    }
}

/// Ends by a panic as well.
struct Running<'a>(&'a Stopwatch);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.since.store(0, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
