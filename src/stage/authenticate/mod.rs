//! Step 2: who calls, as their token proves it?
//!
//! The algorithms, issuer, audience and customer claim come from configuration, never from the token. A
//! verdict is cached under the token's SHA-256 until the token ends or 5 minutes are over; `exp` and
//! `nbf` are compared again on every hit. What must never enter: the store, a credential; what must never
//! leave: the token itself.

mod protocols;
mod slots;
mod token;
mod verdicts;

use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;

use crate::clock::Moment;
use crate::jwks::{Algorithm, KeySet};
use crate::model::{Customer, SecretId};
use crate::refusal::{Code, Refusal};
use crate::stage::route::Matched;

pub use protocols::without_tokens;
pub use verdicts::Verdicts;

/// The rules that a caller's token must meet.
pub struct TokenRules {
    /// The issuer's keys.
    pub keys: KeySet,
    /// The algorithms that count.
    pub algorithms: Vec<Algorithm>,
    /// The required `iss`.
    pub issuer: String,
    /// The required member of `aud`.
    pub audience: String,
    /// The claim that names the customer.
    pub customer_claim: String,
    /// The claim that may name the secret.
    pub secret_claim: String,
    /// The longest life of a token.
    pub max_lifetime: Duration,
    /// Clock difference forgiven.
    pub leeway: Duration,
}

/// What a verified token says.
#[derive(Debug)]
pub struct Identity {
    /// Whose secrets the caller may use.
    pub customer: Customer,
    /// The secret that the token is pinned to.
    pub secret: Option<SecretId>,
    /// `iss`.
    pub issuer: String,
    /// `sub`, if it has one.
    pub subject: Option<String>,
    /// `jti`, if it has one.
    pub token_id: Option<String>,
    /// The words of `scope` that begin with `relay:`; `None` if there is none and nothing is limited.
    pub scopes: Option<Vec<String>>,
    expires_at: u64,
    not_before: Option<u64>,
}

/// Proof that the request's token is valid: who calls, and for whom.
pub struct Caller {
    matched: Matched,
    identity: Rc<Identity>,
    token: Token,
}

/// The token itself, kept only to be recognised where it must not go: neither printed nor handed out.
pub struct Token(String);

impl Token {
    /// Whether `text` holds the token: as such, behind a scheme, or as one half of Basic's pair.
    pub fn stands_in(&self, text: &[u8]) -> bool {
        text.len() >= self.0.len() && slots::holds(text, &self.0)
    }
}

impl Caller {
    /// What the token says.
    pub const fn identity(&self) -> &Rc<Identity> {
        &self.identity
    }

    /// The proof before this one.
    pub const fn matched(&self) -> &Matched {
        &self.matched
    }

    /// Gives all up, for the next stage.
    pub fn into_parts(self) -> (Matched, Rc<Identity>, Token) {
        (self.matched, self.identity, self.token)
    }
}

/// Verifies the token of a request that came `at` this moment.
///
/// # Errors
/// `token_missing`, `token_ambiguous`, and each of `token_*` for the first thing that is wrong with it.
pub fn authenticate(
    rules: &TokenRules,
    verdicts: &Verdicts,
    matched: Matched,
    headers: &HeaderMap,
    at: Moment,
) -> Result<Caller, Refusal> {
    let found = slots::find(headers, matched.route().map(|route| route.placements.as_slice()))?;
    let now = at.unix_seconds();
    let key = verdicts.key(found.as_bytes());
    let identity = match verdicts.find(&key, at.instant()) {
        Some(identity) => identity,
        None => {
            let identity = Rc::new(token::verify(rules, &found, now)?);
            verdicts.keep(key, &identity, at.instant());
            identity
        }
    };
    still_valid(&identity, rules.leeway.as_secs(), now)?;
    Ok(Caller { matched, identity, token: Token(found.into_owned()) })
}

fn still_valid(identity: &Identity, leeway: u64, now: u64) -> Result<(), Refusal> {
    if now >= identity.expires_at.saturating_add(leeway) {
        return Err(Refusal::new(Code::TokenExpired, "The caller token's exp is past: mint a fresh one."));
    }
    if identity.not_before.is_some_and(|at| now.saturating_add(leeway) < at) {
        return Err(Refusal::new(
            Code::TokenNotYetValid,
            "The caller token's nbf is still to come: compare the clocks.",
        ));
    }
    Ok(())
}

/// Every header that may have carried the caller's token: `inject` sends none of them on.
pub fn is_slot(name: &http::HeaderName, placements: &[crate::config::Placement]) -> bool {
    *name == http::header::AUTHORIZATION || placements.iter().any(|p| p.header == *name)
}
