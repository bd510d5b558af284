//! A signed assertion: a JWT (RFC 7519) that says who asks (RFC 7523), with the secret's own key or the operator's.
//!
//! What must never enter: a key in an error, a claim that an app could choose.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::fill::filled;
use crate::clock::unix_seconds;
use crate::config::renewal::{Assertion, Signing};
use crate::refusal::{Code, Refusal};
use crate::secret::Field;

/// Clocks that are behind must not take it for one of the future.
const BEFORE: u64 = 30;

/// The assertion as it is sent.
pub(super) fn signed(made: &Assertion, fields: &[Field]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut head = Map::new();
    let algorithm = match made.algorithm {
        Signing::Rs256 => "RS256",
        Signing::Es256 => "ES256",
    };
    head.insert("alg".to_owned(), algorithm.into());
    head.insert("typ".to_owned(), "JWT".into());
    if let Some(id) = &made.key_id {
        head.insert("kid".to_owned(), text(&filled(id, fields)?)?);
    }
    let now = unix_seconds();
    let mut claims = Map::new();
    for (name, value) in &made.claims {
        claims.insert((*name).to_owned(), text(&filled(value, fields)?)?);
    }
    claims.insert("iat".to_owned(), json!(now.saturating_sub(BEFORE)));
    claims
        .insert("exp".to_owned(), json!(now.saturating_add(made.lifetime.as_secs().saturating_sub(BEFORE))));
    claims.insert("jti".to_owned(), uuid::Uuid::new_v4().to_string().into());
    let part = |part: Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(part).to_string());
    let unsigned = format!("{}.{}", part(head), part(claims));
    let key = filled(&made.key, fields)?;
    let signature = sign(made.algorithm, &key, unsigned.as_bytes())?;
    let mut token = Zeroizing::new(unsigned.into_bytes());
    token.push(b'.');
    token.extend_from_slice(URL_SAFE_NO_PAD.encode(signature).as_bytes());
    Ok(token)
}

fn text(value: &[u8]) -> Result<Value, Refusal> {
    let text = std::str::from_utf8(value).map_err(|_| Refusal::from(Code::CredentialUnusable))?;
    Ok(Value::from(text))
}

fn sign(algorithm: Signing, pem: &[u8], message: &[u8]) -> Result<Vec<u8>, Refusal> {
    let wrong = || {
        Refusal::new(
            Code::CredentialUnusable,
            "The private key is none that signs with this algorithm: PEM in PKCS#8 or PKCS#1 is wanted.",
        )
    };
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| wrong())?;
    let random = SystemRandom::new();
    match algorithm {
        Signing::Rs256 => {
            let pair = match &key {
                PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
                PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
                _ => return Err(wrong()),
            };
            let pair = pair.map_err(|_| wrong())?;
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| wrong())?;
            Ok(signature)
        }
        Signing::Es256 => {
            let PrivateKeyDer::Pkcs8(der) = &key else { return Err(wrong()) };
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
                .map_err(|_| wrong())?;
            Ok(pair.sign(&random, message).map_err(|_| wrong())?.as_ref().to_vec())
        }
    }
}
