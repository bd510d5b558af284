//! Work on all customers, beside the requests: one job at a time, that goes on after a restart.
//!
//! A job's state stands in the store: what it does, and behind which customer it goes on. Of several relays on a
//! store one works on it, by turn, and any tells of it. Each customer's part is safe to do twice, so a crash costs
//! at most a page of customers once more. A KMS, a store or an audit that fails
//! pauses the job, and it goes on by itself. What must never enter: a value, or a step that is not one write.

mod keeper;
mod walk;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::{Mutex as Queue, Notify};

use super::rebind::Was;
use super::renew::Due;
use super::{SealError, Sealer, TRIES};
use crate::audit::chain::Chain;
use crate::audit::{Event, Kind};
use crate::clock;
use crate::model::{Customer, IntegrationName, RequestId};
use crate::store::StoreError;

/// Where the store keeps the state of the newest job.
const JOB: &str = "job";

/// When what goes on by itself was last looked at, in milliseconds since 1970.
const TIDIED: &str = "tidied";
/// The turn that whoever works on all customers has, and how long after a relay's death another goes on.
const TURN: (&str, Duration) = ("jobs", Duration::from_secs(15));
const LOOKED: Duration = Duration::from_secs(2);
/// How long a job is left to relays that are configured as the one that was asked, while a new relay.toml goes round.
const LEFT: u64 = 60_000;

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Work {
    /// All data keys are wrapped by the KMS key that wraps now.
    Rewrap,
    /// All customers get new data keys.
    Data,
    /// Customers whose data key is this old get a new one.
    Age {
        /// In seconds.
        max_age: u64,
    },
    /// Secrets sealed for where an integration was are sealed for where it is.
    Rebind {
        /// The integration.
        integration: IntegrationName,
        /// What it had before.
        was: Was,
    },
}

impl Work {
    /// Its name in the audit.
    pub const fn operation(&self) -> &'static str {
        match self {
            Self::Rewrap => "key.rotate",
            Self::Data | Self::Age { .. } => "key.rotate.data",
            Self::Rebind { .. } => "integration.rebind",
        }
    }

    const fn audit_kind(&self) -> Kind {
        match self {
            Self::Rebind { .. } => Kind::Admin,
            Self::Rewrap | Self::Data | Self::Age { .. } => Kind::System,
        }
    }
}

/// A job and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id: that of the request that asked for it, as the audit knows it.
    pub id: RequestId,
    /// What it does.
    #[serde(flatten)]
    pub work: Work,
    /// When it was asked for, in milliseconds since 1970.
    pub started: u64,
    /// The KMS key that wraps where it was asked for: others leave it to that relay, while it may be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Behind which customer it goes on.
    pub after: Option<Customer>,
    /// Customers that were gone through.
    pub customers: u64,
    /// Customers that there were when it began.
    pub of: Option<u64>,
    /// Keys or records that were moved.
    pub moved: u64,
    /// Those that could not be, and stay as they were; the log names them.
    pub left: u64,
    /// Why it waits.
    pub paused: Option<String>,
    /// When it ended, in milliseconds since 1970.
    pub ended: Option<u64>,
}

impl Job {
    fn new(id: RequestId, work: Work) -> Self {
        Self {
            id,
            work,
            started: clock::unix_millis(),
            by: None,
            after: None,
            customers: 0,
            of: None,
            moved: 0,
            left: 0,
            paused: None,
            ended: None,
        }
    }

    /// Whether there is something left to do.
    pub const fn is_under_way(&self) -> bool {
        self.ended.is_none()
    }

    fn due(&self) -> Due {
        match self.work {
            Work::Age { max_age } => Due::Older { than: max_age.saturating_mul(1000), at: self.started },
            _ => Due::MadeUntil(self.started),
        }
    }
}

/// A job as it is told: without its cursor, which is a customer's name.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// Its id.
    pub id: RequestId,
    /// What it does.
    #[serde(flatten)]
    pub work: Work,
    /// When it was asked for.
    #[serde(serialize_with = "time")]
    pub started_at: u64,
    /// When it ended.
    #[serde(serialize_with = "time_or_null")]
    pub ended_at: Option<u64>,
    /// Customers that were gone through.
    pub customers: u64,
    /// Customers that there were when it began.
    pub of: Option<u64>,
    /// Keys or records that were moved.
    pub moved: u64,
    /// Those that could not be.
    pub left: u64,
    /// Why it waits.
    pub paused: Option<String>,
}

impl From<Job> for Told {
    fn from(job: Job) -> Self {
        Self {
            id: job.id,
            work: job.work,
            started_at: job.started,
            ended_at: job.ended,
            customers: job.customers,
            of: job.of,
            moved: job.moved,
            left: job.left,
            paused: job.paused,
        }
    }
}

fn time<S: Serializer>(millis: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&clock::rfc3339(millis / 1000))
}

#[allow(clippy::ref_option)] // the shape that serde asks for
fn time_or_null<S: Serializer>(millis: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    millis.map(|millis| clock::rfc3339(millis / 1000)).serialize(to)
}

