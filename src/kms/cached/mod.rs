//! Data keys held unwrapped, bounded in number and in age, so that a request costs no KMS call.
//!
//! A key is served for at most [`Ages::hard`]; one that is used past [`Ages::soft`] is asked for again in
//! the background, so that a KMS which is down for a while is not noticed. A denial is a state of the KMS
//! key (`standing`), found out by one probe for all that it wrapped, and is never bridged. Calls go in turn
//! (`pace`), one per data key at a time (`flight`), on the control plane's runtime: a worker that goes
//! away takes no call with it. What must never enter: a credential, or an answer that outlives a `forget`.

mod flight;
mod held;
mod pace;
mod probe;
mod rewrap;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

use super::KmsError;
use super::keyring::Keyring;
use crate::model::{Customer, DataKeyId};
use crate::secret::{DataKey, Secret};

use flight::Shared;
use held::Held;
use standing::Record;

pub use pace::Pace;
pub use standing::{KmsKeyStanding, Standing};

/// How long a KMS call may take, its turn included: an app hears of a failure within two seconds.
pub const BUDGET: Duration = Duration::from_millis(1900);
/// How often keys past their age are looked for and dropped; they are not served either way.
const SWEEP: Duration = Duration::from_secs(30);

/// How long an unwrapped key is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// A use past this age starts a refresh: 30 min, up to a fifth later so that not all refresh at once.
    pub soft: Duration,
    /// It is served no longer than this after the KMS last gave it: 60 min.
    pub hard: Duration,
}

impl Ages {
    /// Half an hour, and an hour.
    pub const DEFAULT: Self = Self { soft: Duration::from_secs(30 * 60), hard: Duration::from_secs(60 * 60) };
}

/// One KMS call that has ended, for whoever counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Called {
    /// The provider's name.
    pub provider: &'static str,
    /// `generate`, `unwrap`, `refresh`, `rewrap` or `probe`.
    pub operation: &'static str,
    /// `ok`, `unavailable`, `denied` or `broken`.
    pub outcome: &'static str,
}

/// Is told each KMS call's end.
pub type Counted = Arc<dyn Fn(Called) + Send + Sync>;

/// What a cache of data keys is held to.
#[derive(Clone)]
pub struct Settings {
    /// How many keys are held.
    pub capacity: u64,
    /// How long.
    pub ages: Ages,
    /// How fast each KMS key is called.
    pub pace: Pace,
    /// Who counts the calls.
    pub counted: Counted,
}

impl Settings {
    /// The defaults, for so many keys; nobody counts.
    pub fn of(capacity: u64) -> Self {
        Self { capacity, ages: Ages::DEFAULT, pace: Pace::DEFAULT, counted: Arc::new(|_| {}) }
    }
}

/// The data keys in use.
pub struct DataKeys(Arc<Shared>);

impl DataKeys {
    /// Holds up to `capacity` keys that `ring` unwraps. The KMS is called on `control`, which must have its timers on.
    pub fn new(ring: Keyring, capacity: u64, control: Handle) -> Self {
        Self::with(ring, Settings::of(capacity), control)
    }

    /// As [`DataKeys::new`], held to `settings`.
    pub fn with(ring: Keyring, settings: Settings, control: Handle) -> Self {
        let shared = Arc::new(Shared::new(ring, settings, control));
        shared.control.spawn(sweep(Arc::downgrade(&shared)));
        shared.control.spawn(flight::tick(Arc::downgrade(&shared)));
        for place in 0..shared.kms_keys.len() {
            shared.control.spawn(probe::watch(Arc::downgrade(&shared), place));
        }
        Self(shared)
    }

    /// The key, if it is at hand and its KMS key is not denied. Never waits.
    pub fn warm(&self, customer: &Customer, id: DataKeyId) -> Option<Arc<DataKey>> {
        let held = self.0.warm.get(&id)?;
        if held.owner != *customer || held.by.denies() {
            return None;
        }
        if held.wants_refresh(self.0.now()) {
            self.0.refresh(&held);
        }
        Some(Arc::clone(&held.key))
    }

    /// The key, unwrapped by the KMS if it is not at hand.
    ///
    /// # Errors
    /// The KMS's own, or unavailable after [`BUDGET`]. At once, while the KMS key is known to be denied or
    /// unavailable: a probe asks in everyone's place.
    pub async fn open(
        &self,
        customer: &Customer,
        id: DataKeyId,
        wrapped: &[u8],
    ) -> Result<Arc<DataKey>, KmsError> {
        if let Some(key) = self.warm(customer, id) {
            return Ok(key);
        }
        let by = self.0.kms_key(wrapped)?;
        by.admits()?;
        let (mut landed, _) = self.0.flight(customer, id, wrapped, (by, None));
        let landed = landed.wait_for(Option::is_some).await.map_err(|_| going_down())?;
        landed.clone().unwrap_or_else(|| Err(going_down()))
    }

