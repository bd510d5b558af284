//! The forms in which a credential is looked for, and how much of an answer must be held back for them.
//!
//! Each secret field and each rendered value counts as it stands and as base64, in either alphabet and
//! at each of the three alignments. Of base64 only those characters belong to a form that the value
//! alone decides; the one at each edge that it shares with its neighbours is left out. A value under
//! 8 bytes has no forms: it would be found everywhere (it was stored with `scrub = "off_danger"`).
//!
//! # What is held back
//!
//! An answer comes in pieces, and a form may be cut anywhere. Whoever holds back exactly what could
//! still become the credential tells a guesser, byte by byte, whether the guess was right. So the end of
//! a piece is held back by rules that do not look at the credential:
//!
//! - a trailing run of token characters (letters, digits, `+ / = _ - % \ & # ; .`), at most the longest
//!   form less one;
//! - when a form itself contains another byte (a password with `!` or a space) such a run could end
//!   inside of it: then every byte counts but control characters, and when a form has even those, every
//!   byte. This tells the app one fixed thing about the secret's alphabet, the same for each answer and
//!   whatever the answer says; it tells nothing about a guess.
//!
//! What must never enter: partial matches, timers. Memory is wiped on drop.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use super::find::{Shape, occurrences};

/// The shortest value that is looked for, in bytes.
pub const SHORTEST_VALUE: usize = 8;

/// What stands where a credential stood; cut, or drawn out with `*`, to the same length.
const MARKER: &[u8] = b"[redacted by relay]";

/// Every form of one credential. Alive for one request; cannot be printed or copied.
pub struct Forms {
    bytes: Zeroizing<Vec<u8>>,
    forms: Vec<Form>,
    shortest: usize,
    longest: usize,
    run: Run,
}

struct Form {
    place: Range<usize>,
    shape: Shape,
}

/// Which bytes may belong to a form, as far as the hold-back knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Run {
    /// Token characters.
    Token,
    /// Anything but control characters.
    Line,
    /// Anything.
    Any,
}

impl Forms {
    /// The forms of the `secrets` (plaintext of the fields declared secret) and of the `rendered` values
    /// that the vendor got. Of a rendered `scheme token` (RFC 9110 section 11.4) the token counts. A
    /// rendered value that contains a secret as it stands adds nothing and is passed over.
    pub fn of<'a>(
        secrets: impl IntoIterator<Item = &'a [u8]>,
        rendered: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let mut forms = Self {
            bytes: Zeroizing::new(Vec::new()),
            forms: Vec::with_capacity(4),
            shortest: 0,
            longest: 0,
            run: Run::Token,
        };
        let mut raw = Vec::with_capacity(2);
        for value in secrets.into_iter().filter(|value| value.len() >= SHORTEST_VALUE) {
            raw.push(value);
            forms.add(value);
        }
        for value in rendered {
            let value = token_of(value);
            let contains =
                |secret: &[u8]| value.ends_with(secret) || memchr::memmem::find(value, secret).is_some();
            if value.len() >= SHORTEST_VALUE && !raw.iter().any(|secret| contains(secret)) {
                forms.add(value);
            }
        }
        forms
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// The length of the longest form in bytes; 0 without forms.
    pub const fn longest(&self) -> usize {
        self.longest
    }

    /// Overwrites every occurrence of every form by a marker of the same length. Says whether there
    /// was one.
    pub fn redact(&self, text: &mut [u8]) -> bool {
        let found = self.ranges(text);
        mark(text, &found, 0);
        !found.is_empty()
    }

    /// Where forms stand in `text`: sorted, those that overlap or touch made one.
    pub(super) fn ranges(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if text.len() < self.shortest {
            return found;
        }
        for form in &self.forms {
            occurrences(self.bytes_of(form), form.shape, text, &mut found);
        }
        if found.len() > 1 {
            found.sort_unstable_by_key(|range| range.start);
            found.dedup_by(|next, kept| {
                let meets = next.start <= kept.end;
                if meets {
                    kept.end = kept.end.max(next.end);
                }
                meets
            });
        }
        found
    }

