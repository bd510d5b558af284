//! Verdicts on tokens already verified, so that a signature is checked once per token and worker.
//!
//! Keyed by the token's SHA-256: no token is kept. Bounded in number; an entry lives 5 minutes at most.
//! Only good verdicts are kept, so a flood of bad tokens evicts nothing.

use std::cell::RefCell;
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
}

struct Verdict {
    identity: Rc<Identity>,
    until: Instant,
}

impl Verdicts {
    /// An empty cache for at most `capacity` tokens.
    pub fn new(capacity: usize) -> Self {
        Self { kept: RefCell::default(), capacity }
    }

    pub(super) fn key(&self, token: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token).as_ref());
        key
    }

    pub(super) fn find(&self, key: &[u8; 32], now: Instant) -> Option<Rc<Identity>> {
        let kept = self.kept.borrow();
        let verdict = kept.get(key)?;
        (now < verdict.until).then(|| verdict.identity.clone())
    }

    pub(super) fn keep(&self, key: [u8; 32], identity: &Rc<Identity>, now: Instant) {
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
