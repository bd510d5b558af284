//! The words that replicas tell each other through PostgreSQL, one NOTIFY for each change.
//!
//! `1 WRITER secret UUID CUSTOMER`, `1 WRITER keys CUSTOMER` or `1 WRITER beat`; the customer, which may hold
//! spaces, comes last. A note is at most 250 bytes of the 8000 that PostgreSQL takes. What must never enter: a
//! record's bytes. Anyone whom the database lets in can send notes, so a note only ever makes a cache forget.

use uuid::Uuid;

use crate::model::{Customer, SecretId};
use crate::store::Change;

/// Where notes are sent. PostgreSQL keeps each database's apart.
pub(super) const CHANNEL: &str = "relay_changes";

/// What a note says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Something changed.
    Change(Change),
    /// Nothing but that notes arrive.
    Beat,
    /// Nothing that this relay understands: it may be anything.
    Unclear,
}

/// The text of a change's note.
pub(super) fn of(writer: Uuid, change: &Change) -> String {
    match change {
        Change::Secret(customer, id) => {
            let id = Uuid::from_bytes(*id.as_bytes());
            format!("1 {writer} secret {id} {}", customer.as_str())
        }
        Change::DataKeys(customer) => format!("1 {writer} keys {}", customer.as_str()),
        Change::Everything => format!("1 {writer} everything"),
    }
}

/// The text of a note that only shows that notes arrive.
pub(super) fn beat(writer: Uuid) -> String {
    format!("1 {writer} beat")
}

/// Reads a note: who wrote it, and what it says.
pub(super) fn read(text: &str) -> (Option<Uuid>, Note) {
    let unclear = (None, Note::Unclear);
    let Some((writer, rest)) = text.strip_prefix("1 ").and_then(|rest| rest.split_once(' ')) else {
        return unclear;
    };
    let Ok(writer) = Uuid::try_parse(writer) else { return unclear };
    let note = match rest.split_once(' ') {
        None if rest == "beat" => Some(Note::Beat),
        None if rest == "everything" => Some(Note::Change(Change::Everything)),
        Some(("keys", customer)) => {
            Customer::parse(customer).ok().map(|customer| Note::Change(Change::DataKeys(customer)))
        }
        Some(("secret", named)) => named.split_once(' ').and_then(|(id, customer)| {
            let (id, customer) = (SecretId::parse(id).ok()?, Customer::parse(customer).ok()?);
            Some(Note::Change(Change::Secret(customer, id)))
        }),
        _ => None,
    };
    note.map_or(unclear, |note| (Some(writer), note))
}
