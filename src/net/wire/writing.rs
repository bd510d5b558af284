//! A request on its way to a vendor: its head as bytes, then its body, framed.
//!
//! The head is written into memory that is overwritten afterwards, because the credential stands in it. Of the body one piece is
//! here at a time: the next is asked for when the vendor has taken the last. What must never enter: a second way
//! to frame a body than a length or chunks (RFC 9112 section 6.3), and a decision about what stands in the head.

use std::io::{self, IoSlice, Write as _};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method, Request};
use http_body::Body;

use super::super::body::Outgoing;
use super::super::failure::Failure;
use super::super::stream::{self, Stream};

/// Room for what frames a chunk: a line's end, up to 16 digits, a line's end.
const CHUNK_TEXT: usize = 20;

/// One request, as far as it has gone.
#[derive(Default)]
pub(super) struct Writing {
    /// The head, later what stands before a chunk; as much of it as has gone.
    text: Wiped,
    gone: usize,
    piece: Bytes,
    body: Outgoing,
    left: Left,
    /// What was written last has not been sent off.
    unsent: bool,
    failed: bool,
}

/// Bytes that are overwritten when they are let go. A word at a time: byte by byte it was a twentieth of a sending.
#[derive(Default)]
struct Wiped(Vec<u8>);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.fill(0);
        // Nobody reads the zeros: the compiler is not to know.
        std::hint::black_box(&self.0);
    }
}

/// What of the body has not been asked for.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Left {
    #[default]
    Nothing,
    Bytes(u64),
    /// Chunks, and whether one went before.
    Chunks(bool),
}

