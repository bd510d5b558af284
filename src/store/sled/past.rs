//! Versions that another took the place of, and the walks over a whole tree.
//!
//! A past version is two records: its sealed bytes, where they stood when it was current, and
//! `1 | superseded at, u64 | its head`. What must never enter: a lock, a file.

use bytes::Bytes;
use sled::{Batch, Tree};

use super::fault::{Fault, conflict, damaged};
use super::record::{FIRST_PIECE, Record};
use crate::clock;
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::Past;

const FORMAT: u8 = 1;

/// Adds to `batch` that `version`, which had this head, is no longer current.
pub(super) fn keep(
    tree: &Tree,
    batch: &mut Batch,
    (customer, id): (&Customer, SecretId),
    version: u32,
    head: &[u8],
) -> Result<(), Fault> {
    Record::past(customer, id, version).write(tree, batch, &encode(clock::unix_seconds(), head))
}

/// Adds a version that is not current to `batch`.
pub(super) fn put(
    tree: &Tree,
    batch: &mut Batch,
    (customer, id): (&Customer, SecretId),
    past: &Past,
) -> Result<(), Fault> {
    if let Some(head) = &past.head {
        Record::past(customer, id, past.version).write(tree, batch, &encode(past.superseded_at, head))?;
    }
    Record::version(customer, id, past.version).write(tree, batch, &past.sealed)
}

/// The versions of a secret that are not current.
pub(super) fn all(tree: &Tree, customer: &Customer, id: SecretId) -> Result<Vec<Past>, Fault> {
    let prefix = Record::versions(customer, id);
    let Some(stored) = Record::head(customer, id).read(tree)? else { return Ok(Vec::new()) };
    let current = stored.first_chunk::<4>().map(|version| u32::from_be_bytes(*version));
    let mut found = Vec::new();
    for key in tree.scan_prefix(prefix.prefix()).keys() {
        let key = key?;
        let Some((version, piece)) =
            key.get(prefix.prefix().len()..).and_then(|rest| rest.split_first_chunk::<4>())
        else {
            return Err(damaged("a version's key is too short"));
        };
        let version = u32::from_be_bytes(*version);
        if piece != FIRST_PIECE || current == Some(version) {
            continue;
        }
        let sealed = Record::version(customer, id, version).read(tree)?.unwrap_or_default();
        let kept = Record::past(customer, id, version).read(tree)?;
        let (superseded_at, head) = match kept {
            Some(kept) => decode(&kept).map(|(at, head)| (at, Some(head)))?,
            None => (0, None),
        };
        found.push(Past { version, head, sealed, superseded_at });
    }
    Ok(found)
}

/// Adds `past` to `batch` in the place of the same version with the head `expected`.
pub(super) fn replace(
    tree: &Tree,
    batch: &mut Batch,
    (customer, id): (&Customer, SecretId),
    expected: &Bytes,
    past: &Past,
) -> Result<(), Fault> {
    let record = Record::past(customer, id, past.version);
    let kept = record.read(tree)?.ok_or_else(conflict)?;
    let (_, found) = decode(&kept)?;
    let Some(head) = past.head.as_ref().filter(|_| found == *expected) else { return Err(conflict()) };
    record.write(tree, batch, &encode(past.superseded_at, head))?;
    Record::version(customer, id, past.version).write(tree, batch, &past.sealed)
}

/// The customer's versions that are past since before `before`.
pub(super) fn due(tree: &Tree, customer: &Customer, before: u64) -> Result<Vec<(SecretId, u32)>, Fault> {
    let mut found = Vec::new();
    let under = Record::customers_past(customer);
    for key in tree.scan_prefix(under.prefix()).keys() {
        let key = key?;
        let named = key.get(under.prefix().len()..).and_then(|rest| rest.split_first_chunk::<16>());
        let named = named.and_then(|(id, rest)| Some((id, rest.split_first_chunk::<4>()?)));
        let Some((id, (version, piece))) = named else {
            return Err(damaged("a past version's key is too short"));
        };
        let (id, version) = (SecretId::from_bytes(*id), u32::from_be_bytes(*version));
        if piece != FIRST_PIECE {
            continue;
        }
        let kept = Record::past(customer, id, version).read(tree)?;
        if kept.map(|kept| decode(&kept)).transpose()?.is_some_and(|(at, _)| at < before) {
            found.push((id, version));
        }
    }
    Ok(found)
}

/// Adds the removal of what is [`due`] to `batch`; how many versions.
pub(super) fn erase(tree: &Tree, batch: &mut Batch, customer: &Customer, before: u64) -> Result<u64, Fault> {
    let due = due(tree, customer, before)?;
    for (id, version) in &due {
        Record::past(customer, *id, *version).remove(tree, batch)?;
        Record::version(customer, *id, *version).remove(tree, batch)?;
    }
    Ok(due.len() as u64)
}

