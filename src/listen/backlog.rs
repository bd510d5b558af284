//! How many bytes of answers wait for their apps.
//!
//! A long answer costs least when it goes out in few large pieces, and an app that does not read keeps what its
//! piece holds. So each connection is sure of a small one, and may have a large one while there is little beyond
//! the small ones that waits in all of relay. What must never enter: the bytes.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of one answer that may wait for its app, whatever the others have: with what else an app that stopped
/// reading costs, it stays below 256 KiB.
const SURE: usize = 112 * 1024;
/// Bytes beyond these that wait together, up to which each may have more.
const TOGETHER: usize = 3 * 1024 * 1024;

/// What waits for the apps of all workers, beyond what each is sure of: small answers do not touch what the cores
/// would have to take from each other.
#[derive(Debug, Default)]
pub struct Backlog(AtomicUsize);

/// What waits for the app of one connection.
pub(super) struct Waiting {
    own: Cell<usize>,
    all: Arc<Backlog>,
    held_back: Cell<bool>,
}

impl Waiting {
    /// Nothing waits yet; `all` is the relay's.
    pub(super) const fn new(all: Arc<Backlog>) -> Self {
        Self { own: Cell::new(0), all, held_back: Cell::new(false) }
    }

    /// Whether another piece may wait. If not, [`Waiting::wrote`] says when to ask again.
    pub(super) fn has_room(&self) -> bool {
        let room = self.own.get() < SURE || self.all.0.load(Ordering::Relaxed) < TOGETHER;
        self.held_back.set(!room);
        room
    }

    /// So many bytes are to be written.
    pub(super) fn add(&self, bytes: usize) {
        self.keep(self.own.get() + bytes);
    }

    /// So many bytes were written, of a head among others, which nobody has added. Whether a piece was held back
    /// and may be asked for again.
    pub(super) fn wrote(&self, bytes: usize) -> bool {
        self.keep(self.own.get().saturating_sub(bytes));
        self.held_back.take()
    }

    /// The next request is here, so the answer before it has been written.
    pub(super) fn begins_anew(&self) {
        self.keep(0);
        self.held_back.set(false);
    }

    fn keep(&self, own: usize) {
        let before = self.own.replace(own).saturating_sub(SURE);
        let beyond = own.saturating_sub(SURE);
        if beyond > before {
            self.all.0.fetch_add(beyond - before, Ordering::Relaxed);
        } else if beyond < before {
            self.all.0.fetch_sub(before - beyond, Ordering::Relaxed);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.keep(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_has_the_small_piece_until_others_are_written() {
        let all = Arc::new(Backlog::default());
        let early: Vec<_> = (0..8).map(|_| Waiting::new(all.clone())).collect();
        for waiting in &early {
            assert!(waiting.has_room(), "there is room for large pieces");
            waiting.add(SURE + TOGETHER / 8);
        }
        let late = Waiting::new(all.clone());
        assert!(late.has_room(), "each may have its small piece");
        late.add(SURE);
        assert!(!late.has_room());
        assert!(late.wrote(1), "it was held back");
        assert!(!late.wrote(0), "nobody asked since");
        assert!(late.has_room());
        late.add(1);
        assert!(!late.has_room());
        drop(early);
        assert!(late.has_room(), "a connection that ends gives back what it had");
        late.add(TOGETHER);
        assert!(!late.has_room());
        late.begins_anew();
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
        late.add(5);
        late.wrote(300);
        late.add(SURE + 7);
        assert_eq!(all.0.load(Ordering::Relaxed), 7, "a head is written that nobody added");
    }
}
