//! One token, from its text to an [`Identity`] (RFC 7519, RFC 8725).
//!
//! The cheap checks stand before the signature, `iss` first among them: it picks the one issuer whose rules and
//! keys count. `crit`, `jwk`, `jku` and `x5*` are never obeyed: the first is refused, the others are not read. A
//! claim that stands twice makes the token unclear, also inside of one that a pointer leads into.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize as _;
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use super::{Identity, IssuerRules};
use crate::config::Claim;
use crate::jwks::{Algorithm, IssuerKeys, KeySet};
use crate::model::{Customer, Members, SecretId};
use crate::refusal::{Code, Refusal};

/// Secrets that a token may list.
const MOST_LISTED: usize = 100;
const LONGEST: usize = 8 * 1024;

/// Three non-empty base64url parts and two dots, 8 KiB at most.
pub(super) fn is_token(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut dots = memchr::memchr_iter(b'.', bytes);
    let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else { return false };
    let parts = first > 0 && second > first + 1 && bytes.len() > second + 1;
    parts && bytes.len() <= LONGEST && all_of_token(bytes)
}

/// Whether every byte is base64url's or a dot. Without a way out in the middle, so that it is compiled to
/// whole vectors: a token is the longest field of most requests.
fn all_of_token(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |so_far, &byte| {
        let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        let digit = byte.wrapping_sub(b'0') < 10;
        so_far & (letter | digit | (byte == b'-') | (byte == b'_') | (byte == b'.'))
    })
}

/// Why a token is not accepted.
pub(super) enum Unverified<'r> {
    /// For good.
    Refused(Refusal),
    /// It is well-formed and meets the rules, but its key is none of `seen`: a newer set may have it.
    KeyUnknown { keys: &'r IssuerKeys, seen: Option<Arc<KeySet>>, refusal: Box<Refusal> },
}

impl From<Refusal> for Unverified<'_> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Unverified<'_>> for Refusal {
    fn from(unverified: Unverified<'_>) -> Self {
        match unverified {
            Unverified::Refused(refusal) => refusal,
            Unverified::KeyUnknown { refusal, .. } => *refusal,
        }
    }
}

/// Checks everything but the present moment's `exp` and `nbf` twice over: those are compared again by
/// the caller on every use.
pub(super) fn verify<'r>(
    issuers: &'r [IssuerRules],
    token: &str,
    now: u64,
) -> Result<Identity, Unverified<'r>> {
    let (message, signature) = token.rsplit_once('.').ok_or_else(|| invalid("it has not three parts"))?;
    let (header, payload) = message.split_once('.').ok_or_else(|| invalid("it has not three parts"))?;
    let header = decoded(header).ok_or_else(|| invalid("its header is not base64url"))?;
    let header = Claims::read(&header).map_err(|why| invalid(&why))?;
    if header.value("crit").is_some() || header.value("b64").is_some() {
        return Err(invalid("its header demands an extension that relay does not know").into());
    }
    let algorithm = header.text("alg").and_then(algorithm);
    let algorithm =
        algorithm.filter(|algorithm| issuers.iter().any(|rules| rules.algorithms.contains(algorithm)));
    let algorithm = algorithm.ok_or_else(|| invalid(OTHER_ALGORITHM))?;
    let kid = header.text("kid");
    if kid.is_none() && header.value("kid").is_some() {
        return Err(invalid("its kid is no text").into());
    }
    let payload = decoded(payload).ok_or_else(|| invalid("its claims are not base64url"))?;
    let claims = Claims::read(&payload).map_err(|why| invalid(&why))?;
    let rules = rules_for(issuers, &claims)?;
    if !rules.algorithms.contains(&algorithm) {
        return Err(invalid(OTHER_ALGORITHM).into());
    }
    let identity = check(rules, &claims, now)?;
    let keys = rules.keys.current();
    match &keys {
        Some(keys) if keys.verifies(algorithm, kid, message.as_bytes(), signature) => return Ok(identity),
        Some(keys) if keys.knows(kid) => return Err(invalid(NOT_SIGNED).into()),
        _ => {}
    }
    let refusal = if keys.is_some() { invalid(NOT_SIGNED) } else { keyless(rules) };
    Err(Unverified::KeyUnknown { keys: &rules.keys, seen: keys, refusal: Box::new(refusal) })
}

