//! How work reaches the writer: many hand over, it alone takes.
//!
//! The standard library's channel wakes its reader while it holds the lock that the reader needs before it can sleep
//! again. On the worker's core the reader runs at once, so it woke, and was waited for, twice for each batch. Here
//! the lock is free before anyone is woken, and nobody is who does not sleep. What must never enter: what a message
//! says.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An inbox, and who may put something into it.
pub(super) fn inbox<T>() -> (Sender<T>, Inbox<T>) {
    let shared = Arc::new(Shared { state: Mutex::new(State::default()), filled: Condvar::new() });
    (Sender(shared.clone()), Inbox(shared))
}

/// Hands over.
pub(super) struct Sender<T>(Arc<Shared<T>>);

/// Takes. What it has not taken when it ends is dropped.
pub(super) struct Inbox<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

struct State<T> {
    messages: VecDeque<T>,
    /// Whether the reader sleeps, and nobody has woken it yet.
    sleeps: bool,
    closed: bool,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self { messages: VecDeque::new(), sleeps: false, closed: false }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sender<T> {
    /// Puts a message behind the others; gives it back if nobody will take it.
    pub(super) fn send(&self, message: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(message);
        }
        state.messages.push_back(message);
        let sleeps = std::mem::take(&mut state.sleeps);
        drop(state);
        if sleeps {
            self.0.filled.notify_one();
        }
        Ok(())
    }
}

impl<T> Inbox<T> {
    /// The next message, waited for at most so long.
    pub(super) fn next_within(&self, patience: Duration) -> Option<T> {
        let begun = Instant::now();
        let mut state = self.0.lock();
        loop {
            if let Some(message) = state.messages.pop_front() {
                return Some(message);
            }
            let left = patience.checked_sub(begun.elapsed())?;
            state.sleeps = true;
            let woken = self.0.filled.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.sleeps = false;
        }
    }

    /// The next message, if there is one.
    pub(super) fn next(&self) -> Option<T> {
        self.0.lock().messages.pop_front()
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        let untaken = std::mem::take(&mut state.messages);
        // Who hears that its message is gone may send another.
        drop(state);
        drop(untaken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_order_and_wake_who_sleeps() {
        let (send, inbox) = inbox();
        let patience = Duration::from_secs(10);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || (0..3).map(|_| inbox.next_within(patience)).collect::<Vec<_>>());
            for number in 0..3 {
                std::thread::sleep(Duration::from_millis(20));
                send.send(number).unwrap();
            }
            assert_eq!(reader.join().unwrap(), [Some(0), Some(1), Some(2)]);
        });
    }

    #[test]
    fn an_empty_inbox_is_left_when_the_patience_is_over_and_works_on() {
        let (send, inbox) = inbox();
        assert_eq!(inbox.next_within(Duration::from_millis(20)), None);
        assert_eq!(inbox.next(), None);
        send.send('a').unwrap();
        send.send('b').unwrap();
        assert_eq!(inbox.next_within(Duration::ZERO), Some('a'));
        assert_eq!(inbox.next(), Some('b'));
    }

    #[test]
    fn what_nobody_will_take_is_dropped_and_what_comes_later_given_back() {
        let (send, inbox) = inbox();
        let untaken = Arc::new(());
        send.send(untaken.clone()).unwrap();
        drop(inbox);
        assert_eq!(Arc::strong_count(&untaken), 1);
        assert!(send.send(untaken).is_err());
    }
}
