//! The operators' listener, and what it is handed.
//!
//! What must never enter: a request of an app.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::workers::Parts;
use super::{StartError, failed};
use crate::admin::{self, Admin};
use crate::audit::Chain;
use crate::dependency::board::Board;
use crate::dependency::drift::Drift;
use crate::jwks::IssuerKeys;
use crate::listen;
use crate::seal::Sealer;
use crate::seal::jobs::Jobs;
use crate::secret::Secret;
use crate::store::Store;

/// Binds it.
pub(super) async fn open_admin(place: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = listen::bind(place).await.map_err(failed("[server] admin_listen"))?;
    let address = listener.local_addr().map_err(failed("[server] admin_listen"))?;
    Ok((listener, address))
}

/// What the operators' listener works on.
pub(super) fn api(
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

/// Serves it until it is told to stop.
pub(super) fn serve_admin(
    listener: TcpListener,
    api: Admin,
    mut stopped: watch::Receiver<bool>,
    control: &Handle,
) {
    control.spawn(async move {
        let stop = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(error) = admin::serve(listener, Arc::new(api), stop).await {
            tracing::error!(%error, "the admin listener has failed");
        }
    });
}
