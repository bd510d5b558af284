//! Which grants are in use on this worker, so that a revocation ends what they opened.
//!
//! A [`Lease`] stands from the grant to the exchange's last byte: a row in a table of the worker's own, which
//! costs a request some nanoseconds. A change of a secret that is in use here is judged by one lookup: gone or
//! disabled ends every exchange that uses it; another version or a new label does not. While changes may be missed,
//! all that are in use are judged time and again. What must never enter: a store's failure taken for a revocation;
//! what cannot be judged stays open and is judged again, for as long as a record at hand would serve.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::records::{Key, Records};
use crate::model::{Customer, SecretId, State};
use crate::refusal::{Code, Refusal};
use crate::stage::authenticate::Identity;
use crate::store::Feed;

/// Between two tries to judge a secret that the store did not give.
const JUDGED_AGAIN: Duration = Duration::from_millis(250);
/// Secrets that a worker looks up at once while it judges all in use.
const AT_ONCE: usize = 32;

/// Why a grant no longer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Revoked {
    /// An operator disabled the secret.
    #[error("the secret was disabled")]
    Disabled,
    /// The secret is gone.
    #[error("the secret was removed")]
    Removed,
    /// The store has not said for too long that the secret is still to be used.
    #[error("the store did not answer for too long")]
    Unproven,
}

impl From<Revoked> for Refusal {
    fn from(revoked: Revoked) -> Self {
        match revoked {
            Revoked::Disabled => {
                Self::new(Code::SecretDisabled, "The secret was disabled while the request was under way.")
            }
            Revoked::Removed => {
                Self::new(Code::SecretNotFound, "The secret was removed while the request was under way.")
            }
            Revoked::Unproven => Self::new(
                Code::StoreUnavailable,
                "The store did not answer for too long to know that the secret may still be used.",
            ),
        }
    }
}

/// All leases of one worker.
pub struct Leases(Rc<Table>);

struct Table {
    records: Records,
    rows: RefCell<Rows>,
    /// Secrets that changed while they were looked up.
    doubts: mpsc::UnboundedSender<Key>,
    /// Secrets that are being judged, and how they are to be judged once more.
    judged: RefCell<HashMap<Key, Option<Sight>>>,
    turns: Semaphore,
}

/// By what a secret is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sight {
    /// By what the store said a moment ago. What it does not say now is asked again with the next round.
    Recent,
    /// By what the store says now: it has changed.
    Now,
}

#[derive(Default)]
struct Rows {
    all: Vec<Row>,
    free: Vec<usize>,
}

struct Row {
    /// Counts the leases that stood here: a [`Watcher`] may outlive its own.
    turn: u64,
    secret: SecretId,
    /// Whose lease it is; `None` in a free row.
    identity: Option<Rc<Identity>>,
    task: Option<Waker>,
    revoked: Option<Revoked>,
}

impl Leases {
    /// An empty table that follows the changes of `records`. It is used inside a `LocalSet`.
    pub fn new(records: Records) -> Self {
        let changes = records.changes();
        let (doubts, doubted) = mpsc::unbounded_channel();
        let (judged, turns) = (RefCell::default(), Semaphore::new(AT_ONCE));
        let table = Rc::new(Table { records, rows: RefCell::default(), doubts, judged, turns });
        tokio::task::spawn_local(follow(Rc::downgrade(&table), changes, doubted));
        Self(table)
    }

    /// How often any secret has changed: to be asked before the lookup that a lease is for.
    pub(super) fn generation(&self) -> u64 {
        self.0.records.generation()
    }

    /// A lease of the secret that was looked up at this `generation`.
    pub(super) fn lease(&self, identity: &Rc<Identity>, secret: SecretId, generation: u64) -> Lease {
        let mut rows = self.0.rows.borrow_mut();
        let place = rows.free.pop().unwrap_or(rows.all.len());
        let identity = identity.clone();
        // The change may have been told before this row stood.
        if self.0.records.generation() != generation {
            let _ = self.0.doubts.send((identity.customer.clone(), secret));
        }
        match rows.all.get_mut(place) {
            Some(row) => {
                row.turn += 1;
                (row.secret, row.identity) = (secret, Some(identity));
            }
            None => {
                rows.all.push(Row { turn: 0, secret, identity: Some(identity), task: None, revoked: None });
            }
        }
        Lease { table: self.0.clone(), place }
    }
}

/// One exchange's use of a secret; it ends with its drop, or before by revocation.
pub struct Lease {
    table: Rc<Table>,
    place: usize,
}

impl Lease {
    /// Ready once the secret is revoked; until then the task is woken by that.
    pub fn poll_revoked(&self, cx: &Context<'_>) -> Poll<Revoked> {
        let mut rows = self.table.rows.borrow_mut();
        rows.all.get_mut(self.place).map_or(Poll::Pending, |row| row.poll_revoked(cx))
    }

    /// Whether and why it no longer stands.
    pub fn revoked(&self) -> Option<Revoked> {
        self.table.rows.borrow().all.get(self.place).and_then(|row| row.revoked)
    }

    /// A view on it that may outlive it.
    pub fn watcher(&self) -> Watcher {
        let turn = self.table.rows.borrow().all.get(self.place).map_or(0, |row| row.turn);
        Watcher { table: self.table.clone(), place: self.place, turn }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut rows = self.table.rows.borrow_mut();
        if let Some(row) = rows.all.get_mut(self.place) {
            (row.identity, row.task, row.revoked) = (None, None, None);
        }
        rows.free.push(self.place);
    }
}

