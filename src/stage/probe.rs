//! Two decisions of the stages by themselves, for the fuzz targets in `tests/fuzz`.
//!
//! A fuzzer makes a hundred thousand heads a second; through the corridor each would need a sealed record, an
//! audit and a vendor. What stands here is called by the stages as it is: nothing is decided in this file. It
//! is public so that the targets can be a package of their own, and hidden because it is no part of what
//! relay offers. What must never enter: a way round a stage, a credential, a proof built from nothing.

use http::{HeaderMap, Uri};

use super::authenticate::Token;
use super::route::{Matched, Route};
use super::{authorize, inject};
use crate::refusal::Refusal;

/// What would be asked of the vendor for a matched request.
///
/// # Errors
/// `path_refused`, as [`authorize::authorize`] refuses it.
pub fn target(route: &Route, matched: &Matched, token: &Token) -> Result<Uri, Refusal> {
    authorize::checked_target(route, matched, token)
}

/// The fields of the vendor's request, before the credential is put in.
pub fn headers(from: &HeaderMap, route: &Route, token: &Token) -> HeaderMap {
    inject::copied(from, route, token)
}
