//! How HTTP/1.1 is framed (RFC 9112), read strictly and in one way, for both sides: what apps send and what
//! vendors answer.
//!
//! Where two programs could disagree about where a line, a field or a chunk ends, there is a [`Flaw`] and no
//! second reading: no bare LF, no folded line, no space round a name, no length that is more than digits.
//! What must never enter: a decision about what happens then, and anything but bytes.

mod chunks;

pub use chunks::Chunks;

/// Longest name of a field.
const NAME_BYTES: usize = 1024;

/// Why bytes cannot be read in one way alone. The text quotes none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Flaw(pub &'static str);

/// A field line's two sides; the value without the white space round it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as it was written.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// Takes the line's CRLF away; `line` ends in LF.
///
/// # Errors
/// If it ends in LF alone.
pub fn line(line: &[u8]) -> Result<&[u8], Flaw> {
    line.strip_suffix(b"\r\n").ok_or(Flaw("A line ends in LF without CR."))
}

/// A field's line, without its CRLF (RFC 9112 section 5).
///
/// # Errors
/// A folded line, a name that is no token or has a space at its end, a control byte in the value.
pub fn field(line: &[u8]) -> Result<Field<'_>, Flaw> {
    let end = line.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    match (name.len(), rest.split_first()) {
        (0, Some((b' ' | b'\t', _))) => return Err(Flaw("A field's line begins with white space.")),
        (0, _) => return Err(Flaw("A field has no name.")),
        (1..=NAME_BYTES, Some((b':', value))) => {
            if value.iter().fold(false, |odd, byte| odd | is_control(*byte)) {
                return Err(Flaw("A field's value holds a control byte."));
            }
            return Ok(Field { name, value: trimmed(value) });
        }
        (1..=NAME_BYTES, None) => return Err(Flaw("A field's line has no colon.")),
        (1..=NAME_BYTES, Some((b' ' | b'\t', _))) => {
            return Err(Flaw("White space stands behind a field's name."));
        }
        (1..=NAME_BYTES, Some(_)) => return Err(Flaw("A field's name is not a token.")),
        _ => {}
    }
    Err(Flaw("A field's name is too long."))
}

/// Content-Length: decimal digits and nothing else (RFC 9110 section 8.6).
///
/// # Errors
/// Anything else: signs, spaces, lists, more than 19 digits.
pub fn length(value: &[u8]) -> Result<u64, Flaw> {
    if !(1..=19).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return Err(Flaw("Content-Length is not a decimal number of 1 to 19 digits."));
    }
    // Nineteen digits fit.
    Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// Whether a byte may stand in a method or a field's name (RFC 9110 section 5.6.2).
pub fn is_token_byte(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).copied().unwrap_or(false)
}

/// Whether a byte is a control byte, but for the tab.
pub const fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') | (byte == 0x7f)
}

// The compiler fills it, and sees every index.
#[allow(clippy::indexing_slicing)]
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

/// Without spaces and tabs at either end.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let Some((b' ' | b'\t', rest)) = value.split_first() {
        value = rest;
    }
    while let Some((b' ' | b'\t', rest)) = value.split_last() {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_in_one_way_or_not_at_all() {
        let rows: [(&[u8], &[u8], &[u8]); 5] = [
            (b"a:b", b"a", b"b"),
            (b"A-1: \t b c\t ", b"A-1", b"b c"),
            (b"x:", b"x", b""),
            (b"x:y:z", b"x", b"y:z"),
            (b"x: \xe9", b"x", b"\xe9"),
        ];
        for (bytes, name, value) in rows {
            assert_eq!(field(bytes), Ok(Field { name, value }));
        }
        let long = [vec![b'a'; NAME_BYTES + 1], b": b".to_vec()].concat();
        let flaws: [&[u8]; 13] = [
            b"",
            b":",
            b": b",
            b" a: b",
            b"\ta: b",
            b"a : b",
            b"a\t: b",
            b"a b: c",
            b"a",
            b"a\x00: b",
            b"a: \r b",
            b"a: \x7f",
            &long,
        ];
        for bytes in flaws {
            assert!(field(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_length_is_digits() {
        assert_eq!(length(b"0"), Ok(0));
        assert_eq!(length(b"9999999999999999999"), Ok(9_999_999_999_999_999_999));
        for text in ["", "+5", "-1", "0x5", "5,5", "5 5", "5.0", "10000000000000000000", "\u{0665}"] {
            assert!(length(text.as_bytes()).is_err(), "{text}");
        }
    }
}
