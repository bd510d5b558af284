//! The ways in which a text may be escaped, and how to read it without them.
//!
//! Each escape is read by itself, leniently: what is no escape of its kind stands for itself, so a text
//! that is escaped in part is read as well. What was found in the reading is traced back to where it
//! stands in the text. Both take one pass. What must never enter: the credential; a reading is the same
//! whatever is looked for.

use std::ops::Range;

use memchr::memchr;
use zeroize::Zeroizing;

/// How many digits a numeric entity may have: `&#x0000002F;`.
const DIGITS: usize = 8;

/// One way to escape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// `%2F` (RFC 3986 section 2.1).
    Percent,
    /// A space as `+`, in forms.
    Plus,
    /// `\u002F`, `\/` and the other short ones (RFC 8259 section 7), `\x2F`.
    Json,
    /// `&#47;`, `&#x2F;`, `&amp;`.
    Html,
    /// `=2F`, and soft line breaks (RFC 2045 section 6.7).
    Quoted,
    /// Two bytes per character, either order: the NULs are left out.
    Wide,
}

/// One escape: how long it is and what it stands for, at most one character.
struct Read {
    length: usize,
    bytes: [u8; 4],
    count: usize,
}

impl Read {
    fn byte(length: usize, byte: u8) -> Self {
        Self { length, bytes: [byte, 0, 0, 0], count: 1 }
    }

    fn character(length: usize, code: u32) -> Option<Self> {
        let mut bytes = [0; 4];
        let count = char::from_u32(code)?.encode_utf8(&mut bytes).len();
        Some(Self { length, bytes, count })
    }

    const fn nothing(length: usize) -> Self {
        Self { length, bytes: [0; 4], count: 0 }
    }
}

impl Escape {
    /// The byte that each escape of this kind begins with.
    pub(super) const fn sign(self) -> u8 {
        match self {
            Self::Percent => b'%',
            Self::Plus => b'+',
            Self::Json => b'\\',
            Self::Html => b'&',
            Self::Quoted => b'=',
            Self::Wide => 0,
        }
    }

    /// `text` without its escapes; `None` if it has none.
    pub(super) fn read(self, text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut view: Option<Zeroizing<Vec<u8>>> = None;
        let (mut at, mut copied) = (0, 0);
        while let Some(sign) = text.get(at..).and_then(|rest| memchr(self.sign(), rest)) {
            at += sign;
            let Some(read) = text.get(at..).and_then(|rest| self.one(rest)) else {
                at += 1;
                continue;
            };
            // A reading is never longer than its text, so this never grows.
            let view = view.get_or_insert_with(|| Zeroizing::new(Vec::with_capacity(text.len())));
            view.extend_from_slice(text.get(copied..at).unwrap_or(&[]));
            view.extend(read.bytes.iter().take(read.count));
            at += read.length;
            copied = at;
        }
        if let Some(view) = &mut view {
            view.extend_from_slice(text.get(copied..).unwrap_or(&[]));
        }
        view
    }

    /// Where in `text` the `found` places of its reading stand. `found` is sorted, and what
    /// touches was made one.
    pub(super) fn trace(self, text: &[u8], found: &[Range<usize>], into: &mut Vec<Range<usize>>) {
        let (mut at, mut read) = (0, 0);
        let mut found = found.iter();
        let Some(mut wanted) = found.next() else { return };
        let mut start = None;
        while at < text.len() {
            let rest = text.get(at..).unwrap_or(&[]);
            let here = if rest.first() == Some(&self.sign()) { self.one(rest) } else { None };
            let (length, count) = here.map_or((1, 1), |here| (here.length, here.count));
            let begun = read..read + count;
            if start.is_none() && begun.contains(&wanted.start) {
                start = Some(at);
            }
            at += length;
            read += count;
            if read >= wanted.end
                && let Some(from) = start.take()
            {
                into.push(from..at);
                let Some(next) = found.next() else { return };
                wanted = next;
            }
        }
    }

