//! How often keys are read, how soon again, and how long they serve.

use std::time::Duration;

/// How often, how soon, how long.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The age at which a set is read again, where the issuer says none: 5 min.
    pub age: Duration,
    /// The least age that an issuer can ask for: 1 min.
    pub least_age: Duration,
    /// The most: 10 min, less the time that one reading may take.
    pub most_age: Duration,
    /// Between two readings that requests cause, and before a failed one is tried again: 30 s.
    pub floor: Duration,
    /// Before the first failed reading is tried again while there is no set at all; then twice as long each
    /// time up to `LONGEST_RETRY`: 1 s.
    pub first_retry: Duration,
    /// How long a set serves when no newer one can be read: 24 h.
    pub stale: Duration,
    /// How long a request waits for a reading that is under way: 2 s.
    pub wait: Duration,
    /// How long one call may take: 5 s.
    pub call: Duration,
    /// How often a file is looked at: 2 s.
    pub look: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(300),
            least_age: Duration::from_secs(60),
            // Discovery is two calls.
            most_age: Duration::from_secs(590),
            floor: Duration::from_secs(30),
            first_retry: Duration::from_secs(1),
            stale: Duration::from_secs(24 * 3600),
            wait: Duration::from_secs(2),
            call: Duration::from_secs(5),
            look: Duration::from_secs(2),
        }
    }
}
