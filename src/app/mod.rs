//! The switchboard: a [`Config`] becomes a running relay.
//!
//! The only room that names concrete providers. What must never enter: a decision about a request.

mod corridor;
mod doors;
mod generation;
pub(crate) mod issuers;
pub(crate) mod providers;

use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::admin::{self, Admin};
use crate::audit::{AuditError, Chain, Event, Kind, Log, Sink};
use crate::config::{Config, Integration, Limits, Listen};
use crate::dependency::board::Board;
use crate::dependency::drift::{Drift, WallClock};
use crate::jwks::{IssuerKeys, IssuerState, Times};
use crate::kms::Kms;
use crate::kms::cached::{Called, DataKeys, Settings};
use crate::kms::keyring::Keyring;
use crate::lifecycle::{self, Lifecycle};
use crate::listen::station::Station;
use crate::listen::{self, Accepted, DoorLimits, Draining, Observer, Phase, Queues, worker};
use crate::metrics::Metrics;
use crate::model::IntegrationName;
use crate::net::pool::{Pool, PoolLimits};
use crate::pipeline::{Shared, Worker};
use crate::seal::jobs::{Habits, Jobs};
use crate::seal::{SealTarget, Sealer};
use crate::secret::Secret;
use crate::stage::authenticate::Verdicts;
use crate::stage::authorize::leases::Leases;
use crate::stage::authorize::records::Records;
use crate::stage::connect::part_with_changed;
use crate::stage::gather::Room;
use crate::stage::limits::InFlight;
use crate::stage::record::{Budget, Ledger};
use crate::stage::route::Routes;
use crate::store::Store;

use corridor::{plans, routes, surroundings};
use doors::Doors;
use generation::Generation;
use providers::{open_keyring, open_log, open_sink, open_store};

/// Tokens whose verdict a worker keeps.
const VERDICTS: usize = 10_000;
/// How long a connection from an app may wait for its next request.
const APP_IDLE: Duration = Duration::from_secs(75);
/// How long an answer may wait for the app to read on.
const APP_STALLED: Duration = Duration::from_secs(300);
/// How long open WebSockets have for their goodbyes once the grace is over.
const GOODBYES: Duration = Duration::from_millis(250);
/// How often the store is told which secrets were used.
const USES_TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long renewals under way have to keep what the vendor gave.
const RENEWALS: Duration = Duration::from_secs(2);
/// How long workers may take to end once the grace is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why relay does not start. What to do about it is in the text.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct StartError {
    what: &'static str,
    why: String,
}

/// What an embedding program may put in the place of the configured parts.
#[derive(Default)]
pub struct Options {
    /// Sees every answer as the app got it.
    pub observer: Observer,
    /// Wraps data keys instead of `[keys]`.
    pub kms: Option<Arc<dyn Kms>>,
    /// Beside `kms`: unwrap what they wrapped before.
    pub earlier_kms: Vec<Arc<dyn Kms>>,
    /// Holds the records instead of `[store]`.
    pub store: Option<Arc<dyn Store>>,
    /// Takes the audit instead of `[audit]`.
    pub sink: Option<Box<dyn Sink>>,
    /// Starts over a store that is older than its own audit says.
    pub accept_older_store: bool,
    /// Tells the wall clock that is watched for jumps, instead of the system's.
    pub wall_clock: Option<WallClock>,
    /// How often issuers' keys are read.
    pub key_times: Times,
}

/// A running relay. Dropping it without [`Running::stop`] leaves its threads serving.
pub struct Running {
    /// Where the app talks to it.
    pub app: Listen,
    /// The integrations' own listeners.
    pub doors: Vec<(IntegrationName, Listen)>,
    /// Where operators do.
    pub admin: SocketAddr,
    sealer: Arc<Sealer>,
    log: Arc<Log>,
    chain: Chain,
    issuers: Vec<Arc<IssuerKeys>>,
    metrics: Arc<Metrics>,
    draining: Arc<Draining>,
    admin_stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    grace: Duration,
    background: Background,
    generation: Generation,
    records: Records,
    lifecycle: Arc<Lifecycle>,
}

