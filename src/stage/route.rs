//! Step 1: which integration is this request for, and how does it name its secret?
//!
//! By path prefix. Nothing is refused here for being unknown: an unauthenticated caller must not learn
//! which integrations exist, so an unknown name travels on as [`Matched`] without a route and is refused
//! behind the token. What must never enter: a decision about who may do what.

use std::collections::HashMap;
use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use crate::config::rule::Rule;
use crate::config::{FieldSetting, OnReflect, Placement};
use crate::metrics::IntegrationMetrics;
use crate::model::{IntegrationName, Origin, SecretId};
use crate::net::pool::Upstream;
use crate::refusal::{Code, Refusal};

const RELAY_SECRET: HeaderName = HeaderName::from_static("relay-secret");

/// One integration, ready to be used: built from configuration by `app`.
pub struct Route {
    /// Its name.
    pub name: IntegrationName,
    /// Where its credentials go.
    pub origin: Origin,
    /// The origin as the audit writes it.
    pub origin_text: String,
    /// The `Host` of its requests.
    pub host: HeaderValue,
    /// The path below which everything stays, without a slash at its end.
    pub base_path: String,
    /// Where a credential is put.
    pub placements: Vec<Placement>,
    /// The fields of its secrets.
    pub fields: Vec<FieldSetting>,
    /// What is allowed; empty means anything.
    pub allow: Vec<Rule>,
    /// What is not.
    pub deny: Vec<Rule>,
    /// The way to it.
    pub upstream: Arc<Upstream>,
    /// Whether `Set-Cookie` passes to the app.
    pub cookies: bool,
    /// What happens when the credential comes back.
    pub on_reflect: OnReflect,
    /// Its counters.
    pub metrics: IntegrationMetrics,
    /// Its limit per customer, if it has one.
    pub rate: Option<super::limits::Rate>,
}

/// All integrations by name.
#[derive(Default)]
pub struct Routes(HashMap<IntegrationName, Arc<Route>>);

impl Routes {
    /// The table of these routes; a name given twice keeps the last, configuration refuses that before.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        Self(routes.into_iter().map(|route| (route.name.clone(), Arc::new(route))).collect())
    }

    /// Every route.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.0.values()
    }
}

/// How the request names its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// By the `Relay-Secret` field.
    Header(SecretId),
    /// By the first path segment.
    Path(SecretId),
    /// Not at all: the token's claim must.
    Absent,
    /// The `Relay-Secret` field is no UUID.
    Malformed,
    /// The `Relay-Secret` field stands more than once.
    Twice,
}

/// Proof that the request has one address form and at most one integration.
pub struct Matched {
    route: Option<Arc<Route>>,
    asked_for: String,
    reference: Reference,
    prefix: String,
    rest: String,
    query: Option<String>,
}

impl Matched {
    /// The integration, if there is one of that name.
    pub fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref()
    }

    /// The name that was asked for, for the error text.
    pub fn asked_for(&self) -> &str {
        &self.asked_for
    }

    /// How the secret is named.
    pub const fn reference(&self) -> Reference {
        self.reference
    }

    /// What stands before the vendor's path on this side: `/slack` or `/slack/<uuid>` as it came.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The vendor's path below the base path, still encoded: empty or with a leading slash.
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// The query as it came, without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

/// Finds the integration and the reference in the request's target.
///
/// # Errors
/// `path_refused` for an absolute form whose authority is not the Host (RFC 9112 section 3.2.2).
pub fn route(routes: &Routes, head: &Parts) -> Result<Matched, Refusal> {
    if let Some(authority) = head.uri.authority() {
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let spelled = |name: &str| name.strip_suffix(":80").unwrap_or(name).to_ascii_lowercase();
        if spelled(host) != spelled(authority.as_str()) {
            return Err(Refusal::new(
                Code::PathRefused,
                "The request's target names another host than its Host field.",
            ));
        }
    }
    let path = head.uri.path();
    let (name, behind) = split_segment(path);
    let route = IntegrationName::parse(name).ok().and_then(|name| routes.0.get(&name).cloned());
    let mut prefix = format!("/{name}");
    let mut rest = behind;
    let mut reference = header_reference(head);
    if reference == Reference::Absent {
        let (segment, further) = split_segment(collapse(behind));
        if let Ok(id) = SecretId::parse(segment) {
            reference = Reference::Path(id);
            prefix = format!("{prefix}/{segment}");
            rest = further;
        }
    }
    Ok(Matched {
        route,
        asked_for: name.chars().take(40).collect(),
        reference,
        prefix,
        rest: collapse(rest).to_owned(),
        query: head.uri.query().map(str::to_owned),
    })
}

fn header_reference(head: &Parts) -> Reference {
    let mut values = head.headers.get_all(RELAY_SECRET).iter();
    match (values.next(), values.next()) {
        (None, _) => Reference::Absent,
        (Some(_), Some(_)) => Reference::Twice,
        (Some(value), None) => {
            let id = value.to_str().ok().and_then(|text| SecretId::parse(text.trim()).ok());
            id.map_or(Reference::Malformed, Reference::Header)
        }
    }
}

/// `/a/b/c` as `a` and `/b/c`.
fn split_segment(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.find('/').map_or((path, ""), |at| path.split_at(at))
}

/// Slashes directly behind the prefix collapse to one: base URLs are written with and without a slash.
fn collapse(path: &str) -> &str {
    let mut path = path;
    while let Some(shorter) = path.strip_prefix('/').filter(|p| p.starts_with('/')) {
        path = shorter;
    }
    path
}
