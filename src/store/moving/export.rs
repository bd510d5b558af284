//! The walk over a store that becomes a stream, block by block, in constant memory.
//!
//! It may go on while relay writes. Each portion of a customer is read as it stood at one moment, its data keys with
//! it, so every secret is whole and its key is in the stream. What is written meanwhile may be in it or not, and the
//! generation in the header is the one before the first portion: a store made of it is never taken for newer than it
//! is. What must never enter: a store-wide record that does not travel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::frame::{Encoder, Kind};
use super::record::{self, Header};
use super::{IMPORT, Portion, Totals, Travels};
use crate::clock;
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::{Store, StoreError};

/// A block is closed when it has this many bytes: what an import writes at once.
const BLOCK: usize = 256 << 10;
/// What is read of one customer at once.
const PORTION: usize = 256 << 10;
/// Customers whose names are read at once.
const PAGE: usize = 256;
/// Customers that are read while others wait to be written.
const AHEAD: usize = 8;

/// An export under way.
pub struct Export {
    store: Arc<dyn Store>,
    frame: Encoder,
    /// What is ready to be given out.
    out: Vec<u8>,
    /// The block that is being filled.
    block: Vec<u8>,
    /// One record, before it is counted and put into the block.
    one: Vec<u8>,
    metas: VecDeque<String>,
    page: VecDeque<Customer>,
    /// Behind whom the next page begins; `None` once there is none.
    after: Option<Option<Customer>>,
    ahead: VecDeque<(Customer, JoinHandle<Result<Portion, StoreError>>)>,
    current: Option<Current>,
    totals: Totals,
    over: bool,
}

/// A customer of whom a part is in the stream.
struct Current {
    customer: Customer,
    after: Option<SecretId>,
    /// The data keys as they are in the stream.
    keys: BTreeMap<DataKeyId, Bytes>,
    active: Option<DataKeyId>,
}

impl Export {
    /// Begins one over `store`, with the store-wide records that travel.
    ///
    /// # Errors
    /// The store's own.
    pub async fn begin(store: Arc<dyn Store>, travels: Travels) -> Result<Self, StoreError> {
        let generation = store.upkeep().generation().await?;
        let names = store.upkeep().moving().meta_names().await?;
        let metas = names.into_iter().filter(|name| name != IMPORT && travels(name)).collect();
        let (mut frame, mut out) = Encoder::begin();
        let by = concat!("relay ", env!("CARGO_PKG_VERSION")).to_owned();
        let header = Header { id: Uuid::now_v7(), made_at: clock::unix_seconds(), generation, by };
        let mut payload = Vec::new();
        record::put_header(&mut payload, &header);
        frame.block(Kind::Header, &payload, &mut out).ok_or_else(too_long)?;
        Ok(Self {
            store,
            frame,
            out,
            block: Vec::with_capacity(BLOCK * 2),
            one: Vec::new(),
            metas,
            page: VecDeque::new(),
            after: Some(None),
            ahead: VecDeque::new(),
            current: None,
            totals: Totals::default(),
            over: false,
        })
    }

