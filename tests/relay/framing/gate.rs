use std::cell::RefCell;
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

use crate::corpus::{Caller, Outcome, Row, rows};

/// A request as somebody framed it: line, fields, body.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Framed {
    line: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// What hyper sees of a connection, kept byte by byte.
struct Seen<T> {
    inner: T,
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Seen<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let seen = self.get_mut();
        let before = to.filled().len();
        ready!(Pin::new(&mut seen.inner).poll_read(cx, to))?;
        seen.bytes.borrow_mut().extend_from_slice(&to.filled()[before..]);
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

/// Turns without news.
const QUIET: usize = 100;

fn limits() -> DoorLimits {
    DoorLimits {
        head_bytes: 32 * 1024,
        head_fields: 100,
        head_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(30),
        stalled_timeout: Duration::from_secs(30),
    }
}

/// One connection's way through the gate and hyper.
struct Through {
    /// What the gate let hyper have.
    passed: Vec<u8>,
    /// What hyper made of it, stand-ins left out.
    framed: Vec<Framed>,
    refused: Vec<&'static str>,
}

/// Sends `bytes` in pieces of `size` and lets hyper answer until the connection ends.
async fn through(bytes: Vec<u8>, size: usize) -> Through {
    read_by_hyper(bytes, size, true).await
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

async fn read_by_hyper(bytes: Vec<u8>, size: usize, gated: bool) -> Through {
    let (app, mut door) =
        (tokio::io::duplex(64 * 1024), Through { passed: vec![], framed: vec![], refused: vec![] });
    let (app, inner) = app;
    let latch = Latch::alone();
    let passed: Rc<RefCell<Vec<u8>>> = Rc::default();
    let inner: Box<dyn Stream> =
        if gated { Box::new(Gate::new(inner, latch.clone(), &limits())) } else { Box::new(inner) };
    let gate = Seen { inner, bytes: passed.clone() };
    let framed: Rc<RefCell<Vec<Framed>>> = Rc::default();
    let refused: Rc<RefCell<Vec<&'static str>>> = Rc::default();
    let (kept, codes, latched) = (framed.clone(), refused.clone(), latch.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (kept, codes, latch) = (kept.clone(), codes.clone(), latched.clone());
        async move {
            let mut response = Response::new(Full::new(Bytes::from_static(b"ok")));
            if let Some(refusal) = latch.refusal() {
                codes.borrow_mut().push(refusal.code().as_str());
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            } else if let Some(request) = framed_by_hyper(request).await {
                kept.borrow_mut().push(request);
            } else {
                codes.borrow_mut().push("request_malformed");
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            latch.answered();
            Ok::<_, Infallible>(response)
        }
    });
    let serving = http1::Builder::new()
        .max_buf_size(48 * 1024)
        .half_close(false)
        .serve_connection(TokioIo::new(gate), service);
    let ((), _) = tokio::join!(exchange(app, bytes, size), serving);
    door.passed = passed.take();
    door.framed = framed.take();
    door.refused = refused.take();
    door
}

/// Writes the pieces and reads answers until no more come.
async fn exchange(app: DuplexStream, bytes: Vec<u8>, size: usize) {
    let (mut reading, mut writing) = tokio::io::split(app);
    let written = std::cell::Cell::new(false);
    let write = async {
        for piece in bytes.chunks(size) {
            if writing.write_all(piece).await.is_err() {
                break;
            }
            if size < 64 {
                tokio::task::yield_now().await;
            }
        }
        written.set(true);
    };
    let read = async {
        let mut answers = vec![0; 4096];
        // All are in one task: when this many turns moved nothing, nobody can go on.
        let mut quiet = 0;
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

async fn framed_by_hyper(request: Request<Incoming>) -> Option<Framed> {
    let (head, body) = request.into_parts();
    let line = format!("{} {}", head.method, head.uri);
    let mut fields: Vec<(String, Vec<u8>)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    fields.sort();
    // Bounded: a row of the corpus.
    #[allow(clippy::disallowed_methods)]
    let body = body.collect().await.ok()?.to_bytes().to_vec();
    Some(Framed { line, fields, body })
}

/// A second reading of the same bytes, as short as the rules are when nothing is unclear; stops at the
/// stand-in for a refused request, and at what is not whole.
fn framed_apart(mut bytes: &[u8]) -> Vec<Framed> {
    let mut all = Vec::new();
    while let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") {
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap().rsplit_once(' ').unwrap().0.to_owned();
        let mut fields: Vec<(String, Vec<u8>)> = lines
            .map(|field| field.split_once(':').unwrap())
            .map(|(name, value)| {
                (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).as_bytes().to_vec())
            })
            .collect();
        fields.sort();
        if fields == [("host".to_owned(), b"refused".to_vec())] {
            break;
        }
        bytes = &bytes[end + 4..];
        let of = |name: &str| fields.iter().find(|field| field.0 == name).map(|field| field.1.clone());
        let mut body = Vec::new();
        if let Some(length) = of("content-length") {
            let length: usize = String::from_utf8(length).unwrap().parse().unwrap();
            if bytes.len() < length {
                break;
            }
            body.extend_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
        } else if of("transfer-encoding").is_some() {
            let Some(taken) = unchunked(bytes, &mut body) else { break };
            bytes = &bytes[taken..];
        }
        all.push(Framed { line, fields, body });
    }
    all
}

fn unchunked(bytes: &[u8], body: &mut Vec<u8>) -> Option<usize> {
    let mut at = 0;
    loop {
        let end = at + memchr::memmem::find(bytes.get(at..)?, b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..end]).unwrap().split(';').next().unwrap();
        let size = usize::from_str_radix(size, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size + 2;
    }
    loop {
        let end = at + memchr::memmem::find(bytes.get(at..)?, b"\r\n")?;
        let last = end == at;
        at = end + 2;
        if last {
            return Some(at);
        }
    }
}

fn caller() -> Caller {
    Caller { path: "/vendor".to_owned(), token: "a.b.c".to_owned() }
}

fn alone<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn what_the_gate_passes_hyper_frames_identically() {
    let mut passed = 0;
    for row in rows(&caller()) {
        let smallest = if row.bytes.len() > 8 * 1024 { 1000 } else { 1 };
        for size in [row.bytes.len(), smallest, 13, 517] {
            let way = alone(through(row.bytes.clone(), size));
            assert_eq!(way.framed, framed_apart(&way.passed), "{} in pieces of {size}", row.mistake);
            let seen: Vec<Outcome> = way
                .framed
                .iter()
                .map(|request| {
                    let line = request.line.replace("http://relay.test", "").replacen("/vendor", "", 1);
                    Outcome::Passed(line, request.body.clone())
                })
                .chain(way.refused.iter().map(|code| Outcome::Refused(code)))
                .collect();
            assert_eq!(seen, row.expected, "{} in pieces of {size}", row.mistake);
            passed += way.framed.len();
        }
    }
    assert!(passed > 200, "{passed}");
}

#[test]
fn what_passes_is_what_came() {
    for row in rows(&caller()) {
        if row.expected.iter().all(|outcome| matches!(outcome, Outcome::Passed(..))) {
            let way = alone(through(row.bytes.clone(), 100));
            assert_eq!(way.passed, row.bytes, "{}", row.mistake);
        }
    }
}

#[test]
fn after_an_upgrade_everything_passes_as_it_comes() {
    alone(async {
        let (mut app, inner) = tokio::io::duplex(1024);
        let latch = Latch::alone();
        let mut gate = Gate::new(inner, latch.clone(), &limits());
        let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        app.write_all(&[&head[..], b"\x81early\n\n"].concat()).await.unwrap();
        let mut got = vec![0; 1024];
        let length = gate.read(&mut got).await.unwrap();
        assert_eq!(&got[..length], head);
        let waits = tokio::time::timeout(Duration::from_millis(50), gate.read(&mut got)).await;
        assert!(waits.is_err(), "what stands behind the request waits");
        latch.open();
        latch.answered();
        let length = gate.read(&mut got).await.unwrap();
        assert_eq!(&got[..length], b"\x81early\n\n");
        app.write_all(b"\r\n\x00 any byte").await.unwrap();
        let length = gate.read(&mut got).await.unwrap();
        assert_eq!(&got[..length], b"\r\n\x00 any byte");
    });
}

/// Bytes that mean something to one reader or another.
const ODD: &[u8] = b"\r\n\t :;,#\0\x0b\x7f\x80\xff05axXGHT/?\"%-+";

#[test]
fn what_the_gate_passes_of_mutations_hyper_frames_identically() {
    let short: Vec<Row> = rows(&caller()).into_iter().filter(|row| row.bytes.len() < 2048).collect();
    let passes = |row: &&Row| row.expected.iter().all(|outcome| matches!(outcome, Outcome::Passed(..)));
    // As often one that passes, so that many mutations do.
    let good: Vec<&Row> = short.iter().filter(passes).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |most: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % most as u64) as usize
    };
    let mut passed = 0;
    for _ in 0..4000 {
        let row = if below(2) == 0 { good[below(good.len())] } else { &short[below(short.len())] };
        let mut bytes = row.bytes.clone();
        for _ in 0..=below(3) {
            let (at, odd) = (below(bytes.len()), ODD[below(ODD.len())]);
            let other = &short[below(short.len())].bytes;
            let from = below(other.len());
            match below(5) {
                0 => bytes.insert(at, odd),
                1 => bytes[at] = odd,
                2 => bytes.truncate(at.max(20)),
                3 => drop(bytes.splice(at..at, other[from..(from + 30).min(other.len())].iter().copied())),
                _ => bytes[at] ^= 1 << below(8),
            }
        }
        let size = [bytes.len(), 7][below(2)];
        let shown = bytes.escape_ascii().to_string();
        let way = alone(through(bytes, size));
        assert_eq!(way.framed, framed_apart(&way.passed), "in pieces of {size}: {shown}");
        passed += way.framed.len();
    }
    assert!(passed > 500, "{passed}");
}

#[test]
fn without_the_gate_hyper_reads_mistakes_away() {
    let mut read_away = Vec::new();
    for row in rows(&caller()) {
        if row.expected == [Outcome::Refused("request_malformed")] {
            let way = alone(read_by_hyper(row.bytes.clone(), row.bytes.len(), false));
            if !way.framed.is_empty() {
                read_away.push(row.mistake);
            }
        }
    }
    // Else the corpus would show nothing that hyper does not do by itself.
    assert!(read_away.len() > 50, "{read_away:#?}");
}
