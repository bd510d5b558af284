//! The two bodies of a request on a line: what goes out, and what comes back.
//!
//! [`Outgoing`] streams the app's body to the vendor without its trailers and counts it. [`VendorBody`]
//! streams the answer, holds the connection while it does, and gives it back once both bodies ended cleanly;
//! dropped before that, it closes the connection. Neither collects anything. What must never enter: scrubbing
//! and rewriting, which wrap these.

use std::cell::Cell;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::channel::Channel;
use super::demand::{Demand, Hold};
use super::failure::{Failure, told};
use super::pool::Shelf;
use super::trunk::Branch;
use super::wire::Wire;

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
    /// With whether it comes over HTTP/2.
    Streaming(Incoming, bool),
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

    /// The app's body, as it comes, from a request of this version. Its trailers are dropped (RFC 9110 section 6.5.1).
    pub fn streaming(incoming: Incoming, version: Version) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self::metered(Source::Streaming(incoming, version == Version::HTTP_2))
    }

    /// All of it, if it is here: a body that still streams is `None`.
    pub const fn collected(&self) -> Option<&Bytes> {
        static NONE: Bytes = Bytes::new();
        match &self.source {
            Source::Empty => Some(&NONE),
            Source::Whole(bytes) => Some(bytes),
            Source::Streaming(..) => None,
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

/// Why the app's body broke off.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Its connection failed, or the framing was wrong.
    #[error("{}", told(.0))]
    Broken(#[source] hyper::Error),
    /// It reset its stream as if all were well (RFC 9113 section 8.1), before the body's end.
    #[error("it reset the stream before the end")]
    Reset,
}

/// Whether a body over HTTP/2 that gives no more has ended, by its framing. hyper takes a reset that names no error for an end,
/// because a side that needs no more may send one behind a whole body; whether it was whole is not told then, but
/// by the length that was announced.
fn is_whole(incoming: &Incoming) -> bool {
    incoming.is_end_stream() || incoming.size_hint().exact() == Some(0)
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if let Some(hold) = &mut self.hold {
            ready!(hold.poll_over(cx));
            self.hold = None;
            self.note(0, State::Going);
        }
        let (incoming, http2) = match &mut self.source {
            Source::Empty => return Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = mem::take(bytes);
                self.source = Source::Empty;
                self.note(bytes.len(), State::Ended);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Source::Streaming(incoming, http2) => (incoming, *http2),
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
            Poll::Ready(None) if !http2 || is_whole(incoming) => {
                self.note(0, State::Ended);
                Poll::Ready(None)
            }
            Poll::Ready(ended) => {
                self.note(0, State::BrokenOff);
                let why = match ended {
                    Some(Err(error)) => UploadError::Broken(error),
                    _ => UploadError::Reset,
                };
                Poll::Ready(Some(Err(why)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Whole(_) => false,
            Source::Streaming(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Streaming(incoming, _) => incoming.size_hint(),
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
    Broken(String),
}

/// A vendor's answer, as it comes. Trailers are passed; what reads this body decides about them.
pub struct VendorBody {
    source: Coming,
    idle: Duration,
    waiting_since: Option<Instant>,
}

/// Where an answer comes from, and what is held while it does.
enum Coming {
    /// A connection of its own, which goes back to the shelf at the end.
    Wire(Box<Wire>, Rc<Shelf>, Meter),
    /// A stream of a shared one; whether the head said all.
    Branch(Incoming, Branch, bool),
    /// A connection that has switched protocols: without a body.
    Switched(Box<Channel>),
    /// All of it has come.
    Ended,
    /// It broke off.
    Broken,
}

impl VendorBody {
    pub(super) fn of_wire(wire: Box<Wire>, shelf: Rc<Shelf>, meter: Meter, idle: Duration) -> Self {
        Self::new(Coming::Wire(wire, shelf, meter), idle)
    }

    /// An answer over HTTP/2. `whole` if its head says all, as gRPC's that only fails does: its stream may be reset
    /// right behind it.
    pub(super) fn of_branch(incoming: Incoming, branch: Branch, whole: bool, idle: Duration) -> Self {
        Self::new(Coming::Branch(incoming, branch, whole), idle)
    }

    /// An answer without a body, behind which the connection speaks another protocol.
    pub(super) fn switched(channel: Channel) -> Self {
        Self::new(Coming::Switched(Box::new(channel)), Duration::ZERO)
    }

    fn new(source: Coming, idle: Duration) -> Self {
        let mut body = Self { source, idle, waiting_since: None };
        if body.has_come() {
            body.finish();
        }
        body
    }

    /// The connection that has switched protocols, once.
    pub fn take_channel(&mut self) -> Option<Box<Channel>> {
        match mem::replace(&mut self.source, Coming::Ended) {
            Coming::Switched(channel) => Some(channel),
            other => {
                self.source = other;
                None
            }
        }
    }

    /// Whether nothing more comes, as far as the connection knows.
    fn has_come(&self) -> bool {
        match &self.source {
            Coming::Wire(wire, ..) => wire.is_over(),
            Coming::Branch(incoming, ..) => incoming.is_end_stream(),
            Coming::Switched(_) | Coming::Ended => true,
            Coming::Broken => false,
        }
    }

    /// The answer ended cleanly. If the request's body did not, the vendor may still be reading it, and the
    /// connection's next bytes would not be a request's head: it is closed by dropping it.
    fn finish(&mut self) {
        if matches!(self.source, Coming::Switched(_)) {
            return;
        }
        if let Coming::Wire(wire, shelf, meter) = mem::replace(&mut self.source, Coming::Ended)
            && meter.ended()
        {
            shelf.put(wire);
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let patience = match &mut self.source {
            Coming::Wire(wire, ..) => &mut wire.patience,
            Coming::Branch(_, branch, _) => &mut branch.patience,
            Coming::Switched(_) | Coming::Ended | Coming::Broken => return Poll::Pending,
        };
        ready!(patience.poll_until(cx, since + self.idle));
        self.source = Coming::Broken;
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
        let polled = match &mut body.source {
            Coming::Wire(wire, ..) => wire.poll_body(cx),
            Coming::Branch(incoming, _, whole) => match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Ready(None) if !*whole && !is_whole(incoming) => Poll::Ready(Some(Err(Failure::Reset))),
                polled => polled.map(|polled| polled.map(|read| read.map_err(Failure::Http2))),
            },
            Coming::Switched(_) | Coming::Ended | Coming::Broken => return Poll::Ready(None),
        };
        match polled {
            Poll::Pending => body.wait(cx),
            Poll::Ready(Some(Ok(frame))) => {
                body.waiting_since = None;
                // Nothing comes behind trailers, and who reads them may not ask.
                if frame.is_trailers() || body.has_come() {
                    body.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                body.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(failure))) => {
                body.source = Coming::Broken;
                Poll::Ready(Some(Err(BodyError::Broken(failure.to_string()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_come()
    }

    fn size_hint(&self) -> SizeHint {
        let left = match &self.source {
            Coming::Wire(wire, ..) => wire.left(),
            Coming::Branch(incoming, ..) => return incoming.size_hint(),
            Coming::Switched(_) | Coming::Ended => Some(0),
            Coming::Broken => None,
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
