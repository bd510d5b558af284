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
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use rustls::AlertDescription;
use tokio::time::Instant;

use super::body::{Held, Meter, Outgoing, VendorBody};
use super::demand;
use super::frame::Asked;
use super::patience::Patience;
use super::pool::Shelf;
use super::trunk::{Branch, is_unprocessed};
use super::upstream::Upstream;
use super::wire::Wire;
use crate::model::Customer;

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

impl Way {
    /// Its timer.
    pub(super) fn patience(&mut self) -> &mut Patience {
        match self {
            Self::Wire(wire) => &mut wire.patience,
            Self::Branch(branch) => &mut branch.patience,
        }
    }
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
    pub async fn send(mut self, mut request: Request<Outgoing>) -> Result<Response<VendorBody>, SendError> {
        let meter = request.body().meter();
        let started = Instant::now();
        let overdue = |line: &Self, patience: &mut Patience, cx: &mut Context<'_>| {
            patience.poll_until(cx, line.due(started, &meter))
        };
        let (head, way) = match self.way.take() {
            None => return Err(SendError::Unsent(Box::new(request))),
            Some(Way::Wire(mut wire)) => {
                if meter.has_body() {
                    wire.belongs_to(&self.customer);
                }
                let upgrade = wire.is_apart() && request.headers().contains_key(UPGRADE);
                let demand = demand::listen(&mut request);
                let head = *request.method() == Method::HEAD;
                wire.pulse.dispatch(self.reused, Asked { head, upgrade });
                let answered = wire.exchange(request, |patience, cx| overdue(&self, patience, cx)).await;
                let head = self.head(answered, &meter, || !wire.pulse.answered())?;
                if head.status() == StatusCode::SWITCHING_PROTOCOLS {
                    let channel = wire.channel(self.upstream.idle).filter(|_| upgrade);
                    let unasked = || SendError::Broken("the vendor switched protocols unasked".to_owned());
                    let channel = channel.ok_or_else(unasked)?;
                    return Ok(head.map(|incoming| VendorBody::switched(incoming, channel)));
                }
                // A body that the vendor did not ask for stays where it is.
                let unasked = demand.is_some_and(|demand| demand.answered());
                if !meter.ended() && !unasked {
                    wire.go_on_alone();
                }
                (head, Way::Wire(wire))
            }
            Some(Way::Branch(mut branch)) => {
                let overdue = |patience: &mut Patience, cx: &mut Context<'_>| overdue(&self, patience, cx);
                let answered = branch.exchange(&self.upstream, request, overdue).await;
                let head = self.head(answered, &meter, || true)?;
                if head.status() == StatusCode::SWITCHING_PROTOCOLS {
                    // RFC 9113 section 8.6: HTTP/2 has no such answer.
                    return Err(SendError::Broken("the vendor switched protocols over HTTP/2".to_owned()));
                }
                (head, Way::Branch(branch))
            }
        };
        let held = Held { way, shelf: Rc::clone(&self.shelf), meter };
        Ok(head.map(|incoming| VendorBody::new(incoming, held, self.upstream.idle)))
    }

    /// The answer's head, or why there is none; `silent` says whether no byte of an answer had come.
    fn head(
        &self,
        answered: Option<Result<Response<Incoming>, TrySendError<Request<Outgoing>>>>,
        meter: &Meter,
        silent: impl FnOnce() -> bool,
    ) -> Result<Response<Incoming>, SendError> {
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

    fn failed(&self, mut failure: TrySendError<Request<Outgoing>>, silent: bool, meter: &Meter) -> SendError {
        if let Some(alert) = alert(failure.error()).filter(|_| silent && !self.reused) {
            return SendError::Tls(format!("the vendor ended TLS with {alert:?}"));
        }
        if let Some(request) = failure.take_message() {
            return SendError::Unsent(Box::new(request));
        }
        let error = failure.into_error();
        if meter.broken_off() {
            return SendError::Upload(format!("the app's body broke off: {}", chain(&error)));
        }
        let closed = self.reused && silent && is_closing(&error);
        if !meter.has_body() && (closed || is_unprocessed(&error)) {
            return SendError::ClosedEarly;
        }
        SendError::Broken(chain(&error))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(Way::Wire(wire)) = self.way.take() {
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

/// The TLS alert (RFC 8446 section 6.2) that ended the connection, if that was it.
fn alert(error: &hyper::Error) -> Option<AlertDescription> {
    let io = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    match io.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

fn chain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
