//! The switchboard: a [`Config`] becomes a running relay.
//!
//! The only room that names concrete providers. What must never enter: a decision about a request.

mod corridor;
mod doors;
mod generation;
pub(crate) mod issuers;
mod moved;
mod operators;
pub(crate) mod providers;
mod reload;
mod replicas;
mod sinks;
mod stop;
mod workers;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use crate::admin::{self, NotReloaded, Reloaded};
use crate::audit::{AuditError, Chain, Event, Kind, Log, Sink};
use crate::config::{Config, Integration, Listen};
use crate::dependency::drift::{Drift, WallClock};
use crate::jwks::{IssuerState, Times};
use crate::kms::Kms;
use crate::kms::cached::DataKeys;
use crate::kms::keyring::Keyring;
use crate::lifecycle::{self, Lifecycle};
use crate::listen::{Draining, Observer};
use crate::metrics::Metrics;
use crate::model::IntegrationName;
use crate::pipeline::Shared;
use crate::seal::Sealer;
use crate::seal::jobs::{Habits, Jobs};
use crate::stage::authorize::records::{Bounds, Records};
use crate::stage::gather::Room;
use crate::stage::limits::InFlight;
use crate::stage::route::Routes;
use crate::store::Store;

use corridor::{Ground, Kept, plans};
use generation::Generation;
use issuers::Issuers;
use operators::{api, open_admin, serve_admin};
use providers::{open_log, open_records};
use reload::{By, Reloader, State, Stopping};
use sinks::{open_sink, open_traces};
use stop::Background;
use workers::Parts;

pub use reload::Source;
pub use stop::LastWord;

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
    /// Where the configuration came from, to be read again.
    pub source: Option<Source>,
    /// Starts over a store that is older than its own audit says.
    pub accept_older_store: bool,
    /// Tells the wall clock that is watched for jumps, instead of the system's.
    pub wall_clock: Option<WallClock>,
    /// How often issuers' keys are read.
    pub key_times: Times,
    /// How long what is at hand serves without the store's change feed.
    pub bounds: Bounds,
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
    metrics: Arc<Metrics>,
    draining: Arc<Draining>,
    admin_stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    background: Background,
    generation: Generation,
    records: Records,
    reloader: Arc<Reloader>,
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

    let Options { observer, kms, earlier_kms, store, sink, source, accept_older_store, .. } = options;
    let limits = config.server.limits.clone();
    let at_hand = (limits.record_cache_bytes, options.bounds);
    let metrics = Arc::new(Metrics::new());
    let given = kms.map(|kms| Keyring::new(kms, earlier_kms, config.keys.shown));
    let (keys, store, sealer) = Box::pin(open_records(given, store, &config, (&metrics, &control))).await?;
    let (traces, carrier) = open_traces(config.traces.as_ref(), &config.audit, (&metrics, &control))?;
    let sink = sink.map_or_else(|| open_sink(&config.audit, &control), |given| Ok((given, false)))?;
    let (log, generation) =
        Box::pin(open_log(sink, &config, &keys, &store, accept_older_store, &control)).await?;
    let own: Arc<[SocketAddr]> = doors.addresses().chain([admin]).collect();
    let (workers, retain) = (config.server.workers, (config.retain, config.keys.data_key_max_age));
    let records = Records::new(store.clone(), keys.clone(), at_hand, &control);
    let jobs = open_jobs(&sealer, &log, retain).await?;
    let chain = log.chain();
    let standing =
        Standing { records: records.clone(), keys: keys.clone(), sealer: sealer.clone(), log: log.clone() };
    let reloader = standing.open(
        config,
        source,
        Issuers::new(options.key_times, &metrics, &control),
        (&own, &metrics, &control),
    )?;
    let draining = Arc::new(Draining::default());
    let shared = reloader.shared.subscribe();
    let (kept, counters, drain) = (log.clone(), metrics.clone(), draining.clone());
    let parts = Parts { shared, log: kept, metrics: counters, draining: drain, observer, limits, traces };
    let drift = options.wall_clock.map_or_else(Drift::system, Drift::of);
    let api = api((sealer.clone(), jobs.clone()), (store, keys), (chain.clone(), drift), &reloader, &parts);
    let (app, own_doors) = doors.places();
    let workers = parts.open_doors(doors, workers, &control)?;
    let (admin_stop, stopped) = watch::channel(false);
    serve_admin(admin_listener, api, stopped, &control);
    // A disk that is full now may have space later: until then every request is refused, and this record waits.
    if let Err(error) = note(&chain, "start").await {
        tracing::error!(%error, "the start cannot be recorded yet");
    }
    metrics.reloaded(true);
    let background = Background::begin(jobs, &generation, &records, carrier, &control);
    Ok(Running {
        app,
        doors: own_doors,
        admin,
        sealer,
        log,
        chain,
        metrics,
        draining,
        admin_stop,
        workers,
        background,
        generation,
        records,
        reloader,
    })
}

