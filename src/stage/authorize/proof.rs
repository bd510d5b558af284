//! How far what is at hand may be relied on: by how the store's change feed stands, and since when.
//!
//! While the feed is live, what was read since it became so is as good as the store, and a request learns that by
//! one load. A deaf feed bounds it to two seconds since it was last proven, a store that is gone to a minute. What
//! must never enter: the wall clock, or a clock at all where the feed is live.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::store::{Feed, NOTICED_WITHIN};

/// How long a failed answer of the store speaks for the next ones: what may be bridged does not wait for it again.
const FAILURE_KEPT: Duration = Duration::from_millis(500);
/// Never, and while the feed is not live: nothing is proven by having been read.
const NOTHING: u64 = u64::MAX;

/// How long what is at hand serves without a proof that it is still so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// While changes may be missed.
    pub deaf: Duration,
    /// While the store does not answer.
    pub gone: Duration,
    /// How long a feed may have heard nothing before it is known not to be live: counted against both.
    pub noticed: Duration,
}

impl Default for Bounds {
    /// Two seconds, and a minute.
    fn default() -> Self {
        let (deaf, gone) = (Duration::from_secs(2), Duration::from_secs(60));
        Self { deaf, gone, noticed: NOTICED_WITHIN }
    }
}

/// What to do with something at hand that the feed does not vouch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It serves.
    Serve,
    /// It serves, and is read again beside that, so that nobody has to wait for it later.
    Renew,
    /// The store is asked first.
    Ask,
}

enum Clock {
    Steady(Instant),
    #[cfg(test)]
    Set(AtomicU64),
}

/// When anything was last known to be as it is in the store. Times are nanoseconds since this began.
pub(super) struct Proof {
    bounds: Bounds,
    clock: Clock,
    feed: AtomicU8,
    /// What was read at this moment or later is vouched for by the feed.
    since: AtomicU64,
    /// Until when the feed vouched for all that was at hand.
    live_until: AtomicU64,
    /// When the store last answered while the feed was not live.
    answered_at: AtomicU64,
    /// When it last answered, whether or not the feed was live.
    heard_at: AtomicU64,
    /// When the store last failed; 0 is never.
    failed_at: AtomicU64,
}

impl Proof {
    pub(super) fn new(bounds: Bounds, feed: Feed) -> Self {
        Self {
            bounds,
            clock: Clock::Steady(Instant::now()),
            feed: AtomicU8::new(number(feed)),
            since: AtomicU64::new(if feed == Feed::Live { 0 } else { NOTHING }),
            live_until: AtomicU64::new(0),
            answered_at: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            failed_at: AtomicU64::new(0),
        }
    }

