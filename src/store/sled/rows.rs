//! The layout: which key a record stands under, and how it is cut into rows.
//!
//! One tree. A record's key is a kind byte and its parts, each of fixed length or behind its length, so
//! that no record's key begins another's; a row's key adds the piece's number. Every row is
//! `version 1 | record length, u32 | at most 4091 bytes`, integers big-endian. sled would write a page
//! over 128 KiB to a file of its own and never sync it: 4 KiB rows keep its 17-row pages below that.
//! What must never enter: a lock, a file. A row of another shape is [`StoreError::Damaged`].

use bytes::Bytes;
use sled::{Batch, Tree};

use super::engine::Fault;
use super::past;
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::{Expected, SecretRow, StoreError};

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
    let prefix = Record::heads(customer).0;
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

/// A record's key without its piece, or what the keys of several records begin with.
pub(super) struct Record(Vec<u8>);

const ROW_VERSION: u8 = 1;
const ROW: usize = 4096;
const ROW_HEAD: usize = 5;
const PIECE: usize = ROW - ROW_HEAD;
pub(super) const FIRST_PIECE: [u8; 4] = [0; 4];

impl Record {
    /// A wrapped data key.
    pub(super) fn data_key(customer: &Customer, id: DataKeyId) -> Self {
        Self::of(b'k', customer).and(id.as_bytes())
    }

    /// The id of the customer's active data key.
    pub(super) fn active(customer: &Customer) -> Self {
        Self::of(b'a', customer)
    }

    /// Every store-wide record.
    pub(super) fn every_meta() -> Self {
        Self(vec![b'm'])
    }

    /// Every record that shows a customer: data keys, active ones, heads.
    pub(super) fn every_holding() -> [Self; 3] {
        [b'a', b'h', b'k'].map(|kind| Self(vec![kind]))
    }

    /// A store-wide record.
    pub(super) fn meta(name: &str) -> Self {
        let length = u64::try_from(name.len()).unwrap_or(u64::MAX);
        Self(vec![b'm']).and(&length.to_be_bytes()).and(name.as_bytes())
    }

    /// All data keys of a customer.
    pub(super) fn data_keys(customer: &Customer) -> Self {
        Self::of(b'k', customer)
    }

    /// Every customer's active data key: what such a record's key begins with.
    pub(super) fn every_active() -> Self {
        Self(vec![b'a'])
    }

    /// A version that another took the place of: its head, and since when. Its sealed bytes stay where they are.
    pub(super) fn past(customer: &Customer, id: SecretId, version: u32) -> Self {
        Self::pasts(customer, id).and(&version.to_be_bytes())
    }

    pub(super) fn pasts(customer: &Customer, id: SecretId) -> Self {
        Self::customers_past(customer).and(id.as_bytes())
    }

    /// All of a customer's.
    pub(super) fn customers_past(customer: &Customer) -> Self {
        Self::of(b'p', customer)
    }

    /// When a secret was last used.
    pub(super) fn used(customer: &Customer, id: SecretId) -> Self {
        Self::of(b'u', customer).and(id.as_bytes())
    }

    /// What the vendor gave for a secret's current version.
    fn tokens(customer: &Customer, id: SecretId) -> Self {
        Self::of(b't', customer).and(id.as_bytes())
    }

    /// That a customer is being forgotten.
    pub(super) fn forgetting(customer: &Customer) -> Self {
        Self::of(b'f', customer)
    }

    /// Every customer that is being forgotten.
    pub(super) fn every_forgetting() -> Self {
        Self(vec![b'f'])
    }

    fn generation() -> Self {
        Self(vec![b'g'])
    }

    pub(super) fn heads(customer: &Customer) -> Self {
        Self::of(b'h', customer)
    }

    pub(super) fn head(customer: &Customer, id: SecretId) -> Self {
        Self::heads(customer).and(id.as_bytes())
    }

    pub(super) fn versions(customer: &Customer, id: SecretId) -> Self {
        Self::of(b'v', customer).and(id.as_bytes())
    }

    pub(super) fn version(customer: &Customer, id: SecretId, version: u32) -> Self {
        Self::versions(customer, id).and(&version.to_be_bytes())
    }

    fn owner(id: SecretId) -> Self {
        Self(vec![b'o']).and(id.as_bytes())
    }

    fn of(kind: u8, customer: &Customer) -> Self {
        // A customer has at most 128 bytes: its length is one byte.
        let name = customer.as_str().as_bytes();
        Self(vec![kind, u8::try_from(name.len()).unwrap_or(u8::MAX)]).and(name)
    }

    /// What its rows' keys begin with.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.0
    }

    fn and(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(part);
        self
    }

    fn piece(&self, index: u32) -> Vec<u8> {
        [self.0.as_slice(), &index.to_be_bytes()].concat()
    }

    /// The record's bytes, put together from its pieces.
    pub(super) fn read(&self, tree: &Tree) -> Result<Option<Bytes>, Fault> {
        let mut record = Vec::new();
        for index in 0u32.. {
            let Some(row) = tree.get(self.piece(index))? else {
                return if index == 0 { Ok(None) } else { Err(damaged("a piece of a record is missing")) };
            };
            let (length, piece) = unrow(&row)?;
            if index == 0 {
                record.reserve_exact(length.min(1 << 20));
            }
            record.extend_from_slice(piece);
            if record.len() == length {
                return Ok(Some(record.into()));
            }
            if piece.len() != PIECE || record.len() > length {
                return Err(damaged("a record's pieces do not add up"));
            }
        }
        Err(damaged("a record has too many pieces"))
    }

    /// Adds the record to `batch` in pieces, in place of whatever stands under its key.
    pub(super) fn write(&self, tree: &Tree, batch: &mut Batch, record: &[u8]) -> Result<(), Fault> {
        let Ok(length) = u32::try_from(record.len()) else {
            return Err(Fault::Answer(StoreError::Unavailable("a record over 4 GiB".into())));
        };
        // A later insert of the same key wins within a batch, so this only clears surplus pieces.
        self.remove(tree, batch)?;
        let empty = record.is_empty().then_some(record);
        for (index, piece) in (0u32..).zip(record.chunks(PIECE).chain(empty)) {
            let row = [&[ROW_VERSION], length.to_be_bytes().as_slice(), piece].concat();
            batch.insert(self.piece(index), row);
        }
        Ok(())
    }

    /// Adds the removal of every row whose key begins with this one to `batch`; whether there was any.
    pub(super) fn remove(&self, tree: &Tree, batch: &mut Batch) -> Result<bool, Fault> {
        let mut any = false;
        for key in tree.scan_prefix(&self.0).keys() {
            batch.remove(key?);
            any = true;
        }
        Ok(any)
    }
}

fn unrow(row: &[u8]) -> Result<(usize, &[u8]), Fault> {
    let Some((head, piece)) = row.split_first_chunk::<ROW_HEAD>() else {
        return Err(damaged("a row is too short"));
    };
    let [version, length @ ..] = head;
    if *version != ROW_VERSION {
        return Err(damaged("a row has a version that this relay does not know"));
    }
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    Ok((length, piece))
}

pub(super) fn damaged(what: &str) -> Fault {
    Fault::Answer(StoreError::Damaged(what.into()))
}

pub(super) fn conflict() -> Fault {
    Fault::Answer(StoreError::Conflict)
}
