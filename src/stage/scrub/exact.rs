//! The forms that are searched byte by byte: a value as it stands, as base64 and as hexadecimal digits.
//!
//! base64 in either alphabet and at each of the three alignments, hexadecimal digits in either case, mixed
//! too; beyond ASCII also the value in UTF-16, either order. A value that JSON, a URL or HTML writes otherwise
//! is also encoded as they write it whole, which is what base64 of a document holds. Of base64 only those characters belong to a
//! form that the value alone decides; the one at each edge that it shares with its neighbours is left out,
//! and so is padding. Made only when an answer holds a text that could be one; wiped on drop.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use super::find::{Alike, Shape, occurrences};

/// What the values are derived to. Cannot be printed or copied.
pub(super) struct Exact {
    bytes: Zeroizing<Vec<u8>>,
    forms: Vec<Form>,
}

struct Form {
    place: Range<usize>,
    shape: Shape,
}

impl Exact {
    /// Derives the forms of these values.
    pub(super) fn of<'a>(values: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        // Measured, because a growing vector would leave its old place unwiped.
        let room: usize = values.clone().map(|value| 10 * value.len() + 16 + spelled_room(value)).sum();
        let mut exact =
            Self { bytes: Zeroizing::new(Vec::with_capacity(room)), forms: Vec::with_capacity(5) };
        for value in values {
            exact.add(value);
            for spelling in SPELLINGS {
                if let Some(spelled) = spelling.of(value) {
                    exact.add_encoded(&spelled);
                }
            }
        }
        debug_assert!(exact.bytes.capacity() == room || room == 0, "the room was measured");
        exact
    }

    /// Adds where a form stands in `text`.
    pub(super) fn find(&self, text: &[u8], into: &mut Vec<Range<usize>>) {
        for form in &self.forms {
            if form.place.len() <= text.len() {
                occurrences(self.bytes_of(form), form.shape, text, into);
            }
        }
    }

    /// Whether a form stands in a field's name, whatever its case.
    pub(super) fn named_in(&self, name: &[u8]) -> bool {
        self.forms.iter().map(|form| self.bytes_of(form)).any(|form| {
            !form.is_empty() && name.windows(form.len()).any(|window| window.eq_ignore_ascii_case(form))
        })
    }

    fn add_encoded(&mut self, text: &[u8]) {
        let [first, second, ..] = *text else { return };
        self.add_base64(&[], text);
        self.add_base64(&[(first & 0x0f) << 2 | second >> 6, second & 0x3f], text.get(2..).unwrap_or(&[]));
        self.add_base64(&[first & 0x3f], text.get(1..).unwrap_or(&[]));
        let start = self.bytes.len();
        for byte in text {
            self.bytes.extend([hexadecimal(byte >> 4), hexadecimal(byte & 0x0f)]);
        }
        self.keep(start, Alike::Hexadecimal);
    }

    fn add(&mut self, value: &[u8]) {
        self.add_encoded(value);
        if !value.is_ascii()
            && let Ok(text) = std::str::from_utf8(value)
        {
            for order in [u16::to_le_bytes, u16::to_be_bytes] {
                let start = self.bytes.len();
                self.bytes.extend(text.encode_utf16().flat_map(order));
                self.keep(start, Alike::Itself);
            }
        }
    }

    /// The six-bit words `lead`, then `aligned` as far as it fills whole characters.
    fn add_base64(&mut self, lead: &[u8], aligned: &[u8]) {
        let start = self.bytes.len();
        let whole = aligned.len() * 8 / 6;
        self.bytes.extend(lead.iter().map(|word| base64_character(*word)));
        let body = self.bytes.len();
        self.bytes.resize(body + (aligned.len() * 8).div_ceil(6), 0);
        let written = self.bytes.get_mut(body..).map(|out| STANDARD_NO_PAD.encode_slice(aligned, out));
        debug_assert!(matches!(written, Some(Ok(_))), "the room was measured");
        self.bytes.truncate(body + whole);
        self.keep(start, Alike::Base64);
    }

    /// Makes a form of what was written from `start` on, unless there is the same already.
    fn keep(&mut self, start: usize, alike: Alike) {
        let new = self.bytes.get(start..).unwrap_or(&[]);
        if new.is_empty() || self.forms.iter().any(|form| self.bytes_of(form) == new) {
            self.bytes.truncate(start);
            return;
        }
        let form = Form { place: start..self.bytes.len(), shape: Shape::of(new, alike) };
        self.forms.push(form);
    }

    fn bytes_of(&self, form: &Form) -> &[u8] {
        self.bytes.get(form.place.clone()).unwrap_or(&[])
    }
}

