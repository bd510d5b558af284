//! relay.toml is read again while relay serves: all of it holds from one moment on, or none.
//!
//! Everything that the new reading needs is built before anything is exchanged; a request keeps what it began with.
//! What did not change keeps its connections, counts and keys. What is read only at start refuses the reload as a
//! whole. What must never enter: a value of a key in a log or the audit; a state in which half of it holds.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use super::corridor::{Ground, Kept, plans};
use super::issuers::Issuers;
use crate::admin::{self, NotReloaded, Reloaded};
use crate::audit::{Chain, Event, Kind};
use crate::config::{self, Config, Integration, Told};
use crate::jwks::IssuerKeys;
use crate::metrics::Metrics;
use crate::model::RequestId;
use crate::pipeline::Shared;
use crate::seal::{SealTarget, Sealer};

/// Read only at start, with everything below.
const AT_START: [&str; 9] = [
    "server.listen",
    "server.admin_listen",
    "server.workers",
    "server.tls",
    "server.limits",
    "keys",
    "store",
    "audit",
    "traces",
];
/// And yet these are not.
const ANY_TIME: [&str; 1] = ["server.limits.in_flight_per_customer"];
/// What a customer's counts on an integration hang on.
const LIMITS: [&str; 3] = ["rate", "burst", "concurrency"];
/// How long a new issuer's keys may take to come before its callers are judged without them.
const KEYS_COME: Duration = Duration::from_secs(2);
/// How many keys are named in a record.
const NAMED: usize = 20;

/// Where the configuration is read again from.
#[derive(Clone)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// The process's environment.
    pub environment: Vec<(String, String)>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// A signal, or the program that embeds relay.
    Signal,
    /// An operator's request.
    Operator(RequestId),
}

/// Exchanges what is configured.
pub(super) struct Reloader {
    pub(super) source: Option<Source>,
    /// One at a time.
    pub(super) state: Mutex<State>,
    pub(super) shared: watch::Sender<Arc<Shared>>,
    pub(super) operators: watch::Sender<Arc<admin::Current>>,
    pub(super) stopping: RwLock<Stopping>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) chain: Chain,
    pub(super) metrics: Arc<Metrics>,
}

/// What the next reading is compared with and built on.
pub(super) struct State {
    pub(super) told: Told,
    pub(super) ground: Ground,
    pub(super) issuers: Issuers,
}

/// How relay stops.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    pub(super) delay: Duration,
    pub(super) grace: Duration,
}

impl Stopping {
    pub(super) const fn of(config: &Config) -> Self {
        Self { delay: config.server.drain_delay, grace: config.server.grace }
    }
}

impl Reloader {
    /// Reads again what relay was told, and goes by it.
    pub(super) async fn reload(&self, by: By) -> Result<Reloaded, NotReloaded> {
        let mut state = self.state.lock().await;
        let done = self.attempt(&mut state, by).await;
        drop(state);
        self.metrics.reloaded(done.is_ok());
        match &done {
            Ok(done) => {
                let (digest, changed) = (&done.digest, done.changed.join(" "));
                tracing::info!(digest, changed, "relay.toml was read again");
            }
            Err(NotReloaded::Invalid(report)) => {
                let findings = report.to_string();
                tracing::error!(findings, "relay.toml is not valid; the last good one stays in use");
            }
            Err(why) => tracing::error!(%why, "relay.toml was not taken over"),
        }
        done
    }

    async fn attempt(&self, state: &mut State, by: By) -> Result<Reloaded, NotReloaded> {
        let Source { path, environment } = self.source.clone().ok_or(NotReloaded::NoFile)?;
        let read = tokio::task::spawn_blocking(move || config::load(&path, &environment));
        let loaded = read.await.map_err(unusable)?.map_err(NotReloaded::Invalid)?;
        let config = loaded.config;
        let changed = state.told.changes(&config.told);
        let fixed: Vec<String> = changed.iter().filter(|key| is_fixed(key)).cloned().collect();
        if !fixed.is_empty() {
            return Err(NotReloaded::NeedsRestart(fixed));
        }
        let (digest, told, stopping) = (config.told.digest(), config.told.clone(), Stopping::of(&config));
        let targets = config.integrations.iter().map(SealTarget::from).collect();
        let (shared, operators) = self.built(state, config).await?;
        // Before anything is exchanged: no audit, no change.
        self.record(by, &digest, &changed).await?;
        self.sealer.retarget(targets);
        self.shared.send_replace(shared);
        self.operators.send_replace(operators);
        *self.stopping.write().unwrap_or_else(PoisonError::into_inner) = stopping;
        state.told = told;
        Ok(Reloaded { digest, changed })
    }

