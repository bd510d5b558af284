//! What stands between hyper's connection and the socket: it looks before a reused connection is written to,
//! and knows whether any byte of an answer has come.
//!
//! hyper refuses a connection that it *sees* receive bytes while idle. But it asks tokio, and tokio answers
//! from the readiness of the last turn of the event loop: bytes that have reached the kernel since then are
//! not seen, the request is written, and the late unasked answer is taken for its own. So at a dispatch the
//! tap asks the kernel itself, once and without waiting, in hyper's own first read of that dispatch and
//! thereby before its write; any byte or the end of the stream fails the read, and hyper hands the request
//! back unsent. Bytes that arrive after that look cannot be told from an early answer (RFC 9112 section 9.2).
//! What comes it shows to [`super::frame`], and fails the read that brought what has no place in an answer.
//! What must never enter: anything that keeps or prints the bytes.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::frame::{Asked, Frame};
use crate::framing::Flaw;

/// A read of so many bytes is of a large answer, and the next record is probably there; after a smaller one
/// asking for it would be a system call for nothing.
const BULK: usize = 8 * 1024;

/// A connection as the TLS connector returns it.
pub(super) type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// The socket beneath.
pub(super) fn socket(stream: &Stream) -> &TcpStream {
    match stream {
        MaybeHttpsStream::Http(tcp) => tcp.inner(),
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().0.inner().inner(),
    }
}

/// Lets at most `bytes` wait in the TLS library to be written.
pub(super) fn hold_at_most(stream: &mut Stream, bytes: usize) {
    if let MaybeHttpsStream::Https(tls) = stream {
        tls.inner_mut().get_mut().1.set_buffer_limit(Some(bytes));
    }
}

/// What the pool and the connection tell each other.
#[derive(Default)]
pub(super) struct Pulse {
    look_first: Cell<bool>,
    asked: Cell<Option<Asked>>,
    answered: Cell<bool>,
}

impl Pulse {
    /// A request is about to be dispatched; `look_first` if the connection has been idle.
    pub(super) fn dispatch(&self, look_first: bool, asked: Asked) {
        self.look_first.set(look_first);
        self.asked.set(Some(asked));
        self.answered.set(false);
    }

    /// Whether any byte of plaintext has come since the dispatch.
    pub(super) fn answered(&self) -> bool {
        self.answered.get()
    }
}

/// The stream that hyper reads and writes.
pub(super) struct Tap {
    stream: Stream,
    pulse: Rc<Pulse>,
    frame: Frame,
    /// A read failed behind bytes that had to be handed over first.
    failed: Option<io::Error>,
}

impl Tap {
    pub(super) fn new(stream: Stream, pulse: Rc<Pulse>) -> Self {
        Self { stream, pulse, frame: Frame::default(), failed: None }
    }

    fn look(&self) -> io::Result<()> {
        if !self.pulse.look_first.replace(false) {
            return Ok(());
        }
        let mut one = [0_u8; 1];
        match recv(socket(&self.stream), &mut one, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(Errno::WOULDBLOCK) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the idle connection was not quiet")),
        }
    }
}

macro_rules! each {
    ($tap:expr, $io:ident => $call:expr) => {
        match &mut $tap.stream {
            MaybeHttpsStream::Http(io) => {
                let $io = Pin::new(io.inner_mut());
                $call
            }
            MaybeHttpsStream::Https(io) => {
                let $io = Pin::new(io.inner_mut());
                $call
            }
        }
    };
}

impl Tap {
    /// Follows what a read has brought. At the end of an answer that fills the buffer to its last byte, what
    /// stands behind it is not in the buffer: it is asked for, so that the end is not told before.
    fn follow(&mut self, cx: &mut Context<'_>, came: &[u8], full: bool) -> io::Result<()> {
        let odd = |flaw: Flaw| io::Error::new(io::ErrorKind::InvalidData, flaw);
        self.frame.follow(came).map_err(odd)?;
        if full && !came.is_empty() && self.frame.is_idle() {
            let mut one = [0; 1];
            let mut behind = ReadBuf::new(&mut one);
            // Its end or its failure is the next read's to tell.
            if each!(self, io => io.poll_read(cx, &mut behind)).is_ready() {
                self.frame.follow(behind.filled()).map_err(odd)?;
            }
        }
        Ok(())
    }
}

impl AsyncRead for Tap {
    /// Reads on while whole records come: hyper gives every piece an allocation of its own, as large as it
    /// hopes to read, and what a piece leaves empty waits with it for a slow app.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        tap.look()?;
        if let Some(failed) = tap.failed.take() {
            return Poll::Ready(Err(failed));
        }
        if let Some(asked) = tap.pulse.asked.take() {
            tap.frame.begin(asked);
        }
        let begin = buf.filled().len();
        loop {
            let before = buf.filled().len();
            let polled = each!(tap, io => io.poll_read(cx, buf));
            let came = buf.filled().len() - before;
            if came > 0 {
                tap.pulse.answered.set(true);
                let full = buf.remaining() == 0;
                tap.follow(cx, buf.filled().get(before..).unwrap_or_default(), full)?;
            }
            match polled {
                Poll::Ready(Ok(())) if came >= BULK && buf.remaining() > 0 => {}
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                other if before == begin => return other,
                // What came before goes first.
                Poll::Ready(Err(error)) => {
                    tap.failed = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Ready(Ok(())),
            }
        }
    }
}

// The look belongs to a read; a write that came first would be one too many, so it looks as well.
impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tap = self.get_mut();
        tap.look()?;
        each!(tap, io => io.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => io.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tap = self.get_mut();
        tap.look()?;
        each!(tap, io => io.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            MaybeHttpsStream::Http(io) => io.inner().is_write_vectored(),
            MaybeHttpsStream::Https(io) => io.inner().is_write_vectored(),
        }
    }
}
