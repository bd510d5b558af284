//! The forms in which a credential is looked for, and how much of an answer must be held back for them.
//!
//! Each secret field and each rendered value counts as it stands, as base64 and as hexadecimal digits
//! (`exact`), and each of these also escaped in one way or in two, wholly or in part (`escape`), as far
//! as the content type can carry it ([`Content`]). A value under 8 bytes has no forms: it would be found
//! everywhere (it was stored with `scrub = "off_danger"`).
//!
//! # What a clean answer costs
//!
//! Each form of a token is an unbroken run of token characters and is at least as long as the shortest
//! value. So only each so-manyth byte of a text is looked at until a run is long enough; most answers have
//! none, and nothing is derived. This depends on lengths alone. A value with other bytes in it (a password
//! with `!` or a space) has no such runs, and every text is a candidate.
//!
//! # What is held back
//!
//! An answer comes in pieces, and a form may be cut anywhere. Whoever holds back exactly what could
//! still become the credential tells a guesser, byte by byte, whether the guess was right. So the end of
//! a piece is held back by rules that do not look at the credential:
//!
//! - a trailing run of token characters (letters, digits, `+ / = _ - % \ & # ; .`; where the content type
//!   can carry them also NUL and quoted-printable's soft line breaks), at most the longest form less one.
//!   A run beyond that goes out in steps of a fixed length, so that it is not searched once per byte;
//! - when a value itself contains another byte such a run could end inside of it: then every byte counts
//!   but control characters, and when it has even those, every byte. This tells the app one fixed thing
//!   about the secret's alphabet, the same for each answer and whatever the answer says; it tells nothing
//!   about a guess.
//!
//! What must never enter: partial matches, timers. Memory is wiped on drop.

use std::cell::OnceCell;
use std::ops::Range;

use zeroize::Zeroizing;

use super::content::Content;
use super::escape::Escape;
use super::exact::Exact;
use super::find::{Alike, Shape, occurrences};
use super::runs::{Run, Runs};

/// The shortest value that is looked for, in bytes.
pub const SHORTEST_VALUE: usize = 8;

/// The longest spelling of one byte that is found however it is cut: an entity with leading zeros, or
/// hexadecimal digits that JSON spells out.
const LONGEST_SPELLING: usize = 12;

/// How many escapes one upon the other are read: percent in JSON, percent twice.
const DEPTH: usize = 2;

/// What stands where a credential stood; cut, or drawn out with `*`, to the same length.
const MARKER: &[u8] = b"[redacted by relay]";

/// Every form of one credential. Alive for one request; cannot be printed or copied.
pub struct Forms {
    bytes: Zeroizing<Vec<u8>>,
    values: Vec<Value>,
    shortest: usize,
    /// The longest form in its longest spelling.
    spelled: usize,
    runs: Runs,
    content: Content,
    /// Whether a space is in it, which forms write as `+`.
    spaced: bool,
    run: Run,
    exact: OnceCell<Exact>,
}

