//! The data path's view of the store: sealed records in memory, by (customer, UUID).
//!
//! A record's head is verified once, when it enters; what is kept is sealed. Bounded in bytes, one
//! customer to at most an eighth; misses stand in a small cache of their own, so that made-up UUIDs evict
//! nothing. The store's change feed invalidates; a feed that lagged empties everything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use moka::notification::RemovalCause;
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::envelope::{EnvelopeError, Head, SealedTokens, Terms};
use crate::kms::KmsError;
use crate::kms::cached::DataKeys;
use crate::model::{Customer, SecretId};
use crate::store::{Change, SecretRow, Store, StoreError};

use super::listed::{self, Lists};
use super::policy::Narrowed;
use super::shares::Shares;
use super::used::{Pending, Used};

const MISSES: u64 = 10_000;
const MISS_AGE: Duration = Duration::from_secs(2);
/// What an entry costs beside its bytes, at most: the drill `scale` measures 1.1 KiB where a customer has ten
/// secrets, and one that has a single secret brings its share's table along.
const OVERHEAD: usize = 1536;

/// Changes that a worker may be behind with before it judges every secret that it uses.
const UNTOLD: usize = 1024;

/// A customer's secret.
pub(super) type Key = (Customer, SecretId);

/// A sealed secret with its verified head.
pub struct Record {
    head: Head,
    sealed: Bytes,
    wrapped_key: Bytes,
    base_path: Option<String>,
    narrowed: Option<Box<Narrowed>>,
    // Boxed: most records have none.
    tokens: Option<Box<SealedTokens>>,
    used: Used,
}

impl Record {
    /// The verified head.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The sealed current version.
    pub const fn sealed(&self) -> &Bytes {
        &self.sealed
    }

    /// The data key that it is sealed under, wrapped: for when the warm one has aged out.
    pub const fn wrapped_key(&self) -> &Bytes {
        &self.wrapped_key
    }

    /// The path below which everything stays, where it is the customer's own.
    pub fn base_path(&self) -> Option<&str> {
        self.base_path.as_deref()
    }

    /// The secret's own limits.
    pub(super) fn narrowed(&self) -> Option<&Narrowed> {
        self.narrowed.as_deref()
    }

    /// What the vendor gave for it, its code found right.
    pub fn tokens(&self) -> Option<&SealedTokens> {
        self.tokens.as_deref()
    }

    /// Notes that the credential is used at this moment, in seconds since 1970.
    pub fn note_use(&self, at: u64) {
        self.used.note(at);
    }

    fn weight(&self) -> usize {
        let tokens = self.tokens().map_or(0, SealedTokens::len);
        self.sealed.len()
            + self.wrapped_key.len()
            + self.head.label.len()
            + 4 * self.head.policy.len()
            + tokens
            + OVERHEAD
    }
}

