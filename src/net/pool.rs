//! One worker's connections to vendors: lends idle ones, dials fresh ones, lets go of old ones.
//!
//! A pool belongs to one thread and has no locks. Connections are kept per upstream, which stands for origin
//! and TLS identity. One that ever carried a request body is lent to the same customer only: a vendor that
//! misread where that body ended holds bytes of it that would become the beginning of the next request (RFC
//! 9112 section 11.2). Before a reused connection is written to, its socket is looked at. What must never
//! enter: a connection whose last exchange did not end cleanly on both sides.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::identity::{Badges, Identity, Whose};
use super::line::{Line, Way};
use super::stream;
use super::trunk::Trunk;
pub use super::upstream::{ConnectError, Upstream, UpstreamSettings};
use super::wire::Wire;
use crate::model::{Customer, SecretId};

/// How many idle connections are kept, and how long.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Per upstream; the oldest makes room.
    pub idle_per_origin: usize,
    /// How long one may stand idle; it is gone at most 1 s later.
    pub idle_timeout: Duration,
}

/// Idle connections of one worker, whatever they lead to: origins are as many as customers where each has a host
/// of its own. While there are so many, none is kept.
const MOST_IDLE: usize = 4096;

/// One worker's connections.
pub struct Pool(Rc<Shelf>);

impl Pool {
    /// An empty pool. It is used inside a `LocalSet`.
    pub fn new(limits: PoolLimits) -> Self {
        let reaped = Cell::new(false);
        Self(Rc::new(Shelf {
            limits,
            idle: RefCell::default(),
            trunks: RefCell::default(),
            badges: RefCell::default(),
            held: Cell::new(0),
            reaped,
        }))
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
        let way = match idle {
            Some(way) => way,
            // Boxed: dialling needs much room, and most requests do not dial.
            None => Box::pin(self.connect(upstream, customer)).await?,
        };
        Ok(Line::new(way, Rc::clone(&self.0), Arc::clone(upstream), customer.clone(), reused))
    }

    /// A connection that was made with this identity, if one stands idle or can carry one more request.
    pub fn line_of(&self, upstream: &Arc<Upstream>, customer: &Customer, whose: Whose) -> Option<Line> {
        let badge = self.0.badges.borrow().find(upstream.id(), whose)?;
        let way = self.0.take(badge.place, customer)?;
        Some(Line::new(way, Rc::clone(&self.0), Arc::clone(upstream), customer.clone(), true))
    }

    /// A newly dialled connection on which `identity` is shown. It serves this version of this secret alone, and
    /// with `apart` one request.
    ///
    /// # Errors
    /// [`ConnectError`] when it could not be had.
    pub async fn line_showing(
        &self,
        upstream: &Arc<Upstream>,
        customer: &Customer,
        (whose, identity): (Whose, Identity),
        apart: bool,
    ) -> Result<Line, ConnectError> {
        // Before the handshake, so that a revocation meanwhile is seen on it.
        let badge = self.0.badges.borrow_mut().of(upstream.id(), whose);
        self.0.begin_reaping();
        let (stream, peer) = upstream.dial_showing(identity, apart).await?;
        let only = Some(customer.clone());
        let way = if stream::speaks_http2(&stream) {
            self.branch(Trunk::start(stream, peer, only, Some(badge.clone())).await?, badge.place, customer)?
        } else {
            let mut wire = Box::new(Wire::new(stream, peer, badge.place, only));
            wire.carry(badge);
            if apart {
                wire.keep_apart();
            }
            Way::Wire(wire)
        };
        Ok(Line::new(way, Rc::clone(&self.0), Arc::clone(upstream), customer.clone(), false))
    }

    /// Closes the idle connections that were made with an identity of this secret, or of any, and lends those that
    /// are in use to nobody else; false once the pool is gone.
    pub fn revoker(&self) -> impl Fn(Option<SecretId>) -> bool + use<> {
        let shelf = Rc::downgrade(&self.0);
        move |secret| shelf.upgrade().map(|shelf| shelf.revoke(secret)).is_some()
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
        let (stream, peer) = Box::pin(upstream.dial_http1()).await?;
        let mut wire = Box::new(Wire::new(stream, peer, upstream.id(), Some(customer.clone())));
        wire.keep_apart();
        let (shelf, upstream) = (Rc::clone(&self.0), Arc::clone(upstream));
        Ok(Line::new(Way::Wire(wire), shelf, upstream, customer.clone(), false))
    }

    /// Connections that stand idle now, and shared ones.
    pub fn idle(&self) -> usize {
        let trunks: usize = self.0.trunks.borrow().values().map(Vec::len).sum();
        self.0.idle.borrow().values().map(VecDeque::len).sum::<usize>() + trunks
    }

