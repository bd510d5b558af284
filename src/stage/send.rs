//! Step 8: the armed request goes out. The only place that writes to a line.
//!
//! A request goes out a second time, and never a third: if no byte of it went out on a reused connection, or if it
//! is a body-less GET or HEAD on one that closed before any answer byte, or of which the vendor says that it has
//! not looked at it. What must never leave: the request inside an error.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use http::{Method, Response};

use crate::net::body::{Outgoing, VendorBody};
use crate::net::line::{Line, SendError};
use crate::refusal::{Code, Refusal};
use crate::stage::authorize::leases::Lease;
use crate::stage::inject::{Armed, Planted};

/// How a sending ended.
// One per request, moved once: a box would cost more than the room.
#[allow(clippy::large_enum_variant)]
pub enum Sent {
    /// The vendor answered.
    Answer(Answer),
    /// It may be sent again on a fresh connection, with this body, in which no credential is.
    Again(Outgoing),
}

/// The vendor's answer, with what must not pass in it.
pub struct Answer {
    /// Head and streaming body.
    pub response: Response<VendorBody>,
    /// What the scrubber looks for.
    pub planted: Planted,
}

/// Sends the request and waits for the answer's head; a revocation ends the wait and the connection. One that was
/// sent `again` is not given back once more.
///
/// # Errors
/// `vendor_timeout`, `vendor_broken`, `secret_disabled`, `secret_not_found`.
pub async fn send(line: Line, armed: Armed, again: bool, lease: &Lease) -> Result<Sent, Refusal> {
    let (request, planted, unarmed) = armed.into_parts();
    let repeatable = matches!(*request.method(), Method::GET | Method::HEAD);
    let reused = line.is_reused();
    let mut sending = pin!(line.send(request));
    let sent = poll_fn(|cx| match sending.as_mut().poll(cx) {
        Poll::Ready(sent) => Poll::Ready(Ok(sent)),
        Poll::Pending => lease.poll_revoked(cx).map(Err),
    });
    match sent.await? {
        Ok(response) => Ok(Sent::Answer(Answer { response, planted })),
        Err(SendError::Unsent(request)) if reused && !again => {
            Ok(Sent::Again(unarmed.map_or_else(|| request.into_body(), |own| *own)))
        }
        Err(SendError::ClosedEarly) if repeatable && !again => Ok(Sent::Again(Outgoing::empty())),
        Err(error) => Err(error.into()),
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        let code = match &error {
            SendError::Timeout(_) => Code::VendorTimeout,
            SendError::Upload(_) => Code::RequestMalformed,
            SendError::Tls(_) => Code::VendorTls,
            SendError::Unsent(_) | SendError::ClosedEarly | SendError::Broken(_) => Code::VendorBroken,
        };
        Self::from(code).because(error.to_string())
    }
}
