//! The forms that are searched byte by byte: a value as it stands, as base64 and as hexadecimal digits.
//!
//! base64 in either alphabet and at each of the three alignments, hexadecimal digits in either case, mixed
//! too; beyond ASCII also the value in UTF-16, either order. Of base64 only those characters belong to a
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
        let room = values.clone().map(|value| 10 * value.len() + 16).sum();
        let mut exact =
            Self { bytes: Zeroizing::new(Vec::with_capacity(room)), forms: Vec::with_capacity(5) };
        for value in values {
            exact.add(value);
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

    fn add(&mut self, value: &[u8]) {
        let [first, second, ..] = *value else { return };
        self.add_base64(&[], value);
        self.add_base64(&[(first & 0x0f) << 2 | second >> 6, second & 0x3f], value.get(2..).unwrap_or(&[]));
        self.add_base64(&[first & 0x3f], value.get(1..).unwrap_or(&[]));
        let start = self.bytes.len();
        for byte in value {
            self.bytes.extend([hexadecimal(byte >> 4), hexadecimal(byte & 0x0f)]);
        }
        self.keep(start, Alike::Hexadecimal);
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
