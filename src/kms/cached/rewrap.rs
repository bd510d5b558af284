//! What rotation asks of the KMS: data keys wrapped anew, a new version, who wrapped what.
//!
//! A job goes over every customer's key once; nothing that it opens is kept among the keys that requests use, and
//! its calls take their turn among theirs. What must never enter: a wrapped key that was not seen to open before
//! it takes another's place.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::standing::Record;
use super::{BUDGET, DataKeys, going_down, too_slow, wrong_length};
use crate::kms::KmsError;
use crate::kms::keyring::WrappedBy;
use crate::model::{Customer, DataKeyId};
use crate::secret::DataKey;

/// How long a new version of a KMS key may take: asked once, by a person.
const NEW_VERSION: Duration = Duration::from_secs(30);

impl DataKeys {
    /// The key, from memory or unwrapped, and not kept: for a job that goes over all customers.
    ///
    /// # Errors
    /// As [`DataKeys::open`].
    pub async fn open_once(
        &self,
        customer: &Customer,
        id: DataKeyId,
        wrapped: &[u8],
    ) -> Result<Arc<DataKey>, KmsError> {
        if let Some(key) = self.warm(customer, id) {
            return Ok(key);
        }
        let by = self.0.kms_key(wrapped)?;
        by.admits()?;
        let (shared, customer, wrapped) = (Arc::clone(&self.0), customer.clone(), wrapped.to_vec());
        let call = async move { shared.unwrap(&by, "unwrap", (&customer, id), &wrapped).await };
        let key = self.0.control.spawn(call).await.map_err(|_| going_down())??;
        DataKey::new(id, key).map(Arc::new).ok_or_else(wrong_length)
    }

    /// The same data key under the KMS key that wraps now and its newest version. It was unwrapped again before
    /// this returns: what comes back opens.
    ///
    /// # Errors
    /// As [`DataKeys::open`].
    pub async fn rewrap(
        &self,
        customer: &Customer,
        id: DataKeyId,
        wrapped: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        let by = self.0.kms_key(wrapped)?;
        by.admits()?;
        let (shared, customer, wrapped) = (Arc::clone(&self.0), customer.clone(), wrapped.to_vec());
        let call = async move {
            let moved = shared.ring.rewrap(&customer, id, &wrapped);
            let moved = shared.call(&by, "rewrap", moved).await?;
            let by = shared.kms_key(&moved)?;
            shared.unwrap(&by, "unwrap", (&customer, id), &moved).await?;
            // What the record was before may soon be under a version that is destroyed: a probe by it would take
            // that for a denial of the whole KMS key.
            for key in &shared.kms_keys {
                key.unlearn(|record| record.customer == customer && record.id == id);
            }
            by.opened(Record::of((&customer, id), &moved));
            Ok(moved)
        };
        self.0.control.spawn(call).await.map_err(|_| going_down())?
    }

    /// [`DataKeys::rewrap`] for a store-wide key by its name.
    ///
    /// # Errors
    /// As [`DataKeys::open`].
    pub async fn rewrap_named(&self, name: &str, wrapped: &[u8]) -> Result<Vec<u8>, KmsError> {
        self.rewrap(&Customer::store_wide(name), DataKeyId::from_bytes([0; 16]), wrapped).await
    }

    /// Asks the KMS for a new version of the key that wraps.
    ///
    /// # Errors
    /// The provider's own, or unavailable after 30 s.
    pub async fn new_version(&self) -> Result<(), KmsError> {
        let ring = self.0.ring.clone();
        let call = async move {
            let kms = ring.current().ok_or_else(going_down)?;
            timeout(NEW_VERSION, kms.new_version()).await.map_err(|_| too_slow())?
        };
        self.0.control.spawn(call).await.map_err(|_| going_down())?
    }

    /// Which KMS key wrapped it. Nothing is proven by that.
    ///
    /// # Errors
    /// [`KmsError::Broken`] for a record that no configured KMS key wrapped.
    pub fn wrapped_by(&self, wrapped: &[u8]) -> Result<WrappedBy, KmsError> {
        self.0.ring.wrapped_by(wrapped)
    }

    /// The KMS key that wraps, with its newest version where the provider tells it.
    ///
    /// # Errors
    /// As [`DataKeys::open`].
    pub async fn wrapping(&self) -> Result<WrappedBy, KmsError> {
        let ring = self.0.ring.clone();
        let call = async move {
            let kms = ring.current().ok_or_else(going_down)?;
            let version = timeout(BUDGET, kms.newest()).await.map_err(|_| too_slow())??;
            Ok(WrappedBy { place: 0, provider: kms.provider(), key: kms.key(), version })
        };
        self.0.control.spawn(call).await.map_err(|_| going_down())?
    }
}
