//! One connection that speaks HTTP/1.1, moved on by whoever uses it.
//!
//! It has no task of its own: the request that borrowed it writes and reads it, from the head it sends to the
//! last byte of the answer, so that an answer wakes one task and not two. Nobody polls an idle one; the event
//! loop still notes what happens to its socket, and whoever takes it from the shelf asks first. An upload that
//! outlives the answer's head gets a task, because an app that does not read on must not stop what it sends.
//! [`writing`] makes bytes of a request, [`reading`] an answer of bytes. What must never enter: a decision about
//! who may use it.

mod reading;
mod writing;

use std::cell::RefCell;
use std::future::poll_fn;
use std::mem;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Method, Request, Response};
use hyper::body::Frame;
use tokio::io::ReadBuf;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::body::Outgoing;
use super::channel::Channel;
use super::failure::Failure;
use super::identity::Badge;
use super::patience::Patience;
use super::stream::{self, Stream};
use crate::model::Customer;
use reading::{Asked, Piece, Reading, SURPLUS};
use writing::Writing;

/// Bytes of encrypted records that may wait for a vendor that reads slowly.
const RECORDS: usize = 32 * 1024;
/// What is read at once when an answer begins; most are not longer.
const PIECE: usize = 4 * 1024;
/// What is read at once of a long one. Up to four such pieces wait for an app that reads slowly: at twice as much
/// a stalled app costs more than 256 KiB.
const LONG_PIECE: usize = 32 * 1024;
/// A read of so many bytes is of a long answer, and the next record is probably there; after a smaller one asking
/// for it would be a system call for nothing.
const BULK: usize = 8 * 1024;
/// How long an idle connection may take to end, which is one record; a vendor need not read it.
const GOODBYE: Duration = Duration::from_secs(5);

/// One connection. Dropped unclean, it is closed at once, whatever it waits for.
pub(super) struct Wire {
    drive: Drive,
    pub(super) patience: Patience,
    place: u64,
    /// The identity that it was made with.
    badge: Option<Rc<Badge>>,
    pub(super) peer: SocketAddr,
    customer: Option<Customer>,
    clean: bool,
    /// It may switch protocols, and is never lent again.
    apart: bool,
}

/// Who moves the connection on.
// A wire stands in a box as a whole.
#[allow(clippy::large_enum_variant)]
enum Drive {
    /// Whoever holds the wire.
    Holder(Exchange),
    /// They read; a task of its own writes.
    Shared(Rc<RefCell<Exchange>>, AbortHandle),
    /// It has ended, or is another's now.
    Over,
}

/// The connection with the request and the answer on it.
struct Exchange {
    stream: Stream,
    writing: Writing,
    reading: Reading,
    /// How much is read at once.
    piece: usize,
    /// Why the request did not go on.
    stopped: Option<Failure>,
    /// The last read has left no room.
    full: bool,
    /// A task of its own writes; who waits for the answer.
    alone: bool,
    reader: Option<Waker>,
}

impl Wire {
    /// HTTP/1.1 on a fresh connection that stands at `place` in the pool. `customer` if it is only theirs.
    pub(super) fn new(mut stream: Stream, peer: SocketAddr, place: u64, customer: Option<Customer>) -> Self {
        stream::hold_at_most(&mut stream, RECORDS);
        let (writing, reading) = (Writing::default(), Reading::new());
        let exchange = Exchange {
            stream,
            writing,
            reading,
            piece: PIECE,
            stopped: None,
            full: false,
            alone: false,
            reader: None,
        };
        let (drive, patience) = (Drive::Holder(exchange), Patience::default());
        Self { drive, patience, place, badge: None, peer, customer, clean: true, apart: false }
    }

    /// Sends a request and waits for the head of its answer; `None` once `overdue` says so, which is asked
    /// whenever nothing has moved on. With `look`, which a connection that has been idle needs, the request comes
    /// back if it was not quiet.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Outgoing>,
        look: bool,
        mut overdue: impl FnMut(&mut Patience, &mut Context<'_>) -> Poll<()>,
    ) -> Option<Result<Response<()>, Failure>> {
        self.clean = false;
        let upgrade = self.apart && request.headers().contains_key(UPGRADE);
        let Self { drive: Drive::Holder(exchange), patience, .. } = self else {
            return Some(Err(Failure::Unsent(Box::new(request))));
        };
        if look && !stream::is_quiet(&exchange.stream) {
            return Some(Err(Failure::Unsent(Box::new(request))));
        }
        if let Err(failure) = exchange.begin(request, upgrade) {
            return Some(Err(failure));
        }
        poll_fn(|cx| match exchange.poll_head(cx) {
            Poll::Ready(answered) => Poll::Ready(Some(answered)),
            Poll::Pending => overdue(patience, cx).map(|()| None),
        })
        .await
    }

