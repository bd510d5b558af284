//! What is known of one KMS key: it works, it does not answer, it denies.
//!
//! Denied and unavailable are facts about the KMS key, established by a probe alone (`probe`): an answer
//! about one data key may be a policy on that customer's context and condemns no other. What must never
//! enter: a way from an outage to a denial.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::pace::{Pace, Turns};
use crate::clock;
use crate::kms::KmsError;
use crate::model::{Customer, DataKeyId};

/// Records kept to probe with, of different customers.
const RECORDS: usize = 2;

/// What a KMS key is known to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It opens what it wrapped.
    Works = 0,
    /// It gives no answer. Keys at hand are served up to their age.
    Unavailable = 1,
    /// It says no. Nothing that it wrapped is served.
    Denied = 2,
}

impl Standing {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Works, Self::Unavailable, Self::Denied];

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Works => "ok",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
        }
    }
}

/// A KMS key as operators are shown it.
#[derive(Debug, Clone)]
pub struct KmsKeyStanding {
    /// The provider's name.
    pub provider: &'static str,
    /// Its place in the ring: 0 wraps now.
    pub place: usize,
    /// What it does.
    pub standing: Standing,
    /// What it said last, where it does not work.
    pub why: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

/// A record that the KMS key has opened, to ask it again.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) customer: Customer,
    pub(super) id: DataKeyId,
    pub(super) wrapped: Box<[u8]>,
}

impl Record {
    pub(super) fn of((customer, id): (&Customer, DataKeyId), wrapped: &[u8]) -> Self {
        Self { customer: customer.clone(), id, wrapped: wrapped.into() }
    }
}

/// One KMS key of the ring.
pub(super) struct KmsKey {
    pub(super) provider: &'static str,
    pub(super) turns: Turns,
    /// Wakes the probe when an answer raised a doubt.
    pub(super) doubted: Notify,
    place: usize,
    standing: AtomicU8,
    known: Mutex<Known>,
}

struct Known {
    why: String,
    since: u64,
    changed: Instant,
    /// The newest first, of different customers.
    records: Vec<Record>,
    /// When it last opened or made a data key.
    used: Option<Instant>,
}

impl KmsKey {
    pub(super) fn new(place: usize, provider: &'static str, pace: Pace) -> Self {
        let known = Known {
            why: String::new(),
            since: clock::unix_seconds(),
            changed: Instant::now(),
            records: Vec::new(),
            used: None,
        };
        Self {
            provider,
            turns: Turns::new(pace),
            doubted: Notify::new(),
            place,
            standing: AtomicU8::new(Standing::Works as u8),
            known: Mutex::new(known),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let now = self.standing.load(Ordering::Relaxed);
        Standing::ALL.into_iter().find(|standing| *standing as u8 == now).unwrap_or(Standing::Denied)
    }

    /// One plain load: this is asked by every request.
    pub(super) fn denies(&self) -> bool {
        self.standing.load(Ordering::Relaxed) == Standing::Denied as u8
    }

    /// Whether it is worth a call.
    pub(super) fn admits(&self) -> Result<(), KmsError> {
        let why = || self.known().why.clone();
        match self.standing() {
            Standing::Works => Ok(()),
            Standing::Unavailable => Err(KmsError::Unavailable(why())),
            Standing::Denied => Err(KmsError::Denied(why())),
        }
    }

    /// An answer to a call for a data key. Only a probe changes the standing for the worse.
    pub(super) fn heard<T>(&self, answer: &Result<T, KmsError>) {
        match answer {
            // One that was sent before the denial says nothing of now.
            Ok(_) if self.standing() == Standing::Unavailable => self.becomes(Standing::Works, ""),
            Ok(_) | Err(KmsError::Broken(_)) => {}
            Err(KmsError::Unavailable(_) | KmsError::Denied(_)) => self.doubted.notify_one(),
        }
    }

    /// It opened or made this: a record to probe with.
    pub(super) fn opened(&self, record: Record) {
        let mut known = self.known();
        known.used = Some(Instant::now());
        known.records.retain(|other| other.customer != record.customer);
        known.records.insert(0, record);
        known.records.truncate(RECORDS);
    }

    /// The records to probe with; none if nothing that it wrapped was used for longer than `within`, unless
    /// it is the one that wraps.
    pub(super) fn records(&self, within: Duration) -> Vec<Record> {
        let known = self.known();
        let used = known.used.is_some_and(|at| at.elapsed() <= within);
        if used || self.place == 0 { known.records.clone() } else { Vec::new() }
    }

    /// No probe uses these any more.
    pub(super) fn unlearn(&self, mut which: impl FnMut(&Record) -> bool) {
        self.known().records.retain(|record| !which(record));
    }

    /// What the probe found. Told once per change.
    pub(super) fn becomes(&self, standing: Standing, why: &str) {
        let mut known = self.known();
        let before = self.standing();
        if !why.is_empty() {
            why.clone_into(&mut known.why);
        }
        if before == standing {
            return;
        }
        self.standing.store(standing as u8, Ordering::Relaxed);
        (known.since, known.changed) = (clock::unix_seconds(), Instant::now());
        let (provider, place) = (self.provider, self.place);
        match standing {
            Standing::Works => {
                known.why.clear();
                tracing::info!(provider, place, before = before.as_str(), "the KMS key can be used again");
            }
            Standing::Unavailable => {
                tracing::error!(
                    provider,
                    place,
                    cause = why,
                    "the KMS gives no answer: data keys at hand are served up to [keys] serve_at_most, others are refused"
                );
            }
            Standing::Denied => {
                tracing::error!(
                    provider,
                    place,
                    cause = why,
                    "the KMS denies the use of its key: everything that it wrapped is refused"
                );
            }
        }
    }

    /// How long it has stood so.
    pub(super) fn stands_for(&self) -> Duration {
        self.known().changed.elapsed()
    }

    pub(super) fn shown(&self) -> KmsKeyStanding {
        let known = self.known();
        KmsKeyStanding {
            provider: self.provider,
            place: self.place,
            standing: self.standing(),
            why: known.why.clone(),
            since: known.since,
        }
    }

    // No code under this lock can stop half-way through a change, so a poisoned lock guards whole data.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
