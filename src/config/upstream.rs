//! An upstream that is each customer's own: `https://{subdomain}.vendor.example/accounts/{account}`.
//!
//! The fields' values make one origin and one base path when a secret is sealed, and those are frozen with it;
//! no request has a say. What must never enter: a value that could end a host early or begin another one.

use std::fmt;

use super::pattern::{Chars, Pattern, Piece};
use crate::model::{FieldName, Origin};

/// What a host is made of, but for the dot between its labels.
const LABEL: Chars = Chars::of([(b'a', b'z'), (b'0', b'9'), (b'-', b'-'), (b'_', b'_')]);
/// What may stand in a pattern where any host is allowed: labels, and a port.
const ANY_HOST: Chars = Chars::of([(b'a', b'z'), (b'0', b'9'), (b'-', b'.'), (b'_', b'_'), (b':', b':')]);
/// What stands in a path segment and never needs an escape: a value goes out as it was given.
const SEGMENT: Chars = Chars::of([
    (b'a', b'z'),
    (b'A', b'Z'),
    (b'0', b'9'),
    (b'-', b'.'),
    (b'_', b'_'),
    (b'~', b'~'),
    (b':', b':'),
    (b'@', b'@'),
]);
/// The longest frozen base path, in bytes.
const LONGEST_BASE: usize = 512;
/// Labels under a country's own under which anyone can register: a fixed end of `co.uk` fixes nothing.
const OPEN_TO_ALL: [&str; 9] = ["ac", "co", "com", "edu", "gov", "ltd", "net", "or", "org"];

/// A checked template of an upstream.
#[derive(Debug, Clone)]
pub struct UpstreamTemplate {
    written: String,
    host: Vec<UpstreamPart>,
    port: Option<u16>,
    base: Vec<UpstreamPart>,
    whole_host: Pattern,
    whole_base: Pattern,
    any_host: bool,
}

/// A piece of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamPart {
    /// As it was written.
    Literal(String),
    /// The value of a field.
    Field(FieldName),
}

/// Where a secret may go from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// The vendor's origin for this customer.
    pub origin: Origin,
    /// The base path, where it is the customer's own too.
    pub base_path: Option<String>,
}

/// A value that makes no place of the template. Says what is wrong with which field, never the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// The field.
    pub field: String,
    /// What is wrong.
    pub why: &'static str,
}

/// Why a template may not be used: the message, and the fix.
pub(super) type Wrong = (String, String);

impl UpstreamTemplate {
    /// Judges the parts against the fields' patterns. `port` is the one that the text names.
    pub(super) fn new(
        written: String,
        (host, port, base): (Vec<UpstreamPart>, Option<u16>, Vec<UpstreamPart>),
        pattern: impl Fn(&FieldName) -> Option<Pattern>,
        any_host: bool,
    ) -> Result<Self, Wrong> {
        for name in host.iter().filter_map(UpstreamPart::field) {
            let chars = pattern(name).map(|pattern| pattern.chars()).unwrap_or_default();
            if let Some(odd) = chars.beside(if any_host { ANY_HOST } else { LABEL }).first() {
                return Err(odd_in_host(name, odd, any_host));
            }
        }
        for name in base.iter().filter_map(UpstreamPart::field) {
            let chars = pattern(name).map(|pattern| pattern.chars()).unwrap_or_default();
            if let Some(odd) = chars.beside(SEGMENT).first() {
                let message = format!("has {{{name}}} in its path, whose match can be {odd:?}");
                let fix =
                    "write a match of letters, digits and - . _ ~ : @ alone, such as [A-Za-z0-9-]{1,64}";
                return Err((message, fix.to_owned()));
            }
        }
        if !any_host && host.iter().any(|part| part.field().is_some()) {
            ends_fixed(&host)?;
        }
        let whole = |parts: &[UpstreamPart]| {
            let patterns: Vec<Option<Pattern>> =
                parts.iter().map(|part| part.field().and_then(&pattern)).collect();
            let pieces: Vec<Piece<'_>> = parts
                .iter()
                .zip(&patterns)
                .filter_map(|(part, pattern)| match part {
                    UpstreamPart::Literal(text) => Some(Piece::Literal(text)),
                    UpstreamPart::Field(_) => pattern.as_ref().map(Piece::Pattern),
                })
                .collect();
            Pattern::joined(&pieces).map_err(|why| (why, "write shorter patterns".to_owned()))
        };
        let (whole_host, whole_base) = (whole(&host)?, whole(&base)?);
        Ok(Self { written, host, port, base, whole_host, whole_base, any_host })
    }

    /// Whether any host may be given (`any_host_danger`).
    pub const fn is_any_host(&self) -> bool {
        self.any_host
    }

    /// Scheme, host and port with the fields in them: `https://{shop}.vendor.example`.
    pub fn origin_text(&self) -> String {
        let mut text = "https://".to_owned();
        for part in &self.host {
            match part {
                UpstreamPart::Literal(literal) => text.push_str(literal),
                UpstreamPart::Field(name) => text.push_str(&format!("{{{name}}}")),
            }
        }
        text + &self.port.map(|port| format!(":{port}")).unwrap_or_default()
    }

    /// Whether its host has fields, and not its path alone.
    pub fn has_own_host(&self) -> bool {
        self.host.iter().any(|part| part.field().is_some())
    }

    /// The fields that it names.
    pub fn fields(&self) -> impl Iterator<Item = &FieldName> {
        self.host.iter().chain(&self.base).filter_map(UpstreamPart::field)
    }

