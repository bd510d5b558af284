//! A line: one verified connection to a vendor, lent for one request.
//!
//! [`Line::send`] is the only thing that writes to one, and it can be called once. A line that was never sent
//! on goes back to the pool when it is dropped; one whose exchange was cut short is closed. What must never
//! enter: a retry. Whether to send again is the pipeline's decision, from what [`SendError`] proves.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use http::{HeaderName, Request, Response, StatusCode};
use tokio::time::Instant;

use super::body::{Meter, Outgoing, VendorBody};
use super::failure::Failure;
use super::patience::Patience;
use super::pool::Shelf;
use super::trunk::Branch;
use super::upstream::Upstream;
use super::wire::Wire;
use crate::model::Customer;

/// Stands in the head of an answer that has no trailers to come.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A verified connection, ready to carry one request.
pub struct Line {
    way: Option<Way>,
    shelf: Rc<Shelf>,
    upstream: Arc<Upstream>,
    customer: Customer,
    reused: bool,
    peer: SocketAddr,
}

/// What carries the request.
pub(super) enum Way {
    /// A connection of its own while it lasts: HTTP/1.1.
    Wire(Box<Wire>),
    /// A stream of a shared one: HTTP/2.
    Branch(Branch),
}

/// Why there is no answer.
#[derive(thiserror::Error)]
pub enum SendError {
    /// No byte of the request went out; here it is back.
    #[error("the connection closed before the request was sent")]
    Unsent(Box<Request<Outgoing>>),
    /// A reused connection was closed before any byte of an answer, or the vendor says that it has not looked at
    /// the request; which had no body.
    #[error("the vendor took the connection or the request back without an answer")]
    ClosedEarly,
    /// The vendor ended TLS with an alert instead of an answer: with TLS 1.3 it says only then that it does not take
    /// the certificate that it was shown, or that it wants one.
    #[error("{0}")]
    Tls(String),
    /// The vendor broke the connection or sent no valid answer.
    #[error("{0}")]
    Broken(String),
    /// The app's body broke off, or stood still for the idle time.
    #[error("{0}")]
    Upload(String),
    /// The vendor did not answer in time.
    #[error("{0}")]
    Timeout(String),
}

// The request inside carries a credential: nothing of it is printed.
impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({self})")
    }
}

impl Line {
    pub(super) fn new(
        way: Way,
        shelf: Rc<Shelf>,
        upstream: Arc<Upstream>,
        customer: Customer,
        reused: bool,
    ) -> Self {
        let peer = match &way {
            Way::Wire(wire) => wire.peer,
            Way::Branch(branch) => branch.peer(),
        };
        Self { way: Some(way), shelf, upstream, customer, reused, peer }
    }

    /// Whether it has carried a request before.
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// The vetted address that it is connected to.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Sends one request and waits for the head of its answer. The URI is in origin form and `Host` is set.
    /// Interim answers are skipped, but for the 100 that an upload may wait for. Dropping the future closes the connection.
    ///
    /// # Errors
    /// [`SendError`] says what is proven about how far the request went.
    pub async fn send(mut self, request: Request<Outgoing>) -> Result<Response<VendorBody>, SendError> {
        let meter = request.body().meter();
        let started = Instant::now();
        match self.way.take() {
            None => Err(SendError::Unsent(Box::new(request))),
            Some(Way::Wire(wire)) => self.send_on_wire(wire, request, (started, meter)).await,
            Some(Way::Branch(branch)) => self.send_on_branch(branch, request, (started, meter)).await,
        }
    }

