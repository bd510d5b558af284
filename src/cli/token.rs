//! `relay token`: mint a caller token with a local issuer's key, or look into one.
//!
//! Minting is for development and tests: whoever holds the key is every customer. Inspecting verifies
//! nothing and says so. What must never enter an output or an error: the key, or a token's signature.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Map, Value, json};

use crate::clock;
use crate::config::Claim;
use crate::model::{Customer, SecretId};
use crate::secret::Secret;

/// The longest token that is looked at, in bytes: what relay itself accepts.
pub const LONGEST_TOKEN: usize = 8 * 1024;

/// A key made here, to sign callers' tokens with (`relay dev`, `relay init --local-issuer`).
pub struct LocalIssuer {
    /// The ES256 private key, PKCS#8 PEM.
    pub key: Secret,
    /// The key's id.
    pub kid: String,
    /// The public half as a JWKS document (RFC 7517).
    pub jwks: String,
}

impl LocalIssuer {
    /// Makes a fresh P-256 key. `kid` is what tokens and JWKS call it.
    pub fn generate(kid: &str) -> Result<Self, TokenError> {
        let pair =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|_| TokenError::Key)?;
        // SEC 1 section 2.3.3: 4, then x and y of 32 bytes each.
        let point = pair.public_key_raw();
        let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else { return Err(TokenError::Key) };
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        Ok(Self {
            key: Secret::new(pair.serialize_pem().into_bytes()),
            kid: kid.to_owned(),
            jwks: json!({ "keys": [jwk] }).to_string(),
        })
    }
}

/// Who signs, and what relay expects of the token.
pub struct Signer<'a> {
    /// The ES256 private key, PKCS#8 PEM.
    pub key: &'a Secret,
    /// The key's id, so that relay finds it in the JWKS.
    pub kid: Option<&'a str>,
    /// `iss`
    pub issuer: &'a str,
    /// `aud`
    pub audience: &'a str,
    /// The claim that names the customer (`callers.customer`).
    pub customer_claim: &'a str,
    /// The claim that names the secret (`callers.secret`).
    pub secret_claim: &'a str,
}

/// What the token is to say.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// For which customer.
    pub customer: &'a Customer,
    /// The one secret that it may use, or any of the customer's.
    pub secret: Option<SecretId>,
    /// `scope`, such as `relay:use:slack`.
    pub scope: Option<&'a str>,
    /// From now to `exp`, at least a second.
    pub ttl: Duration,
}

/// Why no token was minted or shown. Holds nothing of key or token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The key is not one that signs ES256.
    #[error("the issuer's key is no ES256 private key in PKCS#8 PEM (\"BEGIN PRIVATE KEY\")")]
    Key,
    /// The lifetime is nothing.
    #[error("a token lives at least one second")]
    Lifetime,
    /// The claims of customer and secret are one, or one that the standard uses.
    #[error("the claim {0:?} cannot name a customer or a secret: it means something else")]
    Claim(String),
    /// What was given has not the shape of a token.
    #[error("this is no JWT: {0}")]
    NoToken(&'static str),
}

/// Mints an ES256 token (RFC 7519) with `iss`, `aud`, `exp`, `nbf`, `iat`, `jti` and the claims that
/// relay reads. `now` in seconds since 1970.
pub fn mint(signer: &Signer<'_>, order: &Order<'_>, now: u64) -> Result<String, TokenError> {
    let ttl = order.ttl.as_secs();
    if ttl == 0 {
        return Err(TokenError::Lifetime);
    }
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), signer.issuer.into());
    claims.insert("aud".to_owned(), signer.audience.into());
    claims.insert("iat".to_owned(), now.into());
    claims.insert("nbf".to_owned(), now.into());
    claims.insert("exp".to_owned(), now.saturating_add(ttl).into());
    claims.insert("jti".to_owned(), uuid::Uuid::new_v4().to_string().into());
    if let Some(scope) = order.scope {
        claims.insert("scope".to_owned(), scope.into());
    }
    name(&mut claims, signer.customer_claim, order.customer.as_str().to_owned())?;
    if let Some(secret) = order.secret {
        name(&mut claims, signer.secret_claim, secret.to_string())?;
    }
    choose_crypto();
    let mut header = Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = signer.kid.map(str::to_owned);
    let key = EncodingKey::from_ec_pem(signer.key.expose()).map_err(|_| TokenError::Key)?;
    jsonwebtoken::encode(&header, &claims, &key).map_err(|_| TokenError::Key)
}

