//! One worker's chain: records are linked here and handed over once per turn of the loop.
//!
//! [`Chain::record`] only formats, hashes and appends to a buffer; a task behind the worker's other
//! ready tasks hands the buffer to the writer as one batch, and while that is under way the next
//! collects. A record counts as written only when its batch is: the [`Written`] says so, and nothing
//! else may. Nothing here blocks on the sink.

use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::desk::{Answer, Batch, Cohort, Desk, HUNG_AFTER, Message};
use super::line::genesis;
use super::record::{self, Hash, Head, Stamp};
use super::{AuditError, Event, Kind};

/// One hash chain of the log. Clones share it.
#[derive(Clone)]
pub struct Chain(Arc<Inner>);

impl Chain {
    pub(super) fn new(desk: Arc<Desk>, id: Arc<str>) -> Self {
        let state = State { hash: genesis(&id), ..State::default() };
        Self(Arc::new(Inner { desk, id, state: Mutex::new(state) }))
    }

    /// Adds a record. It is under way when this returns, whether or not the answer is awaited.
    ///
    /// May be called outside a runtime and while one ends. Inside one, its timer must be enabled. An
    /// intent, a refusal or an admin record is refused at once, and not added, while the sink fails,
    /// hangs or is 8 MiB behind; an outcome or a system record is added until it is 16 MiB behind.
    pub fn record(&self, event: &Event<'_>) -> Written {
        let needed_first = matches!(event.kind, Kind::Intent | Kind::Refused | Kind::Admin);
        if let Err(error) = self.0.desk.admits(needed_first) {
            return Written::refused(error);
        }
        let mut state = self.0.attended();
        if state.closed {
            return Written::refused(AuditError("the log is closed".into()));
        }
        if state.hung && needed_first {
            return Written::refused(hung());
        }
        self.0.append(&mut state, event);
        if state.hung {
            return Written::refused(hung());
        }
        let cohort = Arc::clone(state.cohort.get_or_insert_default());
        if !state.attended {
            self.0.hand_over(&mut state, None);
        }
        let flusher = if state.in_flight { None } else { state.flusher.take() };
        drop(state);
        if let Some(flusher) = flusher {
            flusher.wake();
        }
        Written { cohort: Ok(cohort), slot: None }
    }

    /// Hands over what is waiting, and takes no more.
    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        if !state.bytes.is_empty() {
            self.0.hand_over(&mut state, None);
        }
        let flusher = state.flusher.take();
        drop(state);
        if let Some(flusher) = flusher {
            flusher.wake();
        }
    }
}

struct Inner {
    desk: Arc<Desk>,
    id: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seq: u64,
    hash: Hash,
    stamp: Stamp,
    /// Lines that are not handed over yet, their hashes, and who waits for them.
    bytes: Vec<u8>,
    hashes: Vec<Hash>,
    cohort: Option<Arc<Cohort>>,
    /// Buffers that came back from the writer.
    spare: (Vec<u8>, Vec<Hash>),
    /// Whether a task hands over; else every record is handed over by itself.
    attended: bool,
    flusher: Option<Waker>,
    in_flight: bool,
    /// Whether the batch in flight has been there for too long.
    hung: bool,
    closed: bool,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, with a task that hands over if there can be one.
    fn attended(self: &Arc<Self>) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.attended || state.closed {
            return state;
        }
        let Ok(runtime) = Handle::try_current() else { return state };
        state.attended = true;
        // A runtime that is ending drops the task within `spawn`, and the drop takes the lock.
        drop(state);
        let attendant = Attendant { chain: Arc::clone(self), flight: None };
        drop(runtime.spawn(attendant.run()));
        self.lock()
    }

    fn append(&self, state: &mut State, event: &Event<'_>) {
        let State { seq, hash, stamp, bytes, hashes, .. } = state;
        let start = bytes.len();
        record::begin(bytes, &self.id, *seq + 1, hash, stamp);
        record::finish(bytes, event);
        *hash = record::hash(bytes.get(start..).unwrap_or_default());
        *seq += 1;
        bytes.push(b'\n');
        hashes.push(*hash);
        self.desk.queued.fetch_add(bytes.len() - start, Ordering::Relaxed);
    }

    /// Sends the collected lines to the writer. Under the lock, so that batches keep their order.
    fn hand_over(&self, state: &mut State, answer: Option<oneshot::Sender<Answer>>) -> Arc<Cohort> {
        let (bytes, hashes) = mem::take(&mut state.spare);
        let cohort = state.cohort.take().unwrap_or_default();
        let batch = Batch {
            bytes: mem::replace(&mut state.bytes, bytes),
            hashes: mem::replace(&mut state.hashes, hashes),
            head: Head { chain: Arc::clone(&self.id), seq: state.seq, hash: state.hash },
            cohort: Arc::clone(&cohort),
            answer,
        };
        if self.desk.inbox.send(Message::Batch(batch)).is_err() {
            cohort.finish(Err(AuditError("the log is closed".into())));
        }
        cohort
    }
}

