//! The corridor: one request's whole life, in order.
//!
//! Each step is a stage with a file of its own and turns one proof into the next, so a step cannot be
//! skipped or swapped without a compile error. What must never enter: a decision. They are made in the
//! stages; this file says only what follows what.

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{Either, Full};
use tokio::sync::watch;

use crate::kms::cached::DataKeys;
use crate::lifecycle::Lifecycle;
use crate::net::pool::Pool;
use crate::refusal::Refusal;
use crate::reply;
use crate::stage::authenticate::{TokenRules, Verdicts, authenticate};
use crate::stage::authorize::leases::Leases;
use crate::stage::authorize::records::Records;
use crate::stage::authorize::{Rules, authorize};
use crate::stage::connect::connect;
use crate::stage::gather::{Room, gather};
use crate::stage::inject::{expects_continue, inject};
use crate::stage::limits::InFlight;
use crate::stage::record::{self, Ledger, Opened, Recorded, Trail};
use crate::stage::route::{Routes, route};
use crate::stage::scrub::{Passed, Surroundings, scrub};

use crate::stage::send::{Answer as VendorAnswer, Sent, send};
use crate::stage::unseal::{identity, unseal};

pub use crate::net::body::Outgoing;
pub use crate::stage::authorize::leases::Watcher;
pub use crate::stage::route::Entrance;
pub use crate::stage::scrub::Tunnel;

/// What all workers share.
pub struct Shared {
    /// The integrations.
    pub routes: Routes,
    /// What a caller's token must be.
    pub token_rules: Arc<TokenRules>,
    /// The sealed records in memory.
    pub records: Records,
    /// The data keys in memory.
    pub keys: Arc<DataKeys>,
    /// Requests under way by customer.
    pub in_flight: InFlight,
    /// Bodies that are collected.
    pub room: Room,
    /// Who has access tokens renewed.
    pub lifecycle: Arc<Lifecycle>,
    /// How the app addresses relay, if not by its request's authority; and relay's own addresses.
    pub surroundings: Surroundings,
}

/// What one worker has for itself: nothing here is shared or locked.
pub struct Worker {
    /// What all workers share.
    pub current: Current,
    /// Tokens already verified.
    pub verdicts: Verdicts,
    /// Connections to vendors.
    pub pool: Pool,
    /// Grants in use.
    pub leases: Leases,
    /// Where trails go.
    pub ledger: Rc<Ledger>,
}

/// What all workers share, as it was configured last. A request keeps what it began with.
pub struct Current(RefCell<Seen>);

/// Counted on the worker, so that requests of several do not count at one place.
#[allow(clippy::redundant_allocation, reason = "the inner count is shared by all workers")]
type Own = Rc<Arc<Shared>>;

struct Seen {
    newest: watch::Receiver<Arc<Shared>>,
    shared: Own,
}

impl Current {
    /// Follows `newest`.
    pub fn of(mut newest: watch::Receiver<Arc<Shared>>) -> Self {
        let shared = Rc::new(newest.borrow_and_update().clone());
        Self(RefCell::new(Seen { newest, shared }))
    }

    fn now(&self) -> Own {
        let mut seen = self.0.borrow_mut();
        if seen.newest.has_changed().unwrap_or(false) {
            seen.take();
        }
        seen.shared.clone()
    }
}

impl Seen {
    #[cold]
    fn take(&mut self) {
        self.shared = Rc::new(self.newest.borrow_and_update().clone());
    }
}

/// An answer on its way to the app: the vendor's, scrubbed, or relay's own.
pub type Answer = Response<AnswerBody>;

/// Its body: streaming, counted, closing the trail.
pub type AnswerBody = Recorded<Either<Box<Passed>, Full<Bytes>>>;

/// Serves one request that came in by `entrance`.
pub async fn serve(worker: &Worker, entrance: &Entrance, head: Parts, mut body: Outgoing) -> Answer {
    let trail = Trail::begin(worker.ledger.clone(), &head);
    let shared = worker.current.now();
    let answer = match relay((worker, &**shared), entrance, &trail, &head, &mut body).await {
        Ok(response) => response.map(Either::Left),
        Err(refusal) => refuse(&refusal, &trail, &head, body).map(Either::Right),
    };
    answer.map(|body| Recorded::new(body, trail))
}