    /// Whether a form stands in a field's name, whatever its case.
    pub(super) fn named_in(&self, name: &str) -> bool {
        name.len() >= self.shortest
            && self.forms.iter().map(|form| self.bytes_of(form)).any(|form| {
                !form.is_empty() && name.as_bytes().windows(form.len()).any(|w| w.eq_ignore_ascii_case(form))
            })
    }

    /// How many bytes at the end of `before` followed by `last` must wait for what comes next.
    pub(super) fn held_back(&self, before: &[u8], last: &[u8]) -> usize {
        let most = self.longest.saturating_sub(1);
        let tail = last.iter().rev().chain(before.iter().rev());
        tail.take(most).take_while(|byte| self.run >= run_of(**byte)).count()
    }

    fn add(&mut self, value: &[u8]) {
        self.make_room(5 * value.len() + 8);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.keep(start, false);
        for byte in value {
            self.run = self.run.max(run_of(*byte));
        }
        let [first, second, ..] = *value else { return };
        self.add_base64(&[], value);
        self.add_base64(&[(first & 0x0f) << 2 | second >> 6, second & 0x3f], value.get(2..).unwrap_or(&[]));
        self.add_base64(&[first & 0x3f], value.get(1..).unwrap_or(&[]));
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
        self.keep(start, true);
    }

    /// Makes a form of what was written from `start` on, unless there is the same already.
    fn keep(&mut self, start: usize, base64: bool) {
        let new = self.bytes.get(start..).unwrap_or(&[]);
        if new.is_empty() || self.forms.iter().any(|form| self.bytes_of(form) == new) {
            self.bytes.truncate(start);
            return;
        }
        let form = Form { place: start..self.bytes.len(), shape: Shape::of(new, base64) };
        self.longest = self.longest.max(new.len());
        self.shortest = if self.forms.is_empty() { new.len() } else { self.shortest.min(new.len()) };
        self.forms.push(form);
    }

    /// Room for `more` bytes. A growing vector would leave its old place unwiped.
    fn make_room(&mut self, more: usize) {
        let mut roomier = Zeroizing::new(Vec::with_capacity(self.bytes.len() + more));
        roomier.extend_from_slice(&self.bytes);
        self.bytes = roomier;
    }

    fn bytes_of(&self, form: &Form) -> &[u8] {
        self.bytes.get(form.place.clone()).unwrap_or(&[])
    }
}

/// Overwrites `ranges` of `text`. `before` is how many overwritten bytes stand directly in front of it,
/// so that a range cut in two reads like one.
pub(super) fn mark(text: &mut [u8], ranges: &[Range<usize>], before: usize) {
    for range in ranges {
        let offset = if range.start == 0 { before } else { 0 };
        let marker = MARKER.iter().chain(std::iter::repeat(&b'*')).skip(offset.min(MARKER.len()));
        if let Some(place) = text.get_mut(range.clone()) {
            place.iter_mut().zip(marker).for_each(|(byte, mark)| *byte = *mark);
        }
    }
}

const fn run_of(byte: u8) -> Run {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => Run::Token,
        b'+' | b'/' | b'=' | b'_' | b'-' | b'%' | b'\\' | b'&' | b'#' | b';' | b'.' => Run::Token,
        0..=0x1f | 0x7f => Run::Any,
        _ => Run::Line,
    }
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

/// The token of `scheme token`; anything else whole.
fn token_of(rendered: &[u8]) -> &[u8] {
    let Some(space) = memchr::memchr(b' ', rendered) else { return rendered };
    let (scheme, token) = rendered.split_at(space);
    let token = token.trim_ascii();
    let simple = scheme.iter().all(u8::is_ascii_alphanumeric) && !token.contains(&b' ');
    if simple { token } else { rendered }
}