/// What goes on by itself.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// How long an old version of a secret is kept.
    pub retain: Duration,
    /// When a customer gets a new data key; `None` is never.
    pub data_key_max_age: Option<Duration>,
    /// How often both are looked at, by all relays of a store together.
    pub every: Duration,
    /// How often it is looked for a job that another relay was asked for, or left.
    pub looked: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { retain: 30 * day, data_key_max_age: None, every: Duration::from_secs(3600), looked: LOOKED }
    }
}

/// The jobs of one relay.
pub struct Jobs {
    sealer: Arc<Sealer>,
    chain: Chain,
    habits: Habits,
    /// The job that this relay works on, which is further than the store says.
    at_work: Mutex<Option<Job>>,
    /// The state that stands in the store, as this relay last read or wrote it.
    stored: Mutex<Option<Bytes>>,
    /// Held while a job is begun.
    starting: Queue<()>,
    wake: Notify,
}

impl Jobs {
    /// Sees that what an earlier process left can be read. Nothing goes on before [`Jobs::run`].
    ///
    /// # Errors
    /// `Store`.
    pub async fn open(sealer: Arc<Sealer>, chain: Chain, habits: Habits) -> Result<Self, SealError> {
        let (at_work, stored, starting, wake) =
            (Mutex::default(), Mutex::default(), Queue::new(()), Notify::new());
        let jobs = Self { sealer, chain, habits, at_work, stored, starting, wake };
        jobs.read().await?;
        Ok(jobs)
    }

    /// The newest job of any relay on this store, under way or ended.
    ///
    /// # Errors
    /// `Store`.
    pub async fn newest(&self) -> Result<Option<Job>, SealError> {
        let stored = self.stored_now().await;
        match (self.at_work(), stored) {
            (Some(mine), Ok((Some(theirs), _))) if mine.id != theirs.id || !theirs.is_under_way() => {
                Ok(Some(theirs))
            }
            (Some(mine), _) => Ok(Some(mine)),
            (None, stored) => Ok(stored?.0),
        }
    }

    /// Begins a job, unless one is under way: then that one is told, and `false`. With `new_version` the KMS is
    /// first asked for a new version of its key.
    ///
    /// # Errors
    /// `Keys`, `Store`; `UnknownIntegration` and `Invalid` for a rebind to nowhere; `Conflict` if others begin jobs
    /// all the time.
    pub async fn start(
        &self,
        id: RequestId,
        work: Work,
        new_version: bool,
    ) -> Result<(Job, bool), SealError> {
        let _turn = self.starting.lock().await;
        let (mut newest, mut before) = self.stored_now().await?;
        if let Some(job) = newest.filter(Job::is_under_way) {
            return Ok((job, false));
        }
        if let Work::Rebind { integration, was } = &work {
            self.sealer.may_rebind(integration, was)?;
        }
        if new_version {
            self.sealer.keys.new_version().await?;
        }
        let by = Some(self.sealer.keys.wraps_now());
        let job = Job { by, ..Job::new(id, work) };
        for _ in 0..TRIES {
            match self.sealer.store.swap_meta(JOB, before, written(&job)).await {
                Ok(()) => {
                    self.wake.notify_one();
                    return Ok((job, true));
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
            // Another relay began one, or had its own end.
            (newest, before) = self.stored_now().await?;
            if let Some(job) = newest.filter(Job::is_under_way) {
                return Ok((job, false));
            }
        }
        Err(SealError::Conflict)
    }

    /// Keeps how far a job is, if nobody else did since this relay read it.
    async fn keep(&self, job: &Job) -> Result<(), StoreError> {
        let (before, now) = (self.stored().clone(), written(job));
        self.sealer.store.swap_meta(JOB, before, now.clone()).await?;
        *self.stored() = Some(now);
        Ok(())
    }

    /// The job that stands in the store; what this relay keeps from now on takes that one's place.
    async fn read(&self) -> Result<Option<Job>, SealError> {
        let (newest, stored) = self.stored_now().await?;
        *self.stored() = stored;
        Ok(newest)
    }

    async fn stored_now(&self) -> Result<(Option<Job>, Option<Bytes>), SealError> {
        let Some(stored) = self.sealer.store.meta(JOB).await? else { return Ok((None, None)) };
        let job = serde_json::from_slice(&stored).map_err(|_| {
            StoreError::Damaged(
                "the state of a job is not what relay wrote: a newer relay did, or it is damaged".into(),
            )
        })?;
        Ok((Some(job), Some(stored)))
    }

    fn at_work(&self) -> Option<Job> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, job: Option<Job>) {
        *self.at_work.lock().unwrap_or_else(PoisonError::into_inner) = job;
    }

    // No code under this lock can stop half-way through a change, so a poisoned lock guards whole data.
    fn stored(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn record(&self, job: &Job, customer: Option<&Customer>, note: &str) -> Result<(), SealError> {
        let mut event = Event::of(job.work.audit_kind());
        event.request_id = Some(job.id);
        event.method = Some(job.work.operation());
        event.customer = customer;
        if let Work::Rebind { integration, .. } = &job.work {
            event.integration = Some(integration);
        }
        event.note = Some(note);
        Ok(self.chain.record(&event).await?)
    }
}

fn written(job: &Job) -> Bytes {
    Bytes::from(serde_json::to_vec(job).unwrap_or_default())
}
