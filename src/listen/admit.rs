//! What is refused for its framing alone, before anyone asks who sends it.
//!
//! Strict where readers differ (RFC 9112 sections 3.2, 6): a request that two programs could frame in two
//! ways is refused and its connection closed. What must never enter: anything that needs configuration
//! beyond the limits.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{Method, Request, Version};

use super::DoorLimits;
use crate::refusal::{Code, Refusal};

/// Checks a request's head.
///
/// # Errors
/// `request_malformed`, `head_too_large`.
pub(super) fn admit<B>(limits: &DoorLimits, request: &Request<B>) -> Result<(), Refusal> {
    let malformed = |why: &'static str| Err(Refusal::new(Code::RequestMalformed, why));
    let headers = request.headers();
    if *request.method() == Method::CONNECT || *request.method() == Method::TRACE {
        return malformed("relay takes no CONNECT and no TRACE.");
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if target + fields > limits.head_bytes || headers.len() > limits.head_fields {
        let detail = format!(
            "A request's head has at most {} bytes and {} fields.",
            limits.head_bytes, limits.head_fields
        );
        return Err(Refusal::new(Code::HeadTooLarge, detail));
    }
    if headers.get_all(HOST).iter().count() != 1 {
        return malformed("A request has exactly one Host field (RFC 9112 section 3.2).");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if codings.next().is_some()
        || coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return malformed("Transfer-Encoding is exactly `chunked` or absent.");
    }
    if coding.is_some() && (headers.contains_key(CONTENT_LENGTH) || request.version() < Version::HTTP_11) {
        return malformed(
            "A request has a Content-Length or a Transfer-Encoding, not both (RFC 9112 section 6.3).",
        );
    }
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return malformed("A request has at most one Content-Length.");
    }
    if !request.uri().path().starts_with('/') {
        return malformed("A request's target begins with a slash.");
    }
    Ok(())
}
