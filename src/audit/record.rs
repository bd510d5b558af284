//! One record as a line of JSON, written by hand into a buffer that is used again.
//!
//! Twice per request on the hot path, so nothing is allocated. Whatever a text holds, it stays inside
//! its quotes and on its line: were that to break, a caller could write records of their own.

use std::io::Write as _;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Event;
use crate::clock;

/// A SHA-256 digest.
pub(super) type Hash = [u8; 32];

/// Bytes of one text at most; what is longer is cut at a character's boundary.
const LONGEST_TEXT: usize = 512;

/// Where a chain stands: its newest record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) chain: std::sync::Arc<str>,
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

pub(super) fn hash(bytes: &[u8]) -> Hash {
    to_hash(&digest::digest(&digest::SHA256, bytes))
}

fn to_hash(digest: &digest::Digest) -> Hash {
    digest.as_ref().try_into().unwrap_or_default()
}

pub(super) fn to_text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn from_text<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // The decoder refuses spare bits that are not zero, so there is one spelling per value.
    let len = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (len == N).then_some(bytes)
}

/// A running digest over the hashes of lines in the order in which they stand in the file.
#[derive(Clone)]
pub(super) struct Order(digest::Context);

impl Order {
    pub(super) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(super) fn add(&mut self, line: &Hash) {
        self.0.update(line);
    }

    pub(super) fn value(&self) -> Hash {
        to_hash(&self.0.clone().finish())
    }
}

/// RFC 3339 with milliseconds; the part before them is kept for as long as it holds.
#[derive(Default)]
pub(super) struct Stamp {
    second: u64,
    text: String,
}

impl Stamp {
    pub(super) fn write(&mut self, buffer: &mut Vec<u8>, unix_millis: u64) {
        let second = unix_millis / 1000;
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = clock::rfc3339(second);
            self.text.truncate(self.text.len().saturating_sub(1));
        }
        buffer.extend_from_slice(self.text.as_bytes());
        let millis = unix_millis % 1000;
        let digit = |n: u64| b'0' + u8::try_from(n % 10).unwrap_or(0);
        buffer.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
    }
}

/// Appends the members that every line begins with, without a closing brace.
pub(super) fn begin(buffer: &mut Vec<u8>, chain: &str, seq: u64, prev: &Hash, stamp: &mut Stamp) {
    buffer.extend_from_slice(b"{\"v\":1,\"chain\":\"");
    buffer.extend_from_slice(chain.as_bytes());
    buffer.extend_from_slice(b"\",\"seq\":");
    number(buffer, seq);
    buffer.extend_from_slice(b",\"prev\":\"");
    base64(buffer, prev);
    buffer.extend_from_slice(b"\",\"time\":\"");
    stamp.write(buffer, clock::unix_millis());
    buffer.extend_from_slice(b"\",\"kind\":\"");
}

/// A member's name as it stands between the one before and its value.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// Appends the event behind what [`begin`] wrote, up to the closing brace.
pub(super) fn finish(buffer: &mut Vec<u8>, event: &Event<'_>) {
    buffer.extend_from_slice(event.kind.as_str().as_bytes());
    buffer.push(b'"');
    id(buffer, name!("request_id"), event.request_id.map(|id| id.text()));
    text(buffer, name!("iss"), event.iss);
    text(buffer, name!("sub"), event.sub);
    text(buffer, name!("jti"), event.jti);
    text(buffer, name!("customer"), event.customer.map(|c| c.as_str()));
    id(buffer, name!("secret"), event.secret.map(|id| id.text()));
    whole(buffer, name!("version"), event.version.map(u64::from));
    text(buffer, name!("integration"), event.integration.map(|i| i.as_str()));
    text(buffer, name!("method"), event.method);
    text(buffer, name!("path"), event.path);
    text(buffer, name!("origin"), event.origin);
    whole(buffer, name!("status"), event.status.map(u64::from));
    text(buffer, name!("code"), event.code);
    whole(buffer, name!("bytes_in"), event.bytes_in);
    whole(buffer, name!("bytes_out"), event.bytes_out);
    if let Some(reflected) = event.reflected {
        buffer.extend_from_slice(name!("reflected").as_bytes());
        buffer.extend_from_slice(if reflected { b"true" } else { b"false" });
    }
    whole(buffer, name!("ms"), event.ms);
    text(buffer, name!("note"), event.note);
    buffer.push(b'}');
}

