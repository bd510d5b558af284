//! The dialler: resolves a name once, vets every answer, and connects to exactly those addresses.
//!
//! It is a tower service, so that the TLS connector wraps it and nothing stands between the vetted address
//! and the socket. One refused answer refuses the whole set: a name that is half private is somebody's trick
//! or somebody's mistake. What must never enter: proxy variables, a second lookup, an address from a request.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::Service;

use super::resolve::{Resolver, Unresolved};
use super::vet::{Egress, Refused};

/// Connects a `Uri`'s host and port over TCP.
#[derive(Clone)]
pub struct Dial(Arc<Plan>);

struct Plan {
    resolver: Arc<Resolver>,
    /// `None` only for addresses that the operator typed for relay's own use.
    egress: Option<Egress>,
    budget: Duration,
}

/// Why there is no TCP connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// One of the addresses may not be called; none was.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The name has no address.
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// No address took the connection.
    #[error("{0}")]
    Unreachable(String),
}

impl Dial {
    /// A dialler to vetted addresses, which spends at most `budget` on connecting.
    pub fn vetted(resolver: Arc<Resolver>, egress: Egress, budget: Duration) -> Self {
        Self(Arc::new(Plan { resolver, egress: Some(egress), budget }))
    }

    /// A dialler for control-plane calls to an address that the operator configured; `fetch` alone uses it.
    pub(super) fn unvetted(resolver: Arc<Resolver>, budget: Duration) -> Self {
        Self(Arc::new(Plan { resolver, egress: None, budget }))
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let plan = Arc::clone(&self.0);
        Box::pin(async move { plan.connect(&target).await.map(TokioIo::new) })
    }
}

impl Plan {
    async fn connect(&self, target: &Uri) -> Result<TcpStream, DialError> {
        let secure = target.scheme_str() == Some("https");
        let host = target.host().unwrap_or_default();
        let port = target.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let found = self.resolver.addresses(host).await?;
        for ip in &found {
            self.vet(SocketAddr::new(*ip, port), secure)?;
        }
        self.first_open(&found, port).await
    }

    fn vet(&self, address: SocketAddr, secure: bool) -> Result<(), Refused> {
        match &self.egress {
            None => Ok(()),
            Some(egress) if secure => egress.check(address),
            Some(egress) => egress.check_plaintext(address),
        }
    }

    /// Tries the addresses in order. Each gets an equal share of the budget, so that one that swallows
    /// packets does not use up the others' time.
    async fn first_open(&self, found: &[IpAddr], port: u16) -> Result<TcpStream, DialError> {
        let share = self.budget / u32::try_from(found.len()).unwrap_or(u32::MAX).max(1);
        let mut failures = Vec::new();
        for ip in found {
            let address = SocketAddr::new(*ip, port);
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => match stream.set_nodelay(true) {
                    Ok(()) => return Ok(stream),
                    Err(e) => failures.push(format!("{address}: {e}")),
                },
                Ok(Err(e)) => failures.push(format!("{address}: {e}")),
                Err(_) => failures.push(format!("{address}: no answer in {} ms", share.as_millis())),
            }
        }
        Err(DialError::Unreachable(failures.join("; ")))
    }
}
