//! Where a key set is read from: a file, an address, or an issuer that names the address (OIDC discovery).
//!
//! The address is the operator's own word, or his issuer's, so it is not vetted as a vendor's is; but it is
//! https, or this machine, no redirect is followed, and what comes is bounded. A bearer token for it is read
//! anew for each call, and goes to the address that was configured and to no other origin. What must never
//! enter: an address out of a token (`jku`, `x5u`), a token's value in an error.

use std::path::PathBuf;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, DATE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::LARGEST_DOCUMENT;
use crate::net::fetch::{FetchError, FetchRequest, Fetched, fetch, operators_address};
use crate::net::tls::{Roots, client_config};
use crate::secret::Secret;

/// Where a key set is read from.
pub enum Source {
    /// A JWKS file.
    File(PathBuf),
    /// An address.
    Address(Address),
}

/// An address that answers with a JWKS document.
pub struct Address {
    /// `https://`, or `http://` on this machine.
    pub url: String,
    /// The issuer, if `url` is that of an issuer whose metadata names the JWKS (OpenID Connect Discovery 1.0).
    pub discovery: Option<String>,
    /// Trust roots, PEM, instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// What the address wants to be shown.
    pub bearer: Option<Bearer>,
}

/// A bearer token for the address.
pub enum Bearer {
    /// Read anew for each call: platforms replace it while relay runs.
    File(PathBuf),
    /// This one.
    Fixed(Secret),
}

/// A document that was read.
pub struct Loaded {
    /// The JWKS.
    pub document: String,
    /// `Cache-Control: max-age`; nothing if it must not be kept.
    pub max_age: Option<Duration>,
    /// The server's clock, as it wrote it.
    pub date: Option<String>,
}

/// Why there is no document. What to do is in the text; no token's value is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A file of the configuration cannot be read.
    #[error("{0}: {1}")]
    File(String, String),
    /// The trust roots are not usable.
    #[error("ca_file: {0}")]
    Roots(String),
    /// Nobody answered as wanted.
    #[error("{0}: {1}")]
    Call(String, FetchError),
    /// The answer was no success.
    #[error("{0} answered {1}, where 200 is wanted; redirects are not followed")]
    Status(String, StatusCode),
    /// The answer is no text.
    #[error("{0} answered with something that is no UTF-8 text")]
    NoText(String),
    /// The issuer's metadata is none.
    #[error("{0} answered with no issuer's metadata (OpenID Connect Discovery 1.0): {1}")]
    Metadata(String, String),
    /// The metadata is another issuer's.
    #[error(
        "the metadata is of the issuer {0:?}, and relay.toml says {1:?}: they must be the same to the letter"
    )]
    Issuer(String, String),
    /// The metadata names an address that is not called.
    #[error("the metadata's jwks_uri is not an https:// address")]
    Target,
}

