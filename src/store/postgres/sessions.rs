//! Sessions with PostgreSQL: lent for one call each, within a deadline, and not lent again after a fault.
//!
//! A session that something went wrong with is closed, which also ends whatever it had begun; so is one whose
//! borrower was stopped in the middle. What must never enter: a query's meaning.

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::fault::{Fault, is_refused_commit};
use super::way::{Session, Way};
use crate::store::StoreError;

/// How long a call may take in all, with waiting for a session and opening it.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(2);
/// How long a COMMIT may take. It waits for the standby where there is a synchronous one.
const COMMIT_WITHIN: Duration = Duration::from_secs(5);

/// What a query is given.
pub(super) type Given<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The pool.
#[derive(Clone)]
pub(super) struct Sessions(Pool<Opener>);

/// Opens the pool's sessions.
pub(super) struct Opener(Arc<Way>);

impl Manager for Opener {
    type Type = Session;
    type Error = Fault;

    async fn create(&self) -> Result<Session, Fault> {
        self.0.open().await
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Fault> {
        match session.client.is_closed() {
            true => Err(RecycleError::message("closed")),
            false => Ok(()),
        }
    }
}

impl Sessions {
    pub(super) fn new(way: Arc<Way>, most: usize) -> Result<Self, Fault> {
        // The newest is lent first: its statements are prepared, and the others may fall idle.
        let pool = Pool::builder(Opener(way)).max_size(most).queue_mode(QueueMode::Lifo).build();
        pool.map(Self).map_err(|_| Fault::Late("the pool of sessions cannot be made"))
    }

    /// A session for a call that begins now.
    pub(super) async fn lend(&self) -> Result<Lent, Fault> {
        let until = Instant::now() + CALL_WITHIN;
        let object = match timeout_at(until, self.0.get()).await {
            Ok(Ok(object)) => object,
            Ok(Err(PoolError::Backend(fault))) => return Err(fault),
            Ok(Err(_)) => return Err(Fault::Late("the store was closed")),
            Err(_) => return Err(Fault::Late("no session with PostgreSQL could be had within 2 s")),
        };
        Ok(Lent { object: Some(object), until, under_way: false, home: self.clone() })
    }

    /// The same, within a transaction.
    pub(super) async fn begin(&self) -> Result<Lent, Fault> {
        let mut lent = self.lend().await?;
        lent.command("BEGIN").await?;
        lent.under_way = true;
        Ok(lent)
    }

    /// Lends nothing more, and closes what is not lent.
    pub(super) fn close(&self) {
        self.0.close();
    }

    fn give_up_idle(&self) {
        self.0.retain(|_, _| false);
    }
}

/// A session for one call.
pub(super) struct Lent {
    object: Option<Object<Opener>>,
    until: Instant,
    /// Something was begun that is not over: a transaction, or a query whose answer has not come.
    under_way: bool,
    home: Sessions,
}

impl Lent {
    /// The rows that answer `sql`.
    pub(super) async fn rows(&mut self, sql: &'static str, given: Given<'_>) -> Result<Vec<Row>, Fault> {
        let (until, before) = self.set_out();
        let session = session(&mut self.object)?;
        let answer = async {
            let statement = session.statement(sql).await?;
            session.client.query(&statement, given).await
        };
        let done = within(until, answer).await;
        self.back(before, done)
    }

    /// The first row that answers `sql`.
    pub(super) async fn row(&mut self, sql: &'static str, given: Given<'_>) -> Result<Option<Row>, Fault> {
        Ok(self.rows(sql, given).await?.into_iter().next())
    }

    /// Runs `sql`; how many rows it changed.
    pub(super) async fn execute(&mut self, sql: &'static str, given: Given<'_>) -> Result<u64, Fault> {
        let (until, before) = self.set_out();
        let session = session(&mut self.object)?;
        let answer = async {
            let statement = session.statement(sql).await?;
            session.client.execute(&statement, given).await
        };
        let done = within(until, answer).await;
        self.back(before, done)
    }

    /// Ends the transaction so that nothing of it stays.
    pub(super) async fn roll_back(mut self) {
        // A session whose end of a transaction is not sure is closed when it is dropped here.
        if self.object.is_some() && self.command("ROLLBACK").await.is_ok() {
            self.under_way = false;
        }
    }

    /// Makes the transaction durable. Nothing is tried twice: a COMMIT that was not answered may have been done.
    pub(super) async fn commit(mut self) -> Result<(), Fault> {
        let until = Instant::now() + COMMIT_WITHIN;
        let session = session(&mut self.object)?;
        let doubts = session.doubts();
        let done = within(until, session.client.batch_execute("COMMIT")).await;
        let doubted = session.doubts() != doubts;
        let done = match done {
            Ok(()) if doubted => Err(Fault::Unknown(
                "PostgreSQL gave up waiting for its synchronous standby, and the write may be lost with the primary",
            )),
            Err(Fault::Driver(error)) if is_refused_commit(&error) => Err(Fault::Driver(error)),
            Err(_) => Err(Fault::Unknown("PostgreSQL was lost or hung while it was being committed")),
            Ok(()) => Ok(()),
        };
        self.back(false, done)
    }

    async fn command(&mut self, command: &'static str) -> Result<(), Fault> {
        let (until, before) = self.set_out();
        let session = session(&mut self.object)?;
        let done = within(until, session.client.batch_execute(command)).await;
        self.back(before, done)
    }

    fn cut(&mut self) {
        if let Some(object) = self.object.take() {
            Object::take(object).cut();
        }
    }

    fn set_out(&mut self) -> (Instant, bool) {
        (self.until, std::mem::replace(&mut self.under_way, true))
    }

    fn back<T>(&mut self, before: bool, done: Result<T, Fault>) -> Result<T, Fault> {
        self.under_way = before;
        if let Err(fault) = &done {
            if !fault.spares_the_session() {
                self.under_way = true;
                self.cut();
            }
            if fault.is_loss() {
                self.home.give_up_idle();
            }
        }
        done
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.under_way {
            self.cut();
        }
    }
}

fn session(object: &mut Option<Object<Opener>>) -> Result<&mut Session, Fault> {
    let lost = || Fault::Answer(StoreError::Unavailable("its session with PostgreSQL was lost".into()));
    object.as_deref_mut().ok_or_else(lost)
}

async fn within<T>(
    until: Instant,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Fault> {
    match timeout_at(until, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Fault::Late("PostgreSQL did not answer within 2 s")),
    }
}
