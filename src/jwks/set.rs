//! One key set, from a JWKS document (RFC 7517) or one HS256 key.
//!
//! A key is bound to one algorithm by its type and curve. Keys of a kind that relay does not know are left out
//! (RFC 7517 section 5), so that an issuer may publish them. What must never enter: a symmetric or private key.

pub use jsonwebtoken::Algorithm;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;

use crate::secret::Secret;

/// The largest JWKS document read, in bytes.
pub const LARGEST_DOCUMENT: usize = 1024 * 1024;

/// The keys of one issuer.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    /// What was read, to see whether two sets are the same; empty for a shared key, which never changes.
    text: String,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// Why a key set cannot be used. Says what to mend; holds no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// The document is not a JWKS.
    #[error("this is not a JWKS document (RFC 7517): {0}")]
    Malformed(String),
    /// The document holds a symmetric key.
    #[error(
        "the JWKS holds a symmetric key (`oct`): whoever can read it could mint tokens; use HS256 with `key` instead"
    )]
    Symmetric,
    /// The document holds a private key.
    #[error(
        "the JWKS holds a private key (`d`): whoever can read it can mint tokens; publish the public half, and replace the key"
    )]
    Private,
    /// Two keys for the same algorithm share a `kid`.
    #[error("two keys of the JWKS have the kid {0:?}: which one signed is unclear")]
    DuplicateKid(String),
    /// No key of the document fits a configured algorithm.
    #[error("no key of the JWKS can verify any of the configured algorithms")]
    NoUsableKey,
    /// The HS256 key is too short.
    #[error("an HS256 key has at least 32 bytes (RFC 7518 section 3.2)")]
    ShortKey,
}

