//! What goes wrong in sled or on its disk, and what is said of it.
//!
//! What must never enter: sled's own texts, as they may quote keys.

use std::io;

use super::folder::is_full;
use crate::store::StoreError;

/// Why work on the tree stopped.
pub(super) enum Fault {
    /// The store works; this is its answer.
    Answer(StoreError),
    /// sled failed.
    Engine(sled::Error),
    /// The data file could not be synced.
    Sync(io::Error),
}

/// The same, by what helps.
pub(super) enum Failure {
    /// None: the store works.
    Answer(StoreError),
    /// The disk failed, now or before; reopening may help.
    Io(StoreError),
    /// sled found damage or panicked.
    Broken(StoreError),
}

impl Failure {
    /// What the caller hears.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Answer(error) | Self::Broken(error) | Self::Io(error) => error,
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Answer(error) => Self::Answer(error),
            Fault::Sync(error) | Fault::Engine(sled::Error::Io(error)) => Self::Io(io_error(&error)),
            Fault::Engine(sled::Error::Corruption { at, .. }) => {
                Self::Broken(StoreError::Damaged(format!("sled's checksum failed at {at:?}")))
            }
            // Their texts may quote keys.
            Fault::Engine(_) => {
                Self::Broken(StoreError::Unavailable("sled failed on its own account".into()))
            }
        }
    }
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Sync(error)
    }
}

/// An I/O error as the caller hears it.
pub(super) fn io_error(error: &io::Error) -> StoreError {
    if is_full(error) { StoreError::Full } else { StoreError::Unavailable(error.to_string()) }
}

/// Something stored is not what relay writes.
pub(super) fn damaged(what: &str) -> Fault {
    Fault::Answer(StoreError::Damaged(what.into()))
}

/// Another write was first.
pub(super) fn conflict() -> Fault {
    Fault::Answer(StoreError::Conflict)
}
