//! A job's walk: page after page of customers, a few of them at once.
//!
//! The cursor moves on only when every customer of a page is done. What a later try can mend is tried until it
//! is; what it cannot is counted, logged and left as it was.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::at_hand::Outcome;
use super::super::{SealError, Sealer, Turn};
use super::{Job, Jobs, Work};
use crate::clock;
use crate::model::Customer;
use crate::store::StoreError;

/// Customers of a page: what a crash may cost once more.
const PAGE: usize = 64;
/// Customers worked on at once: their writes share a sync of the store.
const AT_ONCE: usize = 16;
/// KMS calls under way at once.
const CALLS: usize = 4;
/// How long it waits before it tries again what failed, doubled up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// How long a job waits after what failed.
struct Patience(Duration);

impl Patience {
    const fn fresh() -> Self {
        Self(PAUSES.0)
    }

    async fn pause(&mut self, jobs: &Jobs, job: &mut Job, why: &SealError) {
        let is_first = job.paused.is_none();
        job.paused = Some(why.to_string());
        jobs.set(Some(job.clone()));
        if is_first {
            tracing::warn!(job = job.work.operation(), %why, "a job is paused until this is mended");
            // For who asks another relay. A store that does not take it is told when it does.
            let _ = jobs.keep(job).await;
        }
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(PAUSES.1);
    }
}

impl Jobs {
    /// Does what is left of `job`, for as long as the turn is this relay's. Who has it then goes on behind the last
    /// page that was kept.
    pub(super) async fn work_off(&self, mut job: Job, turn: &Turn) {
        let mut patience = Patience::fresh();
        // A relay that stops in here leaves the job as it stands in the store.
        while let Err(why) = self.begin(&mut job).await {
            if turn.is_lost() {
                return;
            }
            patience.pause(self, &mut job, &why).await;
        }
        let calls = Arc::new(Semaphore::new(CALLS));
        loop {
            if turn.is_lost() {
                return;
            }
            match self.sealer.store.upkeep().customers(job.after.as_ref(), PAGE).await {
                Ok(page) if page.is_empty() => break,
                Ok(page) => {
                    let last = page.last().cloned();
                    if !self.page(&mut job, page, (&calls, turn)).await {
                        return;
                    }
                    job.after = last;
                    match self.keep(&job).await {
                        Ok(()) => {}
                        // Another relay works on it, or it is not known what the store has: it is read again.
                        Err(StoreError::Conflict) => return,
                        Err(error) => {
                            tracing::warn!(%error, "how far a job is could not be kept; a restart goes back to before");
                        }
                    }
                }
                Err(error) => patience.pause(self, &mut job, &error.into()).await,
            }
        }
        let mut patience = Patience::fresh();
        loop {
            match self.end(&mut job).await {
                Ok(()) | Err(SealError::Store(StoreError::Conflict)) => return,
                Err(_) if turn.is_lost() => return,
                Err(why) => patience.pause(self, &mut job, &why).await,
            }
        }
    }

    async fn begin(&self, job: &mut Job) -> Result<(), SealError> {
        if job.of.is_none() {
            job.of = Some(self.count().await?);
        }
        self.record(job, None, if job.after.is_some() { "goes on" } else { "begun" }).await?;
        if matches!(job.work, Work::Rewrap) && job.after.is_none() {
            self.sealer.rewrap_store_wide().await?;
        }
        job.paused = None;
        self.set(Some(job.clone()));
        Ok(())
    }