/// A claim may be chosen freely, but not so that it overwrites another one.
fn name(claims: &mut Map<String, Value>, claim: &str, value: String) -> Result<(), TokenError> {
    let wrong = || TokenError::Claim(claim.to_owned());
    let parsed = Claim::parse(claim).map_err(|_| wrong())?;
    let (last, way) = parsed.steps().split_last().ok_or_else(wrong)?;
    let mut inside = claims;
    for step in way {
        let next = inside.entry(step.as_str()).or_insert_with(|| Map::new().into());
        inside = next.as_object_mut().ok_or_else(wrong)?;
    }
    if (way.is_empty() && last == "scope") || inside.contains_key(last) {
        return Err(wrong());
    }
    inside.insert(last.clone(), value.into());
    Ok(())
}

/// Two providers in one build would make jsonwebtoken panic at first use; this names the one. Only the
/// process's first call has an effect, and a second one is no error.
fn choose_crypto() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

/// What a token says, unverified, and without its signature.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The JOSE header.
    pub header: Map<String, Value>,
    /// The claims.
    pub claims: Map<String, Value>,
    now: u64,
}

/// Decodes a token without verifying anything. Spaces, a line end and the word `Bearer` before it are
/// forgiven. `now` in seconds since 1970.
pub fn inspect(text: &str, now: u64) -> Result<Inspection, TokenError> {
    let text = text.trim();
    let token = text.split_once(' ').map_or(text, |(scheme, rest)| {
        if scheme.eq_ignore_ascii_case("bearer") { rest.trim() } else { text }
    });
    if token.len() > LONGEST_TOKEN {
        return Err(TokenError::NoToken("it is longer than the 8 KiB that relay accepts"));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::NoToken("a JWT is three base64url parts with two dots between them"));
    };
    let header = part(header).ok_or(TokenError::NoToken("its first part is no JSON object in base64url"))?;
    let claims = part(claims).ok_or(TokenError::NoToken("its second part is no JSON object in base64url"))?;
    Ok(Inspection { header, claims, now })
}

fn part(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

impl Inspection {
    /// For a script: `verified` is always false.
    pub fn to_json(&self) -> Value {
        json!({
            "verified": false,
            "header": self.header,
            "claims": self.claims,
            "expired": self.left("exp").map(|left| left <= 0),
            "expires_in_seconds": self.left("exp"),
        })
    }

    /// For a person.
    pub fn to_text(&self) -> String {
        let mut text = "not verified: anyone can write such a token\n".to_owned();
        for (title, members) in [("header", &self.header), ("claims", &self.claims)] {
            let width = members.keys().map(|k| k.chars().count()).max().unwrap_or(0);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{title}");
            for (key, value) in members {
                let _ = write!(text, "  {:width$}  {}", harmless(key), harmless(&value.to_string()));
                if let (true, Some(at)) = (title == "claims", self.time(key)) {
                    let _ = write!(text, "  {at}");
                }
                text.push('\n');
            }
        }
        text
    }

    /// `2026-01-01T00:00:00Z, 59m left` beside the three claims that are times.
    fn time(&self, claim: &str) -> Option<String> {
        if !matches!(claim, "exp" | "nbf" | "iat") {
            return None;
        }
        let left = self.left(claim)?;
        let at = clock::rfc3339(self.now.saturating_add_signed(left));
        let span = humantime::format_duration(Duration::from_secs(left.unsigned_abs()));
        Some(match (claim, left) {
            ("exp", ..=0) => format!("{at}, expired {span} ago"),
            ("exp", _) => format!("{at}, {span} left"),
            ("nbf", 1..) => format!("{at}, not valid for another {span}"),
            (_, 1..) => format!("{at}, in {span}"),
            _ => format!("{at}, {span} ago"),
        })
    }

    /// Seconds from now to the time that a claim names; negative for the past.
    fn left(&self, claim: &str) -> Option<i64> {
        // RFC 7519 section 2: a NumericDate may have a fraction.
        let value = self.claims.get(claim)?;
        let at = value.as_i64().or_else(|| Some(whole(value.as_f64()?)))?;
        Some(at.saturating_sub_unsigned(self.now))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a fraction of a second is meant to go; `as` saturates")]
const fn whole(seconds: f64) -> i64 {
    seconds as i64
}

/// A token's text is its writer's: what could steer a terminal or turn a line's direction is escaped.
pub(super) fn harmless(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if steers(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
        shown
    })
}
