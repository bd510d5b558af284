//! What is told of a secret: everything but its values.
//!
//! What must never enter: a value, its length, or a hash of it that is not keyed.

use serde::{Serialize, Serializer};

use crate::clock;
use crate::envelope::{Head, Standing, Terms};
use crate::model::{Customer, FieldName, IntegrationName, Origin, Policy, SecretId, State};

/// A secret as operators see it. Times are seconds since 1970 here and RFC 3339 when serialized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its UUID.
    pub id: SecretId,
    /// Whose it is.
    pub customer: Customer,
    /// The integration it may be used on.
    pub integration: IntegrationName,
    /// Where it may go.
    pub origin: Origin,
    /// The path below which everything stays, where it is the customer's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_path: Option<String>,
    /// Its own limits.
    #[serde(skip_serializing_if = "Policy::is_empty")]
    pub policy: Policy,
    /// What people call it.
    pub label: String,
    /// Whether it may be used.
    pub state: State,
    /// The current version.
    pub version: u32,
    /// 16 hexadecimal digits that are the same for the same values in this store, and tell nothing else.
    pub fingerprint: String,
    /// The names of its fields.
    pub fields: Vec<FieldName>,
    /// When it was added.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: u64,
    /// When it was last changed.
    #[serde(serialize_with = "rfc3339")]
    pub updated_at: u64,
    /// Until when it may be used.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub expires_at: Option<u64>,
    /// The hour in which it was last used, a minute late; told where secrets are shown or listed.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub last_used_at: Option<u64>,
    /// How its access token stands, where it has one; told where one secret is shown.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenSummary>,
}

/// How an access token stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenSummary {
    /// `valid`, `expired`, or `reconnect_required`.
    pub token_state: &'static str,
    /// When the vendor gave it, or refused it for good.
    #[serde(serialize_with = "rfc3339")]
    pub token_obtained_at: u64,
    /// From when on it is of no use.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub token_expires_at: Option<u64>,
    /// Why the customer must connect the account again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_reason: Option<String>,
}

impl TokenSummary {
    pub(super) fn of(standing: &Standing, now: u64) -> Self {
        let token_state = match standing {
            Standing { reconnect: Some(_), .. } => "reconnect_required",
            Standing { expires_at, .. } if *expires_at <= now => "expired",
            Standing { .. } => "valid",
        };
        Self {
            token_state,
            token_obtained_at: standing.obtained_at,
            token_expires_at: standing.reconnect.is_none().then_some(standing.expires_at),
            token_reason: standing.reconnect.clone(),
        }
    }
}

/// One page of a customer's secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The secrets, in the order of their ids.
    pub secrets: Vec<Summary>,
    /// Secrets whose stored row relay did not write as it stands: one damaged row hides no other.
    pub unusable: Vec<SecretId>,
    /// Give this as `after` for the next page.
    pub next: Option<SecretId>,
}

/// One version of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Its number.
    pub version: u32,
    /// Whether requests use it.
    pub current: bool,
    /// As in [`Summary`]; `None` where nothing opens it any more.
    pub fingerprint: Option<String>,
    /// Where it may go.
    pub origin: Option<Origin>,
    /// When another took its place.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub superseded_at: Option<u64>,
}

/// The versions of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// Its UUID.
    pub id: SecretId,
    /// Whose it is.
    pub customer: Customer,
    /// In order.
    pub versions: Vec<Version>,
}

impl Version {
    pub(super) fn current(head: &Head) -> Self {
        Self { current: true, superseded_at: None, ..Self::past(head.version, 0, Some(head)) }
    }

    pub(super) fn past(version: u32, superseded_at: u64, head: Option<&Head>) -> Self {
        Self {
            version,
            current: false,
            fingerprint: head.map(|head| shown(head.fingerprint)),
            origin: head.map(|head| head.origin.clone()),
            superseded_at: Some(superseded_at),
        }
    }
}

fn shown(fingerprint: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(fingerprint))
}

impl From<Head> for Summary {
    fn from(head: Head) -> Self {
        // Terms that are unclear are an error where the secret is used, and here it is still shown.
        let Terms { base_path, policy } = Terms::decode(&head.policy).unwrap_or_default();
        Self {
            base_path,
            policy,
            id: head.id,
            customer: head.customer,
            integration: head.integration,
            origin: head.origin,
            label: head.label,
            state: head.state,
            version: head.version,
            fingerprint: shown(head.fingerprint),
            fields: head.fields.into_iter().map(|field| field.name).collect(),
            created_at: head.created_at,
            updated_at: head.updated_at,
            expires_at: head.expires_at,
            last_used_at: None,
            token: None,
        }
    }
}

fn rfc3339<S: Serializer>(seconds: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&clock::rfc3339(*seconds))
}

#[allow(clippy::ref_option)] // the shape that serde asks for
pub(super) fn rfc3339_or_null<S: Serializer>(seconds: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    seconds.map(clock::rfc3339).serialize(to)
}
