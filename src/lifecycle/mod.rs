//! Access tokens had and renewed, and credentials tried before they are sealed: calls of relay's own.
//!
//! Never by a caller's grant: a renewal is relay's own act, stands in the audit as `system` before anything is
//! opened, and runs on the control runtime, once at a time for each secret however many requests and relays wait.
//! What a request sends is opened in `unseal`, and what a token is had with is opened here alone. What must never
//! enter: a request or an answer of an app's, a token in an error or the audit. If this room kept an old refresh
//! token where the vendor gave a new one, a customer would have to connect again.

mod answer;
mod ask;
mod assertion;
mod fill;
mod flights;
mod renew;
mod verify;
mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::audit::chain::Chain;
use crate::clock::unix_seconds;
use crate::config::renewal::{Renewal, Verify};
use crate::envelope::{Head, SealedTokens, Standing, Terms};
use crate::metrics::Metrics;
use crate::model::{Customer, IntegrationName, SecretId};
use crate::net::pool::Upstream;
use crate::refusal::{Code, Refusal};
use crate::seal::Sealer;
use crate::stage::authorize::records::Records;
use crate::stage::authorize::{Grant, again};
use crate::stage::route::Route;

use flights::{Flights, Ticket};

/// How long a request waits for a renewal.
const PATIENCE: Duration = Duration::from_secs(15);
/// A vendor that refuses a token again this soon would refuse the next one, too: it is not asked for one.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);
/// Secrets whose refused tokens are remembered, before those of long ago are forgotten.
const REMEMBERED: usize = 10_000;
/// What a token is renewed ahead of its expiry: a tenth of its life, at least this and at most half of its life.
const AHEAD: u64 = 60;

/// What lifecycle knows of one integration.
pub struct Plan {
    /// Its way.
    pub route: Arc<Route>,
    /// How its tokens are had, and the way there.
    pub renewal: Option<(Arc<Renewal>, Arc<Upstream>)>,
    /// How a credential is tried.
    pub verify: Option<Verify>,
}

/// Where calls for one secret go: its own place, frozen with it, and that of its tokens.
struct Way {
    route: Arc<Route>,
    renewal: Option<(Arc<Renewal>, Arc<Upstream>)>,
}

impl Plan {
    /// # Errors
    /// `credential_unusable` for a secret that was sealed for another place than is configured today.
    fn way(&self, head: &Head) -> Result<Way, Refusal> {
        let Terms { base_path, .. } = Terms::decode(&head.policy)?;
        let route = self.route.clone().at(&head.origin, base_path.as_deref())?;
        let renewal = self.renewal.as_ref().map(|(renewal, upstream)| {
            let own = renewal.below_upstream.then(|| route.upstream.clone());
            (renewal.clone(), own.unwrap_or_else(|| upstream.clone()))
        });
        Ok(Way { route, renewal })
    }
}

impl Way {
    /// The endpoint's origin, and the base path where it is below upstream.
    fn endpoint(&self, renewal: &Renewal, upstream: &Upstream) -> String {
        let base = if renewal.below_upstream { self.route.base_path.as_str() } else { "" };
        format!("{}{base}", upstream.origin())
    }
}

/// What the lifecycle works with.
pub struct Parts {
    /// The hand that keeps what was had.
    pub sealer: Arc<Sealer>,
    /// Its own chain of the audit.
    pub chain: Chain,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where renewals run.
    pub control: Handle,
}

/// All of it; shared by workers and admin.
pub struct Lifecycle {
    plans: HashMap<IntegrationName, Arc<Plan>>,
    parts: Arc<Parts>,
    flights: Arc<Flights>,
    /// When a vendor last refused a token, and which.
    refusals: Refusals,
}

/// A customer's secret.
type Key = (Customer, SecretId);
type Refusals = Arc<Mutex<HashMap<Key, (Instant, Option<u64>)>>>;

/// What is to be done about a record's token.
enum Token<'a> {
    /// Nothing.
    Good,
    /// It may go out, and is renewed beside that.
    Ageing,
    /// There is none that may go out.
    Missing,
    /// There will be none.
    Dead(&'a str),
}

impl Lifecycle {
    /// A lifecycle by these plans.
    pub fn new(plans: impl IntoIterator<Item = Plan>, parts: Parts) -> Self {
        Self {
            plans: by_name(plans),
            parts: Arc::new(parts),
            flights: Arc::default(),
            refusals: Arc::default(),
        }
    }

    /// The same lifecycle by other plans: what is under way is shared, so that no token is had twice at once.
    #[must_use]
    pub fn replanned(&self, plans: impl IntoIterator<Item = Plan>) -> Self {
        let (parts, flights, refusals) = (self.parts.clone(), self.flights.clone(), self.refusals.clone());
        Self { plans: by_name(plans), parts, flights, refusals }
    }

