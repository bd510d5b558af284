//! Several sinks at once: a record counts as written when one of them has taken it.
//!
//! Each has a thread and a bounded queue of its own, so that one that fails or hangs holds up no other. While
//! the file keeps up it is waited for first: what verifies should be the most whole. What a sink lost is counted,
//! told, and marked in it by a gap. A file alone never comes here.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::file::{Eraser, FileSink, Inherited, Member, Sink, Syncer};
use super::lane::{Chunk, Job, Lane, Outlet, Progress};
use super::{Durability, stdout};

/// How long the file, while it keeps up, is waited for before another sink's word is enough.
const FILE_FIRST: Duration = Duration::from_millis(100);
/// How often those who wait look whether every sink has failed.
const LOOK: Duration = Duration::from_millis(20);
/// How long sinks that are behind have at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long an anchor waits for the file to have it before it is not kept elsewhere.
const FILE_BEHIND: Duration = Duration::from_secs(1);

/// The sinks of one log.
pub struct FanOut {
    file: Option<(Arc<Mutex<FileSink>>, Arc<Lane>)>,
    watch: Arc<FileWatch>,
    lanes: Vec<Arc<Lane>>,
    progress: Arc<Progress>,
    /// What the writer was not told is written yet, and how many bytes it will give again.
    unacknowledged: Vec<Arc<Chunk>>,
    refused: usize,
    members: Vec<Arc<dyn Member>>,
}

/// What the file's thread has seen of its file.
#[derive(Default)]
struct FileWatch {
    full: AtomicBool,
    moved: AtomicBool,
}

impl FanOut {
    /// The file, if there is one, and `others` by name. `replica` names gaps.
    ///
    /// # Errors
    /// If a thread cannot be had.
    pub fn new(
        file: Option<(FileSink, Durability)>,
        others: Vec<(&'static str, Box<dyn Outlet>)>,
    ) -> io::Result<Self> {
        let progress = Arc::new(Progress::default());
        let watch = Arc::new(FileWatch::default());
        let mut outlets: Vec<(&'static str, Box<dyn Outlet>)> = Vec::new();
        let file = file.map(|(sink, durability)| {
            let sink = Arc::new(Mutex::new(sink));
            let outlet =
                FileOutlet { sink: Arc::clone(&sink), durability, watch: Arc::clone(&watch), looked: None };
            outlets.push(("file", Box::new(outlet)));
            sink
        });
        outlets.extend(others);
        let mut lanes = Vec::new();
        for (name, outlet) in outlets {
            let lane = Arc::new(Lane::new(name, Arc::clone(&progress)));
            let own = Arc::clone(&lane);
            thread::Builder::new().name(format!("audit-{name}")).spawn(move || own.run(outlet))?;
            lanes.push(lane);
        }
        let members = lanes.iter().map(|lane| Arc::clone(lane) as Arc<dyn Member>).collect();
        let file = file.zip(lanes.first().cloned());
        Ok(Self { file, watch, lanes, progress, unacknowledged: Vec::new(), refused: 0, members })
    }

    /// Standard output, for collectors of logs.
    pub fn stdout() -> (&'static str, Box<dyn Outlet>) {
        ("stdout", Box::new(stdout::Stdout::default()))
    }

    fn is_taken(&self) -> bool {
        self.unacknowledged.iter().all(|chunk| chunk.is_taken())
    }

    /// Waits until each chunk is taken by some sink, and first by the file if it keeps up.
    fn wait(&mut self, file_first: bool) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let seen = self.progress.seen();
            let file = file_first.then_some(self.file.as_ref()).flatten();
            let waits_for_file = file.is_some_and(|(_, lane)| {
                lane.is_behind() && lane.failure().is_none() && began.elapsed() < FILE_FIRST
            });
            if self.is_taken() && !waits_for_file {
                self.unacknowledged.clear();
                self.refused = 0;
                return Ok(());
            }
            let mut failures: Vec<String> = self
                .lanes
                .iter()
                .filter_map(|lane| Some(format!("{}: {}", lane.name(), lane.failure()?)))
                .collect();
            if failures.len() == self.lanes.len() && !self.is_taken() {
                failures.dedup();
                return Err(io::Error::other(failures.join("; ")));
            }
            self.progress.wait(seen, LOOK);
        }
    }
}

