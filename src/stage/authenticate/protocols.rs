//! A caller's token among a WebSocket's subprotocols.
//!
//! A browser can set no other field of a handshake, so vendors take their keys there: as an item of its own or
//! behind a prefix, `openai-insecure-api-key.<JWT>`. Names of protocols have dots too (`wamp.2.json`), so three
//! parts are not enough here: the first must be a JWT's header. What must never leave: such an item.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue};

use super::token::is_token;

/// The tokens that stand there.
pub(super) fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    items(headers).filter_map(token_in)
}

/// The list without the items that hold a token; `None` if nothing is left.
pub fn without_tokens(headers: &HeaderMap) -> Option<HeaderValue> {
    let kept: Vec<&str> = items(headers).filter(|item| token_in(item).is_none()).collect();
    if kept.is_empty() { None } else { HeaderValue::try_from(kept.join(", ")).ok() }
}

fn items(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let texts = values.filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

/// An item's last three parts, if they are a JWT: the first is base64url of a JSON object.
fn token_in(item: &str) -> Option<&str> {
    let mut dots = memchr::memrchr_iter(b'.', item.as_bytes());
    let (_, second) = (dots.next()?, dots.next()?);
    let start = dots.next().map_or(0, |dot| dot + 1);
    let token = item.get(start..).filter(|token| is_token(token))?;
    let header = URL_SAFE_NO_PAD.decode(item.get(start..second)?).ok()?;
    header.trim_ascii_start().starts_with(b"{").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_jwt_is_taken_for_a_token() {
        let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJhIjoxfQ.c2ln";
        assert_eq!(token_in(jwt), Some(jwt));
        assert_eq!(token_in(&format!("openai-insecure-api-key.{jwt}")), Some(jwt));
        assert_eq!(token_in(&format!("a.b.c.{jwt}")), Some(jwt));
        for name in ["wamp.2.json", "v4.channel.k8s.io", "graphql-transport-ws", "v12.stomp", "eyJh.b", ""] {
            assert_eq!(token_in(name), None, "{name}");
        }
    }
}
