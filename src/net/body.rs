//! The two bodies of a request on a line: what goes out, and what comes back.
//!
//! [`Outgoing`] streams the app's body to the vendor without its trailers and counts it. [`VendorBody`]
//! streams the answer, holds the connection while it does, and gives it back once both bodies ended cleanly;
//! dropped before that, it closes the connection. Neither collects anything. What must never enter: scrubbing
//! and rewriting, which wrap these.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::channel::Channel;
use super::demand::{Demand, Hold};
use super::line::Way;
use super::pool::Shelf;

/// A request's body on its way to the vendor.
#[derive(Default)]
pub struct Outgoing {
    source: Source,
    upload: Option<Rc<Upload>>,
    hold: Option<Box<Hold>>,
}

#[derive(Default)]
enum Source {
    #[default]
    Empty,
    Whole(Bytes),
    Streaming(Incoming),
}

/// How far a request's body has gone. Cheap to clone; an empty body costs nothing.
#[derive(Clone, Default)]
pub struct Meter(Option<Rc<Upload>>);

struct Upload {
    bytes: Cell<u64>,
    moved: Cell<Instant>,
    state: Cell<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The vendor has not asked for more than it got.
    Going,
    /// The app's next piece is waited for.
    Awaited,
    Ended,
    BrokenOff,
}

impl Outgoing {
    /// No body at all.
    pub const fn empty() -> Self {
        Self { source: Source::Empty, upload: None, hold: None }
    }

    /// A body that is already here.
    pub fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self::metered(Source::Whole(bytes)) }
    }

    /// The app's body, as it comes. Its trailers are dropped (RFC 9110 section 6.5.1).
    pub fn streaming(incoming: Incoming) -> Self {
        if incoming.is_end_stream() { Self::empty() } else { Self::metered(Source::Streaming(incoming)) }
    }

    /// All of it, if it is here: a body that still streams is `None`.
    pub const fn collected(&self) -> Option<&Bytes> {
        static NONE: Bytes = Bytes::new();
        match &self.source {
            Source::Empty => Some(&NONE),
            Source::Whole(bytes) => Some(bytes),
            Source::Streaming(_) => None,
        }
    }

    /// Lets the vendor ask for it first: goes out with `Expect: 100-continue`.
    pub fn on_demand(&mut self) {
        if self.upload.is_some() {
            self.hold.get_or_insert_default();
        }
    }

    /// What the vendor says to that.
    pub(super) fn demand(&self) -> Option<Demand> {
        self.hold.as_ref().map(|hold| hold.demand.clone())
    }

    /// A view on how far it has gone, also after it was sent.
    pub fn meter(&self) -> Meter {
        Meter(self.upload.clone())
    }

    fn metered(source: Source) -> Self {
        let state = Cell::new(State::Going);
        let upload = Upload { bytes: Cell::new(0), moved: Cell::new(Instant::now()), state };
        Self { source, upload: Some(Rc::new(upload)), hold: None }
    }

    fn note(&self, bytes: usize, state: State) {
        if let Some(upload) = &self.upload {
            upload.bytes.set(upload.bytes.get() + bytes as u64);
            upload.moved.set(Instant::now());
            upload.state.set(state);
        }
    }
}

impl Meter {
    /// Counts what is no request's body.
    pub fn counting() -> Self {
        Outgoing::metered(Source::Empty).meter()
    }

    /// So many bytes more have gone.
    pub fn add(&self, bytes: u64) {
        if let Some(upload) = &self.0 {
            upload.bytes.set(upload.bytes.get() + bytes);
        }
    }

