//! Medians, and how sure they are.

/// The middle of `values`; they are sorted by this.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that `percent` of `values` do not exceed; they are sorted by this.
pub fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The 95 % confidence interval of the median, by the signs alone: order statistics at n/2 -+ 0.98 sqrt(n).
/// `values` are sorted by this.
pub fn median_interval(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let reach = 0.98 * n.sqrt();
    let at = |place: f64| values[(place.max(0.0) as usize).min(values.len() - 1)];
    (at((n / 2.0 - reach).floor()), at((n / 2.0 + reach).ceil()))
}

/// Bytes that look random, the same for the same seed; every other block of 64 KiB of letters and digits.
pub struct Noise {
    state: u64,
    block: u64,
}

impl Noise {
    pub const BLOCK: usize = 64 * 1024;

    pub fn of(seed: u64) -> Self {
        Self { state: seed | 1, block: 0 }
    }

    /// The next block.
    pub fn block(&mut self) -> Vec<u8> {
        let mut block = Vec::with_capacity(Self::BLOCK);
        while block.len() < Self::BLOCK {
            block.extend_from_slice(&self.next().to_le_bytes());
        }
        if self.block % 2 == 1 {
            block.iter_mut().for_each(|byte| *byte = b'0' + *byte % 75);
        }
        self.block += 1;
        block
    }

    /// The next number: Marsaglia's xorshift.
    pub fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}
