//! A vendor's 101: whether it is what the app asked for, and the head that the app gets.
//!
//! What must never enter: a switch to anything but WebSocket, or with an extension, of which none is offered:
//! frames that are compressed could not be scrubbed (RFC 6455 section 4.1, RFC 7692).

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::refusal::{Code, Refusal};

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether this is an answer that switches protocols, to the handshake that the app `asked` for. To be asked
/// before hop-by-hop fields go.
///
/// # Errors
/// `vendor_broken` for one that switches to anything else.
pub(super) fn is_one(status: StatusCode, asked: &HeaderMap, answered: &HeaderMap) -> Result<bool, Refusal> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(false);
    }
    let broken = |why: &str| Err(Refusal::from(Code::VendorBroken).because(why.to_owned()));
    let upgrade = answered.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !upgrade || answered.get_all(UPGRADE).iter().count() > 1 {
        return broken("the vendor switched to another protocol than WebSocket");
    }
    let accept = accept(asked.get(SEC_WEBSOCKET_KEY));
    let mut theirs = answered.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    let only = theirs.next().filter(|_| theirs.next().is_none());
    if only.is_none_or(|only| only.as_bytes() != accept.as_bytes()) {
        return broken("the vendor's Sec-WebSocket-Accept is not that of this handshake");
    }
    if answered.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return broken("the vendor chose a WebSocket extension although none was offered");
    }
    Ok(true)
}

/// Puts back what is hop-by-hop, as relay's own, into a head that was stripped and scrubbed.
pub(super) fn complete(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

fn accept(key: Option<&HeaderValue>) -> String {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.map_or(b"", HeaderValue::as_bytes));
    digest.update(GUID);
    STANDARD.encode(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_is_that_of_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(Some(&key)), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
