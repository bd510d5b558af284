//! `oauth2`, `login` and `verify`: how access tokens are had, and how a credential is tried before it is sealed.
//!
//! Plain settings, checked: what is asked of the vendor, with which values, and how its answer is read. What must
//! never enter: a value of a secret; those come as fields, by templates.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::rule::Rule;
use super::template::{Part, Template};
use crate::model::{FieldName, Origin};
use crate::secret::Secret;

/// The field that templates find the access token under.
pub const ACCESS_TOKEN: &str = "access_token";

/// How an access token is had.
pub struct Renewal {
    /// Where it is asked for.
    pub origin: Origin,
    /// The same where it is not the upstream's: secrets are sealed for it.
    pub token_origin: Option<Origin>,
    /// Whether it is below the integration's upstream, wherever that is for a customer.
    pub below_upstream: bool,
    /// The path and query there; a field is one segment, escaped.
    pub path: Template,
    /// By which grant.
    pub kind: Grant,
    /// Who asks, where the vendor wants to know.
    pub client: Option<Client>,
    /// What else is said, by name.
    pub parameters: Vec<(String, Material)>,
    /// How it is said.
    pub encoding: Encoding,
    /// Where the answer has what.
    pub answer: Pointers,
    /// How long a token lives of which the answer does not say it.
    pub lifetime: Duration,
}

impl Renewal {
    /// The rule by which no app calls the endpoint through relay, where it stands below `base_path` of the upstream:
    /// what the vendor gives there is relay's to seal.
    pub fn closed_to_apps(&self, base_path: &str) -> Option<Rule> {
        let Template::Text(parts) = &self.path else { return None };
        let piece = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::Field(_) => "*".to_owned(),
        };
        let path: String = parts.iter().map(piece).collect();
        let path = path.split('?').next().unwrap_or_default();
        let below = match (self.below_upstream, &self.token_origin) {
            (true, _) => path,
            (false, None) => path.strip_prefix(base_path).filter(|rest| rest.starts_with('/'))?,
            (false, Some(_)) => return None,
        };
        Rule::parse(&format!("* {below}")).ok()
    }

    /// Whether this field is a private key, which stands in no request.
    pub fn is_key(&self, name: &FieldName) -> bool {
        match &self.kind {
            Grant::Assertion(Assertion { key: Material::Fields(key), .. }) => key.fields().contains(&name),
            _ => false,
        }
    }
}

/// By what an access token is had.
pub enum Grant {
    /// A refresh token, in this field (RFC 6749 section 6).
    Refresh(FieldName),
    /// The client's own credentials (RFC 6749 section 4.4).
    ClientCredentials,
    /// A signed assertion (RFC 7523).
    Assertion(Assertion),
    /// The values themselves, at an endpoint of the vendor's own.
    Login,
}

/// A client of a token endpoint.
pub struct Client {
    /// Its id.
    pub id: Material,
    /// Its secret; a public client has none.
    pub secret: Option<Material>,
    /// How it says who it is.
    pub auth: ClientAuth,
}

/// `auth`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// `Authorization: Basic`, both parts form-encoded first (RFC 6749 section 2.3.1).
    Basic,
    /// In the body.
    Body,
}

/// How parameters are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-www-form-urlencoded`
    Form,
    /// A JSON object of texts.
    Json,
}

/// A signed assertion.
pub struct Assertion {
    /// What it is signed with.
    pub algorithm: Signing,
    /// The private key, PEM.
    pub key: Material,
    /// `kid`
    pub key_id: Option<Material>,
    /// The claims `iss`, `sub`, `aud` and `scope`, as far as they are there.
    pub claims: Vec<(&'static str, Material)>,
    /// From now to `exp`.
    pub lifetime: Duration,
    /// Whether it is sent as `Authorization: Bearer`, as GitHub Apps do; else as a parameter.
    pub bearer: bool,
}

/// `algorithm` of an assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
}

/// Where a value comes from.
pub enum Material {
    /// Text with fields of the secret in it.
    Fields(Template),
    /// The operator's own, from `env:` or `file:`.
    Owned(Secret),
}

/// JSON pointers (RFC 6901) into an answer.
#[derive(Debug, Clone)]
pub struct Pointers {
    /// The access token.
    pub token: String,
    /// Seconds that it lives, as a number or as text.
    pub expires_in: Option<String>,
    /// When it expires, as RFC 3339 or in seconds since 1970.
    pub expires_at: Option<String>,
    /// The refresh token to use next.
    pub refresh: Option<String>,
}

/// A call that shows whether a credential works.
#[derive(Debug, Clone)]
pub struct Verify {
    /// GET or POST, without a body.
    pub method: Method,
    /// Path and query below the upstream's path.
    pub path: String,
    /// The status that means it works; any 2xx unless given.
    pub expect: Option<u16>,
    /// What the answer says then, where the status alone does not tell: a pointer, and the value there.
    pub says: Option<(String, Value)>,
}
