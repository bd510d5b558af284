//! The operators' listener, and what it is handed.
//!
//! What must never enter: a request of an app.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::reload::{By, Reloader};
use super::workers::Parts;
use super::{StartError, failed};
use crate::admin::{self, Admin, NotReloaded};
use crate::audit::Chain;
use crate::dependency::board::Board;
use crate::dependency::drift::Drift;
use crate::kms::cached::DataKeys;
use crate::listen::{self, Phase};
use crate::seal::Sealer;
use crate::seal::jobs::Jobs;
use crate::store::Store;

/// Binds it.
pub(super) async fn open_admin(place: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = listen::bind(place).await.map_err(failed("[server] admin_listen"))?;
    let address = listener.local_addr().map_err(failed("[server] admin_listen"))?;
    Ok((listener, address))
}

/// What the operators' listener works on.
pub(super) fn api(
    (sealer, jobs): (Arc<Sealer>, Arc<Jobs>),
    (store, keys): (Arc<dyn Store>, Arc<DataKeys>),
    (chain, drift): (Chain, Drift),
    reloader: &Arc<Reloader>,
    running: &Parts,
) -> Admin {
    let (draining, reloads) = (running.draining.clone(), Arc::downgrade(reloader));
    Admin {
        current: reloader.operators.subscribe(),
        failures: admin::Failures::default(),
        sealer,
        jobs,
        store,
        records: running.shared.borrow().records.clone(),
        log: running.log.clone(),
        chain,
        keys,
        metrics: running.metrics.clone(),
        board: Board::default(),
        drift,
        started: AtomicBool::default(),
        accepting: Box::new(move || !draining.has_reached(Phase::Leaving)),
        reload: Box::new(move |request_id| {
            let reloads = reloads.clone();
            Box::pin(async move {
                let reloader = reloads.upgrade().ok_or(NotReloaded::NoFile)?;
                reloader.reload(By::Operator(request_id)).await
            })
        }),
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
