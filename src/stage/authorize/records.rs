//! The data path's view of the store: sealed records in memory, by (customer, UUID).
//!
//! A record's head is verified once, when it enters; what is kept is sealed. Bounded in bytes, one
//! customer to at most an eighth; misses stand in a small cache of their own, so that made-up UUIDs evict
//! nothing. The store's change feed invalidates (`follow`); what it does not vouch for serves within bounds
//! (`proof`), and is read again once for all who want it (`flights`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use moka::notification::RemovalCause;
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, timeout_at};

use crate::envelope::{EnvelopeError, Head, SealedTokens, Terms};
use crate::kms::KmsError;
use crate::kms::cached::DataKeys;
use crate::model::{Customer, SecretId};
use crate::store::{Feed, SecretRow, Store, StoreError};

use super::flights::Flights;
use super::follow::{self, Compared};
use super::listed::{self, Listed, Lists};
use super::policy::Narrowed;
use super::proof::{Proof, Verdict};
use super::shares::Shares;
use super::used::{Pending, Used};

pub use super::proof::Bounds;

const MISSES: u64 = 10_000;
const MISS_AGE: Duration = Duration::from_secs(2);
/// What an entry costs beside its bytes, at most: the drill `scale` measures 1.1 KiB where a customer has ten
/// secrets, and one that has a single secret brings its share's table along.
const OVERHEAD: usize = 1536;

/// Changes that a worker may be behind with before it judges every secret that it uses.
const UNTOLD: usize = 1024;

/// How long the store may take to answer a lookup: an app hears of a failure within two seconds.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_millis(1900);

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
    /// When its reading began, by the clock of [`Proof`].
    read_at: u64,
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
#[derive(Debug, Clone, thiserror::Error)]
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

impl LookupError {
    /// Whether the store said nothing at all.
    pub(super) const fn is_silence(&self) -> bool {
        matches!(self, Self::Store(StoreError::Unavailable(_)))
    }
}

/// The records, shared by all workers. Cheap to clone.
#[derive(Clone)]
pub struct Records {
    pub(super) inner: Arc<Inner>,
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Arc<DataKeys>,
    pub(super) control: Handle,
    flights: Arc<Flights<Key, Option<Arc<Record>>>>,
    pub(super) list_flights: Arc<Flights<Customer, Arc<Listed>>>,
}

pub(super) struct Inner {
    pub(super) proof: Proof,
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
    compared: Compared,
}