    /// The place that these values make.
    ///
    /// # Errors
    /// [`Unfit`] for values that make none.
    pub fn freeze<'v>(&self, value: impl Fn(&FieldName) -> Option<&'v str>) -> Result<Frozen, Unfit> {
        let unfit = |parts: &[UpstreamPart], why| {
            let field = parts.iter().find_map(UpstreamPart::field);
            Unfit { field: field.map(ToString::to_string).unwrap_or_default(), why }
        };
        let rendered = |parts: &[UpstreamPart]| {
            let mut text = String::new();
            for part in parts {
                match part {
                    UpstreamPart::Literal(literal) => text.push_str(literal),
                    UpstreamPart::Field(name) => match value(name) {
                        Some(value) => text.push_str(value),
                        None => return Err(Unfit { field: name.to_string(), why: "it is missing" }),
                    },
                }
            }
            Ok(text)
        };
        let host = rendered(&self.host)?;
        let origin = self.origin(&host).map_err(|why| unfit(&self.host, why))?;
        let base = rendered(&self.base)?;
        if !self.whole_base.matches(base.as_bytes()) || !is_base(&base) {
            return Err(unfit(&self.base, "it makes no path of one segment each, without . and .."));
        }
        Ok(Frozen { origin, base_path: self.freezes_base().then_some(base) })
    }

    /// Whether what is frozen with a secret is still of this template.
    pub fn admits(&self, origin: &Origin, base_path: Option<&str>) -> bool {
        let with_port = format!("{}:{}", origin.host(), origin.port());
        let named = |text: &str| self.origin(text).is_ok_and(|own| own == *origin);
        let base = match base_path {
            None => !self.freezes_base(),
            Some(base) => self.freezes_base() && self.whole_base.matches(base.as_bytes()) && is_base(base),
        };
        base && (named(origin.host()) || (self.port.is_none() && named(&with_port)))
    }

    /// The base path of a secret with this frozen one.
    pub fn base_path(&self, frozen: Option<&str>) -> String {
        let literal = |part: &UpstreamPart| match part {
            UpstreamPart::Literal(text) => text.clone(),
            UpstreamPart::Field(_) => String::new(),
        };
        frozen.map_or_else(|| self.base.iter().map(literal).collect(), str::to_owned)
    }

    fn freezes_base(&self) -> bool {
        self.base.iter().any(|part| part.field().is_some())
    }

    fn origin(&self, authority: &str) -> Result<Origin, &'static str> {
        if !self.whole_host.matches(authority.as_bytes()) {
            return Err("it makes no host of the form that the integration wants");
        }
        let (host, port) = match (self.port, authority.rsplit_once(':')) {
            (Some(port), _) => (authority, port),
            (None, None) => (authority, 443),
            (None, Some((host, digits))) => {
                let shaped = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
                (host, digits.parse().ok().filter(|_| shaped).ok_or("it has a port that is none")?)
            }
        };
        let wrong = "it makes no host name";
        if !self.has_own_host() {
            // Written by the operator, and judged as any other upstream.
            return Origin::new(true, host, port).map_err(|_| wrong);
        }
        let labels: Vec<&str> = host.split('.').collect();
        let shaped = |label: &&str| {
            let edge = |byte: Option<&u8>| byte.is_some_and(|b| *b != b'-');
            let bytes = label.as_bytes();
            label.len() <= 63
                && bytes.iter().all(|b| LABEL.holds(*b))
                && edge(bytes.first())
                && edge(bytes.last())
        };
        if !labels.iter().all(shaped) || host.len() > 253 {
            return Err(
                "it makes no host name: each part is 1 to 63 of a-z, 0-9 and -, and no - at its ends",
            );
        }
        let last = labels.last().copied().unwrap_or_default();
        if labels.len() < 2 || last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
            return Err("it makes an address or a name without a domain: write the full name of a host");
        }
        if !self.any_host && labels.iter().any(|label| label.starts_with("xn--")) {
            return Err("it begins with xn--, which stands for letters outside ASCII");
        }
        Origin::new(true, host, port).map_err(|_| wrong)
    }
}

impl UpstreamPart {
    const fn field(&self) -> Option<&FieldName> {
        match self {
            Self::Field(name) => Some(name),
            Self::Literal(_) => None,
        }
    }
}

impl fmt::Display for UpstreamTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

fn odd_in_host(name: &FieldName, odd: char, any_host: bool) -> Wrong {
    let message = format!("has {{{name}}} in its host, whose match can be {odd:?}");
    let fix = if any_host {
        "write a match of a-z, 0-9, - and . alone, and : where a port may be given"
    } else {
        "write a match of a-z, 0-9 and - alone, such as [a-z0-9-]{1,40}; with it a value would be more than a \
         part of the host"
    };
    (message, fix.to_owned())
}

/// The host ends in a domain that the customer has no say in: two labels at least, and not `co.uk`.
fn ends_fixed(host: &[UpstreamPart]) -> Result<(), Wrong> {
    let tail = match host.last() {
        Some(UpstreamPart::Literal(text)) => text.split_once('.').map_or("", |(_, tail)| tail),
        _ => "",
    };
    let labels: Vec<&str> = tail.split('.').filter(|label| !label.is_empty()).collect();
    let open = matches!(labels.as_slice(), [second, top] if top.len() == 2 && OPEN_TO_ALL.contains(second));
    if labels.len() < 2 || open {
        let message = "has a host that does not end in a fixed domain: a secret could go anywhere".to_owned();
        let fix = "end the host like .vendor.example; where it must be any host, any_host_danger = true";
        return Err((message, fix.to_owned()));
    }
    Ok(())
}

fn is_base(base: &str) -> bool {
    let segment = |part: &str| !part.is_empty() && part != "." && part != "..";
    base.len() <= LONGEST_BASE && base.split('/').skip(1).all(segment)
}
