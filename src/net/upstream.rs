//! Where one integration's vendor is and how it is reached; built once at start, shared by all workers. One whose
//! host is each customer's own is built again per host, when it is first called.
//!
//! An upstream is an identity as well: the pool never gives one upstream's connection to another, even of the
//! same origin, because trust roots and private ranges may differ. What must never enter: a customer, a
//! request, anything that changes after start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector};
use rustls::{CertificateError, ClientConfig};
use tokio::time::timeout;
use tower::Service;

use super::dial::{Dial, DialError};
use super::identity::{Identity, fresh_id};
use super::resolve::Resolver;
use super::stream::{self, Stream};
use super::tls::offering_http2;
use super::vet::Egress;
use crate::model::Origin;

/// What an upstream is made of.
pub struct UpstreamSettings {
    /// Where the vendor is.
    pub origin: Origin,
    /// How its certificate is verified, with HTTP/1.1 offered.
    pub tls: Arc<ClientConfig>,
    /// Whether HTTP/2 is offered beside HTTP/1.1.
    pub http2: bool,
    /// Who turns its name into addresses.
    pub resolver: Arc<Resolver>,
    /// Which of them may be called.
    pub egress: Egress,
    /// Whether an `http://` origin is accepted.
    pub plaintext: bool,
    /// Resolve, dial and TLS together.
    pub connect: Duration,
    /// From the request sent to the head of its answer.
    pub first_byte: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
    /// Whether a connection never serves two customers.
    pub isolate_customers: bool,
}

/// One integration's vendor.
pub struct Upstream {
    id: u64,
    target: Uri,
    connector: HttpsConnector<Dial>,
    /// Offers HTTP/1.1 alone: what may switch protocols.
    http1: HttpsConnector<Dial>,
    /// What both are made of, for a connection that shows an identity.
    parts: Arc<Parts>,
    connect: Duration,
    pub(super) first_byte: Duration,
    pub(super) idle: Duration,
    pub(super) isolate: bool,
    origin: Origin,
}

/// Why there is no connection to the vendor. The texts are for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The vendor's name leads to an address that relay does not call.
    #[error("{0}")]
    Egress(String),
    /// The name has no address, or no address takes connections.
    #[error("{0}")]
    Unreachable(String),
    /// The vendor's certificate or TLS version was refused, or it refused ours.
    #[error("{0}")]
    Tls(String),
    /// There was no connection in time.
    #[error("{0}")]
    Timeout(String),
}

impl Upstream {
    /// An upstream; nothing is resolved or connected yet.
    pub fn new(settings: UpstreamSettings) -> Self {
        let dial = Dial::vetted(settings.resolver, settings.egress, settings.connect);
        let names = Arc::new(DefaultServerNameResolver::default());
        let offered = if settings.http2 { offering_http2(&settings.tls) } else { Arc::clone(&settings.tls) };
        let parts =
            Arc::new(Parts { dial, names, plaintext: settings.plaintext, offered, http1: settings.tls });
        Self {
            id: fresh_id(),
            target: target(&settings.origin),
            connector: parts.connector(parts.offered.clone()),
            http1: parts.connector(parts.http1.clone()),
            parts,
            connect: settings.connect,
            first_byte: settings.first_byte,
            idle: settings.idle,
            isolate: settings.isolate_customers,
            origin: settings.origin,
        }
    }

    /// The same way to another origin, as an identity of its own. `isolate` keeps customers apart on it.
    #[must_use]
    pub fn to(&self, origin: Origin, isolate: bool) -> Self {
        Self {
            id: fresh_id(),
            target: target(&origin),
            connector: self.connector.clone(),
            http1: self.http1.clone(),
            parts: self.parts.clone(),
            connect: self.connect,
            first_byte: self.first_byte,
            idle: self.idle,
            isolate: self.isolate || isolate,
            origin,
        }
    }

    /// Where the vendor is.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Between two pieces of a body, either way.
    pub const fn idle(&self) -> Duration {
        self.idle
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// A fresh connection: resolved, vetted, dialled and verified within the connect time.
    pub(super) async fn dial(&self) -> Result<(Stream, SocketAddr), ConnectError> {
        self.dial_by(&self.connector).await
    }

    /// The same, showing `identity`; `http1` alone where it may switch protocols.
    pub(super) async fn dial_showing(
        &self,
        identity: Identity,
        http1: bool,
    ) -> Result<(Stream, SocketAddr), ConnectError> {
        let base = if http1 { &self.parts.http1 } else { &self.parts.offered };
        let (config, once) = identity.shown_by(base);
        let dialled = self.dial_by(&self.parts.connector(Arc::new(config))).await;
        once.clear();
        dialled
    }

    /// The same, and it will speak HTTP/1.1.
    pub(super) async fn dial_http1(&self) -> Result<(Stream, SocketAddr), ConnectError> {
        self.dial_by(&self.http1).await
    }

    async fn dial_by(&self, connector: &HttpsConnector<Dial>) -> Result<(Stream, SocketAddr), ConnectError> {
        let dialled = timeout(self.connect, connector.clone().call(self.target.clone())).await;
        let stream = match dialled {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => return Err(self.because(cause.as_ref())),
            Err(_) => {
                let text = format!("{}: no connection within {} ms", self.origin, self.connect.as_millis());
                return Err(ConnectError::Timeout(text));
            }
        };
        let peer = stream::socket(&stream).peer_addr();
        let peer = peer.map_err(|e| ConnectError::Unreachable(format!("{}: {e}", self.origin)))?;
        Ok((stream, peer))
    }

    fn because(&self, cause: &(dyn std::error::Error + 'static)) -> ConnectError {
        let text = match tls_error(cause) {
            // The library names what stands in the vendor's certificate: a vendor's words are not repeated.
            Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => {
                format!("{}: the certificate is not for this name", self.origin)
            }
            _ => format!("{}: {cause}", self.origin),
        };
        match cause.downcast_ref::<DialError>() {
            Some(DialError::Refused(_)) => ConnectError::Egress(text),
            Some(DialError::Unresolved(_) | DialError::Unreachable(_)) => ConnectError::Unreachable(text),
            None if is_of_tls(cause) => ConnectError::Tls(text),
            None => ConnectError::Unreachable(format!("{text} (during the TLS handshake)")),
        }
    }
}

/// What connectors are made of.
struct Parts {
    dial: Dial,
    names: Arc<DefaultServerNameResolver>,
    plaintext: bool,
    offered: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl Parts {
    fn connector(&self, tls: Arc<ClientConfig>) -> HttpsConnector<Dial> {
        HttpsConnector::new(self.dial.clone(), tls, !self.plaintext, self.names.clone())
    }
}

/// The connector wraps the TLS library's verdict in I/O errors, one inside the other; a connection that just
/// ended in the handshake has none.
fn tls_error<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    match cause.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().and_then(|inner| tls_error(inner)),
        None => cause.downcast_ref(),
    }
}

/// Whether it is the TLS library's verdict.
pub(super) fn is_of_tls(cause: &(dyn std::error::Error + 'static)) -> bool {
    tls_error(cause).is_some()
}

fn target(origin: &Origin) -> Uri {
    // An origin's parts are checked when it is made, so this is always a valid URI; were it not, the empty
    // one has no scheme and the connector refuses it.
    let scheme = if origin.is_secure() { "https" } else { "http" };
    format!("{scheme}://{}:{}/", origin.host(), origin.port()).parse().unwrap_or_default()
}
