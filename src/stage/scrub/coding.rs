//! What cannot be read cannot be scrubbed: compressed and partial answers are refused.
//!
//! relay asks vendors for `identity` and for whole bodies. A vendor that sends something else all the
//! same gets no benefit of the doubt: a compressed credential has no form that is known here, and two
//! ranges asked for apart would carry it in two halves. relay never decompresses an answer.

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING,
};
use http::{HeaderName, StatusCode};

/// Why an answer's body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// A content coding other than `identity` (RFC 9110 section 8.4).
    #[error("the answer has a content coding although identity was asked for")]
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

/// Refuses every coding but `identity`, and every transfer coding but `chunked` (hyper takes off only
/// the chunks and would hand over what is below them), and a length beside chunks. To be asked before hop-by-hop fields go.
pub fn identity_only(headers: &HeaderMap) -> Result<(), Unacceptable> {
    if !only(headers, &CONTENT_ENCODING, b"identity") {
        return Err(Unacceptable::ContentCoding);
    }
    if !only(headers, &TRANSFER_ENCODING, b"chunked") {
        return Err(Unacceptable::TransferCoding);
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(Unacceptable::TwoEnds);
    }
    Ok(())
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
