//! Slots: where a request may carry the caller's token, so that a vendor's SDK works with the token given as
//! its API key.
//!
//! An integration's slots are made once, from its placements; `Authorization` is one everywhere and is not
//! listed. What must never enter: a place that is read and not stripped.

use http::HeaderName;
use http::header::AUTHORIZATION;

use crate::config::{FieldSetting, Placement, Where};
use crate::model::FieldName;

/// One place that may carry the caller's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// A header field: bare, behind a scheme, or as one half of Basic's pair.
    Header(HeaderName),
    /// A parameter of the query.
    Query(String),
    /// A cookie.
    Cookie(String),
    /// The open segments of the path placement.
    Path,
}

impl Slot {
    /// The places whose template holds a secret field (DESIGN section 5), and the header fields that a signature
    /// writes. A body is none: it has not come yet
    /// when the token is read.
    pub fn all_of(placements: &[Placement], fields: &[FieldSetting], signed: &[HeaderName]) -> Vec<Self> {
        let is_secret =
            |name: &FieldName| !fields.iter().any(|field| field.spec.name == *name && !field.spec.secret);
        let carriers =
            placements.iter().filter(|placement| placement.value.fields().into_iter().any(is_secret));
        let slot = |placement: &Placement| match &placement.at {
            Where::Header(name) if *name == AUTHORIZATION => None,
            Where::Header(name) => Some(Self::Header(name.clone())),
            Where::Query(name) => Some(Self::Query(name.clone())),
            Where::Cookie(name) => Some(Self::Cookie(name.clone())),
            Where::Path(_) => Some(Self::Path),
            Where::Json(_) | Where::Form(_) => None,
        };
        let signed = signed.iter().filter(|name| **name != AUTHORIZATION).cloned().map(Self::Header);
        carriers.filter_map(slot).chain(signed).collect()
    }
}
