//! What requests see of an issuer's keys: the current set, or that there is none.
//!
//! A request never fetches. One that names a key which the set does not have asks for a newer set, at most once
//! in 30 s however many ask, and only such a request waits, at most 2 s. The generation says whether a verdict
//! that was reached earlier still counts: it moves after a set is exchanged, and is read before one is looked
//! at, so that a verdict by an old set is never kept under the new generation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::KeySet;
use super::times::Times;
use crate::clock;

/// Moves whenever any issuer's keys do.
#[derive(Clone, Default)]
pub struct Generation(Arc<AtomicU64>);

impl Generation {
    /// The present one; read it before looking at a set.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn advance(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// One issuer's keys.
pub struct IssuerKeys {
    name: String,
    current: RwLock<Option<Arc<KeySet>>>,
    generation: Generation,
    asked: Mutex<Asked>,
    facts: Mutex<Facts>,
    /// Wakes who reads the source; `None` if nobody does.
    wake: Option<Arc<Notify>>,
    /// Moves with the end of each attempt.
    ended: watch::Sender<u64>,
    floor: Duration,
    wait: Duration,
}

/// When the source was last read, or is being read.
#[derive(Default)]
struct Asked {
    began: Option<Instant>,
    under_way: bool,
}

#[derive(Default)]
struct Facts {
    loaded: Option<(Instant, u64)>,
    failing: Option<(u64, String)>,
    expired: bool,
}

/// How an issuer's keys stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Read, and the last attempt was good.
    Loaded,
    /// Read, but the newest attempts failed: the last good set serves on.
    Stale,
    /// Never read so far.
    Missing,
    /// Not believed any more: not read for too long, or the issuer has taken all its keys back.
    Expired,
}

/// What an operator is told of one issuer's keys.
#[derive(Debug, Clone)]
pub struct IssuerState {
    /// `iss`.
    pub issuer: String,
    /// How they stand.
    pub standing: Standing,
    /// How many there are.
    pub keys: usize,
    /// When they were last read, in seconds since 1970.
    pub loaded_at: Option<u64>,
    /// Since when reading fails, and why.
    pub failing: Option<(u64, String)>,
}

impl Standing {
    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Stale => "stale",
            Self::Missing => "missing",
            Self::Expired => "expired",
        }
    }

    /// Whether tokens can be judged at all.
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Loaded | Self::Stale)
    }
}

impl IssuerKeys {
    /// Keys that never change: given directly, or the shared key of HS256.
    pub fn fixed(name: &str, set: KeySet) -> Arc<Self> {
        let keys = Self::new(name, Generation::default(), None, Times::default());
        keys.exchange(Arc::new(set));
        Arc::new(keys)
    }

    /// Keys that somebody reads, woken by `wake`.
    pub(super) fn new(name: &str, generation: Generation, wake: Option<Arc<Notify>>, times: Times) -> Self {
        Self {
            name: name.to_owned(),
            current: RwLock::default(),
            generation,
            asked: Mutex::default(),
            facts: Mutex::default(),
            wake,
            ended: watch::Sender::new(0),
            floor: times.floor,
            wait: times.wait,
        }
    }

    /// The current set.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is another set than `seen` now, perhaps after a short wait. Starts an attempt unless one
    /// began within the floor; then, and if one is under way, it waits for its end.
    pub async fn newer_than(&self, seen: Option<&Arc<KeySet>>) -> bool {
        let Some(wake) = &self.wake else { return false };
        let mut ended = self.ended.subscribe();
        let waits = {
            let mut asked = held(&self.asked);
            if !asked.under_way && asked.began.is_none_or(|at| at.elapsed() >= self.floor) {
                // Taken here and not where it is read, so that a thousand at once are one.
                *asked = Asked { began: Some(Instant::now()), under_way: true };
                wake.notify_one();
            }
            asked.under_way
        };
        if waits {
            // At the end of the wait the answer is whatever there is.
            let _ = timeout(self.wait, ended.changed()).await;
        }
        match (self.current(), seen) {
            (Some(current), Some(seen)) => !Arc::ptr_eq(&current, seen),
            (current, seen) => current.is_some() != seen.is_some(),
        }
    }

    /// What an operator is told.
    pub fn state(&self) -> IssuerState {
        let keys = self.current();
        let facts = held(&self.facts);
        let standing = match (&keys, &facts.failing) {
            (Some(set), _) if set.is_empty() => Standing::Expired,
            (Some(_), None) => Standing::Loaded,
            (Some(_), Some(_)) => Standing::Stale,
            (None, _) if facts.expired => Standing::Expired,
            (None, _) => Standing::Missing,
        };
        IssuerState {
            issuer: self.name.clone(),
            standing,
            keys: keys.map_or(0, |set| set.len()),
            loaded_at: facts.loaded.map(|(_, at)| at),
            failing: facts.failing.clone(),
        }
    }

    /// Notes that an attempt begins.
    pub(super) fn begin(&self) {
        *held(&self.asked) = Asked { began: Some(Instant::now()), under_way: true };
    }

    /// Notes that it has ended, and lets go who waited for it.
    pub(super) fn end(&self) {
        held(&self.asked).under_way = false;
        self.ended.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Takes over what was read; whether it is another set than before.
    pub(super) fn take(&self, set: KeySet) -> bool {
        if self.current().is_some_and(|current| current.is_same(&set)) {
            let mut facts = held(&self.facts);
            facts.loaded = Some((Instant::now(), clock::unix_seconds()));
            facts.failing = None;
            return false;
        }
        self.exchange(Arc::new(set));
        true
    }

    fn exchange(&self, set: Arc<KeySet>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(set);
        *held(&self.facts) =
            Facts { loaded: Some((Instant::now(), clock::unix_seconds())), failing: None, expired: false };
        self.generation.advance();
    }

    /// Notes that reading failed; whether that is news.
    pub(super) fn failed(&self, why: String) -> bool {
        let mut facts = held(&self.facts);
        let (since, news) = match &facts.failing {
            Some((since, before)) => (*since, *before != why),
            None => (clock::unix_seconds(), true),
        };
        facts.failing = Some((since, why));
        news
    }

    /// Every key is gone from the issuer's own document: no token is good any more. Whether that is news.
    pub(super) fn emptied(&self) -> bool {
        let had = self.current().is_some_and(|set| !set.is_empty());
        if had {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::default());
            self.generation.advance();
        }
        had
    }

    /// When the set is believed no more, if nothing newer comes within `stale`.
    pub(super) fn expires(&self, stale: Duration) -> Option<Instant> {
        self.current()?;
        held(&self.facts).loaded.map(|(at, _)| at + stale)
    }

    /// Believes the set no more.
    pub(super) fn expire(&self) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
        held(&self.facts).expired = true;
        self.generation.advance();
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