    /// Bytes of the body handed to the connection so far.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |upload| upload.bytes.get())
    }

    pub(super) fn has_body(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn ended(&self) -> bool {
        self.is(State::Ended) || self.0.is_none()
    }

    pub(super) fn broken_off(&self) -> bool {
        self.is(State::BrokenOff)
    }

    pub(super) fn awaits_app(&self) -> bool {
        self.is(State::Awaited)
    }

    /// When it last moved; `None` without a body.
    pub(super) fn moved(&self) -> Option<Instant> {
        self.0.as_ref().map(|upload| upload.moved.get())
    }

    fn is(&self, state: State) -> bool {
        self.0.as_ref().is_some_and(|upload| upload.state.get() == state)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(hold) = &mut self.hold {
            ready!(hold.poll_over(cx));
            self.hold = None;
            self.note(0, State::Going);
        }
        let incoming = match &mut self.source {
            Source::Empty => return Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Empty;
                self.note(bytes.len(), State::Ended);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Source::Streaming(incoming) => incoming,
        };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        let state = if incoming.is_end_stream() { State::Ended } else { State::Going };
        match polled {
            Poll::Pending => {
                if let Some(upload) = &self.upload {
                    upload.state.set(State::Awaited);
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    self.note(data.len(), state);
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(_trailers) => {
                    self.source = Source::Empty;
                    self.note(0, State::Ended);
                    Poll::Ready(None)
                }
            },
            Poll::Ready(None) => {
                self.note(0, State::Ended);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(e))) => {
                self.note(0, State::BrokenOff);
                Poll::Ready(Some(Err(e)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Whole(_) => false,
            Source::Streaming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Streaming(incoming) => incoming.size_hint(),
        }
    }
}

/// Why a vendor's answer stopped in the middle.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The vendor sent nothing for the idle time.
    #[error("the vendor sent nothing for {} s", .0.as_secs())]
    Idle(Duration),
    /// The connection ended or the framing was wrong.
    #[error("the vendor's answer broke off: {0}")]
    Broken(#[from] hyper::Error),
}

/// A vendor's answer, as it comes. Trailers are passed; what reads this body decides about them.
pub struct VendorBody {
    incoming: Incoming,
    held: Option<Held>,
    /// What is left of the connection when the answer switched protocols.
    channel: Option<Box<Channel>>,
    idle: Duration,
    waiting_since: Option<Instant>,
    /// Why it stopped, to be told at the next turn.
    broken: Option<hyper::Error>,
}

/// What the body returns, or closes.
pub(super) struct Held {
    pub(super) way: Way,
    pub(super) shelf: Rc<Shelf>,
    pub(super) meter: Meter,
}

impl VendorBody {
    pub(super) fn new(incoming: Incoming, held: Held, idle: Duration) -> Self {
        let held = Some(held);
        let mut body = Self { incoming, held, channel: None, idle, waiting_since: None, broken: None };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// An answer without a body, behind which the connection speaks another protocol.
    pub(super) fn switched(incoming: Incoming, channel: Channel) -> Self {
        let (channel, idle) = (Some(Box::new(channel)), Duration::ZERO);
        Self { incoming, held: None, channel, idle, waiting_since: None, broken: None }
    }

    /// That connection, once.
    pub fn take_channel(&mut self) -> Option<Box<Channel>> {
        self.channel.take()
    }

    /// The answer ended cleanly. If the request's body did not, the vendor may still be reading it, and the
    /// connection's next bytes would not be a request's head: it is closed by dropping it.
    fn finish(&mut self) {
        if let Some(held) = self.held.take()
            && held.meter.ended()
            && let Way::Wire(wire) = held.way
        {
            held.shelf.put(wire);
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let Some(held) = &mut self.held else { return Poll::Pending };
        if held.way.patience().poll_until(cx, since + self.idle).is_pending() {
            return Poll::Pending;
        }
        self.held = None;
        Poll::Ready(Some(Err(BodyError::Idle(self.idle))))
    }
}

impl Body for VendorBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        if let Some(broken) = body.broken.take() {
            return Poll::Ready(Some(Err(BodyError::Broken(broken))));
        }
        let incoming = &mut body.incoming;
        let polled = match &mut body.held {
            Some(Held { way: Way::Wire(wire), .. }) => {
                wire.poll_answer(cx, |cx| Pin::new(&mut *incoming).poll_frame(cx))
            }
            Some(_) | None => Pin::new(incoming).poll_frame(cx),
        };
        match polled {
            Poll::Pending => body.wait(cx),
            Poll::Ready(Some(Ok(frame))) => {
                body.waiting_since = None;
                // Nothing comes behind trailers, and who reads them may not ask.
                if frame.is_trailers() || body.incoming.is_end_stream() {
                    body.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                body.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(e))) => {
                body.held = None;
                // What came before the break may have come in the same turn, and hyper's server throws away
                // what it has not written when a body fails: one turn is for writing it.
                body.broken = Some(e);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