const OTHER_ALGORITHM: &str = "its algorithm is not one that relay is configured for";
const NOT_SIGNED: &str = "its signature is not by a configured key";

/// 503, since the token may well be good: an SDK tries again, and does not throw the token away.
fn keyless(rules: &IssuerRules) -> Refusal {
    let detail = "The keys of the caller token's issuer are not known at present: try again.";
    let state = rules.keys.state();
    let why = state.failing.map_or_else(|| "they were not read yet".to_owned(), |(_, why)| why);
    Refusal::new(Code::IssuerUnavailable, detail).because(format!("the keys of {}: {why}", state.issuer))
}

/// The rules of the token's `iss`, and where an issuer has several audiences, of its `aud`. Names the one issuer
/// that there is, but never a list.
fn rules_for<'r>(issuers: &'r [IssuerRules], claims: &Claims<'_>) -> Result<&'r IssuerRules, Refusal> {
    let iss = claims.text("iss");
    let mut own = issuers.iter().filter(|rules| iss == Some(rules.issuer.as_str())).peekable();
    if own.peek().is_none() {
        let detail = match issuers {
            [only] => format!("The caller token's iss must be {:?}.", only.issuer),
            _ => "The caller token's iss is none that relay is configured for.".to_owned(),
        };
        return Err(Refusal::new(Code::TokenIssuer, detail));
    }
    let wanted: Vec<&str> = own.clone().map(|rules| rules.audience.as_str()).collect();
    let mut fitting = own.filter(|rules| claims.audience_holds(&rules.audience));
    match (fitting.next(), fitting.next()) {
        (Some(rules), None) => Ok(rules),
        (None, _) => {
            let detail = match wanted.as_slice() {
                [only] => format!("The caller token's aud must hold {only:?}."),
                _ => "The caller token's aud is none that relay has for its issuer.".to_owned(),
            };
            Err(Refusal::new(Code::TokenAudience, detail))
        }
        (Some(_), Some(_)) => {
            let detail =
                "The caller token's aud holds two of relay's audiences, whose rules differ: name one.";
            Err(Refusal::new(Code::TokenAudience, detail))
        }
    }
}

fn check(rules: &IssuerRules, claims: &Claims<'_>, now: u64) -> Result<Identity, Refusal> {
    let expires_at = claims.time("exp").map_err(invalid)?.ok_or_else(|| invalid("it has no numeric exp"))?;
    let not_before = claims.time("nbf").map_err(invalid)?;
    let issued_at = claims.time("iat").map_err(invalid)?;
    let leeway = rules.leeway.as_secs();
    let ends_at = expires_at.saturating_add(leeway);
    if now >= ends_at {
        return Err(Refusal::new(Code::TokenExpired, "The caller token's exp is past: mint a fresh one."));
    }
    // Before its lifetime, which a clock that is far behind cannot measure.
    let begins_at = not_before.map_or(0, |at| at.saturating_sub(leeway));
    if now < begins_at {
        return Err(not_yet_valid());
    }
    let born = issued_at.unwrap_or(now).min(now.saturating_add(leeway));
    if expires_at.saturating_sub(born) > rules.max_lifetime.as_secs().saturating_add(leeway) {
        let longest = humantime::format_duration(rules.max_lifetime);
        return Err(invalid(&format!("it lives longer than {longest}")));
    }
    let customer = customer(rules, claims)?;
    let secret = match claims.at(&rules.secret_claim)? {
        None => None,
        Some(value) => Some(value.as_str().and_then(|text| SecretId::parse(text).ok()).ok_or_else(|| {
            invalid(&format!("its claim {:?} is not a hyphenated UUID", rules.secret_claim.as_str()))
        })?),
    };
    Ok(Identity {
        customer,
        secret,
        secrets: listed(rules, claims)?,
        issuer: rules.issuer.clone(),
        subject: claims.text("sub").map(str::to_owned),
        token_id: claims.text("jti").map(str::to_owned),
        scopes: claims.scopes().map_err(invalid)?,
        ends_at,
        begins_at,
    })
}

