//! Runs of bytes that may belong to a form: the filter in front of every search, and the measure of what
//! waits.
//!
//! Which bytes count is one of a few fixed classes. What must never enter: a byte of the credential.

use std::ops::Range;

use super::content::Content;

/// Which bytes may belong to a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Run {
    /// Token characters.
    Token,
    /// Anything but control characters.
    Line,
    /// Anything.
    Any,
}

/// The runs of one class in one kind of content.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    run: Run,
    /// The kinds of bytes that count, as in [`KINDS`].
    kinds: u8,
    /// Whether a line break behind `=` counts.
    soft: bool,
}

/// Kinds of bytes.
const TOKEN: u8 = 1;
const LINE: u8 = 2;
const CONTROL: u8 = 4;
const NUL: u8 = 8;

impl Run {
    /// The smallest class that holds these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        match bytes.iter().fold(0, |kinds, byte| kinds | kind(*byte)) {
            0 | TOKEN => Self::Token,
            kinds if kinds & (CONTROL | NUL) == 0 => Self::Line,
            _ => Self::Any,
        }
    }
}

impl Runs {
    pub(super) const fn of(run: Run, content: Content) -> Self {
        let kinds = match run {
            Run::Token => TOKEN,
            Run::Line => TOKEN | LINE,
            Run::Any => TOKEN | LINE | CONTROL | NUL,
        };
        Self { run, kinds: if content.wide { kinds | NUL } else { kinds }, soft: content.quoted }
    }

    /// Calls `found` with every run of at least `shortest` bytes; of a class beyond tokens with the whole
    /// text. Where runs are short, only a few bytes of each stretch of `shortest` are looked at.
    pub(super) fn each(self, text: &[u8], shortest: usize, mut found: impl FnMut(Range<usize>)) {
        let Some(reach) = shortest.checked_sub(1) else { return };
        if self.run > Run::Token {
            if text.len() >= shortest {
                found(0..text.len());
            }
            return;
        }
        // What stands before `from` is no part of a run that has not been told.
        let mut from = 0;
        while from + reach < text.len() {
            let window = text.get(from..=from + reach).unwrap_or(&[]);
            let gap =
                window.iter().enumerate().rev().find(|(at, byte)| !self.counts(**byte, text, from + at));
            if let Some((at, _)) = gap {
                from += at + 1;
                continue;
            }
            let end = self.end(text, from + shortest);
            found(from..end);
            from = end + 1;
        }
    }

    /// Where the run ends that stands in `text` at `at`.
    fn end(self, text: &[u8], mut at: usize) -> usize {
        loop {
            let behind = text.get(at..).unwrap_or(&[]);
            let Some(more) = behind.iter().position(|byte| !self.plain(*byte)) else { return text.len() };
            at += more;
            if !text.get(at).is_some_and(|byte| self.counts(*byte, text, at)) {
                return at;
            }
            at += 1;
        }
    }

    /// How long the run at the end of `before` followed by `last` is, at most `most`. All of `before` is
    /// one run.
    pub(super) fn trailing(self, before: &[u8], last: &[u8], most: usize) -> usize {
        let byte = |back: usize| {
            let before_at = || before.len().checked_sub(back - last.len() + 1).and_then(|at| before.get(at));
            match last.len().checked_sub(back + 1) {
                Some(at) => last.get(at),
                None => before_at(),
            }
        };
        let most_here = most.min(last.len());
        let here = (0..most_here)
            .take_while(|back| match byte(*back) {
                Some(seen) if self.plain(*seen) => true,
                Some(seen) => self.soft(*seen, byte(back + 1), byte(back + 2)),
                None => false,
            })
            .count();
        let whole = here == last.len();
        most.min(here + if whole { before.len() } else { 0 })
    }

    fn counts(self, byte: u8, text: &[u8], at: usize) -> bool {
        let back = |by: usize| at.checked_sub(by).and_then(|at| text.get(at));
        self.plain(byte) || self.soft(byte, back(1), back(2))
    }

    fn plain(self, byte: u8) -> bool {
        kind(byte) & self.kinds != 0
    }

    /// Whether it is part of a soft line break, `=` and a line's end, by the two bytes in front of it.
    fn soft(self, byte: u8, before: Option<&u8>, further: Option<&u8>) -> bool {
        self.soft
            && match (byte, before) {
                (b'\r' | b'\n', Some(b'=')) => true,
                (b'\n', Some(b'\r')) => further == Some(&b'='),
                _ => false,
            }
    }
}

fn kind(byte: u8) -> u8 {
    KINDS.get(usize::from(byte)).copied().unwrap_or(CONTROL)
}

static KINDS: [u8; 256] = {
    let mut table = [CONTROL; 256];
    let (mut rest, mut byte) = (table.as_mut_slice(), 0_u8);
    while let [first, behind @ ..] = rest {
        *first = kind_of(byte);
        byte = byte.wrapping_add(1);
        rest = behind;
    }
    table
};

const fn kind_of(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => TOKEN,
        b'+' | b'/' | b'=' | b'_' | b'-' | b'%' | b'\\' | b'&' | b'#' | b';' | b'.' => TOKEN,
        0 => NUL,
        1..=0x1f | 0x7f => CONTROL,
        _ => LINE,
    }
}
