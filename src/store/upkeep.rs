//! What an engine offers beside single records: walking over customers, exchanging keys, forgetting.
//!
//! Rotation and its kin walk customer by customer, with a cursor that is good after a restart. What must never
//! enter: a change that is lost when it was acknowledged, or half of one.

use bytes::Bytes;

use super::Call;
use super::moving::Moving;
use crate::model::{Customer, DataKeyId, SecretId};

/// A version that another one took the place of, with the head that it was sealed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Its number.
    pub version: u32,
    /// Its head when it was current; `None` where an earlier relay kept none, and then nothing opens it.
    pub head: Option<Bytes>,
    /// The sealed version.
    pub sealed: Bytes,
    /// When another took its place, in seconds since 1970 by the clock of the relay that wrote it.
    pub superseded_at: u64,
}

/// What [`Upkeep::forget`] deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Data keys.
    pub data_keys: u64,
    /// Secrets.
    pub secrets: u64,
}

/// What a store says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The engine's name, as in `[store] engine`.
    pub engine: &'static str,
    /// The version of its layout.
    pub format: u32,
    /// Customers that have an active data key.
    pub customers: u64,
    /// Data keys, active or not.
    pub data_keys: u64,
    /// Secrets, whatever their state.
    pub secrets: u64,
    /// What it takes on the disk, if it has one.
    pub bytes: Option<u64>,
    /// Whether a write that needs space would be taken now.
    pub writable: bool,
}

/// The part of a [`super::Store`] that rotation, forgetting and erasing work with.
pub trait Upkeep: Send + Sync {
    /// Up to `limit` customers that have an active data key, behind `after`, in an order of the engine's own
    /// that never changes.
    fn customers<'a>(&'a self, after: Option<&'a Customer>, limit: usize) -> Call<'a, Vec<Customer>>;

    /// The customer's data keys, wrapped.
    fn data_keys<'a>(&'a self, customer: &'a Customer) -> Call<'a, Vec<(DataKeyId, Bytes)>>;

    /// Puts the data key `id`, wrapped otherwise, in the place of `expected`, else a conflict.
    fn rewrap_data_key<'a>(
        &'a self,
        customer: &'a Customer,
        id: DataKeyId,
        expected: Bytes,
        wrapped: Bytes,
    ) -> Call<'a, ()>;

    /// Adds a data key and makes it the active one in the place of `expected`, else a conflict. The one before
    /// stays.
    fn renew_data_key<'a>(
        &'a self,
        customer: &'a Customer,
        expected: DataKeyId,
        id: DataKeyId,
        wrapped: Bytes,
    ) -> Call<'a, ()>;

    /// Deletes a data key, and whether there was one; a conflict if it is the active one. That nothing is
    /// sealed under it is the caller's to know.
    fn remove_data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId) -> Call<'a, bool>;

    /// The versions of a secret that are not current, in order.
    fn past<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, Vec<Past>>;

    /// Puts `past` in the place of the same version with the head `expected`, else a conflict.
    fn replace_past<'a>(
        &'a self,
        customer: &'a Customer,
        id: SecretId,
        expected: Bytes,
        past: Past,
    ) -> Call<'a, ()>;

    /// Erases the customer's versions that another took the place of before `before`, in seconds since 1970;
    /// how many.
    fn erase_past<'a>(&'a self, customer: &'a Customer, before: u64) -> Call<'a, u64>;

    /// Deletes everything of a customer, the data keys first. Once begun it ends, after a crash when the store
    /// is next opened; until then nothing can be added for the customer.
    fn forget<'a>(&'a self, customer: &'a Customer) -> Call<'a, Forgotten>;

    /// Notes when secrets were last used, in seconds since 1970; of those that exist.
    fn note_used(&self, notes: Vec<(Customer, SecretId, u64)>) -> Call<'_, ()>;

    /// When each of these secrets was last used, as noted.
    fn last_used<'a>(&'a self, customer: &'a Customer, ids: Vec<SecretId>) -> Call<'a, Vec<Option<u64>>>;

    /// A number that grows with every write and is durable when it is told: a store that tells a lower one
    /// than before is an older copy.
    fn generation(&self) -> Call<'_, u64>;

    /// What the store is, and how much is in it. Counted for each call: it may take its time.
    fn info(&self) -> Call<'_, Info>;

    /// What export and import work with.
    fn moving(&self) -> &dyn Moving;
}
