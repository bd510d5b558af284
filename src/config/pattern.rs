//! `match`: what the value of a field may be, as a whole.
//!
//! A small language: characters, `.`, `\d`, `[a-z0-9-]`, `( | )`, and `? * + {2} {2,40}`. There are no anchors,
//! because the whole value is always meant. It is run as a set of states, so the time is linear in the value,
//! and a pattern has at most so many states. Kept here and not taken from a crate because the characters that
//! a pattern can match at all must be told: a host rests on that. What must never enter: a value in an error.

/// The longest pattern, in bytes.
const LONGEST: usize = 256;
/// The most states that a pattern may have, repetitions written out.
const MOST_STATES: usize = 2048;
/// How deep groups may stand in groups.
const DEEPEST: usize = 8;

/// A set of ASCII characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chars(u128);

impl Chars {
    /// These ranges, each from its first to its last.
    pub const fn of<const N: usize>(ranges: [(u8, u8); N]) -> Self {
        let mut bits = 0_u128;
        let mut left: &[(u8, u8)] = &ranges;
        while let [(from, to), rest @ ..] = left {
            let mut at = *from;
            while at <= *to && at < 128 {
                bits |= 1 << at;
                at += 1;
            }
            left = rest;
        }
        Self(bits)
    }

    /// Those that are not in `allowed`.
    #[must_use]
    pub const fn beside(self, allowed: Self) -> Self {
        Self(self.0 & !allowed.0)
    }

    /// The first of them.
    pub fn first(self) -> Option<char> {
        (0..128_u8).find(|at| self.holds(*at)).map(char::from)
    }

    /// Whether `byte` is one of them.
    pub const fn holds(self, byte: u8) -> bool {
        byte < 128 && (self.0 >> byte) & 1 == 1
    }

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What `.` stands for, and what a negated class is taken from: what a value may hold at all.
const VISIBLE: Chars = Chars::of([(b' ', b'~')]);
const DIGITS: Chars = Chars::of([(b'0', b'9')]);

/// A checked pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    node: Node,
    states: Vec<State>,
}

/// A piece of what several patterns are joined to.
pub enum Piece<'a> {
    /// This text.
    Literal(&'a str),
    /// Whatever this matches.
    Pattern(&'a Pattern),
}

#[derive(Debug, Clone)]
enum Node {
    One(Chars),
    Row(Vec<Self>),
    Either(Vec<Self>),
    Times(Box<Self>, usize, Option<usize>),
}

#[derive(Debug, Clone, Copy)]
enum State {
    One(Chars, usize),
    Both(usize, usize),
    End,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(format!("a pattern is 1 to {LONGEST} bytes"));
        }
        let mut reader = Reader { rest: text.as_bytes(), depth: 0 };
        let node = reader.either()?;
        if !reader.rest.is_empty() {
            return Err("a ) without its (".to_owned());
        }
        Self::of(text.to_owned(), node)
    }

    /// What matches these one behind the other.
    ///
    /// # Errors
    /// Says so if that would have too many states.
    pub fn joined(pieces: &[Piece<'_>]) -> Result<Self, String> {
        let mut row = Vec::new();
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Literal(literal) => {
                    text.push_str(literal);
                    row.extend(literal.bytes().map(|byte| Node::One(Chars::of([(byte, byte)]))));
                }
                Piece::Pattern(pattern) => {
                    text.push_str(&pattern.text);
                    row.push(pattern.node.clone());
                }
            }
        }
        Self::of(text, Node::Row(row))
    }

    fn of(text: String, node: Node) -> Result<Self, String> {
        let mut states = vec![State::End];
        let start = node.build(&mut states, 0)?;
        // The first to be run stands last, where it is found.
        states.push(State::Both(start, start));
        Ok(Self { text, node, states })
    }

    /// Whether all of `value` is what is wanted.
    pub fn matches(&self, value: &[u8]) -> bool {
        let mut now = Set::new(self.states.len());
        let mut next = Set::new(self.states.len());
        self.enter(self.states.len() - 1, &mut now);
        for byte in value {
            for place in &now.list {
                if let Some(State::One(chars, to)) = self.states.get(*place)
                    && chars.holds(*byte)
                {
                    self.enter(*to, &mut next);
                }
            }
            std::mem::swap(&mut now, &mut next);
            next.clear();
            if now.list.is_empty() {
                return false;
            }
        }
        now.list.contains(&0)
    }

    /// Every character that it can match anywhere.
    pub fn chars(&self) -> Chars {
        self.node.chars()
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn enter(&self, place: usize, into: &mut Set) {
        let mut waiting = vec![place];
        while let Some(place) = waiting.pop() {
            if !into.add(place) {
                continue;
            }
            if let Some(State::Both(one, other)) = self.states.get(place) {
                waiting.extend([*one, *other]);
            }
        }
    }
}

