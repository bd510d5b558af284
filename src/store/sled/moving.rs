//! The embedded store's part in export and import.
//!
//! A portion is read under one turn of the engine, so no write falls between its rows; a block of an import is one
//! batch, with how far the import is. What must never enter: a row's layout.

use std::collections::HashMap;

use sled::{Batch, Tree};

use super::Sled;
use super::engine::Room;
use super::fault::{Fault, conflict, damaged};
use super::past;
use super::record::{FIRST_PIECE, Record};
use super::rows;
use crate::model::{Customer, SecretId};
use crate::store::moving::{IMPORT, Load, Moving, Portion, Records, Whole};
use crate::store::{Call, Expected};

/// Secrets looked for at once.
const AT_ONCE: usize = 16;

impl Moving for Sled {
    fn holders<'a>(&'a self, after: Option<&'a Customer>, limit: usize) -> Call<'a, Vec<Customer>> {
        let after = after.cloned();
        self.call(move |engine| engine.read(|tree| holders(tree, after.as_ref(), limit)))
    }

    fn portion<'a>(
        &'a self,
        customer: &'a Customer,
        after: Option<SecretId>,
        most: usize,
    ) -> Call<'a, Portion> {
        let customer = customer.clone();
        self.call(move |engine| engine.read(|tree| portion(tree, &customer, after, most)))
    }

    fn meta_names(&self) -> Call<'_, Vec<String>> {
        self.call(|engine| engine.read(meta_names))
    }

    fn take(&self, load: Load) -> Call<'_, ()> {
        self.call(move |engine| {
            engine.write_as(Room::Needed, None, load.generation, |tree| {
                let mut batch = Batch::default();
                if Record::meta(IMPORT).read(tree)? != load.expected
                    || (load.expected.is_none() && !is_new(tree)?)
                {
                    return Err(conflict());
                }
                Record::meta(IMPORT).write(tree, &mut batch, &load.progress)?;
                put(tree, &mut batch, &load.records)?;
                Ok((Some(batch), ()))
            })
        })
    }
}

/// Customers of each kind of row that shows one, in the order of their rows' keys: by length, then by name.
fn holders(tree: &Tree, after: Option<&Customer>, limit: usize) -> Result<Vec<Customer>, Fault> {
    let mut found: Vec<Customer> = Vec::new();
    let mut last = after.cloned();
    while found.len() < limit {
        let mut next: Option<Customer> = None;
        for kind in Record::every_holding() {
            let candidate = behind(tree, &kind, last.as_ref())?;
            next = match (next, candidate) {
                (Some(one), Some(other)) => Some(if place(&other) < place(&one) { other } else { one }),
                (one, other) => one.or(other),
            };
        }
        let Some(next) = next else { break };
        // What is left of a customer that is being forgotten counts as gone.
        if Record::forgetting(&next).read(tree)?.is_none() {
            found.push(next.clone());
        }
        last = Some(next);
    }
    Ok(found)
}

fn place(customer: &Customer) -> (usize, &str) {
    (customer.as_str().len(), customer.as_str())
}

/// The first customer with a row of this kind behind `last`.
fn behind(tree: &Tree, kind: &Record, last: Option<&Customer>) -> Result<Option<Customer>, Fault> {
    let mut from = kind.prefix().to_vec();
    if let Some(last) = last {
        let name = last.as_str().as_bytes();
        from.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        from.extend_from_slice(name);
        // Behind each of its rows: an id of 16 bytes, and no piece's number reaches u32::MAX.
        from.extend_from_slice(&[u8::MAX; 20]);
    }
    match tree.range(from..).keys().next() {
        Some(key) => {
            let key = key?;
            if !key.starts_with(kind.prefix()) {
                return Ok(None);
            }
            Ok(past::customer_of(&key)?.map(|(customer, _)| customer))
        }
        None => Ok(None),
    }
}

fn portion(
    tree: &Tree,
    customer: &Customer,
    mut after: Option<SecretId>,
    most: usize,
) -> Result<Portion, Fault> {
    let mut portion = Portion::default();
    if Record::forgetting(customer).read(tree)?.is_some() {
        return Ok(portion);
    }
    portion.keys = past::data_keys(tree, customer)?;
    portion.active = rows::active_id(tree, customer)?;
    let mut size = 0;
    loop {
        let page = rows::secrets(tree, customer, after, AT_ONCE)?;
        let full = page.len() == AT_ONCE;
        for row in page {
            after = Some(row.id);
            let used = Record::used(customer, row.id).read(tree)?;
            let used = used.map(|stored| rows::number(&stored)).transpose()?;
            let whole = Whole { past: past::all(tree, customer, row.id)?, row, used };
            size += whole.size();
            portion.secrets.push(whole);
            if size >= most {
                portion.more = true;
                return Ok(portion);
            }
        }
        if !full {
            return Ok(portion);
        }
    }
}

fn meta_names(tree: &Tree) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    let every = Record::every_meta();
    for key in tree.scan_prefix(every.prefix()).keys() {
        let key = key?;
        // Behind the kind a length of 8 bytes, the name, and the piece.
        let name = key.get(9..).and_then(|rest| rest.split_last_chunk::<4>());
        match name.map(|(name, piece)| (std::str::from_utf8(name), *piece)) {
            Some((Ok(name), FIRST_PIECE)) => names.push(name.to_owned()),
            Some((Ok(_), _)) => {}
            _ => return Err(damaged("a store-wide record's key holds no name")),
        }
    }
    names.sort();
    Ok(names)
}

fn is_new(tree: &Tree) -> Result<bool, Fault> {
    for kind in Record::every_holding().into_iter().chain([Record::every_meta(), Record::every_forgetting()])
    {
        if let Some(row) = tree.scan_prefix(kind.prefix()).keys().next() {
            row?;
            return Ok(false);
        }
    }
    Ok(true)
}

fn put(tree: &Tree, batch: &mut Batch, records: &Records) -> Result<(), Fault> {
    for (name, value) in &records.metas {
        Record::meta(name).write(tree, batch, value)?;
    }
    for key in &records.keys {
        Record::data_key(&key.customer, key.id).write(tree, batch, &key.wrapped)?;
        if key.active {
            Record::active(&key.customer).write(tree, batch, key.id.as_bytes())?;
        }
    }
    // What stands in the batch is not in the tree yet.
    let mut current: HashMap<(&Customer, SecretId), u32> = HashMap::new();
    for (row, used) in &records.secrets {
        rows::put_secret(tree, batch, row, &Expected::Absent)?;
        if let Some(used) = used {
            Record::used(&row.customer, row.id).write(tree, batch, &used.to_be_bytes())?;
        }
        current.insert((&row.customer, row.id), row.version);
    }
    for row in &records.past {
        let version = match current.get(&(&row.customer, row.id)) {
            Some(version) => Some(*version),
            None => rows::secret(tree, &row.customer, row.id)?.map(|secret| secret.version),
        };
        if version.is_none_or(|version| version == row.past.version) {
            return Err(conflict());
        }
        past::put(tree, batch, (&row.customer, row.id), &row.past)?;
    }
    Ok(())
}
