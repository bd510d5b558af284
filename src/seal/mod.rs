//! The write path: plaintext in, sealed row out.
//!
//! Operators add, rotate, stop and remove secrets here. A value is checked, sealed for one customer,
//! integration and origin, and gone from memory; nothing here opens one, and what is sealed anew passes through
//! `envelope::reseal` unseen. Every change is a compare-and-set on the head, so two operators never undo each
//! other unseen.
//!
//! What must never enter: a way to read a value back, a value in an error. What would break: a row written
//! round this room has no proven head, and is refused at use.

mod at_hand;
mod forget;
mod intake;
mod inventory;
pub mod jobs;
mod moving;
mod policy;
mod rebind;
mod renew;
mod rewrap;
mod store_wide;
mod summary;
mod target;
mod tokens;
mod turn;
mod versions;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::audit::AuditError;
use crate::clock::unix_seconds;
use crate::envelope::{self, EnvelopeError, Head, Terms};
use crate::kms::KmsError;
use crate::kms::cached::DataKeys;
use crate::model::{Customer, DataKeyId, FieldName, FieldSpec, IntegrationName, Origin, SecretId, State};
use crate::secret::{DataKey, Field, Secret};
use crate::store::{Expected, SecretRow, Store, StoreError};

pub use intake::{Judged, NewSecret};
pub use inventory::{Inventory, KmsKeyUse, inventory};
pub use moving::{KeyCheck, travels};
pub use rebind::Was;
pub use store_wide::store_wide;
pub use summary::{Listing, Summary, TokenSummary, Version, Versions};
pub use target::SealTarget;
pub use tokens::{AtRest, Given};
pub use turn::Turn;

/// Where the store keeps the wrapped store-wide key.
const STORE_KEY: &str = "fingerprint-key";
/// Where it keeps the wrapped key that signs the audit's anchors.
pub const AUDIT_KEY: &str = "audit-key";
/// The keys that are no customer's.
const STORE_WIDE: [&str; 2] = [STORE_KEY, AUDIT_KEY];
/// How often a change is tried when others change the same secret meanwhile.
const TRIES: usize = 3;
const NO_DATA_KEY: EnvelopeError = EnvelopeError::Damaged("its data key is not in the store");

