//! What relay does while something that it depends on does not work: the whole table, as code.
//!
//! A state against what is asked of relay, one answer each, matched without a `_`: a new state does not
//! compile until someone decides all of its cells. `tests/relay/dependencies.rs` puts a real relay into
//! every state and compares. Readiness is answered from here; each refusal is decided where it is made.
//! What must never enter: a call, a request.

pub mod board;
pub mod drift;

use crate::refusal::Code;

/// Something that relay depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependency {
    /// The sealed records.
    Store,
    /// The record of uses.
    Audit,
    /// The KMS key that wraps.
    Kms,
    /// KMS keys that still unwrap.
    EarlierKms,
    /// The issuers' public keys.
    Issuers,
    /// The wall clock.
    Clock,
    /// The third party. Each integration has its own, so health shows none.
    Vendor,
    /// relay itself, which may be shutting down.
    Accepting,
}

impl Dependency {
    /// Every one, as health lists them.
    pub const ALL: [Self; 8] = [
        Self::Store,
        Self::Audit,
        Self::Kms,
        Self::EarlierKms,
        Self::Issuers,
        Self::Clock,
        Self::Vendor,
        Self::Accepting,
    ];

    /// The word in health and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Audit => "audit",
            Self::Kms => "kms",
            Self::EarlierKms => "kms_earlier",
            Self::Issuers => "issuers",
            Self::Clock => "clock",
            Self::Vendor => "vendor",
            Self::Accepting => "accepting",
        }
    }
}

/// A way in which a dependency does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// The store fails, or is being reopened.
    StoreFails,
    /// The store fails for so long that nothing at hand is known to be as it was: where several relays use it.
    StoreLost,
    /// The store has no space left.
    StoreFull,
    /// The store answers, and what other relays change in it may be heard of late.
    FeedLost,
    /// The audit cannot be written.
    AuditFails,
    /// The audit does not answer within 250 ms.
    AuditHangs,
    /// Of several places that the audit goes to one takes nothing, and another does.
    AuditSinkDown,
    /// The KMS key that wraps gives no answer.
    KmsUnavailable,
    /// The KMS key that wraps says no.
    KmsDenied,
    /// An earlier KMS key gives no answer.
    EarlierKmsUnavailable,
    /// An earlier KMS key says no.
    EarlierKmsDenied,
    /// An issuer's keys cannot be read; the last ones are in use.
    IssuerKeysStale,
    /// There are no keys of an issuer: never read, or not for 24 h.
    IssuerKeysMissing,
    /// The wall clock moved by more than a minute against the steady one.
    ClockJumped,
    /// A vendor cannot be reached.
    VendorDown,
    /// relay is shutting down.
    Draining,
}

/// What is asked of relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asked {
    /// Use a secret whose record and data key are at hand.
    UseWarm,
    /// Use a secret of which nothing is at hand.
    UseCold,
    /// Add a secret for a customer whose data key is at hand.
    AddWarm,
    /// Add a secret for a customer whose data key is not at hand, or not made yet.
    AddCold,
    /// Delete a secret, which wants no key.
    Revoke,
    /// `/readyz`.
    Readiness,
}

impl Asked {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::UseWarm, Self::UseCold, Self::AddWarm, Self::AddCold, Self::Revoke, Self::Readiness];
}

/// What relay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It does what was asked, as if nothing were wrong.
    Served,
    /// It refuses.
    Refused(Code),
    /// `/readyz` says ready and nothing else.
    Ready,
    /// `/readyz` says ready, and that something is wrong.
    Degraded,
    /// `/readyz` says not ready.
    NotReady,
}

impl State {
    /// Every one.
    pub const ALL: [Self; 16] = [
        Self::StoreFails,
        Self::StoreLost,
        Self::StoreFull,
        Self::FeedLost,
        Self::AuditFails,
        Self::AuditHangs,
        Self::AuditSinkDown,
        Self::KmsUnavailable,
        Self::KmsDenied,
        Self::EarlierKmsUnavailable,
        Self::EarlierKmsDenied,
        Self::IssuerKeysStale,
        Self::IssuerKeysMissing,
        Self::ClockJumped,
        Self::VendorDown,
        Self::Draining,
    ];