    /// The grant with an access token that is of use: at once where there is one, else when it was had.
    ///
    /// # Errors
    /// `reconnect_required`; what kept the token from being had, with the time of the next try; those of the
    /// secret, if it was changed meanwhile.
    pub async fn ready(&self, records: &Records, grant: Grant) -> Result<Grant, Refusal> {
        let id = grant.record().head().id;
        match Token::of(grant.record().tokens(), id, unix_seconds()) {
            Token::Good => return Ok(grant),
            Token::Dead(why) => return Err(reconnect(why)),
            Token::Ageing => {
                self.set_out(&grant);
                return Ok(grant);
            }
            Token::Missing => {}
        }
        wait(self.set_out(&grant)).await?;
        let grant = again(records, grant).await?;
        match Token::of(grant.record().tokens(), id, unix_seconds()) {
            Token::Good | Token::Ageing => Ok(grant),
            Token::Dead(why) => Err(reconnect(why)),
            Token::Missing => Err(Refusal::new(
                Code::CredentialUnusable,
                "The vendor gave a token that had expired already.",
            )),
        }
    }

    /// The vendor refused this grant's token: whether there is another one to send instead. For a request that
    /// cannot be repeated it is had in the background.
    ///
    /// # Errors
    /// `reconnect_required`.
    pub async fn refused(&self, grant: &Grant, repeatable: bool) -> Result<bool, Refusal> {
        if !self.may_help(grant) {
            return Ok(false);
        }
        let ticket = self.set_out(grant);
        if !repeatable {
            return Ok(false);
        }
        match wait(ticket).await {
            Ok(()) => Ok(true),
            Err(refusal) if refusal.code() == Code::ReconnectRequired => Err(refusal),
            // The vendor's own answer says more than that there is no better one.
            Err(_) => Ok(false),
        }
    }

    /// Whether another token may fare better: not if one was had for the same reason a moment ago.
    fn may_help(&self, grant: &Grant) -> bool {
        let head = grant.record().head();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= REMEMBERED {
            refusals.retain(|_, (at, _)| at.elapsed() < REFUSED_AGAIN);
        }
        let serial = grant.record().tokens().map(|tokens| tokens.standing().serial);
        match refusals.get(&(head.customer.clone(), head.id)) {
            // The same token as others sent, whose renewal this one may wait for.
            Some((at, refused)) if at.elapsed() < REFUSED_AGAIN => *refused == serial,
            _ => {
                refusals.insert((head.customer.clone(), head.id), (Instant::now(), serial));
                true
            }
        }
    }

    /// Waits until no renewal is under way, at most so long: what a vendor gave must be kept.
    pub async fn settled(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.flights.empty()).await;
    }

    /// Has the token of this grant's record replaced, unless that is under way or failed just now.
    fn set_out(&self, grant: &Grant) -> Ticket {
        let head = grant.record().head();
        let Some(plan) = self.plans.get(&head.integration).filter(|plan| plan.renewal.is_some()) else {
            return Ticket::Refused(Refusal::from(Code::CredentialUnusable));
        };
        let key = (head.customer.clone(), head.id);
        let seen = grant.record().tokens().map(|tokens| tokens.standing().serial);
        let (parts, plan) = (self.parts.clone(), plan.clone());
        let work = renew::renew(parts, plan, key.clone(), seen);
        Flights::join(&self.flights, key, work, &self.parts.control)
    }
}

fn by_name(plans: impl IntoIterator<Item = Plan>) -> HashMap<IntegrationName, Arc<Plan>> {
    plans.into_iter().map(|plan| (plan.route.name.clone(), Arc::new(plan))).collect()
}

impl<'a> Token<'a> {
    fn of(tokens: Option<&'a SealedTokens>, id: SecretId, now: u64) -> Self {
        let Some(standing) = tokens.map(SealedTokens::standing) else { return Self::Missing };
        match &standing.reconnect {
            Some(why) => Self::Dead(why),
            None if now >= standing.expires_at => Self::Missing,
            None if now >= renewed_at(standing, id) => Self::Ageing,
            None => Self::Good,
        }
    }
}

/// From when on a token is renewed. Each secret has its own time, so that tokens that were had together are not
/// all renewed together.
fn renewed_at(standing: &Standing, id: SecretId) -> u64 {
    let life = standing.expires_at.saturating_sub(standing.obtained_at);
    let [.., last] = id.as_bytes();
    let ahead = (life / 10).max(AHEAD);
    let ahead = ahead.saturating_add(ahead.saturating_mul(u64::from(*last)) / 1024).min(life / 2);
    standing.expires_at.saturating_sub(ahead)
}

async fn wait(ticket: Ticket) -> Result<(), Refusal> {
    let late = || {
        Refusal::new(Code::VendorTimeout, "The vendor's token endpoint has not answered yet.")
            .after(Duration::from_secs(1))
    };
    tokio::time::timeout(PATIENCE, ticket.landed()).await.unwrap_or_else(|_| Err(late()))
}

/// The customer has to do something.
fn reconnect(why: &str) -> Refusal {
    Refusal::new(Code::ReconnectRequired, format!("The customer must connect this account again: {why}"))
}