fn text(buffer: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        buffer.extend_from_slice(name.as_bytes());
        buffer.push(b'"');
        escape(buffer, cut(value));
        buffer.push(b'"');
    }
}

fn whole(buffer: &mut Vec<u8>, name: &str, value: Option<u64>) {
    if let Some(value) = value {
        buffer.extend_from_slice(name.as_bytes());
        number(buffer, value);
    }
}

/// A UUID's text needs no escaping.
fn id(buffer: &mut Vec<u8>, name: &str, value: Option<[u8; 36]>) {
    if let Some(value) = value {
        buffer.extend_from_slice(name.as_bytes());
        buffer.push(b'"');
        buffer.extend_from_slice(&value);
        buffer.push(b'"');
    }
}

pub(super) fn base64(buffer: &mut Vec<u8>, hash: &Hash) {
    let mut text = [0; 43];
    if URL_SAFE_NO_PAD.encode_slice(hash, &mut text).is_ok() {
        buffer.extend_from_slice(&text);
    }
}

pub(super) fn number(buffer: &mut Vec<u8>, mut value: u64) {
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        used += 1;
        if value == 0 {
            break;
        }
    }
    buffer.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Escapes what JSON must (RFC 8259 section 7), every other control character too, since operators read
/// this in terminals, and the two separators that some readers take for line ends.
fn escape(buffer: &mut Vec<u8>, text: &str) {
    // Without a way out in the middle, so that it is compiled to whole vectors.
    let harmless = |b: u8| (b.wrapping_sub(b' ') < 0x5f) & (b != b'"') & (b != b'\\');
    if text.bytes().fold(true, |so_far, b| so_far & harmless(b)) {
        buffer.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        match c {
            '"' => buffer.extend_from_slice(b"\\\""),
            '\\' => buffer.extend_from_slice(b"\\\\"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(buffer, "\\u{:04x}", u32::from(c));
            }
            c => buffer.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Kind;

    fn line(event: &Event<'_>) -> Vec<u8> {
        let mut buffer = Vec::new();
        begin(&mut buffer, "c-0", 1, &[0; 32], &mut Stamp::default());
        finish(&mut buffer, event);
        buffer
    }

    #[test]
    fn any_text_stays_inside_its_quotes_and_on_its_line() {
        let rows = [
            ("a quote ends the text", "a\"b"),
            ("a backslash swallows the closing quote", "a\\"),
            ("a line feed starts a record of the caller's own", "a\n{\"v\":1}"),
            ("an escape sequence reaches a terminal", "\u{1b}[2J\u{9b}2J\u{7f}\0"),
            ("a separator is taken for a line end", "a\u{2028}b\u{2029}c"),
            ("characters outside ASCII are kept", "käse 🧀"),
        ];
        for (mistake, value) in rows {
            let line = line(&Event { path: Some(value), ..Event::of(Kind::Intent) });
            assert!(!line.iter().any(|b| *b < b' ' || *b == 0x7f), "{mistake}");
            let read: serde_json::Value = serde_json::from_slice(&line).expect(mistake);
            assert_eq!(read.get("path").and_then(|p| p.as_str()), Some(value), "{mistake}");
        }
    }

    #[test]
    fn a_long_text_is_cut_where_a_character_ends() {
        let long = "€".repeat(400);
        let read: serde_json::Value =
            serde_json::from_slice(&line(&Event { path: Some(&long), ..Event::of(Kind::Intent) })).unwrap();
        assert_eq!(read.get("path").and_then(|p| p.as_str()).unwrap().len(), 510);
    }

    #[test]
    fn numbers_are_written_whole() {
        for value in [0, 7, 10, 1_000_000, u64::MAX] {
            let mut buffer = Vec::new();
            number(&mut buffer, value);
            assert_eq!(buffer, value.to_string().into_bytes());
        }
    }
}
