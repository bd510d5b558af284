//! The gate in front of hyper: one request at a time, strictly framed, or none.
//!
//! hyper reads more generously than others do: bare LF, two equal lengths, a length beside chunks (which it
//! hides), spaces behind a chunk's size, a `#` that it cuts off. So the gate holds a head back until it is
//! whole and judged, gives hyper exactly that head and its body, and keeps what stands behind it until the
//! answer has ended. Nothing is normalised: the bytes that pass are the bytes that came. A refused request
//! reaches hyper as the smallest request there is, and the refusal waits in the [`Latch`] for the service
//! that answers it; so relay's own reply, its trail and its metrics are those of every other refusal. Faults
//! in a body behind a head that has passed fail the read, as if the app had broken off. What must never
//! enter: a decision about who asks for what.

mod head;
mod latch;

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

pub use head::{Body, Head};
pub(super) use head::{check_target, is_authority};
pub use latch::Latch;

use super::DoorLimits;
use crate::framing::{Chunks, Flaw};
use crate::refusal::Refusal;

/// What is read at once while a head is waited for: as much as hyper reads first, so that it takes a long body for
/// one from then on.
const PIECE: usize = 8 * 1024;
/// Bytes of later requests that are taken while an answer is under way.
const AHEAD: usize = 16 * 1024;
/// A buffer that grew beyond this for one head is given back.
const KEPT: usize = 16 * 1024;
/// From this many bytes of a chunk on they are read straight into hyper's buffer.
const STRAIGHT: u64 = 1024;
/// How many at once. hyper doubles its buffer whenever a read fills it, so this is one less than it may become.
const STRAIGHT_MOST: usize = 32 * 1024 - 1;
/// How much of what a refused app is still sending is read away, so that it sees the reply instead of a reset.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_FOR: Duration = Duration::from_secs(1);

/// What hyper reads in place of a refused request.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n";

/// A connection from an app as hyper may see it.
pub struct Gate<T> {
    inner: T,
    limits: DoorLimits,
    latch: Rc<Latch>,
    buffer: BytesMut,
    /// How many bytes at the buffer's beginning have been judged and may pass.
    passable: usize,
    stage: Stage,
    linger: Option<Linger>,
}

/// What the bytes behind the passable ones are.
enum Stage {
    /// Of a head.
    Head(Head),
    /// Of a body of so many more bytes.
    Length(u64),
    /// Of a body in chunks.
    Chunks(Chunks),
    /// Of the next request: they wait for the answer's end.
    Next,
    /// Behind a refused request: nobody's.
    Refused,
    /// Behind a fault in a body: nobody's.
    Broken(Flaw),
}

struct Linger {
    left: usize,
    time: Pin<Box<Sleep>>,
}

impl<T> Gate<T> {
    /// A gate in front of `inner`; its `latch` is for whoever answers.
    pub fn new(inner: T, latch: Rc<Latch>, limits: &DoorLimits) -> Self {
        let stage = Stage::Head(Head::default());
        let limits = limits.clone();
        Self { inner, limits, latch, buffer: BytesMut::new(), passable: 0, stage, linger: None }
    }

    /// What stands behind it.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// Judges what has come as far as that goes.
    fn judge(&mut self) {
        // Where a head begins that hyper has not seen any of.
        let mut head_at = None;
        loop {
            let new = self.buffer.get(self.passable..).unwrap_or_default();
            match &mut self.stage {
                Stage::Next if self.latch.is_answered() => self.stage = Stage::Head(Head::default()),
                Stage::Head(head) if !new.is_empty() => {
                    self.latch.head_begins();
                    match head.read(&self.limits, new) {
                        Ok(None) => return,
                        Ok(Some((bytes, body))) => {
                            head_at = Some(self.passable);
                            self.passable += bytes;
                            self.latch.asked();
                            self.stage = match body {
                                Body::None => Stage::Next,
                                Body::Length(length) => Stage::Length(length),
                                Body::Chunked => Stage::Chunks(Chunks::default()),
                            };
                        }
                        Err(refusal) => return self.refuse(self.passable, refusal),
                    }
                }
                Stage::Length(left) if !new.is_empty() => {
                    let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(new.len());
                    self.passable += bytes;
                    *left -= bytes as u64;
                    if *left == 0 {
                        self.stage = Stage::Next;
                    }
                }
                Stage::Chunks(chunks) if !new.is_empty() => match (chunks.follow(new), head_at) {
                    (Ok(bytes), _) => {
                        self.passable += bytes;
                        if chunks.is_over() {
                            self.stage = Stage::Next;
                        }
                    }
                    (Err(flaw), Some(at)) => return self.refuse(at, flaw.into()),
                    (Err(flaw), None) => {
                        self.latch.breaks();
                        self.stage = Stage::Broken(flaw);
                    }
                },
                _ => return,
            }
        }
    }