struct Value {
    place: Range<usize>,
    shape: OnceCell<Shape>,
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
            values: Vec::new(),
            shortest: 0,
            spelled: 0,
            runs: Runs::of(Run::Token, Content::any()),
            content: Content::any(),
            spaced: false,
            run: Run::Token,
            exact: OnceCell::new(),
        };
        for value in secrets.into_iter().filter(|value| value.len() >= SHORTEST_VALUE) {
            forms.add(value);
        }
        let secrets = forms.values.len();
        for value in rendered {
            let value = token_of(value);
            let contains =
                |secret: &[u8]| value.ends_with(secret) || memchr::memmem::find(value, secret).is_some();
            let mut known = forms.values.iter().take(secrets).map(|known| forms.bytes_of(known));
            if value.len() >= SHORTEST_VALUE && !known.any(contains) {
                forms.add(value);
            }
        }
        forms.measure();
        forms
    }

    /// The same, for a text of which the content type is known.
    #[must_use]
    pub fn carried_by(mut self, content: Content) -> Self {
        self.content = content;
        self.runs = self.runs_in(content);
        self
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// More bytes than are ever held back: the longest form in its longest spelling, and one step; 0
    /// without forms.
    pub const fn longest(&self) -> usize {
        self.spelled + self.spelled / 4
    }

    /// Twice the longest value: what has to be kept of a text that is searched without holding back.
    pub(super) const fn longest_plain(&self) -> usize {
        self.spelled / LONGEST_SPELLING * 2
    }

    /// Overwrites every occurrence of every form by a marker of the same length. Says whether there
    /// was one.
    pub fn redact(&self, text: &mut [u8]) -> bool {
        let found = self.ranges(text);
        mark(text, &found, 0);
        !found.is_empty()
    }

    /// Where forms stand in `text`: sorted, those that overlap or touch made one.
    pub fn ranges(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if self.is_empty() {
            return found;
        }
        self.runs.each(text, self.shortest, |run| {
            let part = text.get(run.clone()).unwrap_or(&[]);
            let before = found.len();
            self.search(part, DEPTH, &mut found);
            for range in found.iter_mut().skip(before) {
                *range = range.start + run.start..range.end + run.start;
            }
        });
        merge(&mut found);
        found
    }

    /// Whether a form stands in a field's name, whatever its case.
    pub(super) fn named_in(&self, name: &str) -> bool {
        !self.is_empty() && self.named(name.as_bytes(), DEPTH)
    }

    /// How many bytes at the end of `before` followed by `last` must wait for what comes next. `before` is
    /// what waited so far.
    pub(super) fn held_back(&self, before: &[u8], last: &[u8]) -> usize {
        let Some(most) = self.spelled.checked_sub(1) else { return 0 };
        let run = self.runs.trailing(before, last, self.longest());
        if run < self.longest() { run } else { most }
    }

    fn named(&self, name: &[u8], depth: usize) -> bool {
        if name.len() < self.shortest {
            return false;
        }
        let raw = self.values.iter().map(|value| self.bytes_of(value));
        let stands =
            |value: &[u8]| name.windows(value.len()).any(|window| window.eq_ignore_ascii_case(value));
        raw.into_iter().any(stands)
            || self.exact().named_in(name)
            || (depth > 0
                && self
                    .escapes(name)
                    .any(|escape| escape.read(name).is_some_and(|reading| self.named(&reading, depth - 1))))
    }

    /// Adds where forms stand in `text` and in its readings.
    fn search(&self, text: &[u8], depth: usize, into: &mut Vec<Range<usize>>) {
        for value in &self.values {
            if value.place.len() <= text.len() {
                let bytes = self.bytes_of(value);
                let shape = *value.shape.get_or_init(|| Shape::of(bytes, Alike::Itself));
                occurrences(bytes, shape, text, into);
            }
        }
        // base64 makes four bytes of three; at an edge up to one character is left out.
        if text.len() + 1 >= self.shortest + self.shortest / 3 {
            self.exact().find(text, into);
        }
        if depth == 0 {
            return;
        }
        for escape in self.escapes(text) {
            let Some(reading) = escape.read(text).filter(|reading| reading.len() >= self.shortest) else {
                continue;
            };
            let mut found = Vec::new();
            self.search(&reading, depth - 1, &mut found);
            merge(&mut found);
            escape.trace(text, &found, into);
        }
    }

    /// The escapes that `text` may have.
    fn escapes<'t>(&self, text: &'t [u8]) -> impl Iterator<Item = Escape> + use<'t> {
        let common = memchr::memchr3(b'%', b'\\', b'&', text).is_some();
        let Content { html, quoted, wide } = self.content;
        [
            (Escape::Percent, common),
            (Escape::Json, common),
            (Escape::Html, common && html),
            (Escape::Quoted, quoted),
            (Escape::Wide, wide),
            (Escape::Plus, self.spaced),
        ]
        .into_iter()
        .filter(|(_, carried)| *carried)
        .map(|(escape, _)| escape)
        .filter(|escape| memchr::memchr(escape.sign(), text).is_some())
    }

    fn exact(&self) -> &Exact {
        self.exact.get_or_init(|| Exact::of(self.values.iter().map(|value| self.bytes_of(value))))
    }

    fn add(&mut self, value: &[u8]) {
        if self.values.iter().any(|known| self.bytes_of(known) == value) {
            return;
        }
        // A growing vector would leave its old place unwiped.
        let mut roomier = Zeroizing::new(Vec::with_capacity(self.bytes.len() + value.len()));
        roomier.extend_from_slice(&self.bytes);
        roomier.extend_from_slice(value);
        let place = self.bytes.len()..roomier.len();
        self.bytes = roomier;
        self.values.push(Value { place, shape: OnceCell::new() });
    }

    /// What depends on the values' lengths and alphabet.
    fn measure(&mut self) {
        let lengths = || self.values.iter().map(|value| value.place.len());
        // In UTF-16 a character of three bytes has two.
        let shortest = lengths().min().unwrap_or(0);
        self.shortest = if self.bytes.is_ascii() { shortest } else { shortest / 2 };
        self.spelled = lengths().max().unwrap_or(0) * LONGEST_SPELLING;
        self.spaced = memchr::memchr(b' ', &self.bytes).is_some();
        self.run = Run::of(&self.bytes);
        self.runs = self.runs_in(self.content);
    }

    fn runs_in(&self, content: Content) -> Runs {
        // Beyond ASCII, half of a wide character may be any byte.
        let run = if content.wide && !self.bytes.is_ascii() { Run::Any } else { self.run };
        Runs::of(run, content)
    }

    fn bytes_of(&self, value: &Value) -> &[u8] {
        self.bytes.get(value.place.clone()).unwrap_or(&[])
    }
}

fn merge(found: &mut Vec<Range<usize>>) {
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

/// The token of `scheme token`; anything else whole.
fn token_of(rendered: &[u8]) -> &[u8] {
    let Some(space) = memchr::memchr(b' ', rendered) else { return rendered };
    let (scheme, token) = rendered.split_at(space);
    let token = token.trim_ascii();
    let simple = scheme.iter().all(u8::is_ascii_alphanumeric) && !token.contains(&b' ');
    if simple { token } else { rendered }
}
