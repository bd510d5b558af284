//! One HTTP/1.1 connection from an app.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::admit::admit;
use super::gate::{Gate, Latch};
use super::pace::{Order, Pace, Paced};
use super::station::Station;
use super::{Observer, Seen};
use crate::pipeline::{self, Answer, Outgoing};
use crate::refusal::Code;
use crate::secret::Secret;

/// What hyper's buffers hold beyond a head. The sum bounds what is read ahead of a body and what waits for an
/// app that reads slowly: at twice as much a stalled app costs more than 256 KiB.
const PAST_HEAD: usize = 16 * 1024;
/// Up to so many fields hyper reads without an allocation.
const EASY_FIELDS: usize = 100;
const SHOWN: usize = 256;

/// Serves the connection until it closes, or until it is cut for being too slow.
pub(super) async fn serve(station: Rc<Station>, stream: TcpStream, pace: Rc<Pace>) {
    let latch = Latch::new(pace.clone());
    let gate = Gate::new(stream, latch.clone(), &station.limits);
    let io = Paced::new(TokioIo::new(gate), pace.clone());
    let paced = pace.clone();
    let fields = station.limits.head_fields;
    let buffer = station.limits.head_bytes + PAST_HEAD;
    let service = service_fn(move |request: Request<Incoming>| {
        let (station, pace, latch) = (station.clone(), paced.clone(), latch.clone());
        async move {
            pace.busy();
            Ok::<_, Infallible>(answer(&station, request.map(Outgoing::streaming), pace, latch).await)
        }
    });
    let mut builder = http1::Builder::new();
    if fields > EASY_FIELDS {
        builder.max_headers(fields);
    }
    let connection = builder
        .max_buf_size(buffer)
        // An app that closes its side has gone away: what it asked for ends with it, also at the vendor.
        .half_close(false)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut told = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended in an error");
                }
                return Poll::Ready(());
            }
            match pace.order(cx) {
                Order::Close if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                Order::Serve | Order::Close => return Poll::Pending,
                Order::Cut => {
                    tracing::debug!("a connection was too slow and was cut");
                    return Poll::Ready(());
                }
            }
        }
    })
    .await;
}

async fn answer(
    station: &Station,
    request: Request<Outgoing>,
    pace: Rc<Pace>,
    latch: Rc<Latch>,
) -> Response<Watched> {
    let shown = station
        .observer
        .as_ref()
        .map(|_| (request.method().to_string(), request.uri().path().to_owned(), Instant::now()));
    let refused = match latch.refusal() {
        Some(refusal) => Some(refusal),
        None if station.draining.has_begun() => Some(Code::Draining.into()),
        // The gate has judged more strictly what can still be seen here of HTTP/1.
        None if request.version() <= Version::HTTP_11 => None,
        None => admit(&station.limits, &request).err(),
    };
    let mut response: Answer = match &refused {
        Some(refusal) => pipeline::turn_away(&station.worker, refusal, request),
        None => {
            let (head, body) = request.into_parts();
            pipeline::serve(&station.worker, head, body).await
        }
    };
    // After a framing fault nothing that follows on the connection can be trusted.
    if refused.is_some() || latch.is_broken() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let show = shown.and_then(|shown| Show::of(&station.observer, shown, &response));
    response.map(|inner| Watched { inner, pace, latch, show })
}

/// The answer's body, telling the connection's pace when it has ended.
pub(super) struct Watched {
    inner: pipeline::AnswerBody,
    pace: Rc<Pace>,
    latch: Rc<Latch>,
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
        self.latch.answered();
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