/// What runs beside the requests and stops before the audit does. Where it is stands in the store.
struct Background {
    jobs: Task,
    generation: Task,
    uses: Task,
}

type Task = tokio::task::JoinHandle<()>;

impl Background {
    fn begin(jobs: Arc<Jobs>, generation: &Generation, records: &Records, control: &Handle) -> Self {
        Self {
            jobs: control.spawn(async move { jobs.run().await }),
            generation: control.spawn(generation.clone().follow()),
            uses: control.spawn(tell_uses(records.clone())),
        }
    }
}

/// Starts a relay as configured. `control` is the runtime of everything that is not the data path.
///
/// # Errors
/// Whatever cannot be opened, read or bound, with what to do about it.
pub async fn start(config: Config, control: Handle) -> Result<Running, StartError> {
    start_with(config, Options::default(), control).await
}

/// [`start`] with some parts put in by the embedding program.
///
/// # Errors
/// As [`start`].
pub async fn start_with(config: Config, options: Options, control: Handle) -> Result<Running, StartError> {
    let doors = doors::open(&config).await?;
    let (admin_listener, admin) = open_admin(config.server.admin_listen).await?;

    let Options { observer, kms, earlier_kms, store, sink, accept_older_store, wall_clock, key_times } =
        options;
    let limits = config.server.limits.clone();
    let metrics = Arc::new(Metrics::new());
    let given = kms.map(|kms| Keyring::new(kms, earlier_kms, config.keys.shown));
    let (keys, store, sealer) = open_records(given, store, &config, (&metrics, &control)).await?;
    let sink = sink.map_or_else(|| open_sink(&config), |given| Ok((given, false)))?;
    let (log, generation) = open_log(sink, &config, &keys, &store, accept_older_store, &control).await?;
    let own: Arc<[SocketAddr]> = doors.addresses().chain([admin]).collect();
    let (routes, lifecycle) = open_routes(&config.integrations, &own, (&sealer, &log, &metrics, &control))?;
    let surroundings = surroundings(&config, &own);
    let (token_rules, issuers) = issuers::open(config.callers, key_times, &metrics, &control)?;
    let shared = Arc::new(Shared {
        lifecycle: lifecycle.clone(),
        routes,
        token_rules,
        records: Records::new(store.clone(), keys.clone(), limits.record_cache_bytes, &control),
        keys,
        in_flight: InFlight::new(limits.in_flight_per_customer),
        room: Room::default(),
        surroundings,
    });
    let draining = Arc::new(Draining::default());
    let records = shared.records.clone();
    let (kept, counters, drain) = (log.clone(), metrics.clone(), draining.clone());
    let parts = Parts { shared, log: kept, metrics: counters, draining: drain, observer, limits };
    let chain = log.chain();
    let jobs = open_jobs(&sealer, &log, (config.retain, config.keys.data_key_max_age)).await?;
    let drift = wall_clock.map_or_else(Drift::system, Drift::of);
    let (written, asked) = ((sealer.clone(), jobs.clone()), (store.clone(), issuers.clone()));
    let api = api(config.admin.token, written, asked, (chain.clone(), drift), &parts);
    let (app, own_doors) = doors.places();
    let workers = parts.open_doors(doors, config.server.workers, &control)?;
    let (admin_stop, stopped) = watch::channel(false);
    serve_admin(admin_listener, api, stopped, &control);
    // A disk that is full now may have space later: until then every request is refused, and this record waits.
    if let Err(error) = note(&chain, "start").await {
        tracing::error!(%error, "the start cannot be recorded yet");
    }
    let background = Background::begin(jobs, &generation, &records, &control);
    Ok(Running {
        app,
        doors: own_doors,
        admin,
        sealer,
        log,
        chain,
        issuers,
        metrics,
        draining,
        admin_stop,
        workers,
        grace: config.server.grace,
        background,
        generation,
        records,
        lifecycle,
    })
}

async fn open_admin(place: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = listen::bind(place).await.map_err(failed("[server] admin_listen"))?;
    let address = listener.local_addr().map_err(failed("[server] admin_listen"))?;
    Ok((listener, address))
}

