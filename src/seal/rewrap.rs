//! Data keys under the KMS key that wraps now: after a new version of it, and to move between providers.
//!
//! What is sealed stays as it is. A wrapped key takes another's place only after it was seen to open, and only
//! if the other still stands there.

use tokio::sync::Semaphore;

use super::at_hand::Outcome;
use super::{STORE_WIDE, SealError, Sealer, TRIES};
use crate::kms::KmsError;
use crate::model::Customer;
use crate::store::StoreError;

impl Sealer {
    /// Wraps all data keys of a customer anew.
    pub(super) async fn rewrap(&self, customer: &Customer, calls: &Semaphore) -> Result<Outcome, SealError> {
        let mut outcome = Outcome::default();
        for (id, wrapped) in self.store.upkeep().data_keys(customer).await? {
            let turn = calls.acquire().await;
            let rewrapped = self.keys.rewrap(customer, id, &wrapped).await;
            drop(turn);
            match rewrapped {
                Ok(moved) => {
                    let upkeep = self.store.upkeep();
                    match upkeep.rewrap_data_key(customer, id, wrapped, moved.into()).await {
                        Ok(()) => outcome.moved += 1,
                        // Removed meanwhile, or wrapped anew by another relay.
                        Err(StoreError::Conflict) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(KmsError::Broken(why)) => {
                    tracing::error!(why, "a data key cannot be wrapped anew and stays as it is");
                    outcome.left += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(outcome)
    }

    /// The same for the keys that are nobody's: those of fingerprints and of the audit.
    pub(super) async fn rewrap_store_wide(&self) -> Result<(), SealError> {
        for name in STORE_WIDE {
            self.rewrap_named(name).await?;
        }
        Ok(())
    }

    async fn rewrap_named(&self, name: &str) -> Result<(), SealError> {
        for _ in 0..TRIES {
            let Some(wrapped) = self.store.meta(name).await? else { return Ok(()) };
            let moved = self.keys.rewrap_named(name, &wrapped).await?;
            match self.store.swap_meta(name, Some(wrapped), moved.into()).await {
                // Another relay wrapped it anew meanwhile.
                Err(StoreError::Conflict) => {}
                written => return Ok(written?),
            }
        }
        Err(SealError::Conflict)
    }
}
