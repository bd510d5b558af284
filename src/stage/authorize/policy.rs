//! What is allowed: by the integration's rules, and by the secret's own limits behind them.
//!
//! A secret's limits stand in its head, under the head's code, and are read once when its record enters memory.
//! They only narrow, since both must allow. Limits that cannot be read make the secret unusable, because what they
//! forbade is not known. What must never enter: a request that is changed to fit.

use http::Method;
use http::request::Parts;

use super::records::Record;
use crate::config::rule::Rule;
use crate::envelope::EnvelopeError;
use crate::model::Policy;
use crate::refusal::{Code, Refusal};
use crate::stage::limits::{self, InFlight, OwnLimits, SecretPermit};
use crate::stage::route::Route;

/// Fields by which a request may ask a server to treat it as another method.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// What a secret's own limits say.
#[derive(Debug)]
pub(super) struct Narrowed {
    /// What is allowed; `None` is anything.
    pub(super) allow: Option<Vec<Rule>>,
    /// What is not.
    pub(super) deny: Vec<Rule>,
    /// How much, if that is limited.
    pub(super) limits: Option<OwnLimits>,
}

impl Narrowed {
    /// What `policy` says; `None` if that is nothing.
    pub(super) fn of(policy: &Policy) -> Result<Option<Box<Self>>, EnvelopeError> {
        if policy.is_empty() {
            return Ok(None);
        }
        let rules = |texts: &[String]| {
            let rules: Result<Vec<Rule>, String> = texts.iter().map(|text| Rule::parse(text)).collect();
            rules.map_err(|_| EnvelopeError::Damaged("a rule of its policy is none"))
        };
        let rate = policy.rate.map(|rate| (rate, policy.burst.unwrap_or(rate)));
        let most = policy.concurrency.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        let limits = (rate.is_some() || most.is_some()).then_some(OwnLimits { rate, most });
        let allow = policy.allow.as_deref().map(rules).transpose()?;
        Ok(Some(Box::new(Self { allow, deny: rules(&policy.deny)?, limits })))
    }
}

/// Whether the integration's rules cover the request.
///
/// # Errors
/// `request_denied`.
pub(super) fn allowed(route: &Route, asked: &Parts, rest: &str) -> Result<(), Refusal> {
    if covered((&route.allow, &route.deny), asked, rest) {
        return Ok(());
    }
    Err(denied("This integration's rules do not allow this method on this path."))
}

/// The secret's own limits, behind the integration's.
///
/// # Errors
/// `request_denied`, `rate_limited`, `too_busy`.
pub(super) fn narrowed(
    in_flight: &InFlight,
    record: &Record,
    asked: &Parts,
    rest: &str,
) -> Result<Option<SecretPermit>, Refusal> {
    let Some(narrowed) = record.narrowed() else { return Ok(None) };
    let allow = narrowed.allow.as_deref();
    // No allow is any; an empty one, which is not taken, would be none.
    let none = allow.is_some_and(<[Rule]>::is_empty);
    if none || !covered((allow.unwrap_or_default(), &narrowed.deny), asked, rest) {
        return Err(denied("This secret's own rules do not allow this method on this path."));
    }
    narrowed.limits.map(|limits| limits::admit_secret(in_flight, limits, record.head().id)).transpose()
}

fn denied(detail: &'static str) -> Refusal {
    Refusal::new(Code::RequestDenied, detail)
}

/// Whether these rules cover the request. An empty `allow` is anything.
fn covered((allow, deny): (&[Rule], &[Rule]), asked: &Parts, rest: &str) -> bool {
    let allowed = |method: &Method| {
        !deny.iter().any(|rule| rule.denies(method, rest))
            && (allow.is_empty() || allow.iter().any(|rule| rule.matches(method, rest)))
    };
    if !allowed(&asked.method) {
        return false;
    }
    // A server that obeys such a field sees another method: both must be allowed.
    for (name, value) in asked.headers.iter().filter(|(name, _)| name.as_str().starts_with('x')) {
        // Servers that fold `_` into `-` obey both spellings.
        if METHOD_OVERRIDES.contains(&name.as_str().replace('_', "-").as_str()) {
            let other = Method::from_bytes(value.as_bytes().to_ascii_uppercase().trim_ascii());
            if !other.is_ok_and(|other| allowed(&other)) {
                return false;
            }
        }
    }
    true
}
