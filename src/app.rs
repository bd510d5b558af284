//! The switchboard: a [`Config`] becomes a running relay.
//!
//! The only file that names concrete providers. What must never enter: a decision about a request.

use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::admin::{self, Admin};

use crate::audit::{Anchor, Chain, Event, FileSink, Kind, Log, MemorySink, Setup, Signer, Sink};
use crate::config::{CallerKeys, Callers, Config, Integration, Keys, Limits, StoreChoice};
use crate::jwks::{Algorithm, KeySet};
use crate::kms::Kms;
use crate::kms::cached::DataKeys;
use crate::kms::local::Local;
use crate::listen::worker::{self, Station};
use crate::listen::{self, Accepted, DoorLimits, Draining, Observer};
use crate::metrics::Metrics;
use crate::net::pool::{Pool, PoolLimits};
use crate::net::resolve::Resolver;
use crate::net::tls::{Roots, client_config};
use crate::net::upstream::{Upstream, UpstreamSettings};
use crate::net::vet::Egress;
use crate::pipeline::{Shared, Worker};
use crate::seal::{SealTarget, Sealer};
use crate::secret::Secret;
use crate::stage::authenticate::{TokenRules, Verdicts};
use crate::stage::authorize::limits::{InFlight, Rate};
use crate::stage::authorize::records::Records;
use crate::stage::record::{Budget, Ledger};
use crate::stage::route::{Route, Routes};
use crate::stage::scrub::Surroundings;
use crate::store::Store;
use crate::store::memory::Memory;
use crate::store::sled::Sled;

/// Tokens whose verdict a worker keeps.
const VERDICTS: usize = 10_000;
/// How long a connection from an app may wait for its next request.
const APP_IDLE: Duration = Duration::from_secs(75);
/// How long an answer may wait for the app to read on.
const APP_STALLED: Duration = Duration::from_secs(300);
const AUDIT_KEY: &str = "audit-key";

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
    /// Holds the records instead of `[store]`.
    pub store: Option<Arc<dyn Store>>,
    /// Takes the audit instead of `[audit]`.
    pub sink: Option<Box<dyn Sink>>,
}

/// A running relay. Dropping it without [`Running::stop`] leaves its threads serving.
pub struct Running {
    /// Where the app talks to it.
    pub app: SocketAddr,
    /// Where operators do.
    pub admin: SocketAddr,
    sealer: Arc<Sealer>,
    log: Arc<Log>,
    chain: Chain,
    metrics: Arc<Metrics>,
    draining: Arc<Draining>,
    admin_stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    grace: Duration,
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
    let listener = listen::bind(config.server.listen).await.map_err(failed("[server] listen"))?;
    let admin_listener =
        listen::bind(config.server.admin_listen).await.map_err(failed("[server] admin_listen"))?;
    let app = listener.local_addr().map_err(failed("[server] listen"))?;
    let admin = admin_listener.local_addr().map_err(failed("[server] admin_listen"))?;
    let Options { observer, kms, store, sink } = options;

    let limits = config.server.limits.clone();
    let kms = kms.map_or_else(|| open_kms(&config.keys), Ok)?;
    let keys = Arc::new(DataKeys::new(kms, limits.data_keys, control.clone()));
    let store = match store {
        Some(store) => store,
        None => open_store(&config.store, &control).await?,
    };
    let targets = config.integrations.iter().map(SealTarget::from).collect();
    let sealer =
        Sealer::open(store.clone(), keys.clone(), targets).await.map_err(failed("[keys] and [store]"))?;
    let sealer = Arc::new(sealer);
    let sink = sink.map_or_else(|| open_sink(&config), Ok)?;
    let log = open_log(sink, &config, &keys, &store, &control).await?;
    let metrics = Arc::new(Metrics::new());
    let own: Arc<[SocketAddr]> = Arc::new([app, admin]);
    let routes = routes(&config.integrations, &metrics, &own, &control)?;
    let shared = Arc::new(Shared {
        routes,
        token_rules: token_rules(&config.callers)?,
        records: Records::new(store.clone(), keys.clone(), limits.record_cache_bytes, &control),
        keys,
        in_flight: InFlight::new(limits.in_flight_per_customer),
        surroundings: surroundings(&config, app, admin),
    });
    let draining = Arc::new(Draining::default());
    let parts = Parts {
        shared,
        log: log.clone(),
        metrics: metrics.clone(),
        draining: draining.clone(),
        observer,
        limits,
    };
    let chain = log.chain();
    let api = api(config.admin.token, &sealer, store, chain.clone(), &parts);
    let workers = parts.open_doors(listener, config.server.workers, &control)?;
    let (admin_stop, stopped) = watch::channel(false);
    serve_admin(admin_listener, api, stopped, &control);
    let grace = config.server.grace;
    note(&chain, "start").await.map_err(failed("[audit]"))?;
    Ok(Running { app, admin, sealer, log, chain, metrics, draining, admin_stop, workers, grace })
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

