//! One worker's connections to vendors: lends idle ones, dials fresh ones, lets go of old ones.
//!
//! A pool belongs to one thread and has no locks. Connections are kept per upstream, which stands for origin
//! and TLS identity. One that ever carried a request body is lent to the same customer only: a vendor that
//! misread where that body ended holds bytes of it that would become the beginning of the next request (RFC
//! 9112 section 11.2). Before a reused connection is written to, the tap looks at the socket. What must never
//! enter: a connection whose last exchange did not end cleanly on both sides.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::line::Line;
pub use super::upstream::{ConnectError, Upstream, UpstreamSettings};
use super::wire::Wire;
use crate::model::Customer;

/// How many idle connections are kept, and how long.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Per upstream; the oldest makes room.
    pub idle_per_origin: usize,
    /// How long one may stand idle; it is gone at most 1 s later.
    pub idle_timeout: Duration,
}

/// One worker's connections.
pub struct Pool(Rc<Shelf>);

impl Pool {
    /// An empty pool. It is used inside a `LocalSet`.
    pub fn new(limits: PoolLimits) -> Self {
        let reaped = Cell::new(false);
        Self(Rc::new(Shelf { limits, idle: RefCell::new(HashMap::new()), reaped }))
    }

    /// A connection for one request of `customer`: an idle one unless `fresh`, else a newly dialled one.
    ///
    /// # Errors
    /// [`ConnectError`] when a new one was needed and could not be had.
    pub async fn line(
        &self,
        upstream: &Arc<Upstream>,
        customer: &Customer,
        fresh: bool,
    ) -> Result<Line, ConnectError> {
        let idle = if fresh { None } else { self.0.take(upstream.id(), customer) };
        let reused = idle.is_some();
        let wire = match idle {
            Some(wire) => wire,
            // Boxed: dialling needs much room, and most requests do not dial.
            None => Box::pin(self.connect(upstream, customer)).await?,
        };
        Ok(Line::new(wire, Rc::clone(&self.0), Arc::clone(upstream), customer.clone(), reused))
    }

    /// A newly dialled HTTP/1.1 connection that is kept for nobody else: it may switch protocols.
    ///
    /// # Errors
    /// [`ConnectError`] when it could not be had.
    pub async fn line_apart(
        &self,
        upstream: &Arc<Upstream>,
        customer: &Customer,
    ) -> Result<Line, ConnectError> {
        let mut wire = Box::pin(self.connect(upstream, customer)).await?;
        wire.keep_apart();
        Ok(Line::new(wire, Rc::clone(&self.0), Arc::clone(upstream), customer.clone(), false))
    }

    /// Connections that stand idle now.
    pub fn idle(&self) -> usize {
        self.0.idle.borrow().values().map(VecDeque::len).sum()
    }

    async fn connect(
        &self,
        upstream: &Arc<Upstream>,
        customer: &Customer,
    ) -> Result<Box<Wire>, ConnectError> {
        let (stream, peer) = upstream.dial().await?;
        if !self.0.reaped.replace(true) {
            tokio::task::spawn_local(reap(Rc::downgrade(&self.0)));
        }
        let only = upstream.isolate.then(|| customer.clone());
        Wire::start(stream, peer, upstream, only).await.map(Box::new)
    }
}

/// Where idle connections stand; the newest last.
pub(super) struct Shelf {
    limits: PoolLimits,
    idle: RefCell<HashMap<u64, VecDeque<Idle>>>,
    reaped: Cell<bool>,
}

struct Idle {
    wire: Box<Wire>,
    since: Instant,
}

impl Shelf {
    /// Takes the newest connection that may serve `customer`. Closed ones met on the way are let go; so is
    /// one that hyper has not finished with, which does not happen after a clean end.
    fn take(&self, upstream: u64, customer: &Customer) -> Option<Box<Wire>> {
        let mut shelf = self.idle.borrow_mut();
        let row = shelf.get_mut(&upstream)?;
        let now = Instant::now();
        for place in (0..row.len()).rev() {
            let Some(idle) = row.get_mut(place) else { continue };
            let usable = self.is_young(idle, now) && idle.wire.is_ready();
            if !usable {
                row.remove(place);
            } else if idle.wire.serves(customer) {
                return row.remove(place).map(|idle| idle.wire);
            }
        }
        None
    }

    /// Keeps a connection whose exchange ended cleanly on both sides, or that was never used.
    pub(super) fn put(&self, mut wire: Box<Wire>) {
        wire.rest();
        if !wire.is_drivable() || wire.is_apart() {
            return;
        }
        let mut shelf = self.idle.borrow_mut();
        let row = shelf.entry(wire.upstream()).or_default();
        row.push_back(Idle { wire, since: Instant::now() });
        if row.len() > self.limits.idle_per_origin {
            row.pop_front();
        }
    }

    fn is_young(&self, idle: &Idle, now: Instant) -> bool {
        now.saturating_duration_since(idle.since) < self.limits.idle_timeout
    }

    fn sweep(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|_, row| {
            row.retain_mut(|idle| self.is_young(idle, now) && idle.wire.is_ready());
            !row.is_empty()
        });
    }
}

/// Lets old connections go once a second, for as long as the pool lives.
async fn reap(shelf: Weak<Shelf>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        let Some(shelf) = shelf.upgrade() else { return };
        shelf.sweep();
    }
}