    /// All that is exchanged.
    async fn built(
        &self,
        state: &mut State,
        config: Config,
    ) -> Result<(Arc<Shared>, Arc<admin::Current>), NotReloaded> {
        let before = self.shared.borrow().clone();
        let kept = |integration: &Integration| kept(&before, integration, (&state.told, &config.told));
        let routes = state.ground.routes(&config.integrations, kept).map_err(unusable)?;
        let lifecycle = Arc::new(before.lifecycle.replanned(plans(&config.integrations, &routes)));
        let surroundings = state.ground.surroundings(&config);
        let rules = state.issuers.rules(config.callers, &config.told).map_err(unusable)?;
        let issuers = state.issuers.all();
        come(&issuers).await;
        let shared = Shared {
            lifecycle: lifecycle.clone(),
            routes,
            token_rules: Arc::new(rules),
            records: before.records.clone(),
            keys: before.keys.clone(),
            in_flight: before.in_flight.with(config.server.limits.in_flight_per_customer),
            room: before.room.clone(),
            surroundings,
        };
        let operators = admin::Current { token: config.admin.token, lifecycle, issuers };
        Ok((Arc::new(shared), Arc::new(operators)))
    }

    async fn record(&self, by: By, digest: &str, changed: &[String]) -> Result<(), NotReloaded> {
        let mut event = Event::of(match by {
            By::Signal => Kind::System,
            By::Operator(_) => Kind::Admin,
        });
        if let By::Operator(request_id) = by {
            event.request_id = Some(request_id);
        }
        event.method = Some("config.reload");
        let named = changed.iter().take(NAMED).cloned().collect::<Vec<_>>().join(" ");
        let note = format!("relay.toml sha256:{digest}, {} keys changed: {named}", changed.len());
        event.note = Some(&note);
        self.chain.record(&event).await.map_err(unusable)
    }

    /// How relay stops, as it was configured last.
    pub(super) fn stopping(&self) -> Stopping {
        *self.stopping.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unusable(why: impl std::fmt::Display) -> NotReloaded {
    NotReloaded::Unusable(why.to_string())
}

/// Whether a key is read only at start. So is where an integration listens: a door is bound once.
fn is_fixed(key: &str) -> bool {
    let below =
        |table: &str| key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let own_door =
        key.starts_with("integrations.") && key.ends_with(".listen") && key.matches('.').count() == 2;
    own_door || (AT_START.iter().any(|table| below(table)) && !ANY_TIME.contains(&key))
}

/// What of the route before stays.
fn kept(before: &Shared, integration: &Integration, (old, new): (&Told, &Told)) -> Kept {
    let Some(route) = before.routes.iter().find(|route| route.name == integration.name) else {
        return Kept::Nothing;
    };
    let table = format!("integrations.{}", integration.name);
    if old.below(&table).eq(new.below(&table)) {
        return Kept::Whole(route.clone());
    }
    let limits = |told: &Told| -> Vec<_> {
        let limits = told.below(&table).filter(|(key, _)| LIMITS.contains(key));
        limits.map(|(key, sum)| (key.to_owned(), *sum)).collect()
    };
    if limits(old) == limits(new) { Kept::Share(route.share.clone()) } else { Kept::Nothing }
}

/// Waits for issuers' keys that are read for the first time, but not for long.
async fn come(issuers: &[Arc<IssuerKeys>]) {
    let until = Instant::now() + KEYS_COME;
    while Instant::now() < until && issuers.iter().any(|keys| keys.current().is_none()) {
        sleep(Duration::from_millis(10)).await;
    }
}
