//! One connection from an app: TLS where the door speaks it, then HTTP/1.1 or HTTP/2, or the WebSocket that an
//! HTTP/1.1 connection may become.
//!
//! What must never enter: a decision about a request beyond its framing.

use std::cell::{Cell, OnceCell};
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::admit::admit;
use super::flood::Counted;
use super::gate::{Gate, Latch};
use super::pace::{Order, Pace, Paced, UnderWay};
use super::station::Station;
use super::stream::{Raw, Stream};
use super::{Observer, Phase, Seen};
use crate::pipeline::{self, Answer, Entrance, Outgoing, Tunnel, Watcher};
use crate::refusal::Code;
use crate::secret::Secret;

/// What hyper's buffers hold beyond a head: so much of a long answer goes out in one system call. At a third of it
/// an answer of 10 MiB costs a tenth more CPU time; [`super::backlog`] bounds what that comes to where apps read
/// slowly. What is read ahead of a body is the gate's to bound.
const PAST_HEAD: usize = 336 * 1024;
/// Up to so many fields hyper reads without an allocation.
const EASY_FIELDS: usize = 100;
const SHOWN: usize = 256;
/// Requests at once on an HTTP/2 connection.
const STREAMS: u32 = 100;
/// Bytes of a request's body that may be on their way to relay, per stream and per connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer that wait per stream for an app that reads slowly.
const SEND_BUFFER: usize = 32 * 1024;

/// A connection as the acceptor hands it over.
pub(super) struct Arrival {
    pub(super) raw: Raw,
    /// Set if it is to speak TLS.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// The door.
    pub(super) entrance: Arc<Entrance>,
}

