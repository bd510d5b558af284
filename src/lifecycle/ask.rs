//! What a token endpoint is asked: one request, built from configuration and the secret's fields.
//!
//! Values stand where the grant's own specification has them, escaped for that place, in buffers of their final
//! size that are wiped. What must never enter: an app's request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use std::time::Duration;
use zeroize::Zeroizing;

use super::assertion;
use super::fill::{filled, missing, path};
use super::words::Words;
use crate::config::renewal::{Client, ClientAuth, Encoding, Grant, Renewal};
use crate::net::fetch::FetchRequest;
use crate::refusal::{Code, Refusal};
use crate::secret::{Field, Secret};

/// From the first lookup to the answer's last byte.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
pub(super) const LONGEST_ANSWER: usize = 64 * 1024;
/// What relay calls itself: some vendors answer nobody without a name.
pub(super) const NAME: HeaderValue = HeaderValue::from_static(concat!("relay/", env!("CARGO_PKG_VERSION")));

/// A request, and what must not be repeated of it.
pub(super) struct Asked {
    request: FetchRequest,
    words: Words,
}

type Parameters<'a> = Vec<(&'a str, Zeroizing<Vec<u8>>)>;

impl Asked {
    /// The request for `renewal` at `place`, an origin or a base path there, with these fields; `refresh` is used in the place of the field's refresh token.
    pub(super) fn build(
        renewal: &Renewal,
        place: &str,
        fields: &[Field],
        refresh: Option<&Secret>,
    ) -> Result<Self, Refusal> {
        let mut words = Words::of(fields);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, NAME);
        let mut parameters: Parameters<'_> = Vec::new();
        let plain = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
        match &renewal.kind {
            Grant::Refresh(name) => {
                parameters.push(("grant_type", plain("refresh_token")));
                let own = fields.iter().find(|field| field.spec.name == *name).map(|field| &field.value);
                let token = refresh.or(own).ok_or_else(|| missing(name.as_str()))?;
                words.hide(token.expose());
                parameters.push(("refresh_token", Zeroizing::new(token.expose().to_vec())));
            }
            Grant::ClientCredentials => parameters.push(("grant_type", plain("client_credentials"))),
            Grant::Assertion(made) => {
                let token = assertion::signed(made, fields)?;
                words.hide(&token);
                if made.bearer {
                    headers.insert(AUTHORIZATION, header(&[b"Bearer ", &token])?);
                } else {
                    parameters.push(("grant_type", plain("urn:ietf:params:oauth:grant-type:jwt-bearer")));
                    parameters.push(("assertion", token));
                }
            }
            Grant::Login => {}
        }
        if let Some(client) = &renewal.client {
            who(client, fields, &mut headers, &mut parameters, &mut words)?;
        }
        for (name, value) in &renewal.parameters {
            let value = filled(value, fields)?;
            parameters.push((name, value));
        }
        let body = body(renewal.encoding, &parameters, &mut headers)?;
        let url = format!("{place}{}", path(&renewal.path, fields)?);
        let request = FetchRequest {
            method: Method::POST,
            url,
            headers,
            body,
            limit: LONGEST_ANSWER,
            timeout: ANSWERED_WITHIN,
            tls: None,
        };
        Ok(Self { request, words })
    }

    /// Gives both up.
    pub(super) fn into_parts(self) -> (FetchRequest, Words) {
        (self.request, self.words)
    }
}

/// Says who asks (RFC 6749 section 2.3.1).
fn who<'a>(
    client: &Client,
    fields: &[Field],
    headers: &mut HeaderMap,
    parameters: &mut Parameters<'a>,
    words: &mut Words,
) -> Result<(), Refusal> {
    let id = filled(&client.id, fields)?;
    let secret = client.secret.as_ref().map(|secret| filled(secret, fields)).transpose()?;
    if let Some(secret) = &secret {
        words.hide(secret);
    }
    match (client.auth, secret) {
        (ClientAuth::Basic, Some(secret)) => {
            let (id, secret) = (encoded(&id), encoded(&secret));
            let mut pair = Zeroizing::new(Vec::with_capacity(id.len() + secret.len() + 1));
            pair.extend_from_slice(&id);
            pair.push(b':');
            pair.extend_from_slice(&secret);
            let mut text = Zeroizing::new(vec![0; pair.len().div_ceil(3) * 4]);
            let unusable = |_| Refusal::from(Code::CredentialUnusable);
            let length = STANDARD.encode_slice(pair.as_slice(), &mut text).map_err(unusable)?;
            text.truncate(length);
            headers.insert(AUTHORIZATION, header(&[b"Basic ", &text])?);
        }
        (_, secret) => {
            parameters.push(("client_id", id));
            parameters.extend(secret.map(|secret| ("client_secret", secret)));
        }
    }
    Ok(())
}

fn body(
    encoding: Encoding,
    parameters: &Parameters<'_>,
    headers: &mut HeaderMap,
) -> Result<Vec<u8>, Refusal> {
    if parameters.is_empty() {
        return Ok(Vec::new());
    }
    // Six bytes are the longest that a byte becomes: a buffer that grew would leave values behind.
    let room = parameters.iter().map(|(name, value)| 6 * (name.len() + value.len()) + 8).sum();
    let mut out = Zeroizing::new(Vec::with_capacity(room));
    let kind = match encoding {
        Encoding::Form => {
            for (number, (name, value)) in parameters.iter().enumerate() {
                if number > 0 {
                    out.push(b'&');
                }
                encode(name.as_bytes(), &mut out);
                out.push(b'=');
                encode(value, &mut out);
            }
            "application/x-www-form-urlencoded"
        }
        Encoding::Json => {
            for (number, (name, value)) in parameters.iter().enumerate() {
                out.push(if number == 0 { b'{' } else { b',' });
                string(name.as_bytes(), &mut out)?;
                out.push(b':');
                string(value, &mut out)?;
            }
            out.push(b'}');
            "application/json"
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(std::mem::take(&mut *out))
}

/// A text as JSON has it.
fn string(text: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let unusable = || Refusal::from(Code::CredentialUnusable);
    let text = std::str::from_utf8(text).map_err(|_| unusable())?;
    serde_json::to_writer(out, text).map_err(|_| unusable())
}

/// As a form has it (WHATWG URL section 5.2).
fn encode(text: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or(b'0');
    for byte in text {
        match byte {
            b' ' => out.push(b'+'),
            b'*' | b'-' | b'.' | b'_' => out.push(*byte),
            byte if byte.is_ascii_alphanumeric() => out.push(*byte),
            byte => out.extend([b'%', digit(byte >> 4), digit(byte & 0x0f)]),
        }
    }
}

fn encoded(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(3 * text.len()));
    encode(text, &mut out);
    out
}

fn header(parts: &[&[u8]]) -> Result<HeaderValue, Refusal> {
    let mut text = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        text.extend_from_slice(part);
    }
    let unusable =
        |_| Refusal::new(Code::CredentialUnusable, "The stored credential cannot stand in a header.");
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).map_err(unusable)?;
    value.set_sensitive(true);
    Ok(value)
}