    /// The audit, for its anchors and its health.
    pub const fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Takes no new requests, lets those under way end for at most the configured grace, writes the
    /// audit's last anchor.
    pub async fn stop(self) {
        self.draining.begin();
        let until = Instant::now() + self.grace;
        while self.metrics.in_flight().get() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Nobody listens any more if the admin listener has failed.
        let _ = self.admin_stop.send(true);
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
        listener: TcpListener,
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
        let (most, metrics, draining) = (self.limits.connections, self.metrics, self.draining);
        control.spawn(async move {
            if let Err(error) = listen::accept(listener, queues, most, metrics, draining).await {
                tracing::error!(%error, "relay accepts no more connections");
            }
        });
        Ok(threads)
    }

    /// Builds a worker's place; runs inside the worker's own runtime.
    fn station(&self, refusals: Arc<Budget>) -> impl FnOnce() -> Station + Send + 'static {
        let (shared, log, metrics) = (self.shared.clone(), self.log.clone(), self.metrics.clone());
        let (draining, observer, limits) =
            (self.draining.clone(), self.observer.clone(), self.limits.clone());
        move || Station {
            worker: Worker {
                shared,
                verdicts: Verdicts::new(VERDICTS),
                pool: Pool::new(PoolLimits {
                    idle_per_origin: limits.idle_per_origin,
                    idle_timeout: limits.idle_timeout,
                }),
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

fn failed<E: Display>(what: &'static str) -> impl Fn(E) -> StartError {
    move |why| StartError { what, why: why.to_string() }
}

fn open_kms(keys: &Keys) -> Result<Arc<dyn Kms>, StartError> {
    Ok(match keys {
        Keys::Local { file } => Arc::new(Local::load(file).map_err(failed("[keys] file"))?),
        Keys::Ephemeral => Arc::new(Local::ephemeral()),
    })
}

async fn open_store(choice: &StoreChoice, control: &Handle) -> Result<Arc<dyn Store>, StartError> {
    match choice {
        StoreChoice::Memory => Ok(Arc::new(Memory::new())),
        StoreChoice::Sled { path } => {
            let (path, handle) = (path.clone(), control.clone());
            let opening = control.spawn_blocking(move || Sled::open(&path, handle));
            let opened = opening.await.map_err(failed("[store] path"))?;
            Ok(Arc::new(opened.map_err(failed("[store] path"))?))
        }
    }
}

fn open_sink(config: &Config) -> Result<Box<dyn Sink>, StartError> {
    Ok(match &config.audit.path {
        Some(path) => Box::new(FileSink::open(path).map_err(failed("[audit] path"))?),
        None => Box::new(MemorySink::default()),
    })
}

/// Opens the audit with the store's own signing key, and keeps each anchor in the store.
async fn open_log(
    sink: Box<dyn Sink>,
    config: &Config,
    keys: &DataKeys,
    store: &Arc<dyn Store>,
    control: &Handle,
) -> Result<Arc<Log>, StartError> {
    let wrapped = store.meta(AUDIT_KEY).await.map_err(failed("[store]"))?;
    let (seed, fresh) = keys.named(AUDIT_KEY, wrapped.as_deref()).await.map_err(failed("[keys]"))?;
    if let Some(fresh) = fresh {
        store.put_meta(AUDIT_KEY, Bytes::from(fresh)).await.map_err(failed("[store]"))?;
    }
    let newest = store.meta(admin::ANCHOR).await.map_err(failed("[store]"))?;
    let (kept, handle) = (store.clone(), control.clone());
    let on_anchor = move |anchor: Anchor| {
        let line = Bytes::copy_from_slice(anchor.as_bytes());
        if let Err(error) = handle.block_on(kept.put_meta(admin::ANCHOR, line)) {
            tracing::warn!(%error, "the newest audit anchor could not be kept in the store");
        }
    };
    let setup = Setup {
        durability: config.audit.durability,
        signer: Signer::from_seed(&seed).map_err(failed("[audit]"))?,
        newest: newest.and_then(|line| Anchor::parse(&line)),
        generation: Arc::new(AtomicU64::new(0)),
        on_anchor: Box::new(on_anchor),
    };
    Ok(Arc::new(Log::open(sink, setup).map_err(failed("[audit] path"))?))
}

async fn note(chain: &Chain, what: &str) -> Result<(), crate::audit::AuditError> {
    let mut event = Event::of(Kind::System);
    event.note = Some(what);
    chain.record(&event).await
}

fn token_rules(callers: &Callers) -> Result<TokenRules, StartError> {
    use crate::config::Algorithm as Word;
    let algorithms: Vec<Algorithm> = callers
        .algorithms
        .iter()
        .map(|word| match word {
            Word::Es256 => Algorithm::ES256,
            Word::Rs256 => Algorithm::RS256,
            Word::EdDsa => Algorithm::EdDSA,
            Word::Hs256 => Algorithm::HS256,
        })
        .collect();
    let keys = match &callers.keys {
        CallerKeys::Hs256(secret) => KeySet::hs256(secret),
        CallerKeys::Jwks(document) => KeySet::parse(document, &algorithms),
        CallerKeys::JwksFile(path) => {
            let document = std::fs::read_to_string(path).map_err(|error| StartError {
                what: "[callers] jwks",
                why: format!("{}: {error}", path.display()),
            })?;
            KeySet::parse(&document, &algorithms)
        }
    };
    Ok(TokenRules {
        keys: keys.map_err(failed("[callers] jwks"))?,
        algorithms,
        issuer: callers.issuer.clone(),
        audience: callers.audience.clone(),
        customer_claim: callers.customer.clone(),
        secret_claim: callers.secret.clone(),
        max_lifetime: callers.max_lifetime,
        leeway: callers.leeway,
    })
}

fn routes(
    integrations: &[Integration],
    metrics: &Metrics,
    own: &Arc<[SocketAddr]>,
    control: &Handle,
) -> Result<Routes, StartError> {
    let resolver = Arc::new(Resolver::new(control.clone()));
    let routes: Result<Vec<Route>, StartError> =
        integrations.iter().map(|integration| route(integration, metrics, own, &resolver)).collect();
    Ok(Routes::new(routes?))
}

fn route(
    integration: &Integration,
    metrics: &Metrics,
    own: &Arc<[SocketAddr]>,
    resolver: &Arc<Resolver>,
) -> Result<Route, StartError> {
    let pem = match (&integration.ca_pem, &integration.ca_file) {
        (Some(pem), _) => Some(pem.clone().into_bytes()),
        (None, Some(path)) => Some(std::fs::read(path).map_err(|error| StartError {
            what: "an integration's ca_file",
            why: format!("{}: {error}", path.display()),
        })?),
        (None, None) => None,
    };
    let roots = pem.as_deref().map_or(Roots::BuiltIn, Roots::Pem);
    let upstream = Upstream::new(UpstreamSettings {
        origin: integration.origin.clone(),
        tls: client_config(roots).map_err(failed("an integration's ca_file"))?,
        resolver: resolver.clone(),
        egress: Egress::new(integration.private_cidrs.clone(), own.clone()),
        plaintext: integration.plaintext_danger,
        connect: integration.timeout.connect,
        first_byte: integration.timeout.first_byte,
        idle: integration.timeout.idle,
        isolate_customers: integration.isolate_customers,
    });
    Ok(Route {
        name: integration.name.clone(),
        origin: integration.origin.clone(),
        origin_text: integration.origin.to_string(),
        host: HeaderValue::try_from(integration.origin.authority()).map_err(failed("an upstream"))?,
        base_path: integration.base_path.clone(),
        placements: integration.inject.clone(),
        fields: integration.fields.clone(),
        allow: integration.allow.clone(),
        deny: integration.deny.clone(),
        upstream: Arc::new(upstream),
        cookies: integration.cookies,
        on_reflect: integration.on_reflect,
        metrics: metrics.integration(integration.name.as_str()),
        rate: integration.rate.map(Rate::new),
    })
}

fn surroundings(config: &Config, app: SocketAddr, admin: SocketAddr) -> Surroundings {
    let public_url = config.server.public_url.clone();
    let authority =
        public_url.as_deref().and_then(|url| url.split_once("://")).map(|(_, rest)| rest.to_owned());
    let own = [app.to_string(), admin.to_string()].into_iter().chain(authority).collect();
    Surroundings { public_url, own }
}

fn api(token: Secret, sealer: &Arc<Sealer>, store: Arc<dyn Store>, chain: Chain, running: &Parts) -> Admin {
    let draining = running.draining.clone();
    Admin {
        token,
        failures: admin::Failures::default(),
        sealer: sealer.clone(),
        store,
        log: running.log.clone(),
        chain,
        metrics: running.metrics.clone(),
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
