//! Step 3: may this caller use which secret, here, for this?
//!
//! Scope, integration, path, method, limits, then the secret itself: found under the token's customer or
//! not at all, active, unexpired, of this integration and origin. The result is a [`Grant`]. What must
//! never enter: plaintext; a difference between an unknown UUID and another customer's.

mod flights;
mod follow;
pub mod leases;
mod listed;
mod only;
mod path;
mod policy;
mod proof;
pub mod records;
mod shares;
mod signable;
mod upgrade;
mod used;

use std::rc::Rc;
use std::sync::Arc;

use http::Uri;
use http::request::Parts;

use crate::clock;
use crate::config::Placement;
use crate::kms::KmsError;
use crate::model::{SecretId, State};
use crate::refusal::{Code, Refusal};
use crate::stage::authenticate::{Caller, Identity, Token};
use crate::stage::route::{Matched, Reference, Route, Routes};

use super::limits::{self, InFlight, Permit, SecretPermit};
use leases::{Lease, Leases};
use records::{LookupError, Record, Records};

/// Proof that this caller may use this secret on this integration for this request.
pub struct Grant {
    identity: Rc<Identity>,
    token: Token,
    route: Arc<Route>,
    record: Arc<Record>,
    matched: Matched,
    target: Uri,
    lease: Lease,
    websocket: bool,
    collects: Option<usize>,
    _permit: Permit,
    _own: Option<SecretPermit>,
}

impl Grant {
    /// Who calls.
    pub const fn identity(&self) -> &Rc<Identity> {
        &self.identity
    }

    /// The caller's token, to recognise it.
    pub const fn token(&self) -> &Token {
        &self.token
    }

    /// The integration; where its host is each customer's own, as it is for this secret.
    pub const fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The sealed record.
    pub const fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The vendor's path and query, base path included, without what stands where a credential will.
    pub const fn target(&self) -> &Uri {
        &self.target
    }

    /// Whether the request is to become a WebSocket.
    pub const fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// The most bytes of the request's body that are collected; `None` where it streams.
    pub const fn collects(&self) -> Option<usize> {
        self.collects
    }

    /// Whether it still stands.
    pub const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// How the app addresses the same place here.
    pub const fn matched(&self) -> &Matched {
        &self.matched
    }
}

/// What authorize needs beside the caller.
pub struct Rules<'a> {
    /// All integrations, for the nearest name in an error.
    pub routes: &'a Routes,
    /// The records by customer and UUID.
    pub records: &'a Records,
    /// Requests under way by customer.
    pub in_flight: &'a InFlight,
    /// Grants in use on this worker.
    pub leases: &'a Leases,
}

/// Decides; the checks stand in the order of refusals of DESIGN section 5.
///
/// # Errors
/// `scope_denied`, `integration_unknown`, `path_refused`, `request_denied`, `request_malformed`, `request_unsignable`, `rate_limited`, `too_busy`,
/// `secret_missing`, `secret_ambiguous`, `secret_not_found`, `secret_disabled`, `secret_expired`,
/// `credential_unusable`, `keys_*`, `store_unavailable`.
pub async fn authorize(rules: &Rules<'_>, caller: Caller, asked: &Parts) -> Result<Grant, Refusal> {
    let (mut matched, identity, token) = caller.into_parts();
    scope_allows(&identity, matched.asked_for())?;
    let route = matched.route().cloned().ok_or_else(|| unknown(rules.routes, matched.asked_for()))?;
    path::check(&matched, &token)?;
    policy::allowed(&route, asked, matched.rest())?;
    let websocket = upgrade::wanted(route.websocket, asked)?;
    let collects = collected(&route, asked, matched.query())?;
    let permit = limits::admit(rules.in_flight, &route.share, &identity.customer)?;
    let id = match which_secret(matched.reference(), &identity)? {
        Some(id) => id,
        // Boxed, so that a request that names its secret does not carry the room for it.
        None if route.default_secret => Box::pin(only::secret(rules.records, &identity, &route)).await?,
        None => return Err(unnamed()),
    };
    let generation = rules.leases.generation();
    let (record, route) = find(rules.records, &identity, id, route).await?;
    let own = policy::narrowed(rules.in_flight, &record, asked, matched.rest())?;
    matched.put_on(&route);
    let lease = rules.leases.lease(&identity, id, generation);
    let target = target(&route, &matched)?;
    Ok(Grant {
        identity,
        token,
        route,
        record,
        matched,
        target,
        lease,
        websocket,
        collects,
        _permit: permit,
        _own: own,
    })
}

/// The same grant over the record as the store has it now: the vendor gave another token for it meanwhile.
///
/// # Errors
/// Those of the secret itself, as [`authorize`] has them.
pub async fn again(records: &Records, grant: Grant) -> Result<Grant, Refusal> {
    let key = (grant.identity.customer.clone(), grant.record.head().id);
    let record = usable(records.now(&key).await?, &grant.route)?;
    if (&record.head().origin, record.base_path()) != (&grant.route.origin, grant.record.base_path()) {
        return Err(Refusal::new(
            Code::CredentialUnusable,
            "The secret was sealed for another place while its token was had: send the request again.",
        ));
    }
    Ok(Grant { record, ..grant })
}

/// The last word on a path alone, without rules and records: for `probe`.
pub(super) fn checked_target(route: &Route, matched: &Matched, token: &Token) -> Result<Uri, Refusal> {
    path::check(matched, token)?;
    target(route, matched)
}

