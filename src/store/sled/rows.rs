//! Secrets, their owners, the active data keys and the count of writes, as records of the one tree.
//!
//! What must never enter: a lock, a file.

use bytes::Bytes;
use sled::{Batch, Tree};

use super::fault::{Fault, conflict, damaged};
use super::past;
use super::record::{FIRST_PIECE, Record};
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::{Expected, SecretRow};

/// The secret with its current version.
pub(super) fn secret(tree: &Tree, customer: &Customer, id: SecretId) -> Result<Option<SecretRow>, Fault> {
    let Some((version, head)) = head(tree, customer, id)? else { return Ok(None) };
    let sealed = Record::version(customer, id, version).read(tree)?;
    let sealed = sealed.ok_or_else(|| damaged("a secret's current version is missing"))?;
    let tokens = Record::tokens(customer, id).read(tree)?;
    Ok(Some(SecretRow { customer: customer.clone(), id, version, head, sealed, tokens }))
}

/// Up to `limit` of the customer's secrets by id, behind `after`.
pub(super) fn secrets(
    tree: &Tree,
    customer: &Customer,
    after: Option<SecretId>,
    limit: usize,
) -> Result<Vec<SecretRow>, Fault> {
    let prefix = Record::heads(customer).prefix().to_vec();
    let mut from = prefix.clone();
    if let Some(after) = after {
        // Behind every piece of that id: no piece's number reaches u32::MAX.
        from.extend_from_slice(after.as_bytes());
        from.extend_from_slice(&u32::MAX.to_be_bytes());
    }
    let mut found = Vec::new();
    for key in tree.range(from..).keys() {
        if found.len() >= limit {
            break;
        }
        let key = key?;
        let Some(rest) = key.strip_prefix(prefix.as_slice()) else { break };
        let Some((id, piece)) = rest.split_first_chunk::<16>() else {
            return Err(damaged("a head's key is too short"));
        };
        if piece == FIRST_PIECE {
            found.extend(secret(tree, customer, SecretId::from_bytes(*id))?);
        }
    }
    Ok(found)
}

/// Whose secret `id` is.
pub(super) fn owner(tree: &Tree, id: SecretId) -> Result<Option<Customer>, Fault> {
    let Some(name) = Record::owner(id).read(tree)? else { return Ok(None) };
    let customer = std::str::from_utf8(&name).ok().and_then(|name| Customer::parse(name).ok());
    customer.map(Some).ok_or_else(|| damaged("an owner is not a customer"))
}

/// Adds head, version, tokens and owner of `row` to `batch`, if the store holds what is `expected`.
pub(super) fn put_secret(
    tree: &Tree,
    batch: &mut Batch,
    row: &SecretRow,
    expected: &Expected,
) -> Result<(), Fault> {
    let found = head(tree, &row.customer, row.id)?;
    let owned = owner(tree, row.id)?;
    // An id belongs to one customer: a second owner would take the first one's entry in the index.
    let fits = owned.as_ref().is_none_or(|owner| *owner == row.customer)
        && match expected {
            Expected::Absent => found.is_none(),
            Expected::New(key) => found.is_none() && active_id(tree, &row.customer)? == Some(*key),
            Expected::Head(head) => found.as_ref().is_some_and(|(_, found)| found == head),
        };
    if !fits {
        return Err(conflict());
    }
    if let Some((before, head)) = found.filter(|(before, _)| *before != row.version) {
        past::keep(tree, batch, (&row.customer, row.id), before, &head)?;
        Record::past(&row.customer, row.id, row.version).remove(tree, batch)?;
    }
    let head = [row.version.to_be_bytes().as_slice(), &row.head].concat();
    Record::head(&row.customer, row.id).write(tree, batch, &head)?;
    let version = Record::version(&row.customer, row.id, row.version);
    if version.read(tree)?.is_none_or(|stored| stored != row.sealed) {
        version.write(tree, batch, &row.sealed)?;
    }
    let tokens = Record::tokens(&row.customer, row.id);
    let stored = tokens.read(tree)?;
    match &row.tokens {
        Some(given) if stored.as_ref() != Some(given) => tokens.write(tree, batch, given)?,
        None if stored.is_some() => {
            tokens.remove(tree, batch)?;
        }
        Some(_) | None => {}
    }
    if owned.is_none() {
        Record::owner(row.id).write(tree, batch, row.customer.as_str().as_bytes())?;
    }
    Ok(())
}

/// Adds the removal of the secret, its versions, tokens and owner to `batch`; whether there was one.
pub(super) fn remove_secret(
    tree: &Tree,
    batch: &mut Batch,
    customer: &Customer,
    id: SecretId,
) -> Result<bool, Fault> {
    // Nothing is decoded here: a damaged secret can still be removed.
    if !Record::head(customer, id).remove(tree, batch)? {
        return Ok(false);
    }
    Record::versions(customer, id).remove(tree, batch)?;
    Record::pasts(customer, id).remove(tree, batch)?;
    Record::used(customer, id).remove(tree, batch)?;
    Record::tokens(customer, id).remove(tree, batch)?;
    Record::owner(id).remove(tree, batch)?;
    Ok(true)
}

/// The customer's active data key.
pub(super) fn active_data_key(tree: &Tree, customer: &Customer) -> Result<Option<(DataKeyId, Bytes)>, Fault> {
    let Some(id) = active_id(tree, customer)? else { return Ok(None) };
    let wrapped = Record::data_key(customer, id).read(tree)?;
    wrapped.map(|wrapped| Some((id, wrapped))).ok_or_else(|| damaged("the active data key is missing"))
}

/// The id of the customer's active data key.
pub(super) fn active_id(tree: &Tree, customer: &Customer) -> Result<Option<DataKeyId>, Fault> {
    let Some(id) = Record::active(customer).read(tree)? else { return Ok(None) };
    let id = <[u8; 16]>::try_from(id.as_ref()).map_err(|_| damaged("an active key's id is not 16 bytes"))?;
    Ok(Some(DataKeyId::from_bytes(id)))
}

/// Adds one more write to the count of all of them, or sets it to `as_told`.
pub(super) fn count(tree: &Tree, batch: &mut Batch, as_told: Option<u64>) -> Result<(), Fault> {
    let next = match as_told {
        Some(told) => told,
        None => generation(tree)?.saturating_add(1),
    };
    Record::generation().write(tree, batch, &next.to_be_bytes())
}

/// How many writes there were.
pub(super) fn generation(tree: &Tree) -> Result<u64, Fault> {
    let Some(stored) = Record::generation().read(tree)? else { return Ok(0) };
    number(&stored)
}

/// A record that is one number.
pub(super) fn number(stored: &[u8]) -> Result<u64, Fault> {
    let bytes = <[u8; 8]>::try_from(stored).map_err(|_| damaged("a number is not 8 bytes"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn head(tree: &Tree, customer: &Customer, id: SecretId) -> Result<Option<(u32, Bytes)>, Fault> {
    let Some(stored) = Record::head(customer, id).read(tree)? else { return Ok(None) };
    let Some((version, _)) = stored.split_first_chunk::<4>() else {
        return Err(damaged("a head is too short"));
    };
    Ok(Some((u32::from_be_bytes(*version), stored.slice(4..))))
}
