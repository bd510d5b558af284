//! What a vendor gave for a secret, kept beside it.
//!
//! Written with the row, by compare-and-set on its head: what was had for values that are no longer current, or
//! sealed under a data key that is being replaced, is never kept. What must never enter: a token in an error.

use std::sync::Arc;

use bytes::Bytes;

use super::{SealError, Sealer, TokenSummary, touch_quietly};
use crate::clock::unix_seconds;
use crate::envelope::{self, EnvelopeError, Head, SealedTokens, Standing};
use crate::model::{Customer, SecretId};
use crate::secret::{DataKey, Secret};
use crate::store::{Expected, SecretRow};

/// What a vendor gave.
pub struct Given {
    /// How it stands; its serial is set when it is kept.
    pub standing: Standing,
    /// The access token; `None` where there is none to be had.
    pub access: Option<Secret>,
    /// The refresh token to use next, if it is not the secret's own.
    pub refresh: Option<Secret>,
}

impl Given {
    /// Sealed for the secret with this head.
    pub(super) fn sealed(&self, key: &DataKey, head: &Head, serial: u64) -> Result<Bytes, EnvelopeError> {
        let standing = Standing { serial, ..self.standing.clone() };
        let tokens = (self.access.as_ref(), self.refresh.as_ref());
        Ok(envelope::seal_tokens(key, &head.binding(), &standing, tokens)?.into())
    }
}

/// A secret as it stands in the store, proven and still sealed.
pub struct AtRest {
    row: SecretRow,
    head: Head,
    key: Arc<DataKey>,
    tokens: Option<SealedTokens>,
}

impl AtRest {
    /// Its head.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Its data key.
    pub fn key(&self) -> &DataKey {
        &self.key
    }

    /// The sealed current version.
    pub const fn sealed(&self) -> &Bytes {
        &self.row.sealed
    }

    /// What the vendor gave for it before.
    pub const fn tokens(&self) -> Option<&SealedTokens> {
        self.tokens.as_ref()
    }
}

impl Sealer {
    /// The secret as it stands.
    ///
    /// # Errors
    /// `NotFound`, `Keys`, `Store`, `Unusable`.
    pub async fn at_rest(&self, customer: &Customer, id: SecretId) -> Result<AtRest, SealError> {
        let row = self.store.secret(customer, id).await?.ok_or(SealError::NotFound)?;
        let (row, head) = self.settled(row).await?;
        let key = self.key(customer, head.data_key).await?;
        let read = |tokens| SealedTokens::decode(&key, &head.binding(), tokens);
        let tokens = row.tokens.as_ref().map(read).transpose()?;
        Ok(AtRest { row, head, key, tokens })
    }

    /// Keeps what the vendor gave for the secret as it was at rest. One that was changed meanwhile, but not its
    /// values, gets it too: whether it was kept.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Keys`, `Store`, `Unusable`.
    pub async fn keep(&self, mut at: AtRest, given: &Given) -> Result<bool, SealError> {
        let (customer, id, version) = (at.head.customer.clone(), at.head.id, at.head.version);
        for _ in 0..super::TRIES {
            if at.head.version != version {
                return Ok(false);
            }
            let serial = at.tokens.as_ref().map_or(0, |tokens| tokens.standing().serial);
            let mut head = at.head.clone();
            touch_quietly(&mut head);
            let sealed = given.sealed(&at.key, &head, serial.saturating_add(1))?;
            let expected = Expected::Head(at.row.head.clone());
            match self.put(&head, &at.key, (at.row.sealed, Some(sealed)), expected).await {
                Err(SealError::Conflict) => at = self.at_rest(&customer, id).await?,
                written => return written.map(|()| true),
            }
        }
        Err(SealError::Conflict)
    }

    /// What is told of a secret's access token.
    pub(super) async fn standing_of(
        &self,
        row: &SecretRow,
        head: &Head,
    ) -> Result<Option<TokenSummary>, SealError> {
        let Some(tokens) = &row.tokens else { return Ok(None) };
        let key = self.key(&head.customer, head.data_key).await?;
        let tokens = SealedTokens::decode(&key, &head.binding(), tokens)?;
        Ok(Some(TokenSummary::of(tokens.standing(), unix_seconds())))
    }
}