/// The data keys, the store, and the hand that writes to it.
async fn open_records(
    ring: Option<Keyring>,
    store: Option<Arc<dyn Store>>,
    config: &Config,
    (metrics, control): (&Arc<Metrics>, &Handle),
) -> Result<(Arc<DataKeys>, Arc<dyn Store>, Arc<Sealer>), StartError> {
    let keys = data_keys(ring, config, (metrics, control)).await?;
    let store = match store {
        Some(store) => store,
        None => open_store(&config.store, control).await?,
    };
    let targets = config.integrations.iter().map(SealTarget::from).collect();
    let sealer = Sealer::open(store.clone(), keys.clone(), targets).await;
    Ok((keys, store, Arc::new(sealer.map_err(failed("[keys] and [store]"))?)))
}

/// The integrations' ways, and who has access tokens renewed for them.
fn open_routes(
    integrations: &[Integration],
    own: &Arc<[SocketAddr]>,
    (sealer, log, metrics, control): (&Arc<Sealer>, &Arc<Log>, &Arc<Metrics>, &Handle),
) -> Result<(Routes, Arc<Lifecycle>), StartError> {
    let routes = routes(integrations, metrics, own, control)?;
    let plans = plans(integrations, &routes);
    let (sealer, chain, metrics) = (sealer.clone(), log.chain(), metrics.clone());
    let parts = lifecycle::Parts { sealer, chain, metrics, control: control.clone() };
    Ok((routes, Arc::new(Lifecycle::new(plans, parts))))
}

/// What goes on by itself: rotation, the erasing of past versions, new data keys by age.
async fn open_jobs(
    sealer: &Arc<Sealer>,
    log: &Arc<Log>,
    (retain, data_key_max_age): (Duration, Option<Duration>),
) -> Result<Arc<Jobs>, StartError> {
    let habits = Habits { retain, data_key_max_age, ..Habits::default() };
    let jobs = Jobs::open(sealer.clone(), log.chain(), habits).await;
    Ok(Arc::new(jobs.map_err(failed("[store]"))?))
}

impl Running {
    /// The write path, for programs that embed relay.
    pub const fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    /// The counters.
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// How the keys of each issuer stand.
    pub fn issuers(&self) -> Vec<IssuerState> {
        self.issuers.iter().map(|keys| keys.state()).collect()
    }

    /// The audit, for its anchors and its health.
    pub const fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Takes no new requests, lets those under way end for at most the configured grace, writes the
    /// audit's last anchor.
    pub async fn stop(self) {
        let until = Instant::now() + self.grace;
        self.draining.enter(Phase::Refusing);
        while self.metrics.in_flight().get() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.draining.enter(Phase::Closing);
        // What has no end of its own is still open: a WebSocket is told that relay goes away.
        let until = until.max(Instant::now() + GOODBYES);
        while !self.workers.iter().all(JoinHandle::is_finished) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.draining.enter(Phase::Over);
        let last = Instant::now() + LAST_WORDS;
        while !self.workers.iter().all(JoinHandle::is_finished) && Instant::now() < last {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.lifecycle.settled(RENEWALS).await;
        // Nobody listens any more if the admin listener has failed.
        let _ = self.admin_stop.send(true);
        let Background { jobs, generation, uses } = self.background;
        for task in [jobs, generation, uses] {
            task.abort();
            let _ = task.await;
        }
        let _ = self.records.tell_uses().await;
        self.generation.read().await;
        let (workers, log) = (self.workers, self.log);
        let _ = note(&self.chain, "stop").await;
        let closing = tokio::task::spawn_blocking(move || {
            for worker in workers.into_iter().filter(JoinHandle::is_finished) {
                let _ = worker.join();
            }
            log.close()
        });
        match closing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the audit could not be closed"),
            Err(error) => tracing::error!(%error, "the audit could not be closed"),
        }
    }
}

/// What the workers are built from.
struct Parts {
    shared: Arc<Shared>,
    log: Arc<Log>,
    metrics: Arc<Metrics>,
    draining: Arc<Draining>,
    observer: Observer,
    limits: Limits,
}

