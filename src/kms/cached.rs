//! Data keys held unwrapped, bounded in number and in age, so that a request costs no KMS call.
//!
//! A key is served for at most [`HARD_AGE`] and wiped when its last user lets it go. One KMS call per key
//! is under way at a time, on the control plane's runtime: a worker that goes away takes no call with it.
//! What must never enter: a credential, or an answer that outlives a `forget`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::KmsError;
use super::keyring::Keyring;
use crate::model::{Customer, DataKeyId};
use crate::secret::{DataKey, Secret};

/// How long an unwrapped key is served without asking the KMS again.
pub const HARD_AGE: Duration = Duration::from_secs(60 * 60);
/// How long a KMS call may take.
pub const BUDGET: Duration = Duration::from_secs(2);
/// How long a failed call answers for the next ones, so that a failing KMS is not stormed.
const FAILURE_KEPT: Duration = Duration::from_millis(500);
/// How often keys past their age are looked for and dropped; they are not served either way.
const SWEEP: Duration = Duration::from_secs(30);

/// The data keys in use.
pub struct DataKeys(Arc<Shared>);

impl DataKeys {
    /// Holds up to `capacity` keys that `ring` unwraps. The KMS is called on `control`, which must have its timers on.
    pub fn new(ring: Keyring, capacity: u64, control: Handle) -> Self {
        let warm = Cache::builder().max_capacity(capacity).time_to_live(HARD_AGE).build();
        let shared =
            Arc::new(Shared { ring, warm, flights: Mutex::default(), tickets: AtomicU64::new(0), control });
        shared.control.spawn(sweep(Arc::downgrade(&shared)));
        Self(shared)
    }

    /// The key, if it is at hand. Never waits.
    pub fn warm(&self, customer: &Customer, id: DataKeyId) -> Option<Arc<DataKey>> {
        let (owner, key) = self.0.warm.get(&id)?;
        (owner == *customer).then_some(key)
    }

    /// The key, unwrapped by the KMS if it is not at hand.
    ///
    /// # Errors
    /// The KMS's own, or unavailable after [`BUDGET`].
    pub async fn open(
        &self,
        customer: &Customer,
        id: DataKeyId,
        wrapped: &[u8],
    ) -> Result<Arc<DataKey>, KmsError> {
        if let Some(key) = self.warm(customer, id) {
            return Ok(key);
        }
        let mut landed = self.flight(customer, id, wrapped);
        let landed = landed.wait_for(Option::is_some).await.map_err(|_| going_down())?;
        landed.clone().unwrap_or_else(|| Err(going_down()))
    }

    /// Makes a new data key for the customer: at hand from now on, and wrapped for the store.
    ///
    /// # Errors
    /// As [`DataKeys::open`].
    pub async fn create(&self, customer: &Customer) -> Result<(Arc<DataKey>, Vec<u8>), KmsError> {
        let id = DataKeyId::random();
        let (key, wrapped) = self.generate(customer.clone(), id).await?;
        let key = Arc::new(DataKey::new(id, key).ok_or_else(wrong_length)?);
        self.0.warm.insert(id, (customer.clone(), Arc::clone(&key)));
        Ok((key, wrapped))
    }

    /// Drops the key, and what a call under way will bring.
    pub fn forget(&self, customer: &Customer, id: DataKeyId) {
        let mut flights = self.0.flights();
        flights.remove(&(customer.clone(), id));
        self.0.warm.invalidate(&id);
    }

    /// A store-wide key by its name: unwrapped from `wrapped`, or made new and returned with its wrapped
    /// form. It is bound to its name, and to no customer ([`Customer::store_wide`]). Not cached.
    ///
    /// # Errors
    /// As [`DataKeys::open`].
    pub async fn named(
        &self,
        name: &str,
        wrapped: Option<&[u8]>,
    ) -> Result<(Secret, Option<Vec<u8>>), KmsError> {
        let customer = Customer::store_wide(name);
        let id = DataKeyId::from_bytes([0; 16]);
        let Some(wrapped) = wrapped else {
            let (key, wrapped) = self.generate(customer, id).await?;
            return Ok((key, Some(wrapped)));
        };
        let (ring, wrapped) = (self.0.ring.clone(), wrapped.to_vec());
        let call = async move { unwrap(&ring, &customer, id, &wrapped).await };
        let key = self.0.control.spawn(call).await.map_err(|_| going_down())??;
        Ok((key, None))
    }

