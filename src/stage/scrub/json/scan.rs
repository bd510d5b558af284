//! JSON (RFC 8259) as it streams: which of its bytes are a whole string value.
//!
//! No tree and no recursion: a state, and a bit per open bracket. Texts behind one another are read too
//! (RFC 7464 and line-wise JSON). From the first byte on that is no JSON, or nested deeper than [`DEEPEST`], all
//! passes unread, because from there on a string cannot be told from a key. What must never enter: an
//! opinion about what a string says.

use bytes::Bytes;
use memchr::memchr2;

/// The longest string value that is looked at, with its quotes and escapes; a longer one passes unchanged.
pub const LONGEST: usize = 8 * 1024;

/// Brackets that may be open at once.
pub const DEEPEST: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// A value, or the end of an empty array.
    #[default]
    Value,
    /// A key, or the end of an empty object.
    Key,
    Colon,
    /// A comma, the end of what is open, or at the top another text.
    Next,
    InKey,
    /// In a string value that passes.
    InText,
    /// In a string value that may be a URL.
    InUrl,
    /// In a number or a word.
    InScalar,
    /// Not JSON.
    Torn,
}

/// Where in a text the reader is, and the string that is not whole yet.
#[derive(Default)]
pub(super) struct Scanner {
    state: State,
    /// A bit per open bracket: an object, or an array.
    open: Vec<u64>,
    depth: usize,
    /// The last byte read was a string's backslash.
    escaped: bool,
    /// The beginning of a string that may be a URL, with its quote.
    held: Vec<u8>,
}

/// One piece on its way through.
struct Piece<'a> {
    bytes: &'a Bytes,
    /// What comes out, once that is not the piece itself.
    out: Option<Vec<u8>>,
    /// What stands before is in `out`.
    taken: usize,
}

impl Piece<'_> {
    fn part(&self, from: usize, to: usize) -> &[u8] {
        self.bytes.get(from..to).unwrap_or_default()
    }

    /// Writes what stands before `to`, and then `instead` of what stands before `behind`.
    fn replace(&mut self, to: usize, behind: usize, instead: &[u8]) {
        let before = self.bytes.get(self.taken..to).unwrap_or_default();
        let out = self.out.get_or_insert_with(|| Vec::with_capacity(self.bytes.len() + instead.len()));
        out.extend_from_slice(before);
        out.extend_from_slice(instead);
        self.taken = behind;
    }

    fn finish(mut self) -> Bytes {
        if self.out.is_none() {
            return self.bytes.clone();
        }
        self.replace(self.bytes.len(), self.bytes.len(), &[]);
        self.out.map(Bytes::from).unwrap_or_default()
    }
}