/// The members of an issuer's metadata that matter here (section 3).
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Address {
    /// Reads the document, within `limit` for each call.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn load(&self, limit: Duration) -> Result<Loaded, SourceError> {
        let Some(issuer) = &self.discovery else {
            return document(self.call(&self.url, limit).await?, &self.url);
        };
        // Section 4: a slash at the issuer's end goes before the path is added.
        let place = format!("{}/.well-known/openid-configuration", self.url.trim_end_matches('/'));
        let answer = self.call(&place, limit).await?;
        let metadata: Metadata = serde_json::from_slice(&answer.body)
            .map_err(|error| SourceError::Metadata(place.clone(), error.to_string()))?;
        // Section 4.3: an issuer that could speak for another one would be both.
        if metadata.issuer != *issuer {
            return Err(SourceError::Issuer(metadata.issuer, issuer.clone()));
        }
        let target = operators_address(&metadata.jwks_uri).ok_or(SourceError::Target)?;
        // An issuer elsewhere names nothing on this machine.
        if self.url.starts_with("https://") && !target.starts_with("https://") {
            return Err(SourceError::Target);
        }
        document(self.call(&target, limit).await?, &target)
    }

    async fn call(&self, url: &str, limit: Duration) -> Result<Fetched, SourceError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
        // Some front ends of issuers turn away who does not say what it is.
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("relay/", env!("CARGO_PKG_VERSION"))));
        if let Some(bearer) = self.bearer.as_ref().filter(|_| same_origin(url, &self.url)) {
            headers.insert(AUTHORIZATION, bearer.field()?);
        }
        let tls = match &self.ca_file {
            None => None,
            Some(path) => {
                let pem = std::fs::read(path)
                    .map_err(|error| SourceError::File(path.display().to_string(), error.to_string()))?;
                Some(client_config(Roots::Pem(&pem)).map_err(|error| SourceError::Roots(error.to_string()))?)
            }
        };
        let request = FetchRequest {
            method: Method::GET,
            url: url.to_owned(),
            headers,
            body: Vec::new(),
            limit: LARGEST_DOCUMENT,
            timeout: limit,
            tls,
        };
        let answer = fetch(request).await.map_err(|error| SourceError::Call(url.to_owned(), error))?;
        if answer.status != StatusCode::OK {
            return Err(SourceError::Status(url.to_owned(), answer.status));
        }
        Ok(answer)
    }
}

impl Bearer {
    fn field(&self) -> Result<HeaderValue, SourceError> {
        let mut text = Zeroizing::new(b"Bearer ".to_vec());
        match self {
            Self::Fixed(secret) => text.extend_from_slice(secret.expose()),
            Self::File(path) => {
                let name = || path.display().to_string();
                let read =
                    std::fs::read(path).map_err(|error| SourceError::File(name(), error.to_string()))?;
                text.extend_from_slice(Zeroizing::new(read).trim_ascii());
            }
        }
        let mut field = HeaderValue::from_bytes(&text).map_err(|_| {
            SourceError::File("jwks_token".to_owned(), "it is no token of visible ASCII".to_owned())
        })?;
        field.set_sensitive(true);
        Ok(field)
    }
}

fn document(answer: Fetched, place: &str) -> Result<Loaded, SourceError> {
    let text = |name| answer.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let (max_age, date) = (max_age(&answer.headers), text(DATE).map(str::to_owned));
    let document = String::from_utf8(answer.body).map_err(|_| SourceError::NoText(place.to_owned()))?;
    Ok(Loaded { document, max_age, date })
}

fn same_origin(one: &str, other: &str) -> bool {
    match (Url::parse(one), Url::parse(other)) {
        (Ok(one), Ok(other)) => one.origin() == other.origin(),
        _ => false,
    }
}

/// RFC 9111 section 5.2.2, as far as it says how long the document is good.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut age = None;
    for directive in fields.flat_map(|field| field.split(',')).map(|word| word.trim().to_ascii_lowercase()) {
        if matches!(directive.as_str(), "no-store" | "no-cache") {
            return Some(Duration::ZERO);
        }
        let seconds = directive.strip_prefix("max-age=").and_then(|rest| rest.trim_matches('"').parse().ok());
        age = age.or(seconds.map(Duration::from_secs));
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_document_is_good_is_read_from_cache_control() {
        let rows = [
            ("max-age=300", Some(300), "plain"),
            ("public, Max-Age=\"90\", must-revalidate", Some(90), "among others, quoted"),
            ("max-age=90, no-cache", Some(0), "not to be kept"),
            ("no-store", Some(0), "not to be stored"),
            ("s-maxage=7", None, "for shared caches alone"),
            ("max-age=soon", None, "no number"),
        ];
        for (field, seconds, what) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(field));
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{what}");
        }
    }

    #[test]
    fn a_token_goes_to_no_other_origin() {
        assert!(same_origin("https://a.example/keys", "https://a.example:443/x"));
        for other in ["https://b.example/", "http://a.example/", "https://a.example:8443/", "nonsense"] {
            assert!(!same_origin("https://a.example/keys", other), "{other}");
        }
    }
}
