//! What the cache is made of, and its calls: one per data key at a time, for all who wait.
//!
//! What must never enter: a lock held over a call, or a key kept that was forgotten meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout, timeout_at};

use super::held::{Held, Owners};
use super::standing::{KmsKey, Record, Standing};
use super::{Ages, BUDGET, Called, Counted, Pace, Settings, too_slow, wrong_length};
use crate::kms::KmsError;
use crate::kms::keyring::Keyring;
use crate::model::{Customer, DataKeyId};
use crate::secret::{DataKey, Secret};

/// How long a failed call answers for the next ones, so that a failing KMS is not stormed.
const FAILURE_KEPT: Duration = Duration::from_millis(500);
/// When a refresh that failed, or found no room, is tried again.
const REFRESH_AGAIN: Duration = Duration::from_secs(5);

/// What a call brought, once it did.
pub(super) type Landed = Option<Result<Arc<DataKey>, KmsError>>;
type Place = (Customer, DataKeyId);

pub(super) struct Shared {
    pub(super) ring: Keyring,
    pub(super) kms_keys: Vec<Arc<KmsKey>>,
    pub(super) warm: Cache<DataKeyId, Arc<Held>>,
    pub(super) ages: Ages,
    pub(super) control: Handle,
    counted: Counted,
    books: Mutex<Books>,
    tickets: AtomicU64,
    purges: AtomicU64,
    began: Instant,
    /// Milliseconds since `began`, brought up to date by [`tick`]: a request reads no clock for this.
    now: AtomicU64,
}

#[derive(Default)]
struct Books {
    flights: HashMap<Place, Flight>,
    owners: Owners,
}

struct Flight {
    ticket: u64,
    landed: watch::Receiver<Landed>,
}

impl Shared {
    pub(super) fn new(ring: Keyring, settings: Settings, control: Handle) -> Self {
        let Settings { capacity, ages, pace, counted } = settings;
        let of = |(place, kms): (usize, &Arc<dyn crate::kms::Kms>)| {
            let pace = if kms.is_remote() { pace } else { Pace::NONE };
            Arc::new(KmsKey::new(place, kms.provider(), pace))
        };
        Self {
            kms_keys: ring.keys().iter().enumerate().map(of).collect(),
            ring,
            warm: Cache::builder().max_capacity(capacity).time_to_live(ages.hard).build(),
            ages,
            control,
            counted,
            books: Mutex::default(),
            tickets: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            began: Instant::now(),
            now: AtomicU64::new(0),
        }
    }