/// Serves the connection until it closes, or until it is cut for being too slow.
pub(super) async fn serve(station: Rc<Station>, arrival: Arrival, pace: Rc<Pace>) {
    let Arrival { raw, tls, entrance } = arrival;
    // Boxed: most connections have begun long ago.
    let mut begun = Box::pin(timeout(station.limits.head_timeout, begin(raw, tls)));
    let begun = poll_fn(|cx| match begun.as_mut().poll(cx) {
        Poll::Ready(begun) => Poll::Ready(Some(begun)),
        // One that has said nothing yet has nothing to lose when relay shuts down.
        Poll::Pending if pace.order(cx) > Order::Serve => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let (stream, http2) = match begun.await {
        Some(Ok(Ok(begun))) => begun,
        Some(Ok(Err(error))) => return tracing::debug!(%error, "a connection did not begin"),
        Some(Err(_)) => return tracing::debug!("a connection was too slow to begin"),
        None => return,
    };
    let visitor = Visitor {
        station,
        entrance,
        pace: pace.clone(),
        switched: Rc::default(),
        latch: None,
        grip: None,
        old: Rc::default(),
    };
    if http2 {
        serve_http2(visitor, stream, &pace).await;
    } else {
        serve_http1(visitor, stream, &pace).await;
    }
}

/// TLS, where the door speaks it, and which HTTP it is.
async fn begin(raw: Raw, tls: Option<Arc<ServerConfig>>) -> io::Result<(Stream, bool)> {
    let stream = match (Stream::of(raw)?, tls) {
        (Stream::Tcp(tcp), Some(tls)) => Stream::Tls(Box::new(TlsAcceptor::from(tls).accept(tcp).await?)),
        (plain, None) => plain,
        (Stream::Unix(_) | Stream::Tls(_), Some(_)) => {
            return Err(io::Error::other("only TCP connections speak TLS"));
        }
    };
    let http2 = stream.speaks_http2().await?;
    Ok((stream, http2))
}

async fn serve_http1(visitor: Visitor, stream: Stream, pace: &Rc<Pace>) {
    let latch = Latch::new(pace.clone());
    let limits = &visitor.station.limits;
    let io = Paced::new(TokioIo::new(Gate::new(stream, latch.clone(), limits)), pace.clone());
    let mut builder = http1::Builder::new();
    if limits.head_fields > EASY_FIELDS {
        builder.max_headers(limits.head_fields);
    }
    let buffer = limits.head_bytes + PAST_HEAD;
    let (switched, old) = (visitor.switched.clone(), visitor.old.clone());
    let visitor = Visitor { latch: Some(latch), ..visitor };
    let mut connection = builder
        .max_buf_size(buffer)
        // An app that closes its side has gone away: what it asked for ends with it, also at the vendor.
        .half_close(false)
        .serve_connection(io, service_fn(move |request| visitor.clone().answer(request)));
    let close = |connection: Pin<&mut _>| http1::Connection::graceful_shutdown(connection);
    let in_order = drive(Pin::new(&mut connection), close, pace).await;
    if !in_order && old.get() {
        // HTTP/1.0 has no chunks: to an app that knows nothing else an early end would look like the end.
        connection.into_parts().io.into_inner().into_inner().into_inner().reset();
    } else if in_order && let Some(tunnel) = switched.take() {
        let parts = connection.into_parts();
        carry(tunnel, parts.io, &parts.read_buf, pace).await;
    }
}

/// The 101 has gone out: from here on the connection is a WebSocket, and its gate stands open.
async fn carry(mut tunnel: Tunnel, io: Paced<TokioIo<Gate<Stream>>>, early: &[u8], pace: &Rc<Pace>) {
    let _under_way = pace.busy();
    tunnel.begin_with(early);
    let mut app = TokioIo::new(io);
    poll_fn(|cx| match pace.order(cx) {
        Order::Cut => Poll::Ready(()),
        order => tunnel.poll(cx, &mut app, order == Order::Close),
    })
    .await;
}

async fn serve_http2(visitor: Visitor, stream: Stream, pace: &Rc<Pace>) {
    let io = Paced::new(TokioIo::new(Counted::new(stream)), pace.clone());
    pace.says_goodbye();
    let head = u32::try_from(visitor.station.limits.head_bytes).unwrap_or(u32::MAX);
    let local = Local::default();
    let handed = local.0.clone();
    let connection = http2::Builder::new(local)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(head)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(
            io,
            service_fn(move |request| {
                let grip = Grip::default();
                handed.set(Some(grip.clone()));
                Visitor { grip: Some(grip), ..visitor.clone() }.answer(with_host(request))
            }),
        );
    drive(pin!(connection), |connection| connection.graceful_shutdown(), pace).await;
}

/// Drives a connection until it ends, closing or cutting it as its pace is told. Says whether it ended in order.
async fn drive<C>(mut connection: Pin<&mut C>, close: impl Fn(Pin<&mut C>), pace: &Pace) -> bool
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut told = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = &ended {
                    tracing::debug!(%error, "a connection ended in an error");
                }
                return Poll::Ready(ended.is_ok());
            }
            match pace.order(cx) {
                Order::Close if !told => {
                    told = true;
                    close(connection.as_mut());
                }
                Order::Serve | Order::Close => return Poll::Pending,
                Order::Cut => {
                    tracing::debug!("a connection was cut: too slow, or its secret revoked");
                    return Poll::Ready(false);
                }
            }
        }
    })
    .await
}

/// HTTP/2 names the host in `:authority`, and `Host` may be absent (RFC 9113 section 8.3.1). Where both
/// stand, [`crate::pipeline`] compares them.
fn with_host(mut request: Request<Incoming>) -> Request<Incoming> {
    if !request.headers().contains_key(HOST)
        && let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    request
}

/// The grant behind one HTTP/2 stream, once its answer has begun.
type Grip = Rc<OnceCell<Watcher>>;

/// Runs HTTP/2's streams on the worker's own thread, each no longer than its grant stands.
///
/// The cell holds the grip of the request that was just handed in: hyper has its stream executed right behind
/// that call.
#[derive(Clone, Default)]
struct Local(Rc<Cell<Option<Grip>>>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        let grip = self.0.take().unwrap_or_default();
        let mut stream = Box::pin(future);
        tokio::task::spawn_local(poll_fn(move |cx| {
            if stream.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // hyper asks no body for which the app gives no window. The end of this task drops the stream, which
            // resets it ahead of what waits in it (RFC 9113 section 6.4), and no other of its connection.
            grip.get().map_or(Poll::Pending, |grant| grant.poll_revoked(cx))
        }));
    }
}

/// Who comes in by one connection.
#[derive(Clone)]
struct Visitor {
    station: Rc<Station>,
    entrance: Arc<Entrance>,
    pace: Rc<Pace>,
    /// What takes the place of HTTP/1.1 when an answer switches protocols.
    switched: Rc<Cell<Option<Tunnel>>>,
    /// What the gate is told by whoever answers; HTTP/2 has no gate.
    latch: Option<Rc<Latch>>,
    /// What ends this request's stream with its grant; HTTP/1 has none, since there the connection ends.
    grip: Option<Grip>,
    /// Whether the last request was HTTP/1.0.
    old: Rc<Cell<bool>>,
}

