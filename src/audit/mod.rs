//! Who used which secret for what, in a file that shows any later edit.
//!
//! JSON lines; each worker writes its own hash chain into the one file, and an anchor signed at least
//! every 60 s names every chain's newest record. An intent is durable before any plaintext exists.
//! What must never enter: a value of a secret, a caller's token, a query string, a header.

pub mod anchor;
pub mod chain;
pub mod collector;
pub mod fan;
pub mod file;
pub mod history;
pub mod log;
pub mod verify;

mod desk;
mod inbox;
mod lane;
mod line;
mod problem;
mod record;
pub mod replica;
pub mod rotation;
mod rounds;
pub mod segments;
pub mod several;
mod stdout;
mod tracks;
mod writer;

pub use anchor::{Anchor, PublicKey, Signer};
pub use chain::{Chain, Written};
pub use fan::FanOut;
pub use file::{FileSink, Member, MemorySink, Sink};
pub use lane::Outlet;
pub use log::{Log, Setup, newest_anchor};
pub use problem::Problem;
pub use rotation::Rotation;
pub use verify::{Verdict, verify};

use crate::model::{Customer, IntegrationName, RequestId, SecretId};

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A secret is about to be used. Written before any plaintext exists.
    Intent,
    /// How that use ended, by the body's end or its drop.
    Outcome,
    /// A refusal after a valid caller token.
    Refused,
    /// An operator's change through the admin API.
    Admin,
    /// relay's own act: start, stop, a renewal.
    System,
    /// The signed heads of all chains.
    Anchor,
}

impl Kind {
    /// The word that stands in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::Refused => "refused",
            Self::Admin => "admin",
            Self::System => "system",
            Self::Anchor => "anchor",
        }
    }
}

/// One record's content. `v`, `chain`, `seq`, `prev` and `time` are the chain's to add. A member that is
/// `None` is left out. Lengths in bytes, `ms` in milliseconds. Every text is cut to 512 bytes and escaped.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// What it is about.
    pub kind: Kind,
    /// The request.
    pub request_id: Option<RequestId>,
    /// The token's issuer.
    pub iss: Option<&'a str>,
    /// The token's subject.
    pub sub: Option<&'a str>,
    /// The token's own id.
    pub jti: Option<&'a str>,
    /// Whose secret.
    pub customer: Option<&'a Customer>,
    /// Which secret.
    pub secret: Option<SecretId>,
    /// Which version of it.
    pub version: Option<u32>,
    /// Which integration.
    pub integration: Option<&'a IntegrationName>,
    /// The request's method; for admin records the operation (`secret.add`).
    pub method: Option<&'a str>,
    /// The path behind prefix and UUID, without query; cut to 512 bytes and escaped by the chain.
    pub path: Option<&'a str>,
    /// Where the credential goes.
    pub origin: Option<&'a str>,
    /// The status actually sent to the app.
    pub status: Option<u16>,
    /// The refusal's code, if relay authored the answer.
    pub code: Option<&'a str>,
    /// Body bytes from the app.
    pub bytes_in: Option<u64>,
    /// Body bytes to the app.
    pub bytes_out: Option<u64>,
    /// Whether a form of the credential was found in the answer.
    pub reflected: Option<bool>,
    /// Milliseconds from the request's head to this record.
    pub ms: Option<u64>,
    /// A short text for `system` and `admin` records and for counted refusals.
    pub note: Option<&'a str>,
}

impl Event<'_> {
    /// An event of `kind` with every member still `None`.
    pub const fn of(kind: Kind) -> Self {
        Self {
            kind,
            request_id: None,
            iss: None,
            sub: None,
            jti: None,
            customer: None,
            secret: None,
            version: None,
            integration: None,
            method: None,
            path: None,
            origin: None,
            status: None,
            code: None,
            bytes_in: None,
            bytes_out: None,
            reflected: None,
            ms: None,
            note: None,
        }
    }
}

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Handed to the kernel: survives kill -9.
    Written,
    /// Synced to the disk in groups, at most 5 ms apart: survives power loss.
    Synced,
}

/// The audit cannot be written now; nothing may be sent.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the audit cannot be written: {0}")]
pub struct AuditError(pub String);
