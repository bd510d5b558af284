//! Fields that vouch for an answer's bytes, and what becomes of them once a byte was overwritten.
//!
//! What must never enter: a change to them while the answer is as the vendor sent it.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Digests of the content, and what asks for them (RFC 9530, RFC 3230, RFC 2616 section 14.15).
const DIGESTS: [HeaderName; 8] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("want-content-digest"),
    HeaderName::from_static("want-repr-digest"),
    HeaderName::from_static("want-digest"),
    HeaderName::from_static("unencoded-digest"),
];

/// Whether a field vouches for the bytes.
pub(super) fn any(headers: &HeaderMap) -> bool {
    headers.get(header::ETAG).is_some_and(is_strong) || DIGESTS.iter().any(|name| headers.contains_key(name))
}

/// The bytes are others now: no digest fits, and the tag is weak (RFC 9110 section 8.8.1).
pub(super) fn loosen(headers: &mut HeaderMap) {
    for name in &DIGESTS {
        headers.remove(name);
    }
    let Some(strong) = headers.get(header::ETAG).filter(|tag| is_strong(tag)) else { return };
    match HeaderValue::from_bytes(&[b"W/", strong.as_bytes()].concat()) {
        Ok(weak) => drop(headers.insert(header::ETAG, weak)),
        Err(_) => drop(headers.remove(header::ETAG)),
    }
}

fn is_strong(tag: &HeaderValue) -> bool {
    !tag.as_bytes().starts_with(b"W/")
}
