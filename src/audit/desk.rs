//! Between chains and the writer: batches one way, what became of them the other, and how the sink is.
//!
//! What must never enter: a way to wait for the sink. Chains only ask how it is and go on.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::inbox::Sender;
use super::record::{Hash, Head};
use super::{Anchor, AuditError};

/// A sink that takes longer than this for one write hangs.
pub(super) const HUNG_AFTER: Duration = Duration::from_millis(250);
/// Bytes not yet written, over which no intent, and no outcome, is added.
const INTENT_BOUND: usize = 8 * 1024 * 1024;
const OUTCOME_BOUND: usize = 2 * INTENT_BOUND;

/// What chains and writer share.
pub(super) struct Desk {
    pub(super) inbox: Sender<Message>,
    /// Bytes that chains have added and the sink has not taken.
    pub(super) queued: AtomicUsize,
    failing: AtomicBool,
    cause: Mutex<String>,
    /// When the write under way began, in milliseconds since `opened` plus one; 0 between writes.
    writing_since: AtomicU64,
    opened: Instant,
}

impl Desk {
    pub(super) fn new(inbox: Sender<Message>) -> Self {
        Self {
            inbox,
            queued: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            cause: Mutex::default(),
            writing_since: AtomicU64::new(0),
            opened: Instant::now(),
        }
    }

    /// Whether a record may be added; one that something waits for is held to more.
    pub(super) fn admits(&self, needed_first: bool) -> Result<(), AuditError> {
        let bound = if needed_first { INTENT_BOUND } else { OUTCOME_BOUND };
        if self.queued.load(Ordering::Relaxed) > bound {
            return Err(AuditError(format!("the sink is {} MiB behind", bound / 1024 / 1024)));
        }
        if needed_first { self.health() } else { Ok(()) }
    }

    /// Whether the sink takes records, and promptly.
    pub(super) fn health(&self) -> Result<(), AuditError> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(self.cause());
        }
        if self.hangs() {
            return Err(AuditError(format!("the sink has not answered for {} ms", HUNG_AFTER.as_millis())));
        }
        Ok(())
    }

    pub(super) fn hangs(&self) -> bool {
        match self.writing_since.load(Ordering::Relaxed) {
            0 => false,
            since => self.now().saturating_sub(since) > millis(HUNG_AFTER),
        }
    }

    /// A write begins.
    pub(super) fn begins(&self) {
        self.writing_since.store(self.now(), Ordering::Relaxed);
    }

    /// It is over.
    pub(super) fn ends(&self) {
        self.writing_since.store(0, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        millis(self.opened.elapsed()) + 1
    }

    pub(super) fn cause(&self) -> AuditError {
        AuditError(self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(super) fn fails(&self, error: &std::io::Error) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the audit cannot be written; requests are refused");
        }
    }

    pub(super) fn works(&self) {
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the audit can be written again");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) enum Message {
    Batch(Batch),
    /// Make an anchor now.
    Seal(oneshot::Sender<Result<Anchor, AuditError>>),
    /// Write what there is and a last anchor, then end.
    Close(mpsc::Sender<Result<(), AuditError>>),
}

/// What one chain hands over at a time.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) hashes: Vec<Hash>,
    pub(super) head: Head,
    pub(super) cohort: Arc<Cohort>,
    /// Where the answer goes, to be spread there; without it the cohort hears it from the writer.
    pub(super) answer: Option<oneshot::Sender<Answer>>,
}

/// What became of a batch, and its buffers for the next.
pub(super) struct Answer {
    pub(super) result: Result<(), AuditError>,
    pub(super) spare: (Vec<u8>, Vec<Hash>),
}

impl Batch {
    /// Tells who waits.
    pub(super) fn answer(self, result: Result<(), AuditError>) {
        let Some(answer) = self.answer else { return self.cohort.finish(result) };
        let spare = (self.bytes, self.hashes);
        // The task is gone: whoever still waits hears it here.
        if let Err(unheard) = answer.send(Answer { result, spare }) {
            self.cohort.finish(unheard.result);
        }
    }
}

/// Those who wait for the same batch.
#[derive(Default)]
pub(super) struct Cohort {
    fate: OnceLock<Result<(), AuditError>>,
    waiting: Mutex<Vec<Waker>>,
}

impl Cohort {
    /// Tells everyone; the first answer stands.
    pub(super) fn finish(&self, result: Result<(), AuditError>) {
        if self.fate.set(result).is_ok() {
            let waiting = mem::take(&mut *self.waiting());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of the batch; `slot` is the place of the one who asks.
    pub(super) fn poll(&self, cx: &Context<'_>, slot: &mut Option<usize>) -> Poll<Result<(), AuditError>> {
        let mut waiting = self.waiting();
        // Asked under the lock: `finish` sets the fate before it takes the wakers.
        if let Some(fate) = self.fate.get() {
            return Poll::Ready(fate.clone());
        }
        match slot.and_then(|slot| waiting.get_mut(slot)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                *slot = Some(waiting.len());
                waiting.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }
}