fn scope_allows(identity: &Identity, integration: &str) -> Result<(), Refusal> {
    let Some(scopes) = &identity.scopes else { return Ok(()) };
    let allows = |scope: &String| {
        scope == "relay:use" || scope.strip_prefix("relay:use:").is_some_and(|name| name == integration)
    };
    if scopes.iter().any(allows) {
        return Ok(());
    }
    let detail = format!("The caller token's scope has neither `relay:use` nor `relay:use:{integration}`.");
    Err(Refusal::new(Code::ScopeDenied, detail))
}

fn unknown(routes: &Routes, asked_for: &str) -> Refusal {
    let shared = |name: &str| name.bytes().zip(asked_for.bytes()).take_while(|(a, b)| a == b).count();
    let near = routes.iter().max_by_key(|route| shared(route.name.as_str()));
    let detail = match near.filter(|route| shared(route.name.as_str()) >= 2) {
        Some(route) => format!("There is no such integration; did you mean {:?}?", route.name.as_str()),
        None => "There is no such integration: the first path segment names it.".to_owned(),
    };
    Refusal::new(Code::IntegrationUnknown, detail)
}

fn which_secret(reference: Reference, identity: &Identity) -> Result<Option<SecretId>, Refusal> {
    let named = match reference {
        Reference::Header(id) | Reference::Path(id) => Some(id),
        Reference::Absent => None,
        Reference::Twice => {
            return Err(Refusal::new(Code::SecretAmbiguous, "Relay-Secret stands more than once."));
        }
        Reference::Malformed => {
            return Err(Refusal::new(
                Code::SecretMissing,
                "Relay-Secret is not a 36-character hyphenated UUID.",
            ));
        }
    };
    match (named, identity.secret) {
        (Some(named), Some(pinned)) if named != pinned => Err(Refusal::new(
            Code::SecretAmbiguous,
            "The request names another secret than the one its token is pinned to.",
        )),
        (named, pinned) => Ok(named.or(pinned)),
    }
}

/// The most bytes of this request's body that are collected, if it is one that is.
fn collected(route: &Route, asked: &Parts, query: Option<&str>) -> Result<Option<usize>, Refusal> {
    let in_body = || route.placements.iter().any(Placement::is_in_body);
    let Some(signing) = &route.signing else { return Ok(route.collects) };
    let needed = signable::needs_body(signing, asked, query)?;
    Ok(route.collects.filter(|_| needed || in_body()))
}

fn unnamed() -> Refusal {
    Refusal::new(
        Code::SecretMissing,
        "Name the secret: `Relay-Secret: <uuid>`, or its UUID as the first path segment behind the integration.",
    )
}

/// The record, and the integration as it is for it.
async fn find(
    records: &Records,
    identity: &Identity,
    id: SecretId,
    route: Arc<Route>,
) -> Result<(Arc<Record>, Arc<Route>), Refusal> {
    let found = records.find(&identity.customer, id).await?;
    // Behind the lookup, so that a secret that is not on the token's list takes as long as an unknown one.
    let record = usable(found.filter(|_| identity.may_use(id)), &route)?;
    let route = route.at(&record.head().origin, record.base_path())?;
    Ok((record, route))
}

fn usable(record: Option<Arc<Record>>, route: &Route) -> Result<Arc<Record>, Refusal> {
    let not_found =
        || Refusal::new(Code::SecretNotFound, "This customer has no such secret for this integration.");
    let record = record.ok_or_else(not_found)?;
    let head = record.head();
    if head.integration != route.name {
        return Err(not_found());
    }
    if head.state == State::Disabled {
        return Err(Refusal::new(
            Code::SecretDisabled,
            "The secret is disabled; an operator can enable it again.",
        ));
    }
    if head.expires_at.is_some_and(|at| clock::unix_seconds() >= at) {
        return Err(Refusal::new(Code::SecretExpired, "The secret's own expiry date is past."));
    }
    if head.token_origin.as_ref() != route.renewing.as_ref().and_then(|it| it.token_origin.as_ref()) {
        return Err(Refusal::new(
            Code::CredentialUnusable,
            "The secret was sealed for another token endpoint than this integration's.",
        ));
    }
    Ok(record)
}

fn target(route: &Route, matched: &Matched) -> Result<Uri, Refusal> {
    let rest = matched.rest();
    let path = if route.base_path.is_empty() && rest.is_empty() { "/" } else { rest };
    let query = matched.own_query();
    let query_len = query.as_ref().map_or(0, |query| 1 + query.len());
    let mut path_and_query = String::with_capacity(route.base_path.len() + path.len() + query_len);
    path_and_query.push_str(&route.base_path);
    path_and_query.push_str(path);
    if let Some(query) = query {
        path_and_query.push('?');
        path_and_query.push_str(&query);
    }
    Uri::try_from(path_and_query).map_err(|error| Refusal::from(Code::PathRefused).because(error.to_string()))
}

impl From<LookupError> for Refusal {
    fn from(error: LookupError) -> Self {
        let cause = error.to_string();
        match error {
            LookupError::Store(_) => Code::StoreUnavailable.into(),
            LookupError::Keys(KmsError::Unavailable(_)) => Self::from(Code::KeysUnavailable),
            LookupError::Keys(KmsError::Denied(_)) => Self::from(Code::KeysDenied),
            LookupError::Keys(KmsError::Broken(_)) | LookupError::Unusable(_) => {
                Self::from(Code::CredentialUnusable)
            }
        }
        .because(cause)
    }
}
