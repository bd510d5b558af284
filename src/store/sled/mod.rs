//! The embedded store: sled in a folder of its own, for one relay process.
//!
//! sled alone does not promise power loss and grows unsure after an I/O error; `engine` adds what is
//! missing, `folder` guards the files, `rows` is the layout. What must never enter: plaintext. A
//! write acknowledged without `engine`'s sync would be lost in a power cut.

mod engine;
mod fault;
mod folder;
mod moving;
mod past;
mod record;
mod rows;
mod stopwatch;
mod upkeep;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sled::Batch;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use self::engine::{Engine, Room};
use self::fault::Fault;
use self::record::Record;
use self::stopwatch::HUNG_AFTER;
use super::leases::Leases;
use super::{Call, Change, Expected, SecretRow, Store, StoreError, Upkeep};
use crate::model::{Customer, DataKeyId, SecretId};

pub use self::folder::OpenError;

/// How long a read that a request waits for may take.
const GLANCE: Duration = Duration::from_millis(1500);
/// How long anything else may take that is one step, on a disk that is slow.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a call is left to end on a disk that hangs: what is in memory is read meanwhile.
const HUNG_PATIENCE: Duration = Duration::from_millis(500);
/// How often a call that waits looks whether the disk hangs.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Calls that may be under way at once: each holds a thread, and a disk that hangs lets none of them go.
const UNDER_WAY: usize = 256;

/// A durable store in a folder. Every call does its disk work on the control runtime's blocking
/// threads, so it may be awaited on any runtime.
pub struct Sled {
    engine: Arc<Engine>,
    control: Handle,
    places: Arc<Semaphore>,
    leases: Leases,
}

impl Sled {
    /// Opens the store in the folder `path`, or creates it there with mode 0700. Blocks. `control` is
    /// the runtime whose blocking threads do the work, with its timer enabled; once it is shut down every call
    /// is [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`OpenError`] says what stands in the way and how to mend it.
    pub fn open(path: &Path, control: Handle) -> Result<Self, OpenError> {
        let engine = Engine::open(path)?;
        upkeep::end_forgetting(&engine).map_err(|cause| OpenError::Unended { path: path.into(), cause })?;
        let places = Arc::new(Semaphore::new(UNDER_WAY));
        Ok(Self { engine: Arc::new(engine), control, places, leases: Leases::default() })
    }

    /// A read that a request waits for.
    fn glance<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Call<'_, T> {
        self.within(Some(GLANCE), work)
    }

    /// Anything else that is one step.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Call<'_, T> {
        self.within(Some(PATIENCE), work)
    }

    /// Many steps, of which each may take its time.
    fn walk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Call<'_, T> {
        self.within(None, work)
    }

    // The work goes on if the caller drops the future, or has waited for long enough: a write half-way must
    // still end, sync and be told.
    fn within<T: Send + 'static>(
        &self,
        most: Option<Duration>,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Call<'_, T> {
        Box::pin(async move {
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                return Err(StoreError::Unavailable(format!("{UNDER_WAY} calls wait for the disk already")));
            };
            let (engine, control) = (Arc::clone(&self.engine), self.control.clone());
            let working = self.control.spawn(async move {
                let worked = Arc::clone(&engine);
                let done = control.spawn_blocking(move || {
                    let _place = place;
                    work(&worked)
                });
                patiently(&engine, most, done).await
            });
            working.await.unwrap_or_else(|_| Err(stopped()))
        })
    }
}

