//! How much a store holds, and a sum over all of it that no order changes.
//!
//! Two engines walk in different orders, so each record's SHA-256 is added to the sum, as four numbers of 64 bits.
//! It shows what was lost or changed on the way; against malice it is nothing, and nothing relies on it for that.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

/// What stands at a stream's end, and what a walk over a store finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Customers that have something.
    pub customers: u64,
    /// Their data keys.
    pub data_keys: u64,
    /// Secrets.
    pub secrets: u64,
    /// Versions that are not current.
    pub past: u64,
    /// Store-wide records.
    pub metas: u64,
    /// Over all records.
    pub sum: [u64; 4],
}

impl Totals {
    /// Adds a record to the sum.
    pub(super) fn add(&mut self, record: &[u8]) {
        let hash = digest(&SHA256, record);
        for (lane, bytes) in self.sum.iter_mut().zip(hash.as_ref().chunks_exact(8)) {
            let number = bytes.iter().fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
            *lane = lane.wrapping_add(number);
        }
    }

    /// The sum as text.
    pub fn sum_text(&self) -> String {
        self.sum.iter().map(|lane| format!("{lane:016x}")).collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "customers {}, data keys {}, secrets {}, past versions {}",
            self.customers, self.data_keys, self.secrets, self.past
        )
    }
}
