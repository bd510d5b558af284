//! How much of all requests' bodies is held at once, and of one customer's: without that, uploads that stand still
//! would hold memory without end.
//!
//! What must never enter: a body. What would break: a piece that is held and not counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::Customer;
use crate::refusal::{Code, Refusal};

/// The most that is held, in bytes.
const MOST: usize = 256 << 20;
/// The most of one customer's.
const MOST_OF_ONE: usize = 64 << 20;

/// The room for bodies that are collected, shared by all workers.
#[derive(Clone, Default)]
pub struct Room(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    all: usize,
    of: HashMap<Customer, usize>,
}

/// One body's part of it; dropping it gives it back.
pub(super) struct Place {
    room: Arc<Mutex<Held>>,
    customer: Customer,
    bytes: usize,
}

impl Room {
    /// A place for a body of which nothing has come yet.
    pub(super) fn place(&self, customer: &Customer) -> Place {
        Place { room: self.0.clone(), customer: customer.clone(), bytes: 0 }
    }
}

impl Place {
    /// Makes room for so many bytes more.
    ///
    /// # Errors
    /// `too_busy` if that is more than is held at once.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let mut held = locked(&self.room);
        let of = held.of.get(&self.customer).copied().unwrap_or_default();
        if of + bytes > MOST_OF_ONE || held.all + bytes > MOST {
            return Err(Refusal::new(
                Code::TooBusy,
                "Too many bodies that have to be collected before they are sent on are under way.",
            ));
        }
        held.all += bytes;
        held.of.insert(self.customer.clone(), of + bytes);
        drop(held);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = locked(&self.room);
        held.all = held.all.saturating_sub(self.bytes);
        let left = held.of.get(&self.customer).map_or(0, |of| of.saturating_sub(self.bytes));
        if left == 0 {
            held.of.remove(&self.customer);
        } else {
            held.of.insert(self.customer.clone(), left);
        }
    }
}

/// A panic elsewhere cannot leave a count half changed.
fn locked(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