/// States that a value may have led to.
struct Set {
    list: Vec<usize>,
    seen: Vec<bool>,
}

impl Set {
    fn new(states: usize) -> Self {
        Self { list: Vec::with_capacity(states), seen: vec![false; states] }
    }

    fn add(&mut self, place: usize) -> bool {
        let Some(seen) = self.seen.get_mut(place).filter(|seen| !**seen) else { return false };
        *seen = true;
        self.list.push(place);
        true
    }

    fn clear(&mut self) {
        self.list.clear();
        self.seen.fill(false);
    }
}

impl Node {
    fn chars(&self) -> Chars {
        match self {
            Self::One(chars) => *chars,
            Self::Row(all) | Self::Either(all) => {
                all.iter().fold(Chars::default(), |so_far, node| so_far.with(node.chars()))
            }
            Self::Times(node, ..) => node.chars(),
        }
    }

    /// Adds the states that lead through this to `then`; says which one begins it.
    fn build(&self, states: &mut Vec<State>, then: usize) -> Result<usize, String> {
        match self {
            Self::One(chars) => put(states, State::One(*chars, then)),
            Self::Row(all) => all.iter().rev().try_fold(then, |then, node| node.build(states, then)),
            Self::Either(all) => {
                let mut begins = None;
                for node in all.iter().rev() {
                    let this = node.build(states, then)?;
                    begins = Some(match begins {
                        None => this,
                        Some(other) => put(states, State::Both(this, other))?,
                    });
                }
                Ok(begins.unwrap_or(then))
            }
            Self::Times(node, least, most) => {
                let mut begins = then;
                match most {
                    Some(most) => {
                        for _ in *least..*most {
                            let this = node.build(states, begins)?;
                            begins = put(states, State::Both(this, then))?;
                        }
                    }
                    None => {
                        let again = put(states, State::Both(then, then))?;
                        let this = node.build(states, again)?;
                        if let Some(state) = states.get_mut(again) {
                            *state = State::Both(this, then);
                        }
                        begins = again;
                    }
                }
                (0..*least).try_fold(begins, |begins, _| node.build(states, begins))
            }
        }
    }
}

fn put(states: &mut Vec<State>, state: State) -> Result<usize, String> {
    if states.len() >= MOST_STATES {
        return Err("it stands for too much: write smaller numbers in { }".to_owned());
    }
    states.push(state);
    Ok(states.len() - 1)
}

struct Reader<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn take(&mut self, wanted: u8) -> bool {
        match self.rest.split_first() {
            Some((byte, rest)) if *byte == wanted => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn either(&mut self) -> Result<Node, String> {
        let mut all = vec![self.row()?];
        while self.take(b'|') {
            all.push(self.row()?);
        }
        match all.pop() {
            Some(only) if all.is_empty() => Ok(only),
            last => {
                all.extend(last);
                Ok(Node::Either(all))
            }
        }
    }

    fn row(&mut self) -> Result<Node, String> {
        let mut row = Vec::new();
        while !matches!(self.rest.first(), None | Some(b'|' | b')')) {
            let one = self.one()?;
            row.push(self.times(one)?);
        }
        if row.is_empty() {
            return Err("it has an empty part: nothing is no value".to_owned());
        }
        Ok(Node::Row(row))
    }

    fn one(&mut self) -> Result<Node, String> {
        match self.next() {
            Some(b'(') => {
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err("its groups stand too deep in groups".to_owned());
                }
                let inside = self.either()?;
                self.depth -= 1;
                if self.take(b')') { Ok(inside) } else { Err("a ( without its )".to_owned()) }
            }
            Some(b'[') => self.class().map(Node::One),
            Some(b'.') => Ok(Node::One(VISIBLE)),
            Some(b'\\') => self.escaped().map(Node::One),
            Some(b'^' | b'$') => {
                Err("it has an anchor: the whole value is meant anyway, so leave ^ and $ away".to_owned())
            }
            Some(b'?' | b'*' | b'+' | b'{') => Err("a repetition without what it repeats".to_owned()),
            Some(b'}' | b']') => Err("a closing bracket without its opening one".to_owned()),
            Some(byte @ b' '..=b'~') => Ok(Node::One(Chars::of([(byte, byte)]))),
            _ => Err("a pattern is visible ASCII".to_owned()),
        }
    }

    fn escaped(&mut self) -> Result<Chars, String> {
        match self.next() {
            Some(b'd') => Ok(DIGITS),
            Some(byte) if byte.is_ascii_punctuation() => Ok(Chars::of([(byte, byte)])),
            _ => Err("behind a backslash stands d or a mark; for letters write [A-Za-z]".to_owned()),
        }
    }

