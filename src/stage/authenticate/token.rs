//! One token, from its text to an [`Identity`] (RFC 7519, RFC 8725).
//!
//! The cheap checks stand before the signature. `crit`, `jwk`, `jku` and `x5*` are never obeyed: the
//! first is refused, the others are not read. A claim that stands twice makes the token unclear.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize as _;
use serde_json::{Number, Value};

use super::{Identity, TokenRules};
use crate::jwks::Algorithm;
use crate::model::{Customer, Members, SecretId};
use crate::refusal::{Code, Refusal};

/// Checks everything but the present moment's `exp` and `nbf` twice over: those are compared again by
/// the caller on every use.
pub(super) fn verify(rules: &TokenRules, token: &str, now: u64) -> Result<Identity, Refusal> {
    let (message, signature) = token.rsplit_once('.').ok_or_else(|| invalid("it has not three parts"))?;
    let (header, payload) = message.split_once('.').ok_or_else(|| invalid("it has not three parts"))?;
    let header = decoded(header).ok_or_else(|| invalid("its header is not base64url"))?;
    let header = Claims::read(&header).map_err(|why| invalid(&why))?;
    if header.value("crit").is_some() || header.value("b64").is_some() {
        return Err(invalid("its header demands an extension that relay does not know"));
    }
    let algorithm = header
        .text("alg")
        .and_then(algorithm)
        .filter(|algorithm| rules.algorithms.contains(algorithm))
        .ok_or_else(|| invalid("its algorithm is not one that relay is configured for"))?;
    let kid = header.text("kid");
    if kid.is_none() && header.value("kid").is_some() {
        return Err(invalid("its kid is no text"));
    }
    let payload = decoded(payload).ok_or_else(|| invalid("its claims are not base64url"))?;
    let claims = Claims::read(&payload).map_err(|why| invalid(&why))?;
    let identity = check(rules, &claims, now)?;
    if !rules.keys.verifies(algorithm, kid, message.as_bytes(), signature) {
        return Err(invalid("its signature is not by a configured key"));
    }
    Ok(identity)
}

fn check(rules: &TokenRules, claims: &Claims, now: u64) -> Result<Identity, Refusal> {
    let issuer = claims.text("iss").filter(|iss| *iss == rules.issuer).ok_or_else(|| {
        Refusal::new(Code::TokenIssuer, format!("The caller token's iss must be {:?}.", rules.issuer))
    })?;
    if !claims.audience_holds(&rules.audience) {
        let detail = format!("The caller token's aud must hold {:?}.", rules.audience);
        return Err(Refusal::new(Code::TokenAudience, detail));
    }
    let expires_at = claims.time("exp").map_err(invalid)?.ok_or_else(|| invalid("it has no numeric exp"))?;
    let not_before = claims.time("nbf").map_err(invalid)?;
    let issued_at = claims.time("iat").map_err(invalid)?;
    let leeway = rules.leeway.as_secs();
    if now >= expires_at.saturating_add(leeway) {
        return Err(Refusal::new(Code::TokenExpired, "The caller token's exp is past: mint a fresh one."));
    }
    let born = issued_at.unwrap_or(now).min(now.saturating_add(leeway));
    if expires_at.saturating_sub(born) > rules.max_lifetime.as_secs().saturating_add(leeway) {
        let longest = humantime::format_duration(rules.max_lifetime);
        return Err(invalid(&format!("it lives longer than {longest}")));
    }
    let customer = claims.text(&rules.customer_claim).and_then(|text| Customer::parse(text).ok());
    let customer = customer.ok_or_else(|| {
        let claim = &rules.customer_claim;
        let detail =
            format!("The caller token's claim {claim:?} must name the customer: 1 to 128 bytes of text.");
        Refusal::new(Code::TokenCustomer, detail)
    })?;
    let secret = match claims.value(&rules.secret_claim) {
        None => None,
        Some(value) => Some(value.as_str().and_then(|text| SecretId::parse(text).ok()).ok_or_else(|| {
            invalid(&format!("its claim {:?} is not a hyphenated UUID", rules.secret_claim))
        })?),
    };
    Ok(Identity {
        customer,
        secret,
        issuer: issuer.to_owned(),
        subject: claims.text("sub").map(str::to_owned),
        token_id: claims.text("jti").map(str::to_owned),
        scopes: claims.scopes().map_err(invalid)?,
        expires_at,
        not_before,
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
struct Claims(Vec<(String, Value)>);

impl Claims {
    fn read(payload: &[u8]) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_slice(payload);
        let members = Members::deserialize(&mut reader)
            .map_err(|_| "its header or claims are not one JSON object, each member once")?;
        reader.end().map_err(|_| "something stands behind its header or claims")?;
        Ok(Self(members.0))
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(claim, _)| claim == name).map(|(_, value)| value)
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
            let claims = Claims::read(format!(r#"{{"nbf":{text}}}"#).as_bytes()).unwrap();
            assert_eq!(claims.time("nbf").ok().flatten(), seconds, "{what}");
        }
    }
}
