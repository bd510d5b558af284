//! `[traces]`: which requests are traced, and where their spans go.

use super::audit::Otlp;

/// `[traces]`
pub struct Traces {
    /// Where spans are sent.
    pub collector: Otlp,
    /// The part of the traces that relay begins which is kept: 0.01.
    pub sample: f64,
    /// Whether the vendor is told the trace.
    pub propagate: bool,
}
