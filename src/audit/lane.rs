//! One of several sinks: its queue, its thread, and what it lost.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::desk::HUNG_AFTER;
use super::file::Member;
use crate::clock;

/// Bytes that wait for one sink; what comes on top of them is lost to it.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Where one lane leads.
pub trait Outlet: Send {
    /// Takes all of `bytes`, which are whole lines, or will be given them again.
    ///
    /// # Errors
    /// If they are not taken.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Ends a segment, if it has any, behind the anchor of this number.
    fn turn(&mut self, _through: u64) {}
}

/// Lines that go to every sink.
pub(super) struct Chunk {
    bytes: Vec<u8>,
    taken: AtomicBool,
}

impl Chunk {
    pub(super) const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, taken: AtomicBool::new(false) }
    }

    /// Whether a sink has them.
    pub(super) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    fn lines(&self) -> u64 {
        memchr::memchr_iter(b'\n', &self.bytes).count() as u64
    }
}

/// What a lane does next.
pub(super) enum Job {
    Lines(Arc<Chunk>),
    /// Says in the sink that so many lines are missing here.
    Gap(u64),
    Turn(u64),
}

/// What waits in a lane, oldest first.
type Jobs = VecDeque<Job>;

/// Told whenever a lane got on, or failed.
#[derive(Default)]
pub(super) struct Progress {
    steps: Mutex<u64>,
    made: Condvar,
}

impl Progress {
    pub(super) fn seen(&self) -> u64 {
        *self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until there was more than was seen, or for so long.
    pub(super) fn wait(&self, seen: u64, most: Duration) {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.made.wait_timeout_while(steps, most, |steps| *steps == seen));
    }

    fn made(&self) {
        *self.steps.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.made.notify_all();
    }
}

/// One sink's queue.
pub(super) struct Lane {
    name: &'static str,
    progress: Arc<Progress>,
    queue: Mutex<Queue>,
    filled: Condvar,
    lost: AtomicU64,
    /// When the write under way began, in milliseconds since `opened` plus one; 0 between writes.
    writing_since: AtomicU64,
    opened: Instant,
}

#[derive(Default)]
struct Queue {
    jobs: Jobs,
    bytes: usize,
    /// Lines lost behind the last that waits.
    gap: u64,
    failure: Option<String>,
    closed: bool,
    over: bool,
}

impl Lane {
    pub(super) fn new(name: &'static str, progress: Arc<Progress>) -> Self {
        Self {
            name,
            progress,
            queue: Mutex::default(),
            filled: Condvar::new(),
            lost: AtomicU64::new(0),
            writing_since: AtomicU64::new(0),
            opened: Instant::now(),
        }
    }

    /// Whether the chunk waits here now; if not, it is lost to this sink.
    pub(super) fn push(&self, chunk: &Arc<Chunk>) -> bool {
        let mut queue = self.queue();
        if queue.bytes + chunk.bytes.len() > QUEUE_BYTES {
            if queue.gap == 0 {
                tracing::error!(sink = self.name, "a sink of the audit is too far behind: it loses records");
            }
            let lines = chunk.lines();
            queue.gap += lines;
            self.lost.fetch_add(lines, Ordering::Relaxed);
            return false;
        }
        if queue.gap > 0 {
            let gap = mem::take(&mut queue.gap);
            queue.jobs.push_back(Job::Gap(gap));
        }
        queue.bytes += chunk.bytes.len();
        queue.jobs.push_back(Job::Lines(Arc::clone(chunk)));
        drop(queue);
        self.filled.notify_one();
        true
    }

    /// Something to do behind what waits.
    pub(super) fn order(&self, job: Job) {
        self.queue().jobs.push_back(job);
        self.filled.notify_one();
    }

    /// Whether it has not done all that it was given.
    pub(super) fn is_behind(&self) -> bool {
        !self.queue().jobs.is_empty()
    }

    /// Why the last try failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.queue().failure.clone()
    }

    pub(super) fn close(&self) {
        self.queue().closed = true;
        self.filled.notify_one();
    }

    pub(super) fn is_over(&self) -> bool {
        self.queue().over
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane's thread.
    pub(super) fn run(&self, mut outlet: Box<dyn Outlet>) {
        while let Some(job) = self.next() {
            let bytes = match job {
                Job::Turn(through) => {
                    outlet.turn(through);
                    self.done(0);
                    continue;
                }
                Job::Gap(lost) => Arc::new(Chunk::new(gap(lost))),
                Job::Lines(chunk) => chunk,
            };
            self.writing_since.store(self.now(), Ordering::Relaxed);
            let result = outlet.append(&bytes.bytes);
            self.writing_since.store(0, Ordering::Relaxed);
            match result {
                Ok(()) => {
                    bytes.taken.store(true, Ordering::Release);
                    self.done(bytes.bytes.len());
                }
                Err(error) => self.failed(&error),
            }
        }
        self.queue().over = true;
        self.progress.made();
    }

    /// What to do next; it stays in the queue until it is done. `None` when the log has closed.
    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            match queue.jobs.front() {
                Some(Job::Lines(chunk)) => return Some(Job::Lines(Arc::clone(chunk))),
                Some(Job::Gap(lost)) => return Some(Job::Gap(*lost)),
                Some(Job::Turn(through)) => return Some(Job::Turn(*through)),
                None => queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn done(&self, bytes: usize) {
        let mut queue = self.queue();
        if let Some(Job::Lines(_)) = queue.jobs.pop_front() {
            queue.bytes = queue.bytes.saturating_sub(bytes);
        }
        if queue.failure.take().is_some() {
            tracing::info!(sink = self.name, "a sink of the audit takes records again");
        }
        drop(queue);
        self.progress.made();
    }

    fn failed(&self, error: &io::Error) {
        let mut queue = self.queue();
        if queue.failure.replace(error.to_string()).is_none() {
            tracing::error!(sink = self.name, %error, "a sink of the audit takes no records");
        }
        drop(queue);
        self.progress.made();
        let queue = self.queue();
        drop(self.filled.wait_timeout_while(queue, RETRY_EVERY, |queue| !queue.closed));
    }

    fn now(&self) -> u64 {
        millis(self.opened.elapsed()) + 1
    }
}

impl Member for Lane {
    fn name(&self) -> &'static str {
        self.name
    }

    fn fault(&self) -> Option<String> {
        if let Some(failure) = self.failure() {
            return Some(failure);
        }
        let since = self.writing_since.load(Ordering::Relaxed);
        let hangs = since != 0 && self.now().saturating_sub(since) > millis(HUNG_AFTER);
        hangs.then(|| format!("it has not answered for {} ms", HUNG_AFTER.as_millis()))
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The line that stands where lines are missing. No chain has it, since only this sink does.
fn gap(lost: u64) -> Vec<u8> {
    let time = clock::rfc3339(clock::unix_seconds());
    format!("{{\"v\":1,\"kind\":\"gap\",\"time\":\"{time}\",\"lost\":{lost}}}\n").into_bytes()
}
