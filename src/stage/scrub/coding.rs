//! What cannot be read cannot be scrubbed: which codings an answer may have, and when it may be partial.
//!
//! relay asks vendors for the codings that the app accepts and that have a decoder here, and for whole
//! bodies. A vendor that sends something else all the same gets no benefit of the doubt: a credential in an
//! unknown coding has no form that is known here, and two ranges asked for apart would carry it in two
//! halves. What must never enter: a guess at what an unclear field means.

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING,
};
use http::{HeaderName, StatusCode};

use crate::stage::coding::{Coding, was_asked};

/// Why an answer's body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// A content coding that was not asked for, is unknown, or stands on another (RFC 9110 section 8.4).
    #[error("the answer has a content coding that was not asked for")]
    ContentCoding,
    /// A transfer coding other than `chunked` (RFC 9112 section 7).
    #[error("the answer has a transfer coding other than chunked")]
    TransferCoding,
    /// A length beside a transfer coding (RFC 9112 section 6.3).
    #[error("the answer has a length and chunks, and so two ends")]
    TwoEnds,
    /// Part of a body that was asked for whole (RFC 9110 section 14).
    #[error("the answer is a part although the whole was asked for")]
    Partial,
}

/// Which coding the body has, `None` for `identity`. Refuses what was not asked for by the app's head, more
/// than one coding, and every transfer coding but `chunked` (hyper takes off only the chunks and would hand
/// over what is below them), and a length beside chunks. To be asked before hop-by-hop fields go.
pub fn readable(headers: &HeaderMap, asked: &HeaderMap, plain: bool) -> Result<Option<Coding>, Unacceptable> {
    if !only(headers, &TRANSFER_ENCODING, b"chunked") {
        return Err(Unacceptable::TransferCoding);
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(Unacceptable::TwoEnds);
    }
    if only(headers, &CONTENT_ENCODING, b"identity") {
        return Ok(None);
    }
    let mut fields = headers.get_all(CONTENT_ENCODING).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return Err(Unacceptable::ContentCoding) };
    Coding::named(field.as_bytes().trim_ascii())
        .filter(|coding| was_asked(asked, plain, *coding))
        .map(Some)
        .ok_or(Unacceptable::ContentCoding)
}

/// Refuses a partial answer. For requests that went out without `Range`, be it that relay removed it.
pub fn whole_only(status: StatusCode, headers: &HeaderMap) -> Result<(), Unacceptable> {
    let byteranges = headers.get(CONTENT_TYPE).is_some_and(|value| {
        let kind = value.as_bytes().trim_ascii_start();
        kind.get(..20).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/byteranges"))
    });
    if status == StatusCode::PARTIAL_CONTENT || headers.contains_key(CONTENT_RANGE) || byteranges {
        return Err(Unacceptable::Partial);
    }
    Ok(())
}

fn only(headers: &HeaderMap, name: &HeaderName, wanted: &[u8]) -> bool {
    headers.get_all(name).iter().all(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(wanted))
    })
}
