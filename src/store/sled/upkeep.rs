//! The embedded store's upkeep: keys exchanged, versions erased, customers forgotten.
//!
//! Forgetting is many writes: the first deletes the data keys, after which nothing opens, and leaves a mark by
//! which the next opening of the store ends what was begun. What must never enter: a row's layout.

use bytes::Bytes;
use sled::Batch;

use super::Sled;
use super::engine::{Engine, Room};
use super::fault::conflict;
use super::folder::FORMAT_VERSION;
use super::past;
use super::record::Record;
use super::rows;
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::moving::Moving;
use crate::store::{Call, Change, Forgotten, Info, Past, StoreError, Upkeep};

/// Secrets deleted in one write.
const AT_ONCE: usize = 100;
/// Rows counted in one step.
const COUNTED_AT_ONCE: usize = 10_000;

impl Upkeep for Sled {
    fn customers<'a>(&'a self, after: Option<&'a Customer>, limit: usize) -> Call<'a, Vec<Customer>> {
        let after = after.map(Record::active);
        self.call(move |engine| {
            engine.read(|tree| past::customers(tree, &Record::every_active(), after.as_ref(), limit))
        })
    }

    fn data_keys<'a>(&'a self, customer: &'a Customer) -> Call<'a, Vec<(DataKeyId, Bytes)>> {
        let customer = customer.clone();
        self.call(move |engine| engine.read(|tree| past::data_keys(tree, &customer)))
    }

    fn rewrap_data_key<'a>(
        &'a self,
        customer: &'a Customer,
        id: DataKeyId,
        expected: Bytes,
        wrapped: Bytes,
    ) -> Call<'a, ()> {
        let customer = customer.clone();
        self.call(move |engine| {
            engine.write(Room::Needed, [Change::DataKeys(customer.clone())], |tree| {
                let record = Record::data_key(&customer, id);
                if record.read(tree)?.is_none_or(|found| found != expected) {
                    return Err(conflict());
                }
                let mut batch = Batch::default();
                record.write(tree, &mut batch, &wrapped)?;
                Ok((Some(batch), ()))
            })
        })
    }

    fn renew_data_key<'a>(
        &'a self,
        customer: &'a Customer,
        expected: DataKeyId,
        id: DataKeyId,
        wrapped: Bytes,
    ) -> Call<'a, ()> {
        let customer = customer.clone();
        self.call(move |engine| {
            engine.write(Room::Needed, [Change::DataKeys(customer.clone())], |tree| {
                let record = Record::data_key(&customer, id);
                if rows::active_id(tree, &customer)? != Some(expected) || record.read(tree)?.is_some() {
                    return Err(conflict());
                }
                let mut batch = Batch::default();
                record.write(tree, &mut batch, &wrapped)?;
                Record::active(&customer).write(tree, &mut batch, id.as_bytes())?;
                Ok((Some(batch), ()))
            })
        })
    }

    fn remove_data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId) -> Call<'a, bool> {
        let customer = customer.clone();
        self.call(move |engine| {
            engine.write(Room::Freed, [Change::DataKeys(customer.clone())], |tree| {
                if rows::active_id(tree, &customer)? == Some(id) {
                    return Err(conflict());
                }
                let mut batch = Batch::default();
                let found = Record::data_key(&customer, id).remove(tree, &mut batch)?;
                Ok((found.then_some(batch), found))
            })
        })
    }

    fn past<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, Vec<Past>> {
        let customer = customer.clone();
        self.call(move |engine| engine.read(|tree| past::all(tree, &customer, id)))
    }

    fn replace_past<'a>(
        &'a self,
        customer: &'a Customer,
        id: SecretId,
        expected: Bytes,
        past: Past,
    ) -> Call<'a, ()> {
        let customer = customer.clone();
        self.call(move |engine| {
            engine.write(Room::Needed, None, |tree| {
                let mut batch = Batch::default();
                past::replace(tree, &mut batch, (&customer, id), &expected, &past)?;
                Ok((Some(batch), ()))
            })
        })
    }

    fn erase_past<'a>(&'a self, customer: &'a Customer, before: u64) -> Call<'a, u64> {
        let customer = customer.clone();
        self.walk(move |engine| {
            // Nearly always there is nothing: looked at without holding anyone up.
            if engine.read(|tree| past::due(tree, &customer, before))?.is_empty() {
                return Ok(0);
            }
            engine.write(Room::Freed, None, |tree| {
                let mut batch = Batch::default();
                let erased = past::erase(tree, &mut batch, &customer, before)?;
                Ok(((erased > 0).then_some(batch), erased))
            })
        })
    }

    fn forget<'a>(&'a self, customer: &'a Customer) -> Call<'a, Forgotten> {
        let customer = customer.clone();
        self.walk(move |engine| forget(engine, &customer))
    }

    fn note_used(&self, notes: Vec<(Customer, SecretId, u64)>) -> Call<'_, ()> {
        self.call(move |engine| {
            engine.write(Room::Needed, None, |tree| {
                let mut batch = Batch::default();
                for (customer, id, at) in &notes {
                    if Record::head(customer, *id).read(tree)?.is_some() {
                        Record::used(customer, *id).write(tree, &mut batch, &at.to_be_bytes())?;
                    }
                }
                Ok((Some(batch), ()))
            })
        })
    }

    fn last_used<'a>(&'a self, customer: &'a Customer, ids: Vec<SecretId>) -> Call<'a, Vec<Option<u64>>> {
        let customer = customer.clone();
        self.call(move |engine| {
            engine.read(|tree| {
                let read = |id: &SecretId| {
                    let stored = Record::used(&customer, *id).read(tree)?;
                    stored.map(|stored| rows::number(&stored)).transpose()
                };
                ids.iter().map(read).collect()
            })
        })
    }

    fn generation(&self) -> Call<'_, u64> {
        // As a write without a batch: what it saw is durable when it returns.
        self.call(|engine| engine.write(Room::Freed, None, |tree| Ok((None, rows::generation(tree)?))))
    }

    fn info(&self) -> Call<'_, Info> {
        self.walk(info)
    }

    fn moving(&self) -> &dyn Moving {
        self
    }
}

