//! A wrapped data key as it stands in the store: which KMS key wrapped it, and for whom.
//!
//! Format 2 is `2 | shown 1 | provider | key | tag 32 | what the provider wrapped`, texts behind their
//! length (u16). The tag is an HMAC-SHA-256 over customer and data key id under a key derived from the data
//! key itself: where a provider knows no associated data, a wrapped key moved to another customer is
//! found all the same. It stays true when the KMS key or its version changes, so a rewrap inside the KMS
//! need not see the data key. Format 1 is what a key file alone wrapped. What must never enter: a choice of
//! KMS keys by the record, since whoever writes to the store could name one of his own.

use aws_lc_rs::{digest, hkdf, hmac};

use super::{DATA_KEY, KeyContext, KmsError};
use crate::model::Customer;
use crate::secret::Secret;

const LOCAL_ALONE: u8 = 1;
const FORMAT: u8 = 2;
const TAG: usize = 32;

/// What a provider is told in a customer's place, and may show in its own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shown {
    /// The customer as it is.
    #[default]
    Name,
    /// Its SHA-256: hides it from who reads the log, not from who tries names.
    Hash,
}

impl Shown {
    pub(super) fn text(self, customer: &Customer) -> String {
        match self {
            Self::Name => customer.as_str().to_owned(),
            Self::Hash => {
                let mut hash = digest::Context::new(&digest::SHA256);
                hash.update(b"relay customer v1 ");
                hash.update(customer.as_str().as_bytes());
                hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
            }
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Name => 0,
            Self::Hash => 1,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Name),
            1 => Some(Self::Hash),
            _ => None,
        }
    }
}

/// A wrapped data key, taken apart. Nothing of it is proven before the provider unwrapped it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wrapped<'a> {
    pub(super) shown: Shown,
    pub(super) provider: &'a str,
    /// The KMS key; `None` in format 1, where the key file's own record says it.
    pub(super) key: Option<&'a str>,
    tag: Option<&'a [u8; TAG]>,
    pub(super) blob: &'a [u8],
}

impl<'a> Wrapped<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, KmsError> {
        let damaged = || KmsError::Broken("it is not what relay wrapped".to_owned());
        let (format, rest) = bytes.split_first().ok_or_else(damaged)?;
        match *format {
            LOCAL_ALONE => {
                Ok(Self { shown: Shown::Name, provider: "local", key: None, tag: None, blob: bytes })
            }
            FORMAT => {
                let (shown, rest) = rest.split_first().ok_or_else(damaged)?;
                let shown = Shown::of(*shown).ok_or_else(damaged)?;
                let (provider, rest) = text(rest).ok_or_else(damaged)?;
                let (key, rest) = text(rest).ok_or_else(damaged)?;
                let (tag, blob) = rest.split_first_chunk::<TAG>().ok_or_else(damaged)?;
                Ok(Self { shown, provider, key: Some(key), tag: Some(tag), blob })
            }
            other => Err(KmsError::Broken(format!("it has format {other}, and this relay reads 1 and 2"))),
        }
    }

    /// The same wrapped key, wrapped otherwise: for a rewrap that did not see the data key.
    pub(super) fn again(&self, key: &str, blob: &[u8]) -> Option<Vec<u8>> {
        Some(encode(self.shown, self.provider, key, self.tag?, blob))
    }

    /// Whether the unwrapped `key` is the one that was wrapped for this customer and id. A record of format
    /// 1 has no tag: the key file binds by associated data.
    pub(super) fn proves(&self, key: &Secret, context: KeyContext<'_>) -> Result<(), KmsError> {
        if key.len() != DATA_KEY {
            return Err(KmsError::Broken("it is not 32 bytes long".to_owned()));
        }
        let Some(tag) = self.tag else { return Ok(()) };
        let wrong =
            |_| KmsError::Broken("it was wrapped for another customer, or as another data key".to_owned());
        hmac::verify(&tag_key(key)?, &bound(context), tag).map_err(wrong)
    }
}

/// The record of a data key that was wrapped just now.
pub(super) fn record(
    (shown, provider, kms_key): (Shown, &str, &str),
    context: KeyContext<'_>,
    key: &Secret,
    blob: &[u8],
) -> Result<Vec<u8>, KmsError> {
    let tag = hmac::sign(&tag_key(key)?, &bound(context));
    Ok(encode(shown, provider, kms_key, tag.as_ref(), blob))
}

fn encode(shown: Shown, provider: &str, key: &str, tag: &[u8], blob: &[u8]) -> Vec<u8> {
    let mut out = vec![FORMAT, shown.byte()];
    for text in [provider, key] {
        // Neither is near 64 KiB: one is a word of relay's, the other was judged with the configuration.
        out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(tag);
    out.extend_from_slice(blob);
    out
}

fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

fn tag_key(key: &Secret) -> Result<hmac::Key, KmsError> {
    hkdf::Salt::none(hkdf::HKDF_SHA256)
        .extract(key.expose())
        .expand(&[b"relay wrapped v2"], hmac::HMAC_SHA256)
        .map(hmac::Key::from)
        .map_err(|_| KmsError::Broken("the key derivation failed".to_owned()))
}

fn bound(context: KeyContext<'_>) -> Vec<u8> {
    let customer = context.customer.as_str().as_bytes();
    let mut out = Vec::with_capacity(24 + customer.len());
    out.push(FORMAT);
    out.extend_from_slice(&u32::try_from(customer.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(customer);
    out.extend_from_slice(context.id.as_bytes());
    out
}
