//! Keys that wrap data keys. One small trait, one file per provider.
//!
//! A provider holds or reaches the KMS key; it sees data keys, never a credential. Unavailable and
//! denied are different errors, because an outage may be bridged by warm keys and a denial never.
//! What must never enter: configuration types, the store, a credential.

pub mod cached;
pub mod local;

use std::pin::Pin;

use crate::model::{Customer, DataKeyId};
use crate::secret::Secret;

/// What a wrapped key is bound to: given as encryption context where the provider has one.
#[derive(Debug, Clone, Copy)]
pub struct KeyContext<'a> {
    /// Whose secrets the data key seals.
    pub customer: &'a Customer,
    /// The data key's own id.
    pub id: DataKeyId,
}

/// A KMS call under way.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, KmsError>> + Send + 'a>>;

/// Wraps and unwraps 32-byte data keys.
pub trait Kms: Send + Sync {
    /// The provider's name as in relay.toml: `local`, `aws`, ...
    fn provider(&self) -> &'static str;

    /// Makes a fresh 32-byte data key: the plaintext, and the same wrapped.
    fn generate<'a>(&'a self, context: KeyContext<'a>) -> Call<'a, (Secret, Vec<u8>)>;

    /// Unwraps what [`Kms::generate`] returned, under the same context only.
    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret>;
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