    async fn send_on_wire(
        &self,
        mut wire: Box<Wire>,
        request: Request<Outgoing>,
        (started, meter): (Instant, Meter),
    ) -> Result<Response<VendorBody>, SendError> {
        if meter.has_body() {
            wire.belongs_to(&self.customer);
        }
        let demand = request.body().demand();
        let overdue = |patience: &mut Patience, cx: &mut Context<'_>| {
            patience.poll_until(cx, self.due(started, &meter))
        };
        let answered = wire.exchange(request, self.reused, overdue).await;
        let head = self.head(answered, &meter, || !wire.has_answered())?;
        if head.status() == StatusCode::SWITCHING_PROTOCOLS {
            let unasked = || SendError::Broken("the vendor switched protocols unasked".to_owned());
            let channel = wire.channel(self.upstream.idle).ok_or_else(unasked)?;
            return Ok(head.map(|()| VendorBody::switched(channel)));
        }
        // A body that the vendor did not ask for stays where it is.
        let unasked = demand.is_some_and(|demand| demand.answered());
        if !meter.ended() && !unasked {
            wire.go_on_alone();
        }
        let (shelf, idle) = (Rc::clone(&self.shelf), self.upstream.idle);
        Ok(head.map(|()| VendorBody::of_wire(wire, shelf, meter, idle)))
    }

    async fn send_on_branch(
        &self,
        mut branch: Branch,
        request: Request<Outgoing>,
        (started, meter): (Instant, Meter),
    ) -> Result<Response<VendorBody>, SendError> {
        let overdue = |patience: &mut Patience, cx: &mut Context<'_>| {
            patience.poll_until(cx, self.due(started, &meter))
        };
        let answered = branch.exchange(&self.upstream, request, overdue).await;
        let head = self.head(answered, &meter, || true)?;
        if head.status() == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 9113 section 8.6: HTTP/2 has no such answer.
            return Err(SendError::Broken("the vendor switched protocols over HTTP/2".to_owned()));
        }
        let whole = head.headers().contains_key(GRPC_STATUS);
        Ok(head.map(|incoming| VendorBody::of_branch(incoming, branch, whole, self.upstream.idle)))
    }

    /// The answer's head, or why there is none; `silent` says whether no byte of an answer had come.
    fn head<B>(
        &self,
        answered: Option<Result<Response<B>, Failure>>,
        meter: &Meter,
        silent: impl FnOnce() -> bool,
    ) -> Result<Response<B>, SendError> {
        match answered {
            None => Err(self.stalled(meter)),
            Some(Err(failure)) => Err(self.failed(failure, silent(), meter)),
            Some(Ok(head)) => Ok(head),
        }
    }

    /// The vendor's time for its first byte begins when the request has been handed over whole; until then
    /// only standing still is limited, so that a long upload is not cut.
    fn due(&self, started: Instant, meter: &Meter) -> Instant {
        let limit = if meter.ended() { self.upstream.first_byte } else { self.upstream.idle };
        meter.moved().unwrap_or(started).max(started) + limit
    }

    fn stalled(&self, meter: &Meter) -> SendError {
        if meter.awaits_app() {
            SendError::Upload(format!("the app sent nothing for {} s", self.upstream.idle.as_secs()))
        } else if meter.ended() {
            SendError::Timeout(format!("no answer within {} ms", self.upstream.first_byte.as_millis()))
        } else {
            SendError::Timeout(format!("the vendor took no bytes for {} s", self.upstream.idle.as_secs()))
        }
    }

    fn failed(&self, failure: Failure, silent: bool, meter: &Meter) -> SendError {
        if let Some(alert) = failure.alert().filter(|_| silent && !self.reused) {
            return SendError::Tls(format!("the vendor ended TLS with {alert:?}"));
        }
        let closed = self.reused && silent && failure.is_closing();
        match failure {
            Failure::Unsent(request) => SendError::Unsent(request),
            failure if meter.broken_off() || matches!(failure, Failure::Length) => {
                SendError::Upload(format!("the app's body broke off: {failure}"))
            }
            failure if !meter.has_body() && (closed || failure.is_unprocessed()) => SendError::ClosedEarly,
            failure => SendError::Broken(failure.to_string()),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(Way::Wire(wire)) = self.way.take() {
            self.shelf.put(wire);
        }
    }
}