impl Records {
    /// An empty view of `store` of at most `bytes`, which serves without its change feed for as long as `bounds`
    /// say; follows the feed on `control`.
    pub fn new(
        store: Arc<dyn Store>,
        keys: Arc<DataKeys>,
        (bytes, bounds): (u64, Bounds),
        control: &Handle,
    ) -> Self {
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
        let (compared, asked) = mpsc::unbounded_channel();
        // Before anything is read: what changes from now on is told.
        let (changes, feed) = (store.changes(), store.feed());
        let stands = *feed.borrow();
        let inner = Arc::new(Inner {
            proof: Proof::new(bounds, stands),
            found: Cache::builder().max_capacity(bytes).weigher(weigh).eviction_listener(left).build(),
            missed: Cache::builder().max_capacity(MISSES).time_to_live(MISS_AGE).build(),
            lists: listed::lists(),
            shares,
            pending,
            generation: AtomicU64::new(0),
            told: broadcast::Sender::new(UNTOLD),
            compared,
        });
        control.spawn(follow::follow(inner.clone(), changes, feed));
        control.spawn(follow::compare(Arc::downgrade(&store), keys.clone(), asked));
        let (flights, list_flights) = (Arc::default(), Arc::default());
        Self { inner, store, keys, control: control.clone(), flights, list_flights }
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

    /// Whether the store's change feed vouches for what is at hand.
    pub(super) fn feed(&self) -> Feed {
        self.inner.proof.feed()
    }

    /// Whether the store has proven nothing for so long that what is open ends.
    pub(super) fn are_lost(&self) -> bool {
        self.inner.proof.is_lost()
    }

    /// Whether it has proven nothing for so long that nothing at hand serves.
    pub fn serve_nothing(&self) -> bool {
        self.inner.proof.serves_nothing()
    }

    /// Somebody else had an answer from the store.
    pub fn store_answered(&self) {
        self.inner.proof.answered();
    }

    /// How long they serve without the change feed.
    pub(super) fn bounds(&self) -> Bounds {
        self.inner.proof.bounds()
    }

    /// The customer's record of that UUID, from memory or the store.
    ///
    /// # Errors
    /// The store's and the KMS's own; a row that does not verify is [`LookupError::Unusable`].
    pub async fn find(&self, customer: &Customer, id: SecretId) -> Result<Option<Arc<Record>>, LookupError> {
        let key = (customer.clone(), id);
        if let Some(record) = self.inner.found.get(&key) {
            if self.inner.proof.holds(record.read_at) {
                return Ok(Some(record));
            }
            return Box::pin(self.judged(key, record)).await;
        }
        if self.inner.missed.contains_key(&key) {
            return Ok(None);
        }
        Box::pin(self.read(&key)).await
    }

    /// What to make of a record at hand that the change feed does not vouch for.
    async fn judged(&self, key: Key, record: Arc<Record>) -> Result<Option<Arc<Record>>, LookupError> {
        match self.inner.proof.judge(record.read_at) {
            Verdict::Serve => Ok(Some(record)),
            Verdict::Renew => {
                drop(self.read(&key));
                Ok(Some(record))
            }
            Verdict::Ask => match self.read(&key).await {
                Err(error) if error.is_silence() && self.inner.proof.bridges(record.read_at) => {
                    Ok(Some(record))
                }
                read => read,
            },
        }
    }

    /// Reads the record anew, unless somebody else is about to: then that is waited for. It is read to the end
    /// also if nobody waits.
    fn read(&self, key: &Key) -> impl Future<Output = Result<Option<Arc<Record>>, LookupError>> + use<> {
        let (records, wanted) = (self.clone(), key.clone());
        let work = async move { records.look_up(wanted).await };
        Flights::join(&self.flights, key, self.generation(), &self.control, work).landed()
    }

    /// The record as the store has it now: another lookup that overlapped a change may have put an old row
    /// into memory for the moment until it looks again.
    pub(super) async fn now(&self, key: &Key) -> Result<Option<Arc<Record>>, LookupError> {
        Box::pin(self.look_up(key.clone())).await
    }

    /// The record as it was in the store a moment ago.
    pub(super) async fn recent(&self, key: &Key) -> Result<Option<Arc<Record>>, LookupError> {
        match self.inner.found.get(key).filter(|record| self.inner.proof.is_recent(record.read_at)) {
            Some(record) => Ok(Some(record)),
            None => Box::pin(self.read(key)).await,
        }
    }

    async fn look_up(&self, key: Key) -> Result<Option<Arc<Record>>, LookupError> {
        let (customer, id) = &key;
        let generation = self.inner.generation.load(Ordering::Acquire);
        let settled = self.settled(customer, *id).await;
        self.heard(&settled);
        let Some(found) = settled? else {
            self.inner.gone(&key, generation);
            return Ok(None);
        };
        let record = Arc::new(found);
        self.inner.keep(&key, &record, generation);
        Ok(Some(record))
    }

    /// Notes whether the store answered.
    pub(super) fn heard<T>(&self, answer: &Result<T, LookupError>) {
        match answer {
            Err(error) if error.is_silence() => self.inner.proof.failed(),
            Ok(_) | Err(_) => self.inner.proof.answered(),
        }
    }

    /// The verified record. Between the reading of a row and of its data key the secret may have been sealed
    /// under another one, and the first removed; then it is the row as it is now.
    async fn settled(&self, customer: &Customer, id: SecretId) -> Result<Option<Record>, LookupError> {
        let (read_at, until) = (self.inner.proof.now(), Instant::now() + ANSWERED_WITHIN);
        let mut before = None;
        loop {
            let Some(row) = within(until, self.store.secret(customer, id)).await? else { return Ok(None) };
            let key_id = Head::data_key_of(&row.head)?;
            if let Some(wrapped) = within(until, self.store.data_key(customer, key_id)).await? {
                return self.verified(row, wrapped, read_at).await.map(Some);
            }
            if before.as_ref() == Some(&row.head) {
                let why = "the data key that the record names is not in the store";
                return Err(KmsError::Broken(why.to_owned()).into());
            }
            before = Some(row.head);
        }
    }

    async fn verified(
        &self,
        row: SecretRow,
        wrapped_key: Bytes,
        read_at: u64,
    ) -> Result<Record, LookupError> {
        let key_id = Head::data_key_of(&row.head)?;
        if self.feed() != Feed::Live {
            // It may have been wrapped anew, and nobody said so.
            self.keys.stands_as(&row.customer, key_id, Some(&wrapped_key));
        }
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
        Ok(Record { head, sealed, wrapped_key, base_path, narrowed, tokens, used, read_at })
    }
}

/// The store's answer, if it comes in time.
pub(super) async fn within<T>(
    until: Instant,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = || StoreError::Unavailable(format!("no answer within {} ms", ANSWERED_WITHIN.as_millis()));
    timeout_at(until, call).await.unwrap_or_else(|_| Err(late()))
}

impl Inner {
    fn keep(&self, key: &Key, record: &Arc<Record>, generation: u64) {
        // What stood there served for as long as it could; too large for a share, nothing takes its place.
        let Some(victims) = self.shares.take(&key.0, key.1, record.weight()) else {
            return self.found.invalidate(key);
        };
        for victim in victims {
            self.found.invalidate(&(key.0.clone(), victim));
        }
        if let Some(before) = self.found.get(key) {
            record.used.follows(&before.used);
        }
        self.found.insert(key.clone(), record.clone());
        if self.generation.load(Ordering::Acquire) != generation {
            self.forget(key);
        }
    }

