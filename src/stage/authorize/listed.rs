//! What each customer's usable secrets are, by integration: for requests that name none.
//!
//! Read from the store a page at a time, up to a stated number, and kept until one of the customer's secrets
//! changes or a minute is over. Each head is verified as for a lookup. What must never enter: a sealed
//! version, the order in which somebody would like to choose.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use moka::sync::Cache;

use super::only::{NAMED, Usable};
use super::records::{LookupError, Records};
use crate::clock;
use crate::envelope::Head;
use crate::model::{Customer, IntegrationName, State};
use crate::store::SecretRow;

/// A customer with more secrets than this has to name them.
const LOOKED_AT: usize = 1_000;
const PAGE: usize = 100;
/// Memory for what is kept, in bytes, about.
const KEPT: u64 = 8 * 1024 * 1024;
const AGE: Duration = Duration::from_secs(60);
/// What a secret costs here beside its label.
const OVERHEAD: usize = 96;

/// A customer's usable secrets by integration; `None` where there are too many to look at.
pub(super) type ByIntegration = Option<HashMap<IntegrationName, Arc<[Usable]>>>;

/// The lists that are at hand.
pub(super) type Lists = Cache<Customer, Arc<ByIntegration>>;

/// None yet.
pub(super) fn lists() -> Lists {
    let weigh = |_: &Customer, list: &Arc<ByIntegration>| {
        let all = list.iter().flat_map(HashMap::values).flat_map(|secrets| secrets.iter());
        let bytes: usize = all.map(|one| one.label.len() + OVERHEAD).sum();
        u32::try_from(bytes + OVERHEAD).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(KEPT).weigher(weigh).time_to_live(AGE).build()
}

impl Records {
    /// The customer's usable secrets by integration, from memory or the store.
    ///
    /// # Errors
    /// As [`Records::find`].
    pub(super) async fn usable(&self, customer: &Customer) -> Result<Arc<ByIntegration>, LookupError> {
        if let Some(list) = self.inner.lists.get(customer) {
            return Ok(list);
        }
        let generation = self.inner.generation.load(Ordering::Acquire);
        let list = Arc::new(Box::pin(self.read_list(customer)).await?);
        self.inner.lists.insert(customer.clone(), list.clone());
        // What changed meanwhile may have been told before this stood.
        if self.inner.generation.load(Ordering::Acquire) != generation {
            self.inner.lists.invalidate(customer);
        }
        Ok(list)
    }

    async fn read_list(&self, customer: &Customer) -> Result<ByIntegration, LookupError> {
        let mut found: HashMap<IntegrationName, Vec<Usable>> = HashMap::new();
        let (mut after, mut seen) = (None, 0);
        loop {
            let page = self.store.secrets(customer, after, PAGE).await?;
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
