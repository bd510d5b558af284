//! What sled lacks: power-safe acknowledgement, isolation of reads, and life after an I/O error.
//!
//! `flush()` only asks Linux for `sync_file_range`, so each write also waits for an fdatasync of the data
//! file; writers that come together share one. After an I/O error sled refuses every write until it is
//! reopened, so it is closed and the next call opens it again. What must never enter: a record's layout.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sled::{Batch, Db, Tree};
use tokio::sync::broadcast;

use super::fault::{Failure, Fault};
use super::folder::{self, OpenError};
use super::rows;
use super::stopwatch::Pace;
use crate::store::{Change, StoreError};

/// How many changes a receiver may be behind before it has lagged.
const FEED: usize = 1024;
/// Least time between two attempts to reopen.
const REOPEN_EVERY: Duration = Duration::from_millis(500);

/// What a write does to the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It needs space: refused when there is little.
    Needed,
    /// It frees some in the end: tried on a full disk too, so that a removal is not refused.
    Freed,
}

/// sled, and the way back after it failed.
pub(super) struct Engine {
    path: PathBuf,
    slot: RwLock<Slot>,
    pace: Pace,
    feed: broadcast::Sender<Change>,
}

impl Engine {
    /// Opens or creates the folder.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let (db, data) = folder::open(path)?;
        let slot = Slot { generation: 0, open: Some(Open::new(db, data)), closed: None };
        let (slot, feed) = (RwLock::new(slot), broadcast::Sender::new(FEED));
        Ok(Self { path: path.to_owned(), slot, pace: Pace::new(), feed })
    }

    /// A new receiver of the change feed.
    pub(super) fn changes(&self) -> broadcast::Receiver<Change> {
        self.feed.subscribe()
    }

    /// Reads while no write is half-applied. After an I/O error, which may only say that sled's own
    /// housekeeping met a full disk, it is tried once more on a reopened sled.
    pub(super) fn read<T>(&self, work: impl Fn(&Tree) -> Result<T, Fault>) -> Result<T, StoreError> {
        let once = || {
            self.run(|open| {
                let _turn = open.turn.read().unwrap_or_else(PoisonError::into_inner);
                open.refuse_half()?;
                work(&open.db)
            })
        };
        match once()? {
            (generation, Err(Failure::Io(error))) => {
                self.close(generation, &error);
                once()?.1.map_err(Failure::into_error)
            }
            // One damaged page closes nothing: the others are whole.
            (_, done) => done.map_err(Failure::into_error),
        }
    }

    /// Runs `work`, applies the batch that it made in one step, makes it durable and tells `changes`.
    /// Without a batch there is nothing to apply or tell, but what `work` saw is durable on return.
    pub(super) fn write<T>(
        &self,
        room: Room,
        changes: impl IntoIterator<Item = Change>,
        work: impl FnOnce(&Tree) -> Result<(Option<Batch>, T), Fault>,
    ) -> Result<T, StoreError> {
        self.write_as(room, changes, None, work)
    }

    /// As [`Engine::write`]; the store's generation is then `generation`, instead of the next.
    pub(super) fn write_as<T>(
        &self,
        room: Room,
        changes: impl IntoIterator<Item = Change>,
        generation: Option<u64>,
        work: impl FnOnce(&Tree) -> Result<(Option<Batch>, T), Fault>,
    ) -> Result<T, StoreError> {
        match room {
            Room::Needed => self.headroom()?,
            Room::Freed => self.pace.refuse_hung()?,
        }
        let (opening, done) = self.run(|open| open.commit(&self.pace, generation, work))?;
        let (told, done) = match done {
            Ok((applied, value)) => (applied, Ok(value)),
            Err(Failure::Answer(error)) => (false, Err(error)),
            // A read may have seen rows that are now rolled back, so whoever caches must forget them.
            Err(Failure::Broken(error) | Failure::Io(error)) => {
                self.close(opening, &error);
                (true, Err(error))
            }
        };
        for change in changes.into_iter().filter(|_| told) {
            let _ = self.feed.send(change);
        }
        done
    }

    /// Whether the disk has been at one write for too long.
    pub(super) fn hangs(&self) -> bool {
        self.pace.hangs()
    }

    /// Whether a write that needs space would find some.
    pub(super) fn has_room(&self) -> Result<bool, StoreError> {
        self.pace.refuse_hung()?;
        folder::has_room(&self.path).map_err(|e| StoreError::Unavailable(e.to_string()))
    }

    /// What its folder takes on the disk.
    pub(super) fn bytes(&self) -> Option<u64> {
        folder::bytes(&self.path).ok()
    }

    fn headroom(&self) -> Result<(), StoreError> {
        if !self.has_room()? {
            return Err(StoreError::Full);
        }
        folder::lay_ballast(&self.path);
        Ok(())
    }

    fn run<T>(
        &self,
        work: impl FnOnce(&Open) -> Result<T, Fault>,
    ) -> Result<(u64, Result<T, Failure>), StoreError> {
        self.reopen()?;
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &slot.open else {
            return Err(StoreError::Unavailable("it is being reopened".into()));
        };
        // sled panics on some damage. Its locks do not poison, and a write closes it after a panic.
        let done = catch_unwind(AssertUnwindSafe(|| work(open)));
        let done = done.map_err(|_| Failure::Broken(StoreError::Unavailable("sled panicked".into())));
        Ok((slot.generation, done.and_then(|done| done.map_err(Failure::from))))
    }

    // Waits until no call is in sled: only then is its lock on the folder free again.
    fn close(&self, generation: u64, why: &StoreError) {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if slot.generation == generation && slot.open.take().is_some() {
            tracing::error!(cause = %why, "the store failed and is reopened");
            slot.closed = None;
        }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        if self.slot.read().unwrap_or_else(PoisonError::into_inner).open.is_some() {
            return Ok(());
        }
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if slot.open.is_some() {
            return Ok(());
        }
        if let Some((at, why)) = &slot.closed
            && at.elapsed() < REOPEN_EVERY
        {
            return Err(why.clone());
        }
        match folder::open(&self.path) {
            Ok((db, data)) => {
                tracing::info!("the store is open again");
                *slot =
                    Slot { generation: slot.generation + 1, open: Some(Open::new(db, data)), closed: None };
                Ok(())
            }
            Err(error) => {
                let why = match error {
                    OpenError::Full { .. } => StoreError::Full,
                    other => StoreError::Unavailable(other.to_string()),
                };
                slot.closed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }
}

struct Slot {
    generation: u64,
    open: Option<Open>,
    /// When reopening last failed, and why.
    closed: Option<(Instant, StoreError)>,
}

/// One opening of sled.
struct Open {
    db: Db,
    data: File,
    /// Held alone while a batch is made and applied, shared by reads: sled's reads are not isolated.
    turn: RwLock<()>,
    /// A batch failed or panicked in the middle: this tree must not be read or written again.
    half: AtomicBool,
    /// How many batches were applied.
    applied: AtomicU64,
    synced: Mutex<Synced>,
}

struct Synced {
    /// How many of the applied batches are durable.
    batches: u64,
    /// A sync failed. The kernel reports a lost page once: a later success would say nothing of it.
    failed: bool,
}

impl Open {
    fn new(db: Db, data: File) -> Self {
        let synced = Mutex::new(Synced { batches: 0, failed: false });
        Self {
            db,
            data,
            turn: RwLock::new(()),
            half: AtomicBool::new(false),
            applied: AtomicU64::new(0),
            synced,
        }
    }

    fn commit<T>(
        &self,
        pace: &Pace,
        generation: Option<u64>,
        work: impl FnOnce(&Tree) -> Result<(Option<Batch>, T), Fault>,
    ) -> Result<(bool, T), Fault> {
        let turn = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        self.refuse_half()?;
        let (batch, value) = work(&self.db)?;
        let applied = batch.is_some();
        if let Some(mut batch) = batch {
            rows::count(&self.db, &mut batch, generation)?;
            self.half.store(true, Ordering::SeqCst);
            pace.applying.during(|| self.db.apply_batch(batch))?;
            self.half.store(false, Ordering::SeqCst);
            self.applied.fetch_add(1, Ordering::SeqCst);
        }
        let ticket = self.applied.load(Ordering::SeqCst);
        drop(turn);
        self.sync(pace, ticket)?;
        Ok((applied, value))
    }

    fn refuse_half(&self) -> Result<(), Fault> {
        if self.half.load(Ordering::SeqCst) {
            return Err(Fault::Sync(io::Error::other("an earlier write failed")));
        }
        Ok(())
    }

    // Group commit: whoever gets the lock syncs for all that were applied by then.
    fn sync(&self, pace: &Pace, ticket: u64) -> Result<(), Fault> {
        let lost = || Fault::Sync(io::Error::other("an earlier sync failed"));
        let mut synced = self.synced.lock().map_err(|_| lost())?;
        if synced.failed {
            return Err(lost());
        }
        if synced.batches >= ticket {
            return Ok(());
        }
        let applied = self.applied.load(Ordering::SeqCst);
        let flush = || self.db.flush().map_err(Fault::Engine).and_then(|_| Ok(self.data.sync_data()?));
        let done = pace.syncing.during(flush);
        match done {
            Ok(()) => synced.batches = applied,
            Err(_) => synced.failed = true,
        }
        done
    }
}
