//! Where sealed records stand. One small trait, one file per engine.
//!
//! Records are keyed by (customer, secret), so that another customer's UUID is a plain miss on the same
//! path. What must never enter: plaintext, unwrapped keys, configuration types. A write that returned
//! `Ok` survives kill -9 and power loss; an engine that cannot promise that must not implement this.

mod leases;
pub mod memory;
pub mod moving;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sled;
mod upkeep;

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use crate::model::{Customer, DataKeyId, SecretId};

pub use upkeep::{Forgotten, Info, Past, Upkeep};

/// One secret as stored: its authenticated head and the sealed bytes of its current version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// Whose it is.
    pub customer: Customer,
    /// Its UUID.
    pub id: SecretId,
    /// The current version's number, 1 for the first.
    pub version: u32,
    /// The encoded, authenticated head (`envelope`).
    pub head: Bytes,
    /// The sealed current version (`envelope`).
    pub sealed: Bytes,
    /// What the vendor gave for the current version: sealed access and refresh tokens (`envelope`). Written and
    /// deleted with the row, so that it never outlives the version or the data key that it is sealed under.
    pub tokens: Option<Bytes>,
}

/// What a write found in its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The secret must not exist yet.
    Absent,
    /// The secret must not exist yet, and this must be the customer's active data key: what is sealed under
    /// a key that was replaced meanwhile would be missed when the others are sealed anew, and lost with it.
    New(DataKeyId),
    /// The secret's head must still be exactly this.
    Head(Bytes),
}

/// Something that caches must forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A secret was added, changed or removed.
    Secret(Customer, SecretId),
    /// A customer's data keys changed.
    DataKeys(Customer),
    /// Anything may have changed: what was told is not all.
    Everything,
}

/// How long an engine's feed may have heard nothing while it still says that it is live.
pub const NOTICED_WITHIN: Duration = Duration::from_millis(1500);

/// How the change feed stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feed {
    /// Every change is told.
    Live,
    /// Changes may be missed; the store answers.
    Deaf,
    /// The store does not answer.
    Gone,
}

/// A store call under way.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A durable store of sealed records.
pub trait Store: Send + Sync {
    /// The secret, if this customer has it.
    fn secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, Option<SecretRow>>;

    /// Up to `limit` of the customer's secrets in the order of their ids, behind `after`.
    fn secrets<'a>(
        &'a self,
        customer: &'a Customer,
        after: Option<SecretId>,
        limit: usize,
    ) -> Call<'a, Vec<SecretRow>>;

    /// Whose secret `id` is. For the admin API alone: the data path must never ask this.
    fn owner(&self, id: SecretId) -> Call<'_, Option<Customer>>;

    /// Writes head, version and tokens in one transaction if the store still holds what is `expected`, else
    /// [`StoreError::Conflict`]. When the version changes, the one before is kept with its head; tokens are not
    /// kept.
    fn put_secret(&self, row: SecretRow, expected: Expected) -> Call<'_, ()>;

    /// Deletes the secret and all its versions; whether there was one.
    fn remove_secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, bool>;

    /// One wrapped data key of the customer.
    fn data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId) -> Call<'a, Option<Bytes>>;

    /// The customer's active data key: its id and the wrapped bytes.
    fn active_data_key<'a>(&'a self, customer: &'a Customer) -> Call<'a, Option<(DataKeyId, Bytes)>>;

    /// Makes `wrapped` the customer's active data key if it has none, else [`StoreError::Conflict`].
    fn add_data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId, wrapped: Bytes) -> Call<'a, ()>;

    /// A store-wide record by name: wrapped keys, the newest audit anchor.
    fn meta<'a>(&'a self, name: &'a str) -> Call<'a, Option<Bytes>>;

    /// Writes a store-wide record.
    fn put_meta<'a>(&'a self, name: &'a str, value: Bytes) -> Call<'a, ()>;

    /// Writes a store-wide record where `expected` stands, or nothing does, else [`StoreError::Conflict`].
    fn swap_meta<'a>(&'a self, name: &'a str, expected: Option<Bytes>, value: Bytes) -> Call<'a, ()>;

    /// Takes the lease `name` for `holder`, or renews it, for `ttl`: whether `holder` has it now. Of all processes
    /// that use the store at most one has it at a time, and it ends by itself.
    fn lease<'a>(&'a self, name: &'a str, holder: Uuid, ttl: Duration) -> Call<'a, bool>;

    /// Gives a lease back before its end, if `holder` still has it.
    fn release<'a>(&'a self, name: &'a str, holder: Uuid) -> Call<'a, ()>;

    /// Whether there is space for new rows; for readiness.
    fn has_room(&self) -> Call<'_, bool> {
        Box::pin(async { Ok(true) })
    }

    /// What rotation, forgetting and erasing need beside this.
    fn upkeep(&self) -> &dyn Upkeep;

    /// The change feed: every acknowledged write, before its acknowledgement. A receiver that lagged
    /// must forget everything.
    fn changes(&self) -> broadcast::Receiver<Change>;

    /// How the change feed stands. Before it is [`Feed::Live`] again, [`Change::Everything`] is told. Once the
    /// sender is gone it stands as it last stood.
    fn feed(&self) -> watch::Receiver<Feed> {
        // An engine that one process opens tells every change itself.
        watch::Sender::new(Feed::Live).subscribe()
    }

    /// How many words of its change feed were not understood since it was opened. Each makes whoever caches forget
    /// everything, as anything may have been meant.
    fn unclear_notes(&self) -> u64 {
        0
    }
}

/// Why the store gave no answer. The text is for the operator and holds no record bytes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The engine failed or is gone.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Whether the write was done is unknown: it may be, now or in a while. Nothing tries it again by itself.
    #[error("whether it was written is unknown: {0}")]
    Unknown(String),
    /// What the write expected is no longer there.
    #[error("the record was changed by someone else meanwhile")]
    Conflict,
    /// The disk is full; nothing was written.
    #[error("the store has no space left")]
    Full,
    /// A stored row has not the shape that relay writes.
    #[error("a stored row is damaged: {0}")]
    Damaged(String),
}
