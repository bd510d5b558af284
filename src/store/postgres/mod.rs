//! PostgreSQL as the store: for several relay processes on one store.
//!
//! `way` opens sessions over verified TLS, `sessions` lends them for a call within a deadline, `rows` and `upkeep`
//! are the queries, `feed` hears what other replicas change, `schema` is the layout and who may use it. What must
//! never enter: plaintext; a query for a record without its customer, but for [`Store::owner`]; a write that is
//! tried again although it may have been done.

mod fault;
mod feed;
mod moving;
mod note;
mod rows;
mod schema;
mod sessions;
mod upkeep;
mod way;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use uuid::Uuid;

use self::fault::Fault;
use self::sessions::{Lent, Sessions};
use self::way::Way;
use super::{Call, Change, Expected, Feed, SecretRow, Store, StoreError, Upkeep};
use crate::model::{Customer, DataKeyId, SecretId};
use crate::secret::Secret;

pub use self::schema::{Migrated, OpenError, VERSION, migrate};

/// How many changes a receiver may be behind before it has lagged.
const FEED: usize = 1024;
/// How long an opening waits for the change feed; without it the store opens too, and is deaf.
const FEED_WITHIN: Duration = Duration::from_secs(3);

/// How PostgreSQL is reached.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// `postgres://USER@HOST:5432/DATABASE`, with a password or without; several hosts divided by commas.
    pub url: &'a Secret,
    /// The password, in the place of the URL's.
    pub password: Option<&'a Secret>,
    /// PEM of the authorities that are trusted, in the place of the public ones.
    pub roots: Option<&'a [u8]>,
    /// The most sessions at once, beside the one that listens.
    pub connections: usize,
    /// No TLS but for Unix sockets, which never have it.
    pub plaintext_danger: bool,
}

/// A store in PostgreSQL. Every call works on the control runtime, so it may be awaited on any.
pub struct Postgres {
    inner: Arc<Inner>,
    control: Handle,
    following: AbortHandle,
}

impl Postgres {
    /// Opens the store: its schema must be this relay's. Sessions and the change feed live on `control`; once it
    /// is shut down every call is [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`OpenError`] says what stands in the way and how to mend it.
    pub async fn open(setup: Setup<'_>, control: Handle) -> Result<Self, OpenError> {
        let way = Arc::new(Way::of(&setup)?);
        let sessions = Sessions::new(Arc::clone(&way), setup.connections);
        let inner = Arc::new(Inner {
            sessions: sessions.map_err(OpenError::unreachable)?,
            way,
            feed: broadcast::Sender::new(FEED),
            standing: watch::Sender::new(Feed::Deaf),
            writer: Mutex::new(Uuid::new_v4()),
            unclear: AtomicU64::new(0),
        });
        let (opening, following) = (Arc::clone(&inner), Arc::clone(&inner));
        let opened = control.spawn(async move { opening.begin().await }).await;
        opened.map_err(|_| OpenError::unreachable(stopped()))??;
        let following = control.spawn(feed::follow(following)).abort_handle();
        let mut standing = inner.standing.subscribe();
        // Deaf is a state like another: caches keep to it by themselves.
        let _ = timeout(FEED_WITHIN, standing.wait_for(|feed| *feed == Feed::Live)).await;
        Ok(Self { inner, control, following })
    }

