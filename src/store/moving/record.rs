//! What stands in a block: a header, records, or the totals at the end.
//!
//! A record is a kind byte and its parts, each of fixed length or behind its length (u32), integers big-endian. Every
//! record names its customer, so that each block can be written by itself. What must never enter: a decision by
//! what a sealed part holds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, Bytes};
use uuid::Uuid;

use super::frame::{Block, Kind, StreamError};
use super::{KeyRow, PastRow, Records, Totals};
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::{Past, SecretRow};

const META: u8 = b'm';
const KEY: u8 = b'k';
const SECRET: u8 = b's';
const PAST: u8 = b'p';

/// What an export says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Which export it is.
    pub id: Uuid,
    /// When it was begun, in seconds since 1970.
    pub made_at: u64,
    /// The store's generation when it was begun.
    pub generation: u64,
    /// Which relay wrote it.
    pub by: String,
}

/// A block, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The first.
    Header(Header),
    /// Those between.
    Records(Records),
    /// The last.
    End(Totals),
}

impl Part {
    /// Reads a block. Nothing of it is proven by that.
    ///
    /// # Errors
    /// [`StreamError::Malformed`] or [`StreamError::Record`] for what no relay writes.
    pub fn read(block: &Block) -> Result<Self, StreamError> {
        let malformed = |why| StreamError::Malformed(block.number, why);
        if (block.number == 1) != (block.kind == Kind::Header) {
            return Err(malformed("a header belongs to the beginning"));
        }
        let from = Reader(block.payload.clone());
        match block.kind {
            Kind::Header => header(from).map(Self::Header),
            Kind::Records => return records(from, block.number).map(Self::Records),
            Kind::End => totals(from).map(Self::End),
        }
        .map_err(malformed)
    }
}

pub(super) fn put_header(out: &mut Vec<u8>, header: &Header) {
    out.extend_from_slice(header.id.as_bytes());
    put_numbers(out, &[header.made_at, header.generation]);
    put(out, header.by.as_bytes());
}

pub(super) fn put_totals(out: &mut Vec<u8>, totals: &Totals) {
    put_numbers(out, &[totals.customers, totals.data_keys, totals.secrets, totals.past, totals.metas]);
    put_numbers(out, &totals.sum);
}

pub(super) fn put_meta(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(META);
    put(out, name.as_bytes());
    put(out, value);
}

pub(super) fn put_key(
    out: &mut Vec<u8>,
    customer: &Customer,
    (id, wrapped): (DataKeyId, &[u8]),
    active: bool,
) {
    out.push(KEY);
    put(out, customer.as_str().as_bytes());
    out.extend_from_slice(id.as_bytes());
    out.push(u8::from(active));
    put(out, wrapped);
}

pub(super) fn put_secret(out: &mut Vec<u8>, row: &SecretRow, used: Option<u64>) {
    out.push(SECRET);
    put(out, row.customer.as_str().as_bytes());
    out.extend_from_slice(row.id.as_bytes());
    out.extend_from_slice(&row.version.to_be_bytes());
    put(out, &row.head);
    put(out, &row.sealed);
    put_maybe(out, row.tokens.as_deref());
    out.push(u8::from(used.is_some()));
    put_numbers(out, &[used.unwrap_or_default()]);
}

pub(super) fn put_past(out: &mut Vec<u8>, customer: &Customer, id: SecretId, past: &Past) {
    out.push(PAST);
    put(out, customer.as_str().as_bytes());
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(&past.version.to_be_bytes());
    put_maybe(out, past.head.as_deref());
    // Without a head an engine may not know since when.
    put_numbers(out, &[past.head.as_ref().map_or(0, |_| past.superseded_at)]);
    put(out, &past.sealed);
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // A block holds far less than 4 GiB, and one that does not is refused by its length.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_maybe(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put(out, bytes);
    }
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

type Read<T> = Result<T, &'static str>;

fn header(mut from: Reader) -> Read<Header> {
    let header = Header {
        id: Uuid::from_bytes(from.array()?),
        made_at: from.long()?,
        generation: from.long()?,
        by: from.text()?,
    };
    from.end()?;
    Ok(header)
}

fn totals(mut from: Reader) -> Read<Totals> {
    let totals = Totals {
        customers: from.long()?,
        data_keys: from.long()?,
        secrets: from.long()?,
        past: from.long()?,
        metas: from.long()?,
        sum: [from.long()?, from.long()?, from.long()?, from.long()?],
    };
    from.end()?;
    Ok(totals)
}