    /// Whether any byte of the answer has come.
    pub(super) fn has_answered(&self) -> bool {
        self.reading(Reading::has_begun).unwrap_or(false)
    }

    /// The answer's next piece; `None` at its end.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match &mut self.drive {
            Drive::Holder(exchange) => exchange.poll_body(cx),
            Drive::Shared(exchange, _) => {
                let mut exchange = exchange.borrow_mut();
                let polled = exchange.poll_body(cx);
                if polled.is_pending() {
                    exchange.reader = Some(cx.waker().clone());
                }
                polled
            }
            Drive::Over => Poll::Ready(Some(Err(Failure::Ended))),
        }
    }

    /// Whether the answer has ended.
    pub(super) fn is_over(&self) -> bool {
        self.reading(Reading::is_over).unwrap_or(false)
    }

    /// How much of the answer's body is to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        self.reading(Reading::left).flatten()
    }

    fn reading<T>(&self, tell: impl FnOnce(&Reading) -> T) -> Option<T> {
        match &self.drive {
            Drive::Holder(exchange) => Some(tell(&exchange.reading)),
            Drive::Shared(exchange, _) => Some(tell(&exchange.borrow().reading)),
            Drive::Over => None,
        }
    }

    /// Gives the rest of the upload a task, which goes on behind the answer's head. The connection is not used
    /// again.
    pub(super) fn go_on_alone(&mut self) {
        self.drive = match mem::replace(&mut self.drive, Drive::Over) {
            Drive::Holder(mut exchange) => {
                exchange.alone = true;
                let shared = Rc::new(RefCell::new(exchange));
                let writer = Rc::clone(&shared);
                let upload = poll_fn(move |cx| writer.borrow_mut().poll_upload(cx));
                Drive::Shared(shared, tokio::task::spawn_local(upload).abort_handle())
            }
            drive => drive,
        };
    }

    /// It is for one request only, which may switch protocols.
    pub(super) fn keep_apart(&mut self) {
        self.apart = true;
    }

    /// Whether it is for one request only.
    pub(super) const fn is_apart(&self) -> bool {
        self.apart
    }

    /// What is left of it when the vendor has switched protocols.
    pub(super) fn channel(&mut self, idle: Duration) -> Option<Channel> {
        match mem::replace(&mut self.drive, Drive::Over) {
            Drive::Holder(mut exchange) if exchange.reading.has_switched() => {
                let early = mem::take(exchange.reading.buffer());
                Some(Channel::new(exchange.stream, early, idle))
            }
            _ => None,
        }
    }

    /// Where it stands in the pool: its upstream's place, or its identity's.
    pub(super) const fn place(&self) -> u64 {
        self.place
    }

    /// It was made with this identity.
    pub(super) fn carry(&mut self, badge: Rc<Badge>) {
        self.badge = Some(badge);
    }

    /// Whether it was made with an identity that is not shown any more.
    pub(super) fn is_revoked(&self) -> bool {
        self.badge.as_ref().is_some_and(|badge| badge.is_revoked())
    }

    /// Whether `customer` may use it: nobody else's request body has gone over it, and it is not another's.
    pub(super) fn serves(&self, customer: &Customer) -> bool {
        self.customer.as_ref().is_none_or(|one| one == customer)
    }

    /// From now on it is `customer`'s alone, if it was not another's before.
    pub(super) fn belongs_to(&mut self, customer: &Customer) {
        self.customer.get_or_insert_with(|| customer.clone());
    }

    /// Whether, as far as the event loop knows, it is open and nothing has come that nobody asked for.
    pub(super) fn is_ready(&mut self) -> bool {
        match &mut self.drive {
            Drive::Holder(exchange) => exchange.is_at_rest() && exchange.is_quiet(),
            Drive::Shared(..) | Drive::Over => false,
        }
    }

    /// Whether another request could go over it.
    pub(super) fn is_done(&self) -> bool {
        matches!(&self.drive, Drive::Holder(exchange) if exchange.is_at_rest())
    }

    /// Marks it as idle between two requests: when dropped it says goodbye (RFC 8446 section 6.1).
    pub(super) fn rest(&mut self) {
        self.clean = true;
        if let Drive::Holder(exchange) = &mut self.drive {
            // The app's body goes.
            exchange.writing.forget();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        match mem::replace(&mut self.drive, Drive::Over) {
            // Outside of a task the worker is ending, and nobody would carry the goodbye.
            Drive::Holder(mut exchange) if self.clean && tokio::task::try_id().is_some() => {
                let goodbye =
                    async move { poll_fn(|cx| stream::poll_shutdown(&mut exchange.stream, cx)).await };
                tokio::task::spawn_local(async move { drop(timeout(GOODBYE, goodbye).await) });
            }
            Drive::Shared(_, upload) => upload.abort(),
            Drive::Holder(_) | Drive::Over => {}
        }
    }
}

