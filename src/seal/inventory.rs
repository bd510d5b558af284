//! Which KMS key holds how many data keys, and how old they are: for `relay key status`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::summary::rfc3339_or_null;
use super::{STORE_WIDE, SealError, Sealer};
use crate::kms::cached::DataKeys;
use crate::model::DataKeyId;
use crate::store::{Store, StoreError};

/// Customers read at once.
const PAGE: usize = 256;

/// One KMS key, or one version of it, and what is under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KmsKeyUse {
    /// The provider's name as in relay.toml.
    pub provider: &'static str,
    /// The KMS key.
    pub key: String,
    /// Its version, where the provider tells.
    pub version: Option<String>,
    /// Whether new data keys are wrapped by it.
    pub wraps_now: bool,
    /// Customers' data keys under it.
    pub data_keys: u64,
    /// Keys of the store's own under it: of fingerprints, of the audit.
    pub store_keys: u64,
    /// When the oldest of the data keys was made, where it tells.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub oldest: Option<u64>,
    /// And the newest.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub newest: Option<u64>,
}

/// All KMS keys that anything is under, and the one that wraps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// The one that wraps first.
    pub keys: Vec<KmsKeyUse>,
    /// Data keys that no configured KMS key wrapped: nothing opens what is sealed under them.
    pub unknown: u64,
}

#[derive(Default)]
struct Count {
    data_keys: u64,
    store_keys: u64,
    oldest: Option<u64>,
    newest: Option<u64>,
}

impl Sealer {
    /// As [`inventory`].
    ///
    /// # Errors
    /// `Store`.
    pub async fn inventory(&self) -> Result<Inventory, SealError> {
        Ok(inventory(&*self.store, &self.keys).await?)
    }
}

/// Goes over all data keys of `store`, which `keys` may open or not. A KMS that does not answer tells no newest
/// version, and nothing else is missing.
///
/// # Errors
/// The store's own.
pub async fn inventory(store: &dyn Store, keys: &DataKeys) -> Result<Inventory, StoreError> {
    let mut counts: BTreeMap<(usize, &'static str, String, Option<String>), Count> = BTreeMap::new();
    let mut unknown = 0;
    let mut note = |wrapped: &[u8], id: Option<DataKeyId>| match keys.wrapped_by(wrapped) {
        Ok(by) => {
            let count = counts.entry((by.place, by.provider, by.key, by.version)).or_default();
            let Some(id) = id else {
                count.store_keys += 1;
                return;
            };
            count.data_keys += 1;
            let made = id.made_at().map(|millis| millis / 1000);
            count.oldest = [count.oldest, made].into_iter().flatten().min();
            count.newest = count.newest.max(made);
        }
        Err(_) => unknown += 1,
    };
    let mut after = None;
    loop {
        let page = store.upkeep().customers(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        for customer in &page {
            for (id, wrapped) in store.upkeep().data_keys(customer).await? {
                note(&wrapped, Some(id));
            }
        }
    }
    for name in STORE_WIDE {
        if let Some(wrapped) = store.meta(name).await? {
            note(&wrapped, None);
        }
    }
    let wrapping = keys.wrapping().await.ok();
    let now = wrapping.map(|by| (by.place, by.provider, by.key, by.version));
    if let Some(now) = &now {
        counts.entry(now.clone()).or_default();
    }
    let uses = counts.into_iter().map(|(place, count)| {
        let wraps_now = now.as_ref() == Some(&place);
        let (_, provider, key, version) = place;
        let Count { data_keys, store_keys, oldest, newest } = count;
        KmsKeyUse { provider, key, version, wraps_now, data_keys, store_keys, oldest, newest }
    });
    let mut uses: Vec<KmsKeyUse> = uses.collect();
    uses.sort_by_key(|key| !key.wraps_now);
    Ok(Inventory { keys: uses, unknown })
}