    // The work goes on if the caller drops the future: a write half-way must still end and be told.
    fn call<T, W>(&self, work: impl FnOnce(Arc<Inner>) -> W + Send + 'static) -> Call<'_, T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        Box::pin(async move {
            let ended = self.control.spawn(work(Arc::clone(&self.inner))).await;
            ended.unwrap_or_else(|_| Err(stopped())).map_err(Fault::into_error)
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.following.abort();
        self.inner.sessions.close();
    }
}

fn stopped() -> Fault {
    Fault::Answer(StoreError::Unavailable("its task was stopped or panicked".into()))
}

/// What the calls and the feed share.
struct Inner {
    sessions: Sessions,
    way: Arc<Way>,
    feed: broadcast::Sender<Change>,
    standing: watch::Sender<Feed>,
    /// Who this store is in its notes. What it wrote itself is told when it is acknowledged, and its notes are not
    /// heard a second time; after a write of which nobody knows whether it was done it is somebody else.
    writer: Mutex<Uuid>,
    /// Notes that were not understood.
    unclear: AtomicU64,
}

/// What a write did: its value, and what others must forget. `None`: nothing was changed.
type Done<T> = (T, Option<Vec<Change>>);

impl Inner {
    async fn begin(self: Arc<Self>) -> Result<(), OpenError> {
        let mut lent = self.sessions.lend().await.map_err(OpenError::of)?;
        schema::check(&mut lent).await?;
        schema::warn_of_rights(&mut lent).await;
        drop(lent);
        upkeep::end_forgetting(&self).await.map_err(|fault| OpenError::Unended(fault.into_error()))
    }

    fn writer(&self) -> Uuid {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: Change) {
        // Nobody caches yet.
        let _ = self.feed.send(change);
    }

    fn stands(&self, feed: Feed) {
        self.standing.send_if_modified(|stands| std::mem::replace(stands, feed) != feed);
    }

    /// Whether PostgreSQL answers at all.
    async fn answers(&self) -> bool {
        match self.sessions.lend().await {
            Ok(mut lent) => lent.row("SELECT 1", &[]).await.is_ok(),
            Err(_) => false,
        }
    }

    /// A session for a call that reads.
    async fn read(&self) -> Result<Lent, Fault> {
        self.sessions.lend().await
    }

    /// A session for a call that writes, to be given to [`Inner::end`].
    async fn write(&self) -> Result<Lent, Fault> {
        self.sessions.begin().await
    }

    /// Ends a write: counted, told and durable, or nothing of it.
    async fn end<T>(&self, mut lent: Lent, done: Result<Done<T>, Fault>) -> Result<T, Fault> {
        let (value, changes) = match done {
            Ok((value, Some(changes))) => (value, changes),
            Ok((value, None)) => {
                lent.roll_back().await;
                return Ok(value);
            }
            Err(fault) => {
                lent.roll_back().await;
                return Err(fault);
            }
        };
        let writer = self.writer();
        let notes: Vec<String> = changes.iter().map(|change| note::of(writer, change)).collect();
        if let Err(fault) = rows::count_and_note(&mut lent, &notes).await {
            lent.roll_back().await;
            return Err(fault);
        }
        let committed = lent.commit().await;
        if matches!(committed, Err(Fault::Unknown(_))) {
            // It may yet be done: then its notes must be heard here too.
            *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Uuid::new_v4();
        }
        if matches!(committed, Ok(()) | Err(Fault::Unknown(_))) {
            changes.into_iter().for_each(|change| self.tell(change));
        }
        committed.map(|()| value)
    }
}

impl Store for Postgres {
    fn secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, Option<SecretRow>> {
        let customer = customer.clone();
        self.call(move |inner| async move { rows::secret(&mut inner.read().await?, &customer, id).await })
    }

    fn secrets<'a>(
        &'a self,
        customer: &'a Customer,
        after: Option<SecretId>,
        limit: usize,
    ) -> Call<'a, Vec<SecretRow>> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            rows::secrets(&mut inner.read().await?, &customer, after, limit).await
        })
    }

    fn owner(&self, id: SecretId) -> Call<'_, Option<Customer>> {
        self.call(move |inner| async move { rows::owner(&mut inner.read().await?, id).await })
    }

    fn put_secret(&self, row: SecretRow, expected: Expected) -> Call<'_, ()> {
        self.call(|inner| async move {
            let mut lent = inner.write().await?;
            let done = rows::put_secret(&mut lent, &row, &expected).await;
            let change = Change::Secret(row.customer, row.id);
            inner.end(lent, done.map(|()| ((), Some(vec![change])))).await
        })
    }

    fn remove_secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, bool> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            let mut lent = inner.write().await?;
            let done = rows::remove_secret(&mut lent, &customer, id).await;
            let change = Change::Secret(customer, id);
            inner.end(lent, done.map(|found| (found, found.then(|| vec![change])))).await
        })
    }

    fn data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId) -> Call<'a, Option<Bytes>> {
        let customer = customer.clone();
        self.call(move |inner| async move { rows::data_key(&mut inner.read().await?, &customer, id).await })
    }

    fn active_data_key<'a>(&'a self, customer: &'a Customer) -> Call<'a, Option<(DataKeyId, Bytes)>> {
        let customer = customer.clone();
        self.call(|inner| async move { rows::active_data_key(&mut inner.read().await?, &customer).await })
    }

    fn add_data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId, wrapped: Bytes) -> Call<'a, ()> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            let mut lent = inner.write().await?;
            let done = rows::add_data_key(&mut lent, &customer, id, &wrapped).await;
            inner.end(lent, done.map(|()| ((), Some(vec![Change::DataKeys(customer)])))).await
        })
    }

    fn meta<'a>(&'a self, name: &'a str) -> Call<'a, Option<Bytes>> {
        let name = name.to_owned();
        self.call(|inner| async move { rows::meta(&mut inner.read().await?, &name).await })
    }

    fn put_meta<'a>(&'a self, name: &'a str, value: Bytes) -> Call<'a, ()> {
        let name = name.to_owned();
        self.call(|inner| async move {
            let mut lent = inner.write().await?;
            let done = rows::put_meta(&mut lent, &name, &value).await;
            inner.end(lent, done.map(|()| ((), Some(Vec::new())))).await
        })
    }

    fn swap_meta<'a>(&'a self, name: &'a str, expected: Option<Bytes>, value: Bytes) -> Call<'a, ()> {
        let name = name.to_owned();
        self.call(|inner| async move {
            let mut lent = inner.write().await?;
            let done = rows::swap_meta(&mut lent, &name, expected.as_deref(), &value).await;
            inner.end(lent, done.map(|()| ((), Some(Vec::new())))).await
        })
    }

    // A lease is no record: it is neither counted nor told. One that was lost ends by itself.
    fn lease<'a>(&'a self, name: &'a str, holder: Uuid, ttl: Duration) -> Call<'a, bool> {
        let name = name.to_owned();
        self.call(move |inner| async move { rows::lease(&mut inner.read().await?, &name, holder, ttl).await })
    }

    fn release<'a>(&'a self, name: &'a str, holder: Uuid) -> Call<'a, ()> {
        let name = name.to_owned();
        self.call(move |inner| async move { rows::release(&mut inner.read().await?, &name, holder).await })
    }

    fn upkeep(&self) -> &dyn Upkeep {
        self
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.feed.subscribe()
    }

    fn feed(&self) -> watch::Receiver<Feed> {
        self.inner.standing.subscribe()
    }

    fn unclear_notes(&self) -> u64 {
        self.inner.unclear.load(Ordering::Relaxed)
    }
}
