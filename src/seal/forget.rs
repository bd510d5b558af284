//! Forgetting a customer: data keys first, then all that was sealed under them.
//!
//! Without its data key a record is noise, also one that is put back later from a copy of the store. A copy that
//! holds the wrapped data key too opens for as long as the KMS key version that wrapped it exists.

use super::{SealError, Sealer};
use crate::model::Customer;
use crate::store::Forgotten;

impl Sealer {
    /// Deletes everything of the customer.
    ///
    /// # Errors
    /// `NotFound` if there is nothing; `Store`, and then what was begun is ended by the next try or start.
    pub async fn forget(&self, customer: &Customer) -> Result<Forgotten, SealError> {
        let upkeep = self.store.upkeep();
        // A damaged one must not stand in the way.
        let keys = upkeep.data_keys(customer).await.unwrap_or_default();
        let forgotten = upkeep.forget(customer).await?;
        for (id, _) in keys {
            self.keys.forget(customer, id);
        }
        if forgotten == Forgotten::default() { Err(SealError::NotFound) } else { Ok(forgotten) }
    }
}
