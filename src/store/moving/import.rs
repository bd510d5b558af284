//! A stream becomes a store: block by block, each with how far the import is in one transaction.
//!
//! It goes into a store that is new, and an import that was cut off goes on behind the last block that was kept. At
//! its end the store is walked over and must hold what the stream's end says. Until then it is marked, and relay does
//! not serve it. What must never enter: a record that does not travel; a second stream into the same store.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::frame::{Block, Check, StreamError};
use super::record::{Header, Part};
use super::{Export, IMPORT, Load, Records, Totals, Travels};
use crate::model::{Customer, SecretId};
use crate::store::{Store, StoreError};

/// Why a stream does not become a store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImportError {
    /// The stream is not an export, or not a whole one.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stream names a secret that is there already.
    #[error(
        "block {block} of the export names secret {id} of customer {customer:?}, which the store has by now, of customer {owner:?}: the export names it twice, or something else writes to this store. Begin again with an empty store"
    )]
    Twice {
        /// Which block.
        block: u64,
        /// Which secret.
        id: Uuid,
        /// Whose it is in the block.
        customer: String,
        /// Whose it is in the store.
        owner: String,
    },
    /// Somebody wrote to the store.
    #[error(
        "block {0} of the export could not be written: something else writes to this store. Stop that, and begin again with an empty store"
    )]
    Conflict(u64),
    /// It holds something.
    #[error(
        "the store is not new: it holds {0}. An import goes into an empty one, so that nothing is mixed up or overwritten"
    )]
    NotNew(&'static str),
    /// An import was begun before.
    #[error(
        "an import of this export was begun and not ended, and kept {0} blocks: go on with `relay store import --resume`"
    )]
    Begun(u64),
    /// An import of something else was begun before.
    #[error(
        "an import of another export was begun in this store and not ended: give that one with --resume, or begin again with an empty store"
    )]
    Other,
    /// This store came of an import.
    #[error("this store came of an import that has ended")]
    Ended,
    /// What the store holds is not what the stream says.
    #[error(
        "the store does not hold what the export says ({found} instead of {wanted}): begin again with an empty store"
    )]
    Unequal {
        /// What the stream's end says.
        wanted: Box<Totals>,
        /// What the walk found.
        found: Box<Totals>,
    },
}

/// What the store keeps of an import into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Which export.
    pub id: Uuid,
    /// When that was begun, in seconds since 1970.
    pub made_at: u64,
    /// Which relay wrote it.
    pub by: String,
    /// The generation that its store had.
    pub generation: u64,
    /// Blocks that were written.
    pub blocks: u64,
    /// The check of the last of them.
    check: Check,
    /// Whether all is there.
    pub ended: bool,
    /// Whether the audit says so.
    pub noted: bool,
    /// How many customers it has, once it has ended.
    pub customers: u64,
    /// And secrets.
    pub secrets: u64,
}

impl Imported {
    /// What `store` keeps of an import, if there was one.
    ///
    /// # Errors
    /// The store's own.
    pub async fn of(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let stored = store.meta(IMPORT).await?;
        stored.map(|stored| Self::read(&stored)).transpose()
    }

    fn read(stored: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(stored)
            .map_err(|_| StoreError::Damaged("what it keeps of an import is not what relay wrote".into()))
    }