/// Sees whether an exchange's lease was revoked.
pub struct Watcher {
    table: Rc<Table>,
    place: usize,
    turn: u64,
}

impl Watcher {
    /// Whether it was, and the exchange has not ended yet.
    pub fn is_revoked(&self) -> bool {
        let rows = self.table.rows.borrow();
        rows.all.get(self.place).is_some_and(|row| row.turn == self.turn && row.revoked.is_some())
    }

    /// Ready once it was, and the exchange has not ended yet; until then the task is woken by that. It is to be
    /// the task that the exchange itself runs in: a lease wakes one.
    pub fn poll_revoked(&self, cx: &Context<'_>) -> Poll<()> {
        let mut rows = self.table.rows.borrow_mut();
        let row = rows.all.get_mut(self.place).filter(|row| row.turn == self.turn && row.identity.is_some());
        row.map_or(Poll::Pending, |row| row.poll_revoked(cx).map(drop))
    }
}

impl Row {
    fn poll_revoked(&mut self, cx: &Context<'_>) -> Poll<Revoked> {
        if let Some(revoked) = self.revoked {
            return Poll::Ready(revoked);
        }
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn is_of(&self, (customer, secret): &Key) -> bool {
        self.secret == *secret && self.identity.as_ref().is_some_and(|who| who.customer == *customer)
    }
}

impl Rows {
    /// Whether this customer's secret is in use.
    fn uses(&self, key: &Key) -> bool {
        self.all.iter().any(|row| row.is_of(key))
    }

    /// Ends the exchanges of rows in use that are meant.
    fn revoke(&mut self, why: Revoked, meant: impl Fn(&Row) -> bool) {
        for row in self.all.iter_mut().filter(|row| row.identity.is_some() && meant(row)) {
            row.revoked = Some(why);
            if let Some(task) = row.task.take() {
                task.wake();
            }
        }
    }

    fn keys(&self) -> Vec<(Customer, SecretId)> {
        let used =
            self.all.iter().filter_map(|row| Some((row.identity.as_ref()?.customer.clone(), row.secret)));
        let mut keys: Vec<_> = used.collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// Has every changed secret judged that is in use here, for as long as the worker lives; all of them each half of
/// the bound, while changes may be missed.
async fn follow(
    table: Weak<Table>,
    mut changes: broadcast::Receiver<Option<Key>>,
    mut doubted: mpsc::UnboundedReceiver<Key>,
) {
    let Some(every) = table.upgrade().map(|table| table.records.bounds().deaf / 2) else { return };
    let mut rounds = interval(every.max(Duration::from_millis(1)));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let changed = tokio::select! {
            changed = changes.recv() => changed,
            Some(key) = doubted.recv() => Ok(Some(key)),
            _ = rounds.tick() => {
                let Some(table) = table.upgrade() else { return };
                go_round(&table);
                continue;
            }
        };
        let Some(table) = table.upgrade() else { return };
        match changed {
            Ok(Some(key)) => set_judging(&table, key, Sight::Now),
            // What changed is not told: what was read since then is as good as what would be read now.
            Ok(None) | Err(RecvError::Lagged(_)) => judge_all(&table),
            Err(RecvError::Closed) => return,
        }
    }
}

/// What a live feed makes needless.
fn go_round(table: &Rc<Table>) {
    match table.records.feed() {
        Feed::Live => {}
        Feed::Deaf | Feed::Gone if table.records.are_lost() => {
            table.rows.borrow_mut().revoke(Revoked::Unproven, |_| true);
        }
        Feed::Deaf => judge_all(table),
        Feed::Gone => {}
    }
}

fn judge_all(table: &Rc<Table>) {
    let keys = table.rows.borrow().keys();
    for key in keys {
        set_judging(table, key, Sight::Recent);
    }
}

/// Has a secret judged, if it is in use here; once more where it is being judged.
fn set_judging(table: &Rc<Table>, key: Key, by: Sight) {
    if !table.rows.borrow().uses(&key) {
        return;
    }
    if let Some(again) = table.judged.borrow_mut().get_mut(&key) {
        *again = (*again).max(Some(by));
        return;
    }
    table.judged.borrow_mut().insert(key.clone(), None);
    let table = Rc::downgrade(table);
    tokio::task::spawn_local(async move {
        let mut by = by;
        loop {
            judge(&table, &key, by).await;
            let Some(table) = table.upgrade() else { return };
            let mut judged = table.judged.borrow_mut();
            match judged.get_mut(&key).and_then(Option::take) {
                Some(again) => by = again,
                None => {
                    judged.remove(&key);
                    return;
                }
            }
        }
    });
}

/// Ends every exchange that uses `key` if that secret is gone or disabled.
async fn judge(table: &Weak<Table>, key: &Key, by: Sight) {
    while let Some(table) = table.upgrade() {
        if !table.rows.borrow().uses(key) {
            return;
        }
        let found = match by {
            Sight::Now => table.records.now(key).await,
            Sight::Recent => {
                // Never closed.
                let _turn = table.turns.acquire().await;
                table.records.recent(key).await
            }
        };
        let revoked = match found {
            Ok(None) => Revoked::Removed,
            Ok(Some(record)) if record.head().state == State::Disabled => Revoked::Disabled,
            Ok(Some(_)) => return,
            Err(error) => {
                tracing::debug!(%error, "a changed secret could not be judged yet");
                if by == Sight::Recent && table.records.feed() != Feed::Live {
                    return;
                }
                drop(table);
                sleep(JUDGED_AGAIN).await;
                continue;
            }
        };
        table.rows.borrow_mut().revoke(revoked, |row| row.is_of(key));
        return;
    }
}
