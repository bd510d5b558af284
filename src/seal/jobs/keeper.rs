//! What goes on by itself: a job that was begun, old versions that are due, data keys that are.
//!
//! One task on the control runtime. It may be dropped at any await: what it was at stands in the store.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::super::SealError;
use super::super::renew::Due;
use super::{Job, Jobs, Work};
use crate::audit::{Event, Kind};
use crate::clock;
use crate::model::{Customer, RequestId};

/// Customers looked at in one go, and how long requests have the store to themselves between two.
const PAGE: usize = 64;
const BREATH: Duration = Duration::from_millis(5);
/// After a start, what is due waits this long at most.
const FIRST: Duration = Duration::from_secs(60);

impl Jobs {
    /// Works until it is dropped.
    pub async fn run(&self) {
        let mut due = Instant::now() + FIRST.min(self.habits.every);
        loop {
            if let Some(job) = self.newest().filter(Job::is_under_way) {
                self.work_off(job).await;
                continue;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep_until(due) => {
                    if let Err(error) = self.tidy().await {
                        tracing::warn!(%error, "old versions and old data keys could not all be looked at; they are again later");
                    }
                    due = Instant::now() + self.habits.every;
                }
            }
        }
    }

    /// Erases versions that were kept long enough, and begins a job if a data key is old enough.
    async fn tidy(&self) -> Result<(), SealError> {
        let before = clock::unix_seconds().saturating_sub(self.habits.retain.as_secs());
        let work = self.habits.data_key_max_age.map(|age| Work::Age { max_age: age.as_secs() });
        let due = work.as_ref().map(|work| Job::new(RequestId::fresh(), work.clone()).due());
        let (mut erased, mut old, mut after) = (0, false, None);
        loop {
            let page = self.sealer.store.upkeep().customers(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            for customer in &page {
                erased += self.sealer.store.upkeep().erase_past(customer, before).await?;
                old = old || self.is_due(customer, due).await?;
            }
            sleep(BREATH).await;
        }
        if erased > 0 {
            let note = format!("erased {erased} versions that were kept long enough");
            let mut event = Event::of(Kind::System);
            event.method = Some("secret.erase");
            event.note = Some(&note);
            self.chain.record(&event).await?;
        }
        if let Some(work) = work.filter(|_| old) {
            self.start(RequestId::fresh(), work, false).await?;
        }
        Ok(())
    }

    async fn is_due(&self, customer: &Customer, due: Option<Due>) -> Result<bool, SealError> {
        let Some(due) = due else { return Ok(false) };
        let active = self.sealer.store.active_data_key(customer).await?;
        Ok(active.is_some_and(|(active, _)| due.is(active)))
    }
}