    /// Refuses the request that begins at `at` in the buffer.
    fn refuse(&mut self, at: usize, refusal: Refusal) {
        self.buffer.truncate(at);
        self.buffer.extend_from_slice(STAND_IN);
        self.passable = self.buffer.len();
        self.latch.refuse(refusal);
        self.latch.asked();
        self.stage = Stage::Refused;
    }

    /// Hands over what may pass.
    fn pass(&mut self, to: &mut ReadBuf<'_>) {
        let bytes = self.passable.min(to.remaining());
        to.put_slice(self.buffer.get(..bytes).unwrap_or_default());
        self.buffer.advance(bytes);
        self.passable -= bytes;
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer = BytesMut::new();
        }
    }

    /// How many bytes to come belong to the request's body, whatever they are; 0 if they must be looked at.
    fn sure(&self) -> u64 {
        match &self.stage {
            Stage::Length(left) => *left,
            Stage::Chunks(chunks) if chunks.data_left() >= STRAIGHT => chunks.data_left(),
            _ => 0,
        }
    }

    fn took(&mut self, bytes: usize) {
        match &mut self.stage {
            Stage::Length(left) => {
                *left = left.saturating_sub(bytes as u64);
                if *left == 0 {
                    self.stage = Stage::Next;
                }
            }
            Stage::Chunks(chunks) => chunks.took(bytes as u64),
            _ => {}
        }
    }
}

impl<T: AsyncRead + Unpin> Gate<T> {
    /// Reads a body's bytes where hyper wants them, and none behind them.
    fn poll_straight(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
        sure: u64,
    ) -> Poll<io::Result<()>> {
        let sure = usize::try_from(sure).unwrap_or(usize::MAX).min(STRAIGHT_MOST);
        let bytes = if sure >= to.remaining() {
            let before = to.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, to))?;
            to.filled().len() - before
        } else {
            let mut part = ReadBuf::new(to.initialize_unfilled_to(sure));
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
            let bytes = part.filled().len();
            to.advance(bytes);
            bytes
        };
        self.took(bytes);
        Poll::Ready(Ok(()))
    }

    /// Reads more into the gate's own buffer; 0 at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve(PIECE);
        }
        pin!(self.inner.read_buf(&mut self.buffer)).poll(cx)
    }

    /// Everything, as it comes.
    fn poll_open(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, to);
        }
        self.passable = self.buffer.len();
        self.pass(to);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gate<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        loop {
            if gate.latch.is_open() {
                return gate.poll_open(cx, to);
            }
            gate.judge();
            if gate.passable > 0 {
                gate.pass(to);
                return Poll::Ready(Ok(()));
            }
            match gate.stage {
                Stage::Broken(flaw) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, flaw)));
                }
                // The connection ends with the reply, whatever the app does.
                Stage::Refused => return Poll::Pending,
                Stage::Next if !gate.buffer.is_empty() => {
                    gate.latch.wait(cx);
                    if gate.buffer.len() >= AHEAD {
                        return Poll::Pending;
                    }
                }
                _ => {}
            }
            let sure = gate.sure();
            if sure > 0 {
                return gate.poll_straight(cx, to, sure);
            }
            // The end of the stream is hyper's to judge: behind whole requests it is no fault.
            if ready!(gate.poll_more(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    /// After a refusal what the app is still sending is read away for a moment (RFC 9112 section 9.6): closing
    /// over it would reset the connection, and the reply would be lost with it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        let Some(linger) = &mut gate.linger else {
            ready!(Pin::new(&mut gate.inner).poll_shutdown(cx))?;
            if !matches!(gate.stage, Stage::Refused | Stage::Broken(_)) {
                return Poll::Ready(Ok(()));
            }
            gate.linger = Some(Linger { left: LINGER_BYTES, time: Box::pin(sleep(LINGER_FOR)) });
            return Pin::new(gate).poll_shutdown(cx);
        };
        let mut away = [0; PIECE];
        while linger.time.as_mut().poll(cx).is_pending() {
            let mut piece = ReadBuf::new(&mut away);
            let read = ready!(Pin::new(&mut gate.inner).poll_read(cx, &mut piece));
            linger.left = linger.left.saturating_sub(piece.filled().len());
            // Its end, its failure and too much of it are the same here.
            if read.is_err() || piece.filled().is_empty() || linger.left == 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
