//! How much one customer may ask for at once and per second: altogether, of one integration, with one secret.
//!
//! A vendor that hangs holds its requests, so each integration has a share of a customer's requests under way;
//! what it holds is never all. Every table is bounded: loads by the customers that have requests, rates by
//! forgetting those that are back at their full burst. Counted across all workers, so that many connections
//! gain nothing.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::model::{Customer, SecretId};
use crate::refusal::{Code, Refusal};

/// Customers whose rate is remembered before those at rest are forgotten.
const REMEMBERED: usize = 100_000;
/// Customers or secrets that are kept before those without a request are looked for.
const KEPT: usize = 10_000;

/// Requests under way by customer, and how secrets with limits of their own are used.
pub struct InFlight {
    customers: Arc<Mutex<Table<Customer, Load>>>,
    secrets: Arc<Mutex<Table<SecretId, Use>>>,
    most: usize,
}

/// Rows that stay after their use, so that the next one makes no room anew; at most twice those in use, or
/// [`KEPT`].
struct Table<K, V> {
    rows: HashMap<K, V>,
    room: usize,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: HashMap::new(), room: KEPT }
    }
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// Lets the rows go that are at rest, if there is no room for one more.
    fn make_room(&mut self, rests: impl Fn(&V) -> bool) {
        if self.rows.len() >= self.room {
            self.rows.retain(|_, row| !rests(row));
            self.room = KEPT.max(self.rows.len() * 2);
        }
    }
}

/// One customer's requests under way.
#[derive(Default)]
struct Load {
    all: usize,
    /// By the integration's number.
    each: Vec<u32>,
}

struct Use {
    under_way: usize,
    /// When the rate would be at rest again (GCRA's theoretical arrival time).
    rests_at: Instant,
}

impl InFlight {
    /// No requests yet, at most `most` per customer.
    pub fn new(most: usize) -> Self {
        Self { customers: Arc::default(), secrets: Arc::default(), most }
    }

    /// The same requests, with another limit.
    #[must_use]
    pub fn with(&self, most: usize) -> Self {
        Self { customers: self.customers.clone(), secrets: self.secrets.clone(), most }
    }

    /// What one integration may hold of it, unless it says so itself: half, so that one vendor that hangs
    /// leaves the other half.
    const fn share(&self) -> usize {
        self.most.div_ceil(2)
    }
}

/// One integration's limits per customer.
pub struct Share {
    number: usize,
    rate: Option<Rate>,
    most: Option<usize>,
}

impl Share {
    /// `number` counts the integrations. `rate` is per second, `burst` at once where the customer was at rest,
    /// `most` under way.
    pub fn new(number: usize, rate: Option<u32>, burst: Option<u32>, most: Option<usize>) -> Self {
        Self { number, rate: rate.map(|rate| Rate::new(rate, burst.unwrap_or(rate))), most }
    }
}

