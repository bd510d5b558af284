//! How many refusals of one customer are recorded: 10 a second, the rest only counted, so that a caller
//! cannot fill the audit's disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::clock;
use crate::model::Customer;

const PER_SECOND: u32 = 10;
const REMEMBERED: usize = 10_000;

/// The budgets of all customers, shared by the workers.
#[derive(Default)]
pub struct Budget(Mutex<HashMap<Customer, Second>>);

#[derive(Default)]
struct Second {
    at: u64,
    spent: u32,
    uncounted: u64,
}

impl Budget {
    /// `Some(n)` if a record may be written, with the number of refusals that were only counted since the
    /// last one; `None` if this one is only counted.
    pub fn spend(&self, customer: &Customer) -> Option<u64> {
        let now = clock::unix_seconds();
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if budgets.len() >= REMEMBERED {
            budgets.retain(|_, second| second.at == now || second.uncounted > 0);
        }
        if budgets.len() >= REMEMBERED * 2 {
            budgets.clear();
        }
        let second = budgets.entry(customer.clone()).or_default();
        if second.at != now {
            second.at = now;
            second.spent = 0;
        }
        if second.spent >= PER_SECOND {
            second.uncounted += 1;
            return None;
        }
        second.spent += 1;
        Some(std::mem::take(&mut second.uncounted))
    }
}