/// The task that hands one chain's records over.
struct Attendant {
    chain: Arc<Inner>,
    flight: Option<(oneshot::Receiver<Answer>, Arc<Cohort>)>,
}

impl Attendant {
    async fn run(mut self) {
        while poll_fn(|cx| self.poll_depart(cx)).await {
            self.wait().await;
        }
    }

    /// Hands over what has collected, or waits for a record. False when the log has closed.
    fn poll_depart(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.chain.lock();
        if state.bytes.is_empty() {
            if state.closed {
                return Poll::Ready(false);
            }
            state.flusher = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (answer, landing) = oneshot::channel();
        state.in_flight = true;
        let cohort = self.chain.hand_over(&mut state, Some(answer));
        drop(state);
        self.flight = Some((landing, cohort));
        Poll::Ready(true)
    }

    /// Waits for the batch in flight. Who waits for it, or behind it, hears after 250 ms that it hangs.
    async fn wait(&mut self) {
        let Some((landing, cohort)) = &mut self.flight else { return };
        let answer = match timeout(HUNG_AFTER, &mut *landing).await {
            Ok(answer) => answer,
            Err(_) => {
                let behind = {
                    let mut state = self.chain.lock();
                    state.hung = true;
                    state.cohort.take()
                };
                cohort.finish(Err(hung()));
                if let Some(behind) = behind {
                    behind.finish(Err(hung()));
                }
                landing.await
            }
        };
        let Answer { result, mut spare } = answer.unwrap_or_else(|_| Answer {
            result: Err(AuditError("the log is closed".into())),
            spare: Default::default(),
        });
        spare.0.clear();
        spare.1.clear();
        {
            let mut state = self.chain.lock();
            state.spare = spare;
            state.in_flight = false;
            state.hung = false;
        }
        cohort.finish(result);
        self.flight = None;
    }
}

impl Drop for Attendant {
    /// The runtime ends, or the log closed: from here on each record is handed over by itself.
    fn drop(&mut self) {
        if let Some((mut landing, cohort)) = self.flight.take() {
            // What the writer has not answered by now, it answers to the cohort.
            landing.close();
            if let Ok(answer) = landing.try_recv() {
                cohort.finish(answer.result);
            }
        }
        let mut state = self.chain.lock();
        state.attended = false;
        state.flusher = None;
        state.in_flight = false;
        state.hung = false;
        if !state.bytes.is_empty() {
            self.chain.hand_over(&mut state, None);
        }
    }
}

/// Resolves when the record counts as written, or to why it does not. Never later than 250 ms behind
/// the hand-over while a runtime carries the chain. Dropping it does not take the record back.
#[must_use = "an intent that is not awaited may not be written yet"]
pub struct Written {
    cohort: Result<Arc<Cohort>, AuditError>,
    slot: Option<usize>,
}

impl Written {
    const fn refused(error: AuditError) -> Self {
        Self { cohort: Err(error), slot: None }
    }
}

impl Future for Written {
    type Output = Result<(), AuditError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { cohort, slot } = self.get_mut();
        match cohort {
            Ok(cohort) => cohort.poll(cx, slot),
            Err(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

fn hung() -> AuditError {
    AuditError(format!("the sink has not answered for {} ms", HUNG_AFTER.as_millis()))
}
