//! Which credential the built-in vendor takes, and how it shows one that it was given.
//!
//! Only the seeded constant is ever shown whole. Anything else that could be a credential is shown as
//! its first 8 characters and its length, and a short one by its length alone, because 8 characters
//! would be most of it.

use http::{HeaderMap, HeaderName};
use serde_json::{Map, Value};

use crate::secret::Secret;

/// The credential that `relay dev` seeds. Public on purpose, and the only one ever printed.
pub const DEMO_CREDENTIAL: &str = "sk-demo-not-a-real-key";

/// At this length the 8 characters that are shown are at most a third.
const LONG_ENOUGH: usize = 24;

/// The words before a credential that are shown.
const SCHEMES: [&str; 6] = ["apikey", "basic", "bearer", "bot", "digest", "token"];

/// What the vendor accepts as `Authorization: Bearer ...` where it is strict.
pub(super) enum Accepted {
    /// [`DEMO_CREDENTIAL`].
    Demo,
    /// Another one, from a file.
    Other(Secret),
}

impl Accepted {
    /// Whether the request proves itself with `Bearer` and the accepted credential.
    pub(super) fn takes(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(http::header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let Some(given) = given.and_then(|value| value.strip_prefix(b"Bearer ")) else { return false };
        match self {
            Self::Demo => given == DEMO_CREDENTIAL.as_bytes(),
            Self::Other(credential) => credential.equals(given),
        }
    }

    /// `text` with the accepted credential masked wherever it stands.
    pub(super) fn without(&self, text: &str) -> String {
        match self {
            Self::Other(credential) => match std::str::from_utf8(credential.expose()) {
                Ok(plain) if !plain.is_empty() => text.replace(plain, &masked(plain)),
                _ => text.to_owned(),
            },
            Self::Demo => text.to_owned(),
        }
    }

    /// A header's value as it may be shown.
    pub(super) fn shown(&self, name: &HeaderName, value: &[u8]) -> String {
        let text = String::from_utf8_lossy(value);
        if is_sensitive(name.as_str()) { mask(&text) } else { self.without(&text) }
    }

    /// All headers as they may be shown; fields that came twice as a list.
    pub(super) fn shown_all(&self, headers: &HeaderMap) -> Map<String, Value> {
        let mut shown = Map::new();
        for name in headers.keys() {
            let mut values: Vec<Value> =
                headers.get_all(name).iter().map(|value| self.shown(name, value.as_bytes()).into()).collect();
            let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
            shown.insert(name.to_string(), value);
        }
        shown
    }

    /// A query as it may be shown: the values of parameters that are named like credentials masked.
    pub(super) fn shown_query(&self, query: &str) -> String {
        let pairs: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) if is_sensitive(name) => format!("{name}={}", mask(value)),
                _ => self.without(pair),
            })
            .collect();
        pairs.join("&")
    }
}

/// A value with everything behind a scheme word masked, unless it is the seeded constant.
pub(super) fn mask(value: &str) -> String {
    let (scheme, credential) = match value.split_once(' ') {
        Some((scheme, rest)) if SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
            (scheme, rest)
        }
        _ => ("", value),
    };
    let shown = if credential == DEMO_CREDENTIAL { credential.to_owned() } else { masked(credential) };
    if scheme.is_empty() { shown } else { format!("{scheme} {shown}") }
}

/// `[sk-live- + 43]`: 8 characters and how many follow; `[11]` for a short one.
fn masked(credential: &str) -> String {
    let length = credential.chars().count();
    if length < LONG_ENOUGH {
        return format!("[{length}]");
    }
    let first: String = credential.chars().take(8).collect();
    format!("[{first} + {}]", length - 8)
}

/// Whether a field or parameter of this name may hold a credential.
pub(super) fn is_sensitive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "cookie", "credential", "key", "pass", "secret", "session", "sig", "token"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_seeded_constant_is_shown() {
        let rows = [
            ("Bearer sk-demo-not-a-real-key", "Bearer sk-demo-not-a-real-key", "the constant itself"),
            ("sk-demo-not-a-real-key", "sk-demo-not-a-real-key", "the constant without a scheme"),
            ("Bearer sk-demo-not-a-real-key2", "Bearer [23]", "one character more is another credential"),
            (
                "Bearer xoxb-0123456789012345678",
                "Bearer [xoxb-012 + 16]",
                "8 characters and the rest's length",
            ),
            ("Basic dTpw", "Basic [4]", "a short one would be shown whole"),
            ("hunter2 with spaces", "[19]", "a password's first word is no scheme"),
            ("correct horse", "[13]", "nor is a word of letters alone"),
            ("", "[0]", "nothing at all"),
        ];
        for (value, wanted, mistake) in rows {
            assert_eq!(mask(value), wanted, "{mistake}");
        }
    }

    #[test]
    fn a_credential_from_a_file_is_masked_wherever_it_stands() {
        let accepted = Accepted::Other(Secret::new(b"canary-0123456789-abcdefgh".to_vec()));
        assert_eq!(accepted.without("/botcanary-0123456789-abcdefgh/me"), "/bot[canary-0 + 18]/me");
        assert_eq!(accepted.shown_query("q=1&api_key=hunter2hunter2"), "q=1&api_key=[14]");
    }
}
