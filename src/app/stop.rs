//! How a relay stops: no new requests, those under way may end, the audit has the last word.
//!
//! What must never enter: anything that is needed to start.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::generation::Generation;
use super::{Running, note};
use crate::listen::Phase;
use crate::seal::jobs::Jobs;
use crate::stage::authorize::records::Records;

/// How long open WebSockets have for their goodbyes once the grace is over.
const GOODBYES: Duration = Duration::from_millis(250);
/// How often the store is told which secrets were used.
const USES_TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long renewals under way have to keep what the vendor gave.
const RENEWALS: Duration = Duration::from_secs(2);
/// How long workers may take to end once the grace is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What runs beside the requests and stops before the audit does. Where it is stands in the store.
pub(super) struct Background {
    jobs: Task,
    generation: Task,
    uses: Task,
}

type Task = tokio::task::JoinHandle<()>;

impl Background {
    /// Begins all of it.
    pub(super) fn begin(
        jobs: Arc<Jobs>,
        generation: &Generation,
        records: &Records,
        control: &Handle,
    ) -> Self {
        Self {
            jobs: control.spawn(async move { jobs.run().await }),
            generation: control.spawn(generation.clone().follow()),
            uses: control.spawn(tell_uses(records.clone())),
        }
    }
}

impl Running {
    /// Takes no new requests, lets those under way end for at most the configured grace, writes the
    /// audit's last anchor.
    pub async fn stop(self) {
        let until = Instant::now() + self.grace;
        self.draining.enter(Phase::Refusing);
        while self.metrics.in_flight().get() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.draining.enter(Phase::Closing);
        // What has no end of its own is still open: a WebSocket is told that relay goes away.
        let until = until.max(Instant::now() + GOODBYES);
        while !self.workers.iter().all(JoinHandle::is_finished) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.draining.enter(Phase::Over);
        let last = Instant::now() + LAST_WORDS;
        while !self.workers.iter().all(JoinHandle::is_finished) && Instant::now() < last {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.lifecycle.settled(RENEWALS).await;
        // Nobody listens any more if the admin listener has failed.
        let _ = self.admin_stop.send(true);
        let Background { jobs, generation, uses } = self.background;
        for task in [jobs, generation, uses] {
            task.abort();
            let _ = task.await;
        }
        let _ = self.records.tell_uses().await;
        self.generation.read().await;
        let (workers, log) = (self.workers, self.log);
        let _ = note(&self.chain, "stop").await;
        let closing = tokio::task::spawn_blocking(move || {
            for worker in workers.into_iter().filter(JoinHandle::is_finished) {
                let _ = worker.join();
            }
            log.close()
        });
        match closing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the audit could not be closed"),
            Err(error) => tracing::error!(%error, "the audit could not be closed"),
        }
    }
}

/// Each minute; what the store does not take is lost, since nobody waits for it.
async fn tell_uses(records: Records) {
    loop {
        tokio::time::sleep(USES_TOLD_EVERY).await;
        if let Err(error) = records.tell_uses().await {
            tracing::debug!(%error, "when secrets were last used could not be noted");
        }
    }
}
