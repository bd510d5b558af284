//! A connection from an app: the gate lets bytes pass as they came or refuses them, and hyper frames what passed
//! as a second reader does, whatever the pieces.
//!
//! Input: `size-of-pieces bytes`.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use relay::listen::DoorLimits;
use relay::listen::gate::{Gate, Latch};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// What hyper reads in place of a refused request.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n";
/// Turns without news after which nobody can go on.
const QUIET: usize = 50;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

/// A request as somebody framed it: its line without the version, its fields, its body.
type Framed = (String, Vec<(String, Vec<u8>)>, Vec<u8>);

#[derive(Default)]
struct Through {
    /// What the gate let hyper have.
    passed: Vec<u8>,
    framed: Vec<Framed>,
    refused: usize,
}

pub fn run(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else { return };
    let (whole, parts) = RUNTIME.with(|runtime| {
        let whole = runtime.block_on(through(bytes, bytes.len().max(1)));
        (whole, runtime.block_on(through(bytes, 1 + usize::from(*size))))
    });
    assert_eq!(whole.framed, parts.framed, "the pieces change what is framed");
    // A fault in a body is refused if its head has not passed yet, and breaks the request if it has.
    for seen in [whole, parts] {
        assert!(seen.refused <= 1, "a connection goes on behind a refusal");
        let own = seen.passed.strip_suffix(STAND_IN).filter(|_| seen.refused == 1).unwrap_or(&seen.passed);
        assert!(bytes.starts_with(own), "what passes is not what came");
        assert_eq!(seen.framed, framed_apart(own), "hyper frames {}", own.escape_ascii());
    }
}

async fn through(bytes: &[u8], size: usize) -> Through {
    let (app, inner) = tokio::io::duplex(64 * 1024);
    let latch = Latch::alone();
    let limits = DoorLimits {
        head_bytes: 2048,
        head_fields: 16,
        head_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        stalled_timeout: Duration::from_secs(10),
    };
    let seen: Rc<RefCell<Through>> = Rc::default();
    let gate = Seen { inner: Gate::new(inner, latch.clone(), &limits), seen: seen.clone() };
    let kept = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (kept, latch) = (kept.clone(), latch.clone());
        async move {
            let mut response = Response::new(Full::new(Bytes::from_static(b"ok")));
            if latch.refusal().is_some() {
                kept.borrow_mut().refused += 1;
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            } else if let Some(request) = by_hyper(request).await {
                kept.borrow_mut().framed.push(request);
            } else {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            latch.answered();
            Ok::<_, Infallible>(response)
        }
    });
    let serving = http1::Builder::new()
        .max_buf_size(16 * 1024)
        .half_close(false)
        .serve_connection(TokioIo::new(gate), service);
    let ((), _) = tokio::join!(exchange(app, bytes, size), serving);
    seen.take()
}

/// Writes the pieces and reads answers until no more come.
async fn exchange(app: DuplexStream, bytes: &[u8], size: usize) {
    let (mut reading, mut writing) = tokio::io::split(app);
    let written = Cell::new(false);
    let write = async {
        for piece in bytes.chunks(size) {
            if writing.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        written.set(true);
    };
    let read = async {
        let (mut answers, mut quiet) = (vec![0; 4096], 0);
        while quiet < QUIET {
            tokio::select! {
                biased;
                read = reading.read(&mut answers) => match read {
                    Ok(1..) => quiet = 0,
                    Ok(0) | Err(_) => return,
                },
                () = tokio::task::yield_now() => quiet += usize::from(written.get()),
            }
        }
    };
    tokio::join!(write, read);
}

#[allow(clippy::disallowed_methods, reason = "the whole input is in memory already")]
async fn by_hyper(request: Request<Incoming>) -> Option<Framed> {
    let (head, body) = request.into_parts();
    let mut fields: Vec<(String, Vec<u8>)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    fields.sort();
    let body = body.collect().await.ok()?.to_bytes().to_vec();
    Some((format!("{} {}", head.method, head.uri), fields, body))
}

/// A second reading, as short as the rules are when nothing is unclear; ends at what is not whole.
fn framed_apart(mut bytes: &[u8]) -> Vec<Framed> {
    let mut all = Vec::new();
    while let Some((request, taken)) = one_apart(bytes) {
        all.push(request);
        bytes = &bytes[taken..];
    }
    all
}

fn one_apart(bytes: &[u8]) -> Option<(Framed, usize)> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).expect("a head is text");
    let mut lines = head.split("\r\n");
    let line = lines.next()?.rsplit_once(' ').expect("a line has a version").0;
    let (method, target) = line.split_once(' ').expect("a line has a target");
    // hyper shows `http://host` with the slash that it means.
    let line = format!("{method} {}", target.parse::<http::Uri>().expect("a target is a URI"));
    let mut fields: Vec<(String, Vec<u8>)> = lines
        .map(|field| field.split_once(':').expect("a field has a colon"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).as_bytes().to_vec()))
        .collect();
    fields.sort();
    let of = |name: &str| fields.iter().find(|field| field.0 == name).map(|field| field.1.as_slice());
    let behind = &bytes[end + 4..];
    let (body, length) = if let Some(length) = of("content-length") {
        let length: usize = std::str::from_utf8(length).unwrap().parse().expect("a length is a number");
        (behind.get(..length)?.to_vec(), length)
    } else if of("transfer-encoding").is_some() {
        unchunked(behind)?
    } else {
        (Vec::new(), 0)
    };
    Some(((line, fields, body), end + 4 + length))
}

/// The body, and how many bytes it and its frames took.
fn unchunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = memchr::memmem::find(&bytes[at..], b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at += line + 2;
        if size == 0 {
            // Trailers, then an empty line.
            loop {
                let line = memchr::memmem::find(&bytes[at..], b"\r\n")?;
                at += line + 2;
                if line == 0 {
                    return Some((body, at));
                }
            }
        }
        body.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size + 2;
        if at > bytes.len() {
            return None;
        }
    }
}

/// What hyper sees of a connection, kept byte by byte.
struct Seen<T> {
    inner: T,
    seen: Rc<RefCell<Through>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Seen<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = to.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, to))?;
        this.seen.borrow_mut().passed.extend_from_slice(&to.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Seen<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