    async fn connect(&self, upstream: &Arc<Upstream>, customer: &Customer) -> Result<Way, ConnectError> {
        let (stream, peer) = upstream.dial().await?;
        self.0.begin_reaping();
        let only = upstream.isolate.then(|| customer.clone());
        if !stream::speaks_http2(&stream) {
            return Ok(Way::Wire(Box::new(Wire::new(stream, peer, upstream.id(), only))));
        }
        self.branch(Trunk::start(stream, peer, only, None).await?, upstream.id(), customer)
    }

    /// The first place on a fresh shared connection, which is kept.
    fn branch(&self, trunk: Rc<Trunk>, place: u64, customer: &Customer) -> Result<Way, ConnectError> {
        let branch = trunk.branch(customer);
        self.0.keep(place, trunk);
        let closed = || ConnectError::Unreachable("the vendor closed a fresh connection".to_owned());
        branch.map(Way::Branch).ok_or_else(closed)
    }
}

/// Where idle connections stand; the newest last.
pub(super) struct Shelf {
    limits: PoolLimits,
    idle: RefCell<HashMap<u64, VecDeque<Idle>>>,
    /// How many those are, at most: exact after each sweep.
    held: Cell<usize>,
    /// HTTP/2 connections, whatever is on them.
    trunks: RefCell<HashMap<u64, Vec<Rc<Trunk>>>>,
    /// The identities that connections were made with.
    badges: RefCell<Badges>,
    reaped: Cell<bool>,
}

struct Idle {
    wire: Box<Wire>,
    since: Instant,
}

impl Shelf {
    /// A stream of a shared connection or an idle one of its own.
    fn take(&self, upstream: u64, customer: &Customer) -> Option<Way> {
        let shared = self.trunks.borrow().get(&upstream).and_then(|row| {
            let mut open = row.iter().filter_map(|trunk| trunk.branch(customer));
            open.next()
        });
        shared.map(Way::Branch).or_else(|| self.take_wire(upstream, customer).map(Way::Wire))
    }

    fn keep(&self, upstream: u64, trunk: Rc<Trunk>) {
        self.trunks.borrow_mut().entry(upstream).or_default().push(trunk);
    }

    /// Takes the newest connection that may serve `customer`. Closed ones met on the way are let go.
    fn take_wire(&self, upstream: u64, customer: &Customer) -> Option<Box<Wire>> {
        let mut shelf = self.idle.borrow_mut();
        let row = shelf.get_mut(&upstream)?;
        let now = Instant::now();
        for place in (0..row.len()).rev() {
            let Some(idle) = row.get_mut(place) else { continue };
            let usable = self.is_young(idle, now) && idle.wire.is_ready();
            if !usable {
                row.remove(place);
            } else if idle.wire.serves(customer) {
                self.held.set(self.held.get().saturating_sub(1));
                return row.remove(place).map(|idle| idle.wire);
            }
        }
        None
    }

    /// Keeps a connection whose exchange ended cleanly on both sides, or that was never used.
    pub(super) fn put(&self, mut wire: Box<Wire>) {
        wire.rest();
        if !wire.is_done() || wire.is_apart() || wire.is_revoked() || self.held.get() >= MOST_IDLE {
            return;
        }
        let mut shelf = self.idle.borrow_mut();
        let row = shelf.entry(wire.place()).or_default();
        row.push_back(Idle { wire, since: Instant::now() });
        if row.len() > self.limits.idle_per_origin {
            row.pop_front();
        } else {
            self.held.set(self.held.get() + 1);
        }
    }

    fn is_young(&self, idle: &Idle, now: Instant) -> bool {
        now.saturating_duration_since(idle.since) < self.limits.idle_timeout
    }

    fn sweep(&self) {
        let now = Instant::now();
        let mut held = 0;
        self.idle.borrow_mut().retain(|_, row| {
            row.retain_mut(|idle| self.is_young(idle, now) && idle.wire.is_ready());
            held += row.len();
            !row.is_empty()
        });
        self.held.set(held);
        let rests = |trunk: &Trunk| {
            trunk
                .idle_since()
                .is_some_and(|since| now.saturating_duration_since(since) >= self.limits.idle_timeout)
        };
        self.trunks.borrow_mut().retain(|_, row| {
            row.retain(|trunk| trunk.is_open() && !rests(trunk));
            !row.is_empty()
        });
        self.badges.borrow_mut().sweep();
    }

    fn revoke(&self, secret: Option<SecretId>) {
        let places = self.badges.borrow_mut().revoke(secret);
        let mut closed = Vec::new();
        for place in places {
            closed.extend(self.idle.borrow_mut().remove(&place));
            self.trunks.borrow_mut().remove(&place);
        }
    }

    fn begin_reaping(self: &Rc<Self>) {
        if !self.reaped.replace(true) {
            tokio::task::spawn_local(reap(Rc::downgrade(self)));
        }
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
