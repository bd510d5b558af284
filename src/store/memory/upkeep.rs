//! The store in memory's upkeep. Every call is one step under the lock, so none can be left half-way.

use std::ops::Bound;

use bytes::Bytes;

use super::{Kept, Memory};
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::moving::Moving;
use crate::store::{Call, Change, Forgotten, Info, Past, StoreError, Upkeep};

impl Upkeep for Memory {
    fn customers<'a>(&'a self, after: Option<&'a Customer>, limit: usize) -> Call<'a, Vec<Customer>> {
        Box::pin(async move {
            let held = self.held();
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let behind = held.customers.range::<Customer, _>((from, Bound::Unbounded));
            let with_key = behind.filter(|(_, theirs)| theirs.active.is_some());
            Ok(with_key.map(|(customer, _)| customer.clone()).take(limit).collect())
        })
    }

    fn data_keys<'a>(&'a self, customer: &'a Customer) -> Call<'a, Vec<(DataKeyId, Bytes)>> {
        Box::pin(async move {
            let held = self.held();
            let keys = held.customers.get(customer).map(|theirs| &theirs.data_keys);
            Ok(keys.into_iter().flatten().map(|(id, wrapped)| (*id, wrapped.clone())).collect())
        })
    }

    fn rewrap_data_key<'a>(
        &'a self,
        customer: &'a Customer,
        id: DataKeyId,
        expected: Bytes,
        wrapped: Bytes,
    ) -> Call<'a, ()> {
        Box::pin(async move {
            let mut held = self.held();
            let found = held.customers.get_mut(customer).and_then(|theirs| theirs.data_keys.get_mut(&id));
            let found = found.filter(|found| **found == expected).ok_or(StoreError::Conflict)?;
            *found = wrapped;
            held.generation += 1;
            let _ = self.feed.send(Change::DataKeys(customer.clone()));
            Ok(())
        })
    }

    fn renew_data_key<'a>(
        &'a self,
        customer: &'a Customer,
        expected: DataKeyId,
        id: DataKeyId,
        wrapped: Bytes,
    ) -> Call<'a, ()> {
        Box::pin(async move {
            let mut held = self.held();
            let theirs = held.customers.get_mut(customer).ok_or(StoreError::Conflict)?;
            if theirs.active != Some(expected) || theirs.data_keys.contains_key(&id) {
                return Err(StoreError::Conflict);
            }
            theirs.active = Some(id);
            theirs.data_keys.insert(id, wrapped);
            held.generation += 1;
            let _ = self.feed.send(Change::DataKeys(customer.clone()));
            Ok(())
        })
    }

    fn remove_data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId) -> Call<'a, bool> {
        Box::pin(async move {
            let mut held = self.held();
            let Some(theirs) = held.customers.get_mut(customer) else { return Ok(false) };
            if theirs.active == Some(id) {
                return Err(StoreError::Conflict);
            }
            if theirs.data_keys.remove(&id).is_none() {
                return Ok(false);
            }
            held.generation += 1;
            let _ = self.feed.send(Change::DataKeys(customer.clone()));
            Ok(true)
        })
    }

    fn past<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, Vec<Past>> {
        Box::pin(async move {
            let held = self.held();
            let kept = held.customers.get(customer).and_then(|theirs| theirs.secrets.get(&id));
            Ok(kept.map(Kept::past).unwrap_or_default())
        })
    }

    fn replace_past<'a>(
        &'a self,
        customer: &'a Customer,
        id: SecretId,
        expected: Bytes,
        past: Past,
    ) -> Call<'a, ()> {
        Box::pin(async move {
            let mut held = self.held();
            let kept = held.customers.get_mut(customer).and_then(|theirs| theirs.secrets.get_mut(&id));
            let kept = kept.ok_or(StoreError::Conflict)?;
            let found = kept.past.get_mut(&past.version).filter(|(_, head)| *head == expected);
            let (Some(found), Some(head)) = (found, past.head) else { return Err(StoreError::Conflict) };
            *found = (past.superseded_at, head);
            kept.versions.insert(past.version, past.sealed);
            held.generation += 1;
            Ok(())
        })
    }

    fn erase_past<'a>(&'a self, customer: &'a Customer, before: u64) -> Call<'a, u64> {
        Box::pin(async move {
            let mut held = self.held();
            let Some(theirs) = held.customers.get_mut(customer) else { return Ok(0) };
            let mut erased = 0;
            for kept in theirs.secrets.values_mut() {
                let versions = &mut kept.versions;
                kept.past.retain(|version, (at, _)| {
                    let stays = *at >= before;
                    if !stays {
                        versions.remove(version);
                        erased += 1;
                    }
                    stays
                });
            }
            held.generation += u64::from(erased > 0);
            Ok(erased)
        })
    }

    fn forget<'a>(&'a self, customer: &'a Customer) -> Call<'a, Forgotten> {
        Box::pin(async move {
            let mut held = self.held();
            let Some(theirs) = held.customers.remove(customer) else { return Ok(Forgotten::default()) };
            held.generation += 1;
            let _ = self.feed.send(Change::DataKeys(customer.clone()));
            for id in theirs.secrets.keys() {
                held.owners.remove(id);
                let _ = self.feed.send(Change::Secret(customer.clone(), *id));
            }
            let (data_keys, secrets) = (theirs.data_keys.len() as u64, theirs.secrets.len() as u64);
            Ok(Forgotten { data_keys, secrets })
        })
    }

    fn note_used(&self, notes: Vec<(Customer, SecretId, u64)>) -> Call<'_, ()> {
        Box::pin(async move {
            let mut held = self.held();
            for (customer, id, at) in notes {
                let kept = held.customers.get_mut(&customer).and_then(|theirs| theirs.secrets.get_mut(&id));
                if let Some(kept) = kept {
                    kept.used = Some(at);
                }
            }
            held.generation += 1;
            Ok(())
        })
    }

    fn last_used<'a>(&'a self, customer: &'a Customer, ids: Vec<SecretId>) -> Call<'a, Vec<Option<u64>>> {
        Box::pin(async move {
            let held = self.held();
            let secrets = held.customers.get(customer).map(|theirs| &theirs.secrets);
            let used = |id: &SecretId| secrets.and_then(|secrets| secrets.get(id)).and_then(|kept| kept.used);
            Ok(ids.iter().map(used).collect())
        })
    }

    fn generation(&self) -> Call<'_, u64> {
        Box::pin(async move { Ok(self.held().generation) })
    }

    fn info(&self) -> Call<'_, Info> {
        Box::pin(async move {
            let held = self.held();
            let each = || held.customers.values();
            Ok(Info {
                engine: "memory",
                format: 1,
                customers: each().filter(|theirs| theirs.active.is_some()).count() as u64,
                data_keys: each().map(|theirs| theirs.data_keys.len() as u64).sum(),
                secrets: each().map(|theirs| theirs.secrets.len() as u64).sum(),
                bytes: None,
                writable: true,
            })
        })
    }

    fn moving(&self) -> &dyn Moving {
        self
    }
}

impl Kept {
    /// The versions that are not current, in order.
    pub(super) fn past(&self) -> Vec<Past> {
        let past = self.past.iter().map(|(version, (superseded_at, head))| Past {
            version: *version,
            head: Some(head.clone()),
            sealed: self.versions.get(version).cloned().unwrap_or_default(),
            superseded_at: *superseded_at,
        });
        past.collect()
    }
}
