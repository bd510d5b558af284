//! An upload that waits until the vendor asks for it: `Expect: 100-continue` (RFC 9110 section 10.1.1).
//!
//! The app's body is not touched before the vendor's 100 has come or the wait for one is over; touching it is
//! what makes the door send the app its own 100. A vendor that answers for good instead never asks. What must
//! never enter: bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, StatusCode};
use tokio::time::Instant;

use super::body::Outgoing;
use super::patience::Patience;

/// How long a vendor is waited for: many never send a 100 and just read on.
const WAITED_FOR: Duration = Duration::from_secs(1);

const WAITED: u8 = 0;
const ASKED: u8 = 1;
const NEVER: u8 = 2;

/// Whether the vendor wants the body. Atomic only because hyper wants its callback so: all of it happens on
/// one thread, and the connection that sees a 100 asks the body right behind it, so nobody has to be woken.
#[derive(Clone, Default)]
pub(super) struct Demand(Arc<AtomicU8>);

impl Demand {
    /// The vendor has sent its 100.
    pub(super) fn asked(&self) {
        let _ = self.0.compare_exchange(WAITED, ASKED, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The vendor has answered: whether it did so without asking, and then the body stays where it is.
    pub(super) fn answered(&self) -> bool {
        self.0.compare_exchange(WAITED, NEVER, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Has the vendor's 100 to this request noted, if its body waits for one.
pub(super) fn listen(request: &mut Request<Outgoing>) -> Option<Demand> {
    let demand = request.body().demand()?;
    let told = demand.clone();
    hyper::ext::on_informational(request, move |interim| {
        if interim.status() == StatusCode::CONTINUE {
            told.asked();
        }
    });
    Some(demand)
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
        match self.demand.0.load(Ordering::Relaxed) {
            ASKED => return Poll::Ready(()),
            NEVER => return Poll::Pending,
            _ => {}
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        ready!(self.patience.poll_until(cx, since + WAITED_FOR));
        self.demand.asked();
        Poll::Ready(())
    }
}
