//! Step 2: who calls, as their token proves it?
//!
//! The issuers and the algorithms, audience and customer claim of each come from configuration, never from the
//! token; its `iss` only picks whose rules hold. A verdict is kept under the whole token until that
//! ends, any issuer's keys change or 5 minutes are over; `exp` and `nbf` are compared again on every hit. What
//! must never enter: the store, a credential; what must never leave: the token itself.

mod protocols;
mod slots;
mod token;
mod verdicts;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::clock::Moment;
use crate::config::Claim;
use crate::jwks::{Algorithm, Generation, IssuerKeys};
use crate::model::{Customer, SecretId};
use crate::refusal::{Code, Refusal};
use crate::stage::route::Matched;

use token::Unverified;

pub use protocols::without_tokens;
pub use verdicts::Verdicts;

/// The rules that callers' tokens must meet: one set of them per issuer and audience.
pub struct TokenRules {
    issuers: Vec<IssuerRules>,
    generation: Generation,
    /// Where its own numbers begin: no verdict by these rules is taken for one by others.
    first: u64,
}

/// The rules for the tokens of one issuer.
pub struct IssuerRules {
    /// The issuer's keys.
    pub keys: Arc<IssuerKeys>,
    /// The algorithms that count.
    pub algorithms: Vec<Algorithm>,
    /// The required `iss`.
    pub issuer: String,
    /// The required member of `aud`.
    pub audience: String,
    /// The claim that names the customer.
    pub customer_claim: Claim,
    /// What stands before the claim's text in the customer's name.
    pub customer_prefix: String,
    /// The claim that may name the secret.
    pub secret_claim: Claim,
    /// The claim that may list the only secrets that may be used.
    pub secrets_claim: Claim,
    /// The longest life of a token.
    pub max_lifetime: Duration,
    /// Clock difference forgiven.
    pub leeway: Duration,
}

impl TokenRules {
    /// The rules of these issuers. `generation` is the one that their keys move, and `edition` a number that no
    /// other rules of the same generation have.
    pub fn new(issuers: Vec<IssuerRules>, generation: Generation, edition: u32) -> Self {
        Self { issuers, generation, first: u64::from(edition) << 32 }
    }

    /// Which keys by which rules; read before either is looked at.
    fn now(&self) -> u64 {
        self.first.wrapping_add(self.generation.now())
    }
}

/// What a verified token says.
#[derive(Debug)]
pub struct Identity {
    /// Whose secrets the caller may use.
    pub customer: Customer,
    /// The secret that the token is pinned to.
    pub secret: Option<SecretId>,
    /// The only secrets that may be used, in order; `None` is all of the customer's.
    pub secrets: Option<Vec<SecretId>>,
    /// `iss`.
    pub issuer: String,
    /// `sub`, if it has one.
    pub subject: Option<String>,
    /// `jti`, if it has one.
    pub token_id: Option<String>,
    /// The words of `scope` that begin with `relay:`; `None` if there is none and nothing is limited.
    pub scopes: Option<Vec<String>>,
    /// The first second in which it is not valid any more, leeway included.
    ends_at: u64,
    /// The first second in which it is valid, leeway included.
    begins_at: u64,
}

impl Identity {
    /// Whether the token's list of secrets, if it has one, holds this one.
    pub fn may_use(&self, id: SecretId) -> bool {
        self.secrets.as_ref().is_none_or(|listed| listed.binary_search(&id).is_ok())
    }
}

/// Proof that the request's token is valid: who calls, and for whom.
pub struct Caller {
    matched: Matched,
    identity: Rc<Identity>,
    token: Token,
}

/// The token itself, kept only to be recognised where it must not go: neither printed nor handed out.
pub struct Token(Rc<str>);

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

/// Verifies the token of a request that came `at` this moment. Waits only where the token names a key that the
/// issuer may have published just now, and then briefly.
///
/// # Errors
/// `token_missing`, `token_ambiguous`, and each of `token_*` for the first thing that is wrong with it;
/// `issuer_unavailable` while there are no keys to judge it by.
pub async fn authenticate(
    rules: &TokenRules,
    verdicts: &Verdicts,
    matched: Matched,
    headers: &HeaderMap,
    at: Moment,
) -> Result<Caller, Refusal> {
    let found = slots::find(headers, &matched)?;
    let now = at.unix_seconds();
    let generation = rules.now();
    let (token, identity) = match verdicts.find(&found, at.instant(), generation) {
        Some(known) => known,
        // Boxed, so that a request whose token is known does not carry the room for it.
        None => Box::pin(judge(rules, verdicts, &found, at, generation)).await?,
    };
    still_valid(&identity, now)?;
    Ok(Caller { matched, identity, token: Token(token) })
}

/// A token that was not seen before.
async fn judge(
    rules: &TokenRules,
    verdicts: &Verdicts,
    token: &str,
    at: Moment,
    mut generation: u64,
) -> Result<(Rc<str>, Rc<Identity>), Refusal> {
    let now = at.unix_seconds();
    let verified = match token::verify(&rules.issuers, token, now) {
        Err(Unverified::KeyUnknown { keys, seen, refusal }) => {
            if !keys.newer_than(seen.as_ref()).await {
                return Err(*refusal);
            }
            generation = rules.now();
            token::verify(&rules.issuers, token, now)
        }
        verified => verified,
    };
    let identity = Rc::new(verified.map_err(Refusal::from)?);
    let token = token.into();
    verdicts.keep(&token, &identity, at.instant(), generation);
    Ok((token, identity))
}

fn still_valid(identity: &Identity, now: u64) -> Result<(), Refusal> {
    if now >= identity.ends_at {
        return Err(Refusal::new(Code::TokenExpired, "The caller token's exp is past: mint a fresh one."));
    }
    if now < identity.begins_at {
        return Err(token::not_yet_valid());
    }
    Ok(())
}
