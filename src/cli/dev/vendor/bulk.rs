//! Much data in constant memory: bytes out, bytes in, and both at once.
//!
//! What must never enter: a buffer that grows with a body.

use aws_lc_rs::digest;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

use super::feed::{self, Body};

/// `n` bytes with their Content-Length.
pub(super) fn bytes(n: u64) -> Response<Body> {
    feed::flowing(StatusCode::OK, "application/octet-stream", feed::zeros(n))
}

/// Swallows the body and answers its length and SHA-256; 400 if it broke off.
pub(super) async fn count(mut body: Incoming) -> Response<Body> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut length = 0_u64;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return feed::json(
                StatusCode::BAD_REQUEST,
                &json!({ "error": "the body broke off", "bytes": length }),
            );
        };
        if let Some(piece) = frame.data_ref() {
            hash.update(piece);
            length += piece.len() as u64;
        }
    }
    let sum: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    feed::json(StatusCode::OK, &json!({ "bytes": length, "sha256": sum }))
}

/// Sends the body back as it comes, before it has ended.
pub(super) fn duplex(headers: &HeaderMap, body: Incoming) -> Response<Body> {
    let back = body.map_err(std::io::Error::other).boxed_unsync();
    let mut response = feed::flowing(StatusCode::OK, "application/octet-stream", back);
    if let Some(media) = headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, media.clone());
    }
    response
}