    /// The store has no such secret.
    fn gone(&self, key: &Key, generation: u64) {
        if self.found.contains_key(key) {
            self.found.invalidate(key);
            self.lists.invalidate(&key.0);
            self.shares.give_back(&key.0, key.1);
            // The customer may be forgotten, and nobody said so.
            self.compare(Some(key.0.clone()));
        }
        self.missed.insert(key.clone(), ());
        if self.generation.load(Ordering::Acquire) != generation {
            self.missed.invalidate(key);
        }
    }

    /// Tells the workers what is forgotten here. Without workers nobody listens.
    pub(super) fn tell(&self, key: Option<Key>) {
        let _ = self.told.send(key);
    }

    /// Has data keys at hand compared with the store's; once the store is gone nobody does.
    pub(super) fn compare(&self, whose: Option<Customer>) {
        let _ = self.compared.send(whose);
    }

    pub(super) fn forget(&self, key: &Key) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.found.invalidate(key);
        self.missed.invalidate(key);
        self.lists.invalidate(&key.0);
        self.shares.give_back(&key.0, key.1);
    }

    /// A record brings its data key along, wrapped as it was when it was read: by a KMS key that may go soon.
    pub(super) fn forget_keys(&self, customer: &Customer) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.lists.invalidate(customer);
        for id in self.shares.of(customer) {
            self.forget(&(customer.clone(), id));
        }
    }

    /// Anything may have changed: all that is at hand is read again before it serves, if the store answers.
    pub(super) fn doubt_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.proof.begin_anew();
        self.missed.invalidate_all();
    }

    pub(super) fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.found.invalidate_all();
        self.missed.invalidate_all();
        self.lists.invalidate_all();
        self.shares.clear();
    }
}