/// What `done` ends with, unless the disk hangs, or it took longer than `most`. A disk that is slow ends one write
/// after the other, and is waited for.
async fn patiently<T>(
    engine: &Engine,
    most: Option<Duration>,
    mut done: JoinHandle<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let begun = Instant::now();
    loop {
        tokio::select! {
            biased;
            ended = &mut done => return ended.unwrap_or_else(|_| Err(stopped())),
            () = sleep(LOOK_EVERY) => {}
        }
        let waited = begun.elapsed();
        if most.is_some_and(|most| waited >= most) {
            return Err(hung(waited));
        }
        if waited >= HUNG_PATIENCE && engine.hangs() {
            return Err(hung(HUNG_AFTER));
        }
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("its task was stopped or panicked".into())
}

fn hung(silent: Duration) -> StoreError {
    let ms = silent.as_millis();
    StoreError::Unavailable(format!(
        "the disk has not answered for {ms} ms; whether a write was done is not known"
    ))
}

impl Store for Sled {
    fn secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, Option<SecretRow>> {
        let customer = customer.clone();
        self.glance(move |engine| engine.read(|tree| rows::secret(tree, &customer, id)))
    }

    fn secrets<'a>(
        &'a self,
        customer: &'a Customer,
        after: Option<SecretId>,
        limit: usize,
    ) -> Call<'a, Vec<SecretRow>> {
        let customer = customer.clone();
        self.glance(move |engine| engine.read(|tree| rows::secrets(tree, &customer, after, limit)))
    }

    fn owner(&self, id: SecretId) -> Call<'_, Option<Customer>> {
        self.glance(move |engine| engine.read(|tree| rows::owner(tree, id)))
    }

    fn put_secret(&self, row: SecretRow, expected: Expected) -> Call<'_, ()> {
        self.call(move |engine| {
            let change = Change::Secret(row.customer.clone(), row.id);
            engine.write(Room::Needed, Some(change), |tree| {
                let mut batch = Batch::default();
                rows::put_secret(tree, &mut batch, &row, &expected)?;
                Ok((Some(batch), ()))
            })
        })
    }

    fn remove_secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, bool> {
        let customer = customer.clone();
        self.call(move |engine| {
            let change = Change::Secret(customer.clone(), id);
            engine.write(Room::Freed, Some(change), |tree| {
                let mut batch = Batch::default();
                let found = rows::remove_secret(tree, &mut batch, &customer, id)?;
                Ok((found.then_some(batch), found))
            })
        })
    }

    fn data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId) -> Call<'a, Option<Bytes>> {
        let record = Record::data_key(customer, id);
        self.glance(move |engine| engine.read(|tree| record.read(tree)))
    }

    fn active_data_key<'a>(&'a self, customer: &'a Customer) -> Call<'a, Option<(DataKeyId, Bytes)>> {
        let customer = customer.clone();
        self.glance(move |engine| engine.read(|tree| rows::active_data_key(tree, &customer)))
    }

    fn add_data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId, wrapped: Bytes) -> Call<'a, ()> {
        let customer = customer.clone();
        self.call(move |engine| {
            engine.write(Room::Needed, Some(Change::DataKeys(customer.clone())), |tree| {
                let active = Record::active(&customer);
                let leaving = Record::forgetting(&customer).read(tree)?.is_some();
                if leaving || active.read(tree)?.is_some() {
                    return Err(Fault::Answer(StoreError::Conflict));
                }
                let mut batch = Batch::default();
                active.write(tree, &mut batch, id.as_bytes())?;
                Record::data_key(&customer, id).write(tree, &mut batch, &wrapped)?;
                Ok((Some(batch), ()))
            })
        })
    }

    fn meta<'a>(&'a self, name: &'a str) -> Call<'a, Option<Bytes>> {
        let record = Record::meta(name);
        self.glance(move |engine| engine.read(|tree| record.read(tree)))
    }

    fn put_meta<'a>(&'a self, name: &'a str, value: Bytes) -> Call<'a, ()> {
        let record = Record::meta(name);
        self.call(move |engine| {
            engine.write(Room::Needed, None, |tree| {
                let mut batch = Batch::default();
                record.write(tree, &mut batch, &value)?;
                Ok((Some(batch), ()))
            })
        })
    }

    fn swap_meta<'a>(&'a self, name: &'a str, expected: Option<Bytes>, value: Bytes) -> Call<'a, ()> {
        let record = Record::meta(name);
        self.call(move |engine| {
            engine.write(Room::Needed, None, |tree| {
                if record.read(tree)? != expected {
                    return Err(Fault::Answer(StoreError::Conflict));
                }
                let mut batch = Batch::default();
                record.write(tree, &mut batch, &value)?;
                Ok((Some(batch), ()))
            })
        })
    }

    fn lease<'a>(&'a self, name: &'a str, holder: Uuid, ttl: Duration) -> Call<'a, bool> {
        Box::pin(async move { Ok(self.leases.take(name, holder, ttl)) })
    }

    fn release<'a>(&'a self, name: &'a str, holder: Uuid) -> Call<'a, ()> {
        Box::pin(async move {
            self.leases.give_back(name, holder);
            Ok(())
        })
    }

    fn has_room(&self) -> Call<'_, bool> {
        self.glance(Engine::has_room)
    }

    fn upkeep(&self) -> &dyn Upkeep {
        self
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.engine.changes()
    }
}
