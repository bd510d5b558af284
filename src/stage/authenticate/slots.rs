//! Where the caller's token stands.
//!
//! With `Relay-Authorization` nothing else is read. Without it the token stands where the credential will
//! go, so that a vendor's SDK works with the token given as its API key; plus `Authorization`, and a
//! WebSocket's subprotocols, the only field that a browser can set. Only three
//! dot-separated base64url parts count as a token: a dummy key in a slot is no token.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::protocols;
use super::token::is_token;
use crate::refusal::{Code, Refusal};
use crate::stage::route::{Matched, Slot, parameters};

const RELAY_AUTHORIZATION: HeaderName = HeaderName::from_static("relay-authorization");

/// The one token of the request. For an unknown integration only the two fixed fields are read.
pub(super) fn find<'a>(headers: &'a HeaderMap, matched: &'a Matched) -> Result<Cow<'a, str>, Refusal> {
    let mut own = headers.get_all(RELAY_AUTHORIZATION).iter();
    match (own.next(), own.next()) {
        (Some(_), Some(_)) => {
            return Err(Refusal::new(Code::TokenAmbiguous, "Relay-Authorization stands more than once."));
        }
        (Some(value), None) => {
            let token = text_of(value).and_then(|text| behind_scheme(text, &["bearer"]));
            return token.filter(|t| is_token(t)).map(Cow::Borrowed).ok_or_else(|| {
                Refusal::new(Code::TokenInvalid, "Relay-Authorization is not `Bearer` and a three-part JWT.")
            });
        }
        (None, _) => {}
    }
    let route = matched.route();
    let mut found: Option<Cow<'a, str>> = None;
    in_field(headers, &AUTHORIZATION, &mut found)?;
    for slot in route.map_or(&[][..], |route| route.slots.as_slice()) {
        match slot {
            Slot::Header(name) if *name == AUTHORIZATION => {}
            Slot::Header(name) => in_field(headers, name, &mut found)?,
            Slot::Query(name) => {
                let query = matched.query().unwrap_or_default().as_bytes();
                for value in parameters::values(query, name) {
                    let value = String::from_utf8(parameters::decoded(value)).unwrap_or_default();
                    agree_on(&mut found, is_token(&value).then_some(Cow::Owned(value)))?;
                }
            }
            Slot::Cookie(name) => {
                for value in cookies(headers, name) {
                    agree_on(&mut found, is_token(value).then_some(Cow::Borrowed(value)))?;
                }
            }
            Slot::Path => {
                for value in matched.slot_values() {
                    agree_on(&mut found, is_token(value).then_some(Cow::Borrowed(value)))?;
                }
            }
        }
    }
    for token in route.iter().flat_map(|_| protocols::tokens(headers)) {
        agree(&mut found, Cow::Borrowed(token))?;
    }
    found.ok_or_else(|| {
        Refusal::new(
            Code::TokenMissing,
            "No caller token (three-part JWT) was found: send `Authorization: Bearer <jwt>` or `Relay-Authorization: Bearer <jwt>`.",
        )
    })
}

fn in_field<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    found: &mut Option<Cow<'a, str>>,
) -> Result<(), Refusal> {
    for value in headers.get_all(name) {
        for token in text_of(value).map(tokens_in).into_iter().flatten().flatten() {
            agree(found, token)?;
        }
    }
    Ok(())
}

/// The values of the cookies named `name` (RFC 6265 section 4.2).
fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(text_of).flat_map(|text| text.split(';'));
    pairs.filter_map(move |pair| {
        let (written, value) = pair.split_once('=')?;
        (written.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

fn agree_on<'a>(found: &mut Option<Cow<'a, str>>, token: Option<Cow<'a, str>>) -> Result<(), Refusal> {
    token.map_or(Ok(()), |token| agree(found, token))
}

/// One token more: it is the one that was found before, or the first.
fn agree<'a>(found: &mut Option<Cow<'a, str>>, token: Cow<'a, str>) -> Result<(), Refusal> {
    if found.as_ref().is_some_and(|other| *other != token) {
        return Err(Refusal::new(
            Code::TokenAmbiguous,
            "Two different tokens stand in the fields that may carry one.",
        ));
    }
    *found = Some(token);
    Ok(())
}

/// The tokens in a field's value: bare, behind a scheme, or as password and name of Basic.
fn tokens_in(value: &str) -> [Option<Cow<'_, str>>; 2] {
    let value = value.trim();
    // What stands in no token is looked for first, so that a field with a scheme is read once.
    let Some(at) = memchr::memrchr2(b' ', b'=', value.as_bytes()) else {
        return [is_token(value).then_some(Cow::Borrowed(value)), None];
    };
    if let Some(pair) = behind_scheme(value, &["basic"]) {
        let decoded = STANDARD.decode(pair).ok().and_then(|pair| String::from_utf8(pair).ok());
        let Some((user, password)) = decoded.as_deref().and_then(|pair| pair.split_once(':')) else {
            return [None, None];
        };
        return [password, user].map(|part| is_token(part).then(|| Cow::Owned(part.to_owned())));
    }
    let last = value.get(at + 1..);
    let bare = last.filter(|last| is_token(last)).or_else(|| {
        let unquoted = last?.trim_matches('"');
        is_token(unquoted).then_some(unquoted)
    });
    [bare.map(Cow::Borrowed), None]
}

/// A field's value as text, if it is ASCII.
fn text_of(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok().filter(|text| text.is_ascii())
}

/// Whether a field's value or a target holds `token`.
pub(super) fn holds(text: &[u8], token: &str) -> bool {
    memchr::memmem::find(text, token.as_bytes()).is_some()
        || std::str::from_utf8(text)
            .is_ok_and(|text| tokens_in(text).iter().flatten().any(|found| found == token))
}

fn behind_scheme<'a>(value: &'a str, schemes: &[&str]) -> Option<&'a str> {
    let value = value.trim();
    let (scheme, rest) = value.split_at_checked(memchr::memchr(b' ', value.as_bytes())?)?;
    schemes.iter().any(|s| scheme.eq_ignore_ascii_case(s)).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_of_basic_count() {
        let pair = format!("Basic {}", STANDARD.encode("a.b.c:d.e.f"));
        assert_eq!(
            tokens_in(&pair).map(|t| t.map(Cow::into_owned)),
            [Some("d.e.f".into()), Some("a.b.c".into())]
        );
    }

    #[test]
    fn only_a_three_part_token_counts() {
        let basic = format!("Basic {}", STANDARD.encode("user:a.b.c"));
        let rows = [
            ("a.b.c", Some("a.b.c"), "bare"),
            ("Bearer a.b.c", Some("a.b.c"), "bearer"),
            ("token a.b.c", Some("a.b.c"), "another scheme"),
            ("Token token=\"a.b.c\"", Some("a.b.c"), "as a parameter"),
            (&basic, Some("a.b.c"), "as Basic's password"),
            ("Bearer sk-dummy", None, "a dummy key is no token"),
            ("Bearer a.b", None, "two parts"),
            ("Bearer a..c", None, "an empty part"),
            ("Bearer a.b.c.d", None, "four parts"),
            ("Bearer a.b.c=", None, "padding"),
        ];
        for (value, wanted, mistake) in rows {
            let [first, second] = tokens_in(value);
            assert_eq!((first.as_deref(), second), (wanted, None), "{mistake}");
        }
    }
}