    /// The next bytes of the stream; `None` behind its end.
    ///
    /// # Errors
    /// The store's own. What was given out before is then no whole export.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.out.is_empty() && !self.over {
            if let Some(name) = self.metas.pop_front() {
                self.meta(&name).await?;
            } else if !self.step().await? {
                self.close_block()?;
                let mut end = Vec::new();
                record::put_totals(&mut end, &self.totals);
                self.frame.block(Kind::End, &end, &mut self.out).ok_or_else(too_long)?;
                self.over = true;
            }
        }
        let out = std::mem::take(&mut self.out);
        Ok((!out.is_empty()).then(|| out.into()))
    }

    /// What was walked over so far.
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    async fn meta(&mut self, name: &str) -> Result<(), StoreError> {
        if let Some(value) = self.store.meta(name).await? {
            record::put_meta(&mut self.one, name, &value);
            self.totals.metas += 1;
            self.add_counted()?;
        }
        // What is needed to judge the stream stands in a block before any customer does.
        if self.metas.is_empty() { self.close_block() } else { Ok(()) }
    }

    /// One portion more; whether there was one.
    async fn step(&mut self) -> Result<bool, StoreError> {
        if let Some(current) = self.current.take() {
            let portion =
                self.store.upkeep().moving().portion(&current.customer, current.after, PORTION).await?;
            self.add(current, portion)?;
            return Ok(true);
        }
        self.read_ahead().await?;
        let Some((customer, read)) = self.ahead.pop_front() else { return Ok(false) };
        let stopped = |_| StoreError::Unavailable("the walk over it was stopped".into());
        let portion = read.await.map_err(stopped)??;
        if portion.keys.is_empty() && portion.secrets.is_empty() {
            // Gone since its name was read.
            return Ok(true);
        }
        self.totals.customers += 1;
        self.add(Current { customer, after: None, keys: BTreeMap::new(), active: None }, portion)?;
        Ok(true)
    }

    async fn read_ahead(&mut self) -> Result<(), StoreError> {
        while self.ahead.len() < AHEAD {
            let Some(customer) = self.page.pop_front() else {
                let Some(after) = self.after.take() else { return Ok(()) };
                self.page = self.store.upkeep().moving().holders(after.as_ref(), PAGE).await?.into();
                match self.page.back() {
                    Some(last) => self.after = Some(Some(last.clone())),
                    None => return Ok(()),
                }
                continue;
            };
            let (store, whose) = (Arc::clone(&self.store), customer.clone());
            let read =
                tokio::spawn(async move { store.upkeep().moving().portion(&whose, None, PORTION).await });
            self.ahead.push_back((customer, read));
        }
        Ok(())
    }

    fn add(&mut self, mut current: Current, portion: Portion) -> Result<(), StoreError> {
        for (id, wrapped) in portion.keys {
            let becomes_active = portion.active == Some(id) && current.active != Some(id);
            if becomes_active || current.keys.get(&id) != Some(&wrapped) {
                let active = portion.active == Some(id);
                record::put_key(&mut self.one, &current.customer, (id, &wrapped), active);
                self.add_one()?;
                current.keys.insert(id, wrapped);
            }
        }
        current.active = portion.active.or(current.active);
        for whole in portion.secrets {
            current.after = Some(whole.row.id);
            record::put_secret(&mut self.one, &whole.row, whole.used);
            self.totals.secrets += 1;
            self.add_counted()?;
            for past in &whole.past {
                record::put_past(&mut self.one, &whole.row.customer, whole.row.id, past);
                self.totals.past += 1;
                self.add_counted()?;
            }
        }
        if portion.more {
            self.current = Some(current);
            return Ok(());
        }
        // Counted as they stand at the end: one may have come twice.
        for (id, wrapped) in &current.keys {
            self.one.clear();
            record::put_key(&mut self.one, &current.customer, (*id, wrapped), current.active == Some(*id));
            self.totals.add(&self.one);
            self.totals.data_keys += 1;
        }
        self.one.clear();
        Ok(())
    }

    fn add_counted(&mut self) -> Result<(), StoreError> {
        self.totals.add(&self.one);
        self.add_one()
    }

    fn add_one(&mut self) -> Result<(), StoreError> {
        self.block.extend_from_slice(&self.one);
        self.one.clear();
        if self.block.len() >= BLOCK { self.close_block() } else { Ok(()) }
    }

    fn close_block(&mut self) -> Result<(), StoreError> {
        if !self.block.is_empty() {
            self.frame.block(Kind::Records, &self.block, &mut self.out).ok_or_else(too_long)?;
            self.block.clear();
        }
        Ok(())
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.ahead.iter().for_each(|(_, read)| read.abort());
    }
}

fn too_long() -> StoreError {
    StoreError::Damaged("a record is longer than any that relay writes".into())
}
