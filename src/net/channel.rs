//! What is left of a connection to a vendor that has switched protocols (RFC 9110 section 15.2.2): bytes.
//!
//! It belonged to one request from its first byte and is never lent again; dropped, it is closed. What must
//! never enter: what the bytes mean.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::patience::Patience;
use super::stream::{self, Stream};

/// A switched connection.
pub struct Channel {
    stream: Stream,
    /// What came right behind the head.
    early: BytesMut,
    patience: Patience,
    idle: Duration,
}

impl Channel {
    pub(super) fn new(stream: Stream, early: BytesMut, idle: Duration) -> Self {
        Self { stream, early, patience: Patience::default(), idle }
    }

    /// Reads what the vendor sends; nothing is its end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return stream::poll_read(&mut self.stream, cx, into);
        }
        let count = self.early.len().min(into.remaining());
        into.put_slice(self.early.get(..count).unwrap_or_default());
        self.early.advance(count);
        Poll::Ready(Ok(()))
    }

    /// Writes to the vendor.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        stream::poll_write(&mut self.stream, cx, &[IoSlice::new(bytes)])
    }

    /// Sends off what was written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream::poll_flush(&mut self.stream, cx)
    }

    /// Says goodbye.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream::poll_shutdown(&mut self.stream, cx)
    }

    /// Ready when nothing has moved since `moved` for the upstream's idle time; says how long that is.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>, moved: Instant) -> Poll<Duration> {
        self.patience.poll_until(cx, moved + self.idle).map(|()| self.idle)
    }
}
