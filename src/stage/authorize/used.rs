//! When a secret was last used, to the hour, without a write per request.
//!
//! A use is what the audit has an intent for. Each record in memory holds the hour of its last use; a task tells the store each minute of those that it was
//! not told of, so that a secret costs a write an hour at most. What a crash loses is a minute's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::records::Key;
use crate::model::{Customer, SecretId};

const HOUR: u64 = 3600;
/// Uses told in one write.
const BATCH: usize = 500;
/// Uses kept of records that left memory; more are lost.
const MOST: usize = 100_000;

/// The hours, since 1970, of a record's last use and of the one that the store was told; 0 is never.
#[derive(Default)]
pub(super) struct Used {
    last: AtomicU64,
    told: AtomicU64,
}

impl Used {
    /// Goes on from what a record's reading before this one had noted; that one tells the store what it was not told.
    pub(super) fn follows(&self, before: &Self) {
        let hour = before.last.load(Ordering::Relaxed);
        self.last.store(hour, Ordering::Relaxed);
        self.told.store(hour, Ordering::Relaxed);
    }

    /// Notes a use at that moment, in seconds since 1970. Every hour but the first time this is one load.
    pub(super) fn note(&self, at: u64) {
        let hour = at / HOUR;
        if self.last.load(Ordering::Relaxed) != hour {
            self.last.store(hour, Ordering::Relaxed);
        }
    }
}

/// What the store is to be told.
#[derive(Default)]
pub(super) struct Pending(Mutex<Vec<(Customer, SecretId, u64)>>);

impl Pending {
    /// Takes a record's last use over, if the store was not told of it.
    pub(super) fn take(&self, (customer, id): &Key, used: &Used) {
        let hour = used.last.load(Ordering::Relaxed);
        if used.told.swap(hour, Ordering::Relaxed) == hour {
            return;
        }
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() < MOST {
            pending.push((customer.clone(), *id, hour * HOUR));
        }
    }

    /// All of it, in batches; nothing of it is left.
    pub(super) fn batches(&self) -> Vec<Vec<(Customer, SecretId, u64)>> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.chunks(BATCH).map(<[_]>::to_vec).collect()
    }
}
