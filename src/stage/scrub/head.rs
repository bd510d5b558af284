//! A vendor's head on its way to the app: fields that are not the app's go, the credential is
//! overwritten in the rest.
//!
//! The same rules serve final and interim (1xx) heads and, a little stricter, trailers. The reason
//! phrase is not passed at all. What vouches for the body's bytes is `validators`' business. What must never enter: an edit beyond these, because a vendor's answer passes unchanged
//! but for the listed ones.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::forms::Forms;
use super::links;

/// Overwrites the credential in every value, same length, and drops a field whose name contains it in
/// any case. Says whether it was found.
pub fn scrub_head(headers: &mut HeaderMap, forms: &Forms) -> bool {
    if forms.is_empty() {
        return false;
    }
    let mut found = false;
    for value in headers.values_mut() {
        let ranges = forms.ranges(value.as_bytes());
        if ranges.is_empty() {
            continue;
        }
        found = true;
        let mut text = Zeroizing::new(value.as_bytes().to_vec());
        super::forms::mark(&mut text, &ranges, 0);
        *value = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""));
    }
    let named: Vec<HeaderName> =
        headers.keys().filter(|name| forms.named_in(name.as_str())).cloned().collect();
    for name in &named {
        headers.remove(name);
    }
    found || !named.is_empty()
}

/// Removes what is between the vendor and relay only: hop-by-hop fields and those that Connection names
/// (RFC 9110 section 7.6.1), `Relay-*`, and fields that would bind the app's client to the vendor's
/// origin. `Set-Cookie` stays only with `cookies`.
pub fn strip(headers: &mut HeaderMap, cookies: bool) {
    let mut gone: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    gone.extend(headers.keys().filter(|name| never_passes(name.as_str(), cookies)).cloned());
    for name in &gone {
        headers.remove(name);
    }
}

/// [`strip`] for trailers, which may moreover carry neither framing, routing, authentication nor caching
/// (RFC 9110 section 6.5.1), nor a reference that a client would merge into the head unrewritten.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers, false);
    for name in HEAD_ONLY.iter().chain(&links::FIELDS) {
        trailers.remove(name);
    }
}

/// Fields that mean nothing good behind a body.
const HEAD_ONLY: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::HOST,
    header::AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    header::CACHE_CONTROL,
];

fn never_passes(name: &str, cookies: bool) -> bool {
    match name {
        "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade" => true,
        "proxy-connection" | "proxy-authenticate" | "proxy-authorization" => true,
        "proxy-authentication-info" | "proxy-status" => true,
        "alt-svc" | "strict-transport-security" | "clear-site-data" => true,
        "set-cookie" | "set-cookie2" => !cookies,
        _ => name.starts_with("relay-"),
    }
}