fn records(mut from: Reader, block: u64) -> Result<Records, StreamError> {
    let (mut sorted, mut record) = (Sorted::default(), 0);
    while !from.0.is_empty() {
        record += 1;
        let whose = whose(&from);
        sorted.take(&mut from).map_err(|why| {
            let of = whose.map(|customer| format!(", of customer {:?},", customer.as_str()));
            StreamError::Record { block, record, of: of.unwrap_or_default(), why }
        })?;
    }
    Ok(sorted.end())
}

/// Whose the next record is, if it is a customer's and that can be read.
fn whose(from: &Reader) -> Option<Customer> {
    let mut from = Reader(from.0.clone());
    matches!(from.byte(), Ok(KEY | SECRET | PAST)).then(|| from.customer().ok()).flatten()
}

/// A block's records, by kind.
#[derive(Default)]
struct Sorted {
    records: Records,
    /// A key may come twice: it was wrapped anew, or replaced, while the export went on. The last one holds.
    keys: BTreeMap<(Customer, DataKeyId), (bool, Bytes)>,
    active: BTreeMap<Customer, DataKeyId>,
    ids: BTreeSet<SecretId>,
}

impl Sorted {
    fn take(&mut self, from: &mut Reader) -> Read<()> {
        match from.byte()? {
            META => self.records.metas.push((from.text()?, from.bytes()?)),
            KEY => {
                let (customer, id) = (from.customer()?, DataKeyId::from_bytes(from.array()?));
                if from.flag()? {
                    self.active.insert(customer.clone(), id);
                }
                self.keys.insert((customer, id), (false, from.bytes()?));
            }
            SECRET => {
                let (row, used) = from.secret()?;
                if !self.ids.insert(row.id) {
                    return Err("a secret stands in it twice");
                }
                self.records.secrets.push((row, used));
            }
            PAST => self.records.past.push(from.past()?),
            _ => return Err("a record's kind is none"),
        }
        Ok(())
    }

    fn end(self) -> Records {
        let Self { mut records, mut keys, active, .. } = self;
        for (customer, id) in active {
            if let Some((active, _)) = keys.get_mut(&(customer, id)) {
                *active = true;
            }
        }
        let row = |((customer, id), (active, wrapped))| KeyRow { customer, id, active, wrapped };
        records.keys = keys.into_iter().map(row).collect();
        records
    }
}

/// Takes a payload apart from its front. No input can make it panic, or make room for more than there is.
struct Reader(Bytes);

const SHORT: &str = "it is cut short";

impl Reader {
    fn take(&mut self, length: usize) -> Read<Bytes> {
        if self.0.len() < length { Err(SHORT) } else { Ok(self.0.split_to(length)) }
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let array = *self.0.first_chunk::<N>().ok_or(SHORT)?;
        self.0.advance(N);
        Ok(array)
    }

    fn byte(&mut self) -> Read<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a flag is neither 0 nor 1"),
        }
    }

    fn number(&mut self) -> Read<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn long(&mut self) -> Read<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Read<Bytes> {
        let length = self.number()?;
        self.take(usize::try_from(length).map_err(|_| SHORT)?)
    }

    fn maybe(&mut self) -> Read<Option<Bytes>> {
        if self.flag()? { self.bytes().map(Some) } else { Ok(None) }
    }

    fn text(&mut self) -> Read<String> {
        let bytes = self.bytes()?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| "a text is not UTF-8")
    }

    fn customer(&mut self) -> Read<Customer> {
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(&bytes).map_err(|_| "a text is not UTF-8")?;
        Customer::parse(text).map_err(|_| "a customer is none")
    }

    fn secret(&mut self) -> Read<(SecretRow, Option<u64>)> {
        let row = SecretRow {
            customer: self.customer()?,
            id: SecretId::from_bytes(self.array()?),
            version: self.number()?,
            head: self.bytes()?,
            sealed: self.bytes()?,
            tokens: self.maybe()?,
        };
        let used = self.flag()?;
        let at = self.long()?;
        Ok((row, used.then_some(at)))
    }

    fn past(&mut self) -> Read<PastRow> {
        let (customer, id) = (self.customer()?, SecretId::from_bytes(self.array()?));
        let (version, head) = (self.number()?, self.maybe()?);
        let (superseded_at, sealed) = (self.long()?, self.bytes()?);
        Ok(PastRow { customer, id, past: Past { version, head, sealed, superseded_at } })
    }

    fn end(self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err("it is too long") }
    }
}
