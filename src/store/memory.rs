//! The store in this process's memory: for `relay dev` and for tests.
//!
//! It keeps every promise of [`Store`] but durability: what it holds is gone when it is dropped, and
//! that is what it is for. What must never enter: a file, or use by `relay run`, whose acknowledged
//! writes would then be lost at the next start.

mod moving;
mod upkeep;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::leases::Leases;
use super::{Call, Change, Expected, SecretRow, Store, StoreError, Upkeep};
use crate::clock;
use crate::model::{Customer, DataKeyId, SecretId};

/// How many changes a receiver may be behind before it has lagged.
const FEED: usize = 1024;

/// A store that lives as long as its process.
pub struct Memory {
    held: Mutex<Held>,
    feed: broadcast::Sender<Change>,
    leases: Leases,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self { held: Mutex::default(), feed: broadcast::Sender::new(FEED), leases: Leases::default() }
    }

    // No code under this lock can stop half-way through a change, so a poisoned lock guards whole data.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

// Changes are sent under the lock: the feed has the order of the writes.
impl Store for Memory {
    fn secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, Option<SecretRow>> {
        Box::pin(async move {
            let held = self.held();
            let kept = held.customers.get(customer).and_then(|theirs| theirs.secrets.get(&id));
            Ok(kept.and_then(|kept| kept.row(customer, id)))
        })
    }

    fn secrets<'a>(
        &'a self,
        customer: &'a Customer,
        after: Option<SecretId>,
        limit: usize,
    ) -> Call<'a, Vec<SecretRow>> {
        Box::pin(async move {
            let held = self.held();
            let Some(theirs) = held.customers.get(customer) else { return Ok(Vec::new()) };
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let behind = theirs.secrets.range((from, Bound::Unbounded));
            Ok(behind.filter_map(|(id, kept)| kept.row(customer, *id)).take(limit).collect())
        })
    }

    fn owner(&self, id: SecretId) -> Call<'_, Option<Customer>> {
        Box::pin(async move { Ok(self.held().owners.get(&id).cloned()) })
    }

    fn put_secret(&self, row: SecretRow, expected: Expected) -> Call<'_, ()> {
        Box::pin(async move {
            let mut held = self.held();
            let change = Change::Secret(row.customer.clone(), row.id);
            held.put(row, &expected)?;
            held.generation += 1;
            let _ = self.feed.send(change);
            Ok(())
        })
    }

    fn remove_secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, bool> {
        Box::pin(async move {
            let mut held = self.held();
            let theirs = held.customers.get_mut(customer);
            if theirs.and_then(|theirs| theirs.secrets.remove(&id)).is_none() {
                return Ok(false);
            }
            held.owners.remove(&id);
            held.generation += 1;
            let _ = self.feed.send(Change::Secret(customer.clone(), id));
            Ok(true)
        })
    }

    fn data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId) -> Call<'a, Option<Bytes>> {
        Box::pin(async move {
            let held = self.held();
            Ok(held.customers.get(customer).and_then(|theirs| theirs.data_keys.get(&id)).cloned())
        })
    }

    fn active_data_key<'a>(&'a self, customer: &'a Customer) -> Call<'a, Option<(DataKeyId, Bytes)>> {
        Box::pin(async move {
            let held = self.held();
            let Some(theirs) = held.customers.get(customer) else { return Ok(None) };
            let Some(id) = theirs.active else { return Ok(None) };
            Ok(theirs.data_keys.get(&id).map(|wrapped| (id, wrapped.clone())))
        })
    }

    fn add_data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId, wrapped: Bytes) -> Call<'a, ()> {
        Box::pin(async move {
            let mut held = self.held();
            let theirs = held.customers.entry(customer.clone()).or_default();
            if theirs.active.is_some() {
                return Err(StoreError::Conflict);
            }
            theirs.active = Some(id);
            theirs.data_keys.insert(id, wrapped);
            held.generation += 1;
            let _ = self.feed.send(Change::DataKeys(customer.clone()));
            Ok(())
        })
    }

    fn meta<'a>(&'a self, name: &'a str) -> Call<'a, Option<Bytes>> {
        Box::pin(async move { Ok(self.held().meta.get(name).cloned()) })
    }

    fn put_meta<'a>(&'a self, name: &'a str, value: Bytes) -> Call<'a, ()> {
        Box::pin(async move {
            let mut held = self.held();
            held.meta.insert(name.to_owned(), value);
            held.generation += 1;
            Ok(())
        })
    }

    fn swap_meta<'a>(&'a self, name: &'a str, expected: Option<Bytes>, value: Bytes) -> Call<'a, ()> {
        Box::pin(async move {
            let mut held = self.held();
            if held.meta.get(name) != expected.as_ref() {
                return Err(StoreError::Conflict);
            }
            held.meta.insert(name.to_owned(), value);
            held.generation += 1;
            Ok(())
        })
    }

    fn lease<'a>(&'a self, name: &'a str, holder: Uuid, ttl: Duration) -> Call<'a, bool> {
        Box::pin(async move { Ok(self.leases.take(name, holder, ttl)) })
    }

    fn release<'a>(&'a self, name: &'a str, holder: Uuid) -> Call<'a, ()> {
        Box::pin(async move {
            self.leases.give_back(name, holder);
            Ok(())
        })
    }

    fn upkeep(&self) -> &dyn Upkeep {
        self
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.feed.subscribe()
    }
}