    pub(super) const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The present moment, for what is about to be read.
    pub(super) fn now(&self) -> u64 {
        match &self.clock {
            Clock::Steady(began) => nanos(began.elapsed()),
            #[cfg(test)]
            Clock::Set(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Whether the feed vouches for what was read at that moment: asked by every request.
    pub(super) fn holds(&self, read_at: u64) -> bool {
        read_at >= self.since.load(Ordering::Acquire)
    }

    pub(super) fn feed(&self) -> Feed {
        match self.feed.load(Ordering::Acquire) {
            0 => Feed::Live,
            1 => Feed::Deaf,
            _ => Feed::Gone,
        }
    }

    /// Notes how the feed stands from now on. One task only says so.
    pub(super) fn stands(&self, feed: Feed) {
        let (was_live, is_live) = (self.feed() == Feed::Live, feed == Feed::Live);
        if was_live && !is_live {
            // First: who sees a feed that is lost, or that nothing holds, sees until when it did.
            let live_until = self.now().saturating_sub(nanos(self.bounds.noticed));
            self.live_until.store(live_until, Ordering::Release);
        }
        self.feed.store(number(feed), Ordering::Release);
        if was_live != is_live {
            self.since.store(if is_live { self.now() } else { NOTHING }, Ordering::Release);
        }
    }

    /// What was read before this moment is vouched for no more.
    pub(super) fn begin_anew(&self) {
        if self.feed() == Feed::Live {
            self.since.store(self.now(), Ordering::Release);
        }
    }

    /// What to do with what was read at that moment, where [`Proof::holds`] says no.
    pub(super) fn judge(&self, read_at: u64) -> Verdict {
        let age = self.age(read_at);
        let Bounds { deaf, gone, .. } = self.bounds;
        match self.feed() {
            Feed::Gone if age < gone => Verdict::Serve,
            Feed::Deaf if age < deaf / 2 => Verdict::Serve,
            Feed::Deaf if age < deaf => Verdict::Renew,
            Feed::Live | Feed::Deaf if age < gone && self.has_just_failed() => Verdict::Serve,
            Feed::Live | Feed::Deaf | Feed::Gone => Verdict::Ask,
        }
    }

    /// Whether what was read at that moment is young enough to be judged by.
    pub(super) fn is_recent(&self, read_at: u64) -> bool {
        self.holds(read_at) || (self.feed() == Feed::Deaf && self.age(read_at) < self.bounds.deaf / 2)
    }

    /// Whether what was read at that moment serves although the store gave no answer.
    pub(super) fn bridges(&self, read_at: u64) -> bool {
        self.age(read_at) < self.bounds.gone
    }

    /// The store answered.
    pub(super) fn answered(&self) {
        let now = self.now();
        self.heard_at.store(now, Ordering::Release);
        if self.feed() != Feed::Live {
            self.answered_at.store(now, Ordering::Release);
            self.failed_at.store(0, Ordering::Release);
        }
    }

    /// The store gave no answer.
    pub(super) fn failed(&self) {
        self.failed_at.store(self.now().max(1), Ordering::Release);
    }

    /// Whether nothing at hand serves: nothing was read so late that it would.
    pub(super) fn serves_nothing(&self) -> bool {
        self.is_lost() && self.age(self.heard_at.load(Ordering::Acquire)) >= self.bounds.gone
    }

    /// Whether the store has proven nothing for so long that what is open ends.
    pub(super) fn is_lost(&self) -> bool {
        if self.feed() == Feed::Live {
            return false;
        }
        self.age(self.answered_at.load(Ordering::Acquire)) >= self.bounds.gone
    }

    fn age(&self, read_at: u64) -> Duration {
        let proven_at = read_at.max(self.live_until.load(Ordering::Acquire));
        Duration::from_nanos(self.now().saturating_sub(proven_at))
    }

    fn has_just_failed(&self) -> bool {
        let failed_at = self.failed_at.load(Ordering::Acquire);
        failed_at != 0 && self.now().saturating_sub(failed_at) < nanos(FAILURE_KEPT)
    }
}

const fn number(feed: Feed) -> u8 {
    match feed {
        Feed::Live => 0,
        Feed::Deaf => 1,
        Feed::Gone => 2,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        deaf: Duration::from_nanos(200),
        gone: Duration::from_nanos(6000),
        noticed: Duration::from_nanos(50),
    };

    fn at(now: u64) -> Proof {
        Proof { clock: Clock::Set(AtomicU64::new(now)), ..Proof::new(BOUNDS, Feed::Live) }
    }

    fn pass(proof: &Proof, nanos: u64) {
        let Clock::Set(now) = &proof.clock else { unreachable!() };
        now.fetch_add(nanos, Ordering::Relaxed);
    }

    #[test]
    fn what_was_read_is_vouched_for_by_a_live_feed_alone() {
        let proof = at(1000);
        assert!(proof.holds(0) && !proof.is_lost());
        proof.stands(Feed::Deaf);
        assert!(!proof.holds(0) && !proof.holds(1000), "nothing holds while changes are missed");
        pass(&proof, 1);
        proof.stands(Feed::Gone);
        proof.stands(Feed::Live);
        assert!(!proof.holds(1000), "what was read before may have changed meanwhile");
        assert!(proof.holds(proof.now()));
        pass(&proof, 1);
        proof.begin_anew();
        assert!(!proof.holds(1001) && proof.holds(1002));
    }

    #[test]
    fn each_bound_counts_from_the_last_proof() {
        let proof = at(1000);
        proof.stands(Feed::Deaf);
        assert_eq!(proof.judge(0), Verdict::Serve, "the feed vouched for it until a moment ago");
        pass(&proof, 50);
        assert_eq!(proof.judge(0), Verdict::Renew);
        pass(&proof, 100);
        assert_eq!(proof.judge(0), Verdict::Ask);
        assert_eq!(proof.judge(1150), Verdict::Serve, "what was read again serves again");
        proof.failed();
        assert_eq!(proof.judge(0), Verdict::Serve, "a store that fails is not waited for by everyone");
        proof.answered();
        assert_eq!(proof.judge(0), Verdict::Ask);
        proof.stands(Feed::Gone);
        assert_eq!(proof.judge(0), Verdict::Serve);
        pass(&proof, 5799);
        assert_eq!(proof.judge(0), Verdict::Serve);
        pass(&proof, 1);
        assert_eq!(proof.judge(0), Verdict::Ask, "a minute after the feed was last live");
        assert!(!proof.bridges(0) && !proof.is_lost(), "the store answered later than that");
        pass(&proof, 200);
        assert!(proof.is_lost());
    }
    #[test]
    fn what_was_read_just_before_the_feed_was_lost_serves_longest() {
        let proof = at(10_000);
        proof.answered();
        proof.stands(Feed::Gone);
        pass(&proof, 5960);
        assert!(proof.is_lost(), "what is open was vouched for until 50 before");
        assert_eq!(proof.judge(10_000), Verdict::Serve);
        assert!(!proof.serves_nothing(), "so that is not said while it serves");
        pass(&proof, 40);
        assert_eq!(proof.judge(10_000), Verdict::Ask);
        assert!(proof.serves_nothing());
    }
}
