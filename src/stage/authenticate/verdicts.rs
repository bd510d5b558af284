//! Verdicts on tokens already verified, so that a signature is checked once per token and worker.
//!
//! Keyed by the token's SHA-256: no token is kept. Bounded in number; an entry lives 5 minutes at most, and
//! none outlives a change of any issuer's keys. Only good verdicts are kept, so a flood of bad tokens evicts
//! nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};

use super::Identity;

const LONGEST_AGE: Duration = Duration::from_secs(300);

/// One worker's cache.
pub struct Verdicts {
    kept: RefCell<HashMap<[u8; 32], Verdict>>,
    capacity: usize,
    /// Of the keys that all of them were reached by.
    generation: Cell<u64>,
}

struct Verdict {
    identity: Rc<Identity>,
    until: Instant,
}

impl Verdicts {
    /// An empty cache for at most `capacity` tokens.
    pub fn new(capacity: usize) -> Self {
        Self { kept: RefCell::default(), capacity, generation: Cell::new(0) }
    }

    pub(super) fn key(&self, token: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token).as_ref());
        key
    }

    /// The verdict on a token, if it was reached by the keys of `generation`.
    pub(super) fn find(&self, key: &[u8; 32], now: Instant, generation: u64) -> Option<Rc<Identity>> {
        if generation != self.generation.get() {
            self.forget(generation);
            return None;
        }
        let kept = self.kept.borrow();
        let verdict = kept.get(key)?;
        (now < verdict.until).then(|| verdict.identity.clone())
    }

    #[cold]
    fn forget(&self, generation: u64) {
        self.generation.set(generation);
        *self.kept.borrow_mut() = HashMap::new();
    }

    /// Keeps a verdict; `generation` was read before the keys were looked at.
    pub(super) fn keep(&self, key: [u8; 32], identity: &Rc<Identity>, now: Instant, generation: u64) {
        // Another request has seen newer keys while this one waited.
        if generation != self.generation.get() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= self.capacity {
            kept.retain(|_, verdict| verdict.until > now);
        }
        if kept.len() >= self.capacity {
            // Any half: were all forgotten at once, every signature would be checked again at once.
            let mut odd = false;
            kept.retain(|_, _| {
                odd = !odd;
                odd
            });
        }
        kept.insert(key, Verdict { identity: identity.clone(), until: now + LONGEST_AGE });
    }
}
