//! Which customer holds how much of the record cache, so that none holds more than its share.
//!
//! Follows the cache: every record that leaves it, for whatever reason, leaves here too.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{Customer, SecretId};

/// The bytes held by each customer, oldest records first.
pub(super) struct Shares {
    held: Mutex<HashMap<Customer, Share>>,
    largest: usize,
}

#[derive(Default)]
struct Share {
    bytes: usize,
    next: u64,
    records: HashMap<SecretId, (u64, usize)>,
    order: BTreeMap<u64, SecretId>,
}

impl Shares {
    /// Nobody holds anything; each may hold `largest` bytes.
    pub(super) fn new(largest: usize) -> Self {
        Self { held: Mutex::default(), largest }
    }

    /// Counts a record in and returns the customer's own oldest ones that must go for it; `None` if it is
    /// larger than a whole share. The caller evicts them after this returns: evicting calls back here.
    pub(super) fn take(&self, customer: &Customer, id: SecretId, bytes: usize) -> Option<Vec<SecretId>> {
        if bytes > self.largest {
            return None;
        }
        let mut held = self.locked();
        let share = held.entry(customer.clone()).or_default();
        share.drop_record(id);
        let mut victims = Vec::new();
        while share.bytes + bytes > self.largest {
            let Some((_, oldest)) = share.order.first_key_value() else { break };
            let oldest = *oldest;
            share.drop_record(oldest);
            victims.push(oldest);
        }
        share.next += 1;
        share.bytes += bytes;
        share.records.insert(id, (share.next, bytes));
        share.order.insert(share.next, id);
        Some(victims)
    }

    /// What a customer holds.
    pub(super) fn of(&self, customer: &Customer) -> Vec<SecretId> {
        self.locked().get(customer).map(|share| share.records.keys().copied().collect()).unwrap_or_default()
    }

    /// The record is gone from the cache.
    pub(super) fn give_back(&self, customer: &Customer, id: SecretId) {
        let mut held = self.locked();
        if let Some(share) = held.get_mut(customer) {
            share.drop_record(id);
            if share.records.is_empty() {
                held.remove(customer);
            }
        }
    }

    /// The cache was emptied.
    pub(super) fn clear(&self) {
        self.locked().clear();
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Customer, Share>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    fn drop_record(&mut self, id: SecretId) {
        if let Some((stamp, bytes)) = self.records.remove(&id) {
            self.order.remove(&stamp);
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_evicts_only_its_own() {
        let shares = Shares::new(100);
        let (acme, globex) = (Customer::parse("acme").unwrap(), Customer::parse("globex").unwrap());
        let ids: Vec<SecretId> = (0..4).map(|_| SecretId::random()).collect();
        assert_eq!(shares.take(&acme, ids[0], 60), Some(vec![]));
        assert_eq!(shares.take(&globex, ids[1], 60), Some(vec![]), "another customer's bytes do not count");
        assert_eq!(shares.take(&acme, ids[2], 60), Some(vec![ids[0]]), "the own oldest goes");
        assert_eq!(shares.take(&acme, ids[2], 60), Some(vec![]), "the same record again replaces itself");
        assert_eq!(shares.take(&acme, ids[3], 101), None, "larger than a share");
        shares.give_back(&acme, ids[2]);
        assert_eq!(shares.take(&acme, ids[3], 100), Some(vec![]), "what was given back is free");
    }
}
