//! `[callers]`, read: who may call, for which customer, and where their issuer's keys are.
//!
//! Plain settings. What must never enter: a key that is followed (that is `jwks`), a token.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;

/// `[callers]`, or one of several `[[callers]]`.
pub struct Callers {
    /// The issuer's keys.
    pub keys: CallerKeys,
    /// The required `iss`.
    pub issuer: String,
    /// The required `aud`.
    pub audience: String,
    /// The algorithms that a token may be signed with; the token has no say.
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the customer.
    pub customer: Claim,
    /// What stands before the claim's text in the customer's name; mostly nothing.
    pub customer_prefix: String,
    /// The claim that may name the secret.
    pub secret: Claim,
    /// The claim that may list the only secrets that may be used.
    pub secrets: Claim,
    /// The longest `exp - iat` (or `exp - now` without `iat`) accepted: 24 h.
    pub max_lifetime: Duration,
    /// Clock difference forgiven on `exp` and `nbf`: 30 s.
    pub leeway: Duration,
}

/// Where callers' keys come from.
pub enum CallerKeys {
    /// A JWKS file (RFC 7517), read again when it changes.
    JwksFile(PathBuf),
    /// An address, read again and again.
    JwksAddress(JwksAddress),
    /// A JWKS document given directly (`relay dev`, tests).
    Jwks(String),
    /// One HS256 key of at least 32 bytes.
    Hs256(Secret),
}

/// An address of a JWKS, or of the issuer whose metadata names it.
pub struct JwksAddress {
    /// `https://`, or `http://` on this machine.
    pub url: String,
    /// Whether `url` is the issuer's (OpenID Connect Discovery 1.0).
    pub discovery: bool,
    /// Trust roots instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// What the address wants to be shown.
    pub token: Option<JwksToken>,
}

/// A bearer token for the address of a JWKS.
pub enum JwksToken {
    /// Read anew for each call.
    File(PathBuf),
    /// From a variable.
    Fixed(Secret),
}

/// A signature algorithm of RFC 7518 or RFC 8037 that relay accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA P-256.
    Es256,
    /// RSA PKCS#1 v1.5.
    Rs256,
    /// Ed25519.
    EdDsa,
    /// HMAC-SHA-256; only alone.
    Hs256,
}

/// Where a claim stands: by its name, or by an RFC 6901 pointer to a member of a claim that is an object.
#[derive(Debug, Clone)]
pub struct Claim {
    written: String,
    steps: Vec<String>,
}

impl Claim {
    /// A claim by its name, whatever is in it.
    pub fn named(name: &str) -> Self {
        Self { written: name.to_owned(), steps: vec![name.to_owned()] }
    }

    /// A name, or a pointer if it begins with a slash.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(pointer) = text.strip_prefix('/') else {
            return if text.is_empty() { Err("is empty") } else { Ok(Self::named(text)) };
        };
        let steps: Option<Vec<String>> = pointer.split('/').map(unescaped).collect();
        let steps = steps.ok_or("is no pointer (RFC 6901): ~ stands only before 0 or 1")?;
        if steps.iter().any(String::is_empty) {
            return Err("has an empty part between its slashes");
        }
        Ok(Self { written: text.to_owned(), steps })
    }

    /// The member to look for in the claims, then in what that holds, and so on.
    pub fn steps(&self) -> &[String] {
        &self.steps
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// RFC 6901 section 4: `~1` is a slash, then `~0` is a tilde.
pub(super) fn unescaped(step: &str) -> Option<String> {
    let plain = step.replace("~1", "").replace("~0", "");
    (!plain.contains('~')).then(|| step.replace("~1", "/").replace("~0", "~"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_a_name_or_a_pointer() {
        let rows: [(&str, Option<&[&str]>, &str); 9] = [
            ("customer_id", Some(&["customer_id"]), "a name"),
            ("kubernetes.io", Some(&["kubernetes.io"]), "a name with a dot"),
            ("/kubernetes.io/namespace", Some(&["kubernetes.io", "namespace"]), "a pointer"),
            ("/https:~1~1saas.example~1id", Some(&["https://saas.example/id"]), "a slash in a name"),
            ("/~01", Some(&["~1"]), "a tilde before a digit"),
            ("", None, "nothing"),
            ("/", None, "an empty name"),
            ("/a//b", None, "an empty name within"),
            ("/~2", None, "an unknown escape"),
        ];
        for (text, steps, what) in rows {
            let claim = Claim::parse(text).ok();
            let found =
                claim.as_ref().map(|claim| claim.steps().iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), steps, "{what}");
        }
    }
}