/// Why a record could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its data key could not be unwrapped.
    #[error(transparent)]
    Keys(#[from] KmsError),
    /// The row is not what relay wrote for this customer and UUID.
    #[error(transparent)]
    Unusable(#[from] EnvelopeError),
}

/// The records, shared by all workers. Cheap to clone.
#[derive(Clone)]
pub struct Records {
    pub(super) inner: Arc<Inner>,
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Arc<DataKeys>,
}

pub(super) struct Inner {
    found: Cache<Key, Arc<Record>>,
    missed: Cache<Key, ()>,
    /// What customers have, for requests that name no secret.
    pub(super) lists: Lists,
    shares: Arc<Shares>,
    /// Uses of records that left before the store was told.
    pending: Arc<Pending>,
    /// Counts invalidations: a lookup that overlapped one must not put its old row back.
    pub(super) generation: AtomicU64,
    /// Tells the workers what changed, once it is forgotten here; `None` is everything.
    told: broadcast::Sender<Option<Key>>,
}

impl Records {
    /// An empty view of `store` of at most `bytes`; follows the change feed on `control`.
    pub fn new(store: Arc<dyn Store>, keys: Arc<DataKeys>, bytes: u64, control: &Handle) -> Self {
        let weigh = |_: &Key, record: &Arc<Record>| u32::try_from(record.weight()).unwrap_or(u32::MAX);
        let shares = Arc::new(Shares::new(usize::try_from(bytes / 8).unwrap_or(usize::MAX)));
        let returned = shares.clone();
        let pending = Arc::new(Pending::default());
        let used = pending.clone();
        let left = move |key: Arc<Key>, record: Arc<Record>, cause: RemovalCause| {
            used.take(&key, &record.used);
            if cause.was_evicted() {
                returned.give_back(&key.0, key.1);
            }
        };
        let inner = Arc::new(Inner {
            found: Cache::builder().max_capacity(bytes).weigher(weigh).eviction_listener(left).build(),
            missed: Cache::builder().max_capacity(MISSES).time_to_live(MISS_AGE).build(),
            lists: listed::lists(),
            shares,
            pending,
            generation: AtomicU64::new(0),
            told: broadcast::Sender::new(UNTOLD),
        });
        let mut feed = store.changes();
        let (follower, held, asked) = (inner.clone(), keys.clone(), Arc::downgrade(&store));
        control.spawn(async move {
            loop {
                match feed.recv().await {
                    Ok(Change::Secret(customer, id)) => {
                        let key = (customer, id);
                        follower.forget(&key);
                        // Without workers nobody listens.
                        let _ = follower.told.send(Some(key));
                    }
                    Ok(Change::DataKeys(customer)) => {
                        follower.forget_keys(&customer);
                        check_keys(&asked, &held, &customer).await;
                    }
                    Ok(Change::Everything) | Err(RecvError::Lagged(_)) => {
                        held.purge();
                        follower.forget_all();
                        let _ = follower.told.send(None);
                    }
                    Err(RecvError::Closed) => break,
                }
            }
        });
        Self { inner, store, keys }
    }

    /// Tells the store when secrets were last used, to the hour, of those it was not told of.
    ///
    /// # Errors
    /// The store's own; what it was not told is lost.
    pub async fn tell_uses(&self) -> Result<(), StoreError> {
        for (key, record) in &self.inner.found {
            self.inner.pending.take(&key, &record.used);
        }
        for notes in self.inner.pending.batches() {
            self.store.upkeep().note_used(notes).await?;
        }
        Ok(())
    }

    /// How often something was forgotten because it changed.
    pub(super) fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// Every secret that changes from now on, once a lookup finds it changed; `None` is every secret, and so
    /// must a receiver that lagged take it.
    pub(in crate::stage) fn changes(&self) -> broadcast::Receiver<Option<Key>> {
        self.inner.told.subscribe()
    }

    /// The customer's record of that UUID, from memory or the store.
    ///
    /// # Errors
    /// The store's and the KMS's own; a row that does not verify is [`LookupError::Unusable`].
    pub async fn find(&self, customer: &Customer, id: SecretId) -> Result<Option<Arc<Record>>, LookupError> {
        let key = (customer.clone(), id);
        if let Some(record) = self.inner.found.get(&key) {
            return Ok(Some(record));
        }
        if self.inner.missed.contains_key(&key) {
            return Ok(None);
        }
        Box::pin(self.look_up(key)).await
    }

    /// The record as the store has it now: another lookup that overlapped a change may have put an old row
    /// into memory for the moment until it looks again.
    pub(super) async fn now(&self, key: &Key) -> Result<Option<Arc<Record>>, LookupError> {
        Box::pin(self.look_up(key.clone())).await
    }

    async fn look_up(&self, key: Key) -> Result<Option<Arc<Record>>, LookupError> {
        let (customer, id) = &key;
        let generation = self.inner.generation.load(Ordering::Acquire);
        let Some(found) = self.settled(customer, *id).await? else {
            self.inner.missed.insert(key.clone(), ());
            if self.inner.generation.load(Ordering::Acquire) != generation {
                self.inner.missed.invalidate(&key);
            }
            return Ok(None);
        };
        let record = Arc::new(found);
        self.inner.keep(&key, &record, generation);
        Ok(Some(record))
    }

    /// The verified record. Between the reading of a row and of its data key the secret may have been sealed
    /// under another one, and the first removed; then it is the row as it is now.
    async fn settled(&self, customer: &Customer, id: SecretId) -> Result<Option<Record>, LookupError> {
        let mut before = None;
        loop {
            let Some(row) = self.store.secret(customer, id).await? else { return Ok(None) };
            let key_id = Head::data_key_of(&row.head)?;
            if let Some(wrapped) = self.store.data_key(customer, key_id).await? {
                return self.verified(row, wrapped).await.map(Some);
            }
            if before.as_ref() == Some(&row.head) {
                let why = "the data key that the record names is not in the store";
                return Err(KmsError::Broken(why.to_owned()).into());
            }
            before = Some(row.head);
        }
    }

    async fn verified(&self, row: SecretRow, wrapped_key: Bytes) -> Result<Record, LookupError> {
        let key_id = Head::data_key_of(&row.head)?;
        let key = match self.keys.warm(&row.customer, key_id) {
            Some(key) => key,
            None => self.keys.open(&row.customer, key_id, &wrapped_key).await?,
        };
        let head = Head::decode(&key, &row.customer, row.id, &row.head)?;
        if head.version != row.version {
            return Err(EnvelopeError::Damaged("its row and its head name different versions").into());
        }
        let read = |tokens| SealedTokens::decode(&key, &head.binding(), tokens).map(Box::new);
        let tokens = row.tokens.as_ref().map(read).transpose()?;
        let Terms { base_path, policy } = Terms::decode(&head.policy)?;
        let narrowed = Narrowed::of(&policy)?;
        let (sealed, used) = (row.sealed, Used::default());
        Ok(Record { head, sealed, wrapped_key, base_path, narrowed, tokens, used })
    }
}

/// A customer's keys at hand are those that the store has, as it has them; one that it does not say is none.
/// The store is not kept: its end is the feed's.
async fn check_keys(store: &Weak<dyn Store>, held: &DataKeys, customer: &Customer) {
    let Some(store) = store.upgrade() else { return held.forget_customer(customer) };
    for id in held.held_of(customer) {
        match store.data_key(customer, id).await {
            Ok(wrapped) => held.stands_as(customer, id, wrapped.as_deref()),
            Err(_) => held.forget(customer, id),
        }
    }
}

impl Inner {
    fn keep(&self, key: &Key, record: &Arc<Record>, generation: u64) {
        let Some(victims) = self.shares.take(&key.0, key.1, record.weight()) else { return };
        for victim in victims {
            self.found.invalidate(&(key.0.clone(), victim));
        }
        self.found.insert(key.clone(), record.clone());
        if self.generation.load(Ordering::Acquire) != generation {
            self.forget(key);
        }
    }

    fn forget(&self, key: &Key) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.found.invalidate(key);
        self.missed.invalidate(key);
        self.lists.invalidate(&key.0);
        self.shares.give_back(&key.0, key.1);
    }

    /// A record brings its data key along, wrapped as it was when it was read: by a KMS key that may go soon.
    fn forget_keys(&self, customer: &Customer) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.lists.invalidate(customer);
        for id in self.shares.of(customer) {
            self.forget(&(customer.clone(), id));
        }
    }

    fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.found.invalidate_all();
        self.missed.invalidate_all();
        self.lists.invalidate_all();
        self.shares.clear();
    }
}
