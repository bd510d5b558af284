//! A secret's versions: listed, put back, and the time until which it may be used.
//!
//! An old version is never chosen; putting it back seals its values anew as the next version, for the integration
//! and origin that the secret has. What must never enter: an old version for another place than the secret's.

use tokio::sync::Semaphore;

use super::at_hand::AtHand;
use super::summary::{Summary, Version, Versions};
use super::{SealError, Sealer, TRIES, touch};
use crate::clock::unix_seconds;
use crate::envelope::{self, EnvelopeError, Head, Terms};
use crate::model::SecretId;
use crate::store::Expected;

impl Sealer {
    /// The secret's versions, the current one last.
    ///
    /// # Errors
    /// `NotFound`, `Keys`, `Store`, `Unusable`.
    pub async fn versions(&self, id: SecretId) -> Result<Versions, SealError> {
        let customer = self.owner(id).await?;
        let (_, current) = self.row(&customer, id).await?;
        let calls = Semaphore::new(1);
        let mut at_hand = AtHand::new(self, &customer, &calls);
        let mut versions = Vec::new();
        for past in self.store.upkeep().past(&customer, id).await? {
            let head = match at_hand.past_head(id, &past).await {
                Ok((head, _)) => Some(head),
                Err(SealError::Unusable(_)) => None,
                Err(error) => return Err(error),
            };
            versions.push(Version::past(past.version, past.superseded_at, head.as_ref()));
        }
        versions.push(Version::current(&current));
        versions.sort_by_key(|version| version.version);
        Ok(Versions { id, customer, versions })
    }

    /// Seals the values of an old version as the next one and makes it current.
    ///
    /// # Errors
    /// Each of [`SealError`] but `IdempotencyReused` and `UnknownIntegration`.
    pub async fn rollback(&self, id: SecretId, to: u32) -> Result<Summary, SealError> {
        let customer = self.owner(id).await?;
        let refused = |why: String| SealError::Invalid { field: "to".to_owned(), why };
        let calls = Semaphore::new(1);
        for _ in 0..TRIES {
            let (row, current) = self.row(&customer, id).await?;
            if current.version == to {
                return Err(refused("it is the current version".to_owned()));
            }
            let mut at_hand = AtHand::new(self, &customer, &calls);
            let past = self.store.upkeep().past(&customer, id).await?;
            let past = past.into_iter().find(|past| past.version == to);
            let past = past.ok_or_else(|| refused(format!("there is no version {to}, or it was erased")))?;
            let (old, old_key) = at_hand.past_head(id, &past).await?;
            let base = |head: &Head| Terms::decode(&head.policy).map(|terms| terms.base_path);
            if (&old.integration, &old.origin, &old.token_origin, base(&old)?)
                != (&current.integration, &current.origin, &current.token_origin, base(&current)?)
            {
                let why = format!("version {to} is sealed for {} at {}", old.integration, old.origin);
                return Err(refused(why));
            }
            let key = self.active_key(&customer).await?;
            let mut next = current;
            next.highest_version = next
                .highest_version
                .checked_add(1)
                .ok_or(EnvelopeError::Damaged("there is no version number left"))?;
            next.version = next.highest_version;
            next.data_key = key.id();
            next.fields.clone_from(&old.fields);
            next.fingerprint = old.fingerprint;
            touch(&mut next);
            let sealed = envelope::reseal((&old_key, &old.binding()), &past.sealed, (&key, &next.binding()))?;
            match self.put(&next, &key, (sealed.into(), None), Expected::Head(row.head)).await {
                Err(SealError::Conflict) => {}
                written => return written.map(|()| next.into()),
            }
        }
        Err(SealError::Conflict)
    }

    /// Changes until when a secret may be used; `None` is without end. The values are sealed anew, because
    /// they are sealed for that time too.
    ///
    /// # Errors
    /// Each of [`SealError`] but `IdempotencyReused` and `UnknownIntegration`.
    pub async fn set_expiry(&self, id: SecretId, expires_at: Option<u64>) -> Result<Summary, SealError> {
        if expires_at.is_some_and(|at| at <= unix_seconds()) {
            let why = "it is in the past: to stop the secret's use, disable it".to_owned();
            return Err(SealError::Invalid { field: "expires_at".to_owned(), why });
        }
        let customer = self.owner(id).await?;
        let row = self.store.secret(&customer, id).await?.ok_or(SealError::NotFound)?;
        let calls = Semaphore::new(1);
        let change = |head: &mut Head| {
            let other = head.expires_at != expires_at;
            if other {
                head.expires_at = expires_at;
                touch(head);
            }
            other
        };
        AtHand::new(self, &customer, &calls).reseal(row, None, &change).await?;
        self.show(id).await
    }
}
