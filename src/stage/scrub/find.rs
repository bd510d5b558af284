//! Where a form stands in a text: every occurrence, overlapping ones too, in linear time.
//!
//! Nothing is built per form beyond two positions, because forms live for one request. A clean text is
//! passed over at memchr's speed by the form's rarest byte. Once there is a hit, or once the rare byte
//! turns out to be common, the rest is read by Knuth, Morris and Pratt's method, whose cost does not
//! depend on what vendor and credential have in common; without it a credential of 64 KiB `a`s and an
//! answer of `a`s would stop a worker. No copy of a form is made here, so none has to be wiped.

use std::ops::Range;

use memchr::{memchr_iter, memchr2_iter};
use zeroize::Zeroizing;

/// Among how many first bytes of a form the rare ones are chosen.
const LOOKED_AT: usize = 16;

/// How a form is looked for.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Where its rarest byte stands.
    rare: usize,
    /// Where its next rare one does.
    second: usize,
    alike: Alike,
}

/// Which bytes of a text count as the same as a form's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Alike {
    /// That byte only.
    Itself,
    /// `-` and `_` also count as `+` and `/`: base64 in either alphabet.
    Base64,
    /// Upper case also counts as lower case: hexadecimal digits.
    Hexadecimal,
}

impl Shape {
    /// How to look for `form`, which is written in the standard alphabet, or in lower case.
    pub(super) fn of(form: &[u8], alike: Alike) -> Self {
        let (mut rare, mut second) = ((0, 0), (0, 0));
        for (at, &byte) in form.iter().enumerate().take(LOOKED_AT) {
            let found = (RARITY.get(usize::from(byte)).copied().unwrap_or(0), at);
            if found.0 > rare.0 || at == 0 {
                (rare, second) = (found, rare);
            } else if found.0 > second.0 || second.1 == rare.1 {
                second = found;
            }
        }
        // Most base64 has neither `+` nor `/`, and is then compared as it stands.
        let plain = alike == Alike::Base64 && memchr::memchr2(b'+', b'/', form).is_none();
        Self { rare: rare.1, second: second.1, alike: if plain { Alike::Itself } else { alike } }
    }

    /// The other byte that counts as `wanted`, or `wanted`.
    const fn twin(self, wanted: u8) -> u8 {
        match (self.alike, wanted) {
            (Alike::Base64, b'+') => b'-',
            (Alike::Base64, b'/') => b'_',
            (Alike::Hexadecimal, b'a'..=b'f') => wanted.to_ascii_uppercase(),
            _ => wanted,
        }
    }

    fn same(self, seen: u8, wanted: u8) -> bool {
        seen == wanted || seen == self.twin(wanted)
    }

    fn stands(self, seen: &[u8], form: &[u8]) -> bool {
        if self.alike == Alike::Itself {
            seen == form
        } else {
            seen.len() == form.len() && seen.iter().zip(form).all(|(s, w)| self.same(*s, *w))
        }
    }
}

/// Adds where `form` stands in `text`, in order; occurrences that overlap or touch become one range.
pub(super) fn occurrences(form: &[u8], shape: Shape, text: &[u8], into: &mut Vec<Range<usize>>) {
    if let Some(from) = first(form, shape, text) {
        all_from(form, shape, text, from, into);
    }
}

/// The first occurrence; or the place from where on it is cheaper to read byte by byte.
fn first(form: &[u8], shape: Shape, text: &[u8]) -> Option<usize> {
    let rare = *form.get(shape.rare)?;
    let last = text.len().checked_sub(form.len())?;
    let field = text.get(shape.rare..=last + shape.rare)?;
    let twin = shape.twin(rare);
    if twin == rare {
        among(memchr_iter(rare, field), form, shape, text)
    } else {
        among(memchr2_iter(rare, twin, field), form, shape, text)
    }
}

fn among(starts: impl Iterator<Item = usize>, form: &[u8], shape: Shape, text: &[u8]) -> Option<usize> {
    let second = *form.get(shape.second)?;
    let mut spent = 0;
    for start in starts {
        // What failed candidates cost may not outgrow the text that was passed over.
        if spent > 4096 + start {
            return Some(start);
        }
        spent += 8;
        if text.get(start + shape.second).is_some_and(|&seen| shape.same(seen, second)) {
            spent += 16 + form.len() / 32;
            if text.get(start..start + form.len()).is_some_and(|seen| shape.stands(seen, form)) {
                return Some(start);
            }
        }
    }
    None
}

/// Knuth, Morris, Pratt from `from` to the end.
fn all_from(form: &[u8], shape: Shape, text: &[u8], from: usize, into: &mut Vec<Range<usize>>) {
    let borders = borders(form);
    let shorter = |len: usize| len.checked_sub(1).and_then(|at| borders.get(at)).copied().unwrap_or(0);
    let own = into.len();
    let mut matched = 0;
    for (at, &seen) in text.iter().enumerate().skip(from) {
        while matched > 0 && !form.get(matched).is_some_and(|&wanted| shape.same(seen, wanted)) {
            matched = shorter(matched);
        }
        if form.get(matched).is_some_and(|&wanted| shape.same(seen, wanted)) {
            matched += 1;
        }
        if matched == form.len() {
            let (start, end) = (at + 1 - matched, at + 1);
            match into.get_mut(own..).and_then(<[_]>::last_mut) {
                Some(before) if before.end >= start => before.end = end,
                _ => into.push(start..end),
            }
            matched = shorter(matched);
        }
    }
}

/// For each prefix of `form`, how long its longest proper prefix is that is also its suffix.
fn borders(form: &[u8]) -> Zeroizing<Vec<usize>> {
    let mut borders = Zeroizing::new(Vec::with_capacity(form.len()));
    let mut len: usize = 0;
    for (at, byte) in form.iter().enumerate() {
        while len > 0 && form.get(len) != Some(byte) {
            len = borders.get(len - 1).copied().unwrap_or(0);
        }
        if at > 0 && form.get(len) == Some(byte) {
            len += 1;
        }
        borders.push(len);
    }
    borders
}

/// [`rarity`] of each byte.
static RARITY: [u8; 256] = {
    let mut table = [0; 256];
    let (mut rest, mut byte) = (table.as_mut_slice(), 0_u8);
    while let [first, behind @ ..] = rest {
        *first = rarity(byte);
        byte = byte.wrapping_add(1);
        rest = behind;
    }
    table
};

/// How rare a byte is in what vendors send (JSON, HTML, English), coarsely. Only speed hangs on it.
const fn rarity(byte: u8) -> u8 {
    match byte {
        // The two that have a twin in the other base64 alphabet need a slower search.
        b'+' | b'/' => 0,
        0 | b' ' | b'"' | b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' | b'l' => 1,
        b'd' | b'c' | b'u' | b'm' | b'p' | b'h' | b'g' | b'0' | b'1' | b':' | b',' | b'\n' => 2,
        b'f' | b'y' | b'b' | b'w' | b'v' | b'k' | b'2'..=b'9' | b'_' | b'-' | b'.' => 3,
        b'j' | b'x' | b'{' | b'}' | b'=' | b'<' | b'>' | b'A' | b'C' | b'E' | b'I' | b'S' | b'T' => 4,
        b'J' | b'K' | b'Q' | b'V' | b'W' | b'X' | b'Y' | b'Z' => 6,
        b'q' | b'z' | b'A'..=b'Z' => 5,
        _ => 7,
    }
}