pub(super) fn not_yet_valid() -> Refusal {
    Refusal::new(Code::TokenNotYetValid, "The caller token's nbf is still to come: compare the clocks.")
}

/// The only secrets that may be used. An empty list allows none; one that is unclear allows nothing at all.
fn listed(rules: &IssuerRules, claims: &Claims<'_>) -> Result<Option<Vec<SecretId>>, Refusal> {
    let Some(value) = claims.at(&rules.secrets_claim)? else { return Ok(None) };
    let unclear = || {
        let claim = rules.secrets_claim.as_str();
        invalid(&format!("its claim {claim:?} is not a list of at most {MOST_LISTED} hyphenated UUIDs"))
    };
    let listed = value.as_array().filter(|list| list.len() <= MOST_LISTED).ok_or_else(unclear)?;
    let ids = listed.iter().map(|id| id.as_str().and_then(|text| SecretId::parse(text).ok()));
    let mut ids: Vec<SecretId> = ids.collect::<Option<_>>().ok_or_else(unclear)?;
    ids.sort_unstable();
    Ok(Some(ids))
}

fn customer(rules: &IssuerRules, claims: &Claims<'_>) -> Result<Customer, Refusal> {
    let found = claims.at(&rules.customer_claim)?;
    let text = found.as_ref().and_then(Value::as_str).filter(|text| !text.is_empty());
    let named = text.map(|text| format!("{}{text}", rules.customer_prefix));
    named.and_then(|text| Customer::parse(&text).ok()).ok_or_else(|| {
        let claim = rules.customer_claim.as_str();
        let detail =
            format!("The caller token's claim {claim:?} must name the customer: 1 to 128 bytes of text.");
        Refusal::new(Code::TokenCustomer, detail)
    })
}

fn algorithm(word: &str) -> Option<Algorithm> {
    match word {
        "ES256" => Some(Algorithm::ES256),
        "RS256" => Some(Algorithm::RS256),
        "EdDSA" => Some(Algorithm::EdDSA),
        "HS256" => Some(Algorithm::HS256),
        _ => None,
    }
}

fn decoded(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

fn invalid(why: &str) -> Refusal {
    Refusal::new(Code::TokenInvalid, format!("The caller token is not accepted: {why}."))
}

/// A NumericDate may have a fraction (RFC 7519 section 2); the whole seconds decide. A number that is written
/// with an exponent is taken for what it is, and refused beyond what a float counts one by one.
fn whole_seconds(number: &Number) -> Option<u64> {
    let whole = |seconds: f64| format!("{:.0}", seconds.trunc()).parse().ok();
    let counted = number.as_f64().filter(|seconds| (0.0..9_007_199_254_740_992.0).contains(seconds));
    number.as_u64().or_else(|| counted.and_then(whole))
}

/// The members of header or claims as they stand, each at most once.
struct Claims<'p> {
    members: Vec<(String, Value)>,
    text: &'p [u8],
}

impl<'p> Claims<'p> {
    fn read(payload: &'p [u8]) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_slice(payload);
        let members = Members::deserialize(&mut reader)
            .map_err(|_| "its header or claims are not one JSON object, each member once")?;
        reader.end().map_err(|_| "something stands behind its header or claims")?;
        Ok(Self { members: members.0, text: payload })
    }

