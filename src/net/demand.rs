//! An upload that waits until the vendor asks for it: `Expect: 100-continue` (RFC 9110 section 10.1.1).
//!
//! The app's body is not touched before the vendor's 100 has come or the wait for one is over; touching it is
//! what makes the door send the app its own 100. A vendor that answers for good instead never asks. What must
//! never enter: bytes.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::patience::Patience;

/// How long a vendor is waited for: many never send a 100 and just read on.
const WAITED_FOR: Duration = Duration::from_secs(1);

/// Whether the vendor wants the body. The connection that reads a 100 asks the body right behind it, so nobody has
/// to be woken.
#[derive(Debug, Clone, Default)]
pub(super) struct Demand(Rc<Cell<Wish>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Wish {
    #[default]
    Unknown,
    Asked,
    Never,
}

impl Demand {
    /// The vendor has sent its 100.
    pub(super) fn asked(&self) {
        self.settle(Wish::Asked);
    }

    /// The vendor has answered: whether it did so without asking, and then the body stays where it is.
    pub(super) fn answered(&self) -> bool {
        self.settle(Wish::Never)
    }

    fn settle(&self, wish: Wish) -> bool {
        let open = self.0.get() == Wish::Unknown;
        if open {
            self.0.set(wish);
        }
        open
    }
}

/// Holds a body back.
#[derive(Default)]
pub(super) struct Hold {
    pub(super) demand: Demand,
    since: Option<Instant>,
    patience: Patience,
}

impl Hold {
    /// Ready once the body may go.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.demand.0.get() {
            Wish::Asked => return Poll::Ready(()),
            Wish::Never => return Poll::Pending,
            Wish::Unknown => {}
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        ready!(self.patience.poll_until(cx, since + WAITED_FOR));
        self.demand.asked();
        Poll::Ready(())
    }
}
