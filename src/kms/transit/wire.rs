//! One call to the API of OpenBao or Vault, and what its answer means: later, no, or not this blob.
//!
//! The difference decides whether warm keys go on serving. A garbled record is answered 400, which must not
//! read as "no": whoever writes to the store could stop every customer with one. Bodies may hold a data key:
//! both ways they are wiped. What must never enter: the server's text without a bound on its length.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::TransitError;
use crate::kms::KmsError;
use crate::net::fetch::{FetchRequest, fetch};
use crate::secret::Secret;

/// One call; relay gives 2 s to all that a data key needs.
const CALL: Duration = Duration::from_millis(1500);
/// The longest answer, in bytes.
const LIMIT: usize = 256 * 1024;
/// The longest text of the server's that is passed on.
const LONGEST: usize = 400;

pub(super) struct Wire {
    address: String,
    namespace: Option<HeaderValue>,
    tls: Arc<ClientConfig>,
}

/// An answer, whatever the status.
pub(super) struct Said {
    pub(super) status: StatusCode,
    body: Zeroizing<Vec<u8>>,
}

impl Wire {
    pub(super) fn new(
        address: &str,
        namespace: Option<&str>,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, TransitError> {
        let namespace = namespace.map(HeaderValue::from_str).transpose();
        let namespace = namespace.map_err(|_| TransitError::Text("namespace"))?;
        Ok(Self { address: address.trim_end_matches('/').to_owned(), namespace, tls })
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Option<&impl Serialize>,
    ) -> Result<Said, KmsError> {
        let mut headers = HeaderMap::new();
        // Without it a Vault agent in between may refuse the call.
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(namespace) = &self.namespace {
            headers.insert("x-vault-namespace", namespace.clone());
        }
        if let Some(token) = token {
            headers.insert("x-vault-token", header(token)?);
        }
        let call = FetchRequest {
            method,
            url: format!("{}/v1/{path}", self.address),
            headers,
            body: body.map(written).transpose()?.unwrap_or_default(),
            limit: LIMIT,
            timeout: CALL,
            tls: Some(Arc::clone(&self.tls)),
        };
        let away = |why| KmsError::Unavailable(format!("{} at {path}: {why}", self.address));
        let fetched = fetch(call).await.map_err(away)?;
        Ok(Said { status: fetched.status, body: Zeroizing::new(fetched.body) })
    }
}

/// The token as a field's value that is wiped with its last copy.
pub(super) fn header(token: &Secret) -> Result<HeaderValue, KmsError> {
    let bytes = Bytes::from_owner(Zeroizing::new(token.expose().to_vec()));
    let mut value = HeaderValue::from_maybe_shared(bytes)
        .map_err(|_| KmsError::Denied("the token has bytes that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn written(body: &impl Serialize) -> Result<Vec<u8>, KmsError> {
    // Room for every call of relay's, so that nothing is moved and left behind.
    let mut out = Vec::with_capacity(16 * 1024);
    serde_json::to_writer(&mut out, body)
        .map_err(|e| KmsError::Unavailable(format!("the call could not be written: {e}")))?;
    Ok(out)
}

#[derive(Deserialize)]
struct Errors<'a> {
    #[serde(borrow, default)]
    errors: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Coded<'a> {
    #[serde(borrow, default)]
    plaintext: Cow<'a, str>,
    #[serde(borrow, default)]
    ciphertext: Cow<'a, str>,
}

impl Said {
    /// Itself, if the server did as asked.
    pub(super) fn judged(self, path: &str) -> Result<Self, KmsError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let why = self.errors();
        let text = format!("the server answered {path} with {}: {why}", self.status.as_u16());
        Err(match self.status.as_u16() {
            // A deleted key is no matter of this record. A record whose text is not whole is.
            400 if why.contains("key not found") => KmsError::Denied(format!("{text}; make the key again")),
            400 if path.contains("/decrypt/") || path.contains("/rewrap/") => KmsError::Broken(text),
            403 => KmsError::Denied(format!(
                "{text}; give relay's token a policy for this path, or relay another token; README.md has the policy"
            )),
            404 => KmsError::Denied(format!("{text}; look at mount and key in [keys]")),
            // Sealed, standby without a way on, not yet replicated, too many requests.
            412 | 429 | 472 | 473 | 500.. => KmsError::Unavailable(text),
            300..=399 => KmsError::Unavailable(format!("{text}; let address name the active server")),
            _ => KmsError::Denied(text),
        })
    }

    /// What the server said was wrong.
    pub(super) fn errors(&self) -> String {
        let errors = serde_json::from_slice::<Errors<'_>>(&self.body).map(|said| said.errors.join("; "));
        let errors = errors.unwrap_or_default();
        errors.chars().take(LONGEST).flat_map(char::escape_debug).collect()
    }

    pub(super) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, KmsError> {
        serde_json::from_slice(&self.body)
            .map_err(|_| KmsError::Unavailable("the server's answer is not what its API says".to_owned()))
    }

    pub(super) fn data<'a, T: Deserialize<'a>>(&'a self) -> Result<T, KmsError> {
        self.json::<Data<T>>().map(|answer| answer.data)
    }

    pub(super) fn ciphertext(&self) -> Result<Vec<u8>, KmsError> {
        let text = self.data::<Coded<'_>>()?.ciphertext;
        super::read(text.as_bytes())?;
        Ok(text.into_owned().into_bytes())
    }

    pub(super) fn plaintext(&self, len: usize) -> Result<Secret, KmsError> {
        let text = Zeroizing::new(self.data::<Coded<'_>>()?.plaintext.into_owned());
        let mut bytes = Zeroizing::new(vec![0; text.len()]);
        let found = STANDARD.decode_slice(text.as_bytes(), &mut bytes);
        let key = found.ok().filter(|found| *found == len).and_then(|found| bytes.get(..found));
        let key = key.ok_or_else(|| KmsError::Broken(format!("the server gave no key of {len} bytes")))?;
        Secret::filled(len, |out| {
            out.copy_from_slice(key);
            Ok(())
        })
    }
}
