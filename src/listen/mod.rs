//! The doors: accept, hand over to a worker, serve, drain.
//!
//! One acceptor hands connections round-robin to single-threaded workers, one runtime per core; each owns
//! its pool, its token verdicts and its audit chain, so the data path takes no lock and wakes no other
//! thread. What must never enter: a decision about a request beyond its framing.

mod admit;
mod connection;
pub mod gate;
mod pace;
pub mod station;
pub mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::metrics::Metrics;
use crate::model::RequestId;
use crate::secret::Secret;

/// One accepted connection on its way to a worker.
pub struct Accepted {
    stream: std::net::TcpStream,
    _place: OwnedSemaphorePermit,
}

/// How far relay's shutting down is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    Serving,
    /// New requests are refused; those under way may end.
    Refusing,
    /// Connections close behind the last byte of the answer that they carry: an answer whose end has been
    /// read from the vendor may still wait in memory for an app that reads slowly.
    Closing,
    /// The grace is over: what is still open is cut.
    Over,
}

/// Whether relay is shutting down: shared by every door.
pub struct Draining(watch::Sender<Phase>);

impl Default for Draining {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl Draining {
    /// Enters the next phase.
    pub fn enter(&self, phase: Phase) {
        self.0.send_replace(phase);
    }

    /// Whether new requests are refused.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() >= Phase::Refusing
    }

    /// Waits until `phase` or a later one is entered.
    pub async fn reaches(&self, phase: Phase) {
        // The sender lives as long as this does: the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }
}

/// What a listener enforces before a request is known.
#[derive(Debug, Clone)]
pub struct DoorLimits {
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Fields of a request's head.
    pub head_fields: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// How long an answer may wait for the app to read on.
    pub stalled_timeout: Duration,
}

/// One answered request as `relay dev` shows it: only what the app itself got.
pub struct Seen {
    /// The request's id.
    pub request_id: RequestId,
    /// Its method.
    pub method: String,
    /// Its path as the app sent it.
    pub path: String,
    /// The status that the app got.
    pub status: u16,
    /// The first bytes of the body that the app got, at most 256.
    pub body: Secret,
    /// From the request's head to the end of the answer.
    pub took: Duration,
}

/// Sees every answer that went out; `None` outside of `relay dev`.
pub type Observer = Option<Arc<dyn Fn(Seen) + Send + Sync>>;

/// Accepts until draining begins, at most `most` connections at once, and hands them out in turn.
///
/// # Errors
/// The listener's own, once it can accept no more.
pub async fn accept(
    listener: TcpListener,
    workers: Vec<mpsc::UnboundedSender<Accepted>>,
    most: usize,
    metrics: Arc<Metrics>,
    draining: Arc<Draining>,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(most));
    let mut turn = 0_usize;
    loop {
        // The place is taken first: at the limit new connections wait in the kernel's queue.
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.reaches(Phase::Refusing) => return Ok(()),
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or a client that went away: the next may do better.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { continue };
        metrics.connections().inc();
        turn = turn.wrapping_add(1);
        let worker = workers.get(turn % workers.len().max(1));
        if worker.is_none_or(|worker| worker.send(Accepted { stream, _place: place }).is_err()) {
            return Ok(());
        }
    }
}

/// Binds, with the address in the error.
///
/// # Errors
/// What the kernel says, in words that name the address.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::AddrInUse => "another process listens there: stop it or change the address",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a right that this user does not have",
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => "see the error",
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error} ({mend})"))
    })
}
