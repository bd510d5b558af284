//! Step 1: which integration is this request for, and how does it name its secret?
//!
//! By an own listener, an own host name, or else the path's first segment. Nothing is refused here for being unknown: an unauthenticated caller must not learn
//! which integrations exist, so an unknown name travels on as [`Matched`] without a route and is refused
//! behind the token. What the app
//! wrote in the place of a path placement is cut out of the path here, so that no rule and no record sees it. What must never enter: a decision about who may do what.

pub mod parameters;
mod slot;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use http::header::{HOST, HeaderMap, RANGE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};

use crate::config::placement::Segment;
use crate::config::rule::Rule;
use crate::config::signing::{ClientCertificate, Signing};
use crate::config::{FieldSetting, OnReflect, Placement, Where};
use crate::metrics::IntegrationMetrics;
use crate::model::{IntegrationName, Origin, SecretId};
use crate::net::pool::Upstream;
use crate::refusal::{Code, Refusal};

use super::hosts::Hosts;
use super::limits::Share;
pub use slot::Slot;

const RELAY_SECRET: HeaderName = HeaderName::from_static("relay-secret");

/// One integration, ready to be used: built from configuration by `app`.
#[derive(Clone)]
pub struct Route {
    /// Its name.
    pub name: IntegrationName,
    /// Where its credentials go.
    pub origin: Origin,
    /// The origin as the audit writes it.
    pub origin_text: String,
    /// The `Host` of its requests.
    pub host: HeaderValue,
    /// The host name on relay's side that leads to it, in lower case.
    pub own_host: Option<String>,
    /// The path below which everything stays, without a slash at its end.
    pub base_path: String,
    /// Where a credential is put.
    pub placements: Vec<Placement>,
    /// Where the caller's token may stand, beside `Authorization`.
    pub slots: Vec<Slot>,
    /// The most bytes of a request's body that are collected, where a placement or a signature needs it whole;
    /// `None` where it streams.
    pub collects: Option<usize>,
    /// What signs its requests.
    pub signing: Option<Box<Signing>>,
    /// The header fields that a placement or the signature writes: nothing of the app's goes on there. Every slot
    /// that is a header is one of them, or `Authorization`.
    pub written: Vec<HeaderName>,
    /// What is shown to the vendor in the TLS handshake.
    pub client_certificate: Option<ClientCertificate>,
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
    /// Whether parts of an answer may be asked for.
    pub ranges: bool,
    /// Whether a request may become a WebSocket.
    pub websocket: bool,
    /// Whether URLs in JSON answers are kept inside.
    pub rewrite_json: bool,
    /// What happens when the credential comes back.
    pub on_reflect: OnReflect,
    /// Whether a request that names no secret is given the customer's only one.
    pub default_secret: bool,
    /// Its counters.
    pub metrics: IntegrationMetrics,
    /// Its limits per customer.
    pub share: Arc<Share>,
    /// Where it is for each customer, if that is not the one place above.
    pub hosts: Option<Arc<Hosts>>,
    /// Where its access tokens come from, if what goes out is one.
    pub renewing: Option<Renewing>,
}

/// What an integration whose access tokens are renewed needs on a request's way.
#[derive(Clone)]
pub struct Renewing {
    /// Where its secrets may go for tokens, beside the vendor's own origin.
    pub token_origin: Option<Origin>,
}

impl Route {
    /// The path placement, if it has one.
    pub fn path_placement(&self) -> Option<&[Segment]> {
        self.placements.iter().find_map(|placement| match &placement.at {
            Where::Path(segments) => Some(segments.as_slice()),
            _ => None,
        })
    }

    /// The parameters of the query that it sets.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.placements.iter().filter_map(|placement| match &placement.at {
            Where::Query(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether a request with this head asks for part of an answer, where it may.
    pub fn asks_part(&self, head: &HeaderMap) -> bool {
        self.ranges && head.contains_key(RANGE)
    }

    /// Whether its answer must come uncompressed: a part cannot be decoded, and what is rewritten is read as
    /// it stands.
    pub fn reads_plain(&self, head: &HeaderMap) -> bool {
        self.rewrite_json || self.asks_part(head)
    }
}

/// All integrations, by name and by host name.
#[derive(Default)]
pub struct Routes {
    named: HashMap<IntegrationName, Arc<Route>>,
    hosts: HashMap<String, Arc<Route>>,
}

impl Routes {
    /// The table of these routes; a name given twice keeps the last, configuration refuses that before.
    pub fn new<R: Into<Arc<Route>>>(routes: impl IntoIterator<Item = R>) -> Self {
        let routes = routes.into_iter().map(Into::into);
        let named: HashMap<_, Arc<Route>> = routes.map(|route| (route.name.clone(), route)).collect();
        let hosts = named.values().filter_map(|route| Some((route.own_host.clone()?, route.clone())));
        Self { hosts: hosts.collect(), named }
    }