/// One request under way; dropping it frees the place.
pub struct Permit {
    customers: Arc<Mutex<Table<Customer, Load>>>,
    customer: Customer,
    number: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut customers = locked(&self.customers);
        if let Some(load) = customers.rows.get_mut(&self.customer) {
            load.all = load.all.saturating_sub(1);
            if let Some(count) = load.each.get_mut(self.number) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

/// One request under way with a secret that has a limit of its own.
pub struct SecretPermit {
    secrets: Arc<Mutex<Table<SecretId, Use>>>,
    secret: SecretId,
}

impl Drop for SecretPermit {
    fn drop(&mut self) {
        if let Some(kept) = locked(&self.secrets).rows.get_mut(&self.secret) {
            kept.under_way = kept.under_way.saturating_sub(1);
        }
    }
}

/// Requests per second and customer on one integration (GCRA).
struct Rate {
    limiter: DefaultKeyedRateLimiter<Customer>,
    clock: DefaultClock,
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Self {
        let whole = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(whole(per_second)).allow_burst(whole(burst));
        Self { limiter: RateLimiter::keyed(quota), clock: DefaultClock::default() }
    }

    fn check(&self, customer: &Customer) -> Result<(), Duration> {
        if self.limiter.len() > REMEMBERED {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(customer).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

/// Takes a place for one request of `customer` on the integration whose share this is.
///
/// # Errors
/// `rate_limited` or `too_busy`, with Retry-After.
pub(super) fn admit(in_flight: &InFlight, share: &Share, customer: &Customer) -> Result<Permit, Refusal> {
    if let Some(rate) = &share.rate {
        rate.check(customer).map_err(|wait| {
            limited("This customer's requests per second on this integration are used up.", wait)
        })?;
    }
    let mut customers = locked(&in_flight.customers);
    let load = match customers.rows.get_mut(customer) {
        Some(load) => load,
        None => {
            customers.make_room(|load| load.all == 0);
            customers.rows.entry(customer.clone()).or_default()
        }
    };
    if load.all >= in_flight.most {
        return Err(Refusal::new(Code::TooBusy, "This customer has too many requests under way."));
    }
    if load.each.len() <= share.number {
        load.each.resize(share.number + 1, 0);
    }
    if let Some(count) = load.each.get_mut(share.number) {
        if usize::try_from(*count).unwrap_or(usize::MAX) >= share.most.unwrap_or_else(|| in_flight.share()) {
            let detail = "This customer has too many requests under way on this integration.";
            return Err(Refusal::new(Code::TooBusy, detail));
        }
        *count += 1;
    }
    load.all += 1;
    drop(customers);
    Ok(Permit { customers: in_flight.customers.clone(), customer: customer.clone(), number: share.number })
}

/// A secret's own limits: requests per second and burst, requests under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnLimits {
    pub(super) rate: Option<(u32, u32)>,
    pub(super) most: Option<usize>,
}

/// Takes a place for one request with a secret that has limits of its own.
///
/// # Errors
/// `rate_limited` or `too_busy`, with Retry-After.
pub(super) fn admit_secret(
    in_flight: &InFlight,
    limits: OwnLimits,
    secret: SecretId,
) -> Result<SecretPermit, Refusal> {
    let now = Instant::now();
    let mut secrets = locked(&in_flight.secrets);
    let kept = match secrets.rows.get_mut(&secret) {
        Some(kept) => kept,
        None => {
            secrets.make_room(|kept| kept.under_way == 0 && kept.rests_at <= now);
            secrets.rows.entry(secret).or_insert(Use { under_way: 0, rests_at: now })
        }
    };
    if limits.most.is_some_and(|most| kept.under_way >= most) {
        return Err(Refusal::new(Code::TooBusy, "This secret has too many requests under way."));
    }
    if let Some((rate, burst)) = limits.rate {
        let each = Duration::from_secs(1) / rate.max(1);
        let rests_at = kept.rests_at.max(now);
        let wait = (rests_at - now).saturating_sub(each.saturating_mul(burst.saturating_sub(1)));
        if !wait.is_zero() {
            return Err(limited("This secret's requests per second are used up.", wait));
        }
        kept.rests_at = rests_at + each;
    }
    kept.under_way += 1;
    drop(secrets);
    Ok(SecretPermit { secrets: in_flight.secrets.clone(), secret })
}

fn limited(detail: &'static str, wait: Duration) -> Refusal {
    Refusal::new(Code::RateLimited, detail).after(wait)
}

/// A panic elsewhere cannot leave a count half changed.
fn locked<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(name: &str) -> Customer {
        Customer::parse(name).unwrap()
    }

    #[test]
    fn one_integration_never_holds_all_of_a_customers_requests() {
        let in_flight = InFlight::new(4);
        let (hangs, other) = (Share::new(0, None, None, None), Share::new(1, None, None, Some(3)));
        let held: Vec<_> = (0..2).map(|_| admit(&in_flight, &hangs, &customer("acme")).unwrap()).collect();
        assert_eq!(admit(&in_flight, &hangs, &customer("acme")).err().unwrap().code(), Code::TooBusy);
        let more: Vec<_> = (0..2).map(|_| admit(&in_flight, &other, &customer("acme")).unwrap()).collect();
        assert!(admit(&in_flight, &other, &customer("acme")).is_err(), "the customer's own whole");
        assert!(admit(&in_flight, &hangs, &customer("globex")).is_ok(), "another customer's is its own");
        drop(held);
        assert!(admit(&in_flight, &hangs, &customer("acme")).is_ok(), "what ended is free");
        drop(more);
        let one = InFlight::new(1);
        assert!(admit(&one, &hangs, &customer("acme")).is_ok(), "half of one is one");
    }

    #[test]
    fn customers_at_rest_are_forgotten() {
        let in_flight = InFlight::new(4);
        locked(&in_flight.customers).room = 3;
        let share = Share::new(0, None, None, None);
        let _held = admit(&in_flight, &share, &customer("busy")).unwrap();
        for name in ["a", "b", "c"] {
            drop(admit(&in_flight, &share, &customer(name)).unwrap());
        }
        let kept = locked(&in_flight.customers);
        assert!(kept.rows.len() == 2 && kept.rows.contains_key(&customer("busy")));
    }

    #[test]
    fn a_secrets_own_rate_has_its_burst_and_says_when() {
        let in_flight = InFlight::new(4);
        let id = SecretId::random();
        let limits = OwnLimits { rate: Some((1, 3)), most: None };
        for number in 0..3 {
            assert!(admit_secret(&in_flight, limits, id).is_ok(), "{number} of the burst");
        }
        let refused = admit_secret(&in_flight, limits, id).err().unwrap();
        let wait = refused.retry_after().unwrap();
        assert_eq!(refused.code(), Code::RateLimited);
        assert!(wait > Duration::from_millis(900) && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(admit_secret(&in_flight, limits, SecretId::random()).is_ok(), "another secret's is its own");
        let two = OwnLimits { rate: None, most: Some(2) };
        let id = SecretId::random();
        let held: Vec<_> = (0..2).map(|_| admit_secret(&in_flight, two, id).unwrap()).collect();
        assert_eq!(admit_secret(&in_flight, two, id).err().unwrap().code(), Code::TooBusy);
        drop(held);
        assert!(admit_secret(&in_flight, two, id).is_ok());
    }
}