/// How a document writes a whole value.
#[derive(Clone, Copy)]
enum Spelling {
    /// JSON's short escapes (RFC 8259 section 7).
    Json,
    /// The same, and `\/` as PHP writes it.
    JsonSlashes,
    /// The same as the first, and `\u0026`, `\u003c`, `\u003e` as Go writes them.
    JsonForHtml,
    /// All but unreserved characters as `%2F` (RFC 3986 section 2).
    Percent,
    /// The same in lower case.
    PercentLower,
    /// The same as the one before the last, a space as `+` (`application/x-www-form-urlencoded`).
    Form,
    /// `&amp;`, `&lt;`, `&gt;`, `&quot;`.
    Html,
}

const SPELLINGS: [Spelling; 7] = [
    Spelling::Json,
    Spelling::JsonSlashes,
    Spelling::JsonForHtml,
    Spelling::Percent,
    Spelling::PercentLower,
    Spelling::Form,
    Spelling::Html,
];

/// The most bytes that one byte becomes.
const MOST: usize = 6;

impl Spelling {
    /// The value as this writes it; `None` if that is the value itself.
    fn of(self, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if value.iter().all(|byte| self.keeps(*byte)) {
            return None;
        }
        let mut spelled = Zeroizing::new(Vec::with_capacity(value.len() * MOST));
        for byte in value {
            self.write(*byte, &mut spelled);
        }
        Some(spelled)
    }

    const fn keeps(self, byte: u8) -> bool {
        match self {
            Self::Json => !matches!(byte, b'"' | b'\\'),
            Self::JsonSlashes => !matches!(byte, b'"' | b'\\' | b'/'),
            Self::JsonForHtml => !matches!(byte, b'"' | b'\\' | b'&' | b'<' | b'>'),
            Self::Percent | Self::PercentLower | Self::Form => {
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
            }
            Self::Html => !matches!(byte, b'&' | b'<' | b'>' | b'"'),
        }
    }

    fn write(self, byte: u8, out: &mut Vec<u8>) {
        let (high, low) = (hexadecimal(byte >> 4), hexadecimal(byte & 0x0f));
        match (self, byte) {
            (_, byte) if self.keeps(byte) => out.push(byte),
            (Self::JsonForHtml, b'&' | b'<' | b'>') => out.extend([b'\\', b'u', b'0', b'0', high, low]),
            (Self::Json | Self::JsonSlashes | Self::JsonForHtml, byte) => out.extend([b'\\', byte]),
            (Self::Form, b' ') => out.push(b'+'),
            (Self::PercentLower, _) => out.extend([b'%', high, low]),
            (Self::Percent | Self::Form, _) => {
                out.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
            }
            (Self::Html, b'&') => out.extend(b"&amp;"),
            (Self::Html, b'<') => out.extend(b"&lt;"),
            (Self::Html, b'>') => out.extend(b"&gt;"),
            (Self::Html, _) => out.extend(b"&quot;"),
        }
    }
}

/// Room for what base64 at three alignments and hexadecimal digits make of every spelling.
fn spelled_room(value: &[u8]) -> usize {
    let each = |spelling: Spelling| spelling.of(value).map_or(0, |spelled| 6 * spelled.len() + 16);
    SPELLINGS.into_iter().map(each).sum()
}

const fn hexadecimal(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' + (digit - 10) }
}

const fn base64_character(word: u8) -> u8 {
    match word & 0x3f {
        word @ 0..=25 => b'A' + word,
        word @ 26..=51 => b'a' + (word - 26),
        word @ 52..=61 => b'0' + (word - 52),
        62 => b'+',
        _ => b'/',
    }
}
