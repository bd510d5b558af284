//! The thread that owns the sink: batches of all chains, one write, then the answers.
//!
//! What the sink does not take is kept and given again in the same order, because a line left out would
//! break its chain for good. It alone makes anchors, so an anchor names what stands before it in the
//! file and nothing else. Nothing may call out of here: who keeps anchors runs in [`publish`].

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::anchor::{Draft, Why};
use super::desk::{Batch, Desk, Message};
use super::file::{Eraser, Inherited, Syncer};
use super::inbox::Inbox;
use super::record::{Hash, Head, Order};
use super::rounds::Rounds;
use super::{Anchor, AuditError, Durability, Signer, Sink};

const RETRY_EVERY: Duration = Duration::from_millis(100);
const ANCHOR_EVERY: Duration = Duration::from_secs(60);
/// How often a sink that fails is tried again when the log closes.
const LAST_TRIES: u32 = 10;
/// Bytes of one write at most, so that an answer does not wait for many.
const WRITE_BYTES: usize = 1024 * 1024;

pub(super) struct Writer {
    pub(super) replica: Arc<str>,
    pub(super) sink: Box<dyn Sink>,
    pub(super) durability: Durability,
    pub(super) desk: Arc<Desk>,
    pub(super) inbox: Inbox<Message>,
    pub(super) signer: Signer,
    pub(super) generation: Arc<AtomicU64>,
    pub(super) publisher: Sender<Anchor>,
    /// The newest anchor: its number and hash.
    pub(super) before: Option<(u64, Hash)>,
    pub(super) chains: BTreeMap<Arc<str>, (u64, Hash)>,
    pub(super) order: Order,
    /// Whether a record was written behind the newest anchor.
    pub(super) unsealed: bool,
    pub(super) held: Held,
    pub(super) rounds: Rounds,
}

/// What the sink has not taken yet: first an anchor, if it was one that failed, then records.
#[derive(Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    hashes: Vec<Hash>,
    heads: Vec<Head>,
    anchor: Option<Anchor>,
    /// When it may be tried again, once it failed.
    retry_at: Option<Instant>,
}

impl Writer {
    /// Takes over what an earlier process left; its chains are named once, by the first anchor.
    pub(super) fn inherit(&mut self, inherited: Inherited) {
        self.order = inherited.order;
        self.chains = inherited.heads.into_iter().map(|h| (h.chain, (h.seq, h.hash))).collect();
    }

    pub(super) fn run(mut self) {
        let mut asked = Vec::new();
        let _ = self.seal(Why::Start);
        self.chains.clear();
        let mut sealed_at = Instant::now();
        loop {
            let first = self.inbox.next_within(self.patience(sealed_at));
            let mut batches = Vec::new();
            self.look();
            let closing = self.gather(first, &mut batches, &mut asked);
            let result = self.write_held();
            batches.into_iter().for_each(|batch| batch.answer(result.clone()));
            if let Some(done) = closing {
                let result = self.close();
                asked.drain(..).for_each(|ask| drop(ask.send(result.clone())));
                let _ = done.send(result.map(drop));
                return;
            }
            let due = self.unsealed && sealed_at.elapsed() >= ANCHOR_EVERY;
            if due || !asked.is_empty() {
                let result = self.seal(if due { Why::Due } else { Why::Asked });
                // One that failed in the sink is made, and held until it can be written.
                if result.is_ok() || self.held.anchor.is_some() {
                    sealed_at = Instant::now();
                }
                asked.drain(..).for_each(|ask| drop(ask.send(result.clone())));
            }
            self.turn();
            self.retain();
        }
    }

    /// Whether the sink has not taken all that it was given.
    pub(super) const fn owes(&self) -> bool {
        !self.held.bytes.is_empty()
    }

    /// How long nothing needs doing if no message comes.
    fn patience(&self, sealed_at: Instant) -> Duration {
        if self.owes() {
            RETRY_EVERY
        } else if self.unsealed {
            ANCHOR_EVERY.saturating_sub(sealed_at.elapsed())
        } else {
            ANCHOR_EVERY
        }
    }

    /// Takes what is in the inbox, up to one write.
    fn gather(
        &mut self,
        first: Option<Message>,
        batches: &mut Vec<Batch>,
        asked: &mut Vec<oneshot::Sender<Result<Anchor, AuditError>>>,
    ) -> Option<Sender<Result<(), AuditError>>> {
        let mut next = first;
        while let Some(message) = next {
            match message {
                Message::Batch(batch) => {
                    self.held.bytes.extend_from_slice(&batch.bytes);
                    self.held.hashes.extend_from_slice(&batch.hashes);
                    self.held.heads.push(batch.head.clone());
                    batches.push(batch);
                }
                Message::Seal(answer) => asked.push(answer),
                Message::Close(done) => return Some(done),
            }
            next = if self.held.bytes.len() < WRITE_BYTES { self.inbox.next() } else { None };
        }
        None
    }

