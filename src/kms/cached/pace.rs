//! How fast one KMS key is called, so that a cold start of many customers is no storm.
//!
//! A bucket of a second's calls, which a call waits for no longer than its own budget, and a bounded
//! number under way. What must never enter: a retry.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};

use crate::kms::KmsError;

/// How fast a KMS key is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Calls a second in the long run, and as many at once after a pause.
    pub per_second: u32,
    /// Calls under way.
    pub at_once: usize,
}

impl Pace {
    /// 200 a second, 64 under way: a fiftieth of what AWS allows an account by default.
    pub const DEFAULT: Self = Self { per_second: 200, at_once: 64 };
    /// For a KMS key in this process, which is asked without a call.
    pub(super) const NONE: Self = Self { per_second: 1_000_000, at_once: 1_000_000 };
}

/// The turns of one KMS key's calls.
pub(super) struct Turns {
    /// Between two calls in the long run.
    gap: Duration,
    /// How far ahead of that calls may be.
    lead: Duration,
    /// When a call would be due if all came evenly.
    due: Mutex<Instant>,
    seats: Semaphore,
}

impl Turns {
    pub(super) fn new(pace: Pace) -> Self {
        let calls = pace.per_second.max(1);
        let gap = Duration::from_secs(1) / calls;
        Self {
            gap,
            lead: gap * (calls - 1),
            due: Mutex::new(Instant::now()),
            seats: Semaphore::new(pace.at_once.max(1)),
        }
    }

    /// Waits for the caller's turn, not beyond `until`. The turn ends with what is returned.
    pub(super) async fn turn(&self, until: Instant) -> Result<SemaphorePermit<'_>, KmsError> {
        let wait = self.reserve(until).ok_or_else(busy)?;
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let seat = timeout_at(until, self.seats.acquire()).await.map_err(|_| busy())?;
        seat.map_err(|_| busy())
    }

    /// Whether a call would not have to wait: what can be put off is put off rather than stand in the way.
    pub(super) fn is_free(&self) -> bool {
        let due = *self.due.lock().unwrap_or_else(PoisonError::into_inner);
        self.seats.available_permits() > 0 && due <= Instant::now() + self.lead / 2
    }

    /// How long until the turn that is reserved by this; `None`, and nothing reserved, if that is too late.
    fn reserve(&self, until: Instant) -> Option<Duration> {
        let now = Instant::now();
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*due).max(now);
        let wait = at.saturating_duration_since(now + self.lead);
        if now + wait >= until {
            return None;
        }
        *due = at + self.gap;
        Some(wait)
    }
}

/// Not the KMS's fault, and so no doubt of it.
fn busy() -> KmsError {
    KmsError::Unavailable(
        "too many data keys are wanted at once for [keys] calls_per_second; they come in turn".to_owned(),
    )
}