impl Visitor {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Watched>, Infallible> {
        let under_way = self.pace.busy();
        self.old.set(request.version() == Version::HTTP_10);
        let version = request.version();
        let request = request.map(|body| Outgoing::streaming(body, version));
        let station = &*self.station;
        let shown = station
            .observer
            .as_ref()
            .map(|_| (request.method().to_string(), request.uri().path().to_owned(), Instant::now()));
        let refused = match self.latch.as_ref().and_then(|latch| latch.refusal()) {
            Some(refusal) => Some(refusal),
            None if station.draining.has_reached(Phase::Closing) => Some(Code::Draining.into()),
            // The gate has judged more strictly what can still be seen here of HTTP/1.
            None if self.latch.is_some() => None,
            None => admit(&station.limits, &request).err(),
        };
        let mut response: Answer = match &refused {
            Some(refusal) => pipeline::turn_away(&station.worker, refusal, request),
            None => {
                let (head, body) = request.into_parts();
                pipeline::serve(&station.worker, &self.entrance, head, body).await
            }
        };
        // After a framing fault nothing that follows on the connection can be trusted. HTTP/2 frames each
        // request apart.
        let broken = self.latch.as_ref().is_some_and(|latch| refused.is_some() || latch.is_broken());
        // A connection that is parted from closes behind its answer, and says so; HTTP/2 has said so already.
        let last = self.latch.is_some()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
            && station.draining.has_reached(Phase::Parting);
        if broken || last {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(latch) = &self.latch {
            // What follows is another protocol's.
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                latch.open();
            }
            self.switched.set(pipeline::tunnel(&mut response));
            self.pace.depends_on(pipeline::watcher(&response));
        }
        if let Some((grip, watcher)) = self.grip.as_ref().zip(pipeline::watcher(&response)) {
            // Empty until now: a request is answered once.
            let _ = grip.set(watcher);
        }
        let show = shown.and_then(|shown| Show::of(&station.observer, shown, &response));
        let latch = self.latch;
        Ok(response.map(|inner| Watched { inner, latch, show, under_way }))
    }
}

/// The answer's body, telling the connection's pace when it has ended.
pub(super) struct Watched {
    inner: pipeline::AnswerBody,
    show: Option<Show>,
    /// Tells the gate when the answer has ended. HTTP/2 has none, and there only this body knows whether the app
    /// reads on.
    latch: Option<Rc<Latch>>,
    under_way: UnderWay,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.latch.is_some() {
            ready!(self.under_way.pace().poll_room(context));
        }
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        let comes = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        if self.latch.is_some() {
            self.under_way.pace().will_write(comes);
        } else {
            self.under_way.pace().waits_for_app(matches!(polled, Poll::Ready(Some(_))));
        }
        let frame = ready!(polled);
        if let (Some(show), Some(Ok(frame))) = (&mut self.show, &frame) {
            show.saw(frame.data_ref().map_or(&[], |data| data));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(latch) = &self.latch {
            latch.answered();
        }
        if let Some(show) = self.show.take() {
            show.done();
        }
    }
}

/// Collects the first bytes of one answer for the observer.
struct Show {
    observer: Arc<dyn Fn(Seen) + Send + Sync>,
    seen: Seen,
    body: Vec<u8>,
    started: Instant,
}

impl Show {
    fn of(
        observer: &Observer,
        (method, path, started): (String, String, Instant),
        response: &Answer,
    ) -> Option<Self> {
        let request_id = response.body().request_id();
        let status = response.status().as_u16();
        let body = Secret::new(Vec::new());
        let seen = Seen { request_id, method, path, status, body, took: std::time::Duration::ZERO };
        Some(Self { observer: observer.clone()?, seen, body: Vec::new(), started })
    }

    fn saw(&mut self, data: &[u8]) {
        let room = SHOWN.saturating_sub(self.body.len());
        self.body.extend(data.iter().take(room));
    }

    fn done(mut self) {
        self.seen.body = Secret::new(self.body);
        self.seen.took = self.started.elapsed();
        (self.observer)(self.seen);
    }
}
