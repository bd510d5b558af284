//! A relay's own way to a store that other relays use, too: it can fall deaf, and it can be cut.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use relay::model::{Customer, DataKeyId, SecretId};
use relay::store::{Call, Change, Expected, Feed, SecretRow, Store, StoreError, Upkeep};
use tokio::sync::{broadcast, watch};
use tokio::time::sleep;
use uuid::Uuid;

pub struct Way {
    inner: Arc<dyn Store>,
    told: broadcast::Sender<Change>,
    feed: watch::Sender<Feed>,
    /// A cut way answers nothing, instead of saying that it is cut.
    pub silent: AtomicBool,
    /// Calls fail although the feed does not say so yet.
    pub fails: AtomicBool,
    /// Readings of secrets that went through.
    pub reads: AtomicUsize,
    /// How long what was read of a store-wide record takes to arrive.
    pub late: Duration,
}

impl Way {
    pub fn to(inner: Arc<dyn Store>) -> Arc<Self> {
        Self::late(inner, Duration::ZERO)
    }

    pub fn late(inner: Arc<dyn Store>, late: Duration) -> Arc<Self> {
        let mut changes = inner.changes();
        let way = Arc::new(Self {
            inner,
            told: broadcast::Sender::new(1024),
            feed: watch::Sender::new(Feed::Live),
            silent: AtomicBool::new(false),
            fails: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            late,
        });
        let weak: Weak<Self> = Arc::downgrade(&way);
        std::thread::spawn(move || {
            loop {
                let change = match changes.blocking_recv() {
                    Ok(change) => change,
                    Err(broadcast::error::RecvError::Lagged(_)) => Change::Everything,
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                let Some(way) = weak.upgrade() else { return };
                if *way.feed.borrow() == Feed::Live {
                    let _ = way.told.send(change);
                }
            }
        });
        way
    }

    pub fn be(&self, feed: Feed) {
        if feed == Feed::Live {
            let _ = self.told.send(Change::Everything);
        }
        self.feed.send_replace(feed);
    }

    fn through<'a, T: Send + 'a>(&'a self, call: Call<'a, T>) -> Call<'a, T> {
        if *self.feed.borrow() != Feed::Gone && !self.fails.load(SeqCst) {
            return call;
        }
        if self.silent.load(SeqCst) {
            return Box::pin(std::future::pending());
        }
        Box::pin(async { Err(StoreError::Unavailable("its way is cut".to_owned())) })
    }
}

impl Store for Way {
    fn secret<'a>(&'a self, c: &'a Customer, id: SecretId) -> Call<'a, Option<SecretRow>> {
        self.reads.fetch_add(1, SeqCst);
        self.through(self.inner.secret(c, id))
    }
    fn secrets<'a>(&'a self, c: &'a Customer, after: Option<SecretId>, n: usize) -> Call<'a, Vec<SecretRow>> {
        self.through(self.inner.secrets(c, after, n))
    }
    fn owner(&self, id: SecretId) -> Call<'_, Option<Customer>> {
        self.through(self.inner.owner(id))
    }
    fn put_secret(&self, row: SecretRow, expected: Expected) -> Call<'_, ()> {
        self.through(self.inner.put_secret(row, expected))
    }
    fn remove_secret<'a>(&'a self, c: &'a Customer, id: SecretId) -> Call<'a, bool> {
        self.through(self.inner.remove_secret(c, id))
    }
    fn data_key<'a>(&'a self, c: &'a Customer, id: DataKeyId) -> Call<'a, Option<Bytes>> {
        self.through(self.inner.data_key(c, id))
    }
    fn active_data_key<'a>(&'a self, c: &'a Customer) -> Call<'a, Option<(DataKeyId, Bytes)>> {
        self.through(self.inner.active_data_key(c))
    }
    fn add_data_key<'a>(&'a self, c: &'a Customer, id: DataKeyId, w: Bytes) -> Call<'a, ()> {
        self.through(self.inner.add_data_key(c, id, w))
    }
    fn meta<'a>(&'a self, name: &'a str) -> Call<'a, Option<Bytes>> {
        let read = self.through(self.inner.meta(name));
        let late = self.late;
        Box::pin(async move {
            let read = read.await;
            if !late.is_zero() {
                sleep(late).await;
            }
            read
        })
    }
    fn put_meta<'a>(&'a self, name: &'a str, value: Bytes) -> Call<'a, ()> {
        self.through(self.inner.put_meta(name, value))
    }
    fn swap_meta<'a>(&'a self, name: &'a str, expected: Option<Bytes>, value: Bytes) -> Call<'a, ()> {
        self.through(self.inner.swap_meta(name, expected, value))
    }
    fn lease<'a>(&'a self, name: &'a str, holder: Uuid, ttl: Duration) -> Call<'a, bool> {
        self.through(self.inner.lease(name, holder, ttl))
    }
    fn release<'a>(&'a self, name: &'a str, holder: Uuid) -> Call<'a, ()> {
        self.through(self.inner.release(name, holder))
    }
    fn upkeep(&self) -> &dyn Upkeep {
        self.inner.upkeep()
    }
    fn changes(&self) -> broadcast::Receiver<Change> {
        self.told.subscribe()
    }
    fn feed(&self) -> watch::Receiver<Feed> {
        self.feed.subscribe()
    }
}
