//! The doors: accept, hand over to a worker, serve, drain.
//!
//! The acceptors hand connections round-robin to single-threaded workers, one runtime per core; each owns
//! its pool, its token verdicts and its audit chain, so the data path takes no lock and wakes no other
//! thread. What must never enter: a decision about a request beyond its framing.

mod admit;
mod backlog;
mod connection;
mod door;
mod flood;
pub mod gate;
mod pace;
pub mod station;
mod stream;
mod tls;
pub mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use crate::model::RequestId;
use crate::pipeline::Entrance;
use crate::secret::Secret;

pub use backlog::Backlog;
pub use door::{Door, Place, bind};
use stream::Raw;
pub use tls::{Tls, TlsError, TlsFiles};

/// One accepted connection on its way to a worker.
pub struct Accepted {
    raw: Raw,
    tls: Option<Arc<ServerConfig>>,
    entrance: Arc<Entrance>,
    /// `None` for what was still waiting when the door closed.
    _place: Option<OwnedSemaphorePermit>,
}

/// How far relay's shutting down is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It says that it is not ready, and serves on: balancers that ask have time to go elsewhere.
    Leaving,
    /// The doors are closed. A request on an open connection is served as the last of its connection.
    Parting,
    /// New requests are refused, and connections close behind the last byte of the answer that they carry: an answer whose end has been
    /// read from the vendor may still wait in memory for an app that reads slowly.
    Closing,
    /// The grace is over: what is still open is cut.
    Over,
}

/// Whether relay is shutting down: shared by every door.
pub struct Draining {
    phase: watch::Sender<Phase>,
    /// The same, for who asks with every request.
    reached: AtomicU8,
}

impl Default for Draining {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving), reached: AtomicU8::new(Phase::Serving as u8) }
    }
}

impl Draining {
    /// Enters the next phase.
    pub fn enter(&self, phase: Phase) {
        self.reached.store(phase as u8, Ordering::Release);
        self.phase.send_replace(phase);
    }

    /// Whether `phase` or a later one is entered.
    pub fn has_reached(&self, phase: Phase) -> bool {
        self.reached.load(Ordering::Acquire) >= phase as u8
    }

    /// Waits until `phase` or a later one is entered.
    pub async fn reaches(&self, phase: Phase) {
        // The sender lives as long as this does: the wait cannot fail.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
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

/// The workers' queues, dealt round-robin by all doors together.
pub struct Queues {
    workers: Vec<mpsc::UnboundedSender<Accepted>>,
    turn: AtomicUsize,
}

impl Queues {
    /// Queues of these workers.
    pub const fn new(workers: Vec<mpsc::UnboundedSender<Accepted>>) -> Self {
        Self { workers, turn: AtomicUsize::new(0) }
    }

    /// Hands one connection to the next worker; false if that has gone.
    fn hand_out(&self, accepted: Accepted) -> bool {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let worker = self.workers.get(turn % self.workers.len().max(1));
        worker.is_some_and(|worker| worker.send(accepted).is_ok())
    }
}
