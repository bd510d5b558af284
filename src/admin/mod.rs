//! The operators' listener: secrets, customers, keys, audit key, health, metrics.
//!
//! Apart from the app's listener, with a token of its own. No endpoint returns a value, and the writes go
//! through `seal`, which cannot read one either. What must never enter: unseal, inject, send; a customer's
//! name in health or metrics.

mod audit;
mod customers;
mod door;
mod health;
mod history;
mod keys;
mod policy;
mod purge;
mod reload;
mod secrets;
mod store;
mod trace;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post, put};
use tokio::net::TcpListener;
use tokio::sync::watch::Receiver;
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::audit::Log;
use crate::audit::chain::Chain;
use crate::dependency::board::Board;
use crate::dependency::drift::Drift;
use crate::jwks::IssuerKeys;
use crate::kms::cached::DataKeys;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::refusal::{Code, Refusal};
use crate::seal::Sealer;
use crate::seal::jobs::Jobs;
use crate::secret::Secret;
use crate::stage::authorize::records::Records;
use crate::store::Store;

pub use audit::replicas;
pub use door::Failures;
pub use reload::{NotReloaded, Pending, Reload, Reloaded};
pub use store::described;

/// Admin requests served at once; more wait.
const AT_ONCE: usize = 64;

/// What the admin API acts on.
pub struct Admin {
    /// What is configured.
    pub current: Receiver<Arc<Current>>,
    /// How often a wrong token may come.
    pub failures: Failures,
    /// The write path.
    pub sealer: Arc<Sealer>,
    /// The work on all customers.
    pub jobs: Arc<Jobs>,
    /// The store, for its health and the newest anchor.
    pub store: Arc<dyn Store>,
    /// What is at hand of the store, for how far that may be relied on.
    pub records: Records,
    /// The audit, for its health, key and anchors.
    pub log: Arc<Log>,
    /// The admin API's own chain.
    pub chain: Chain,
    /// The data keys, for their KMS keys' state and to be purged.
    pub keys: Arc<DataKeys>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What state all that relay depends on is in.
    pub board: Board,
    /// The wall clock under watch.
    pub drift: Drift,
    /// Whether relay takes new requests: not while it shuts down.
    pub accepting: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether it was ready once.
    pub started: AtomicBool,
    /// Reads relay.toml again.
    pub reload: Reload,
}

/// What the admin API acts by, as it was configured last.
pub struct Current {
    /// The bearer token, at least 32 bytes.
    pub token: Secret,
    /// Who tries a credential before it is sealed.
    pub lifecycle: Arc<Lifecycle>,
    /// The issuers' keys, for their health.
    pub issuers: Vec<Arc<IssuerKeys>>,
}

/// Serves until `stop` resolves, then lets requests under way end.
///
/// # Errors
/// The listener's own.
pub async fn serve(
    listener: TcpListener,
    admin: Arc<Admin>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let watching = tokio::spawn(watch::keep_looking(Arc::downgrade(&admin)));
    let served = axum::serve(listener, router(admin)).with_graceful_shutdown(stop).await;
    watching.abort();
    // Waited for: what it holds of the store ends with it.
    let _ = watching.await;
    served
}

impl Admin {
    /// As it was configured last.
    fn now(&self) -> Arc<Current> {
        self.current.borrow().clone()
    }

    /// Nothing new is begun while relay shuts down; what ends a secret's use is.
    fn takes_new(&self) -> Result<(), Refusal> {
        if (self.accepting)() { Ok(()) } else { Err(Refusal::from(Code::Draining)) }
    }
}

fn router(admin: Arc<Admin>) -> Router {
    let guarded = Router::new()
        .route("/v1/secrets", get(secrets::list).post(secrets::add))
        .route("/v1/secrets/{id}", get(secrets::show).delete(secrets::remove))
        .route("/v1/secrets/{id}/versions", get(secrets::versions).post(secrets::add_version))
        .route("/v1/secrets/{id}/rollback", post(secrets::rollback))
        .route("/v1/secrets/{id}/expire", post(secrets::expire))
        .route("/v1/secrets/{id}/policy", put(policy::set))
        .route("/v1/secrets/{id}/disable", post(secrets::disable))
        .route("/v1/secrets/{id}/enable", post(secrets::enable))
        .route("/v1/customers/{customer}", delete(customers::forget))
        .route("/v1/customers/{customer}/history", get(history::history))
        .route("/v1/integrations/{name}/rebind", post(keys::rebind))
        .route("/v1/keys", get(keys::status))
        .route("/v1/keys/rotate", post(keys::rotate))
        .route("/v1/jobs", get(keys::newest))
        .route("/v1/keys/purge", post(purge::purge))
        .route("/v1/store", get(store::info))
        .route("/v1/store/export", get(store::export))
        .route("/v1/reload", post(reload::reload))
        .route("/v1/audit/key", get(audit::key))
        .route("/v1/audit/anchor", get(audit::anchor))
        .route("/v1/audit/anchors", get(audit::anchors))
        .route("/v1/audit/replicas/{name}", delete(audit::retire))
        .route_layer(from_fn_with_state(admin.clone(), door::guard));
    Router::new()
        .merge(guarded)
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/startupz", get(health::started))
        .route("/metrics", get(health::metrics))
        .fallback(door::unknown)
        .layer(GlobalConcurrencyLimitLayer::new(AT_ONCE))
        .with_state(admin)
}

/// How long a health check may take.
const CHECK_TIME: Duration = Duration::from_secs(2);