    /// The escape at the beginning of `rest`, which begins with the sign.
    fn one(self, rest: &[u8]) -> Option<Read> {
        match self {
            Self::Percent => pair(rest.get(1..3)?).map(|byte| Read::byte(3, byte)),
            Self::Plus => Some(Read::byte(1, b' ')),
            Self::Json => json(rest),
            Self::Html => html(rest),
            Self::Quoted => match rest {
                [_, b'\n', ..] => Some(Read::nothing(2)),
                [_, b'\r', b'\n', ..] => Some(Read::nothing(3)),
                _ => pair(rest.get(1..3)?).map(|byte| Read::byte(3, byte)),
            },
            Self::Wide => Some(Read::nothing(1)),
        }
    }
}

fn digit(byte: u8, radix: u32) -> Option<u32> {
    char::from(byte).to_digit(radix)
}

/// Two hexadecimal digits.
fn pair(digits: &[u8]) -> Option<u8> {
    u8::try_from(number(digits)?).ok()
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, byte| Some(number << 4 | digit(*byte, 16)?))
}

fn json(rest: &[u8]) -> Option<Read> {
    let short = |byte| Some(Read::byte(2, byte));
    match *rest.get(1)? {
        byte @ (b'"' | b'\\' | b'/' | b'\'') => short(byte),
        b'b' => short(8),
        b'f' => short(12),
        b'n' => short(b'\n'),
        b'r' => short(b'\r'),
        b't' => short(b'\t'),
        b'x' => Read::character(4, number(rest.get(2..4)?)?),
        b'u' => {
            let first = number(rest.get(2..6)?)?;
            if !(0xd800..0xdc00).contains(&first) {
                return Read::character(6, first);
            }
            let second = rest.get(6..8).filter(|sign| *sign == b"\\u").and_then(|_| rest.get(8..12));
            let second = number(second?).filter(|second| (0xdc00..0xe000).contains(second))?;
            Read::character(12, 0x1_0000 + ((first & 0x3ff) << 10 | second & 0x3ff))
        }
        _ => None,
    }
}

fn html(rest: &[u8]) -> Option<Read> {
    let Some(b'#') = rest.get(1) else { return named(rest) };
    let (radix, from) = if matches!(rest.get(2), Some(b'x' | b'X')) { (16, 3) } else { (10, 2) };
    let digits = rest.get(from..)?.iter().map_while(|byte| digit(*byte, radix)).take(DIGITS);
    let (count, code) = digits.fold((0, 0), |(count, code), digit| (count + 1, code * radix + digit));
    if count == 0 {
        return None;
    }
    // Browsers read it without its semicolon as well.
    let closed = usize::from(rest.get(from + count) == Some(&b';'));
    Read::character(from + count + closed, code)
}

/// Entities of the characters that a credential may hold.
const NAMED: [(&[u8], u8); 36] = [
    (b"amp", b'&'),
    (b"AMP", b'&'),
    (b"lt", b'<'),
    (b"LT", b'<'),
    (b"gt", b'>'),
    (b"GT", b'>'),
    (b"quot", b'"'),
    (b"QUOT", b'"'),
    (b"apos", b'\''),
    (b"sol", b'/'),
    (b"plus", b'+'),
    (b"equals", b'='),
    (b"lowbar", b'_'),
    (b"UnderBar", b'_'),
    (b"period", b'.'),
    (b"num", b'#'),
    (b"percnt", b'%'),
    (b"semi", b';'),
    (b"bsol", b'\\'),
    (b"colon", b':'),
    (b"excl", b'!'),
    (b"dollar", b'$'),
    (b"commat", b'@'),
    (b"quest", b'?'),
    (b"comma", b','),
    (b"lpar", b'('),
    (b"rpar", b')'),
    (b"lsqb", b'['),
    (b"rsqb", b']'),
    (b"lcub", b'{'),
    (b"rcub", b'}'),
    (b"ast", b'*'),
    (b"grave", b'`'),
    (b"Hat", b'^'),
    (b"verbar", b'|'),
    (b"vert", b'|'),
];