    /// As it stands in the store.
    pub fn stored(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// An import under way.
pub struct Import {
    store: Arc<dyn Store>,
    travels: Travels,
    resume: bool,
    progress: Option<Imported>,
    /// The progress as it stands in the store.
    standing: Option<Bytes>,
    /// Blocks that an earlier import kept.
    kept: u64,
    wanted: Option<Totals>,
}

impl Import {
    /// Begins one into `store`, or goes on with one. Nothing is written before [`Import::take`].
    pub fn new(store: Arc<dyn Store>, travels: Travels, resume: bool) -> Self {
        Self { store, travels, resume, progress: None, standing: None, kept: 0, wanted: None }
    }

    /// How many blocks an earlier import kept.
    pub const fn kept(&self) -> u64 {
        self.kept
    }

    /// Takes the next block.
    ///
    /// # Errors
    /// [`ImportError`]; what was written before stands, and can be gone on with where that says so.
    pub async fn take(&mut self, block: &Block, part: Part) -> Result<(), ImportError> {
        match part {
            Part::Header(header) => self.begin(header).await,
            Part::Records(records) => self.records(block, records).await,
            Part::End(totals) => {
                self.wanted = Some(totals);
                Ok(())
            }
        }
    }

    /// Compares what the store holds with what the stream's end says, and ends the import. Call it once the
    /// stream was whole ([`super::Decoder::end`]).
    ///
    /// # Errors
    /// [`ImportError::Unequal`]; the store's own.
    pub async fn end(mut self, mut seen: impl FnMut(&Totals)) -> Result<(Imported, Totals), ImportError> {
        let (Some(mut progress), Some(wanted)) = (self.progress.take(), self.wanted) else {
            return Err(StreamError::Cut(0).into());
        };
        let mut walk = Export::begin(Arc::clone(&self.store), self.travels).await?;
        while walk.next().await?.is_some() {
            seen(walk.totals());
        }
        let found = *walk.totals();
        if found != wanted {
            return Err(ImportError::Unequal { wanted: Box::new(wanted), found: Box::new(found) });
        }
        progress.ended = true;
        (progress.customers, progress.secrets) = (found.customers, found.secrets);
        let generation = Some(progress.generation);
        self.write(&progress, Records::default(), generation).await?;
        Ok((progress, found))
    }

    async fn begin(&mut self, header: Header) -> Result<(), ImportError> {
        self.standing = self.store.meta(IMPORT).await?;
        let Some(standing) = &self.standing else {
            if !self.store.upkeep().moving().holders(None, 1).await?.is_empty() {
                return Err(ImportError::NotNew("customers"));
            }
            if !self.store.upkeep().moving().meta_names().await?.is_empty() {
                return Err(ImportError::NotNew("keys of its own, since a relay was started on it"));
            }
            let Header { id, made_at, generation, by } = header;
            self.progress = Some(Imported {
                id,
                made_at,
                by,
                generation,
                blocks: 0,
                check: [0; 32],
                ended: false,
                noted: false,
                customers: 0,
                secrets: 0,
            });
            return Ok(());
        };
        let begun = Imported::read(standing)?;
        match (begun.ended, begun.id == header.id, self.resume) {
            (true, ..) => Err(ImportError::Ended),
            (false, false, _) => Err(ImportError::Other),
            (false, true, false) => Err(ImportError::Begun(begun.blocks)),
            (false, true, true) => {
                self.kept = begun.blocks;
                self.progress = Some(begun);
                Ok(())
            }
        }
    }

    async fn records(&mut self, block: &Block, records: Records) -> Result<(), ImportError> {
        let Some(mut progress) = self.progress.take() else { return Err(StreamError::Cut(0).into()) };
        if records.metas.iter().any(|(name, _)| name == IMPORT || !(self.travels)(name)) {
            return Err(
                StreamError::Malformed(block.number, "a store-wide record that does not travel").into()
            );
        }
        if block.number <= self.kept {
            // The same id alone does not make it the same stream.
            if block.number == self.kept && block.check != progress.check {
                return Err(ImportError::Other);
            }
        } else {
            (progress.blocks, progress.check) = (block.number, block.check);
            self.write(&progress, records, None).await?;
        }
        self.progress = Some(progress);
        Ok(())
    }

    async fn write(
        &mut self,
        progress: &Imported,
        records: Records,
        generation: Option<u64>,
    ) -> Result<(), ImportError> {
        let stored = progress.stored();
        let named: Vec<(Customer, SecretId)> =
            records.secrets.iter().map(|(row, _)| (row.customer.clone(), row.id)).collect();
        let load = Load { expected: self.standing.take(), progress: stored.clone(), records, generation };
        match self.store.upkeep().moving().take(load).await {
            Ok(()) => {}
            Err(StoreError::Conflict) => return Err(self.twice(progress.blocks, named).await),
            Err(other) => return Err(other.into()),
        }
        self.standing = Some(stored);
        Ok(())
    }

    /// Which of the secrets of a block is there already.
    async fn twice(&self, block: u64, named: Vec<(Customer, SecretId)>) -> ImportError {
        for (customer, id) in named {
            if let Ok(Some(owner)) = self.store.owner(id).await {
                return ImportError::Twice {
                    block,
                    id: Uuid::from_bytes(*id.as_bytes()),
                    customer: customer.as_str().to_owned(),
                    owner: owner.as_str().to_owned(),
                };
            }
        }
        ImportError::Conflict(block)
    }
}
