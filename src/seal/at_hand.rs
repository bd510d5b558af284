//! One customer at work: its data keys, opened once, and its records, sealed anew.
//!
//! A job opens each data key of a customer at most once, and a few customers' at a time. Values pass through
//! [`envelope::reseal`] and are never seen here.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{NO_DATA_KEY, SealError, Sealer, TRIES};
use crate::envelope::{self, EnvelopeError, Head};
use crate::kms::KmsError;
use crate::model::{Customer, DataKeyId, SecretId};
use crate::secret::DataKey;
use crate::store::{Expected, Past, SecretRow, StoreError};

/// What came of one customer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcome {
    /// Data keys wrapped anew, or records sealed anew.
    pub(super) moved: u64,
    /// Those that could not be.
    pub(super) left: u64,
}

impl Outcome {
    /// Counts what came of one record. What a later try can mend is returned, to be tried later.
    pub(super) fn count(&mut self, id: SecretId, done: Result<bool, SealError>) -> Result<(), SealError> {
        match done {
            Ok(moved) => self.moved += u64::from(moved),
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => {
                tracing::error!(secret = %id, %error, "a secret cannot be sealed anew and stays as it is");
                self.left += 1;
            }
        }
        Ok(())
    }
}

impl SealError {
    /// Whether a later try can mend it.
    pub(super) const fn may_pass(&self) -> bool {
        match self {
            Self::Keys(KmsError::Unavailable(_) | KmsError::Denied(_))
            | Self::Store(StoreError::Unavailable(_) | StoreError::Unknown(_) | StoreError::Full)
            | Self::Audit(_) => true,
            Self::Keys(KmsError::Broken(_))
            | Self::Store(StoreError::Conflict | StoreError::Damaged(_))
            | Self::NotFound
            | Self::UnknownIntegration
            | Self::Invalid { .. }
            | Self::IdempotencyReused
            | Self::Conflict
            | Self::Unusable(_) => false,
        }
    }
}

/// Makes of a head what it shall be; whether there is anything to change.
pub(super) type Change<'a> = &'a (dyn Fn(&mut Head) -> bool + Send + Sync);

/// A customer whose records are sealed anew.
pub(super) struct AtHand<'a> {
    pub(super) sealer: &'a Sealer,
    pub(super) customer: &'a Customer,
    /// How many KMS calls may be under way for all customers at work.
    calls: &'a Semaphore,
    opened: HashMap<DataKeyId, Arc<DataKey>>,
}

impl<'a> AtHand<'a> {
    pub(super) fn new(sealer: &'a Sealer, customer: &'a Customer, calls: &'a Semaphore) -> Self {
        Self { sealer, customer, calls, opened: HashMap::new() }
    }

    /// One of the customer's data keys.
    pub(super) async fn key(&mut self, id: DataKeyId) -> Result<Arc<DataKey>, SealError> {
        if let Some(key) = self.opened.get(&id) {
            return Ok(key.clone());
        }
        let wrapped = self.sealer.store.data_key(self.customer, id).await?.ok_or(NO_DATA_KEY)?;
        let turn = self.calls.acquire().await;
        let key = self.sealer.keys.open_once(self.customer, id, &wrapped).await?;
        drop(turn);
        self.opened.insert(id, key.clone());
        Ok(key)
    }

    /// Seals a secret's current version as `change` makes its head, under `under` or the key it has; whether
    /// it did.
    pub(super) async fn reseal(
        &mut self,
        mut row: SecretRow,
        under: Option<DataKeyId>,
        change: Change<'_>,
    ) -> Result<bool, SealError> {
        for _ in 0..TRIES {
            let old = match self.key(Head::data_key_of(&row.head)?).await {
                Err(SealError::Unusable(NO_DATA_KEY)) => None,
                key => Some(key?),
            };
            if let Some(old) = old {
                let head = Head::decode(&old, self.customer, row.id, &row.head)?;
                if head.version != row.version {
                    return Err(EnvelopeError::Damaged("its row and its head name different versions").into());
                }
                let mut next = head.clone();
                if !change(&mut next) {
                    return Ok(false);
                }
                let new = self.key(under.unwrap_or(head.data_key)).await?;
                next.data_key = new.id();
                let (from, to) = ((&*old, &head.binding()), (&*new, &next.binding()));
                let sealed = envelope::reseal(from, &row.sealed, to)?;
                let tokens = row.tokens.as_ref().map(|tokens| envelope::reseal_tokens(from, tokens, to));
                let tokens = tokens.transpose()?.map(Into::into);
                let expected = Expected::Head(row.head.clone());
                match self.sealer.put(&next, &new, (sealed.into(), tokens), expected).await {
                    Err(SealError::Conflict) => {}
                    written => return written.map(|()| true),
                }
            }
            // Someone else changed it meanwhile, or removed it.
            let before = row.head.clone();
            let Some(now) = self.sealer.store.secret(self.customer, row.id).await? else { return Ok(false) };
            if now.head == before {
                return Err(NO_DATA_KEY.into());
            }
            row = now;
        }
        Err(SealError::Conflict)
    }

    /// The same for a past version. One without a head opens for nobody and stays as it is.
    pub(super) async fn reseal_past(
        &mut self,
        id: SecretId,
        past: Past,
        under: Option<DataKeyId>,
        change: Change<'_>,
    ) -> Result<bool, SealError> {
        let Some(stored) = past.head.clone() else { return Ok(false) };
        let (head, old) = self.past_head(id, &past).await?;
        let mut next = head.clone();
        if !change(&mut next) {
            return Ok(false);
        }
        let new = self.key(under.unwrap_or(head.data_key)).await?;
        next.data_key = new.id();
        let sealed = envelope::reseal((&old, &head.binding()), &past.sealed, (&new, &next.binding()))?;
        let moved = Past { head: Some(next.encode(&new).into()), sealed: sealed.into(), ..past };
        let upkeep = self.sealer.store.upkeep();
        match upkeep.replace_past(self.customer, id, stored, moved).await {
            Err(StoreError::Conflict) => Err(SealError::Conflict),
            written => Ok(written.map(|()| true)?),
        }
    }

    /// A past version's head, proven, and its data key.
    pub(super) async fn past_head(
        &mut self,
        id: SecretId,
        past: &Past,
    ) -> Result<(Head, Arc<DataKey>), SealError> {
        let stored = past.head.as_ref().ok_or(EnvelopeError::Damaged("its head was not kept"))?;
        let key = self.key(Head::data_key_of(stored)?).await?;
        let head = Head::decode(&key, self.customer, id, stored)?;
        if head.version != past.version {
            return Err(EnvelopeError::Damaged("its row and its head name different versions").into());
        }
        Ok((head, key))
    }

    /// A new data key for the customer.
    pub(super) async fn create(&self) -> Result<(Arc<DataKey>, Vec<u8>), SealError> {
        let _turn = self.calls.acquire().await;
        Ok(self.sealer.keys.create(self.customer).await?)
    }
}
