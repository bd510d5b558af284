//! Parameters of a query or of a form body, found by what their names mean.
//!
//! A name counts as vendors may read it: percent-decoded once or twice, `+` as a space, parted by `&` or `;`.
//! What is not looked for stays byte for byte. What must never enter: a credential.

/// The values, as they are written, of the parameters that are named `name`.
pub fn values<'a>(text: &'a [u8], name: &str) -> impl Iterator<Item = &'a [u8]> {
    pieces(text).filter(move |piece| is_named(piece, name)).map(|piece| {
        let name = memchr::memchr(b'=', piece).unwrap_or(piece.len());
        piece.get(name + 1..).unwrap_or_default()
    })
}

/// `text` without the parameters that have one of these names.
pub fn without(text: &[u8], names: &[&str]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(text.len());
    let (mut at, mut is_first) = (0_usize, true);
    for piece in pieces(text) {
        let separator = at.checked_sub(1).and_then(|before| text.get(before));
        at += piece.len() + 1;
        if names.iter().any(|name| is_named(piece, name)) {
            continue;
        }
        if !is_first {
            kept.extend(separator);
        }
        is_first = false;
        kept.extend_from_slice(piece);
    }
    kept
}

fn pieces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b'&' | b';'))
}

fn is_named(piece: &[u8], name: &str) -> bool {
    let written = piece.split(|byte| *byte == b'=').next().unwrap_or_default();
    if written == name.as_bytes() {
        return true;
    }
    if !written.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return false;
    }
    let once = decoded(written);
    once == name.as_bytes() || decoded(&once) == name.as_bytes()
}

/// As `application/x-www-form-urlencoded` decodes; a `%` that begins no escape stands for itself.
pub fn decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, behind @ ..] = rest {
        let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let escaped = digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        rest = behind;
        match (byte, escaped) {
            (b'%', Some(meant)) => {
                decoded.push(meant);
                rest = behind.get(2..).unwrap_or_default();
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(*byte),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_however_its_name_is_written() {
        let rows = [
            ("api_key=x", "", "alone"),
            ("a=1&api_key=x", "a=1", "at the end"),
            ("api_key=x&a=1", "a=1", "at the beginning"),
            ("a=1&api_key=x&b=2", "a=1&b=2", "in the middle"),
            ("api%5Fkey=x&api%5fke%79=y&a", "a", "escaped"),
            ("a&api%255Fkey=x", "a", "escaped twice"),
            ("a;api_key=x;b", "a;b", "parted by semicolons"),
            ("a=1&api_key", "a=1", "without a value"),
            ("api_key=a=b", "", "with two equal signs"),
            ("&&api_key=x&", "&&", "beside empty pieces"),
            (
                "x_api_key=1&api_keys=2&API_KEY=3&q=api_key",
                "x_api_key=1&api_keys=2&API_KEY=3&q=api_key",
                "others",
            ),
            ("q=%zz&r=a+b%20c", "q=%zz&r=a+b%20c", "byte for byte"),
        ];
        for (text, wanted, mistake) in rows {
            let kept = without(text.as_bytes(), &["api_key"]);
            assert_eq!(String::from_utf8_lossy(&kept), wanted, "{mistake}");
        }
        let found: Vec<_> = values(b"a=1&k%65y=2;key=3=4&key", "key").collect();
        assert_eq!(found, [&b"2"[..], b"3=4", b""]);
    }
}
