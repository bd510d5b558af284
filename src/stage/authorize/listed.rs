//! What each customer's usable secrets are, by integration: for requests that name none.
//!
//! Read from the store a page at a time, up to a stated number, and kept until one of the customer's secrets
//! changes, under the bounds that records have. Each head is verified as for a lookup. What must never enter: a
//! sealed version, the order in which somebody would like to choose.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moka::sync::Cache;
use tokio::time::Instant;

use super::flights::Flights;
use super::only::{NAMED, Usable};
use super::proof::Verdict;
use super::records::{ANSWERED_WITHIN, LookupError, Records, within};
use crate::clock;
use crate::envelope::Head;
use crate::model::{Customer, IntegrationName, State};
use crate::store::SecretRow;

/// A customer with more secrets than this has to name them.
const LOOKED_AT: usize = 1_000;
const PAGE: usize = 100;
/// Memory for what is kept, in bytes, about.
const KEPT: u64 = 8 * 1024 * 1024;
/// What a secret costs here beside its label.
const OVERHEAD: usize = 96;

/// A customer's usable secrets by integration; `None` where there are too many to look at.
pub(super) type ByIntegration = Option<HashMap<IntegrationName, Arc<[Usable]>>>;

/// What one customer has.
pub(super) struct Listed {
    pub(super) secrets: ByIntegration,
    read_at: u64,
}

/// The lists that are at hand.
pub(super) type Lists = Cache<Customer, Arc<Listed>>;

/// None yet.
pub(super) fn lists() -> Lists {
    let weigh = |_: &Customer, list: &Arc<Listed>| {
        let all = list.secrets.iter().flat_map(HashMap::values).flat_map(|secrets| secrets.iter());
        let bytes: usize = all.map(|one| one.label.len() + OVERHEAD).sum();
        u32::try_from(bytes + OVERHEAD).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(KEPT).weigher(weigh).build()
}

impl Records {
    /// The customer's usable secrets by integration, from memory or the store.
    ///
    /// # Errors
    /// As [`Records::find`].
    pub(super) async fn usable(&self, customer: &Customer) -> Result<Arc<Listed>, LookupError> {
        let Some(list) = self.inner.lists.get(customer) else { return self.list(customer).await };
        if self.inner.proof.holds(list.read_at) {
            return Ok(list);
        }
        match self.inner.proof.judge(list.read_at) {
            Verdict::Serve => Ok(list),
            Verdict::Renew => {
                drop(self.list(customer));
                Ok(list)
            }
            Verdict::Ask => match self.list(customer).await {
                Err(error) if error.is_silence() && self.inner.proof.bridges(list.read_at) => Ok(list),
                read => read,
            },
        }
    }

    /// Reads the list anew, unless somebody else is about to.
    fn list(&self, customer: &Customer) -> impl Future<Output = Result<Arc<Listed>, LookupError>> + use<> {
        let (records, wanted, generation) = (self.clone(), customer.clone(), self.generation());
        let work = async move {
            let read_at = records.inner.proof.now();
            let read = records.read_list(&wanted).await;
            records.heard(&read);
            let list = Arc::new(Listed { secrets: read?, read_at });
            records.inner.lists.insert(wanted.clone(), list.clone());
            // What changed meanwhile may have been told before this stood.
            if records.inner.generation.load(Ordering::Acquire) != generation {
                records.inner.lists.invalidate(&wanted);
            }
            Ok(list)
        };
        Flights::join(&self.list_flights, customer, generation, &self.control, work).landed()
    }

    async fn read_list(&self, customer: &Customer) -> Result<ByIntegration, LookupError> {
        let mut found: HashMap<IntegrationName, Vec<Usable>> = HashMap::new();
        let (mut after, mut seen) = (None, 0);
        loop {
            let until = Instant::now() + ANSWERED_WITHIN;
            let page = within(until, self.store.secrets(customer, after, PAGE)).await?;
            seen += page.len();
            if seen > LOOKED_AT {
                return Ok(None);
            }
            after = page.last().map(|row| row.id);
            let is_last = page.len() < PAGE;
            for row in page {
                let Some((name, Some(usable))) = self.entry(&row).await? else { continue };
                let of_integration = found.entry(name).or_default();
                if of_integration.len() <= NAMED {
                    of_integration.push(usable);
                }
            }
            if is_last {
                return Ok(Some(found.into_iter().map(|(name, all)| (name, all.into())).collect()));
            }
        }
    }

    /// Its integration and, if it is usable now, what is kept of it; `None` if it went away meanwhile.
    async fn entry(&self, row: &SecretRow) -> Result<Option<Entry>, LookupError> {
        let key_id = Head::data_key_of(&row.head)?;
        let key = match self.keys.warm(&row.customer, key_id) {
            Some(key) => key,
            None => match self.store.data_key(&row.customer, key_id).await? {
                Some(wrapped) => self.keys.open(&row.customer, key_id, &wrapped).await?,
                // Sealed under another key since the row was read: it is the record as it is now.
                None => {
                    let now = self.now(&(row.customer.clone(), row.id)).await?;
                    return Ok(now.map(|record| entry_of(record.head())));
                }
            },
        };
        Ok(Some(entry_of(&Head::decode(&key, &row.customer, row.id, &row.head)?)))
    }
}

type Entry = (IntegrationName, Option<Usable>);

fn entry_of(head: &Head) -> Entry {
    let expired = head.expires_at.is_some_and(|at| clock::unix_seconds() >= at);
    let is_usable = head.state == State::Active && !expired;
    let usable = Usable { id: head.id, label: head.label.clone(), expires_at: head.expires_at };
    (head.integration.clone(), is_usable.then_some(usable))
}