impl Sink for FanOut {
    fn append(&mut self, bytes: &[u8], _: Durability) -> io::Result<()> {
        // What was refused before comes again, with what was recorded since: it is under way already.
        let fresh = bytes.get(self.refused..).unwrap_or_default();
        let keeps_up = self.file.as_ref().is_some_and(|(_, lane)| !lane.is_behind());
        if !fresh.is_empty() {
            let chunk = Arc::new(Chunk::new(fresh.to_vec()));
            let mut queued = false;
            for lane in &self.lanes {
                queued |= lane.push(&chunk);
            }
            if !queued {
                return Err(io::Error::other("every sink is too far behind"));
            }
            self.refused = bytes.len();
            self.unacknowledged.push(chunk);
        }
        self.wait(keeps_up)
    }

    fn inherited(&mut self) -> io::Result<Inherited> {
        match &self.file {
            Some((file, _)) => lock(file).inherited(),
            None => Ok(Inherited::default()),
        }
    }

    fn syncer(&self) -> io::Result<Syncer> {
        let Some((file, lane)) = &self.file else { return Ok(Box::new(|| Ok(()))) };
        let (mut sync, lane, progress) = (lock(file).syncer()?, Arc::clone(lane), Arc::clone(&self.progress));
        Ok(Box::new(move || {
            let began = Instant::now();
            while lane.is_behind() {
                if began.elapsed() > FILE_BEHIND {
                    return Err(io::Error::other("the file is behind"));
                }
                progress.wait(progress.seen(), LOOK);
            }
            sync()
        }))
    }

    fn look(&mut self) -> io::Result<bool> {
        Ok(self.watch.moved.swap(false, Ordering::Relaxed))
    }

    fn turn_due(&self) -> bool {
        // Not while the file is behind: its thread would end the segment later than the anchor says.
        self.watch.full.load(Ordering::Relaxed)
            && self.file.as_ref().is_some_and(|(_, lane)| !lane.is_behind())
    }

    fn turn(&mut self, through: u64) -> io::Result<()> {
        self.watch.full.store(false, Ordering::Relaxed);
        if let Some((_, lane)) = &self.file {
            lane.order(Job::Turn(through));
        }
        Ok(())
    }

    fn expired(&self) -> io::Result<Option<u64>> {
        let Some((file, _)) = &self.file else { return Ok(None) };
        // A file that hangs holds its lock; it is asked again later.
        match file.try_lock() {
            Ok(file) => file.expired(),
            Err(TryLockError::Poisoned(file)) => file.into_inner().expired(),
            Err(TryLockError::WouldBlock) => Ok(None),
        }
    }

    fn eraser(&self) -> Eraser {
        self.file.as_ref().map_or_else(|| -> Eraser { Box::new(|_| {}) }, |(file, _)| lock(file).eraser())
    }

    fn path(&self) -> Option<PathBuf> {
        self.file.as_ref().and_then(|(file, _)| lock(file).path())
    }

    fn members(&self) -> Vec<Arc<dyn Member>> {
        self.members.clone()
    }
}

impl Drop for FanOut {
    fn drop(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        while self.lanes.iter().any(|lane| lane.is_behind()) && Instant::now() < until {
            self.progress.wait(self.progress.seen(), LOOK);
        }
        for lane in &self.lanes {
            lane.close();
        }
        // Threads that hang are left behind rather than waited for.
        while self.lanes.iter().any(|lane| !lane.is_over()) && Instant::now() < until {
            self.progress.wait(self.progress.seen(), LOOK);
        }
    }
}

fn lock(file: &Mutex<FileSink>) -> MutexGuard<'_, FileSink> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file, in its own thread.
struct FileOutlet {
    sink: Arc<Mutex<FileSink>>,
    durability: Durability,
    watch: Arc<FileWatch>,
    looked: Option<Instant>,
}

impl Outlet for FileOutlet {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sink = lock(&self.sink);
        if self.looked.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.looked = Some(Instant::now());
            if sink.look()? {
                self.watch.moved.store(true, Ordering::Relaxed);
            }
        }
        sink.append(bytes, self.durability)?;
        self.watch.full.store(sink.turn_due(), Ordering::Relaxed);
        Ok(())
    }

    fn turn(&mut self, through: u64) {
        if let Err(error) = lock(&self.sink).turn(through) {
            tracing::warn!(%error, "a new segment of the audit cannot be begun; it goes on in the old");
        }
    }
}
