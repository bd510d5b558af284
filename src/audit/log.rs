//! The log of one process: opened once, a chain per worker, closed with a last anchor.
//!
//! It owns the two threads behind the chains. What must never enter: which file or store it is; those
//! come in through [`Setup`] and a [`Sink`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use super::chain::Chain;
use super::desk::{Desk, Message};
use super::file::Member;
use super::inbox::inbox;
use super::record::Order;
use super::rounds::Rounds;
use super::writer::{Held, Writer, publish};
use super::{Anchor, AuditError, Durability, PublicKey, Signer, Sink};

/// How long [`Log::close`] and [`Log::anchor_now`] wait for the sink.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a log needs beside its sink.
pub struct Setup {
    /// Which replica this is: the same name at every start, and no other replica's. 1 to 64 of a-z, 0-9, dot,
    /// underscore and hyphen. Stands in every anchor and in the name of every chain.
    pub replica: String,
    /// When a record counts as written.
    pub durability: Durability,
    /// Signs the anchors.
    pub signer: Signer,
    /// The newest anchor kept outside the file. Were the file cut behind it and relay started again,
    /// the next anchor names this one as its predecessor, and the cut stays visible.
    pub newest: Option<Anchor>,
    /// The store's generation, for the anchors to carry.
    pub generation: Arc<AtomicU64>,
    /// Keeps each anchor outside the file. Runs in a thread of its own, and may block.
    pub on_anchor: Box<dyn Fn(Anchor) + Send>,
}

/// The audit of one process.
pub struct Log {
    desk: Arc<Desk>,
    public: PublicKey,
    replica: String,
    /// The replica, and something random, so that chains of two processes never share a name.
    process: String,
    members: Vec<Arc<dyn Member>>,
    path: Option<PathBuf>,
    started: AtomicUsize,
    chains: Mutex<Vec<Chain>>,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    writer: JoinHandle<()>,
    publisher: JoinHandle<()>,
    /// Disconnects when the publisher has ended.
    published: Receiver<()>,
}

impl Log {
    /// Opens the log and begins it with an anchor over what an earlier process left unsealed. A sink
    /// that cannot be read fails here; one that cannot be written makes [`Log::health`] say so.
    pub fn open(mut sink: Box<dyn Sink>, setup: Setup) -> Result<Self, AuditError> {
        let failed = |error: std::io::Error| AuditError(error.to_string());
        let inherited = sink.inherited().map_err(failed)?;
        let (sync, erase, members) = (sink.syncer().map_err(failed)?, sink.eraser(), sink.members());
        let path = sink.path();
        let Setup { replica, durability, signer, newest, generation, on_anchor } = setup;
        let public = signer.public_key();
        let before = predecessor(inherited.anchor.as_ref(), newest.as_ref(), public);
        let mut nonce = [0; 8];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| AuditError("there is no randomness".into()))?;

        let (send, inbox) = inbox();
        let desk = Arc::new(Desk::new(send));
        let (publisher, anchors) = mpsc::channel();
        let mut writer = Writer {
            replica: replica.as_str().into(),
            sink,
            durability,
            desk: Arc::clone(&desk),
            inbox,
            signer,
            generation,
            publisher,
            before: before.map(|anchor| (anchor.seq(), anchor.hash())),
            chains: BTreeMap::new(),
            order: Order::new(),
            unsealed: false,
            held: Held::default(),
            rounds: Rounds::default(),
        };
        writer.inherit(inherited);
        let writer = spawn("audit", move || writer.run())?;
        let (alive, published) = mpsc::channel();
        let publisher = spawn("audit-anchors", move || {
            publish(&anchors, (sync, erase), &on_anchor);
            drop(alive);
        })?;
        Ok(Self {
            desk,
            public,
            process: format!("{replica}/{:016x}", u64::from_be_bytes(nonce)),
            replica,
            members,
            path,
            started: AtomicUsize::new(0),
            chains: Mutex::default(),
            threads: Mutex::new(Some(Threads { writer, publisher, published })),
        })
    }

    /// A new chain: one per worker, and one for the admin API and relay's own acts. The runtime that
    /// first records to it carries it.
    pub fn chain(&self) -> Chain {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let chain = Chain::new(Arc::clone(&self.desk), format!("{}-{number}", self.process).into());
        self.chains.lock().unwrap_or_else(PoisonError::into_inner).push(chain.clone());
        chain
    }

    /// Which replica this is.
    pub fn replica(&self) -> &str {
        &self.replica
    }

    /// The places that the audit goes to, if there are several, and how each stands.
    pub fn members(&self) -> &[Arc<dyn Member>] {
        &self.members
    }

    /// The file in which its lines can be read again.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What the anchors are checked with.
    pub const fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Whether records can be written now; for readiness.
    pub fn healthy(&self) -> bool {
        self.health().is_ok()
    }

    /// As [`Log::healthy`], with the cause.
    pub fn health(&self) -> Result<(), AuditError> {
        self.desk.health()
    }

    /// Whether the sink has been at one write for too long.
    pub fn hangs(&self) -> bool {
        self.desk.hangs()
    }

    /// Seals everything written so far. Needs a runtime with its timer enabled; gives up after 5 s.
    pub async fn anchor_now(&self) -> Result<Anchor, AuditError> {
        let (send, sealed) = oneshot::channel();
        let closed = || AuditError("the log is closed".into());
        self.desk.inbox.send(Message::Seal(send)).map_err(|_| closed())?;
        match tokio::time::timeout(PATIENCE, sealed).await {
            Ok(answer) => answer.map_err(|_| closed())?,
            Err(_) => Err(AuditError("the sink does not answer".into())),
        }
    }

    /// Writes what was recorded and a last anchor, and ends the threads. Blocks, at most 10 s. Later
    /// records are refused; a second call does nothing.
    pub fn close(&self) -> Result<(), AuditError> {
        // Held to the end: who closes it a second time waits for the first.
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Threads { writer, publisher, published }) = threads.take() else { return Ok(()) };
        let chains = std::mem::take(&mut *self.chains.lock().unwrap_or_else(PoisonError::into_inner));
        chains.iter().for_each(Chain::close);
        let (send, closed) = mpsc::channel();
        let hangs = || AuditError("the sink does not answer".into());
        self.desk.inbox.send(Message::Close(send)).map_err(|_| hangs())?;
        // Threads that hang in the sink are left behind rather than waited for.
        let result = closed.recv_timeout(PATIENCE).map_err(|_| hangs())?;
        let _ = writer.join();
        if published.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Disconnected) {
            let _ = publisher.join();
        }
        result
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the audit was not closed");
        }
    }
}

/// The newest anchor that stands in a sink that no log was opened over yet. Nothing is said of its signature.
///
/// # Errors
/// If it cannot be read.
pub fn newest_anchor(sink: &mut dyn Sink) -> Result<Option<Anchor>, AuditError> {
    sink.inherited().map(|inherited| inherited.anchor).map_err(|error| AuditError(error.to_string()))
}

/// Which anchor the next one follows: the file's, unless the one kept outside is newer.
fn predecessor<'a>(file: Option<&'a Anchor>, kept: Option<&'a Anchor>, key: PublicKey) -> Option<&'a Anchor> {
    let kept = kept.filter(|anchor| anchor.is_signed_by(key));
    match (file, kept) {
        (Some(file), Some(kept)) if !file.is_signed_by(key) || file.seq() < kept.seq() => Some(kept),
        (Some(file), _) => Some(file),
        (None, kept) => kept,
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, AuditError> {
    thread::Builder::new().name(name.into()).spawn(work).map_err(|error| AuditError(error.to_string()))
}
