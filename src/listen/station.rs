//! What the connections of one worker share.

use std::sync::Arc;

use super::backlog::Backlog;
use super::{DoorLimits, Draining, Observer};
use crate::metrics::Metrics;
use crate::pipeline::Worker;

/// A worker's place: what its connections share.
pub struct Station {
    /// The corridor's own state.
    pub worker: Worker,
    /// The door's limits.
    pub limits: DoorLimits,
    /// Whether relay is shutting down.
    pub draining: Arc<Draining>,
    /// Sees every answer, in `relay dev`.
    pub observer: Observer,
    /// What waits for apps, of all workers.
    pub backlog: Arc<Backlog>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}
