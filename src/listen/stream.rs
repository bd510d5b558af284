//! One connection's bytes, whichever door it came in by.
//!
//! What must never enter: what the bytes mean.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// How HTTP/2 begins where nothing was negotiated (RFC 9113 section 3.4); no method begins like that.
const PREFACE: &[u8] = b"PRI ";

/// A connection on its way to a worker: not tied to a runtime yet.
pub(super) enum Raw {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// A connection.
pub(super) enum Stream {
    /// TCP as it is.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Ties a plain connection to this runtime.
    pub(super) fn of(raw: Raw) -> io::Result<Self> {
        Ok(match raw {
            Raw::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream)?),
            Raw::Unix(stream) => Self::Unix(UnixStream::from_std(stream)?),
        })
    }

    /// Resets the connection, where that can be told from its end.
    pub(super) fn reset(self) {
        let socket = match &self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            Self::Unix(_) => return,
        };
        // Were it refused, the connection would end as it does without.
        let _ = set_socket_linger(socket, Some(Duration::ZERO));
    }

    /// Whether the app speaks HTTP/2: by ALPN under TLS, else by how it begins, which is waited for and left
    /// where it is.
    pub(super) async fn speaks_http2(&self) -> io::Result<bool> {
        let mut begin = [0; PREFACE.len()];
        loop {
            let came = match self {
                Self::Tls(tls) => return Ok(tls.get_ref().1.alpn_protocol() == Some(b"h2")),
                Self::Tcp(stream) => {
                    stream.readable().await?;
                    stream.try_io(Interest::READABLE, || peek(stream, &mut begin))
                }
                Self::Unix(stream) => {
                    stream.readable().await?;
                    stream.try_io(Interest::READABLE, || peek(stream, &mut begin))
                }
            };
            match came {
                Ok(came)
                    if came == PREFACE.len() || !begin.starts_with(PREFACE.get(..came).unwrap_or(&[])) =>
                {
                    return Ok(begin == PREFACE);
                }
                Ok(0) => return Ok(false),
                // A part of it, which no event tells the end of; a head has its time all the same.
                Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn peek(socket: impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    let (came, _) = recv(socket, into, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(came)
}

macro_rules! each {
    ($stream:expr, $io:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Tcp(io) => {
                let $io = Pin::new(io);
                $call
            }
            Stream::Unix(io) => {
                let $io = Pin::new(io);
                $call
            }
            Stream::Tls(io) => {
                let $io = Pin::new(io.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => io.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Unix(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_shutdown(cx))
    }
}
