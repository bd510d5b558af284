//! One HTTP/1.1 connection from an app, and the WebSocket that it may become.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::admit::admit;
use super::pace::{Order, Pace, Paced};
use super::station::Station;
use super::{Observer, Seen};
use crate::pipeline::{self, Answer, Outgoing, Tunnel};
use crate::refusal::Code;
use crate::secret::Secret;

/// What is read beyond the limit on a head, so that relay and not hyper refuses one that is too large. The
/// sum also bounds what is read ahead of a body and what waits for an app that reads slowly: at twice as
/// much a stalled app costs more than 256 KiB.
const PAST_HEAD: usize = 16 * 1024;
const MOST_FIELDS: usize = 400;
const SHOWN: usize = 256;

/// Serves the connection until it closes, or until it is cut for being too slow.
pub(super) async fn serve(station: Rc<Station>, stream: TcpStream, pace: Rc<Pace>) {
    let io = Paced::new(TokioIo::new(stream), pace.clone());
    let paced = pace.clone();
    let buffer = station.limits.head_bytes + PAST_HEAD;
    let switched = Rc::new(Cell::new(None));
    let switches = switched.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (station, pace, switches) = (station.clone(), paced.clone(), switches.clone());
        async move {
            pace.busy();
            let (answer, tunnel) = answer(&station, request.map(Outgoing::streaming), pace).await;
            switches.set(tunnel);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(buffer)
        .max_headers(MOST_FIELDS)
        // An app that closes its side has gone away: what it asked for ends with it, also at the vendor.
        .half_close(false)
        .serve_connection(io, service);
    let mut told = false;
    let in_order = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                if let Err(error) = &ended {
                    tracing::debug!(%error, "a connection ended in an error");
                }
                return Poll::Ready(ended.is_ok());
            }
            match pace.order(cx) {
                Order::Close if !told => {
                    told = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                Order::Serve | Order::Close => return Poll::Pending,
                Order::Cut => {
                    tracing::debug!("a connection was cut: too slow, or its secret revoked");
                    return Poll::Ready(false);
                }
            }
        }
    })
    .await;
    if let Some(tunnel) = switched.take().filter(|_| in_order) {
        let parts = connection.into_parts();
        carry(tunnel, parts.io, &parts.read_buf, &pace).await;
    }
}

/// The 101 has gone out: from here on the connection is a WebSocket. Whatever stands between the socket and
/// hyper and judges HTTP's framing must let everything through from here on.
async fn carry(mut tunnel: Tunnel, io: Paced<TokioIo<TcpStream>>, early: &[u8], pace: &Pace) {
    pace.busy();
    tunnel.begin_with(early);
    let mut app = TokioIo::new(io);
    poll_fn(|cx| match pace.order(cx) {
        Order::Cut => Poll::Ready(()),
        order => tunnel.poll(cx, &mut app, order == Order::Close),
    })
    .await;
}

async fn answer(
    station: &Station,
    request: Request<Outgoing>,
    pace: Rc<Pace>,
) -> (Response<Watched>, Option<Tunnel>) {
    let shown = station
        .observer
        .as_ref()
        .map(|_| (request.method().to_string(), request.uri().path().to_owned(), Instant::now()));
    let refused = if station.draining.has_begun() {
        Some(Code::Draining.into())
    } else {
        admit(&station.limits, &request).err()
    };
    let mut response: Answer = match &refused {
        Some(refusal) => pipeline::turn_away(&station.worker, refusal, request),
        None => {
            let (head, body) = request.into_parts();
            pipeline::serve(&station.worker, head, body).await
        }
    };
    // After a framing fault nothing that follows on the connection can be trusted.
    if refused.is_some() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let tunnel = pipeline::tunnel(&mut response);
    pace.depends_on(pipeline::watcher(&response));
    let show = shown.and_then(|shown| Show::of(&station.observer, shown, &response));
    (response.map(|inner| Watched { inner, pace, show }), tunnel)
}

/// The answer's body, telling the connection's pace when it has ended.
pub(super) struct Watched {
    inner: pipeline::AnswerBody,
    pace: Rc<Pace>,
    show: Option<Show>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
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
        self.pace.idle();
        if let Some(show) = self.show.take() {
            show.done();
        }
    }
}

/// Collects the first bytes of one answer for the observer.
struct Show {
    observer: std::sync::Arc<dyn Fn(Seen) + Send + Sync>,
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
