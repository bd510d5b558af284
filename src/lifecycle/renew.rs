//! One renewal: waited for where another relay is at it, recorded, opened, asked, kept.
//!
//! The intent stands in the audit before anything is opened. What the vendor gave is kept before anybody may use
//! it: a refresh token that it replaced is then the only one that works. If the store does not take it, it is
//! tried for a while; a relay that ends in between has lost it, and the next try learns so from the vendor.

use std::sync::Arc;
use std::time::Duration;

use super::answer::Verdict;
use super::ask::Asked;
use super::{Key, Parts, Plan, Token, Way, reconnect};
use crate::audit::{Event, Kind};
use crate::clock::unix_seconds;
use crate::config::renewal::Renewal;
use crate::envelope::{self, Head, Standing};
use crate::net::fetch::{CallError, Fetched, call};
use crate::net::pool::{ConnectError, Upstream};
use crate::refusal::{Code, Refusal};
use crate::seal::{AtRest, Given, SealError, Turn};
use crate::secret::{Field, Secret};

/// How long what was had is tried to be kept while the store fails.
const KEEPING: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_millis(250);

/// How long a turn lasts that is not renewed: longer than a token endpoint is waited for, so that a relay that died
/// is asked after no earlier than its own call has ended.
const TURN: Duration = Duration::from_secs(15);
/// How often it is looked whether another relay has renewed a token.
const LOOKED_AGAIN: Duration = Duration::from_millis(150);

/// The secret at rest and the turn to renew its token; `None` once there is another token than the one that was
/// `seen`. Two relays that ask with the same refresh token would lose it where vendors take that for a theft.
async fn alone(parts: &Parts, key: &Key, seen: Option<u64>) -> Result<Option<(Turn, AtRest)>, Refusal> {
    loop {
        let turn = parts.sealer.turn(format!("renew/{}", key.1), TURN).await;
        let turn = turn.map_err(SealError::from)?;
        // Read behind the turn: what another relay had before is seen.
        let at = parts.sealer.at_rest(&key.0, key.1).await.map_err(Refusal::from)?;
        let serial = at.tokens().map(|tokens| tokens.standing().serial);
        match Token::of(at.tokens(), key.1, unix_seconds()) {
            Token::Dead(why) => return Err(reconnect(why)),
            Token::Good | Token::Ageing if serial != seen => return Ok(None),
            Token::Good | Token::Ageing | Token::Missing => {}
        }
        match turn {
            Some(turn) => return Ok(Some((turn, at))),
            None => tokio::time::sleep(LOOKED_AGAIN).await,
        }
    }
}

/// Has a new token for the secret, unless somebody else had one since `seen`.
pub(super) async fn renew(
    parts: Arc<Parts>,
    plan: Arc<Plan>,
    key: Key,
    seen: Option<u64>,
) -> Result<(), Refusal> {
    let Some((turn, at)) = alone(&parts, &key, seen).await? else { return Ok(()) };
    let renewed = renew_alone(&parts, &plan, at).await;
    // Before anybody hears of it: who is refused the new token at once may want the next turn.
    turn.end().await;
    renewed
}

async fn renew_alone(parts: &Parts, plan: &Plan, at: AtRest) -> Result<(), Refusal> {
    if at.head().integration != plan.route.name {
        return Err(Code::CredentialUnusable.into());
    }
    let way = plan.way(at.head())?;
    let Some((renewal, upstream)) = &way.renewal else { return Err(Code::CredentialUnusable.into()) };
    if at.head().token_origin != renewal.token_origin {
        return Err(Code::CredentialUnusable.into());
    }
    let trace = Trace { parts, plan, operation: "token.renew" };
    let (head, origin) = (at.head().clone(), upstream.origin().to_string());
    trace.record(&head, &origin, (None, "asked")).await?;
    let had = have(&way, (renewal, upstream), &at).await;
    let done = match had {
        Ok(given) => keep(parts, at, given).await,
        Err(refusal) => Err(refusal),
    };
    let outcome = match &done {
        Ok(()) => "renewed",
        Err(refusal) if refusal.code() == Code::ReconnectRequired => "reconnect_required",
        Err(_) => "failed",
    };
    parts.metrics.token_refresh(plan.route.name.as_str(), outcome);
    let told =
        done.as_ref().err().map_or_else(|| outcome.to_owned(), |r| format!("{outcome}: {}", r.detail()));
    let code = done.as_ref().err().map(Refusal::code);
    if let Err(error) = trace.record(&head, &origin, (code, &told)).await {
        tracing::error!(cause = error.cause(), "how a renewal ended is not in the audit");
    }
    done
}

