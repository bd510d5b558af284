//! Issuers' keys: which key may have signed a caller's token.
//!
//! A key set is read off the request path, from a JWKS document (RFC 7517) or one HS256 key. Which
//! algorithms count comes from configuration; a token's header only picks among keys. What must never
//! enter: a symmetric key inside a JWKS (whoever reads the document could mint), a private key, a
//! decision about claims.

pub use jsonwebtoken::Algorithm;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};

use crate::secret::Secret;

/// The largest JWKS document read, in bytes.
pub const LARGEST_DOCUMENT: usize = 1024 * 1024;

/// The keys of one issuer.
pub struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
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
        let set: JwkSet = serde_json::from_str(document).map_err(|e| JwksError::Malformed(e.to_string()))?;
        let mut keys: Vec<Key> = Vec::new();
        for jwk in &set.keys {
            if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
                return Err(JwksError::Symmetric);
            }
            let Some(key) = usable(jwk, algorithms) else { continue };
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
        Ok(Self { keys: vec![Key { kid: None, algorithm: Algorithm::HS256, key }] })
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

fn usable(jwk: &Jwk, algorithms: &[Algorithm]) -> Option<Key> {
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
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { kid: jwk.common.key_id.clone(), algorithm, key })
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
    }
}
