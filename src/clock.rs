//! Time, in the two kinds that must not be mixed.
//!
//! Wall-clock seconds judge tokens, expiry and audit stamps; [`std::time::Instant`] judges ages and
//! timeouts, so that a stepped clock changes no time-to-live. Nothing here sleeps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One moment by both clocks, taken once for all that a request asks of its beginning.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    instant: Instant,
    since_epoch: Duration,
}

impl Moment {
    /// The present one.
    pub fn now() -> Self {
        Self { instant: Instant::now(), since_epoch: since_epoch() }
    }

    /// By the clock that is never stepped.
    pub const fn instant(self) -> Instant {
        self.instant
    }

    /// Whole seconds since 1970 by the wall clock.
    pub const fn unix_seconds(self) -> u64 {
        self.since_epoch.as_secs()
    }

    /// Milliseconds since 1970 by the wall clock.
    pub fn unix_millis(self) -> u64 {
        u64::try_from(self.since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    /// Nanoseconds since 1970 by the wall clock.
    pub fn unix_nanos(self) -> u64 {
        u64::try_from(self.since_epoch.as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long it is past.
    pub fn elapsed(self) -> Duration {
        self.instant.elapsed()
    }
}

/// Whole seconds since 1970-01-01T00:00:00Z by the wall clock; 0 if the clock stands before that.
pub fn unix_seconds() -> u64 {
    since_epoch().as_secs()
}

/// Milliseconds since 1970-01-01T00:00:00Z by the wall clock; 0 if the clock stands before that.
pub fn unix_millis() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

/// `seconds` since 1970 as RFC 3339 text in UTC, for people and JSON.
pub fn rfc3339(seconds: u64) -> String {
    // Year 9999 is the last that RFC 3339 can say.
    let at = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// RFC 3339 text as seconds since 1970, or `None` if it is not that.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let at = humantime::parse_rfc3339(text).ok()?;
    at.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