/// Why a secret was not written or not found. No text of it holds a value.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No such secret.
    #[error("there is no such secret")]
    NotFound,
    /// relay.toml has no such integration.
    #[error("there is no such integration")]
    UnknownIntegration,
    /// Something given is not as it must be.
    #[error("{field}: {why}")]
    Invalid {
        /// What: `label`, `expires_at`, or a field of the secret.
        field: String,
        /// What is wrong with it, without its value.
        why: String,
    },
    /// The same idempotency key came with something else before.
    #[error("this idempotency key was used for a different secret, or the secret was changed since")]
    IdempotencyReused,
    /// Others changed the same secret at the same time, time and again.
    #[error("the secret is being changed by someone else; try again")]
    Conflict,
    /// The KMS gave no key.
    #[error(transparent)]
    Keys(#[from] KmsError),
    /// The store failed. After a failed write its outcome may be unknown.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit cannot be written, and nothing is done that cannot be recorded.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// What the store holds is not what relay wrote.
    #[error("a stored secret cannot be used: {0}")]
    Unusable(#[from] EnvelopeError),
}

type Targets = HashMap<IntegrationName, Arc<SealTarget>>;

fn by_name(targets: Vec<SealTarget>) -> Targets {
    targets.into_iter().map(|target| (target.name.clone(), Arc::new(target))).collect()
}

/// Writes secrets.
pub struct Sealer {
    store: Arc<dyn Store>,
    keys: Arc<DataKeys>,
    targets: RwLock<Targets>,
    store_key: Secret,
}

impl Sealer {
    /// Opens the store-wide key, or makes it in a store that has none. A KMS key that is not the store's
    /// own is found out here, at start.
    ///
    /// # Errors
    /// `Keys` when the KMS does not open the store-wide key, `Store` when the store does not answer.
    pub async fn open(
        store: Arc<dyn Store>,
        keys: Arc<DataKeys>,
        integrations: Vec<SealTarget>,
    ) -> Result<Self, SealError> {
        let store_key = store_wide(&*store, &keys, STORE_KEY).await?;
        let targets = RwLock::new(by_name(integrations));
        Ok(Self { store, keys, targets, store_key })
    }

    /// What is sealed from now on is sealed for these integrations.
    pub fn retarget(&self, integrations: Vec<SealTarget>) {
        *self.targets.write().unwrap_or_else(PoisonError::into_inner) = by_name(integrations);
    }

    /// Seals a new secret. The same idempotency key and the same secret again return the first one.
    ///
    /// # Errors
    /// Each of [`SealError`] but `NotFound`.
    pub async fn add(&self, new: NewSecret) -> Result<Summary, SealError> {
        self.add_judged(self.judged(new)?, None).await
    }

    /// Checks a new secret without sealing it.
    ///
    /// # Errors
    /// `UnknownIntegration`, `Invalid`.
    pub fn judged(&self, new: NewSecret) -> Result<Judged, SealError> {
        let target = self.target(&new.integration)?;
        intake::check(&new)?;
        let NewSecret { customer, integration, label, fields, expires_at, policy, idempotency } = new;
        policy::check(&policy, &target)?;
        let fields = intake::declared(&target.fields, fields)?;
        intake::identity(target.client_certificate.as_ref(), &fields)?;
        let place = target.freeze(&fields)?;
        let id = match &idempotency {
            Some(key) => envelope::derived_id(&self.store_key, &customer, &integration, key),
            None => SecretId::random(),
        };
        let now = unix_seconds();
        let head = Head {
            customer,
            id,
            integration,
            origin: place.origin,
            token_origin: target.token_origin.clone(),
            label,
            state: State::Active,
            version: 1,
            highest_version: 1,
            expires_at,
            data_key: DataKeyId::from_bytes([0; 16]),
            fields: specs(&fields),
            policy: Terms { base_path: place.base_path, policy }.encode()?,
            fingerprint: envelope::fingerprint(&self.store_key, &fields),
            created_at: now,
            updated_at: now,
            changes: 0,
        };
        Ok(Judged { head, fields, repeatable: idempotency.is_some(), new: true })
    }

    /// The secret that stands there already, if this one comes again with its idempotency key.
    ///
    /// # Errors
    /// `IdempotencyReused`, `Keys`, `Store`, `Unusable`.
    pub async fn standing(&self, judged: &Judged) -> Result<Option<Summary>, SealError> {
        if !judged.repeatable || self.store.secret(&judged.head.customer, judged.head.id).await?.is_none() {
            return Ok(None);
        }
        match self.same(&judged.head).await {
            Err(SealError::Conflict) => Ok(None),
            told => told.map(Some),
        }
    }

    /// Seals what was judged, with what the vendor gave for it, if it was asked.
    ///
    /// # Errors
    /// As [`Sealer::add`] and [`Sealer::add_version`].
    pub async fn add_judged(&self, judged: Judged, given: Option<Given>) -> Result<Summary, SealError> {
        if !judged.new {
            return self.add_judged_version(judged, given).await;
        }
        let Judged { mut head, fields, repeatable, .. } = judged;
        for _ in 0..TRIES {
            let key = self.active_key(&head.customer).await?;
            head.data_key = key.id();
            let sealed = envelope::seal(&key, &head.binding(), &fields)?;
            let tokens = given.as_ref().map(|given| given.sealed(&key, &head, 1)).transpose()?;
            match self.put(&head, &key, (sealed.into(), tokens), Expected::New(key.id())).await {
                // The same secret stands there already, or the customer's data key was replaced meanwhile.
                Err(SealError::Conflict) if repeatable => match self.same(&head).await {
                    Err(SealError::Conflict) => {}
                    told => return told,
                },
                Err(SealError::Conflict) => {}
                written => return written.map(|()| head.into()),
            }
        }
        Err(SealError::Conflict)
    }

    /// Seals new values for a secret and makes them current. They are sealed for the origin that the
    /// integration has now, or that they make; state, label, expiry and policy stay.
    ///
    /// # Errors
    /// Each of [`SealError`] but `IdempotencyReused`.
    pub async fn add_version(
        &self,
        id: SecretId,
        fields: Vec<(FieldName, Secret)>,
    ) -> Result<Summary, SealError> {
        let judged = self.judged_version(id, fields).await?;
        self.add_judged(judged, None).await
    }

    /// Checks new values for a secret without sealing them.
    ///
    /// # Errors
    /// Each of [`SealError`] but `IdempotencyReused`.
    pub async fn judged_version(
        &self,
        id: SecretId,
        fields: Vec<(FieldName, Secret)>,
    ) -> Result<Judged, SealError> {
        let customer = self.owner(id).await?;
        let (_, mut head) = self.row(&customer, id).await?;
        let target = self.target(&head.integration)?;
        let fields = intake::declared(&target.fields, fields)?;
        intake::identity(target.client_certificate.as_ref(), &fields)?;
        let place = target.freeze(&fields)?;
        put_at(&mut head, place.origin, place.base_path)?;
        head.token_origin.clone_from(&target.token_origin);
        head.fields = specs(&fields);
        head.fingerprint = envelope::fingerprint(&self.store_key, &fields);
        Ok(Judged { head, fields, repeatable: false, new: false })
    }

    async fn add_judged_version(&self, judged: Judged, given: Option<Given>) -> Result<Summary, SealError> {
        let Judged { head: wanted, fields, .. } = judged;
        let Terms { base_path, .. } = Terms::decode(&wanted.policy)?;
        for _ in 0..TRIES {
            let (row, mut head) = self.row(&wanted.customer, wanted.id).await?;
            // Asked behind the row: were this key replaced meanwhile, the row would be, too, and is not ours.
            let key = self.active_key(&wanted.customer).await?;
            head.highest_version = head
                .highest_version
                .checked_add(1)
                .ok_or(EnvelopeError::Damaged("there is no version number left"))?;
            head.version = head.highest_version;
            put_at(&mut head, wanted.origin.clone(), base_path.clone())?;
            head.token_origin.clone_from(&wanted.token_origin);
            head.data_key = key.id();
            head.fields.clone_from(&wanted.fields);
            head.fingerprint = wanted.fingerprint;
            touch(&mut head);
            let sealed = envelope::seal(&key, &head.binding(), &fields)?;
            let tokens = given.as_ref().map(|given| given.sealed(&key, &head, 1)).transpose()?;
            match self.put(&head, &key, (sealed.into(), tokens), Expected::Head(row.head)).await {
                Err(SealError::Conflict) => {}
                written => return written.map(|()| head.into()),
            }
        }
        Err(SealError::Conflict)
    }

    /// Stops or allows a secret's use. What is sealed stays as it is.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Keys`, `Store`, `Unusable`.
    pub async fn set_state(&self, id: SecretId, state: State) -> Result<Summary, SealError> {
        let customer = self.owner(id).await?;
        for _ in 0..TRIES {
            let (row, mut head) = self.row(&customer, id).await?;
            if head.state == state {
                return Ok(head.into());
            }
            head.state = state;
            touch(&mut head);
            let key = self.key(&customer, head.data_key).await?;
            match self.put(&head, &key, (row.sealed, row.tokens), Expected::Head(row.head)).await {
                Err(SealError::Conflict) => {}
                written => return written.map(|()| head.into()),
            }
        }
        Err(SealError::Conflict)
    }

    /// Deletes a secret with all its versions, and says whose it was. It needs neither the KMS nor an
    /// undamaged record, so that it always can be done.
    ///
    /// # Errors
    /// `NotFound`, `Store`.
    pub async fn remove(&self, id: SecretId) -> Result<Customer, SealError> {
        let customer = self.owner(id).await?;
        match self.store.remove_secret(&customer, id).await? {
            true => Ok(customer),
            false => Err(SealError::NotFound),
        }
    }

    /// What is known of a secret beside its values.
    ///
    /// # Errors
    /// `NotFound`, `Keys`, `Store`, `Unusable`.
    pub async fn show(&self, id: SecretId) -> Result<Summary, SealError> {
        let customer = self.owner(id).await?;
        let (row, head) = self.row(&customer, id).await?;
        let token = self.standing_of(&row, &head).await?;
        let used = self.store.upkeep().last_used(&customer, vec![id]).await?;
        let last_used_at = used.into_iter().flatten().next();
        Ok(Summary { last_used_at, token, ..head.into() })
    }

    /// Up to `limit` of a customer's secrets in the order of their ids, behind `after`.
    ///
    /// # Errors
    /// `Keys`, `Store`; `Unusable` when one of them is damaged, whose id is then logged.
    pub async fn list(
        &self,
        customer: &Customer,
        after: Option<SecretId>,
        limit: usize,
    ) -> Result<Listing, SealError> {
        let rows = self.store.secrets(customer, after, limit).await?;
        let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.id);
        let mut listing = Listing { secrets: Vec::new(), unusable: Vec::new(), next };
        for row in rows {
            let id = row.id;
            match self.settled(row).await {
                Ok((_, head)) => listing.secrets.push(head.into()),
                // Removed since it was listed.
                Err(SealError::NotFound) => {}
                Err(error @ (SealError::Unusable(_) | SealError::Keys(KmsError::Broken(_)))) => {
                    tracing::error!(secret = %id, %error, "a stored secret cannot be listed");
                    listing.unusable.push(id);
                }
                Err(error) => return Err(error),
            }
        }
        let ids = listing.secrets.iter().map(|secret| secret.id).collect();
        let used = self.store.upkeep().last_used(customer, ids).await?;
        for (secret, used) in listing.secrets.iter_mut().zip(used) {
            secret.last_used_at = used;
        }
        Ok(listing)
    }

    fn target(&self, integration: &IntegrationName) -> Result<Arc<SealTarget>, SealError> {
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        targets.get(integration).cloned().ok_or(SealError::UnknownIntegration)
    }

    async fn owner(&self, id: SecretId) -> Result<Customer, SealError> {
        self.store.owner(id).await?.ok_or(SealError::NotFound)
    }

    async fn row(&self, customer: &Customer, id: SecretId) -> Result<(SecretRow, Head), SealError> {
        let row = self.store.secret(customer, id).await?.ok_or(SealError::NotFound)?;
        self.settled(row).await
    }

    /// The row with its proven head. Between the reading of a row and of its data key both may have been
    /// replaced; then it is the row as it is now.
    async fn settled(&self, mut row: SecretRow) -> Result<(SecretRow, Head), SealError> {
        loop {
            match self.proven(&row.customer, row.id, &row).await {
                Err(SealError::Unusable(NO_DATA_KEY)) => {
                    let now = self.store.secret(&row.customer, row.id).await?.ok_or(SealError::NotFound)?;
                    if now.head == row.head {
                        return Err(NO_DATA_KEY.into());
                    }
                    row = now;
                }
                proven => return proven.map(|head| (row, head)),
            }
        }
    }

    async fn proven(&self, customer: &Customer, id: SecretId, row: &SecretRow) -> Result<Head, SealError> {
        let key = self.key(customer, Head::data_key_of(&row.head)?).await?;
        let head = Head::decode(&key, customer, id, &row.head)?;
        if head.version != row.version {
            return Err(EnvelopeError::Damaged("its row and its head name different versions").into());
        }
        Ok(head)
    }

    async fn key(&self, customer: &Customer, id: DataKeyId) -> Result<Arc<DataKey>, SealError> {
        if let Some(key) = self.keys.warm(customer, id) {
            return Ok(key);
        }
        let wrapped = self.store.data_key(customer, id).await?;
        let wrapped = wrapped.ok_or(NO_DATA_KEY)?;
        Ok(self.keys.open(customer, id, &wrapped).await?)
    }

    /// The key for whatever is sealed next. The store decides which one that is: of two writers for a new
    /// customer the first one's key stays, and the other takes it too.
    async fn active_key(&self, customer: &Customer) -> Result<Arc<DataKey>, SealError> {
        if let Some((id, wrapped)) = self.store.active_data_key(customer).await? {
            return Ok(self.keys.open(customer, id, &wrapped).await?);
        }
        let (key, wrapped) = self.keys.create(customer).await?;
        match self.store.add_data_key(customer, key.id(), wrapped.into()).await {
            Ok(()) => Ok(key),
            Err(error) => {
                self.keys.forget(customer, key.id());
                if !matches!(error, StoreError::Conflict) {
                    return Err(error.into());
                }
                let (id, wrapped) = self.store.active_data_key(customer).await?.ok_or(SealError::Conflict)?;
                Ok(self.keys.open(customer, id, &wrapped).await?)
            }
        }
    }

    async fn put(
        &self,
        head: &Head,
        key: &DataKey,
        (sealed, tokens): (Bytes, Option<Bytes>),
        expected: Expected,
    ) -> Result<(), SealError> {
        let row = SecretRow {
            customer: head.customer.clone(),
            id: head.id,
            version: head.version,
            head: head.encode(key).into(),
            sealed,
            tokens,
        };
        match self.store.put_secret(row, expected).await {
            Err(StoreError::Conflict) => Err(SealError::Conflict),
            written => Ok(written?),
        }
    }

    /// The secret that stands where an idempotency key points, if it is the one that was asked for again.
    async fn same(&self, wanted: &Head) -> Result<Summary, SealError> {
        let (_, found) = self.row(&wanted.customer, wanted.id).await.map_err(|error| match error {
            // Removed in the same moment: the caller may try again.
            SealError::NotFound => SealError::Conflict,
            other => other,
        })?;
        let same = found.fingerprint == wanted.fingerprint
            && found.label == wanted.label
            && found.expires_at == wanted.expires_at
            && found.policy == wanted.policy;
        if same { Ok(found.into()) } else { Err(SealError::IdempotencyReused) }
    }
}

fn specs(fields: &[Field]) -> Vec<FieldSpec> {
    fields.iter().map(|field| field.spec.clone()).collect()
}

fn touch(head: &mut Head) {
    head.updated_at = unix_seconds();
    touch_quietly(head);
}

/// A change that is nobody's: other writers see that something changed, operators see no new time.
fn touch_quietly(head: &mut Head) {
    head.changes = head.changes.saturating_add(1);
}

/// Freezes where a secret goes; its own limits stay.
fn put_at(head: &mut Head, origin: Origin, base_path: Option<String>) -> Result<(), EnvelopeError> {
    let Terms { policy, .. } = Terms::decode(&head.policy)?;
    head.policy = Terms { base_path, policy }.encode()?;
    head.origin = origin;
    Ok(())
}
