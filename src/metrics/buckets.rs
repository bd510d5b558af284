//! How long something took, in buckets that double, counted without a lock.
//!
//! The library's own histogram takes a lock for each value, at one place for all workers; this one adds twice. What
//! must never enter: a label.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The last of them has no bound.
const BUCKETS: usize = 19;

/// A histogram whose first bucket ends at `FIRST` nanoseconds, and each next one at twice that.
#[derive(Debug, Clone, Default)]
pub(super) struct Buckets<const FIRST: u64>(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl<const FIRST: u64> Buckets<FIRST> {
    /// Counts one value.
    pub(super) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let doublings = match nanos.div_ceil(FIRST) {
            0 | 1 => 0,
            firsts => u64::BITS - (firsts - 1).leading_zeros(),
        };
        let place = usize::try_from(doublings).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(count) = self.0.buckets.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl<const FIRST: u64> EncodeMetric for Buckets<FIRST> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut ends = Duration::from_nanos(FIRST);
        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(BUCKETS);
        for (place, count) in self.0.buckets.iter().enumerate() {
            let bound = if place + 1 == BUCKETS { f64::INFINITY } else { ends.as_secs_f64() };
            buckets.push((bound, count.load(Ordering::Relaxed)));
            ends *= 2;
        }
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl<const FIRST: u64> TypedMetric for Buckets<FIRST> {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_up_to_the_bound_that_it_equals() {
        let rows = [(0, 0), (1, 0), (100, 0), (101, 1), (200, 1), (201, 2), (400, 2), (u64::MAX, 18)];
        for (nanos, place) in rows {
            let buckets = Buckets::<100>::default();
            buckets.observe(Duration::from_nanos(nanos));
            let counted: Vec<_> =
                buckets.0.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            assert_eq!(counted.iter().position(|count| *count == 1), Some(place), "{nanos}: {counted:?}");
        }
    }
}