    /// What stands where `claim` says; nothing if the way there ends or leads through something that is no
    /// object. Each object on the way is read member by member, because one that stands twice is unclear.
    fn at(&self, claim: &Claim) -> Result<Option<Value>, Refusal> {
        let steps = match claim.steps() {
            [only] => return Ok(self.value(only).cloned()),
            steps => steps,
        };
        let mut text = self.text.trim_ascii_start();
        for step in steps {
            if text.first() != Some(&b'{') {
                return Ok(None);
            }
            let Members(members) = serde_json::from_slice::<Members<String, &RawValue>>(text)
                .map_err(|_| invalid(&format!("its claim {:?} is not clear", claim.as_str())))?;
            let Some((_, inside)) = members.into_iter().find(|(name, _)| name == step) else {
                return Ok(None);
            };
            text = inside.get().as_bytes();
        }
        Ok(serde_json::from_slice(text).ok())
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.members.iter().find(|(claim, _)| claim == name).map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.value(name)?.as_str()
    }

    /// A NumericDate; a claim of another type is an error, never absent (CVE-2026-25537 was that).
    fn time(&self, name: &str) -> Result<Option<u64>, &'static str> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                whole_seconds(number).map(Some).ok_or("exp, nbf or iat is out of range")
            }
            Some(_) => Err("exp, nbf or iat is not a number"),
        }
    }

    fn audience_holds(&self, wanted: &str) -> bool {
        match self.value("aud") {
            Some(Value::String(one)) => one == wanted,
            Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(wanted)),
            _ => false,
        }
    }

    /// Only words that begin with `relay:` are read, from `scope` as text or as a list.
    fn scopes(&self) -> Result<Option<Vec<String>>, &'static str> {
        let words: Vec<&str> = match self.value("scope") {
            None => return Ok(None),
            Some(Value::String(text)) => text.split_whitespace().collect(),
            Some(Value::Array(many)) => {
                let words: Option<Vec<&str>> = many.iter().map(Value::as_str).collect();
                words.ok_or("its scope holds something that is no text")?
            }
            Some(_) => return Err("its scope is neither text nor a list"),
        };
        let own: Vec<String> =
            words.into_iter().filter(|word| word.starts_with("relay:")).map(str::to_owned).collect();
        Ok((!own.is_empty()).then_some(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_through_objects_whose_members_stand_once() {
        let payload = br#" { "sub":"x", "k.io": {"ns":"team-a","sa":{"name":"app"},"list":["x"]},
            "twice": {"ns":"a","ns":"b"}, "deep": {"ok":1,"in":{"a":1,"a":2}} }"#;
        let claims = Claims::read(payload).unwrap();
        let at = |pointer: &str| claims.at(&Claim::parse(pointer).unwrap()).ok();
        let rows = [
            ("/k.io/ns", Some(Some("team-a")), "a member of a member"),
            ("/k.io/sa/name", Some(Some("app")), "one deeper"),
            ("/sub", Some(Some("x")), "one step is a name"),
            ("/k.io/none", Some(None), "not there"),
            ("/sub/x", Some(None), "through a text"),
            ("/k.io/list/0", Some(None), "through a list"),
            ("/twice/ns", None, "a member that stands twice"),
            ("/deep/in/a", None, "the same one deeper"),
        ];
        for (pointer, wanted, what) in rows {
            let found = at(pointer).map(|value| value.map(|value| value.as_str().unwrap().to_owned()));
            assert_eq!(found, wanted.map(|value| value.map(str::to_owned)), "{what}");
        }
    }

    #[test]
    fn a_time_is_read_as_the_number_that_it_is() {
        let rows = [
            ("1795314696", Some(1_795_314_696), "whole seconds"),
            ("1795314696.9", Some(1_795_314_696), "a fraction"),
            ("1.795314696e9", Some(1_795_314_696), "an exponent"),
            ("0", Some(0), "the epoch"),
            ("99999993333333333333333333333333333333333339999", None, "too large, which once was read as 9"),
            ("9.5e43", None, "too large, with an exponent"),
            ("-1", None, "before the epoch"),
            ("-0.5", None, "a little before it"),
        ];
        for (text, seconds, what) in rows {
            let payload = format!(r#"{{"nbf":{text}}}"#);
            let claims = Claims::read(payload.as_bytes()).unwrap();
            assert_eq!(claims.time("nbf").ok().flatten(), seconds, "{what}");
        }
    }
}