    /// Gives the sink what it has not taken. After an error, only every 100 ms.
    fn write_held(&mut self) -> Result<(), AuditError> {
        if self.held.bytes.is_empty() {
            return Ok(());
        }
        if self.held.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(self.desk.cause());
        }
        let bytes = mem::take(&mut self.held.bytes);
        let result = self.append(&bytes);
        self.held.bytes = bytes;
        result?;
        let mut counted = self.held.bytes.len();
        if let Some(anchor) = self.held.anchor.take() {
            counted -= anchor.as_bytes().len() + 1;
            self.sealed(&anchor);
        }
        self.desk.queued.fetch_sub(counted, Ordering::Relaxed);
        self.unsealed |= counted > 0;
        self.held.bytes.clear();
        self.held.hashes.drain(..).for_each(|hash| self.order.add(&hash));
        let heads = self.held.heads.drain(..);
        self.chains.extend(heads.map(|head| (head.chain, (head.seq, head.hash))));
        Ok(())
    }

    /// Lets the sink do something, which counts as hung if it takes too long.
    pub(super) fn timed<T>(&mut self, work: impl FnOnce(&mut dyn Sink) -> T) -> T {
        self.desk.begins();
        let done = work(&mut *self.sink);
        self.desk.ends();
        done
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), AuditError> {
        let durability = self.durability;
        match self.timed(|sink| sink.append(bytes, durability)) {
            Ok(()) => {
                self.held.retry_at = None;
                self.desk.works();
                Ok(())
            }
            Err(error) => {
                self.held.retry_at = Some(Instant::now() + RETRY_EVERY);
                self.desk.fails(&error);
                Err(self.desk.cause())
            }
        }
    }

    /// Writes an anchor that names every chain as it stands. Not while the sink owes older lines.
    pub(super) fn seal(&mut self, why: Why) -> Result<Anchor, AuditError> {
        self.seal_with(why, None)
    }

    pub(super) fn seal_with(&mut self, why: Why, cut: Option<u64>) -> Result<Anchor, AuditError> {
        if !self.held.bytes.is_empty() {
            return Err(self.desk.cause());
        }
        let head = |(chain, (seq, hash)): (&Arc<str>, &(u64, Hash))| Head {
            chain: Arc::clone(chain),
            seq: *seq,
            hash: *hash,
        };
        let heads: Vec<Head> = self.chains.iter().map(head).collect();
        let generation = self.generation.load(Ordering::Relaxed);
        let (replica, before, order) = (&*self.replica, self.before, self.order.value());
        let draft = Draft { replica, before, why, cut, generation, order, heads: &heads };
        let anchor =
            draft.sign(&self.signer).ok_or_else(|| AuditError("an anchor could not be made".into()))?;
        let line = [anchor.as_bytes(), b"\n"].concat();
        match self.append(&line) {
            Ok(()) => {
                self.sealed(&anchor);
                Ok(anchor)
            }
            Err(error) => {
                self.held.bytes = line;
                self.held.anchor = Some(anchor);
                Err(error)
            }
        }
    }

    fn sealed(&mut self, anchor: &Anchor) {
        self.before = Some((anchor.seq(), anchor.hash()));
        self.order = Order::new();
        self.unsealed = false;
        let _ = self.publisher.send(anchor.clone());
    }

    fn close(&mut self) -> Result<Anchor, AuditError> {
        for _ in 0..LAST_TRIES {
            if self.write_held().is_ok() {
                break;
            }
            std::thread::sleep(RETRY_EVERY);
        }
        self.seal(Why::Close)
    }
}

/// Brings the file to the disk, then gives each anchor to whoever keeps it, so that what is kept is
/// never ahead of a file that lost power. In a thread of its own: either may take its time.
/// Segments are deleted behind that: what says that they were is on the disk before they are gone.
pub(super) fn publish(
    anchors: &Receiver<Anchor>,
    (mut sync, mut erase): (Syncer, Eraser),
    keep: &dyn Fn(Anchor),
) {
    let mut cut = None;
    while let Ok(mut anchor) = anchors.recv() {
        cut = cut.max(anchor.cut);
        while let Ok(newer) = anchors.try_recv() {
            anchor = newer;
            cut = cut.max(anchor.cut);
        }
        match sync() {
            Ok(()) => {
                keep(anchor);
                cut.take().into_iter().for_each(&mut *erase);
            }
            Err(error) => tracing::warn!(%error, "the audit file cannot be synced; its anchor is not kept"),
        }
    }
}
