//! One renewal at a time for each secret, and a rest behind one that failed.
//!
//! Whoever wants what is already under way waits for that. After a failure nobody asks the vendor before the rest
//! is over; it doubles with each failure. What must never enter: what is renewed, or how.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Key;
use crate::refusal::{Code, Refusal};

const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// Secrets whose failures are remembered, before those at rest no more are forgotten.
const REMEMBERED: usize = 10_000;

type Landed = Result<(), Refusal>;

/// All that are under way or rest.
#[derive(Default)]
pub(super) struct Flights {
    table: Mutex<HashMap<Key, Flight>>,
}

enum Flight {
    UnderWay { landed: watch::Receiver<Option<Landed>>, failures: u32 },
    Resting { until: Instant, why: Refusal, failures: u32 },
}

/// A place on one.
pub(super) enum Ticket {
    /// It is under way.
    Waiting(watch::Receiver<Option<Landed>>),
    /// It is not begun.
    Refused(Refusal),
}

impl Ticket {
    /// When it has ended, and how.
    pub(super) async fn landed(self) -> Landed {
        match self {
            Self::Refused(why) => Err(why),
            Self::Waiting(mut landed) => {
                let ended = landed.wait_for(Option::is_some).await.ok().and_then(|ended| (*ended).clone());
                // Its task broke off: relay is shutting down.
                ended.unwrap_or_else(|| Err(Code::Draining.into()))
            }
        }
    }
}

impl Flights {
    /// A place on the flight for `key`, which is `work` unless one is under way or rests.
    pub(super) fn join(
        this: &Arc<Self>,
        key: Key,
        work: impl Future<Output = Landed> + Send + 'static,
        control: &Handle,
    ) -> Ticket {
        let mut table = this.locked();
        let now = Instant::now();
        let failures = match table.get(&key) {
            Some(Flight::UnderWay { landed, .. }) => return Ticket::Waiting(landed.clone()),
            Some(Flight::Resting { until, why, .. }) if *until > now => {
                return Ticket::Refused(why.clone().after(*until - now));
            }
            Some(Flight::Resting { failures, .. }) => *failures,
            None => 0,
        };
        let (tell, landed) = watch::channel(None);
        table.insert(key.clone(), Flight::UnderWay { landed: landed.clone(), failures });
        drop(table);
        let flights = this.clone();
        control.spawn(async move {
            // Counted down by its drop too: a flight that broke off must not be waited for for ever.
            let landing = Landing { flights, key, ended: None };
            let ended = work.await;
            landing.land(ended.clone());
            let _ = tell.send(Some(ended));
        });
        Ticket::Waiting(landed)
    }

    /// When none is under way.
    pub(super) async fn empty(&self) {
        loop {
            let under_way = self.locked().values().find_map(|flight| match flight {
                Flight::UnderWay { landed, .. } => Some(landed.clone()),
                Flight::Resting { .. } => None,
            });
            let Some(mut landed) = under_way else { return };
            let _ = landed.wait_for(Option::is_some).await;
        }
    }

    fn land(&self, key: &Key, ended: Option<&Landed>) {
        let mut table = self.locked();
        let failures = match table.remove(key) {
            Some(Flight::UnderWay { failures, .. } | Flight::Resting { failures, .. }) => failures,
            None => 0,
        };
        // What the customer has to mend is known by the record from now on.
        let Some(Err(why)) = ended.filter(|ended| !is_final(ended)) else { return };
        let asked = why.retry_after().unwrap_or_default();
        let rest = FIRST_REST.saturating_mul(1 << failures.min(6)).max(asked).min(LONGEST_REST);
        let now = Instant::now();
        if table.len() >= REMEMBERED {
            table.retain(|_, flight| !matches!(flight, Flight::Resting { until, .. } if *until <= now));
        }
        let (until, why) = (now + rest, why.clone());
        table.insert(key.clone(), Flight::Resting { until, why, failures: failures.saturating_add(1) });
    }

    // Nothing under this lock can stop half-way.
    fn locked(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_final(ended: &Landed) -> bool {
    ended.as_ref().is_err_and(|why| why.code() == Code::ReconnectRequired)
}

struct Landing {
    flights: Arc<Flights>,
    key: Key,
    ended: Option<Landed>,
}

impl Landing {
    fn land(mut self, ended: Landed) {
        self.ended = Some(ended);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.land(&self.key, self.ended.as_ref());
    }
}
