//! What a vendor gave for a secret: an access token, perhaps a new refresh token, and until when.
//!
//! Format 1: `1 | clear part | sealed access token | sealed refresh token | code 32`, each part behind its
//! length. The clear part says what must be known before anything is opened; the code (HMAC-SHA-256 under a key
//! derived from the data key) covers the record and the secret's [`Binding`], and no part is believed before it
//! is found right. Each token is sealed apart, so that a request opens the one it sends and no other. What must
//! never enter: a token in the clear part.

use aws_lc_rs::{hkdf, hmac};
use bytes::Bytes;
use zeroize::Zeroizing;

use super::EnvelopeError;
use super::sealed::{Binding, Purpose, drawn};
use super::wire::{self, FORMAT, Reader};
use crate::secret::{DataKey, Secret};

const CODE: usize = 32;

/// How an access token stands. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Counts what the vendor gave for this version, from 1.
    pub serial: u64,
    /// When the access token was had, or refused for good.
    pub obtained_at: u64,
    /// From when on it is of no use; 0 where there is none.
    pub expires_at: u64,
    /// Why the customer must connect the account again, in the vendor's words without a value of the secret; then
    /// there is no token.
    pub reconnect: Option<String>,
}

/// A stored record whose code was found right.
#[derive(Debug, Clone)]
pub struct SealedTokens {
    standing: Standing,
    clear: Bytes,
    access: Bytes,
    refresh: Bytes,
}

/// Seals what a vendor gave, for what `binding` says and nothing else. No access token means none is to be had.
pub fn seal_tokens(
    key: &DataKey,
    binding: &Binding<'_>,
    standing: &Standing,
    (access, refresh): (Option<&Secret>, Option<&Secret>),
) -> Result<Vec<u8>, EnvelopeError> {
    let clear = standing.encode();
    let said = aad(binding, &clear);
    let mut out = vec![FORMAT];
    wire::put(&mut out, &clear);
    for (purpose, token) in [(Purpose::Access, access), (Purpose::Refresh, refresh)] {
        let mut sealed = Vec::new();
        if let Some(token) = token {
            let (salt, nonce) = drawn()?;
            let plaintext = Zeroizing::new(token.expose().to_vec());
            purpose.of(key, binding)?.seal(&said, plaintext, (&salt, &nonce), &mut sealed)?;
        }
        wire::put(&mut out, &sealed);
    }
    let code = hmac::sign(&code_key(key)?, &aad(binding, &out));
    out.extend_from_slice(code.as_ref());
    Ok(out)
}

/// Seals anew what [`seal_tokens`] returned, as [`super::reseal`] does: no token leaves this function.
pub fn reseal_tokens(
    (old, from): (&DataKey, &Binding<'_>),
    record: &Bytes,
    (new, to): (&DataKey, &Binding<'_>),
) -> Result<Vec<u8>, EnvelopeError> {
    let tokens = SealedTokens::decode(old, from, record)?;
    let (access, refresh) = (tokens.open_access(old, from)?, tokens.open_refresh(old, from)?);
    seal_tokens(new, to, &tokens.standing, (access.as_ref(), refresh.as_ref()))
}

impl SealedTokens {
    /// Reads a stored record, if its code is right for this key and binding.
    pub fn decode(key: &DataKey, binding: &Binding<'_>, record: &Bytes) -> Result<Self, EnvelopeError> {
        let (signed, code) = Reader::over(record).rest_and_last::<CODE>()?;
        if key.id() != binding.data_key {
            return Err(EnvelopeError::WrongKey);
        }
        hmac::verify(&code_key(key)?, &aad(binding, signed), code)
            .map_err(|_| EnvelopeError::NotAuthentic)?;
        let mut from = Reader::of_record(signed)?;
        let [clear, access, refresh] = [from.bytes()?, from.bytes()?, from.bytes()?];
        from.end()?;
        let standing = Standing::read(clear)?;
        let [clear, access, refresh] = [clear, access, refresh].map(|part| record.slice_ref(part));
        Ok(Self { standing, clear, access, refresh })
    }

    /// What is known without opening it.
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Its size in memory, in bytes.
    pub fn len(&self) -> usize {
        self.clear.len() + self.access.len() + self.refresh.len() + CODE
    }

    /// Whether it has no bytes, which none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The access token, if there is one.
    pub fn open_access(&self, key: &DataKey, to: &Binding<'_>) -> Result<Option<Secret>, EnvelopeError> {
        self.open(Purpose::Access, &self.access, key, to)
    }

    /// The refresh token that came with it, if one did.
    pub fn open_refresh(&self, key: &DataKey, to: &Binding<'_>) -> Result<Option<Secret>, EnvelopeError> {
        self.open(Purpose::Refresh, &self.refresh, key, to)
    }

    fn open(
        &self,
        purpose: Purpose,
        sealed: &[u8],
        key: &DataKey,
        binding: &Binding<'_>,
    ) -> Result<Option<Secret>, EnvelopeError> {
        if sealed.is_empty() {
            return Ok(None);
        }
        let key = purpose.of(key, binding)?;
        key.open(&aad(binding, &self.clear), Reader::over(sealed)).map(Some)
    }
}

impl Standing {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        for number in [self.serial, self.obtained_at, self.expires_at] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.push(u8::from(self.reconnect.is_some()));
        wire::put(&mut out, self.reconnect.as_deref().unwrap_or_default().as_bytes());
        out
    }

    fn read(clear: &[u8]) -> Result<Self, EnvelopeError> {
        let mut from = Reader::over(clear);
        let (serial, obtained_at, expires_at) = (from.long()?, from.long()?, from.long()?);
        let refused = from.flag()?;
        let why = from.text()?.to_owned();
        from.end()?;
        Ok(Self { serial, obtained_at, expires_at, reconnect: refused.then_some(why) })
    }
}

/// What a token is bound to: all that the secret is, and what is said of the token in the clear.
fn aad(binding: &Binding<'_>, clear: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    wire::put(&mut out, &binding.encode());
    wire::put(&mut out, clear);
    out
}

fn code_key(key: &DataKey) -> Result<hmac::Key, EnvelopeError> {
    hkdf::Salt::none(hkdf::HKDF_SHA256)
        .extract(key.expose())
        .expand(&[b"relay tokens v1"], hmac::HMAC_SHA256)
        .map(hmac::Key::from)
        .map_err(|_| EnvelopeError::Library)
}