    /// Every route.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.named.values()
    }

    /// The integration whose own host name this request has.
    fn of_host(&self, head: &Parts) -> Option<&Arc<Route>> {
        if self.hosts.is_empty() {
            return None;
        }
        let host = head.headers.get(HOST)?.to_str().ok()?.to_ascii_lowercase();
        let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
        self.hosts.get(name.strip_suffix('.').unwrap_or(name))
    }
}

/// The listener that a request came in by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entrance {
    /// The one integration that it leads to, if it is an integration's own.
    pub integration: Option<IntegrationName>,
    /// Whether it speaks TLS.
    pub secure: bool,
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
#[derive(Clone)]
pub struct Matched {
    route: Option<Arc<Route>>,
    reference: Reference,
    /// Whether the app speaks TLS with relay.
    secure: bool,
    target: PathAndQuery,
    /// Where the integration's name ends in the target's path; 0 where listener or host name it.
    name_end: usize,
    /// The first path segment behind it, where that is the reference.
    segment: Range<usize>,
    /// The segments at a path placement's place; empty where there is none, or where they do not fit it.
    slot: Range<usize>,
    /// Where the vendor's path begins, behind the slot.
    rest: usize,
}

impl Matched {
    /// The integration, if there is one of that name.
    pub fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref()
    }

    /// Puts the request on the integration as it is for its secret, where its host is each customer's own.
    pub fn put_on(&mut self, route: &Arc<Route>) {
        if self.route.as_ref().is_some_and(|own| own.hosts.is_some()) {
            self.route = Some(route.clone());
        }
    }

    /// The name that was asked for, for the error text: at most 40 characters of it.
    pub fn asked_for(&self) -> &str {
        if let Some(route) = &self.route {
            return route.name.as_str();
        }
        let name = self.part(1..self.name_end);
        let end = name.char_indices().nth(40).map_or(name.len(), |(at, _)| at);
        name.get(..end).unwrap_or_default()
    }

    /// How the secret is named.
    pub const fn reference(&self) -> Reference {
        self.reference
    }

    /// Whether the app speaks TLS with relay.
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether the integration is named by the path, as against its own listener or host name.
    pub const fn is_by_path(&self) -> bool {
        self.name_end > 0
    }

    /// What stands before the vendor's path on this side: `/slack` or `/slack/<uuid>` as it came; nothing
    /// where the integration has its own listener or host name.
    pub fn prefix(&self) -> String {
        let (name, segment) = (self.part(0..self.name_end), self.part(self.segment.clone()));
        let slot = self.slot();
        if segment.is_empty() { format!("{name}{slot}") } else { format!("{name}/{segment}{slot}") }
    }

    /// What the app wrote where a path placement goes, with its leading slash: the caller's token, or anything.
    pub fn slot(&self) -> &str {
        self.part(self.slot.clone())
    }

    /// What the app wrote at the place of each field of a path placement.
    pub fn slot_values(&self) -> impl Iterator<Item = &str> {
        let segments = self.route.as_ref().and_then(|route| route.path_placement()).unwrap_or_default();
        let given = self.slot().split('/').skip(1);
        segments.iter().zip(given).filter_map(|(segment, given)| segment.filled(given))
    }

    /// Whether the path has nothing where a path placement goes.
    pub fn lacks_slot(&self) -> bool {
        self.slot.is_empty() && self.route.as_ref().is_some_and(|route| route.path_placement().is_some())
    }

    /// The base path as the app knows it: with what it wrote where a path placement goes.
    pub fn base_path(&self) -> Cow<'_, str> {
        let base = self.route.as_ref().map_or("", |route| route.base_path.as_str());
        if self.slot.is_empty() { Cow::Borrowed(base) } else { Cow::Owned(format!("{base}{}", self.slot())) }
    }

    /// The query without the parameters that the integration sets; `None` if nothing is left.
    pub fn own_query(&self) -> Option<Cow<'_, str>> {
        let query = self.query()?;
        let names: Vec<&str> = self.route.iter().flat_map(|route| route.parameters()).collect();
        if names.is_empty() {
            return Some(Cow::Borrowed(query));
        }
        let kept = String::from_utf8(parameters::without(query.as_bytes(), &names)).ok()?;
        (!kept.is_empty() || query.is_empty()).then_some(Cow::Owned(kept))
    }

    /// The vendor's path below the base path, still encoded: empty or with a leading slash.
    pub fn rest(&self) -> &str {
        self.part(self.rest..self.target.path().len())
    }

    /// The query as it came, without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }

    fn part(&self, place: Range<usize>) -> &str {
        self.target.path().get(place).unwrap_or_default()
    }
}