#[derive(Default)]
struct Held {
    customers: BTreeMap<Customer, Theirs>,
    owners: BTreeMap<SecretId, Customer>,
    meta: BTreeMap<String, Bytes>,
    generation: u64,
}

#[derive(Default)]
struct Theirs {
    secrets: BTreeMap<SecretId, Kept>,
    active: Option<DataKeyId>,
    data_keys: BTreeMap<DataKeyId, Bytes>,
}

struct Kept {
    current: u32,
    head: Bytes,
    versions: BTreeMap<u32, Bytes>,
    /// Of the versions that are not current: since when, and their heads.
    past: BTreeMap<u32, (u64, Bytes)>,
    tokens: Option<Bytes>,
    used: Option<u64>,
}

impl Held {
    fn put(&mut self, row: SecretRow, expected: &Expected) -> Result<(), StoreError> {
        // An id belongs to one customer: a second owner would take the first one's entry in the index.
        if self.owners.get(&row.id).is_some_and(|owner| *owner != row.customer) {
            return Err(StoreError::Conflict);
        }
        let theirs = self.customers.entry(row.customer.clone()).or_default();
        let active = theirs.active;
        let found = theirs.secrets.get_mut(&row.id);
        match (expected, found) {
            (Expected::New(key), None) if active != Some(*key) => Err(StoreError::Conflict),
            (Expected::Absent | Expected::New(_), None) => {
                let versions = BTreeMap::from([(row.version, row.sealed)]);
                let past = BTreeMap::new();
                let (current, head, tokens) = (row.version, row.head, row.tokens);
                let kept = Kept { current, head, versions, past, tokens, used: None };
                theirs.secrets.insert(row.id, kept);
                self.owners.insert(row.id, row.customer);
                Ok(())
            }
            (Expected::Head(head), Some(kept)) if kept.head == *head => {
                let before = std::mem::replace(&mut kept.head, row.head);
                if kept.current != row.version {
                    kept.past.insert(kept.current, (clock::unix_seconds(), before));
                    kept.past.remove(&row.version);
                }
                kept.current = row.version;
                kept.tokens = row.tokens;
                kept.versions.insert(row.version, row.sealed);
                Ok(())
            }
            _ => Err(StoreError::Conflict),
        }
    }
}

impl Kept {
    fn row(&self, customer: &Customer, id: SecretId) -> Option<SecretRow> {
        let sealed = self.versions.get(&self.current)?.clone();
        let row = SecretRow {
            customer: customer.clone(),
            id,
            version: self.current,
            head: self.head.clone(),
            sealed,
            tokens: self.tokens.clone(),
        };
        Some(row)
    }
}