impl Exchange {
    fn begin(&mut self, request: Request<Outgoing>, upgrade: bool) -> Result<(), Failure> {
        let head = *request.method() == Method::HEAD;
        self.reading.begin(Asked { head, upgrade, demand: request.body().demand() });
        (self.piece, self.full, self.stopped) = (PIECE, false, None);
        self.writing = Writing::of(request)?;
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Failure>> {
        loop {
            // Before the writing: behind a 100 the body goes in the same round.
            if let Some(Piece::Head(head)) = self.poll_next(cx)? {
                return Poll::Ready(Ok(head));
            }
            self.write(cx)?;
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(self.ended()));
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        loop {
            if !self.alone && !self.writing.is_over() {
                self.write(cx)?;
            } else if let Some(Failure::Body(_) | Failure::Length) = &self.stopped {
                return Poll::Ready(self.stopped.take().map(Err));
            }
            match self.poll_next(cx)? {
                Some(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Piece::Trailers(fields)) => return Poll::Ready(Some(Ok(Frame::trailers(fields)))),
                Some(Piece::Head(_)) | None if self.reading.is_over() => return Poll::Ready(None),
                Some(Piece::Head(_)) | None => {}
            }
            if ready!(self.poll_fill(cx))? == 0 && !self.reading.end() {
                return Poll::Ready(Some(Err(self.ended())));
            }
        }
    }

    /// The next piece of what has been read. Where an answer ends with the last byte that there was room for, what
    /// stands behind it has not been read: it is asked for, so that the end is not told before.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Result<Option<Piece>, Failure> {
        let piece = self.reading.next().map_err(Failure::Framing)?;
        if piece.is_some() && self.full && self.reading.is_over() && !self.is_silent(cx) {
            return Err(Failure::Framing(SURPLUS));
        }
        Ok(piece)
    }

    /// Writes on. A vendor that takes no more may still answer: why it stopped is kept for when it does not.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        match self.writing.poll(&mut self.stream, cx) {
            Poll::Ready(Err(failure @ Failure::Connection(_))) => self.stopped = Some(failure),
            Poll::Ready(Err(failure)) => return Err(failure),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Ok(())
    }

    /// Writes on in a task of its own.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(failure) = ready!(self.writing.poll(&mut self.stream, cx)) {
            self.stopped = Some(failure);
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(())
    }

    /// Reads; nothing is the connection's end. Reads on while whole records come: each piece has memory of its
    /// own, and what it leaves empty waits with it for a slow app.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Failure>> {
        let buffer = self.reading.buffer();
        if buffer.capacity() - buffer.len() < self.piece / 4 {
            buffer.reserve(self.piece);
        }
        let before = buffer.len();
        loop {
            let polled = stream::poll_fill(&mut self.stream, cx, buffer);
            let came = buffer.len() - before;
            match polled {
                Poll::Ready(Ok(now)) if now >= BULK && buffer.len() < buffer.capacity() => continue,
                // What came before it goes first; the next turn meets it again.
                Poll::Ready(Err(error)) if came == 0 => {
                    return Poll::Ready(Err(self.stopped.take().unwrap_or(Failure::Connection(error))));
                }
                Poll::Pending if came == 0 => return Poll::Pending,
                Poll::Ready(_) | Poll::Pending => {}
            }
            self.full = buffer.len() == buffer.capacity();
            if self.full || came >= BULK {
                self.piece = LONG_PIECE;
            }
            if came > 0 {
                self.reading.note();
            }
            return Poll::Ready(Ok(came));
        }
    }

    /// Whether no byte waits to be read. The connection's end is the next read's to tell.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let mut one = [0; 1];
        let mut behind = ReadBuf::new(&mut one);
        stream::poll_read(&mut self.stream, cx, &mut behind).is_pending() || behind.filled().is_empty()
    }

    /// Whether request and answer have gone by, and the connection goes on.
    fn is_at_rest(&self) -> bool {
        self.writing.is_over() && self.reading.is_over() && self.reading.lasts()
    }

    /// Whether it is open and nothing has come that nobody asked for.
    fn is_quiet(&mut self) -> bool {
        let mut one = [0; 1];
        let mut cx = Context::from_waker(Waker::noop());
        stream::poll_read(&mut self.stream, &mut cx, &mut ReadBuf::new(&mut one)).is_pending()
    }

    fn ended(&mut self) -> Failure {
        self.stopped.take().unwrap_or(Failure::Ended)
    }
}