async fn relay(
    (worker, shared): (&Worker, &Shared),
    entrance: &Entrance,
    trail: &Rc<Trail>,
    head: &Parts,
    body: &mut Outgoing,
) -> Result<Response<Box<Passed>>, Refusal> {
    let matched = route(&shared.routes, entrance, head)?;
    let (tokens, verdicts) = (&shared.token_rules, &worker.verdicts);
    let caller = authenticate(tokens, verdicts, matched, &head.headers, trail.began()).await?;
    trail.authenticated(&caller);
    let grant = authorize(&rules(worker, shared), caller, head).await?;
    let grant = match grant.route().renewing {
        None => grant,
        Some(_) => Box::pin(shared.lifecycle.ready(&shared.records, grant)).await?,
    };
    let mut opened = record::open(trail, grant).await?;
    let (mut repeatable, mut again) = (body.is_end_stream(), false);
    gather(&shared.room, trail, &opened, head, body).await?;
    let answer = loop {
        let line = connect(&worker.pool, &opened, again, || identity(&shared.keys, &opened)).await?;
        let credential = unseal(&shared.keys, &opened, &line).await?;
        let armed = inject(&opened, credential, head, mem::take(body))?;
        trail.sends();
        match send(line, armed, again, opened.grant().lease()).await? {
            Sent::Answer(answer) => {
                trail.heard();
                if !renewed(shared, &opened, &answer, &mut repeatable).await? {
                    break answer;
                }
                opened = record::open_renewed(trail, opened, &shared.records).await?;
            }
            Sent::Again(unsent) => {
                *body = unsent;
                again = true;
                opened = record::open_again(trail, opened).await?;
            }
        }
    };
    scrub(&shared.surroundings, opened, trail, head, answer).await
}

fn rules<'r>(worker: &'r Worker, shared: &'r Shared) -> Rules<'r> {
    let (routes, records, in_flight) = (&shared.routes, &shared.records, &shared.in_flight);
    Rules { routes, records, in_flight, leases: &worker.leases }
}

/// Whether the vendor refused the access token and there is another by now: once, and only for a request
/// that is `repeatable` because it has no body.
async fn renewed(
    shared: &Shared,
    opened: &Opened,
    answer: &VendorAnswer,
    repeatable: &mut bool,
) -> Result<bool, Refusal> {
    let refused = answer.response.status() == StatusCode::UNAUTHORIZED;
    if opened.grant().route().renewing.is_none() || !refused {
        return Ok(false);
    }
    let repeat = mem::take(repeatable);
    Box::pin(shared.lifecycle.refused(opened.grant(), repeat)).await
}

/// What is behind an answer that switches protocols: it lives on once the answer's head has gone out.
pub fn tunnel(answer: &mut Answer) -> Option<Tunnel> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    match answer.body_mut().hand_over(Either::Right(Full::default())) {
        Either::Left(passed) => Tunnel::of(passed),
        Either::Right(_) => None,
    }
}

/// Sees whether the secret behind an answer is revoked while the answer is under way.
pub fn watcher(answer: &Answer) -> Option<Watcher> {
    match answer.body().inner() {
        Either::Left(passed) => Some(passed.watcher()),
        Either::Right(_) => None,
    }
}

/// relay's own answer. What is left of the request's body is read a little further, so that a client that
/// is still writing sees the answer instead of a reset.
fn refuse(refusal: &Refusal, trail: &Trail, head: &Parts, body: Outgoing) -> Response<Full<Bytes>> {
    trail.refused(refusal);
    // An app that waits to be asked for its body has none under way, and reading it would ask.
    let under_way = !expects_continue(head) || body.meter().bytes() > 0;
    if !body.is_end_stream() && under_way {
        tokio::task::spawn_local(reply::drain(body));
    }
    reply::refuse(refusal, trail.request_id(), &head.headers)
}

/// A request that never got as far as the corridor: refused with its own trail, so that it is counted.
pub fn turn_away(worker: &Worker, refusal: &Refusal, request: Request<Outgoing>) -> Answer {
    let (head, body) = request.into_parts();
    let trail = Trail::begin(worker.ledger.clone(), &head);
    refuse(refusal, &trail, &head, body).map(|body| Recorded::new(Either::Right(body), trail))
}
