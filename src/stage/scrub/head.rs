//! A vendor's head on its way to the app: fields that are not the app's go, the credential is
//! overwritten in the rest.
//!
//! The same rules serve final and interim (1xx) heads and, a little stricter, trailers. The reason
//! phrase is not passed at all. What vouches for the body's bytes is `validators`' business. What must never enter: an edit beyond these, because a vendor's answer passes unchanged
//! but for the listed ones.

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
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
    let mut gone: Vec<HeaderName> =
        words(headers, &header::CONNECTION).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
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

/// The trailers that the vendor announces and that may pass, for an HTTP/1.1 app that reads trailers; no others
/// can stand behind a body there (RFC 9110 sections 6.6.2 and 10.1.4).
pub(super) fn announced(headers: &HeaderMap, asked: &Parts) -> Option<HeaderValue> {
    if !headers.contains_key(header::TRAILER) || headers.contains_key(header::CONTENT_LENGTH) {
        return None;
    }
    let reads = |word: &[u8]| word.eq_ignore_ascii_case(b"trailers");
    if asked.version != Version::HTTP_11 || !words(&asked.headers, &header::TE).any(reads) {
        return None;
    }
    let mut names: HeaderMap<HeaderValue> = words(headers, &header::TRAILER)
        .filter_map(|name| Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_static(""))))
        .collect();
    strip_trailers(&mut names);
    let names: Vec<&str> = names.keys().map(HeaderName::as_str).collect();
    HeaderValue::from_str(&names.join(", ")).ok().filter(|names| !names.is_empty())
}

/// What stands between a list's commas.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lists = headers.get_all(name).into_iter();
    lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
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
