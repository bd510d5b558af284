//! Steps 4 and 10: the audit intent before any plaintext, the outcome behind the last byte.
//!
//! A [`Trail`] follows the request from its first line and closes itself: by the body's end, or by its
//! drop, whatever path led there. So no return has to remember it. What must never enter: a header, a
//! query, a token, a credential.

mod body;
mod budget;
mod trace;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};

use crate::audit::chain::Chain;
use crate::audit::{AuditError, Event, Kind};
use crate::clock::Moment;
use crate::metrics::{Metrics, Took};
use crate::model::{Customer, RequestId, SecretId};
use crate::net::body::Meter;
use crate::net::spans::Tracer;
use crate::refusal::{Code, Refusal};
use crate::stage::authenticate::{Caller, Identity};
use crate::stage::authorize::leases::Revoked;
use crate::stage::authorize::records::Records;
use crate::stage::authorize::{self, Grant};
use crate::stage::route::{Matched, Reference, Route};

pub use body::Recorded;
pub use budget::Budget;
pub use trace::TRACEPARENT;
use trace::{Told, Trace};

/// Proof that the intent to use this grant stands in the audit.
pub struct Opened {
    // Boxed: it is handed on from stage to stage, and into the body of the answer.
    grant: Box<Grant>,
    traceparent: Option<Box<HeaderValue>>,
}

impl Opened {
    /// The grant that may now be used.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The trace that the vendor is told, if it is told any of relay's.
    pub fn traceparent(&self) -> Option<&HeaderValue> {
        self.traceparent.as_deref()
    }
}

/// Where trails go: one per worker.
pub struct Ledger {
    /// The worker's own chain of the audit.
    pub chain: Chain,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How many refusals each customer may still have recorded.
    pub refusals: Arc<Budget>,
    /// Where spans go, if requests are traced.
    pub traces: Option<Tracer>,
}

/// One request's trail.
pub struct Trail {
    ledger: Rc<Ledger>,
    request_id: RequestId,
    began: Moment,
    method: Method,
    known: RefCell<Known>,
    outcome: RefCell<Outcome>,
    opened: Cell<bool>,
    closed: Cell<bool>,
    /// Why the answer is cut, once that is known.
    cut: Cell<Option<Revoked>>,
    /// When it was first sent to the vendor, since it began.
    own: Cell<Option<Duration>>,
    /// And when last.
    sent: Cell<Option<Duration>>,
    /// How long the head of the vendor's answer took from there.
    heard: Cell<Option<Duration>>,
    /// Its part in a trace, if it has one.
    trace: RefCell<Option<Box<Trace>>>,
    /// How often it was sent.
    sendings: Cell<u64>,
}

#[derive(Default)]
struct Known {
    identity: Option<Rc<Identity>>,
    matched: Option<Matched>,
    secret: Option<SecretId>,
    version: Option<u32>,
    /// Where the secret goes, where that is the customer's own.
    frozen: Option<Arc<Route>>,
}

#[derive(Default)]
struct Outcome {
    status: u16,
    code: Option<&'static str>,
    note: Option<String>,
    bytes_in: Meter,
    bytes_out: u64,
    reflected: bool,
}

/// Writes the intent and waits until it is as durable as configured.
///
/// # Errors
/// `audit_unavailable`: nothing may be sent.
pub async fn open(trail: &Trail, grant: Grant) -> Result<Opened, Refusal> {
    {
        let mut known = trail.known.borrow_mut();
        known.secret = Some(grant.record().head().id);
        known.version = Some(grant.record().head().version);
        let own = known.matched.as_ref().and_then(Matched::route).is_some_and(|route| route.hosts.is_some());
        known.frozen = own.then(|| grant.route().clone());
    }
    trail.intent().await?;
    grant.record().note_use(trail.began.unix_seconds());
    Ok(Opened { grant: Box::new(grant), traceparent: trail.onward() })
}

/// Writes another intent for a request that is sent a second time, closing the first.
///
/// # Errors
/// `audit_unavailable`.
pub async fn open_again(trail: &Trail, opened: Opened) -> Result<Opened, Refusal> {
    trail.write_again("not answered, sent again on a fresh connection");
    trail.intent().await?;
    Ok(opened)
}

/// The same for a request whose access token the vendor refused with 401, once there is another token.
///
/// # Errors
/// `audit_unavailable`; those of the secret, if it is another one by now.
pub async fn open_renewed(trail: &Trail, opened: Opened, records: &Records) -> Result<Opened, Refusal> {
    trail.relayed(StatusCode::UNAUTHORIZED.as_u16());
    trail.write_again("the vendor refused the access token, sent again with a new one");
    // Closed until the next intent stands: what fails from here on is refused without another outcome.
    trail.opened.set(false);
    let grant = authorize::again(records, *opened.grant).await?;
    open(trail, grant).await
}

