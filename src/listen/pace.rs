//! How far a connection is, so that slow ones can be cut without a timer per request.
//!
//! A connection notes its phase in a few cells; its worker sweeps all of them once a second. What must
//! never enter: bytes.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::DoorLimits;
use super::backlog::{Backlog, Waiting};
use crate::pipeline::Watcher;

/// How long a request may be on its way to a connection that would close without it.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    Fresh,
    /// Waiting for its next request.
    Idle,
    /// A head has begun.
    Head,
    /// At least one request is under way.
    Busy,
}

/// One request under way on a connection.
pub(super) struct UnderWay(Rc<Pace>);

impl UnderWay {
    /// The pace of its connection.
    pub(super) fn pace(&self) -> &Pace {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// What a connection is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// To go on.
    Serve,
    /// To close behind the answer that it carries.
    Close,
    /// To end now: it is too slow, or what it carries may not go on.
    Cut,
}

/// One connection's pace.
pub(super) struct Pace {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    under_way: Cell<usize>,
    /// Since when a write has been waiting for the app.
    stalled: Cell<Option<Instant>>,
    order: Cell<Order>,
    /// Whether it can tell the app that no request may follow, before one does: HTTP/2.
    tells: Cell<bool>,
    /// The grant behind the answer that is under way.
    grant: RefCell<Option<Watcher>>,
    /// What waits for the app.
    waiting: Waiting,
    /// The connection's task, to be woken by an order.
    task: RefCell<Option<Waker>>,
}

impl Pace {
    /// A connection that has just been accepted: its first head must come in time. What waits for its app counts
    /// among `all` of relay.
    pub(super) fn fresh(all: Arc<Backlog>) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Fresh),
            since: Cell::new(Instant::now()),
            under_way: Cell::new(0),
            stalled: Cell::new(None),
            order: Cell::new(Order::Serve),
            tells: Cell::new(false),
            grant: RefCell::new(None),
            waiting: Waiting::new(all),
            task: RefCell::new(None),
        })
    }

    /// A whole head has been read; the request is under way until the answer has ended.
    pub(super) fn busy(self: &Rc<Self>) -> UnderWay {
        self.phase.set(Phase::Busy);
        self.waiting.begins_anew();
        self.under_way.set(self.under_way.get() + 1);
        UnderWay(self.clone())
    }

    fn ended(&self) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        if self.under_way.get() == 0 {
            self.depends_on(None);
            self.phase.set(Phase::Idle);
            self.since.set(Instant::now());
        }
    }

    /// An answer's piece waits for the app, or no longer does, where that shows in no write: on HTTP/2 a
    /// stream that is not read on stands still while the connection does not.
    pub(super) fn waits_for_app(&self, waits: bool) {
        self.stalled.set(waits.then(|| self.stalled.get().unwrap_or_else(Instant::now)));
    }

    /// Ready once the app may have another piece of its answer waiting.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.waiting.has_room() {
            return Poll::Ready(());
        }
        self.note(cx);
        Poll::Pending
    }

    /// So many bytes of an answer are on their way to be written.
    pub(super) fn will_write(&self, bytes: usize) {
        self.waiting.add(bytes);
    }

    /// An answer is under way that ends with this grant; of HTTP/2 each stream sees to that itself.
    pub(super) fn depends_on(&self, grant: Option<Watcher>) {
        *self.grant.borrow_mut() = grant;
    }

    fn note(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    /// What the connection is told; its task is woken when that changes.
    pub(super) fn order(&self, cx: &Context<'_>) -> Order {
        self.note(cx);
        // hyper does not ask the body of an app that stopped reading, so its cut has to come from here.
        if self.grant.borrow().as_ref().is_some_and(Watcher::is_revoked) {
            Order::Cut
        } else {
            self.order.get()
        }
    }

    fn give(&self, order: Order) {
        if self.order.get() < order {
            self.order.set(order);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// It is HTTP/2's, which tells the app to go elsewhere before the connection closes.
    pub(super) fn says_goodbye(&self) {
        self.tells.set(true);
    }

    /// Whether it closes, of a relay that parts since then: at once where the app is told so, else when no
    /// request has come for a while, since one may be on its way already.
    fn parts(&self, since: Instant, now: Instant) -> bool {
        let waits = matches!(self.phase.get(), Phase::Fresh | Phase::Idle);
        self.tells.get() || (waits && now.saturating_duration_since(since.max(self.since.get())) > ON_ITS_WAY)
    }

    fn is_overdue(&self, limits: &DoorLimits, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.since.get());
        match self.phase.get() {
            Phase::Idle => waited > limits.idle_timeout,
            Phase::Fresh | Phase::Head => waited > limits.head_timeout,
            Phase::Busy => self
                .stalled
                .get()
                .is_some_and(|since| now.saturating_duration_since(since) > limits.stalled_timeout),
        }
    }

    /// A byte of a request has come.
    pub(super) fn read_some(&self) {
        match self.phase.get() {
            // Its head has the time since it was accepted.
            Phase::Fresh => self.phase.set(Phase::Head),
            Phase::Idle => {
                self.phase.set(Phase::Head);
                self.since.set(Instant::now());
            }
            Phase::Head | Phase::Busy => {}
        }
    }
}

/// All connections of one worker.
#[derive(Default)]
pub(super) struct Sweep {
    watched: RefCell<Vec<Weak<Pace>>>,
    closing: Cell<bool>,
    parting: Cell<Option<Instant>>,
}

impl Sweep {
    /// Watches one more connection.
    pub(super) fn watch(&self, pace: &Rc<Pace>) {
        if self.closing.get() {
            pace.give(Order::Close);
        }
        self.watched.borrow_mut().push(Rc::downgrade(pace));
    }

    /// Parts from every connection, also from those to come.
    pub(super) fn part(&self) {
        self.parting.set(Some(Instant::now()));
    }

    /// Cuts what is overdue; to be called about once a second.
    pub(super) fn sweep(&self, limits: &DoorLimits) {
        let now = Instant::now();
        self.each(|pace| {
            if pace.is_overdue(limits, now) {
                pace.give(Order::Cut);
            } else if self.parting.get().is_some_and(|since| pace.parts(since, now)) {
                pace.give(Order::Close);
            }
        });
    }

    /// Tells every connection, also those to come, to close behind its answer.
    pub(super) fn close(&self) {
        self.closing.set(true);
        self.each(|pace| pace.give(Order::Close));
    }

    fn each(&self, mut act: impl FnMut(&Pace)) {
        self.watched.borrow_mut().retain(|pace| {
            let Some(pace) = pace.upgrade() else { return false };
            act(&pace);
            true
        });
    }
}

/// A connection's bytes, with its pace noted on the way.
pub(super) struct Paced<T> {
    inner: T,
    pace: Rc<Pace>,
}

impl<T> Paced<T> {
    /// Notes the pace of `inner` in `pace`.
    pub(super) const fn new(inner: T, pace: Rc<Pace>) -> Self {
        Self { inner, pace }
    }

    /// What was wrapped.
    pub(super) fn into_inner(self) -> T {
        self.inner
    }
}

impl<T: Read + Unpin> Read for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            self.pace.read_some();
        }
        read
    }
}

impl<T: Write + Unpin> Paced<T> {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending if self.pace.stalled.get().is_none() => self.pace.stalled.set(Some(Instant::now())),
            Poll::Pending => {}
            Poll::Ready(wrote) => {
                self.pace.stalled.set(None);
                if self.pace.waiting.wrote(wrote.as_ref().map_or(0, |bytes| *bytes)) {
                    self.pace.wake();
                }
            }
        }
        written
    }
}

impl<T: Write + Unpin> Write for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
