//! New data keys: a customer's records are sealed under a fresh one, and the old ones go.
//!
//! The order is what keeps every request going: first the new key is the active one, so that nothing more is
//! sealed under the old; then each record is sealed anew, if it still is what was read; the old key goes when
//! nothing is under it. Stopped anywhere, the next run ends it. A record that cannot be opened keeps its key.

use tokio::sync::Semaphore;

use super::at_hand::{AtHand, Outcome};
use super::{SealError, Sealer};
use crate::envelope::Head;
use crate::model::{Customer, DataKeyId};
use crate::store::StoreError;

/// Records of a customer that are read at once.
pub(super) const PAGE: usize = 32;

/// Which data keys are old enough.
#[derive(Debug, Clone, Copy)]
pub(super) enum Due {
    /// Those made up to this moment, in milliseconds since 1970.
    MadeUntil(u64),
    /// Those that are this old at that moment, or up to a tenth less, each at its own time, so that keys that
    /// were made together are not all replaced together.
    Older {
        /// In milliseconds.
        than: u64,
        /// In milliseconds since 1970.
        at: u64,
    },
}

impl Due {
    /// Whether `key` is. One that does not tell its age is.
    pub(super) fn is(self, key: DataKeyId) -> bool {
        let Some(made) = key.made_at() else { return true };
        match self {
            Self::MadeUntil(moment) => made <= moment,
            Self::Older { than, at } => {
                let [.., high, low] = key.as_bytes();
                let earlier = than / 10 * u64::from(u16::from_be_bytes([*high, *low])) / u64::from(u16::MAX);
                at.saturating_sub(made) >= than.saturating_sub(earlier)
            }
        }
    }
}

impl Sealer {
    /// Gives the customer a new data key if the active one is due, and seals everything under the active one.
    pub(super) async fn renew(
        &self,
        customer: &Customer,
        due: Due,
        calls: &Semaphore,
    ) -> Result<Outcome, SealError> {
        let Some((active, _)) = self.store.active_data_key(customer).await? else {
            return Ok(Outcome::default());
        };
        let at_hand = AtHand::new(self, customer, calls);
        if due.is(active) {
            let (key, wrapped) = at_hand.create().await?;
            let upkeep = self.store.upkeep();
            let renewed = upkeep.renew_data_key(customer, active, key.id(), wrapped.into()).await;
            if let Err(error) = renewed {
                self.keys.forget(customer, key.id());
                // Another relay was faster, or the customer was forgotten.
                if !matches!(error, StoreError::Conflict) {
                    return Err(error.into());
                }
            }
        }
        self.gather(at_hand).await
    }

    /// Seals under the active data key what is under another, and removes the others.
    async fn gather(&self, mut at_hand: AtHand<'_>) -> Result<Outcome, SealError> {
        let (upkeep, customer) = (self.store.upkeep(), at_hand.customer);
        let mut outcome = Outcome::default();
        // Read before the active one: a key that is made from now on is not in this list.
        let keys = upkeep.data_keys(customer).await?;
        let Some((active, _)) = self.store.active_data_key(customer).await? else { return Ok(outcome) };
        let others: Vec<DataKeyId> = keys.iter().map(|(id, _)| *id).filter(|id| *id != active).collect();
        if others.is_empty() {
            return Ok(outcome);
        }
        let elsewhere = |head: &[u8]| Head::data_key_of(head) != Ok(active);
        let mut after = None;
        loop {
            let page = self.store.secrets(customer, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for row in page {
                let id = row.id;
                if elsewhere(&row.head) {
                    let done = at_hand.reseal(row, Some(active), &|head| head.data_key != active).await;
                    outcome.count(id, done)?;
                }
                // Behind the current version: what becomes a past one from now on is under the active key.
                for past in upkeep.past(customer, id).await? {
                    if past.head.as_ref().is_some_and(|head| elsewhere(head)) {
                        let done = at_hand.reseal_past(id, past, Some(active), &|_| true).await;
                        outcome.count(id, done)?;
                    }
                }
            }
        }
        if outcome.left == 0 {
            for id in others {
                match upkeep.remove_data_key(customer, id).await {
                    Ok(_) => self.keys.forget(customer, id),
                    Err(StoreError::Conflict) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(outcome)
    }
}
