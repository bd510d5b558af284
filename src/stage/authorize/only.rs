//! `default_secret = "only"`: the secret of a request that names none.
//!
//! It is the customer's only usable one of this integration, or none: where two could be meant the caller must
//! say which. What is found goes through the same checks as a secret that was named. What must never enter:
//! another customer's secrets; a choice among several.

use std::sync::Arc;

use super::records::Records;
use crate::clock;
use crate::model::SecretId;
use crate::refusal::{Code, Refusal};
use crate::stage::authenticate::Identity;
use crate::stage::route::Route;

/// Secrets of one integration that are told apart for the caller.
pub(super) const NAMED: usize = 10;

/// What one customer has of one integration: its usable secrets, up to one more than are named.
pub(super) struct Usable {
    pub(super) id: SecretId,
    pub(super) label: String,
    pub(super) expires_at: Option<u64>,
}

/// The customer's only usable secret of this integration.
///
/// # Errors
/// `secret_not_found`, `secret_ambiguous`, and as a lookup fails.
pub(super) async fn secret(
    records: &Records,
    identity: &Identity,
    route: &Route,
) -> Result<SecretId, Refusal> {
    let listed = records.usable(&identity.customer).await?;
    let Some(listed) = &listed.secrets else {
        return Err(Refusal::new(
            Code::SecretAmbiguous,
            "This customer has too many secrets to look for an only one: name the secret.",
        ));
    };
    let now = clock::unix_seconds();
    let of_route = listed.get(&route.name).map(Arc::as_ref).unwrap_or_default();
    let may = |one: &&Usable| identity.may_use(one.id) && one.expires_at.is_none_or(|at| now < at);
    let usable = || of_route.iter().filter(may);
    match (usable().next(), of_route.len()) {
        (None, 0..=NAMED) => Err(Refusal::new(
            Code::SecretNotFound,
            "This customer has no usable secret for this integration.",
        )),
        (Some(one), 0..=NAMED) if usable().count() == 1 => Ok(one.id),
        _ => {
            let named: Vec<String> =
                usable().take(NAMED).map(|one| format!("{} ({})", one.id, one.label)).collect();
            let more = if usable().count() > NAMED { ", and more" } else { "" };
            let detail = format!(
                "This customer has several secrets for this integration; name one with `Relay-Secret: <uuid>`: {}{more}.",
                named.join(", ")
            );
            Err(Refusal::new(Code::SecretAmbiguous, detail))
        }
    }
}
