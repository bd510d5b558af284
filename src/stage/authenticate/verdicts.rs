//! Verdicts on tokens already verified, so that a signature is checked once per token and worker.
//!
//! Keyed by the whole token, which is what a request is compared with: nothing shorter that two tokens could
//! share. Bounded in number and in bytes; an entry lives 5 minutes at most, and none outlives a change of any
//! issuer's keys. Only good verdicts are kept, so a flood of bad tokens evicts nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Identity;

const LONGEST_AGE: Duration = Duration::from_secs(300);
/// What tokens take on average, for the bound in bytes; most are of 300 to 900.
const USUAL_BYTES: usize = 1024;

/// One worker's cache.
pub struct Verdicts {
    kept: RefCell<Kept>,
    capacity: usize,
    /// Of the keys that all of them were reached by.
    generation: Cell<u64>,
}

#[derive(Default)]
struct Kept {
    by_token: HashMap<Rc<str>, Verdict>,
    /// Of all tokens together.
    bytes: usize,
}

struct Verdict {
    identity: Rc<Identity>,
    until: Instant,
}

impl Verdicts {
    /// An empty cache for at most `capacity` tokens, of 1 KiB each on average.
    pub fn new(capacity: usize) -> Self {
        Self { kept: RefCell::default(), capacity, generation: Cell::new(0) }
    }

    /// The verdict on a token, if it was reached by the keys of `generation`, and the token as it is kept.
    pub(super) fn find(&self, token: &str, now: Instant, generation: u64) -> Option<(Rc<str>, Rc<Identity>)> {
        if generation != self.generation.get() {
            self.forget(generation);
            return None;
        }
        let kept = self.kept.borrow();
        let (token, verdict) = kept.by_token.get_key_value(token)?;
        (now < verdict.until).then(|| (token.clone(), verdict.identity.clone()))
    }

    #[cold]
    fn forget(&self, generation: u64) {
        self.generation.set(generation);
        *self.kept.borrow_mut() = Kept::default();
    }

    /// Keeps a verdict; `generation` was read before the keys were looked at.
    pub(super) fn keep(&self, token: &Rc<str>, identity: &Rc<Identity>, now: Instant, generation: u64) {
        // Another request has seen newer keys while this one waited.
        if generation != self.generation.get() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        if self.is_full(&kept) {
            kept.retain(|verdict| verdict.until > now);
        }
        if self.is_full(&kept) {
            // Any half: were all forgotten at once, every signature would be checked again at once.
            let mut odd = false;
            kept.retain(|_| {
                odd = !odd;
                odd
            });
        }
        let verdict = Verdict { identity: identity.clone(), until: now + LONGEST_AGE };
        if kept.by_token.insert(token.clone(), verdict).is_none() {
            kept.bytes += token.len();
        }
    }

    fn is_full(&self, kept: &Kept) -> bool {
        kept.by_token.len() >= self.capacity || kept.bytes >= self.capacity.saturating_mul(USUAL_BYTES)
    }
}

impl Kept {
    fn retain(&mut self, mut stays: impl FnMut(&Verdict) -> bool) {
        let Self { by_token, bytes } = self;
        by_token.retain(|token, verdict| {
            let stays = stays(verdict);
            if !stays {
                *bytes -= token.len();
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Rc<Identity> {
        Rc::new(Identity {
            customer: crate::model::Customer::parse("acme").unwrap(),
            secret: None,
            secrets: None,
            issuer: String::new(),
            subject: None,
            token_id: None,
            scopes: None,
            ends_at: u64::MAX,
            begins_at: 0,
        })
    }

    #[test]
    fn tokens_are_bounded_in_number_and_in_bytes() {
        for (len, capacity) in [(8, 64), (8 * USUAL_BYTES, 64)] {
            let (verdicts, identity, now) = (Verdicts::new(capacity), identity(), Instant::now());
            verdicts.find("", now, 1);
            for number in 0..1000 {
                let token: Rc<str> = format!("{number:0len$}").into();
                verdicts.keep(&token, &identity, now, 1);
                assert!(verdicts.find(&token, now, 1).is_some(), "the newest is kept");
            }
            let kept = verdicts.kept.borrow();
            assert!(kept.by_token.len() <= capacity);
            assert!(kept.bytes <= capacity * USUAL_BYTES + len);
            assert_eq!(kept.bytes, kept.by_token.keys().map(|token| token.len()).sum::<usize>());
        }
    }

    #[test]
    fn a_token_that_only_begins_alike_has_no_verdict() {
        let (verdicts, now) = (Verdicts::new(4), Instant::now());
        verdicts.find("", now, 1);
        verdicts.keep(&"a.b.c".into(), &identity(), now, 1);
        assert!(verdicts.find("a.b.c", now, 1).is_some());
        for other in ["a.b.", "a.b.cc", "a.b.C", ""] {
            assert!(verdicts.find(other, now, 1).is_none(), "{other}");
        }
        assert!(verdicts.find("a.b.c", now + LONGEST_AGE, 1).is_none(), "too old");
        assert!(verdicts.find("a.b.c", now, 2).is_none(), "keys have changed");
    }
}