/// Asks with what is sealed. A refusal for good is something to keep, too.
async fn have(way: &Way, (renewal, upstream): (&Renewal, &Upstream), at: &AtRest) -> Result<Given, Refusal> {
    let binding = at.head().binding();
    let fields = envelope::open(at.key(), &binding, at.sealed())?;
    let kept = at.tokens().map(|tokens| tokens.open_refresh(at.key(), &binding)).transpose()?.flatten();
    match mint(way, (renewal, upstream), &fields, kept.as_ref()).await? {
        // What came with no other refresh token is renewed with the one before.
        Given { refresh: None, standing, access } => Ok(Given { refresh: kept, standing, access }),
        given => Ok(given),
    }
}

/// Asks the vendor for a token.
///
/// # Errors
/// What may pass or the operator has to mend; a refusal for good is `Ok`, without a token.
pub(super) async fn mint(
    way: &Way,
    (renewal, upstream): (&Renewal, &Upstream),
    fields: &[Field],
    refresh: Option<&Secret>,
) -> Result<Given, Refusal> {
    let asked = Asked::build(renewal, &way.endpoint(renewal, upstream), fields, refresh)?;
    let (request, words) = asked.into_parts();
    let answer = call(upstream, request).await.map_err(|error| unanswered(&error, "token endpoint"))?;
    let Fetched { status, headers, body } = answer;
    let now = unix_seconds();
    match super::answer::judge(renewal, (status, &headers, body), &words, now) {
        Verdict::Given { access, refresh, expires_at } => {
            let standing = Standing { serial: 0, obtained_at: now, expires_at, reconnect: None };
            Ok(Given { standing, access: Some(access), refresh })
        }
        Verdict::Dead(why) => {
            let standing = Standing { serial: 0, obtained_at: now, expires_at: 0, reconnect: Some(why) };
            Ok(Given { standing, access: None, refresh: None })
        }
        Verdict::Failed(refusal) => Err(refusal),
    }
}

/// The vendor's `what` gave no answer.
pub(super) fn unanswered(error: &CallError, what: &str) -> Refusal {
    let (code, how) = match error {
        CallError::Connect(ConnectError::Egress(_)) => (
            Code::EgressDenied,
            "has an address that relay does not call: each must be public or in private_cidrs",
        ),
        CallError::Connect(ConnectError::Tls(_)) => (Code::VendorTls, "has TLS that is not acceptable"),
        CallError::Connect(ConnectError::Timeout(_)) => (Code::VendorTimeout, "took no connection in time"),
        CallError::Connect(ConnectError::Unreachable(_)) => (Code::VendorUnreachable, "cannot be reached"),
        CallError::Fetch(crate::net::fetch::FetchError::Timeout(_)) => {
            (Code::VendorTimeout, "did not answer in time")
        }
        CallError::Fetch(_) => (Code::VendorBroken, "gave no valid answer"),
    };
    Refusal::new(code, format!("The vendor's {what} {how}.")).because(error.to_string())
}

async fn keep(parts: &Parts, mut at: AtRest, given: Given) -> Result<(), Refusal> {
    let key = (at.head().customer.clone(), at.head().id);
    let until = tokio::time::Instant::now() + KEEPING;
    loop {
        match parts.sealer.keep(at, &given).await {
            Ok(true) => break,
            // Its values are others by now, and what was had for the old ones is nobody's.
            Ok(false) => return Err(SealError::Conflict.into()),
            Err(error @ (SealError::NotFound | SealError::Unusable(_))) => return Err(error.into()),
            Err(error) => {
                tracing::error!(secret = %key.1, %error, "a new access token could not be kept yet");
                if tokio::time::Instant::now() >= until {
                    return Err(error.into());
                }
            }
        }
        at = loop {
            tokio::time::sleep(BETWEEN).await;
            match parts.sealer.at_rest(&key.0, key.1).await {
                Ok(at) => break at,
                Err(error) if tokio::time::Instant::now() >= until => return Err(error.into()),
                Err(_) => {}
            }
        };
    }
    match &given.standing.reconnect {
        Some(why) => Err(reconnect(why)),
        None => Ok(()),
    }
}

/// A call of relay's own in the audit.
pub(super) struct Trace<'a> {
    pub(super) parts: &'a Parts,
    pub(super) plan: &'a Plan,
    pub(super) operation: &'static str,
}

impl Trace<'_> {
    /// What happens to the secret with this head. Asked before anything is opened: no audit, no call.
    pub(super) async fn record(
        &self,
        head: &Head,
        origin: &str,
        (code, note): (Option<Code>, &str),
    ) -> Result<(), Refusal> {
        let mut event = Event::of(Kind::System);
        event.method = Some(self.operation);
        event.integration = Some(&self.plan.route.name);
        event.origin = Some(origin);
        event.customer = Some(&head.customer);
        event.secret = Some(head.id);
        event.version = Some(head.version);
        event.code = code.map(Code::as_str);
        event.note = Some(note);
        Ok(self.parts.chain.record(&event).await?)
    }
}
