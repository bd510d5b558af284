//! How a secret is sealed, and bound to whom and where it may be used.
//!
//! Two or three records per secret. The *sealed* one holds the values of one version, encrypted, with everything
//! that [`Binding`] names as associated data. The *head* says in the clear which version is current,
//! whether it may be used and until when, under an authentication code. A secret from which access tokens are
//! had has a third, the *tokens*: sealed like the values, their expiry in the clear under a code of their own.
//! Whoever can write to the store can
//! therefore neither read, move, revive, extend nor widen a secret.
//!
//! What must never enter: a store, a KMS, configuration. If two different bindings ever had the same
//! encoding, a secret could be used for what it was not sealed for.

mod fingerprint;
mod head;
mod sealed;
mod terms;
mod tokens;
mod value;
mod wire;

pub use fingerprint::{derived_id, fingerprint};
pub use head::Head;
pub use sealed::{Binding, open, reseal, seal};
pub use terms::{LONGEST_TERMS, Terms};
pub use tokens::{SealedTokens, Standing, reseal_tokens, seal_tokens};
pub use value::{LONGEST_VALUE, SHORTEST_SCRUBBED, check_text, check_value};

/// Why a stored record is not used. Holds nothing of the record but its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The first byte names a format that this relay does not read.
    #[error(
        "the record has format {0}, and this relay reads format 1: a newer relay wrote it, or it is damaged"
    )]
    UnknownFormat(u8),
    /// The record has not the shape that relay writes.
    #[error("the record is damaged: {0}")]
    Damaged(&'static str),
    /// The record was sealed under another data key than the one given.
    #[error("the record was sealed under another data key")]
    WrongKey,
    /// The record, or something that it is bound to, is not what was sealed.
    #[error("the record is not what relay sealed for this customer, integration and origin")]
    NotAuthentic,
    /// The fields to be sealed are not those of the binding, in its order.
    #[error("the fields to be sealed are not the ones declared")]
    FieldsDiffer,
    /// The random source, the cipher or the key derivation failed.
    #[error("the cryptographic library failed")]
    Library,
}