    async fn count(&self) -> Result<u64, SealError> {
        let (mut all, mut after) = (0, None);
        loop {
            let page = self.sealer.store.upkeep().customers(after.as_ref(), 1024).await?;
            all += page.len() as u64;
            after = page.last().cloned();
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    async fn end(&self, job: &mut Job) -> Result<(), SealError> {
        let note = format!("ended: moved {}, left {}, customers {}", job.moved, job.left, job.customers);
        self.record(job, None, &note).await?;
        let ended = Job { ended: Some(clock::unix_millis()), paused: None, ..job.clone() };
        self.keep(&ended).await?;
        tracing::info!(job = job.work.operation(), moved = job.moved, left = job.left, "a job has ended");
        self.set(Some(ended));
        Ok(())
    }

    /// Every customer of the page, until each is done; not if the turn is lost meanwhile.
    async fn page(
        &self,
        job: &mut Job,
        page: Vec<Customer>,
        (calls, turn): (&Arc<Semaphore>, &Turn),
    ) -> bool {
        let mut patience = Patience::fresh();
        let mut waiting = page;
        while !waiting.is_empty() {
            if turn.is_lost() {
                return false;
            }
            let mut again = Vec::new();
            let mut failed = None;
            let mut under_way = JoinSet::new();
            let mut next = waiting.into_iter();
            loop {
                // After a failure no more are begun: a KMS that is down is not asked by every customer's turn.
                while failed.is_none() && under_way.len() < AT_ONCE {
                    let Some(customer) = next.next() else { break };
                    match self.announce(job, &customer).await {
                        Ok(()) => {}
                        Err(why) if why.may_pass() => {
                            failed = Some(why);
                            again.push(customer);
                            break;
                        }
                        Err(why) => {
                            job.leave(&customer, &why);
                            continue;
                        }
                    }
                    let (sealer, job, calls) = (self.sealer.clone(), job.clone(), calls.clone());
                    under_way.spawn(async move {
                        let done = sealer.do_one(&job, &customer, &calls).await;
                        (customer, done)
                    });
                }
                let Some(ended) = under_way.join_next().await else { break };
                match ended {
                    Ok((_, Ok(outcome))) => {
                        job.customers += 1;
                        job.moved += outcome.moved;
                        job.left += outcome.left;
                        self.set(Some(job.clone()));
                    }
                    Ok((customer, Err(why))) if why.may_pass() => {
                        failed = Some(why);
                        again.push(customer);
                    }
                    Ok((customer, Err(why))) => job.leave(&customer, &why),
                    Err(why) => tracing::error!(%why, "a job's task broke off"),
                }
            }
            again.extend(next);
            waiting = again;
            match failed {
                Some(why) => patience.pause(self, job, &why).await,
                None => job.paused = None,
            }
        }
        if job.paused.take().is_some() {
            tracing::info!(job = job.work.operation(), "a job goes on");
        }
        true
    }

    /// Says in the audit, before it is done, what is done to a customer.
    async fn announce(&self, job: &Job, customer: &Customer) -> Result<(), SealError> {
        match &job.work {
            Work::Rewrap => Ok(()),
            Work::Data | Work::Age { .. } => {
                let active = self.sealer.store.active_data_key(customer).await?;
                match active.filter(|(active, _)| job.due().is(*active)) {
                    Some(_) => self.record(job, Some(customer), "new data key").await,
                    None => Ok(()),
                }
            }
            Work::Rebind { integration, was } => {
                match self.sealer.has_bound(customer, integration, was).await? {
                    true => self.record(job, Some(customer), "sealed anew").await,
                    false => Ok(()),
                }
            }
        }
    }
}

impl Job {
    fn leave(&mut self, customer: &Customer, why: &SealError) {
        tracing::error!(customer = customer.as_str(), %why, "a job leaves a customer as it is");
        self.customers += 1;
        self.left += 1;
    }
}

impl Sealer {
    async fn do_one(&self, job: &Job, customer: &Customer, calls: &Semaphore) -> Result<Outcome, SealError> {
        match &job.work {
            Work::Rewrap => self.rewrap(customer, calls).await,
            Work::Data | Work::Age { .. } => self.renew(customer, job.due(), calls).await,
            Work::Rebind { integration, was } => self.rebind(customer, integration, was, calls).await,
        }
    }
}
