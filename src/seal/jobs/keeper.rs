//! What goes on by itself: a job that was begun, old versions that are due, data keys that are.
//!
//! One task on the control runtime. It may be dropped at any await: what it was at stands in the store, and another
//! relay goes on with it, if there is one.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::super::renew::Due;
use super::super::{SealError, Turn};
use super::{Job, Jobs, LEFT, TIDIED, TURN, Work};
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
            match self.work().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, "it is not known whether there is a job; it is looked again")
                }
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep_until(due.min(Instant::now() + self.habits.looked)) => {}
            }
            if Instant::now() >= due {
                if let Err(error) = self.tidy_in_turn().await {
                    tracing::warn!(%error, "old versions and old data keys could not all be looked at; they are again later");
                }
                due = Instant::now() + self.habits.every;
            }
        }
    }

    /// Works on the job that is under way, unless another relay does; whether there was anything to do.
    async fn work(&self) -> Result<bool, SealError> {
        if !self.read().await?.is_some_and(|job| job.is_under_way() && self.may(&job)) {
            return Ok(false);
        }
        let Some(turn) = self.turn().await? else { return Ok(false) };
        // Read behind the turn: as far as whoever had it before came.
        let job = self.read().await?.filter(Job::is_under_way);
        let is_under_way = job.is_some();
        if let Some(job) = job {
            self.work_off(job, &turn).await;
            self.set(None);
        }
        turn.end().await;
        Ok(is_under_way)
    }

    /// Whether this relay is configured as the one that was asked, or that one has had its time.
    fn may(&self, job: &Job) -> bool {
        let same_key = job.by.as_ref().is_none_or(|by| *by == self.sealer.keys.wraps_now());
        let same_place = match &job.work {
            Work::Rebind { integration, was } => self.sealer.may_rebind(integration, was).is_ok(),
            Work::Rewrap | Work::Data | Work::Age { .. } => true,
        };
        (same_key && same_place) || clock::unix_millis().saturating_sub(job.started) > LEFT
    }

    async fn turn(&self) -> Result<Option<Turn>, SealError> {
        let (name, lasts) = TURN;
        Ok(self.sealer.turn(name.to_owned(), lasts).await?)
    }

    /// Once in its time for all relays of the store.
    async fn tidy_in_turn(&self) -> Result<(), SealError> {
        let Some(turn) = self.turn().await? else { return Ok(()) };
        let store = &self.sealer.store;
        let now = clock::unix_millis();
        let tidied = store.meta(TIDIED).await?;
        let tidied = tidied.and_then(|at| std::str::from_utf8(&at).ok()?.parse::<u64>().ok());
        let every = u64::try_from(self.habits.every.as_millis()).unwrap_or(u64::MAX);
        // A moment that is yet to come was noted by a clock that went wrong.
        let done = match tidied.and_then(|at| now.checked_sub(at)) {
            Some(since) if since < every => Ok(()),
            _ => match self.tidy().await {
                Ok(()) => Ok(store.put_meta(TIDIED, now.to_string().into()).await?),
                failed => failed,
            },
        };
        turn.end().await;
        done
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
