//! One timer per connection, for every wait that happens on it.
//!
//! A request waits for a head, then for pieces of a body; a fresh timer for each would be put into and taken
//! out of the runtime's wheel several times per request. This one stays where it is when the deadline moves
//! later: it fires early, sees that, and is set again. What must never enter: what to do when time is up.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer whose deadline may move.
#[derive(Default)]
pub(super) struct Patience(Option<Pin<Box<Sleep>>>);

impl Patience {
    /// Ready once `deadline` has passed; until then the task is woken by it at the latest.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
