//! A whole store as one stream of bytes, and back: for backups, and for moving to another engine.
//!
//! `frame` cuts the stream into blocks that show every cut and every flipped bit, `record` is what stands in a
//! block, `export` walks over a store, `import` fills an empty one block by block and goes on behind the last
//! that was kept. What an engine offers for it is [`Moving`]. Everything that passes is sealed or wrapped already;
//! what must never enter: plaintext, an unwrapped key, an engine's own layout. Nothing in a stream is believed:
//! whoever can write one could write to the store, and heads and keys are proven at use, as ever.

mod export;
mod frame;
mod import;
mod record;
mod totals;

use bytes::Bytes;

use super::{Call, Past, SecretRow};
use crate::model::{Customer, DataKeyId, SecretId};

pub use export::Export;
pub use frame::{Block, Decoder, StreamError};
pub use import::{Import, ImportError, Imported};
pub use record::{Header, Part};
pub use totals::Totals;

/// Where a store keeps how far an import into it is, and whose it was. It never travels.
pub const IMPORT: &str = "import";

/// Whether the store-wide record of this name travels with a store.
pub type Travels = fn(&str) -> bool;

/// The part of a [`super::Store`] that export and import work with: see [`super::Upkeep::moving`].
pub trait Moving: Send + Sync {
    /// Up to `limit` customers that have a data key or a secret, behind `after`, in an order of the engine's own
    /// that never changes. Whoever is being forgotten is none of them.
    fn holders<'a>(&'a self, after: Option<&'a Customer>, limit: usize) -> Call<'a, Vec<Customer>>;

    /// All of the customer's data keys, and its secrets behind `after` in the order of their ids, whole, until
    /// they are `most` bytes together, but at least one: as they stood at one moment.
    fn portion<'a>(
        &'a self,
        customer: &'a Customer,
        after: Option<SecretId>,
        most: usize,
    ) -> Call<'a, Portion>;

    /// The names of all store-wide records, in order.
    fn meta_names(&self) -> Call<'_, Vec<String>>;

    /// Writes all of `load` in one transaction, if [`IMPORT`] still stands as expected and, where nothing is
    /// expected, the store holds no customer and no store-wide record; else a conflict. A secret that is there
    /// already, or belongs to another customer, is a conflict too. Caches are not told: nobody serves meanwhile.
    fn take(&self, load: Load) -> Call<'_, ()>;
}

/// Some of what a customer has, as it stood at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Portion {
    /// The data keys, wrapped, in the order of their ids.
    pub keys: Vec<(DataKeyId, Bytes)>,
    /// Which of them is active.
    pub active: Option<DataKeyId>,
    /// Secrets in the order of their ids.
    pub secrets: Vec<Whole>,
    /// Whether there may be more behind the last of them.
    pub more: bool,
}

/// A secret with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// As requests see it.
    pub row: SecretRow,
    /// When it was last used, in seconds since 1970.
    pub used: Option<u64>,
    /// Its versions that are not current, in order.
    pub past: Vec<Past>,
}

impl Whole {
    /// About how much room it takes.
    pub fn size(&self) -> usize {
        let row = &self.row;
        let tokens = row.tokens.as_ref().map_or(0, Bytes::len);
        let past = |past: &Past| past.sealed.len() + past.head.as_ref().map_or(0, Bytes::len);
        row.head.len() + row.sealed.len() + tokens + self.past.iter().map(past).sum::<usize>()
    }
}

/// One customer's data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Whose it is.
    pub customer: Customer,
    /// Its id.
    pub id: DataKeyId,
    /// Whether it takes the active one's place.
    pub active: bool,
    /// Wrapped.
    pub wrapped: Bytes,
}

/// A version that is not current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRow {
    /// Whose it is.
    pub customer: Customer,
    /// Of which secret.
    pub id: SecretId,
    /// The version.
    pub past: Past,
}

/// What one block of a stream holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// Store-wide records.
    pub metas: Vec<(String, Bytes)>,
    /// Data keys. No two are the same customer's with the same id.
    pub keys: Vec<KeyRow>,
    /// Secrets without their past versions. No two have the same id.
    pub secrets: Vec<(SecretRow, Option<u64>)>,
    /// Past versions of these secrets and of those before them.
    pub past: Vec<PastRow>,
}

/// One write of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// What [`IMPORT`] must hold before; `None` for a store that is new.
    pub expected: Option<Bytes>,
    /// What it holds behind it.
    pub progress: Bytes,
    /// What is written.
    pub records: Records,
    /// The generation that the store has from now on, instead of the next.
    pub generation: Option<u64>,
}