impl Trail {
    /// Begins with the request's head.
    pub fn begin(ledger: Rc<Ledger>, head: &Parts) -> Rc<Self> {
        let began = Moment::now();
        let trace = ledger.traces.as_ref().and_then(|tracer| Trace::of(tracer, &head.headers));
        let trail = Rc::new(Self {
            ledger,
            request_id: RequestId::at(began),
            began,
            method: head.method.clone(),
            known: RefCell::default(),
            outcome: RefCell::default(),
            opened: Cell::new(false),
            closed: Cell::new(false),
            cut: Cell::new(None),
            own: Cell::new(None),
            sent: Cell::new(None),
            heard: Cell::new(None),
            trace: RefCell::new(trace),
            sendings: Cell::new(0),
        });
        // Counted once the trail stands: whatever ends it now, its drop counts it off.
        trail.ledger.metrics.in_flight().inc();
        trail
    }

    /// The request's id.
    pub const fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// When it began.
    pub const fn began(&self) -> Moment {
        self.began
    }

    /// The caller is known from here on: a refusal will be recorded.
    pub fn authenticated(&self, caller: &Caller) {
        let mut known = self.known.borrow_mut();
        known.identity = Some(caller.identity().clone());
        known.matched = Some(caller.matched().clone());
        known.secret = match caller.matched().reference() {
            Reference::Header(id) | Reference::Path(id) => Some(id),
            _ => caller.identity().secret,
        };
    }

    /// The body's bytes from the app are counted here.
    pub fn uploads(&self, meter: Meter) {
        self.outcome.borrow_mut().bytes_in = meter;
    }

    /// It is sent to the vendor now, or again.
    pub fn sends(&self) {
        let now = Some(self.began.elapsed());
        self.sent.set(now);
        self.own.set(self.own.get().or(now));
        self.sendings.set(self.sendings.get() + 1);
    }

    /// The head of the vendor's answer is there.
    pub fn heard(&self) {
        self.heard.set(self.sent.get().map(|sent| self.began.elapsed().saturating_sub(sent)));
    }

    /// The vendor's answer is about to be passed on with this status.
    pub fn relayed(&self, status: u16) {
        self.outcome.borrow_mut().status = status;
    }

    /// A form of the credential was found in the answer. Says whether this is news.
    pub fn reflected(&self) -> bool {
        !std::mem::replace(&mut self.outcome.borrow_mut().reflected, true)
    }

    /// relay answers this instead of the vendor.
    pub fn refused(&self, refusal: &Refusal) {
        let code = refusal.code();
        let mut outcome = self.outcome.borrow_mut();
        outcome.status = code.status().as_u16();
        outcome.code = Some(code.as_str());
        self.ledger.metrics.denied(code.as_str());
        let cause = refusal.cause().unwrap_or_default();
        if code.status().is_server_error() || !cause.is_empty() {
            tracing::warn!(request_id = %self.request_id, code = code.as_str(), cause, "refused");
        } else {
            tracing::debug!(request_id = %self.request_id, code = code.as_str(), "refused");
        }
    }

    /// The answer is cut because its grant no longer stands.
    pub fn revoked(&self, why: Revoked) {
        self.cut.set(Some(why));
    }

    fn is_bodyless(&self) -> bool {
        self.method == Method::HEAD
    }

    /// So many bytes of the answer have gone to the app.
    pub fn answered(&self, bytes_out: u64) {
        self.outcome.borrow_mut().bytes_out += bytes_out;
    }

    /// What was opened has ended; `note` says why, if not in order.
    pub fn ended(&self, note: Option<String>) {
        self.close(note);
    }

    /// Closes the trail with why the answer ended early, if it did.
    fn close(&self, note: Option<String>) {
        if self.closed.replace(true) {
            return;
        }
        let cut = self.cut.get().filter(|_| note.is_some()).map(|why| format!("cut: {why}"));
        self.outcome.borrow_mut().note = cut.or(note);
        if self.opened.get() {
            self.write(Kind::Outcome);
        } else {
            self.write_refused();
        }
        self.ledger.metrics.in_flight().dec();
        let outcome = self.outcome.borrow();
        tracing::debug!(
            request_id = %self.request_id,
            status = outcome.status,
            code = outcome.code,
            note = outcome.note,
            "a request has ended"
        );
        if let Some(route) = self.known.borrow().matched.as_ref().and_then(Matched::route) {
            let came = (outcome.code.is_some(), outcome.reflected);
            let (own, first_byte) = (self.own.get(), self.heard.get());
            let took = Took { whole: self.began.elapsed(), own, first_byte };
            route.metrics.answered(&self.method, outcome.status, came, took);
        }
        if let Some(trace) = self.trace.take() {
            self.leave(*trace, &outcome);
        }
    }

