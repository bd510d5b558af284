//! Keys that wrap data keys. One small trait, one file per provider, and the ring that holds them.
//!
//! A provider holds or reaches one KMS key; it sees data keys, never a credential. Unavailable and denied
//! are different errors, because an outage may be bridged by warm keys and a denial never. What must never
//! enter: configuration types, the store, a credential.

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "azure")]
pub mod azure;
pub mod cached;
#[cfg(any(feature = "azure", feature = "gcp"))]
mod cloud;
#[cfg(feature = "gcp")]
mod crc32c;
#[cfg(feature = "gcp")]
pub mod gcp;
pub mod keyring;
pub mod local;
pub mod transit;
mod wrapped;

use std::pin::Pin;

use aws_lc_rs::rand;

use crate::model::{Customer, DataKeyId};
use crate::secret::Secret;

pub use wrapped::Shown;

/// The length of a data key, in bytes.
pub const DATA_KEY: usize = 32;

/// What a wrapped key is bound to: given as encryption context or associated data where the provider has
/// one. relay's own envelope binds it to customer and id at every provider ([`keyring::Keyring`]).
#[derive(Debug, Clone, Copy)]
pub struct KeyContext<'a> {
    /// Whose secrets the data key seals.
    pub customer: &'a Customer,
    /// The data key's own id.
    pub id: DataKeyId,
    /// What a provider is told in the customer's place, which its own log may show: the name, or a hash.
    pub shown: &'a str,
}

/// A KMS call under way.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, KmsError>> + Send + 'a>>;

/// One KMS key, which wraps and unwraps 32-byte data keys. What it wraps is opaque bytes of its own.
pub trait Kms: Send + Sync {
    /// The provider's name as in relay.toml: `local`, `aws`, ...
    fn provider(&self) -> &'static str;

    /// The KMS key that wraps now, as the provider names it, without a version: stands beside everything
    /// that it wraps.
    fn key(&self) -> String;

    /// Whether it can unwrap what the KMS key of this name wrapped.
    fn answers_to(&self, key: &str) -> bool {
        self.key() == key
    }

    /// Whether a call leaves this machine, and so is made in turn.
    fn is_remote(&self) -> bool {
        true
    }

    /// Wraps a data key that exists already.
    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> Call<'a, Vec<u8>>;

    /// Makes a fresh data key: the plaintext, and the same wrapped.
    fn generate<'a>(&'a self, context: KeyContext<'a>) -> Call<'a, (Secret, Vec<u8>)> {
        Box::pin(async move {
            let failed = |_| KmsError::Unavailable("the system's random source failed".to_owned());
            let key = Secret::filled(DATA_KEY, rand::fill).map_err(failed)?;
            let wrapped = self.wrap(context, &key).await?;
            Ok((key, wrapped))
        })
    }

    /// Unwraps what this KMS key wrapped, under the same context only.
    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret>;

    /// Wraps again under the newest version, what this KMS key wrapped before; inside the KMS where it can.
    fn rewrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Vec<u8>> {
        Box::pin(async move {
            let key = self.unwrap(context, wrapped).await?;
            self.wrap(context, &key).await
        })
    }

    /// The version of the KMS key that wrapped it, where the wrapped bytes tell.
    fn version(&self, _wrapped: &[u8]) -> Option<String> {
        None
    }

    /// The version that wraps now, where the provider tells.
    fn newest(&self) -> Call<'_, Option<String>> {
        Box::pin(async { Ok(None) })
    }

    /// Asks for a new version of the KMS key, which wraps from then on.
    fn new_version(&self) -> Call<'_, ()>;
}

/// Why a KMS call gave no key. The text is for the operator and holds no key bytes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KmsError {
    /// No answer, or one that says "later". Warm keys may bridge it.
    #[error("the KMS is unavailable: {0}")]
    Unavailable(String),
    /// The KMS said no: disabled key, missing right. Never bridged.
    #[error("the KMS denies the use of its key: {0}")]
    Denied(String),
    /// The wrapped key is not what this KMS wrapped for this context.
    #[error("a wrapped data key does not open: {0}")]
    Broken(String),
}
