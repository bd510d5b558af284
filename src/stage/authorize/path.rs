//! Which paths relay forwards at all.
//!
//! A path is checked and sent as the same bytes, so whatever a vendor could read in two ways is refused:
//! dot segments however encoded, backslashes, control bytes, what is not ASCII. Nothing is normalised.

use crate::config::placement::Segment;
use crate::config::rule::decoded;
use crate::refusal::{Code, Refusal};
use crate::stage::authenticate::Token;
use crate::stage::route::Matched;

/// Checks the vendor's path and query as they came, without what stands where a credential will.
///
/// # Errors
/// `path_refused`, saying what is wrong with it.
pub(super) fn check(matched: &Matched, token: &Token) -> Result<(), Refusal> {
    let refuse = |why: &'static str| Err(Refusal::new(Code::PathRefused, why));
    if matched.lacks_slot() {
        return Err(Refusal::new(Code::PathRefused, unfit(matched)));
    }
    let (path, query) = (matched.rest(), matched.own_query());
    let query = query.as_deref();
    if !visible(path) || !query.is_none_or(visible) {
        return refuse("The path or query holds a byte that must be percent-encoded.");
    }
    let holds = |part: &str| {
        if !part.contains('%') {
            return token.stands_in(part.as_bytes());
        }
        let once = decoded(part);
        [part, &once, &decoded(&once)].iter().any(|part| token.stands_in(part.as_bytes()))
    };
    if holds(path) || query.is_some_and(holds) {
        return refuse("The path or query holds the caller token: it would reach the vendor.");
    }
    // It does not go out, but it comes back in links.
    if !matched.slot().is_empty() {
        if !visible(matched.slot()) {
            return refuse("The path holds a byte that must be percent-encoded.");
        }
        shape(matched.slot())?;
    }
    shape(path)
}

/// What a path has to begin with, said to someone whose path does not.
fn unfit(matched: &Matched) -> String {
    let mut wanted = String::new();
    for segment in matched.route().and_then(|route| route.path_placement()).unwrap_or_default() {
        wanted.push('/');
        match segment {
            Segment::Fixed(text) => wanted.push_str(text),
            Segment::Open(before, behind) => {
                wanted.push_str(before);
                wanted.push_str("KEY");
                wanted.push_str(behind);
            }
        }
    }
    format!(
        "This integration's paths begin with {wanted}: write them as the vendor does, with the caller token, or any text, for KEY."
    )
}

/// The path alone: nothing in it that could be read in two ways.
fn shape(path: &str) -> Result<(), Refusal> {
    let refuse = |why: &'static str| Err(Refusal::new(Code::PathRefused, why));
    if path.contains(['\\', '#']) {
        return refuse("The path holds a backslash or a #.");
    }
    for segment in path.split('/') {
        if !segment.contains(['%', '.']) {
            continue;
        }
        let (once, clean) = decode(segment.as_bytes());
        if !clean {
            return refuse("The path holds a % that is no percent-encoding.");
        }
        // Twice: a vendor behind a gateway of its own may decode again. A stray % is no error then, and stays.
        let (twice, _) = decode(&once);
        for decoded in [once.as_slice(), twice.as_slice()] {
            if decoded.split(|b| *b == b'/').any(is_dots) {
                return refuse("The path holds a dot segment, as such or encoded.");
            }
            if decoded.iter().any(|b| *b == b'\\' || b.is_ascii_control()) {
                return refuse("The path holds an encoded backslash or control byte.");
            }
        }
    }
    Ok(())
}

/// `..;x` is a dot segment to servers that cut path parameters off, `..?x` to those that read a decoded path as
/// a target once more, and `..` with a space behind it to those whose files' names cannot end in one.
fn is_dots(part: &[u8]) -> bool {
    let name = part.split(|b| matches!(b, b';' | b'?' | b'#')).next().unwrap_or_default().trim_ascii();
    name == b"." || name == b".."
}

fn visible(text: &str) -> bool {
    text.bytes().all(|b| (0x21..0x7f).contains(&b))
}

/// Percent-decoding (RFC 3986 section 2.1), and whether each % was followed by two hexadecimal digits; one that
/// is not stands for itself.
fn decode(bytes: &[u8]) -> (Vec<u8>, bool) {
    let (mut decoded, mut clean, mut rest) = (Vec::with_capacity(bytes.len()), true, bytes);
    while let [byte, behind @ ..] = rest {
        let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let escaped = digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        match escaped.filter(|_| *byte == b'%') {
            Some(meant) => {
                decoded.push(meant);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                clean &= *byte != b'%';
                decoded.push(*byte);
                rest = behind;
            }
        }
    }
    (decoded, clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let refused = [
            ("/a/../b", "a dot segment"),
            ("/./a", "a single dot"),
            ("/a/..", "at the end"),
            ("/%2e%2e/a", "encoded"),
            ("/.%2E/a", "half encoded"),
            ("/%252e%252e/a", "encoded twice"),
            ("/a%2f..%2fb", "behind an encoded slash"),
            ("/a%252f..%252fb", "behind a slash encoded twice"),
            ("/..;x/a", "with a path parameter"),
            ("/a%2f..;x/b", "with a path parameter, behind an encoded slash"),
            ("/a/..%3fb", "before an encoded question mark"),
            ("/a%252f..%253fb", "before one encoded twice"),
            ("/a/..%23b", "before an encoded #"),
            ("/a/..%20/b", "before a space, which some file systems drop"),
            ("/a/%20..", "behind a space"),
            ("/a..%2f..%2520", "before a space encoded twice"),
            ("/a%252f..%252f%25zz", "encoded twice, beside a % that is nothing"),
            ("/a\\b", "a backslash"),
            ("/a%5cb", "an encoded backslash"),
            ("/a%00b", "an encoded NUL"),
            ("/a%0d%0ab", "an encoded line break"),
            ("/a%250ab", "a line break encoded twice"),
            ("/a%7f", "DEL"),
            ("/a%zz", "no percent-encoding"),
            ("/a%4", "a cut percent-encoding"),
            ("/\u{e4}", "not ASCII"),
        ];
        for (path, mistake) in refused {
            assert!(!visible(path) || shape(path).is_err(), "{mistake}: {path}");
        }
        for path in [
            "",
            "/",
            "/a/b",
            "/a%2Fb",
            "/a%20b",
            "/%C3%A9",
            "/a.b/...",
            "/.well-known/x",
            "/a%25",
            "//a",
            "/a;b=c",
        ] {
            assert!(visible(path) && shape(path).is_ok(), "{path}");
        }
    }
}
