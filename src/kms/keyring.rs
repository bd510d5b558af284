//! The KMS keys in use: the one that wraps, and those before it that still unwrap.
//!
//! A record names the KMS key that wrapped it; only the configured ones are asked, since whoever writes to
//! the store could name a key of his own. While keys are moved from one provider to another both stand
//! here. What must never enter: a cache, a retry.

use std::sync::Arc;

use super::wrapped::{self, Wrapped};
use super::{KeyContext, Kms, KmsError, Shown};
use crate::model::{Customer, DataKeyId};
use crate::secret::Secret;

/// The configured KMS keys. The first wraps; every one unwraps.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<Arc<dyn Kms>>,
    shown: Shown,
}

/// Which KMS key wrapped a data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedBy {
    /// Its place in the ring: 0 wraps now.
    pub place: usize,
    /// The provider's name.
    pub provider: &'static str,
    /// The KMS key.
    pub key: String,
    /// Its version, where the record tells.
    pub version: Option<String>,
}

impl Keyring {
    /// `current` wraps; `earlier` only unwrap.
    pub fn new(current: Arc<dyn Kms>, earlier: impl IntoIterator<Item = Arc<dyn Kms>>, shown: Shown) -> Self {
        Self { keys: std::iter::once(current).chain(earlier).collect(), shown }
    }

    /// One KMS key alone, which is told customers by their names.
    pub fn of(kms: Arc<dyn Kms>) -> Self {
        Self::new(kms, [], Shown::Name)
    }

    /// The KMS key that wraps.
    pub fn current(&self) -> Option<&Arc<dyn Kms>> {
        self.keys.first()
    }

    /// All of them, the one that wraps first.
    pub fn keys(&self) -> &[Arc<dyn Kms>] {
        &self.keys
    }

    /// Makes a fresh data key: the plaintext, and the record for the store.
    ///
    /// # Errors
    /// The provider's own.
    pub async fn generate(&self, customer: &Customer, id: DataKeyId) -> Result<(Secret, Vec<u8>), KmsError> {
        let kms = self.wrapping()?;
        let shown = self.shown.text(customer);
        let context = KeyContext { customer, id, shown: &shown };
        let (key, blob) = kms.generate(context).await?;
        if key.len() != super::DATA_KEY {
            return Err(KmsError::Broken(
                "the provider made a data key that is not 32 bytes long".to_owned(),
            ));
        }
        let record = wrapped::record((self.shown, kms.provider(), &kms.key()), context, &key, &blob)?;
        Ok((key, record))
    }

    /// Unwraps a record.
    ///
    /// # Errors
    /// [`KmsError::Broken`] for one that no configured KMS key wrapped for this customer and id; the
    /// provider's own.
    pub async fn unwrap(
        &self,
        customer: &Customer,
        id: DataKeyId,
        record: &[u8],
    ) -> Result<Secret, KmsError> {
        let wrapped = Wrapped::read(record)?;
        let (_, kms) = self.holder(&wrapped)?;
        let shown = wrapped.shown.text(customer);
        let context = KeyContext { customer, id, shown: &shown };
        let key = kms.unwrap(context, wrapped.blob).await?;
        wrapped.proves(&key, context)?;
        Ok(key)
    }

    /// The same data key under the KMS key that wraps now, and its newest version. Whether it opens is
    /// not asked where the KMS rewraps by itself.
    ///
    /// # Errors
    /// As [`Keyring::unwrap`].
    pub async fn rewrap(
        &self,
        customer: &Customer,
        id: DataKeyId,
        record: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        let wrapped = Wrapped::read(record)?;
        let (place, kms) = self.holder(&wrapped)?;
        let shown = wrapped.shown.text(customer);
        let context = KeyContext { customer, id, shown: &shown };
        if place == 0 && wrapped.shown == self.shown {
            let blob = kms.rewrap(context, wrapped.blob).await?;
            if let Some(record) = wrapped.again(&kms.key(), &blob) {
                return Ok(record);
            }
        }
        let key = kms.unwrap(context, wrapped.blob).await?;
        wrapped.proves(&key, context)?;
        let target = self.wrapping()?;
        let shown = self.shown.text(customer);
        let context = KeyContext { customer, id, shown: &shown };
        let blob = target.wrap(context, &key).await?;
        wrapped::record((self.shown, target.provider(), &target.key()), context, &key, &blob)
    }

    /// Which KMS key wrapped it.
    ///
    /// # Errors
    /// [`KmsError::Broken`] for a record that no configured KMS key wrapped.
    pub fn wrapped_by(&self, record: &[u8]) -> Result<WrappedBy, KmsError> {
        let wrapped = Wrapped::read(record)?;
        let (place, kms) = self.holder(&wrapped)?;
        Ok(WrappedBy {
            place,
            provider: kms.provider(),
            key: wrapped.key.map_or_else(|| kms.key(), str::to_owned),
            version: kms.version(wrapped.blob),
        })
    }

    fn wrapping(&self) -> Result<&Arc<dyn Kms>, KmsError> {
        self.current().ok_or_else(|| KmsError::Unavailable("no KMS key is configured".to_owned()))
    }

    fn holder(&self, wrapped: &Wrapped<'_>) -> Result<(usize, &Arc<dyn Kms>), KmsError> {
        let fits = |kms: &dyn Kms| {
            kms.provider() == wrapped.provider && wrapped.key.is_none_or(|key| kms.answers_to(key))
        };
        let found = self.keys.iter().enumerate().find(|(_, kms)| fits(&***kms));
        found.ok_or_else(|| {
            let key = wrapped.key.unwrap_or("of a key file").escape_debug();
            let provider = wrapped.provider.escape_debug();
            let mend = if wrapped.provider == "local" {
                "put that key's line back into the key file, below the first, or name its file in previous"
            } else {
                "name it in previous"
            };
            KmsError::Broken(format!(
                "the KMS key {key} of provider {provider} wrapped it, which [keys] does not name: {mend}"
            ))
        })
    }
}
