//! The store in memory's part in export and import. Every call is one step under the lock.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Held, Kept, Memory};
use crate::model::{Customer, SecretId};
use crate::store::moving::{IMPORT, Load, Moving, Portion, Records, Whole};
use crate::store::{Call, Past, StoreError};

impl Moving for Memory {
    fn holders<'a>(&'a self, after: Option<&'a Customer>, limit: usize) -> Call<'a, Vec<Customer>> {
        Box::pin(async move {
            let held = self.held();
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let behind = held.customers.range::<Customer, _>((from, Bound::Unbounded));
            let holding =
                behind.filter(|(_, theirs)| !theirs.data_keys.is_empty() || !theirs.secrets.is_empty());
            Ok(holding.map(|(customer, _)| customer.clone()).take(limit).collect())
        })
    }

    fn portion<'a>(
        &'a self,
        customer: &'a Customer,
        after: Option<SecretId>,
        most: usize,
    ) -> Call<'a, Portion> {
        Box::pin(async move {
            let held = self.held();
            let Some(theirs) = held.customers.get(customer) else { return Ok(Portion::default()) };
            let keys = theirs.data_keys.iter().map(|(id, wrapped)| (*id, wrapped.clone())).collect();
            let mut portion = Portion { keys, active: theirs.active, ..Portion::default() };
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut size = 0;
            for (id, kept) in theirs.secrets.range((from, Bound::Unbounded)) {
                let Some(row) = kept.row(customer, *id) else { continue };
                let whole = Whole { row, used: kept.used, past: kept.past() };
                size += whole.size();
                portion.secrets.push(whole);
                if size >= most {
                    portion.more = true;
                    break;
                }
            }
            Ok(portion)
        })
    }

    fn meta_names(&self) -> Call<'_, Vec<String>> {
        Box::pin(async move { Ok(self.held().meta.keys().cloned().collect()) })
    }

    fn take(&self, load: Load) -> Call<'_, ()> {
        Box::pin(async move {
            let mut held = self.held();
            let new = held.customers.is_empty() && held.meta.is_empty();
            if held.meta.get(IMPORT) != load.expected.as_ref() || (load.expected.is_none() && !new) {
                return Err(StoreError::Conflict);
            }
            held.judge(&load.records)?;
            held.put_all(load.records);
            held.meta.insert(IMPORT.to_owned(), load.progress);
            held.generation = load.generation.unwrap_or(held.generation + 1);
            Ok(())
        })
    }
}

impl Held {
    /// Nothing is written if something of it cannot be.
    fn judge(&self, records: &Records) -> Result<(), StoreError> {
        let mut current = BTreeMap::new();
        for (row, _) in &records.secrets {
            if self.owners.contains_key(&row.id) {
                return Err(StoreError::Conflict);
            }
            current.insert((&row.customer, row.id), row.version);
        }
        for row in &records.past {
            let stored = self.customers.get(&row.customer).and_then(|theirs| theirs.secrets.get(&row.id));
            let version = current.get(&(&row.customer, row.id)).copied();
            let version = version.or_else(|| stored.map(|kept| kept.current));
            if version.is_none_or(|version| version == row.past.version) {
                return Err(StoreError::Conflict);
            }
        }
        Ok(())
    }

    fn put_all(&mut self, records: Records) {
        self.meta.extend(records.metas);
        for key in records.keys {
            let theirs = self.customers.entry(key.customer).or_default();
            theirs.data_keys.insert(key.id, key.wrapped);
            if key.active {
                theirs.active = Some(key.id);
            }
        }
        for (row, used) in records.secrets {
            self.owners.insert(row.id, row.customer.clone());
            let theirs = self.customers.entry(row.customer).or_default();
            let versions = BTreeMap::from([(row.version, row.sealed)]);
            let kept = Kept {
                current: row.version,
                head: row.head,
                versions,
                past: BTreeMap::new(),
                tokens: row.tokens,
                used,
            };
            theirs.secrets.insert(row.id, kept);
        }
        for row in records.past {
            let kept =
                self.customers.get_mut(&row.customer).and_then(|theirs| theirs.secrets.get_mut(&row.id));
            if let Some(kept) = kept {
                let Past { version, head, sealed, superseded_at } = row.past;
                kept.versions.insert(version, sealed);
                kept.past.insert(version, (superseded_at, head.unwrap_or_default()));
            }
        }
    }
}