/// Finds the integration and the reference in the request's target.
///
/// # Errors
/// `path_refused` for an absolute form whose authority is not the Host (RFC 9112 section 3.2.2), for a
/// target that is no path, and for a listener and a host name that lead to two integrations.
pub fn route(routes: &Routes, entrance: &Entrance, head: &Parts) -> Result<Matched, Refusal> {
    if let Some(authority) = head.uri.authority() {
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let port = if entrance.secure { ":443" } else { ":80" };
        let spelled = |name: &str| name.strip_suffix(port).unwrap_or(name).to_ascii_lowercase();
        if spelled(host) != spelled(authority.as_str()) {
            return Err(Refusal::new(
                Code::PathRefused,
                "The request's target names another host than its Host field.",
            ));
        }
    }
    let Some(target) = head.uri.path_and_query().filter(|target| target.path().starts_with('/')) else {
        return Err(Refusal::new(Code::PathRefused, "The request's target is not a path."));
    };
    let path = target.path();
    let own = own_route(routes, entrance, head)?;
    let name_end = if own.is_some() { 0 } else { segment_end(path, 1) };
    let route = own.or_else(|| routes.named.get(path.get(1..name_end).unwrap_or_default())).cloned();
    let mut reference = header_reference(head);
    let mut segment = 0..0;
    let mut rest = collapsed(path, name_end);
    if reference == Reference::Absent {
        let first = rest + 1..segment_end(path, rest + 1);
        if let Ok(id) = SecretId::parse(path.get(first.clone()).unwrap_or_default()) {
            reference = Reference::Path(id);
            rest = collapsed(path, first.end);
            segment = first;
        }
    }
    let mut slot = 0..0;
    if let Some(segments) = route.as_ref().and_then(|route| route.path_placement())
        && let Some(end) = slot_end(path, rest, segments)
    {
        slot = rest..end;
        rest = end;
    }
    let secure = entrance.secure;
    Ok(Matched { route, reference, secure, target: target.clone(), name_end, segment, slot, rest })
}

/// Where these segments end in `path`, if they stand at `from`.
fn slot_end(path: &str, from: usize, segments: &[Segment]) -> Option<usize> {
    let mut at = from;
    for segment in segments {
        let begin = at + 1;
        let end = segment_end(path, begin);
        segment.filled(path.get(begin..end)?)?;
        at = end;
    }
    Some(at)
}

/// The integration that the listener or the host name leads to, whatever the path is.
fn own_route<'r>(
    routes: &'r Routes,
    entrance: &Entrance,
    head: &Parts,
) -> Result<Option<&'r Arc<Route>>, Refusal> {
    let by_host = routes.of_host(head);
    let by_listener = entrance.integration.as_ref().and_then(|name| routes.named.get(name.as_str()));
    match (by_listener, by_host) {
        (Some(one), Some(other)) if one.name != other.name => Err(Refusal::new(
            Code::PathRefused,
            "The listener is one integration's and the Host field is another's.",
        )),
        (listener, host) => Ok(listener.or(host)),
    }
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

/// Where the segment that begins at `from` ends.
fn segment_end(path: &str, from: usize) -> usize {
    let behind = path.as_bytes().get(from..).unwrap_or_default();
    memchr::memchr(b'/', behind).map_or(path.len(), |at| from + at)
}

/// Slashes directly behind the prefix collapse to one, the last: base URLs are written with and without a
/// slash.
fn collapsed(path: &str, from: usize) -> usize {
    let slashes = path.bytes().skip(from).take_while(|byte| *byte == b'/').count();
    from + slashes.saturating_sub(1)
}
