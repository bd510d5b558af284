//! A line: one verified connection to a vendor, lent for one request.
//!
//! [`Line::send`] is the only thing that writes to one, and it can be called once. A line that was never sent
//! on goes back to the pool when it is dropped; one whose exchange was cut short is closed. What must never
//! enter: a retry. Whether to send again is the pipeline's decision, from what [`SendError`] proves.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use http::header::UPGRADE;
use http::{Method, Request, Response, StatusCode};
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::body::{Held, Meter, Outgoing, VendorBody};
use super::frame::Asked;
use super::patience::Patience;
use super::pool::Shelf;
use super::upstream::Upstream;
use super::wire::Wire;
use crate::model::Customer;

/// A verified connection, ready to carry one request.
pub struct Line {
    wire: Option<Box<Wire>>,
    shelf: Rc<Shelf>,
    upstream: Arc<Upstream>,
    customer: Customer,
    reused: bool,
    peer: SocketAddr,
}

/// Why there is no answer.
#[derive(thiserror::Error)]
pub enum SendError {
    /// No byte of the request went out; here it is back.
    #[error("the connection closed before the request was sent")]
    Unsent(Box<Request<Outgoing>>),
    /// A reused connection was closed before any byte of an answer; the request had no body.
    #[error("the vendor closed a reused connection without an answer")]
    ClosedEarly,
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
        wire: Box<Wire>,
        shelf: Rc<Shelf>,
        upstream: Arc<Upstream>,
        customer: Customer,
        reused: bool,
    ) -> Self {
        let peer = wire.peer;
        Self { wire: Some(wire), shelf, upstream, customer, reused, peer }
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
    /// Interim answers are skipped. Dropping the future closes the connection.
    ///
    /// # Errors
    /// [`SendError`] says what is proven about how far the request went.
    pub async fn send(mut self, request: Request<Outgoing>) -> Result<Response<VendorBody>, SendError> {
        let Some(mut wire) = self.wire.take() else { return Err(SendError::Unsent(Box::new(request))) };
        let meter = request.body().meter();
        if meter.has_body() {
            wire.belongs_to(&self.customer);
        }
        let head = *request.method() == Method::HEAD;
        let upgrade = request.headers().contains_key(UPGRADE);
        wire.pulse.dispatch(self.reused, Asked { head, upgrade });
        let started = Instant::now();
        let overdue = |patience: &mut Patience, cx: &mut Context<'_>| {
            patience.poll_until(cx, self.due(started, &meter))
        };
        match wire.exchange(request, overdue).await {
            None => Err(self.stalled(&meter)),
            Some(Err(failure)) => Err(self.failed(failure, &wire, &meter)),
            Some(Ok(head)) if head.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err(SendError::Broken("the vendor switched protocols unasked".to_owned()))
            }
            Some(Ok(head)) => {
                if !meter.ended() {
                    wire.go_on_alone();
                }
                let held = Held { wire, shelf: Rc::clone(&self.shelf), meter };
                Ok(head.map(|incoming| VendorBody::new(incoming, held, self.upstream.idle)))
            }
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

    fn failed(&self, mut failure: TrySendError<Request<Outgoing>>, wire: &Wire, meter: &Meter) -> SendError {
        if let Some(request) = failure.take_message() {
            return SendError::Unsent(Box::new(request));
        }
        let error = failure.into_error();
        if meter.broken_off() {
            return SendError::Upload(format!("the app's body broke off: {}", chain(&error)));
        }
        if self.reused && !meter.has_body() && !wire.pulse.answered() && is_closing(&error) {
            return SendError::ClosedEarly;
        }
        SendError::Broken(chain(&error))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(wire) = self.wire.take() {
            self.shelf.put(wire);
        }
    }
}

/// Whether the connection just ended, as against broken framing or a failed TLS record.
fn is_closing(error: &hyper::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            let closing = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof];
            return closing.contains(&io.kind());
        }
        source = cause.source();
    }
    error.is_incomplete_message() || error.is_canceled() || error.is_closed()
}

fn chain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
