//! What of a store travels in an export, and whether the KMS keys at hand open what an export holds.
//!
//! The state of a job stays: it is no part of what is sealed, and whoever wrote an export could have relay seal
//! secrets for another place by it. What must never enter: an unwrapped key that is kept.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{STORE_WIDE, SealError};
use crate::audit::replica::is_of_audit;
use crate::kms::cached::DataKeys;
use crate::store::moving::{KeyRow, Records};

/// Whether the store-wide record of this name travels with a store: its wrapped keys, and what shows that an audit is
/// gone or cut.
pub fn travels(name: &str) -> bool {
    STORE_WIDE.contains(&name) || is_of_audit(name)
}

/// A key of an export that the configured KMS keys do not open.
#[derive(Debug, thiserror::Error)]
#[error("{which}: {why}")]
pub struct Unopened {
    which: String,
    why: SealError,
}

/// Tries the configured KMS keys on what an export holds.
pub struct KeyCheck<'a> {
    keys: &'a DataKeys,
    /// The KMS keys, by version, that opened a data key.
    tried: BTreeSet<(usize, Option<String>)>,
}

impl<'a> KeyCheck<'a> {
    /// With these.
    pub const fn with(keys: &'a DataKeys) -> Self {
        Self { keys, tried: BTreeSet::new() }
    }

    /// Unwraps each store-wide key, and of all data keys the first under each version of each KMS key; the others
    /// are only asked who wrapped them.
    ///
    /// # Errors
    /// For the first that does not open: which one it is, and why.
    pub async fn look(&mut self, records: &Records) -> Result<(), Unopened> {
        for (name, wrapped) in records.metas.iter().filter(|(name, _)| STORE_WIDE.contains(&name.as_str())) {
            let opened = self.keys.named(name, Some(wrapped)).await;
            opened
                .map_err(|why| Unopened { which: format!("the store-wide key {name}"), why: why.into() })?;
        }
        for key in &records.keys {
            let id = Uuid::from_bytes(*key.id.as_bytes());
            self.try_one(key).await.map_err(|why| Unopened {
                which: format!("data key {id} of customer {:?}", key.customer.as_str()),
                why,
            })?;
        }
        Ok(())
    }

    async fn try_one(&mut self, key: &KeyRow) -> Result<(), SealError> {
        let by = self.keys.wrapped_by(&key.wrapped)?;
        let place = (by.place, by.version);
        if !self.tried.contains(&place) {
            self.keys.open_once(&key.customer, key.id, &key.wrapped).await?;
            self.tried.insert(place);
        }
        Ok(())
    }
}
