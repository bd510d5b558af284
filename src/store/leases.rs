//! Leases in this process's memory, for engines that only one process opens.
//!
//! What must never enter: a wait. Whoever does not get a lease is told so at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Who holds what, and until when.
#[derive(Default)]
pub(super) struct Leases(Mutex<BTreeMap<String, (Uuid, Instant)>>);

impl Leases {
    /// Takes or renews `name` for `holder`; false while another holds it.
    pub(super) fn take(&self, name: &str, holder: Uuid, ttl: Duration) -> bool {
        let now = Instant::now();
        // Whole data: nothing under this lock can stop half-way.
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, (_, until)| *until > now);
        if held.get(name).is_some_and(|(other, _)| *other != holder) {
            return false;
        }
        held.insert(name.to_owned(), (holder, now + ttl));
        true
    }

    /// Gives `name` back, if `holder` still has it.
    pub(super) fn give_back(&self, name: &str, holder: Uuid) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.get(name).is_some_and(|(other, _)| *other == holder) {
            held.remove(name);
        }
    }
}
