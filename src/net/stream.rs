//! A connection to a vendor as bytes: plain or TLS, written and read alike.
//!
//! What must never enter: what the bytes mean, and anything that keeps or prints them.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::BytesMut;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection as the TLS connector returns it.
pub(super) type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// The socket beneath.
pub(super) fn socket(stream: &Stream) -> &TcpStream {
    match stream {
        MaybeHttpsStream::Http(tcp) => tcp.inner(),
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().0.inner().inner(),
    }
}

/// Whether HTTP/2 was negotiated on it.
pub(super) fn speaks_http2(stream: &Stream) -> bool {
    match stream {
        MaybeHttpsStream::Http(_) => false,
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().1.alpn_protocol() == Some(b"h2"),
    }
}

/// Lets at most `bytes` wait in the TLS library to be written.
pub(super) fn hold_at_most(stream: &mut Stream, bytes: usize) {
    if let MaybeHttpsStream::Https(tls) = stream {
        tls.inner_mut().get_mut().1.set_buffer_limit(Some(bytes));
    }
}

/// Whether the kernel has nothing from the vendor: asked of itself, because the event loop only knows what was
/// there at its last turn, and a late unasked answer would be taken for that of the request that is written next.
pub(super) fn is_quiet(stream: &Stream) -> bool {
    let mut one = [0_u8; 1];
    matches!(recv(socket(stream), &mut one, RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::WOULDBLOCK))
}

macro_rules! each {
    ($stream:expr, $io:ident => $call:expr) => {
        match $stream {
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

/// Reads into `into`.
pub(super) fn poll_read(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    into: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    each!(stream, io => io.poll_read(cx, into))
}

/// Reads into what room `buffer` has; says how many bytes came.
pub(super) fn poll_fill(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    // The future holds nothing between two polls.
    each!(stream, io => pin!(io.get_mut().read_buf(buffer)).poll(cx))
}

/// Writes what is taken of `parts`, in their order.
pub(super) fn poll_write(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    each!(stream, io => io.poll_write_vectored(cx, parts))
}

/// Sends off what was written.
pub(super) fn poll_flush(stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    each!(stream, io => io.poll_flush(cx))
}

/// Says goodbye (RFC 8446 section 6.1).
pub(super) fn poll_shutdown(stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    each!(stream, io => io.poll_shutdown(cx))
}