/// The customer that stands in a row's key behind its kind, and what follows.
pub(super) fn customer_of(key: &[u8]) -> Result<Option<(Customer, &[u8])>, Fault> {
    let bad = || damaged("a row's key names no customer");
    let Some((_, rest)) = key.split_first() else { return Ok(None) };
    let (length, rest) = rest.split_first().ok_or_else(bad)?;
    let (name, rest) = rest.split_at_checked((*length).into()).ok_or_else(bad)?;
    let name = std::str::from_utf8(name).map_err(|_| bad())?;
    Ok(Some((Customer::parse(name).map_err(|_| bad())?, rest)))
}

/// Up to `limit` customers that have a record of the kind that `every` names, behind `after`.
pub(super) fn customers(
    tree: &Tree,
    every: &Record,
    after: Option<&Record>,
    limit: usize,
) -> Result<Vec<Customer>, Fault> {
    let mut from = after.unwrap_or(every).prefix().to_vec();
    if after.is_some() {
        // Behind every piece of that one: no piece's number reaches u32::MAX.
        from.extend_from_slice(&u32::MAX.to_be_bytes());
    }
    let mut found = Vec::new();
    for key in tree.range(from..).keys() {
        let key = key?;
        if found.len() >= limit || !key.starts_with(every.prefix()) {
            break;
        }
        match customer_of(&key)? {
            Some((customer, piece)) if piece == FIRST_PIECE => found.push(customer),
            _ => {}
        }
    }
    Ok(found)
}

/// How many records of a kind have their first row among the next `limit` rows behind `after`; the last row's key,
/// if there may be more.
pub(super) fn count(
    tree: &Tree,
    kind: &Record,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<(u64, Option<Vec<u8>>), Fault> {
    let from = after.unwrap_or(kind.prefix());
    let (mut found, mut seen) = (0, 0);
    for key in tree.range(from..).keys() {
        let key = key?;
        if !key.starts_with(kind.prefix()) {
            break;
        }
        if after == Some(key.as_ref()) {
            continue;
        }
        found += u64::from(key.ends_with(&FIRST_PIECE));
        seen += 1;
        if seen >= limit {
            return Ok((found, Some(key.to_vec())));
        }
    }
    Ok((found, None))
}

/// The customer's data keys, wrapped.
pub(super) fn data_keys(tree: &Tree, customer: &Customer) -> Result<Vec<(DataKeyId, Bytes)>, Fault> {
    let mut found = Vec::new();
    for id in ids(tree, &Record::data_keys(customer), usize::MAX)? {
        let id = DataKeyId::from_bytes(id);
        let wrapped = Record::data_key(customer, id).read(tree)?;
        found.push((id, wrapped.ok_or_else(|| damaged("a data key is missing"))?));
    }
    Ok(found)
}

/// How many data keys the customer has. Only keys are read: a damaged one is counted too.
pub(super) fn data_keys_count(tree: &Tree, customer: &Customer) -> Result<u64, Fault> {
    Ok(ids(tree, &Record::data_keys(customer), usize::MAX)?.len() as u64)
}

/// Up to `limit` of the customer's secrets. Only keys are read: a damaged one is listed too.
pub(super) fn secrets(tree: &Tree, customer: &Customer, limit: usize) -> Result<Vec<SecretId>, Fault> {
    Ok(ids(tree, &Record::heads(customer), limit)?.into_iter().map(SecretId::from_bytes).collect())
}

fn ids(tree: &Tree, under: &Record, limit: usize) -> Result<Vec<[u8; 16]>, Fault> {
    let mut found = Vec::new();
    for key in tree.scan_prefix(under.prefix()).keys() {
        if found.len() >= limit {
            break;
        }
        let key = key?;
        match key.get(under.prefix().len()..).and_then(|rest| rest.split_first_chunk::<16>()) {
            Some((id, piece)) if piece == FIRST_PIECE => found.push(*id),
            Some(_) => {}
            None => return Err(damaged("a row's key is too short")),
        }
    }
    Ok(found)
}

fn encode(superseded_at: u64, head: &[u8]) -> Vec<u8> {
    [&[FORMAT], superseded_at.to_be_bytes().as_slice(), head].concat()
}

fn decode(kept: &Bytes) -> Result<(u64, Bytes), Fault> {
    match kept.split_first_chunk::<9>() {
        Some(([FORMAT, at @ ..], _)) => Ok((u64::from_be_bytes(*at), kept.slice(9..))),
        Some(_) => Err(damaged("a past version has a format that this relay does not know")),
        None => Err(damaged("a past version's head is too short")),
    }
}
