//! The layout: which key a record stands under, and how it is cut into rows.
//!
//! One tree. A record's key is a kind byte and its parts, each of fixed length or behind its length, so
//! that no record's key begins another's; a row's key adds the piece's number. Every row is
//! `version 1 | record length, u32 | at most 4091 bytes`, integers big-endian. sled would write a page
//! over 128 KiB to a file of its own and never sync it: 4 KiB rows keep its 17-row pages below that.
//! What must never enter: a lock, a file. A row of another shape is [`StoreError::Damaged`].

use bytes::Bytes;
use sled::{Batch, Tree};

use super::fault::{Fault, damaged};
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::StoreError;

/// A record's key without its piece, or what the keys of several records begin with.
pub(super) struct Record(Vec<u8>);

const ROW_VERSION: u8 = 1;
const ROW: usize = 4096;
const ROW_HEAD: usize = 5;
const PIECE: usize = ROW - ROW_HEAD;
/// The number of a record's first piece, as its key has it.
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

    /// All such of a secret.
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
    pub(super) fn tokens(customer: &Customer, id: SecretId) -> Self {
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

    /// How many writes there were.
    pub(super) fn generation() -> Self {
        Self(vec![b'g'])
    }

    /// All heads of a customer.
    pub(super) fn heads(customer: &Customer) -> Self {
        Self::of(b'h', customer)
    }

    /// A secret's head, behind its version.
    pub(super) fn head(customer: &Customer, id: SecretId) -> Self {
        Self::heads(customer).and(id.as_bytes())
    }

    /// All sealed versions of a secret.
    pub(super) fn versions(customer: &Customer, id: SecretId) -> Self {
        Self::of(b'v', customer).and(id.as_bytes())
    }

    /// One of them.
    pub(super) fn version(customer: &Customer, id: SecretId, version: u32) -> Self {
        Self::versions(customer, id).and(&version.to_be_bytes())
    }

    /// Whose secret it is.
    pub(super) fn owner(id: SecretId) -> Self {
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
