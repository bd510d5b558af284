//! How much one customer may ask for at once and per second.
//!
//! Both tables are bounded: requests under way by themselves, rates by forgetting customers that are back
//! at their full burst. Counted across all workers, so that many connections gain nothing.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::model::Customer;
use crate::refusal::{Code, Refusal};

/// Customers whose rate is remembered before those at rest are forgotten.
const REMEMBERED: usize = 100_000;

/// Requests under way by customer.
pub struct InFlight {
    counts: Arc<Mutex<HashMap<Customer, usize>>>,
    most: usize,
}

impl InFlight {
    /// No requests yet, at most `most` per customer.
    pub fn new(most: usize) -> Self {
        Self { counts: Arc::default(), most }
    }
}

/// One request under way; dropping it frees the place.
pub struct Permit {
    counts: Arc<Mutex<HashMap<Customer, usize>>>,
    customer: Customer,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = locked(&self.counts);
        if let Some(count) = counts.get_mut(&self.customer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.customer);
            }
        }
    }
}

/// Requests per second and customer on one integration (GCRA, burst as large as a second's worth).
pub struct Rate {
    limiter: DefaultKeyedRateLimiter<Customer>,
    clock: DefaultClock,
}

impl Rate {
    /// `per_second` requests; 0 counts as 1.
    pub fn new(per_second: u32) -> Self {
        let per_second = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        Self { limiter: RateLimiter::keyed(Quota::per_second(per_second)), clock: DefaultClock::default() }
    }

    fn check(&self, customer: &Customer) -> Result<(), Duration> {
        if self.limiter.len() > REMEMBERED {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(customer).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

/// Takes a place for one request.
///
/// # Errors
/// `rate_limited` or `too_busy`, with Retry-After.
pub(super) fn admit(
    in_flight: &InFlight,
    rate: Option<&Rate>,
    customer: &Customer,
) -> Result<Permit, Refusal> {
    if let Some(rate) = rate {
        rate.check(customer).map_err(|wait| {
            Refusal::new(
                Code::RateLimited,
                "This customer's requests per second on this integration are used up.",
            )
            .after(wait)
        })?;
    }
    let mut counts = locked(&in_flight.counts);
    let count = counts.entry(customer.clone()).or_insert(0);
    if *count >= in_flight.most {
        return Err(Refusal::new(Code::TooBusy, "This customer has too many requests under way."));
    }
    *count += 1;
    drop(counts);
    Ok(Permit { counts: in_flight.counts.clone(), customer: customer.clone() })
}

/// A panic elsewhere cannot leave a count half changed.
fn locked(counts: &Mutex<HashMap<Customer, usize>>) -> MutexGuard<'_, HashMap<Customer, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
