//! How a relay stops: no new requests, those under way may end, the audit has the last word.
//!
//! What must never enter: anything that is needed to start.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::generation::Generation;
use super::reload::Stopping;
use super::{Running, note};
use crate::audit::{Chain, Log};
use crate::listen::Phase;
use crate::net::spans::Carrier;
use crate::seal::jobs::Jobs;
use crate::stage::authorize::records::Records;

/// How long open WebSockets have for their goodbyes once the grace is over.
const GOODBYES: Duration = Duration::from_millis(250);
/// How often the store is told which secrets were used.
const USES_TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long renewals under way have to keep what the vendor gave.
const RENEWALS: Duration = Duration::from_secs(2);
/// How long each of those may take that are asked once more when the grace is over.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// How long the audit has for its end when relay is told a second time.
const CUT: Duration = Duration::from_secs(1);

/// What runs beside the requests and stops before the audit does. Where it is stands in the store.
pub(super) struct Background {
    jobs: Task,
    generation: Task,
    uses: Task,
    traces: Option<Carrier>,
}

type Task = tokio::task::JoinHandle<()>;

impl Background {
    /// Begins all of it.
    pub(super) fn begin(
        jobs: Arc<Jobs>,
        generation: &Generation,
        records: &Records,
        traces: Option<Carrier>,
        control: &Handle,
    ) -> Self {
        Self {
            jobs: control.spawn(async move { jobs.run().await }),
            generation: control.spawn(generation.clone().follow()),
            uses: control.spawn(tell_uses(records.clone())),
            traces,
        }
    }
}

/// What is still said when relay is told to end at once.
pub struct LastWord {
    log: Arc<Log>,
    chain: Chain,
}

impl LastWord {
    /// Says that what was under way is cut, and writes the audit's last anchor, so that the end is not taken for a
    /// crash. A sink that does not answer is not waited for.
    pub async fn say(self) {
        let Self { log, chain } = self;
        let said = async {
            let _ = note(&chain, "stop: told twice, what was under way is cut").await;
            tokio::task::spawn_blocking(move || log.close()).await
        };
        match tokio::time::timeout(CUT, said).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!(%error, "the audit could not be closed"),
            Ok(Err(_)) | Err(_) => tracing::error!("the audit could not be closed in time"),
        }
    }
}

impl Running {
    /// What to say if this relay has to end at once.
    pub fn last_word(&self) -> LastWord {
        LastWord { log: self.log.clone(), chain: self.chain.clone() }
    }

    /// Says that it is not ready, closes the doors once the configured delay is over, serves what comes on open
    /// connections as their last request, lets all of it end for at most the configured grace, and writes the
    /// audit's last anchor.
    pub async fn stop(self) {
        let Stopping { delay, grace } = self.reloader.stopping();
        self.draining.enter(Phase::Leaving);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let until = Instant::now() + grace;
        self.draining.enter(Phase::Parting);
        self.ended(until).await;
        self.draining.enter(Phase::Closing);
        // What has no end of its own is still open: a WebSocket is told that relay goes away.
        self.ended(Instant::now() + GOODBYES).await;
        self.draining.enter(Phase::Over);
        let last = Instant::now() + LAST_WORDS;
        self.ended(last).await;
        let lifecycle = self.reloader.operators.borrow().lifecycle.clone();
        let left = until.max(last).saturating_duration_since(Instant::now());
        lifecycle.settled(RENEWALS.min(left.max(GOODBYES))).await;
        // Nobody listens any more if the admin listener has failed.
        let _ = self.admin_stop.send(true);
        let Background { jobs, generation, uses, traces } = self.background;
        for task in [jobs, generation, uses] {
            task.abort();
            let _ = task.await;
        }
        if let Some(traces) = traces {
            traces.stop().await;
        }
        let told = async {
            let _ = self.records.tell_uses().await;
            self.generation.read().await;
        };
        // A store that does not answer keeps nobody.
        let _ = tokio::time::timeout(LAST_WORDS, told).await;
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

    /// Waits for the workers' end.
    async fn ended(&self, until: Instant) {
        while !self.workers.iter().all(JoinHandle::is_finished) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
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
