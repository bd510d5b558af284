//! A bound on frames that cost an app nothing: HTTP/2's SETTINGS, PING, PRIORITY, WINDOW_UPDATE and unknown ones.
//!
//! The library beneath answers each and counts none (it bounds resets, CONTINUATION and empty DATA itself),
//! so one connection could keep a worker busy with them. What must never enter: a meaning of any frame but
//! its kind and length (RFC 9113 section 4.1).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Frames of control taken within [`WINDOW`], beside a few per write of relay's own.
const MOST: u32 = 1_000;
const PER_WRITE: u32 = 8;
const WINDOW: Duration = Duration::from_secs(10);
const PREFACE: usize = 24;
/// RFC 9113 section 6: the kinds that carry a request, or that the library beneath bounds itself.
const OTHERS: [u8; 6] = [DATA, HEADERS, RST_STREAM, PUSH_PROMISE, GOAWAY, CONTINUATION];
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// A connection whose control frames are counted.
pub(super) struct Counted<T> {
    inner: T,
    frames: Frames,
}

/// Where in the stream of frames the reading is.
struct Frames {
    /// Bytes to pass before the next frame's head.
    skip: usize,
    head: Vec<u8>,
    control: u32,
    allowed: u32,
    since: Instant,
}

impl<T> Counted<T> {
    /// Counts from the connection's first byte on.
    pub(super) fn new(inner: T) -> Self {
        let frames = Frames {
            skip: PREFACE,
            head: Vec::with_capacity(9),
            control: 0,
            allowed: MOST,
            since: Instant::now(),
        };
        Self { inner, frames }
    }
}

impl Frames {
    /// Whether all that was read so far is no flood.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = bytes.get(passed..).unwrap_or(&[]);
                continue;
            }
            let wanted = (9 - self.head.len()).min(bytes.len());
            let (of_head, rest) = bytes.split_at(wanted);
            self.head.extend_from_slice(of_head);
            bytes = rest;
            if let [a, b, c, kind, ..] = *self.head
                && self.head.len() == 9
            {
                self.head.clear();
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if !OTHERS.contains(&kind) {
                    self.control += 1;
                }
            }
        }
        if self.control > self.allowed && self.since.elapsed() > WINDOW {
            (self.control, self.allowed, self.since) = (0, MOST, Instant::now());
        }
        self.control <= self.allowed
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if self.frames.read(buf.filled().get(before..).unwrap_or(&[])) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::other("a flood of frames that carry nothing")))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Whoever measures its way by pings sends them when something has come.
        self.frames.allowed =
            self.frames.allowed.saturating_add(if bytes.len() > 64 { PER_WRITE } else { 0 });
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(length).unwrap(), kind, 0, 0, 0, 0, 0];
        frame.resize(9 + length, 7);
        frame
    }

    #[test]
    fn pings_are_counted_whatever_the_cuts_and_data_is_not() {
        let mut stream = vec![b'P'; PREFACE];
        for _ in 0..MOST {
            stream.extend(frame(6, 8));
            stream.extend(frame(0, 100));
        }
        for cut in [1, 7, 9, 4096] {
            let mut counted = Counted::new(());
            assert!(stream.chunks(cut).all(|piece| counted.frames.read(piece)), "{cut}");
            assert!(!counted.frames.read(&frame(4, 0)), "{cut}: one too many");
        }
    }
}