fn named(rest: &[u8]) -> Option<Read> {
    let behind = rest.get(1..)?;
    let length = behind.iter().take(9).take_while(|byte| byte.is_ascii_alphabetic()).count();
    let name = behind.get(..length)?;
    if behind.get(length) != Some(&b';') {
        return None;
    }
    let (_, byte) = NAMED.iter().find(|(known, _)| *known == name)?;
    Some(Read::byte(length + 2, *byte))
}

#[cfg(test)]
mod tests {
    use super::Escape::{self, Html, Json, Percent, Plus, Quoted, Wide};

    #[test]
    fn each_escape_is_read_and_what_is_none_stands_for_itself() {
        let rows: [(Escape, &str, Option<&str>, &str); 21] = [
            (Percent, "a%2Fb%2fc", Some("a/b/c"), "either case"),
            (Percent, "100% of %zz %4", None, "no escape"),
            (Percent, "%252F", Some("%2F"), "once only"),
            (Plus, "a+b", Some("a b"), "a form's space"),
            (Json, r#"\u002fa\/b\"c\\d"#, Some("/a/b\"c\\d"), "long and short"),
            (Json, r"\ud83d\ude00\u00fC", Some("\u{1f600}\u{fc}"), "beyond ASCII"),
            (Json, r"\ud83d\u0041 \q \u12", Some("\\ud83dA \\q \\u12"), "half a pair"),
            (Json, r"\x41", Some("A"), "JavaScript's"),
            (Html, "&#47;&#x2f;&#X2F;&#0000047;", Some("////"), "numbers"),
            (Html, "&#47&#x2fg", Some("//g"), "without a semicolon"),
            (Html, "&#x0000002F;&#00000047;", Some("//"), "as many zeros as `%08x` writes"),
            (Html, "&#000000047;", Some("\u{4}7;"), "more zeros than a few"),
            (Html, "&amp;&lt;&gt;&quot;&apos;&sol;", Some("&<>\"'/"), "names"),
            (Html, "a&b;&;&#;&#x;&ampersand;", None, "no entity"),
            (Html, "&#xffffff;", None, "no character"),
            (Quoted, "a=2Db=\r\nc=\nd=3d", Some("a-bcd="), "with soft breaks"),
            (Quoted, "a=b&c==", None, "no escape"),
            (Wide, "s\0k\0", Some("sk"), "the low byte first"),
            (Wide, "\0s\0k", Some("sk"), "the high byte first"),
            (Wide, "sk", None, "narrow"),
            (Percent, "", None, "nothing"),
        ];
        for (escape, text, wanted, mistake) in rows {
            let read = escape.read(text.as_bytes());
            let read = read.as_ref().map(|view| String::from_utf8_lossy(view).into_owned());
            assert_eq!(read.as_deref(), wanted, "{mistake}: {text}");
        }
    }

    #[test]
    fn what_was_found_in_a_reading_is_traced_back_to_the_text() {
        type Places = &'static [(usize, usize)];
        let rows: [(Escape, &str, Places, Places); 5] = [
            (Percent, "a%2Fb%2Fc", &[(1, 2), (3, 5)], &[(1, 4), (5, 9)]),
            (Percent, "a%2Fb", &[(0, 3)], &[(0, 5)]),
            (Quoted, "a=\r\nb", &[(1, 2)], &[(4, 5)]),
            (Wide, "\0s\0k\0", &[(0, 2)], &[(1, 4)]),
            (Json, "x\\u00fcyz", &[(1, 2), (4, 5)], &[(1, 7), (8, 9)]),
        ];
        for (escape, text, found, wanted) in rows {
            let ranges = |pairs: &[(usize, usize)]| pairs.iter().map(|(a, b)| *a..*b).collect::<Vec<_>>();
            let mut traced = Vec::new();
            escape.trace(text.as_bytes(), &ranges(found), &mut traced);
            assert_eq!(traced, ranges(wanted), "{text}");
        }
    }
}
