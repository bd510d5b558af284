//! What a field's value may be, so that it can stand in a header field (RFC 9110 section 5.5).
//!
//! One rule, asked twice: when a value is written and again before it enters a request, because a row may
//! be older than the rule. What must never enter: the value in an error.

use crate::model::Malformed;

/// The longest value of a field: 64 KiB.
pub const LONGEST_VALUE: usize = 64 * 1024;

/// The shortest value that is scrubbed: shorter ones would be found by chance everywhere.
pub const SHORTEST_SCRUBBED: usize = 8;

/// Checks a value: 1 byte to 64 KiB of 0x20 to 0x7e. A tab, a line break, NUL, DEL and bytes over 0x7f are
/// refused: each means something else to some parser on the way.
pub fn check_value(value: &[u8]) -> Result<(), Malformed> {
    if value.is_empty() {
        return Err(Malformed("it is empty"));
    }
    if value.len() > LONGEST_VALUE {
        return Err(Malformed("it is over 64 KiB"));
    }
    // Without a way out in the middle, so that it is compiled to whole vectors: asked on every request.
    if value.iter().fold(false, |so_far, byte| so_far | byte.is_ascii_control()) {
        return Err(Malformed("it has a line break, a NUL or another control byte in it"));
    }
    if !value.is_ascii() {
        return Err(Malformed("it has a byte outside ASCII in it, which a header cannot carry"));
    }
    Ok(())
}

/// Checks a value that is PEM (RFC 7468): a private key, which has lines. It never stands in a header: what is
/// put there is asked about by [`check_value`] again.
pub fn check_pem(value: &[u8]) -> Result<(), Malformed> {
    let lines = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\r');
    let framed = value.starts_with(b"-----BEGIN ") && value.trim_ascii_end().ends_with(b"-----");
    if framed && value.len() <= LONGEST_VALUE && value.iter().all(lines) {
        return Ok(());
    }
    Err(Malformed("it is not PEM"))
}