    /// The KMS keys.
    pub(super) fn ring(&self) -> &Keyring {
        &self.0.ring
    }

    /// Where KMS calls run.
    pub(super) fn control(&self) -> &Handle {
        &self.0.control
    }

    async fn generate(&self, customer: Customer, id: DataKeyId) -> Result<(Secret, Vec<u8>), KmsError> {
        let ring = self.0.ring.clone();
        let call =
            async move { timeout(BUDGET, ring.generate(&customer, id)).await.map_err(|_| too_slow())? };
        self.0.control.spawn(call).await.map_err(|_| going_down())?
    }

    /// The call under way for this key, started if there is none.
    fn flight(&self, customer: &Customer, id: DataKeyId, wrapped: &[u8]) -> watch::Receiver<Landed> {
        let place = (customer.clone(), id);
        let (landing, landed) = watch::channel(None);
        let ticket = self.0.tickets.fetch_add(1, Ordering::Relaxed);
        {
            let mut flights = self.0.flights();
            if let Some(flight) = flights.get(&place) {
                return flight.landed.clone();
            }
            flights.insert(place.clone(), Flight { ticket, landed: landed.clone() });
        }
        // Outside the lock: a runtime that is shut down drops the task at once, which ends the flight.
        let departure = Departure { shared: Arc::clone(&self.0), place, ticket };
        self.0.control.spawn(departure.fly(wrapped.to_vec(), landing));
        landed
    }
}

/// What a call brought, once it did.
type Landed = Option<Result<Arc<DataKey>, KmsError>>;
type Place = (Customer, DataKeyId);

struct Shared {
    ring: Keyring,
    warm: Cache<DataKeyId, (Customer, Arc<DataKey>)>,
    flights: Mutex<HashMap<Place, Flight>>,
    tickets: AtomicU64,
    control: Handle,
}

impl Shared {
    // No code under this lock can stop half-way through a change, so a poisoned lock guards whole data.
    fn flights(&self) -> MutexGuard<'_, HashMap<Place, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Flight {
    ticket: u64,
    landed: watch::Receiver<Landed>,
}

/// One KMS call. Dropped, at its end or with its runtime, it makes room for the next.
struct Departure {
    shared: Arc<Shared>,
    place: Place,
    ticket: u64,
}

impl Departure {
    async fn fly(self, wrapped: Vec<u8>, landing: watch::Sender<Landed>) {
        let (customer, id) = &self.place;
        let brought = unwrap(&self.shared.ring, customer, *id, &wrapped)
            .await
            .and_then(|key| DataKey::new(*id, key).map(Arc::new).ok_or_else(wrong_length));
        if let Ok(key) = &brought {
            let flights = self.shared.flights();
            // After a `forget` this flight is no longer in its place, and what it brings is not kept.
            if flights.get(&self.place).is_some_and(|flight| flight.ticket == self.ticket) {
                self.shared.warm.insert(*id, (customer.clone(), Arc::clone(key)));
            }
        }
        let failed = brought.is_err();
        landing.send_replace(Some(brought));
        if failed {
            sleep(FAILURE_KEPT).await;
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        let mut flights = self.shared.flights();
        if flights.get(&self.place).is_some_and(|flight| flight.ticket == self.ticket) {
            flights.remove(&self.place);
        }
    }
}

async fn unwrap(
    ring: &Keyring,
    customer: &Customer,
    id: DataKeyId,
    wrapped: &[u8],
) -> Result<Secret, KmsError> {
    timeout(BUDGET, ring.unwrap(customer, id, wrapped)).await.map_err(|_| too_slow())?
}

async fn sweep(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        shared.warm.run_pending_tasks();
        drop(shared);
        sleep(SWEEP).await;
    }
}

pub(super) fn too_slow() -> KmsError {
    KmsError::Unavailable(format!("no answer within {} s", BUDGET.as_secs()))
}

pub(super) fn going_down() -> KmsError {
    KmsError::Unavailable("the call was given up: relay is shutting down, or the provider failed".to_owned())
}

pub(super) fn wrong_length() -> KmsError {
    KmsError::Broken("it is not 32 bytes long".to_owned())
}