    fn class(&mut self) -> Result<Chars, String> {
        let open = || "a [ without its ]".to_owned();
        let negated = self.take(b'^');
        let mut all = Chars::default();
        while !self.take(b']') {
            let from = self.next().ok_or_else(open)?;
            if from == b'\\' {
                all = all.with(self.escaped()?);
                continue;
            }
            if from == b'[' || !VISIBLE.holds(from) {
                return Err("inside [ ] stand visible ASCII characters, [ as \\[".to_owned());
            }
            let ranged = matches!(self.rest, [b'-', behind, ..] if *behind != b']');
            let to = if ranged && self.take(b'-') { self.next().ok_or_else(open)? } else { from };
            if to < from || !VISIBLE.holds(to) || (ranged && (to == b'\\' || to == b'[')) {
                return Err("a range in [ ] ends before it begins, or is unclear".to_owned());
            }
            all = all.with(Chars::of([(from, to)]));
        }
        let all = if negated { VISIBLE.beside(all) } else { all };
        if all == Chars::default() { Err("a [ ] without any character".to_owned()) } else { Ok(all) }
    }

    fn times(&mut self, node: Node) -> Result<Node, String> {
        let (least, most) = match self.rest.first() {
            Some(b'?') => (0, Some(1)),
            Some(b'*') => (0, None),
            Some(b'+') => (1, None),
            Some(b'{') => return self.counted(node),
            _ => return Ok(node),
        };
        self.next();
        self.once(Node::Times(Box::new(node), least, most))
    }

    fn counted(&mut self, node: Node) -> Result<Node, String> {
        let wrong = || "a repetition is {2} or {2,40} or {2,}".to_owned();
        self.next();
        let end = self.rest.iter().position(|byte| *byte == b'}').ok_or_else(wrong)?;
        let (inside, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        let inside = std::str::from_utf8(inside).map_err(|_| wrong())?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<usize>().ok().filter(|_| digits).ok_or_else(wrong)
        };
        let (least, most) = match inside.split_once(',') {
            None => (number(inside)?, Some(number(inside)?)),
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        if most.is_some_and(|most| most < least || most == 0) || least > MOST_STATES {
            return Err(wrong());
        }
        self.once(Node::Times(Box::new(node), least, most))
    }

    /// `a{2}{3}` and `a+?` mean something else to everyone.
    fn once(&self, node: Node) -> Result<Node, String> {
        match self.rest.first() {
            Some(b'?' | b'*' | b'+' | b'{') => Err("a repetition of a repetition: use ( )".to_owned()),
            _ => Ok(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_value_or_nothing() {
        let rows = [
            ("[a-z0-9-]{2,40}", "acme-1", true, "plain"),
            ("[a-z0-9-]{2,40}", "a", false, "too short"),
            ("[a-z0-9-]{2,4}", "abcde", false, "too long"),
            ("[a-z0-9-]{2,40}", "acme.evil", false, "a dot that is not in the class"),
            ("[a-z]+", "acme\n", false, "a line break at the end"),
            ("[a-z]+", "", false, "nothing"),
            ("a|bc", "bc", true, "the other"),
            ("a|bc", "abc", false, "both"),
            ("(eu|us)[0-9]{1,2}", "us21", true, "a group"),
            ("us\\d?", "us", true, "nothing of what may be"),
            ("a.c", "abc", true, "any character"),
            ("a\\.c", "abc", false, "a dot that is one"),
            ("[^/]+", "a b", true, "a negated class"),
            ("[^/]+", "a/b", false, "what it excludes"),
            ("[a-]+", "a-", true, "a hyphen at the end of a class"),
            ("(a*)*b", "aaab", true, "a loop in a loop"),
            ("(a|aa)+", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false, "what others need ages for"),
            ("x{3}", "xxx", true, "exactly"),
            ("x{2,}", "x", false, "at least"),
        ];
        for (pattern, value, wanted, mistake) in rows {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(value.as_bytes()), wanted, "{mistake}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "^a",
            "a$",
            "a)",
            "(a",
            "[a",
            "[]",
            "[b-a]",
            "a{",
            "a{2",
            "a{x}",
            "a{3,2}",
            "a{0}",
            "*a",
            "a**",
            "a+?",
            "\\w",
            "\\",
            "a|",
            "()",
            "\u{e4}",
            "(((((((((a)))))))))",
            "(a{1000}){1000}",
            "[a-z]{99999}",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_characters_are_those_of_every_part() {
        let rows = [
            ("[a-z]{2}", None, "within"),
            ("[a-z]+(x|\\.)?", Some('.'), "one that may stand there"),
            ("[^a]", Some(' '), "a negated class"),
            (".", Some(' '), "anything"),
            ("a(b(c|@))", Some('@'), "deep inside"),
        ];
        for (pattern, wanted, mistake) in rows {
            let found = Pattern::parse(pattern).unwrap().chars().beside(Chars::of([(b'a', b'z')])).first();
            assert_eq!(found, wanted, "{mistake}");
        }
    }
}