impl Scanner {
    /// The next piece, each whole string value that `rewrite` has another text for replaced by that. Both are
    /// without quotes, with escapes.
    pub(super) fn pass(&mut self, bytes: Bytes, rewrite: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Bytes {
        if self.state == State::Torn {
            return bytes;
        }
        let mut piece = Piece { bytes: &bytes, out: None, taken: 0 };
        let (mut at, mut start) = (0, 0);
        while at < bytes.len() {
            match self.state {
                State::Torn => break,
                State::InKey | State::InText | State::InUrl => {
                    let end = self.end_of_string(piece.part(at, bytes.len())).map(|length| at + length);
                    at = end.unwrap_or(bytes.len());
                    if self.state == State::InUrl {
                        self.candidate(&mut piece, start..at, end.is_some(), &rewrite);
                    }
                    if end.is_some() {
                        self.state = if self.state == State::InKey { State::Colon } else { State::Next };
                    }
                }
                _ => {
                    let byte = bytes.get(at).copied().unwrap_or_default();
                    self.state = self.after(byte);
                    at += 1;
                    if self.state == State::InUrl {
                        start = at - 1;
                        // A quote at the piece's end is held like the rest of a string.
                        if at == bytes.len() {
                            self.candidate(&mut piece, start..at, false, &rewrite);
                        }
                    }
                }
            }
        }
        piece.finish()
    }

    /// What was held when the text ended inside of a string.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }

    pub(super) const fn holds_nothing(&self) -> bool {
        self.held.is_empty()
    }

    /// A string value as far as it has come: in what is held, then at `place` of the piece.
    fn candidate(
        &mut self,
        piece: &mut Piece<'_>,
        place: std::ops::Range<usize>,
        whole: bool,
        rewrite: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) {
        let here = piece.bytes.get(place.clone()).unwrap_or_default();
        let fits = self.held.len() + here.len() <= LONGEST;
        let mut string = std::mem::take(&mut self.held);
        let held = string.len();
        if !fits {
            if held > 0 {
                piece.replace(place.start, place.start, &string);
            }
            self.state = State::InText;
            return;
        }
        string.extend_from_slice(here);
        if !whole {
            if may_be_url(string.get(1..).unwrap_or_default()) {
                piece.replace(place.start, place.end, &[]);
                self.held = string;
            } else {
                piece.replace(place.start, place.end, &string);
                self.state = State::InText;
            }
            return;
        }
        let content = string.get(1..string.len().saturating_sub(1)).unwrap_or_default();
        match may_be_url(content).then(|| rewrite(content)).flatten() {
            Some(new) => piece.replace(place.start, place.end, &[b"\"", new.as_slice(), b"\""].concat()),
            None if held > 0 => piece.replace(place.start, place.end, &string),
            None => {}
        }
    }

    /// How many bytes of `text` belong to the string that it stands in, with the closing quote.
    fn end_of_string(&mut self, text: &[u8]) -> Option<usize> {
        let mut at = usize::from(std::mem::take(&mut self.escaped));
        loop {
            let found = at + memchr2(b'"', b'\\', text.get(at..)?)?;
            if text.get(found) == Some(&b'"') {
                return Some(found + 1);
            }
            at = found + 2;
            self.escaped = at > text.len();
        }
    }

    /// The state behind a byte that stands outside of strings.
    fn after(&mut self, byte: u8) -> State {
        let state = match self.state {
            // A number has no end of its own.
            State::InScalar if is_scalar(byte) => return State::InScalar,
            State::InScalar => State::Next,
            state => state,
        };
        match (state, byte) {
            // RFC 7464 begins each text with a record separator; others begin with a byte order mark.
            (state, b' ' | b'\t' | b'\n' | b'\r') => state,
            (State::Value | State::Next, 0x1e | 0xef | 0xbb | 0xbf) if self.depth == 0 => state,
            (State::Key, b'"') => State::InKey,
            (State::Colon, b':') => State::Value,
            (State::Next, b',') if self.depth > 0 => {
                if self.in_object() {
                    State::Key
                } else {
                    State::Value
                }
            }
            (State::Key | State::Next, b'}') if self.depth > 0 && self.in_object() => self.close(),
            (State::Value | State::Next, b']') if self.depth > 0 && !self.in_object() => self.close(),
            (State::Value, byte) => self.begin(byte),
            (State::Next, byte) if self.depth == 0 => self.begin(byte),
            _ => State::Torn,
        }
    }

    fn begin(&mut self, byte: u8) -> State {
        match byte {
            b'"' => State::InUrl,
            b'{' => self.push(true, State::Key),
            b'[' => self.push(false, State::Value),
            byte if is_scalar(byte) => State::InScalar,
            _ => State::Torn,
        }
    }

    fn push(&mut self, object: bool, inside: State) -> State {
        if self.depth == DEEPEST {
            return State::Torn;
        }
        let (word, bit) = (self.depth / 64, 1_u64 << (self.depth % 64));
        if word == self.open.len() {
            self.open.push(0);
        }
        if let Some(word) = self.open.get_mut(word) {
            *word = if object { *word | bit } else { *word & !bit };
        }
        self.depth += 1;
        inside
    }

    fn close(&mut self) -> State {
        self.depth -= 1;
        State::Next
    }

    fn in_object(&self) -> bool {
        let last = self.depth.saturating_sub(1);
        self.open.get(last / 64).is_some_and(|word| word >> (last % 64) & 1 == 1)
    }
}

const fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// Whether a string that begins like this may be an absolute URL, its slashes escaped or not.
fn may_be_url(content: &[u8]) -> bool {
    let mut given = content.iter().copied().filter(|byte| *byte != b'\\');
    let mut wanted = b"http".iter();
    loop {
        match (wanted.next(), given.next()) {
            (_, None) => return true,
            (Some(wanted), Some(byte)) if byte.eq_ignore_ascii_case(wanted) => {}
            (Some(_), Some(_)) => return false,
            (None, Some(b's' | b'S')) => break,
            (None, Some(b':')) => return given.zip(*b"//").all(|(byte, slash)| byte == slash),
            (None, Some(_)) => return false,
        }
    }
    given.zip(*b"://").all(|(byte, mark)| byte == mark)
}