    /// What is in this state.
    pub const fn of(self) -> Dependency {
        match self {
            Self::StoreFails | Self::StoreLost | Self::StoreFull | Self::FeedLost => Dependency::Store,
            Self::AuditFails | Self::AuditHangs | Self::AuditSinkDown => Dependency::Audit,
            Self::KmsUnavailable | Self::KmsDenied => Dependency::Kms,
            Self::EarlierKmsUnavailable | Self::EarlierKmsDenied => Dependency::EarlierKms,
            Self::IssuerKeysStale | Self::IssuerKeysMissing => Dependency::Issuers,
            Self::ClockJumped => Dependency::Clock,
            Self::VendorDown => Dependency::Vendor,
            Self::Draining => Dependency::Accepting,
        }
    }

    /// The word in health and metrics, beside its dependency's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StoreFails | Self::AuditFails => "fails",
            Self::StoreLost => "lost",
            Self::StoreFull => "full",
            Self::FeedLost => "deaf",
            Self::AuditHangs => "hangs",
            Self::AuditSinkDown => "sink_down",
            Self::KmsUnavailable | Self::EarlierKmsUnavailable => "unavailable",
            Self::KmsDenied | Self::EarlierKmsDenied => "denied",
            Self::IssuerKeysStale => "stale",
            Self::IssuerKeysMissing => "missing",
            Self::ClockJumped => "jumped",
            Self::VendorDown => "down",
            Self::Draining => "draining",
        }
    }

    /// What relay does in this state when this is asked. The rows of an earlier KMS key are for the secrets
    /// and customers whose data key it wrapped; all others go on as if nothing were wrong.
    pub const fn answer(self, asked: Asked) -> Answer {
        use Answer::{Degraded, NotReady, Ready, Refused, Served};
        use Asked::{AddCold, AddWarm, Readiness, Revoke, UseCold, UseWarm};
        match self {
            Self::StoreFails => match asked {
                UseWarm => Served,
                UseCold | AddWarm | AddCold | Revoke => Refused(Code::StoreUnavailable),
                // All relays of a store would say so at once, and what is at hand serves.
                Readiness => Degraded,
            },
            Self::StoreLost => match asked {
                UseWarm | UseCold | AddWarm | AddCold | Revoke => Refused(Code::StoreUnavailable),
                Readiness => NotReady,
            },
            Self::StoreFull => match asked {
                // A removal frees space, and is tried on a full disk too.
                UseWarm | UseCold | Revoke => Served,
                AddWarm | AddCold => Refused(Code::StoreUnavailable),
                Readiness => Degraded,
            },
            Self::AuditFails | Self::AuditHangs => match asked {
                UseWarm | UseCold | AddWarm | AddCold | Revoke => Refused(Code::AuditUnavailable),
                Readiness => NotReady,
            },
            Self::KmsUnavailable | Self::EarlierKmsUnavailable => match asked {
                UseWarm | AddWarm | Revoke => Served,
                UseCold | AddCold => Refused(Code::KeysUnavailable),
                Readiness => Degraded,
            },
            Self::KmsDenied => match asked {
                UseWarm | UseCold | AddWarm | AddCold => Refused(Code::KeysDenied),
                Revoke => Served,
                Readiness => NotReady,
            },
            Self::EarlierKmsDenied => match asked {
                UseWarm | UseCold | AddWarm | AddCold => Refused(Code::KeysDenied),
                Revoke => Served,
                Readiness => Degraded,
            },
            Self::AuditSinkDown | Self::FeedLost | Self::IssuerKeysStale | Self::ClockJumped => match asked {
                UseWarm | UseCold | AddWarm | AddCold | Revoke => Served,
                Readiness => Degraded,
            },
            Self::IssuerKeysMissing => match asked {
                UseWarm | UseCold => Refused(Code::IssuerUnavailable),
                AddWarm | AddCold | Revoke => Served,
                Readiness => NotReady,
            },
            Self::VendorDown => match asked {
                UseWarm | UseCold => Refused(Code::VendorUnreachable),
                AddWarm | AddCold | Revoke => Served,
                Readiness => Ready,
            },
            // What comes on open connections is served for the grace; what ends a use must not wait for the restart.
            Self::Draining => match asked {
                UseWarm | UseCold | Revoke => Served,
                AddWarm | AddCold => Refused(Code::Draining),
                Readiness => NotReady,
            },
        }
    }
}