    /// The KMS key that wrapped this.
    pub(super) fn kms_key(&self, wrapped: &[u8]) -> Result<Arc<KmsKey>, KmsError> {
        let place = self.ring.wrapped_by(wrapped)?.place;
        self.kms_keys.get(place).cloned().ok_or_else(super::going_down)
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// From when on a key that was unwrapped now is refreshed by its use.
    pub(super) fn refresh_at(&self) -> u64 {
        let Ages { soft, hard } = self.ages;
        let spread = (soft / 5).min(hard.saturating_sub(soft) / 2);
        self.exactly_now().saturating_add(millis(soft + spread.mul_f64(chance())))
    }

    pub(super) fn purged(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// One call in its turn and within the budget. What it says of the KMS key is noted.
    pub(super) async fn call<T>(
        &self,
        by: &KmsKey,
        operation: &'static str,
        call: impl Future<Output = Result<T, KmsError>>,
    ) -> Result<T, KmsError> {
        let until = tokio::time::Instant::now() + BUDGET;
        let _turn = by.turns.turn(until).await?;
        let answer = timeout_at(until, call).await.unwrap_or_else(|_| Err(too_slow()));
        self.count(by, operation, &answer);
        by.heard(&answer);
        answer
    }

    pub(super) async fn unwrap(
        &self,
        by: &KmsKey,
        operation: &'static str,
        (customer, id): (&Customer, DataKeyId),
        wrapped: &[u8],
    ) -> Result<Secret, KmsError> {
        self.call(by, operation, self.ring.unwrap(customer, id, wrapped)).await
    }

    /// As [`Shared::unwrap`], for a probe: out of turn, and raising no doubt.
    pub(super) async fn ask(
        &self,
        by: &KmsKey,
        (customer, id): (&Customer, DataKeyId),
        wrapped: &[u8],
    ) -> Result<Secret, KmsError> {
        let answer = timeout(BUDGET, self.ring.unwrap(customer, id, wrapped)).await;
        let answer = answer.unwrap_or_else(|_| Err(too_slow()));
        self.count(by, "probe", &answer);
        answer
    }

    /// The call under way for this key, started if there is none, and whether it was; `of` is the key that it
    /// refreshes.
    pub(super) fn flight(
        self: &Arc<Self>,
        customer: &Customer,
        id: DataKeyId,
        wrapped: &[u8],
        (by, of): (Arc<KmsKey>, Option<Arc<Held>>),
    ) -> (watch::Receiver<Landed>, bool) {
        let place = (customer.clone(), id);
        let (landing, landed) = watch::channel(None);
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        {
            let mut books = self.books();
            if let Some(flight) = books.flights.get(&place) {
                return (flight.landed.clone(), false);
            }
            books.flights.insert(place.clone(), Flight { ticket, landed: landed.clone() });
        }
        // Outside the lock: a runtime that is shut down drops the task at once, which ends the flight.
        let departure = Departure { shared: Arc::clone(self), place, ticket, by, of };
        self.control.spawn(departure.fly(wrapped.into(), landing));
        (landed, true)
    }

    /// Asks for the key again, unless that has been begun or would not help. The key is served meanwhile.
    #[cold]
    pub(super) fn refresh(self: &Arc<Self>, held: &Arc<Held>) {
        if !held.begin_refresh() {
            return;
        }
        if held.by.standing() != Standing::Works || !held.by.turns.is_free() {
            return held.refresh_again(self.soon());
        }
        let (by, of) = (Arc::clone(&held.by), Some(Arc::clone(held)));
        let (_, started) = self.flight(&held.owner, held.id, &held.wrapped, (by, of));
        if !started {
            held.refresh_again(self.soon());
        }
    }

    /// Keeps a key that was made, unless all were dropped since `purged` was asked for.
    pub(super) fn keep_unless_purged(&self, held: Arc<Held>, purged: u64) {
        let mut books = self.books();
        if self.purged() == purged {
            books.owners.add(&held);
            self.warm.insert(held.id, held);
        }
    }

    pub(super) fn forget(&self, customer: &Customer, which: impl Fn(DataKeyId) -> bool) {
        let mut books = self.books();
        books.flights.retain(|(owner, id), _| owner != customer || !which(*id));
        for held in books.owners.of(customer).iter().filter(|held| which(held.id)) {
            self.warm.invalidate(&held.id);
        }
        for key in &self.kms_keys {
            key.unlearn(|record| record.customer == *customer && which(record.id));
        }
    }

    /// The customer's keys that are at hand.
    pub(super) fn held_of(&self, customer: &Customer) -> Vec<DataKeyId> {
        let mut ids: Vec<DataKeyId> = self.books().owners.of(customer).iter().map(|held| held.id).collect();
        ids.sort_by_key(|id| *id.as_bytes());
        ids.dedup();
        ids
    }

    /// Whose keys are at hand.
    pub(super) fn owners(&self) -> Vec<Customer> {
        self.books().owners.names()
    }

    /// The key stands in the store so wrapped now. It stays at hand, and its next use asks the KMS by that in
    /// the background.
    pub(super) fn rewrapped(&self, customer: &Customer, id: DataKeyId, wrapped: &[u8]) {
        let Ok(by) = self.kms_key(wrapped) else { return self.forget(customer, |other| other == id) };
        let mut books = self.books();
        let Some(held) = self.warm.get(&id).filter(|held| held.owner == *customer) else { return };
        if *held.wrapped == *wrapped {
            return;
        }
        // An old version of the KMS key may be destroyed: no probe asks by what it wrapped.
        for key in &self.kms_keys {
            key.unlearn(|record| {
                record.customer == *customer && record.id == id && *record.wrapped != *wrapped
            });
        }
        books.flights.remove(&(customer.clone(), id));
        let held = Held::new((customer.clone(), id), &held.key, wrapped, by, self.now());
        books.owners.add(&held);
        self.warm.insert(id, held);
    }

    pub(super) fn purge(&self) -> usize {
        let mut books = self.books();
        self.purges.fetch_add(1, Ordering::AcqRel);
        books.flights.clear();
        let dropped = self.invalidate(&books, |_| true);
        drop(books);
        self.warm.run_pending_tasks();
        dropped
    }

    pub(super) fn drop_all(&self, which: impl Fn(&Held) -> bool) {
        self.invalidate(&self.books(), which);
        self.warm.run_pending_tasks();
    }

    fn invalidate(&self, books: &Books, which: impl Fn(&Held) -> bool) -> usize {
        let all = books.owners.all();
        all.iter().filter(|held| which(held)).filter(|held| self.warm.remove(&held.id).is_some()).count()
    }

    pub(super) fn sweep(&self) {
        self.warm.run_pending_tasks();
        self.books().owners.prune();
    }

    fn count<T>(&self, by: &KmsKey, operation: &'static str, answer: &Result<T, KmsError>) {
        let outcome = match answer {
            Ok(_) => "ok",
            Err(KmsError::Unavailable(_)) => "unavailable",
            Err(KmsError::Denied(_)) => "denied",
            Err(KmsError::Broken(_)) => "broken",
        };
        (self.counted)(Called { provider: by.provider, operation, outcome });
    }

    /// When a refresh that did not come about is tried again.
    fn soon(&self) -> u64 {
        let again = REFRESH_AGAIN.min(self.ages.soft).mul_f64(1.0 + chance());
        self.exactly_now().saturating_add(millis(again))
    }

    fn exactly_now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    // No code under this lock can stop half-way through a change, so a poisoned lock guards whole data.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One KMS call. Dropped, at its end or with its runtime, it makes room for the next.
struct Departure {
    shared: Arc<Shared>,
    place: Place,
    ticket: u64,
    by: Arc<KmsKey>,
    /// The key that this refreshes, at hand meanwhile.
    of: Option<Arc<Held>>,
}

impl Departure {
    async fn fly(self, wrapped: Box<[u8]>, landing: watch::Sender<Landed>) {
        let (customer, id) = &self.place;
        let operation = if self.of.is_some() { "refresh" } else { "unwrap" };
        let brought = self.shared.unwrap(&self.by, operation, (customer, *id), &wrapped).await;
        let brought = brought.and_then(|key| DataKey::new(*id, key).map(Arc::new).ok_or_else(wrong_length));
        match &brought {
            Ok(key) => self.keep(key, &wrapped),
            Err(error) => self.failed(error),
        }
        let failed = brought.is_err();
        landing.send_replace(Some(brought));
        if failed {
            sleep(FAILURE_KEPT).await;
        }
    }

    fn keep(&self, key: &Arc<DataKey>, wrapped: &[u8]) {
        let (customer, id) = &self.place;
        let at = self.shared.refresh_at();
        let held = Held::new(self.place.clone(), key, wrapped, Arc::clone(&self.by), at);
        let mut books = self.shared.books();
        // After a `forget` this flight is no longer in its place, and what it brings is not kept.
        if self.is_in_its_place(&books) {
            self.by.opened(Record::of((customer, *id), wrapped));
            books.owners.add(&held);
            self.shared.warm.insert(*id, held);
        }
    }

    /// A refresh that failed for want of an answer is tried again; one that was told no ends the key's use.
    fn failed(&self, error: &KmsError) {
        let Some(held) = &self.of else { return };
        match error {
            KmsError::Unavailable(_) => held.refresh_again(self.shared.soon()),
            KmsError::Denied(_) | KmsError::Broken(_) => {
                let books = self.shared.books();
                if self.is_in_its_place(&books) {
                    self.shared.warm.invalidate(&held.id);
                }
            }
        }
    }

    fn is_in_its_place(&self, books: &Books) -> bool {
        books.flights.get(&self.place).is_some_and(|flight| flight.ticket == self.ticket)
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        let mut books = self.shared.books();
        if self.is_in_its_place(&books) {
            books.flights.remove(&self.place);
        }
    }
}

/// Keeps the cache's own clock.
pub(super) async fn tick(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        shared.now.store(shared.exactly_now(), Ordering::Relaxed);
        let pause = (shared.ages.soft / 50).clamp(Duration::from_millis(10), Duration::from_secs(1));
        drop(shared);
        sleep(pause).await;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A number from 0 to 1, so that what began together does not go on together.
fn chance() -> f64 {
    let mut drawn = [0; 2];
    // Without randomness all wait alike.
    let _ = rand::fill(&mut drawn);
    f64::from(u16::from_be_bytes(drawn)) / f64::from(u16::MAX)
}
