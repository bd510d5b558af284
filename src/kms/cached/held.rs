//! One data key at hand, and whose keys are at hand.
//!
//! What must never enter: a way to the key that does not name its customer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::standing::KmsKey;
use crate::model::{Customer, DataKeyId};
use crate::secret::DataKey;

/// While a refresh is under way no use starts another.
const UNDER_WAY: u64 = u64::MAX;

/// A data key at hand.
pub(super) struct Held {
    pub(super) owner: Customer,
    pub(super) id: DataKeyId,
    pub(super) key: Arc<DataKey>,
    /// As it stands in the store, for the refresh.
    pub(super) wrapped: Box<[u8]>,
    /// The KMS key that wrapped it.
    pub(super) by: Arc<KmsKey>,
    /// From when on a use starts a refresh, in the cache's own milliseconds.
    refresh_at: AtomicU64,
}

impl Held {
    pub(super) fn new(
        (owner, id): (Customer, DataKeyId),
        key: &Arc<DataKey>,
        wrapped: &[u8],
        by: Arc<KmsKey>,
        refresh_at: u64,
    ) -> Arc<Self> {
        let refresh_at = AtomicU64::new(refresh_at);
        Arc::new(Self { owner, id, key: Arc::clone(key), wrapped: wrapped.into(), by, refresh_at })
    }

    /// Two plain loads: this is asked by every request.
    pub(super) fn wants_refresh(&self, now: u64) -> bool {
        self.refresh_at.load(Ordering::Relaxed) <= now
    }

    /// Whether the caller is the one to refresh it.
    pub(super) fn begin_refresh(&self) -> bool {
        self.refresh_at.swap(UNDER_WAY, Ordering::Relaxed) != UNDER_WAY
    }

    /// It was not refreshed: a use from `at` on tries again.
    pub(super) fn refresh_again(&self, at: u64) {
        self.refresh_at.store(at, Ordering::Relaxed);
    }
}

/// Whose keys are at hand. A key that left the cache by itself is noticed later: its entry is weak.
#[derive(Default)]
pub(super) struct Owners(HashMap<Customer, Vec<Weak<Held>>>);

impl Owners {
    pub(super) fn add(&mut self, held: &Arc<Held>) {
        let theirs = self.0.entry(held.owner.clone()).or_default();
        theirs.retain(|other| other.strong_count() > 0);
        theirs.push(Arc::downgrade(held));
    }

    /// The customer's keys that may be at hand.
    pub(super) fn of(&self, customer: &Customer) -> Vec<Arc<Held>> {
        self.0.get(customer).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// Whose keys may be at hand.
    pub(super) fn names(&self) -> Vec<Customer> {
        self.0.keys().cloned().collect()
    }

    /// All keys that may be at hand.
    pub(super) fn all(&self) -> Vec<Arc<Held>> {
        self.0.values().flatten().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn prune(&mut self) {
        self.0.retain(|_, theirs| {
            theirs.retain(|held| held.strong_count() > 0);
            !theirs.is_empty()
        });
    }
}
