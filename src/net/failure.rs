//! Why an exchange on a connection failed, as the connection knows it.
//!
//! What must never enter: anything that is printed of a request.

use std::error::Error;
use std::fmt;
use std::io;

use http::Request;
use hyper::client::conn::TrySendError;
use rustls::AlertDescription;

use super::body::{Outgoing, UploadError};
use crate::framing::Flaw;

/// Why there is no answer, or no more of one.
#[derive(thiserror::Error)]
pub(super) enum Failure {
    /// No byte of the request went out; here it is back.
    #[error("the connection closed before the request was sent")]
    Unsent(Box<Request<Outgoing>>),
    /// The connection failed.
    #[error("{0}")]
    Connection(io::Error),
    /// It ended before the answer did.
    #[error("the connection closed before the answer ended")]
    Ended,
    /// The answer is not framed as it must be.
    #[error("{0}")]
    Framing(Flaw),
    /// The app's body broke off.
    #[error("{0}")]
    Body(UploadError),
    /// The app's body is not as long as it says.
    #[error("it is not as long as it says")]
    Length,
    /// The vendor reset its stream as if all were well (RFC 9113 section 8.1), and the answer had not ended.
    #[error("the vendor reset the stream before the answer ended")]
    Reset,
    /// HTTP/2 failed.
    #[error("{}", told(.0))]
    Http2(hyper::Error),
}

// The request inside carries a credential: nothing of it is printed.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

impl Failure {
    /// What HTTP/2 says of a request.
    pub(super) fn http2(mut failure: TrySendError<Request<Outgoing>>) -> Self {
        match failure.take_message() {
            Some(request) => Self::Unsent(Box::new(request)),
            None => Self::Http2(failure.into_error()),
        }
    }

    /// Whether the connection just ended, as against broken framing or a failed TLS record.
    pub(super) fn is_closing(&self) -> bool {
        match self {
            Self::Ended => true,
            Self::Connection(io) => closes(io),
            Self::Http2(error) => cause_of_io(error).map_or_else(
                || error.is_incomplete_message() || error.is_canceled() || error.is_closed(),
                closes,
            ),
            Self::Unsent(_) | Self::Framing(_) | Self::Body(_) | Self::Length | Self::Reset => false,
        }
    }

    /// Whether the vendor says that it has not looked at the request (RFC 9113 section 8.7).
    pub(super) fn is_unprocessed(&self) -> bool {
        let Self::Http2(error) = self else { return false };
        let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
        cause.is_some_and(|cause| {
            let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
            let goes = cause.is_go_away() && cause.is_remote();
            refused || (goes && cause.reason() == Some(h2::Reason::NO_ERROR))
        })
    }

    /// The TLS alert (RFC 8446 section 6.2) that ended the connection, if that was it.
    pub(super) fn alert(&self) -> Option<AlertDescription> {
        let io = match self {
            Self::Connection(io) => io,
            Self::Http2(error) => error.source()?.downcast_ref::<io::Error>()?,
            _ => return None,
        };
        match io.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    }
}

fn closes(io: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof, WriteZero,
    };
    matches!(
        io.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof | WriteZero
    )
}

fn cause_of_io(error: &hyper::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref() {
            return Some(io);
        }
        source = cause.source();
    }
    None
}

/// What failed, in this program's words: HTTP/2's own text repeats what the other side wrote into its GOAWAY
/// (RFC 9113 section 6.8), and a vendor may write the credential there.
pub(super) fn told(error: &hyper::Error) -> String {
    let Some(cause) = error.source() else { return error.to_string() };
    let Some(http2) = cause.downcast_ref::<h2::Error>() else {
        return match cause_of_io(error) {
            Some(io) => format!("{error}: {io}"),
            None => error.to_string(),
        };
    };
    let by = if http2.is_remote() { "the other side" } else { "relay" };
    let what = match http2.reason() {
        Some(reason) if http2.is_go_away() => format!("{by} ended the connection: {}", name_of(reason)),
        Some(reason) if http2.is_reset() => format!("{by} reset the stream: {}", name_of(reason)),
        Some(reason) => name_of(reason).to_owned(),
        None => http2.get_io().map_or_else(|| "HTTP/2 failed".to_owned(), ToString::to_string),
    };
    format!("{error}: {what}")
}

/// An error code's name (RFC 9113 section 7); one that has none is not repeated.
fn name_of(reason: h2::Reason) -> &'static str {
    match reason {
        h2::Reason::NO_ERROR => "NO_ERROR",
        h2::Reason::PROTOCOL_ERROR => "PROTOCOL_ERROR",
        h2::Reason::INTERNAL_ERROR => "INTERNAL_ERROR",
        h2::Reason::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
        h2::Reason::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
        h2::Reason::STREAM_CLOSED => "STREAM_CLOSED",
        h2::Reason::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
        h2::Reason::REFUSED_STREAM => "REFUSED_STREAM",
        h2::Reason::CANCEL => "CANCEL",
        h2::Reason::COMPRESSION_ERROR => "COMPRESSION_ERROR",
        h2::Reason::CONNECT_ERROR => "CONNECT_ERROR",
        h2::Reason::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
        h2::Reason::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
        h2::Reason::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
        _ => "an unknown code",
    }
}
