//! One reading of the store at a time for each thing, for all who wait for it.
//!
//! A reading runs on the control runtime: a request that goes away takes it from nobody. Who comes behind a change
//! does not join a reading that began before it. One without an answer speaks for half a second more, so that a
//! store that gives none is not asked by every request. What must never enter: a lock held over a reading.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;

use super::records::LookupError;
use crate::store::StoreError;

const FAILURE_KEPT: Duration = Duration::from_millis(500);

type Landed<T> = Result<T, LookupError>;

/// All readings that are under way.
pub(super) struct Flights<K, T> {
    table: Mutex<Table<K, T>>,
}

struct Table<K, T> {
    under_way: HashMap<K, Flight<T>>,
    tickets: u64,
}

struct Flight<T> {
    ticket: u64,
    generation: u64,
    landed: watch::Receiver<Option<Landed<T>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { table: Mutex::new(Table { under_way: HashMap::new(), tickets: 0 }) }
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The reading of `key` that began at this `generation`, which is `work` unless it is under way.
    pub(super) fn join(
        this: &Arc<Self>,
        key: &K,
        generation: u64,
        control: &Handle,
        work: impl Future<Output = Landed<T>> + Send + 'static,
    ) -> Waiting<T> {
        let (tell, landed) = watch::channel(None);
        let ticket = {
            let mut table = this.locked();
            if let Some(flight) = table.under_way.get(key).filter(|it| it.generation == generation) {
                return Waiting(flight.landed.clone());
            }
            table.tickets += 1;
            let ticket = table.tickets;
            table.under_way.insert(key.clone(), Flight { ticket, generation, landed: landed.clone() });
            ticket
        };
        // Outside the lock: a runtime that is shut down drops the task at once, which ends the flight.
        let place = Place { flights: this.clone(), key: key.clone(), ticket };
        control.spawn(async move {
            let ended = work.await;
            let is_silence = ended.as_ref().is_err_and(LookupError::is_silence);
            if !is_silence {
                place.leave();
            }
            let _ = tell.send(Some(ended));
            if is_silence {
                sleep(FAILURE_KEPT).await;
            }
            drop(place);
        });
        Waiting(landed)
    }
}

impl<K, T> Flights<K, T> {
    // Nothing under this lock can stop half-way.
    fn locked(&self) -> MutexGuard<'_, Table<K, T>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat on a reading.
pub(super) struct Waiting<T>(watch::Receiver<Option<Landed<T>>>);

impl<T: Clone> Waiting<T> {
    /// What was read.
    pub(super) async fn landed(mut self) -> Landed<T> {
        let ended = self.0.wait_for(Option::is_some).await.ok().and_then(|ended| (*ended).clone());
        ended.unwrap_or_else(|| Err(StoreError::Unavailable("relay is shutting down".to_owned()).into()))
    }
}

/// A reading's place in the table; it goes with its task, however that ends.
struct Place<K: Eq + Hash, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    ticket: u64,
}

impl<K: Eq + Hash, T> Place<K, T> {
    fn leave(&self) {
        let mut table = self.flights.locked();
        if table.under_way.get(&self.key).is_some_and(|flight| flight.ticket == self.ticket) {
            table.under_way.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, T> Drop for Place<K, T> {
    fn drop(&mut self) {
        self.leave();
    }
}