fn info(engine: &Engine) -> Result<Info, StoreError> {
    let [active, heads, keys] = Record::every_holding();
    Ok(Info {
        engine: "sled",
        format: FORMAT_VERSION.into(),
        customers: counted(engine, &active)?,
        data_keys: counted(engine, &keys)?,
        secrets: counted(engine, &heads)?,
        bytes: engine.bytes(),
        writable: engine.has_room().unwrap_or(false),
    })
}

/// How many records of this kind there are; writes go on between two steps.
fn counted(engine: &Engine, kind: &Record) -> Result<u64, StoreError> {
    let (mut after, mut all) = (None, 0);
    loop {
        let (some, last) = engine.read(|tree| past::count(tree, kind, after.as_deref(), COUNTED_AT_ONCE))?;
        all += some;
        match last {
            Some(last) => after = Some(last),
            None => return Ok(all),
        }
    }
}

/// Ends what an earlier process began to forget.
pub(super) fn end_forgetting(engine: &Engine) -> Result<(), StoreError> {
    let begun = engine.read(|tree| past::customers(tree, &Record::every_forgetting(), None, usize::MAX))?;
    for customer in begun {
        forget(engine, &customer)?;
    }
    Ok(())
}

fn forget(engine: &Engine, customer: &Customer) -> Result<Forgotten, StoreError> {
    let data_keys = engine.write(Room::Freed, [Change::DataKeys(customer.clone())], |tree| {
        let keys = past::data_keys_count(tree, customer)?;
        let mut batch = Batch::default();
        Record::forgetting(customer).write(tree, &mut batch, &[])?;
        Record::active(customer).remove(tree, &mut batch)?;
        Record::data_keys(customer).remove(tree, &mut batch)?;
        Ok((Some(batch), keys))
    })?;
    let mut forgotten = Forgotten { data_keys, ..Forgotten::default() };
    loop {
        let ids = engine.read(|tree| past::secrets(tree, customer, AT_ONCE))?;
        let changes: Vec<Change> = ids.iter().map(|id| Change::Secret(customer.clone(), *id)).collect();
        let over = engine.write(Room::Freed, changes, |tree| {
            let mut batch = Batch::default();
            for id in &ids {
                rows::remove_secret(tree, &mut batch, customer, *id)?;
            }
            // Nothing more: the mark goes, unless something was put there meanwhile.
            let over = ids.is_empty() && past::secrets(tree, customer, 1)?.is_empty();
            if over {
                Record::forgetting(customer).remove(tree, &mut batch)?;
            }
            Ok((Some(batch), over))
        })?;
        forgotten.secrets += ids.len() as u64;
        if over {
            return Ok(forgotten);
        }
    }
}
