//! The text itself: size, encoding, TOML. What is no valid TOML is reported with all else that can be read.
//!
//! A line that TOML cannot read may hold half a secret, so such a line is quoted only as far as its key
//! is one whose value is no secret.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;

use super::keys::{self, Kind};
use super::report::{Findings, Place};
use super::suggest;

/// The largest relay.toml, in bytes.
pub(super) const LARGEST: usize = 1024 * 1024;

/// Parses `text`, noting every syntax error; the second is whether there was one.
pub(super) fn parse<'d>(text: &'d str, findings: &mut Findings) -> (Spanned<DeTable<'d>>, bool) {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or_default();
        let duplicate = error.message() == "duplicate key";
        let (message, fix) = if duplicate {
            ("this key or table is written twice".to_owned(), "leave one of the two")
        } else {
            (format!("this is no valid TOML: {}", error.message()), "texts stand in quotes, lists in [ ]")
        };
        findings.error(&Place::Bytes(span.clone()), message, fix);
        mask_line(text, &span, findings);
    }
    (document, !errors.is_empty())
}

/// Masks what may be a secret in the line where `span` begins.
fn mask_line(text: &str, span: &Range<usize>, findings: &mut Findings) {
    let begin = text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let rest = text.get(begin..).unwrap_or_default();
    let line = rest.split('\n').next().unwrap_or_default();
    let indent = line.len() - line.trim_start().len();
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let word = line.trim_start().split(|c| !is_word(c)).next().unwrap_or_default();
    let header =
        line.trim_start().starts_with('[') && line.chars().all(|c| is_word(c) || "[] \r".contains(c));
    let key = word.rsplit('.').next().unwrap_or_default();
    let shown = match kind_of(key) {
        Some(Kind::Scalar) => return,
        _ if header => return,
        Some(_) => indent + word.len(),
        None => 0,
    };
    findings.mask(begin + shown..begin + line.len());
}

/// What a key of this name, or nearly this name, holds, in whatever table; the most secret wins.
fn kind_of(key: &str) -> Option<Kind> {
    let near = suggest::nearest(key, keys::known().map(|(_, known)| known))?;
    let kinds: Vec<Kind> = keys::known()
        .filter(|(_, known)| *known == near)
        .filter_map(|(table, known)| keys::kind(table, known))
        .collect();
    [Kind::Secret, Kind::Compound, Kind::Scalar].into_iter().find(|kind| kinds.contains(kind))
}
