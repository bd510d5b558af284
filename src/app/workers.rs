//! The workers: a thread, a runtime and a place of its own each, fed by the doors.
//!
//! What must never enter: what all of them share but does not serve requests.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use super::doors::Doors;
use super::{StartError, failed};
use crate::audit::Log;
use crate::config::Limits;
use crate::listen::station::Station;
use crate::listen::{Accepted, Backlog, DoorLimits, Draining, Observer, Queues, worker};
use crate::metrics::Metrics;
use crate::net::pool::{Pool, PoolLimits};
use crate::net::spans::Tracer;
use crate::pipeline::{Current, Shared, Worker};
use crate::stage::authenticate::Verdicts;
use crate::stage::authorize::leases::Leases;
use crate::stage::authorize::records::Records;
use crate::stage::connect::part_with_changed;
use crate::stage::record::{Budget, Ledger};

/// Tokens whose verdict a worker keeps.
const VERDICTS: usize = 10_000;
/// How long a connection from an app may wait for its next request.
const APP_IDLE: Duration = Duration::from_secs(75);
/// How long an answer may wait for the app to read on.
const APP_STALLED: Duration = Duration::from_secs(300);

/// What the workers are built from.
pub(super) struct Parts {
    pub(super) shared: watch::Receiver<Arc<Shared>>,
    pub(super) log: Arc<Log>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) draining: Arc<Draining>,
    pub(super) observer: Observer,
    pub(super) limits: Limits,
    pub(super) traces: Option<Tracer>,
}

impl Parts {
    /// Starts the workers, and the doors that hand out to them.
    pub(super) fn open_doors(
        self,
        doors: Doors,
        count: usize,
        control: &Handle,
    ) -> Result<Vec<JoinHandle<()>>, StartError> {
        let (refusals, backlog) = (Arc::new(Budget::default()), Arc::new(Backlog::default()));
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let (queue, accepted) = mpsc::unbounded_channel::<Accepted>();
            queues.push(queue);
            let build = self.station(refusals.clone(), backlog.clone());
            let thread =
                std::thread::Builder::new().name(format!("relay-worker-{number}")).spawn(move || {
                    if let Err(error) = worker::run(build, accepted) {
                        tracing::error!(%error, "a worker could not start");
                    }
                });
            threads.push(thread.map_err(failed("a worker thread"))?);
        }
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let queues = Arc::new(Queues::new(queues));
        for door in doors.bound {
            let (metrics, draining) = (self.metrics.clone(), self.draining.clone());
            control.spawn(door.accept(queues.clone(), places.clone(), metrics, draining));
        }
        if let Some(tls) = doors.tls {
            control.spawn(tls.follow());
        }
        Ok(threads)
    }

    /// Builds a worker's place; runs inside the worker's own runtime.
    fn station(
        &self,
        refusals: Arc<Budget>,
        backlog: Arc<Backlog>,
    ) -> impl FnOnce() -> Station + Send + 'static {
        let (shared, log, metrics) = (self.shared.clone(), self.log.clone(), self.metrics.clone());
        let (draining, observer, limits) =
            (self.draining.clone(), self.observer.clone(), self.limits.clone());
        let traces = self.traces.clone();
        let records = shared.borrow().records.clone();
        move || Station {
            worker: Worker {
                pool: pool(&records, &limits),
                leases: Leases::new(records),
                verdicts: Verdicts::new(VERDICTS),
                current: Current::of(shared),
                ledger: Rc::new(Ledger { chain: log.chain(), metrics: metrics.clone(), refusals, traces }),
            },
            limits: DoorLimits {
                head_bytes: limits.head_bytes,
                head_fields: limits.head_fields,
                head_timeout: limits.head_timeout,
                idle_timeout: APP_IDLE,
                stalled_timeout: APP_STALLED,
            },
            draining,
            observer,
            backlog,
            metrics,
        }
    }
}

/// A worker's connections; those made with a client certificate end when their secret changes.
fn pool(records: &Records, limits: &Limits) -> Pool {
    let (idle_per_origin, idle_timeout) = (limits.idle_per_origin, limits.idle_timeout);
    let pool = Pool::new(PoolLimits { idle_per_origin, idle_timeout });
    part_with_changed(&pool, records);
    pool
}