    /// Makes a new data key for the customer: at hand from now on, and wrapped for the store.
    ///
    /// # Errors
    /// As [`DataKeys::open`].
    pub async fn create(&self, customer: &Customer) -> Result<(Arc<DataKey>, Vec<u8>), KmsError> {
        let id = DataKeyId::random();
        let since = self.0.purged();
        let (key, wrapped) = self.generate(customer.clone(), id).await?;
        let key = Arc::new(DataKey::new(id, key).ok_or_else(wrong_length)?);
        if let Ok(by) = self.0.kms_key(&wrapped) {
            let held = Held::new((customer.clone(), id), &key, &wrapped, by, self.0.refresh_at());
            self.0.keep_unless_purged(held, since);
        }
        Ok((key, wrapped))
    }

    /// Drops the key, and what a call under way will bring.
    pub fn forget(&self, customer: &Customer, id: DataKeyId) {
        self.0.forget(customer, |other| other == id);
    }

    /// Drops every key of the customer, and what calls under way will bring.
    pub fn forget_customer(&self, customer: &Customer) {
        self.0.forget(customer, |_| true);
    }

    /// The customer's keys that are at hand.
    pub fn held_of(&self, customer: &Customer) -> Vec<DataKeyId> {
        self.0.held_of(customer)
    }

    /// Whose keys are at hand.
    pub fn owners(&self) -> Vec<Customer> {
        self.0.owners()
    }

    /// Notes how the key stands in the store now; it stays at hand. For `None` it is dropped.
    pub fn stands_as(&self, customer: &Customer, id: DataKeyId, wrapped: Option<&[u8]>) {
        match wrapped {
            Some(wrapped) => self.0.rewrapped(customer, id, wrapped),
            None => self.forget(customer, id),
        }
    }

    /// Drops every key, and what calls under way will bring; how many keys there were.
    pub fn purge(&self) -> usize {
        self.0.purge()
    }

    /// How many keys are held.
    pub fn held(&self) -> u64 {
        self.0.warm.run_pending_tasks();
        self.0.warm.entry_count()
    }

    /// The KMS key that wraps, by its provider and its name there.
    pub fn wraps_now(&self) -> String {
        self.0.ring.current().map_or_else(String::new, |kms| format!("{}:{}", kms.provider(), kms.key()))
    }

    /// What is known of each KMS key, the one that wraps first.
    pub fn standings(&self) -> Vec<KmsKeyStanding> {
        self.0.kms_keys.iter().map(|key| key.shown()).collect()
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
        let by = self.0.kms_key(wrapped)?;
        by.admits()?;
        let (shared, wrapped) = (Arc::clone(&self.0), wrapped.to_vec());
        let call = async move {
            let key = shared.unwrap(&by, "unwrap", (&customer, id), &wrapped).await?;
            by.opened(Record::of((&customer, id), &wrapped));
            Ok(key)
        };
        let key = self.0.control.spawn(call).await.map_err(|_| going_down())??;
        Ok((key, None))
    }

    async fn generate(&self, customer: Customer, id: DataKeyId) -> Result<(Secret, Vec<u8>), KmsError> {
        let shared = Arc::clone(&self.0);
        let by = shared.kms_keys.first().cloned();
        let by = by.ok_or_else(|| KmsError::Unavailable("no KMS key is configured".to_owned()))?;
        by.admits()?;
        let call = async move {
            let made = shared.ring.generate(&customer, id);
            let made = shared.call(&by, "generate", made).await;
            if let Ok((_, wrapped)) = &made {
                by.opened(Record::of((&customer, id), wrapped));
            }
            made
        };
        self.0.control.spawn(call).await.map_err(|_| going_down())?
    }
}

async fn sweep(shared: std::sync::Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        shared.sweep();
        let pause = SWEEP.min(shared.ages.hard / 4);
        drop(shared);
        sleep(pause).await;
    }
}

fn too_slow() -> KmsError {
    KmsError::Unavailable(format!("no answer within {} ms", BUDGET.as_millis()))
}

fn going_down() -> KmsError {
    KmsError::Unavailable("the call was given up: relay is shutting down, or the provider failed".to_owned())
}

fn wrong_length() -> KmsError {
    KmsError::Broken("it is not 32 bytes long".to_owned())
}