impl Writing {
    /// A request that nothing of has gone yet.
    pub(super) fn of(request: Request<Outgoing>) -> Result<Self, Failure> {
        let (head, mut body) = request.into_parts();
        let mut left = match (body.is_end_stream(), body.size_hint().exact()) {
            (true, _) | (_, Some(0)) => Left::Nothing,
            (false, Some(length)) => Left::Bytes(length),
            (false, None) => Left::Chunks(false),
        };
        let mut first = Bytes::new();
        // Over HTTP/2 a body's absence may come behind the head; a GET in chunks would puzzle vendors.
        if left == Left::Chunks(false) && matches!(head.method, Method::GET | Method::HEAD) {
            match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(None) => left = Left::Nothing,
                Poll::Ready(Some(frame)) => {
                    first = frame.map_err(Failure::Body)?.into_data().unwrap_or_default();
                }
                Poll::Pending => {}
            }
        }
        let text = head_text(&head, left);
        let mut writing = Self { text, body, left, unsent: true, ..Self::default() };
        if !first.is_empty() {
            writing.frame(first)?;
        }
        Ok(writing)
    }

    /// Whether all of it has gone, and without a fault.
    pub(super) fn is_over(&self) -> bool {
        self.is_taken() && self.left == Left::Nothing && !self.unsent && !self.failed
    }

    /// Lets go of the app's body, all of which has gone.
    pub(super) fn forget(&mut self) {
        self.body = Outgoing::empty();
    }

    fn is_taken(&self) -> bool {
        self.gone == self.text.0.len() && self.piece.is_empty()
    }

    /// Writes what `stream` takes. Ready once all has gone, or nothing more will.
    pub(super) fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.failed {
            return Poll::Ready(Ok(()));
        }
        let polled = self.poll_on(stream, cx);
        if let Poll::Ready(Err(_)) = polled {
            self.failed = true;
        }
        polled
    }

    fn poll_on(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            // The head waits for the first piece, if that is there: both are one record then.
            let asked = if self.piece.is_empty() { self.poll_piece(cx)? } else { Poll::Ready(()) };
            if !self.is_taken() {
                ready!(self.poll_write(stream, cx)).map_err(Failure::Connection)?;
                continue;
            }
            if asked.is_ready() && self.left != Left::Nothing {
                continue;
            }
            if self.unsent {
                ready!(stream::poll_flush(stream, cx)).map_err(Failure::Connection)?;
                self.unsent = false;
            }
            return asked.map(Ok);
        }
    }

    /// Asks for the body's next piece; ready once it is there, or none is to come.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Failure> {
        // What frames the last one has to be gone, so that the text can hold the next one's.
        let first = self.gone == 0;
        if self.left == Left::Nothing || !(first || self.is_taken()) {
            return Ok(Poll::Ready(()));
        }
        if !self.body.is_end_stream() {
            let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else {
                return Ok(Poll::Pending);
            };
            // Trailers do not go on.
            if let Some(frame) = polled.transpose().map_err(Failure::Body)? {
                let data = frame.into_data().unwrap_or_default();
                if !data.is_empty() {
                    self.frame(data)?;
                }
                if !self.body.is_end_stream() {
                    return Ok(Poll::Ready(()));
                }
            }
        }
        self.end()?;
        Ok(Poll::Ready(()))
    }

    /// Takes a piece to be written next.
    fn frame(&mut self, data: Bytes) -> Result<(), Failure> {
        match &mut self.left {
            Left::Nothing => return Err(Failure::Length),
            Left::Bytes(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Failure::Length)?;
            }
            Left::Chunks(another) => {
                let before = if mem::replace(another, true) { "\r\n" } else { "" };
                self.clear_gone();
                // Into memory: it cannot fail.
                let _ = write!(self.text.0, "{before}{:x}\r\n", data.len());
            }
        }
        self.piece = data;
        Ok(())
    }

    /// The body has no more pieces.
    fn end(&mut self) -> Result<(), Failure> {
        match mem::take(&mut self.left) {
            Left::Bytes(1..) => Err(Failure::Length),
            Left::Bytes(0) | Left::Nothing => Ok(()),
            // With a piece that waits the end has to stand behind it.
            Left::Chunks(another) if self.piece.is_empty() => {
                self.clear_gone();
                self.text.0.extend_from_slice(if another { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" });
                Ok(())
            }
            left @ Left::Chunks(_) => {
                self.left = left;
                Ok(())
            }
        }
    }

    fn clear_gone(&mut self) {
        if self.gone == self.text.0.len() {
            self.text.0.clear();
            self.gone = 0;
        }
    }

    fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let text = self.text.0.get(self.gone..).unwrap_or_default();
        let parts = [IoSlice::new(text), IoSlice::new(&self.piece)];
        let parts = if self.piece.is_empty() { &parts[..1] } else { &parts[..] };
        let written = ready!(stream::poll_write(stream, cx, parts))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unsent = true;
        let of_text = written.min(text.len());
        self.gone += of_text;
        self.piece.advance((written - of_text).min(self.piece.len()));
        if self.gone == self.text.0.len() {
            // The credential goes with the head.
            (self.text, self.gone) = (Wiped::default(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

/// The head: request line, `fields`, and how the body is framed.
fn head_text(head: &Parts, left: Left) -> Wiped {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let method = head.method.as_str();
    let fields = |fields: &HeaderMap| {
        fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
    };
    // As large as it gets: a vector that grows leaves copies behind.
    let room = method.len() + target.len() + fields(&head.headers) + 64 + CHUNK_TEXT;
    let mut text = Wiped(Vec::with_capacity(room));
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        text.0.extend_from_slice(part.as_bytes());
    }
    for (name, value) in &head.headers {
        if left != Left::Nothing && (name == CONTENT_LENGTH || name == TRANSFER_ENCODING) {
            continue;
        }
        text.0.extend_from_slice(name.as_str().as_bytes());
        text.0.extend_from_slice(b": ");
        text.0.extend_from_slice(value.as_bytes());
        text.0.extend_from_slice(b"\r\n");
    }
    // Into memory: it cannot fail.
    let _ = match left {
        Left::Nothing => Ok(()),
        Left::Bytes(length) => write!(text.0, "content-length: {length}\r\n"),
        Left::Chunks(_) => write!(text.0, "transfer-encoding: chunked\r\n"),
    };
    text.0.extend_from_slice(b"\r\n");
    text
}
