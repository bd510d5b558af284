//! One HTTP/2 connection, shared by many requests.
//!
//! Its streams are framed apart (RFC 9113 section 5), so requests of several customers may be on it at once,
//! unless it was dialled for one alone. It has a task of its own, because no single request could drive it.
//! What must never enter: a decision about who may use it.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::{CONTENT_TYPE, EXPECT, HOST, TE};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::body::Outgoing;
use super::failure::Failure;
use super::identity::Badge;
use super::patience::Patience;
use super::stream::Stream;
use super::upstream::{ConnectError, Upstream};
use crate::model::Customer;

/// Requests at once on one connection.
const STREAMS: usize = 64;
/// Bytes of one answer that wait for an app that reads slowly.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Room for as much of every stream: a few apps that do not read on must not stop the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 64;
/// Bytes of a request's body that wait for a vendor that reads slowly.
const SEND_BUFFER: usize = 64 * 1024;
/// The longest head of an answer, in bytes, names and values counted as RFC 9113 section 6.5.2 does.
const HEAD_BYTES: u32 = 32 * 1024;

/// One connection.
pub(super) struct Trunk {
    sender: SendRequest<Outgoing>,
    task: AbortHandle,
    pub(super) peer: SocketAddr,
    customer: Option<Customer>,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    /// It did not answer in time: what is under way may end, nothing new begins.
    spent: Cell<bool>,
    /// The identity that it was made with.
    badge: Option<Rc<Badge>>,
}

/// One request's place on a connection.
pub(super) struct Branch {
    trunk: Rc<Trunk>,
    pub(super) patience: Patience,
}

impl Trunk {
    /// Starts HTTP/2 on a fresh connection on which it was negotiated. `customer` if it is only theirs, `badge` if
    /// an identity was shown on it.
    pub(super) async fn start(
        stream: Stream,
        peer: SocketAddr,
        customer: Option<Customer>,
        badge: Option<Rc<Badge>>,
    ) -> Result<Rc<Self>, ConnectError> {
        let started = http2::Builder::new(Local)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEAD_BYTES)
            .handshake::<_, Outgoing>(stream)
            .await;
        let (sender, connection) = started.map_err(|e| ConnectError::Unreachable(e.to_string()))?;
        // Whoever waits for an answer learns of a failure.
        let task = tokio::task::spawn_local(async move { drop(connection.await) }).abort_handle();
        let idle_since = Cell::new(Instant::now());
        let (streams, spent) = (Cell::new(0), Cell::new(false));
        Ok(Rc::new(Self { sender, task, peer, customer, streams, idle_since, spent, badge }))
    }

    /// A place for one more request of `customer`, if there is one.
    pub(super) fn branch(self: &Rc<Self>, customer: &Customer) -> Option<Branch> {
        let theirs = self.customer.as_ref().is_none_or(|one| one == customer);
        if !theirs || !self.is_open() || self.streams.get() >= STREAMS {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some(Branch { trunk: self.clone(), patience: Patience::default() })
    }

    /// Whether requests may still begin on it.
    pub(super) fn is_open(&self) -> bool {
        let revoked = self.badge.as_ref().is_some_and(|badge| badge.is_revoked());
        !self.spent.get() && !revoked && !self.sender.is_closed()
    }

    /// Since when nothing has been under way on it.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.idle_since.get())
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Branch {
    /// The vetted address that it is connected to.
    pub(super) fn peer(&self) -> SocketAddr {
        self.trunk.peer
    }

    /// Sends a request and waits for the head of its answer; `None` once `overdue` says so.
    pub(super) async fn exchange(
        &mut self,
        upstream: &Upstream,
        request: Request<Outgoing>,
        mut overdue: impl FnMut(&mut Patience, &mut Context<'_>) -> Poll<()>,
    ) -> Option<Result<Response<Incoming>, Failure>> {
        let mut sender = self.trunk.sender.clone();
        let mut reply = pin!(sender.try_send_request(for_http2(request, upstream)));
        let patience = &mut self.patience;
        let answered = poll_fn(|cx| match reply.as_mut().poll(cx) {
            Poll::Ready(answered) => Poll::Ready(Some(answered.map_err(Failure::http2))),
            Poll::Pending => overdue(patience, cx).map(|()| None),
        })
        .await;
        if answered.is_none() {
            self.trunk.spent.set(true);
        }
        answered
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        self.trunk.streams.set(self.trunk.streams.get().saturating_sub(1));
        self.trunk.idle_since.set(Instant::now());
    }
}

/// The origin goes into the target, from which `:scheme` and `:authority` are made (RFC 9113 section 8.3.1).
/// gRPC's servers want to know that trailers are read (gRPC over HTTP/2, "Requests").
fn for_http2(mut request: Request<Outgoing>, upstream: &Upstream) -> Request<Outgoing> {
    let mut parts = Parts::default();
    parts.scheme = Some(if upstream.origin().is_secure() { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = upstream.origin().authority().parse::<Authority>().ok();
    parts.path_and_query =
        Some(request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    // The parts are those of a checked origin and a checked target. Were they not, nothing goes out: hyper
    // refuses a target without an authority.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
    let grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
    let is_grpc = request.headers().get(CONTENT_TYPE).is_some_and(grpc);
    // hyper tells nobody of an interim answer on HTTP/2, so its 100 cannot be waited for.
    let demand = request.body().demand();
    let headers = request.headers_mut();
    if let Some(demand) = demand {
        demand.asked();
        headers.remove(EXPECT);
    }
    headers.remove(HOST);
    if is_grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    request
}

/// Runs the streams on the worker's own thread.
#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
