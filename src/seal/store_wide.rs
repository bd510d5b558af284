//! The keys that are no customer's: made once for a store, by whichever relay starts on it first.

use bytes::Bytes;

use super::SealError;
use crate::kms::KmsError;
use crate::kms::cached::DataKeys;
use crate::secret::Secret;
use crate::store::{Store, StoreError};

/// The store-wide key of that name, made in a store that has none. Of two relays that start at once both take the
/// one that came first.
///
/// # Errors
/// `Keys` when the KMS does not open it, `Store` when the store does not answer.
pub async fn store_wide(store: &dyn Store, keys: &DataKeys, name: &str) -> Result<Secret, SealError> {
    let wrapped = match store.meta(name).await? {
        Some(wrapped) => wrapped,
        None => made(store, keys, name).await?,
    };
    // Opened as it stands in the store, also if it was made just now.
    let (key, _) = keys.named(name, Some(&wrapped)).await.map_err(not_this_store)?;
    Ok(key)
}

async fn made(store: &dyn Store, keys: &DataKeys, name: &str) -> Result<Bytes, SealError> {
    let (_, made) = keys.named(name, None).await?;
    let made = Bytes::from(made.unwrap_or_default());
    match store.swap_meta(name, None, made.clone()).await {
        Ok(()) => Ok(made),
        Err(StoreError::Conflict) => Ok(store.meta(name).await?.unwrap_or_default()),
        Err(error) => Err(error.into()),
    }
}

/// Says what a store-wide key that does not open means, and what to do.
fn not_this_store(error: KmsError) -> KmsError {
    match error {
        KmsError::Broken(why) => KmsError::Broken(format!(
            "this store was made with another KMS key than the one configured ({why}). Start relay with the \
             store's own key, or with an empty store"
        )),
        other => other,
    }
}
