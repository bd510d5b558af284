//! The echo: an answer that says what the vendor was given.
//!
//! It is what makes a first call convincing: the vendor names the credential, the app sees it redacted.
//! What must never enter: a credential but the seeded constant, more than 4 KiB of a body.

use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Desk;
use super::feed::{self, Body};

const SHOWN_BODY: usize = 4 * 1024;

/// Reads the whole body, keeping its start, and answers with what came.
pub(super) async fn answer(desk: &Desk, head: &Parts, mut body: Incoming) -> Response<Body> {
    let mut start = Vec::new();
    let mut length = 0_u64;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(piece) = frame.data_ref() else { continue };
        length += piece.len() as u64;
        let room = SHOWN_BODY.saturating_sub(start.len()).min(piece.len());
        start.extend_from_slice(piece.get(..room).unwrap_or_default());
    }
    feed::json(
        StatusCode::OK,
        &Echo {
            method: head.method.as_str(),
            path: desk.accepted.without(head.uri.path()),
            i_was_given: authorization(desk, &head.headers),
            your_token_reached_me: token_reached(head),
            query: head.uri.query().map(|query| desk.accepted.shown_query(query)),
            body: desk.accepted.without(&String::from_utf8_lossy(&start)),
            body_bytes: length,
            headers: desk.accepted.shown_all(&head.headers),
        },
    )
}

/// In the order of interest: a terminal shows the first lines.
#[derive(Serialize)]
struct Echo<'a> {
    method: &'a str,
    path: String,
    i_was_given: Option<String>,
    your_token_reached_me: bool,
    query: Option<String>,
    body: String,
    body_bytes: u64,
    headers: Map<String, Value>,
}

/// `Authorization` as it may be shown.
pub(super) fn authorization(desk: &Desk, headers: &HeaderMap) -> Option<String> {
    headers.get(AUTHORIZATION).map(|value| desk.accepted.shown(&AUTHORIZATION, value.as_bytes()))
}

/// Whether anything came through that is for relay alone: a JWT anywhere in the head, a `Relay-*` field.
pub(super) fn token_reached(head: &Parts) -> bool {
    let in_fields = head.headers.iter().any(|(name, value)| {
        name.as_str().starts_with("relay-") || holds_jwt(&String::from_utf8_lossy(value.as_bytes()))
    });
    in_fields || holds_jwt(head.uri.path()) || head.uri.query().is_some_and(holds_jwt)
}

/// Whether a word of `text` is three base64url parts of which the first is a JSON object's start.
fn holds_jwt(text: &str) -> bool {
    let outside = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    text.split(outside).any(|word| {
        let parts: Vec<&str> = word.split('.').collect();
        parts.len() == 3 && parts.iter().all(|part| part.len() > 3) && word.starts_with("ey")
    })
}
