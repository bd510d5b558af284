//! Whether a request asks to leave HTTP, and whether it may.
//!
//! WebSocket alone, and only where the integration says `websocket = true`; what asks for anything else is
//! refused, because a request that silently lost its Upgrade would be another request. The handshake is
//! judged here in full (RFC 6455 section 4.2.1), so that no vendor is asked with half of one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::refusal::{Code, Refusal};

/// Whether the request is the beginning of a WebSocket.
///
/// # Errors
/// `request_denied` for another protocol, or where WebSocket is off; `request_malformed` for a handshake
/// that is none.
pub(super) fn wanted(websocket: bool, asked: &Parts) -> Result<bool, Refusal> {
    let headers = &asked.headers;
    if !headers.contains_key(UPGRADE) {
        return Ok(false);
    }
    let only =
        one(headers, &UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !only {
        return Err(Refusal::new(
            Code::RequestDenied,
            "relay upgrades to no protocol but WebSocket; tell an HTTP client that asks for h2c by itself, as Java's does, to use HTTP/1.1.",
        ));
    }
    if !websocket {
        return Err(Refusal::new(
            Code::RequestDenied,
            "This integration has no WebSocket: it is opened by `websocket = true`.",
        ));
    }
    let malformed = |why: &'static str| Err(Refusal::new(Code::RequestMalformed, why));
    if asked.method != Method::GET || asked.version != Version::HTTP_11 {
        return malformed("A WebSocket begins with a GET over HTTP/1.1 (RFC 6455 section 4.1).");
    }
    if !names_upgrade(headers) {
        return malformed("Upgrade stands without `Connection: Upgrade` (RFC 9110 section 7.8).");
    }
    let has_body = one(headers, &CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_body || headers.contains_key(TRANSFER_ENCODING) {
        return malformed("A WebSocket's handshake has no body.");
    }
    let key = one(headers, &SEC_WEBSOCKET_KEY).and_then(|key| STANDARD.decode(key).ok());
    if key.is_none_or(|key| key.len() != 16) {
        return malformed("Sec-WebSocket-Key is not 16 bytes in base64 (RFC 6455 section 4.1).");
    }
    if one(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return malformed("Sec-WebSocket-Version is not 13 (RFC 6455 section 4.1).");
    }
    Ok(true)
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    let mut options = values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    options.any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}
