//! What is refused for its framing alone, before anyone asks who sends it: heads that no [`super::gate`]
//! has read, which are those of HTTP/2.
//!
//! Strict where readers differ (RFC 9112 sections 3.2, 6): a request that two programs could frame in two
//! ways is refused, and its stream with it. What must never enter: anything that needs configuration
//! beyond the limits.

use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request};

use super::DoorLimits;
use super::gate::{check_target, is_authority};
use crate::refusal::{Code, Refusal};

/// Checks a request's head.
///
/// # Errors
/// `request_malformed`, `path_refused`, `head_too_large`.
pub(super) fn admit<B>(limits: &DoorLimits, request: &Request<B>) -> Result<(), Refusal> {
    let malformed = |why: &'static str| Err(Refusal::new(Code::RequestMalformed, why));
    let headers = request.headers();
    if *request.method() == Method::CONNECT || *request.method() == Method::TRACE {
        return malformed("relay takes no CONNECT and no TRACE.");
    }
    if !request.uri().scheme().is_none_or(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme)) {
        return malformed("relay takes http and https.");
    }
    let target = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    let framing = Framing::of(headers);
    if target.len() + framing.bytes > limits.head_bytes || headers.len() > limits.head_fields {
        let detail = format!(
            "A request's head has at most {} bytes and {} fields.",
            limits.head_bytes, limits.head_fields
        );
        return Err(Refusal::new(Code::HeadTooLarge, detail));
    }
    if framing.hosts != 1 || !framing.host.is_some_and(|host| is_authority(host.as_bytes())) {
        return malformed(
            "A request has exactly one Host field, a host with or without a port (RFC 9112 section 3.2).",
        );
    }
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if framing.codings > 1 || !framing.coding.is_none_or(chunked) {
        return malformed("Transfer-Encoding is exactly `chunked` or absent.");
    }
    if framing.codings > 0 && framing.lengths > 0 {
        return malformed(
            "A request has a Content-Length or a Transfer-Encoding, not both (RFC 9112 section 6.3).",
        );
    }
    if framing.lengths > 1 {
        return malformed("A request has at most one Content-Length.");
    }
    if framing.unknown_expectation {
        return malformed("relay meets no expectation but `100-continue` (RFC 9110 section 10.1.1).");
    }
    // As it stands: `Uri::path` puts a slash before a query that has none.
    check_target(target.as_bytes())
}

/// What frames a request, read in one pass.
#[derive(Default)]
struct Framing<'a> {
    /// All fields, as they stood on the wire.
    bytes: usize,
    host: Option<&'a HeaderValue>,
    hosts: usize,
    coding: Option<&'a HeaderValue>,
    codings: usize,
    lengths: usize,
    unknown_expectation: bool,
}

impl<'a> Framing<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut framing = Self::default();
        for (name, value) in headers {
            framing.bytes += name.as_str().len() + value.len() + 4;
            if *name == HOST {
                framing.host = Some(value);
                framing.hosts += 1;
            } else if *name == TRANSFER_ENCODING {
                framing.coding = Some(value);
                framing.codings += 1;
            } else if *name == CONTENT_LENGTH {
                framing.lengths += 1;
            } else if *name == EXPECT {
                framing.unknown_expectation |= !value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
        }
        framing
    }
}
