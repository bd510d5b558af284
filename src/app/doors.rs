//! The listeners: the common one and the integrations' own, bound before anything else is opened.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{StartError, failed};
use crate::config::{Config, Listen};
use crate::listen::{Door, Place, Tls, TlsFiles};
use crate::model::IntegrationName;
use crate::pipeline::Entrance;

/// What was bound.
pub(super) struct Doors {
    /// The common listener.
    pub(super) app: Listen,
    /// The integrations' own.
    pub(super) own: Vec<(IntegrationName, Listen)>,
    /// All of them.
    pub(super) bound: Vec<Door>,
    /// The certificate of those that speak TLS.
    pub(super) tls: Option<Arc<Tls>>,
}

/// Binds every listener for apps.
pub(super) async fn open(config: &Config) -> Result<Doors, StartError> {
    let files = config.server.tls.as_ref().map(|tls| TlsFiles {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        client_ca: tls.client_ca.clone(),
    });
    let tls = files.map(Tls::open).transpose().map_err(failed("[server.tls]"))?.map(Arc::new);
    let mut bound = Vec::new();
    let mut own = Vec::new();
    let (app, door) =
        bind(&config.server.listen, tls.as_ref(), None).await.map_err(failed("[server] listen"))?;
    bound.push(door);
    for integration in &config.integrations {
        let Some(listen) = &integration.listen else { continue };
        let name = &integration.name;
        let (listen, door) =
            bind(listen, tls.as_ref(), Some(name)).await.map_err(failed("an integration's listen"))?;
        own.push((name.clone(), listen));
        bound.push(door);
    }
    Ok(Doors { app, own, bound, tls })
}

/// One listener, and where it came to be.
async fn bind(
    listen: &Listen,
    tls: Option<&Arc<Tls>>,
    integration: Option<&IntegrationName>,
) -> std::io::Result<(Listen, Door)> {
    let secure = listen.is_tls();
    let place = match listen {
        Listen::Tcp { address, .. } => Place::Tcp(*address),
        Listen::Unix(path) => Place::Unix(path.clone()),
    };
    let tls = tls.filter(|_| secure).cloned();
    if secure && tls.is_none() {
        return Err(std::io::Error::other("it speaks TLS, and there is no [server.tls]"));
    }
    let door = Door::bind(&place, tls, Entrance { integration: integration.cloned(), secure }).await?;
    let bound = match door.place()? {
        Place::Tcp(address) => Listen::Tcp { address, tls: secure },
        Place::Unix(path) => Listen::Unix(path),
    };
    Ok((bound, door))
}

impl Doors {
    /// Where the common listener is, and where the integrations' own are.
    pub(super) fn places(&self) -> (Listen, Vec<(IntegrationName, Listen)>) {
        (self.app.clone(), self.own.clone())
    }

    /// The TCP addresses, which are never a vendor's.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        [&self.app].into_iter().chain(self.own.iter().map(|(_, listen)| listen)).filter_map(Listen::address)
    }
}