    /// The spans of a request that is traced.
    #[cold]
    fn leave(&self, trace: Trace, outcome: &Outcome) {
        let Some(tracer) = &self.ledger.traces else { return };
        let known = self.known.borrow();
        let told = Told {
            request_id: self.request_id.to_string(),
            began: self.began,
            method: &self.method,
            matched: known.matched.as_ref(),
            status: outcome.status,
            code: outcome.code,
            ended_early: outcome.note.is_some(),
            sent: self.own.get(),
            again: self.sendings.get().saturating_sub(1),
        };
        trace.leave(tracer, &told);
    }

    /// What the vendor is told of the trace.
    fn onward(&self) -> Option<Box<HeaderValue>> {
        let propagates = self.ledger.traces.as_ref().is_some_and(Tracer::propagates);
        let trace = self.trace.borrow();
        trace.as_ref().filter(|_| propagates)?.onward().map(Box::new)
    }

    async fn intent(&self) -> Result<(), Refusal> {
        // Set even if the record fails: a sink that hangs may still write it, and its outcome must follow.
        self.opened.set(true);
        let written = self.with_event(Kind::Intent, None, |event| self.ledger.chain.record(event));
        Ok(written.await?)
    }

    fn write(&self, kind: Kind) {
        // Its durability is not waited for: the intent stands, and an outcome that is missing is told by
        // `relay audit verify` as unfinished.
        drop(self.with_event(kind, None, |event| self.ledger.chain.record(event)));
    }

    /// The outcome of what is sent another time.
    fn write_again(&self, note: &str) {
        self.outcome.borrow_mut().note = Some(note.to_owned());
        self.write(Kind::Outcome);
        let mut outcome = self.outcome.borrow_mut();
        (outcome.note, outcome.status) = (None, 0);
    }

    /// One record per refusal, until the customer's budget for this second is spent.
    fn write_refused(&self) {
        let customer = self.customer();
        let Some(customer) = customer else { return };
        let Some(uncounted) = self.ledger.refusals.spend(&customer) else { return };
        let note =
            (uncounted > 0).then(|| format!("{uncounted} more refusals before this one were only counted"));
        drop(self.with_event(Kind::Refused, note.as_deref(), |event| self.ledger.chain.record(event)));
    }

    fn customer(&self) -> Option<Customer> {
        self.known.borrow().identity.as_ref().map(|identity| identity.customer.clone())
    }

    fn with_event<T>(&self, kind: Kind, note: Option<&str>, then: impl FnOnce(&Event<'_>) -> T) -> T {
        let known = self.known.borrow();
        let outcome = self.outcome.borrow();
        let mut event = Event::of(kind);
        event.request_id = Some(self.request_id);
        if let Some(identity) = &known.identity {
            event.iss = Some(&identity.issuer);
            event.sub = identity.subject.as_deref();
            event.jti = identity.token_id.as_deref();
            event.customer = Some(&identity.customer);
        }
        event.secret = known.secret;
        event.version = known.version;
        if let Some(route) = known.matched.as_ref().and_then(Matched::route) {
            event.integration = Some(&route.name);
            event.origin = Some(&known.frozen.as_ref().unwrap_or(route).origin_text);
        }
        event.method = Some(self.method.as_str());
        // Where a path placement's segments are missing, the key may stand anywhere in it.
        let matched = known.matched.as_ref().filter(|matched| !matched.lacks_slot());
        let path = matched.map_or("", Matched::rest);
        let refused_for_it = outcome.code == Some(Code::PathRefused.as_str());
        event.path = Some(if refused_for_it && may_hold_token(path) { "" } else { path });
        if kind != Kind::Intent {
            event.status = (outcome.status != 0).then_some(outcome.status);
            event.code = outcome.code;
            event.bytes_in = Some(outcome.bytes_in.bytes());
            event.bytes_out = Some(outcome.bytes_out);
            event.reflected = outcome.reflected.then_some(true);
            event.ms = u64::try_from(self.began.elapsed().as_millis()).ok();
            event.note = note.or(outcome.note.as_deref());
        }
        then(&event)
    }
}

/// Whether a segment is long and dotted enough to hold a caller's token, escaped or not: a refused path that holds
/// one would give it to whoever reads the audit.
fn may_hold_token(path: &str) -> bool {
    const SHORTEST: usize = 48;
    let dots = |segment: &str| {
        let escaped = segment.as_bytes().windows(2).filter(|pair| pair.eq_ignore_ascii_case(b"2e")).count();
        escaped + segment.bytes().filter(|byte| *byte == b'.').count()
    };
    path.split('/').any(|segment| segment.len() >= SHORTEST && dots(segment) >= 2)
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.close(Some("the app went away".to_owned()));
    }
}

impl From<AuditError> for Refusal {
    fn from(error: AuditError) -> Self {
        Self::from(Code::AuditUnavailable).because(error.to_string())
    }
}
