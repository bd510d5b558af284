//! Content codings: which ones the vendor is asked for, and so which ones its answer may have.
//!
//! relay asks for what the app accepts and relay can scan, with the app's own weights; nothing else, and
//! `identity` where an answer must be read as it stands (RFC 9110 section 12.5.3). No stage: inject asks by
//! it, scrub judges by it. What must never enter: a coding without a decoder.

use http::header::{self, HeaderMap, HeaderValue};

/// A coding that can be scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, and RFC 1951 bare as some servers send it.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

impl Coding {
    /// The coding of this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name {
            _ if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            _ if is("deflate") => Some(Self::Deflate),
            _ if is("br") => Some(Self::Brotli),
            _ if is("zstd") => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// The `Accept-Encoding` for the vendor, by the app's head. With `plain`, and for gRPC, whose messages are
/// compressed one by one, it is `identity`.
pub fn asked(head: &HeaderMap, plain: bool) -> HeaderValue {
    if plain || is_grpc(head) {
        return IDENTITY;
    }
    let mut fields = head.get_all(header::ACCEPT_ENCODING).iter();
    let (first, more) = (fields.next(), fields.next().is_some());
    match first {
        None => IDENTITY,
        Some(only) if !more && elements(only).all(usable) && elements(only).any(wanted) => only.clone(),
        Some(_) => {
            let fields = head.get_all(header::ACCEPT_ENCODING).iter();
            let kept: Vec<&[u8]> = fields.flat_map(elements).filter(|element| usable(element)).collect();
            if !kept.iter().any(|element| wanted(element)) {
                return IDENTITY;
            }
            HeaderValue::from_bytes(&kept.join(&b", "[..])).unwrap_or(IDENTITY)
        }
    }
}

/// Whether the vendor was asked for `coding`.
pub fn was_asked(head: &HeaderMap, plain: bool, coding: Coding) -> bool {
    !plain
        && !is_grpc(head)
        && head
            .get_all(header::ACCEPT_ENCODING)
            .iter()
            .flat_map(elements)
            .any(|element| wanted(element) && Coding::named(name(element)) == Some(coding))
}

/// Whether the body is gRPC's messages, by its content type.
pub fn is_grpc(head: &HeaderMap) -> bool {
    let text =
        head.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii_start();
    let kind = text.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/grpc"));
    // base64 of the messages: read like any other text.
    let text_kind =
        text.get(..25).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/grpc-web-text"));
    kind && !text_kind && matches!(text.get(16), None | Some(b'+' | b';' | b'-' | b' '))
}

/// Whether what a media type says of its charset is nothing, or UTF-8 in its plainest spelling. `parameters` are
/// what stands behind its first `;`, in small letters.
pub fn is_utf8(parameters: &str) -> bool {
    parameters.split(';').filter(|parameter| parameter.contains("charset")).all(|parameter| {
        let charset = parameter.trim_matches([' ', '\t']).strip_prefix("charset=").unwrap_or_default();
        let unquoted = charset.strip_prefix('"').and_then(|charset| charset.strip_suffix('"'));
        matches!(unquoted.unwrap_or(charset), "utf-8" | "utf8" | "us-ascii")
    })
}

fn elements(field: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    field.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

fn name(element: &[u8]) -> &[u8] {
    element.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

fn usable(element: &[u8]) -> bool {
    Coding::named(name(element)).is_some() || name(element).eq_ignore_ascii_case(b"identity")
}

/// A coding that can be scanned, and is not excluded by a weight of zero.
fn wanted(element: &[u8]) -> bool {
    Coding::named(name(element)).is_some() && !excluded(element)
}

fn excluded(element: &[u8]) -> bool {
    element.split(|byte| *byte == b';').skip(1).map(<[u8]>::trim_ascii).any(|parameter| {
        let Some((b'q' | b'Q', weight)) = parameter.split_first() else { return false };
        let weight = weight.trim_ascii_start().strip_prefix(b"=").unwrap_or_default().trim_ascii();
        weight.iter().all(|byte| matches!(byte, b'0' | b'.'))
    })
}
