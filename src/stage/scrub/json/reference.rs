//! One JSON string: wholly a URL of the integration, or not touched.
//!
//! The verdict is `judge`'s, on the text that the string stands for; what is written is the vendor's own bytes
//! behind the base path, in the vendor's own escapes, behind relay's address. A URI template (RFC 6570,
//! `.../repos/{owner}{/name}`) is judged by its literal beginning, which must reach behind the base path. What
//! must never enter: a rewriting that the judge did not come to as well.

use std::sync::Arc;

use super::super::reference::{Address, Verdict, check_segments, judge};
use crate::stage::route::Route;

/// What the strings of one answer are judged against, and what they are rewritten to.
pub struct Inside {
    /// How the app reaches relay, without a slash at its end.
    pub app_base: String,
    /// What stood in front of the vendor's path in this request.
    pub prefix: String,
    /// The integration.
    pub route: Arc<Route>,
    /// The path below which it stays, as the app knows it.
    pub base_path: String,
    /// Path and query that were asked for.
    pub target: String,
    /// relay's own authorities.
    pub own: Arc<[String]>,
}

impl Inside {
    /// The string to write instead of `raw`; both stand between quotes, with escapes.
    pub(super) fn rewritten(&self, raw: &[u8]) -> Option<Vec<u8>> {
        let (text, places) = unescaped(raw)?;
        let end = text.bytes().position(|byte| !is_literal(byte)).unwrap_or(text.len());
        let (literal, behind) = text.split_at_checked(end)?;
        let kept = self.behind_base(literal)?;
        let rest = text.get(kept..)?;
        if !is_harmless(rest) || behind.chars().any(|c| c.is_control() || c == '\\') {
            return None;
        }
        let Verdict::Rewritten(whole) = judge(literal, &self.address()) else { return None };
        let front = format!("{}{}", self.app_base, self.prefix);
        let tail = literal.get(kept..)?;
        // A URL without a path means the same as with its slash (RFC 9110 section 4.2.3).
        if whole != format!("{front}{tail}") && whole != format!("{front}/{tail}") {
            return None;
        }
        // relay's own address may be an IPv6 one.
        if !front.bytes().all(|byte| is_literal(byte) || matches!(byte, b'[' | b']')) {
            return None;
        }
        let slashes_escaped = memchr::memmem::find(raw, b"\\/").is_some();
        let mut new = if slashes_escaped { front.replace('/', "\\/") } else { front }.into_bytes();
        new.extend_from_slice(raw.get(places.get(kept).copied().unwrap_or(raw.len())..)?);
        Some(new)
    }

    /// Where the base path ends in an absolute URL that has it.
    fn behind_base(&self, literal: &str) -> Option<usize> {
        let authority = literal.find("://")? + 3;
        let path = literal.get(authority..)?;
        let path = authority + path.find(['/', '?', '#']).unwrap_or(path.len());
        let base = self.base_path.as_str();
        literal.get(path..)?.starts_with(base).then_some(path + base.len())
    }

    fn address(&self) -> Address<'_> {
        Address {
            app_base: self.app_base.clone(),
            prefix: self.prefix.clone(),
            origin: &self.route.origin,
            base_path: &self.base_path,
            target: &self.target,
            own: &self.own,
        }
    }
}

/// What stands for itself in a URL, to every reader.
const fn is_literal(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'{' | b'}' | b'[' | b']' | b'<' | b'>' | b'"' | b'\\' | b'^' | b'`' | b'|')
}

/// Whether what stands behind the base path can lead nowhere else, whatever a client puts into a template (RFC
/// 6570 section 3.2), be it nothing: it begins with a path, a query or a fragment, and climbs nowhere.
fn is_harmless(rest: &str) -> bool {
    let mut behind = rest;
    while let Some(expression) = behind.strip_prefix('{').filter(|text| text.starts_with(['/', '?', '#'])) {
        let Some((_, next)) = expression.split_once('}') else { return false };
        behind = next;
    }
    let bare = without_expressions(rest);
    let path = bare.split(['?', '#']).next().unwrap_or_default();
    let bounded = behind.is_empty() || behind.starts_with(['/', '?', '#']);
    bounded && !path.starts_with("//") && check_segments(path).is_ok()
}

/// A template with nothing put in.
fn without_expressions(template: &str) -> String {
    let (mut bare, mut rest) = (String::with_capacity(template.len()), template);
    while let Some((before, (_, behind))) =
        rest.split_once('{').and_then(|(before, behind)| Some((before, behind.split_once('}')?)))
    {
        bare.push_str(before);
        rest = behind;
    }
    bare + rest
}

/// What a string stands for (RFC 8259 section 7), and where in `raw` each byte of it comes from. `None` for a
/// broken escape, one of a surrogate, and what is no UTF-8.
fn unescaped(raw: &[u8]) -> Option<(String, Vec<usize>)> {
    let (mut text, mut places) = (Vec::with_capacity(raw.len()), Vec::with_capacity(raw.len()));
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        let (char, length) = match (byte, raw.get(at + 1)) {
            (b'\\', Some(b'u')) => (unicode(raw.get(at + 2..at + 6)?)?, 6),
            (b'\\', Some(&escape)) => (simple(escape)?, 2),
            (b'\\', None) => return None,
            (byte, _) => {
                text.push(byte);
                places.push(at);
                at += 1;
                continue;
            }
        };
        text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        places.resize(text.len(), at);
        at += length;
    }
    Some((String::from_utf8(text).ok()?, places))
}

fn simple(escape: u8) -> Option<char> {
    Some(match escape {
        b'"' | b'\\' | b'/' => char::from(escape),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => return None,
    })
}

fn unicode(digits: &[u8]) -> Option<char> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    char::from_u32(u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?)
}