impl Parts {
    fn open_doors(
        self,
        doors: Doors,
        count: usize,
        control: &Handle,
    ) -> Result<Vec<JoinHandle<()>>, StartError> {
        let refusals = Arc::new(Budget::default());
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let (queue, accepted) = mpsc::unbounded_channel::<Accepted>();
            queues.push(queue);
            let build = self.station(refusals.clone());
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
    fn station(&self, refusals: Arc<Budget>) -> impl FnOnce() -> Station + Send + 'static {
        let (shared, log, metrics) = (self.shared.clone(), self.log.clone(), self.metrics.clone());
        let (draining, observer, limits) =
            (self.draining.clone(), self.observer.clone(), self.limits.clone());
        move || Station {
            worker: Worker {
                leases: Leases::new(shared.records.clone()),
                verdicts: Verdicts::new(VERDICTS),
                pool: pool(&shared, &limits),
                shared,
                ledger: Rc::new(Ledger { chain: log.chain(), metrics: metrics.clone(), refusals }),
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
            metrics,
        }
    }
}

/// A worker's connections; those made with a client certificate end when their secret changes.
fn pool(shared: &Shared, limits: &Limits) -> Pool {
    let (idle_per_origin, idle_timeout) = (limits.idle_per_origin, limits.idle_timeout);
    let pool = Pool::new(PoolLimits { idle_per_origin, idle_timeout });
    if shared.routes.iter().any(|route| route.client_certificate.is_some()) {
        part_with_changed(&pool, &shared.records);
    }
    pool
}

/// Each minute; what the store does not take is lost, since nobody waits for it.
async fn tell_uses(records: Records) {
    loop {
        tokio::time::sleep(USES_TOLD_EVERY).await;
        if let Err(error) = records.tell_uses().await {
            tracing::debug!(%error, "when secrets were last used could not be noted");
        }
    }
}

fn failed<E: Display>(what: &'static str) -> impl Fn(E) -> StartError {
    move |why| StartError { what, why: why.to_string() }
}

async fn note(chain: &Chain, what: &str) -> Result<(), AuditError> {
    let mut event = Event::of(Kind::System);
    event.note = Some(what);
    chain.record(&event).await
}

async fn data_keys(
    given: Option<Keyring>,
    config: &Config,
    (metrics, control): (&Arc<Metrics>, &Handle),
) -> Result<Arc<DataKeys>, StartError> {
    let (keys, capacity) = (&config.keys, config.server.limits.data_keys);
    let ring = match given {
        Some(ring) => ring,
        None => open_keyring(keys, control).await?,
    };
    let metrics = metrics.clone();
    let counted = move |call: Called| metrics.kms_call(call.provider, call.operation, call.outcome);
    let settings = Settings { capacity, ages: keys.ages, pace: keys.pace, counted: Arc::new(counted) };
    Ok(Arc::new(DataKeys::with(ring, settings, control.clone())))
}

fn api(
    token: Secret,
    (sealer, jobs): (Arc<Sealer>, Arc<Jobs>),
    (store, issuers): (Arc<dyn Store>, Vec<Arc<IssuerKeys>>),
    (chain, drift): (Chain, Drift),
    running: &Parts,
) -> Admin {
    let draining = running.draining.clone();
    Admin {
        token,
        failures: admin::Failures::default(),
        lifecycle: running.shared.lifecycle.clone(),
        sealer,
        jobs,
        store,
        issuers,
        log: running.log.clone(),
        chain,
        keys: running.shared.keys.clone(),
        metrics: running.metrics.clone(),
        board: Board::default(),
        drift,
        accepting: Box::new(move || !draining.has_begun()),
    }
}

fn serve_admin(listener: TcpListener, api: Admin, mut stopped: watch::Receiver<bool>, control: &Handle) {
    control.spawn(async move {
        let stop = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(error) = admin::serve(listener, Arc::new(api), stop).await {
            tracing::error!(%error, "the admin listener has failed");
        }
    });
}