/// What stands before the first configuration is gone by, and stays when another is.
struct Standing {
    records: Records,
    keys: Arc<DataKeys>,
    sealer: Arc<Sealer>,
    log: Arc<Log>,
}

impl Standing {
    /// All that a configuration says beside it, and the hand that exchanges that for another.
    fn open(
        self,
        config: Config,
        source: Option<Source>,
        mut issuers: Issuers,
        (own, metrics, control): (&Arc<[SocketAddr]>, &Arc<Metrics>, &Handle),
    ) -> Result<Arc<Reloader>, StartError> {
        let Self { records, keys, sealer, log } = self;
        let mut ground = Ground::new(metrics, own, control);
        let routes = ground.routes(&config.integrations, |_| Kept::Nothing)?;
        let lifecycle = open_lifecycle(&config.integrations, &routes, (&sealer, &log, metrics, control));
        let surroundings = ground.surroundings(&config);
        let (told, stopping) = (config.told.clone(), Stopping::of(&config));
        let shared = Arc::new(Shared {
            lifecycle: lifecycle.clone(),
            routes,
            token_rules: Arc::new(issuers.rules(config.callers, &told)?),
            records,
            keys,
            in_flight: InFlight::new(config.server.limits.in_flight_per_customer),
            room: Room::default(),
            surroundings,
        });
        let operators = admin::Current { token: config.admin.token, lifecycle, issuers: issuers.all() };
        Ok(Arc::new(Reloader {
            source,
            state: Mutex::new(State { told, ground, issuers }),
            shared: watch::Sender::new(shared),
            operators: watch::Sender::new(Arc::new(operators)),
            stopping: RwLock::new(stopping),
            sealer,
            chain: log.chain(),
            metrics: metrics.clone(),
        }))
    }
}

/// Who has access tokens renewed.
fn open_lifecycle(
    integrations: &[Integration],
    routes: &Routes,
    (sealer, log, metrics, control): (&Arc<Sealer>, &Arc<Log>, &Arc<Metrics>, &Handle),
) -> Arc<Lifecycle> {
    let (sealer, chain, metrics) = (sealer.clone(), log.chain(), metrics.clone());
    let parts = lifecycle::Parts { sealer, chain, metrics, control: control.clone() };
    Arc::new(Lifecycle::new(plans(integrations, routes), parts))
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
        let current = self.reloader.operators.borrow();
        current.issuers.iter().map(|keys| keys.state()).collect()
    }

    /// Reads the configuration again, from where it came, and goes by it.
    ///
    /// # Errors
    /// Why the one before still holds.
    pub async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        self.reloader.reload(By::Signal).await
    }

    /// Whether every worker still runs.
    pub fn is_alive(&self) -> bool {
        !self.workers.iter().any(JoinHandle::is_finished)
    }

    /// The audit, for its anchors and its health.
    pub const fn log(&self) -> &Arc<Log> {
        &self.log
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
