//! The built-in vendor of `relay dev`: an HTTPS server that plays several third-party APIs.
//!
//! It stands where Slack or OpenAI would, so that a first call, a test or a drill needs no account. It
//! listens on loopback only. What must never enter: a log line with a body, and any credential shown
//! whole but the seeded constant; it would make the one place that is allowed to print one a leak.

mod bulk;
mod certificate;
mod credential;
mod echo;
mod feed;
mod paths;
mod sdk;
mod standalone;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use credential::Accepted;

pub use credential::DEMO_CREDENTIAL;
pub use standalone::serve_vendor;

/// Connections at once; more wait to be accepted.
const MOST_CONNECTIONS: usize = 16_384;
/// From a connection's start to its TLS session.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the vendor got, as it may be shown: at the head of each request, before its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The request's method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// `Authorization`, with anything but the seeded constant masked.
    pub authorization: Option<String>,
    /// Whether a JWT or a `Relay-*` field arrived, which relay must never let happen.
    pub your_token_reached_me: bool,
}

/// The running vendor; it stops when this is dropped.
pub struct Vendor {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The CA that vouches for it, PEM.
    pub ca_pem: String,
    accepting: JoinHandle<()>,
}

/// What every answer is made from.
struct Desk {
    accepted: Accepted,
    seen: Box<dyn Fn(Seen) + Send + Sync>,
    /// What it calls itself where a request does not say.
    authority: String,
}

impl Vendor {
    /// Starts the vendor that takes [`DEMO_CREDENTIAL`]. Refuses an address that is not loopback.
    pub async fn start(listen: SocketAddr, seen: impl Fn(Seen) + Send + Sync + 'static) -> io::Result<Self> {
        Self::start_accepting(listen, Accepted::Demo, seen).await
    }

    async fn start_accepting(
        listen: SocketAddr,
        accepted: Accepted,
        seen: impl Fn(Seen) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        if !listen.ip().to_canonical().is_loopback() {
            let words = "the built-in vendor listens on loopback only (127.0.0.1 or ::1)";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        let identity = certificate::fresh().map_err(io::Error::other)?;
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let desk = Arc::new(Desk { accepted, seen: Box::new(seen), authority: addr.to_string() });
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(identity.tls), desk));
        Ok(Self { addr, ca_pem: identity.ca_pem, accepting })
    }

    /// Its origin: `https://127.0.0.1:PORT`.
    pub fn origin(&self) -> String {
        format!("https://{}", self.addr)
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, desk: Arc<Desk>) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(seat) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (tls, desk) = (tls.clone(), Arc::clone(&desk));
                connections.spawn(async move {
                    converse(stream, &tls, &desk).await;
                    drop(seat);
                });
            }
            // Out of file descriptors, most likely: a pause lets some go.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// One connection from its TLS handshake to its end. A peer's faults end it without a word.
async fn converse(stream: TcpStream, tls: &TlsAcceptor, desk: &Arc<Desk>) {
    // Without it small pieces of a stream wait for the peer's acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let desk = Arc::clone(desk);
        async move { Ok::<_, Infallible>(paths::answer(&desk, request).await) }
    });
    let served =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    drop(served.await);
}