impl KeySet {
    /// Reads a JWKS document and keeps the keys that fit `algorithms`. A key is bound to one algorithm
    /// by its type and curve (RFC 8725 section 3.1); RSA keys under 2048 bits and keys for encryption
    /// are left out.
    pub fn parse(document: &str, algorithms: &[Algorithm]) -> Result<Self, JwksError> {
        if document.len() > LARGEST_DOCUMENT {
            return Err(JwksError::Malformed(format!("it is larger than {LARGEST_DOCUMENT} bytes")));
        }
        let set: Document =
            serde_json::from_str(document).map_err(|e| JwksError::Malformed(e.to_string()))?;
        let mut keys: Vec<Key> = Vec::new();
        for value in set.keys {
            if value.get("kty").and_then(Value::as_str) == Some("oct") || value.get("k").is_some() {
                return Err(JwksError::Symmetric);
            }
            if value.get("d").is_some() {
                return Err(JwksError::Private);
            }
            let Some(key) = usable(value, algorithms) else { continue };
            let twin = |other: &Key| other.algorithm == key.algorithm && other.kid == key.kid;
            if let Some(kid) = key.kid.as_ref().filter(|_| keys.iter().any(twin)) {
                return Err(JwksError::DuplicateKid(kid.clone()));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(JwksError::NoUsableKey);
        }
        Ok(Self { keys })
    }

    /// The one HS256 key of at least 32 bytes.
    pub fn hs256(secret: &Secret) -> Result<Self, JwksError> {
        if secret.len() < 32 {
            return Err(JwksError::ShortKey);
        }
        let key = DecodingKey::from_secret(secret.expose());
        Ok(Self { keys: vec![Key { kid: None, algorithm: Algorithm::HS256, key, text: String::new() }] })
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has none, so that no token is good by it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys' ids, for people.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.kid.as_deref().unwrap_or("(no kid)"))
    }

    /// Whether it has a key that a token with this `kid` could mean.
    pub fn knows(&self, kid: Option<&str>) -> bool {
        kid.is_none() || self.keys.iter().any(|key| key.kid.is_none() || key.kid.as_deref() == kid)
    }

    /// Whether both have the same keys, in whatever order they were written.
    pub fn is_same(&self, other: &Self) -> bool {
        let sorted = |set: &Self| {
            let mut texts: Vec<String> = set.keys.iter().map(|key| key.text.clone()).collect();
            texts.sort();
            texts
        };
        sorted(self) == sorted(other)
    }

    /// Whether `signature` (base64url) over `message` is by a key of this set for `algorithm`. With a
    /// `kid` only that key counts, unless the set's only key has none; without one the choice must be
    /// clear.
    pub fn verifies(&self, algorithm: Algorithm, kid: Option<&str>, message: &[u8], signature: &str) -> bool {
        let mut fitting = self.keys.iter().filter(|key| {
            key.algorithm == algorithm && (kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid)
        });
        let (Some(key), None) = (fitting.next(), fitting.next()) else { return false };
        jsonwebtoken::crypto::verify(signature, message, &key.key, algorithm).unwrap_or(false)
    }
}

fn usable(value: Value, algorithms: &[Algorithm]) -> Option<Key> {
    // Members of an object are sorted, so the same key gives the same text.
    let text = value.to_string();
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(p) if p.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        // 2048 bits are 342 base64url characters.
        AlgorithmParameters::RSA(p) if p.n.len() >= 342 => Algorithm::RS256,
        _ => return None,
    };
    let declared = match jwk.common.key_algorithm {
        None => Some(algorithm),
        Some(KeyAlgorithm::ES256) => Some(Algorithm::ES256),
        Some(KeyAlgorithm::EdDSA) => Some(Algorithm::EdDSA),
        Some(KeyAlgorithm::RS256) => Some(Algorithm::RS256),
        Some(_) => None,
    };
    let for_signing = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    if declared != Some(algorithm) || !for_signing || !algorithms.contains(&algorithm) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { kid: jwk.common.key_id, algorithm, key, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_could_not_be_trusted_is_refused() {
        let oct = r#"{"keys":[{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;
        let p256 = r#"{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
        let rows = [
            ("[]", "an array is no JWKS"),
            (
                &format!(r#"{{"keys":[{}]}}"#, p256.replace("\"kid\"", "\"d\":\"AAAA\",\"kid\"")),
                "a private key",
            ),
            (
                &format!(r#"{{"keys":[{p256},{{"kty":"oct","kid":"b"}}]}}"#),
                "a symmetric key without its bytes, beside a good one",
            ),
            (r#"{"keys":[]}"#, "an empty set verifies nothing"),
            (oct, "a symmetric key in a public document"),
            (&format!(r#"{{"keys":[{p256},{p256}]}}"#), "one kid, two keys"),
            (
                &format!(r#"{{"keys":[{}]}}"#, p256.replace("\"kid\"", "\"use\":\"enc\",\"kid\"")),
                "a key for encryption",
            ),
            (
                &format!(r#"{{"keys":[{}]}}"#, p256.replace("\"kid\"", "\"alg\":\"ES384\",\"kid\"")),
                "a key for another algorithm",
            ),
        ];
        for (document, mistake) in rows {
            assert!(KeySet::parse(document, &[Algorithm::ES256]).is_err(), "{mistake}");
        }
        let good = format!(r#"{{"keys":[{p256}]}}"#);
        assert!(KeySet::parse(&good, &[Algorithm::ES256]).is_ok());
        assert!(KeySet::parse(&good, &[Algorithm::RS256]).is_err(), "not a configured algorithm");
        let beside = format!(r#"{{"keys":[{{"kty":"AKP","alg":"ML-DSA-44","pub":"AA"}},7,{p256}]}}"#);
        assert_eq!(
            KeySet::parse(&beside, &[Algorithm::ES256]).unwrap().len(),
            1,
            "a kind not known is left out"
        );
    }

    #[test]
    fn a_set_is_the_same_in_another_order_and_another_with_one_key_more() {
        let x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
        let y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
        let key = |kid: &str| format!(r#"{{"kty":"EC","crv":"P-256","kid":"{kid}","x":"{x}","y":"{y}"}}"#);
        let turned = |kid: &str| format!(r#"{{"y":"{y}","x":"{x}","kid":"{kid}","crv":"P-256","kty":"EC"}}"#);
        let set = |keys: &[String]| {
            KeySet::parse(&format!(r#"{{"keys":[{}]}}"#, keys.join(",")), &[Algorithm::ES256]).unwrap()
        };
        let both = set(&[key("a"), key("b")]);
        assert!(both.is_same(&set(&[turned("b"), turned("a")])));
        assert!(!both.is_same(&set(&[key("a")])) && !both.is_same(&set(&[key("a"), key("c")])));
        assert!(both.knows(Some("a")) && both.knows(None) && !both.knows(Some("c")));
    }
}
