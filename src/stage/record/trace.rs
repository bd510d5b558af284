//! One request's part in a trace: a server span, and a client span beneath it once it was sent to the vendor.
//!
//! The app's trace is gone on with if its `traceparent` is valid (W3C Trace Context), its decision included; else
//! some requests begin one. Most are part of none and pay for one look. What must never enter: a path, a query, a
//! customer (so no host that is a customer's own), a text that a caller can make up, but for its `tracestate`.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::clock::Moment;
use crate::net::spans::{Attribute, Side, Span, Tracer};
use crate::stage::route::{Matched, Route};

/// Where a trace stands in a request's head.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The longest `tracestate` that is kept: what the specification wants propagated at least.
const STATE_BYTES: usize = 512;
/// What is said where an answer ended early.
const OTHER: &str = "_OTHER";

/// The ids of a request that is traced.
pub(super) struct Trace {
    trace: u128,
    parent: Option<u64>,
    state: String,
    server: u64,
    client: u64,
}

/// What became of the request.
pub(super) struct Told<'t> {
    pub(super) request_id: String,
    pub(super) began: Moment,
    pub(super) method: &'t Method,
    pub(super) matched: Option<&'t Matched>,
    pub(super) status: u16,
    /// The refusal's code, if relay answered.
    pub(super) code: Option<&'static str>,
    pub(super) ended_early: bool,
    /// When it was first sent to the vendor, since it began; and how often again.
    pub(super) sent: Option<Duration>,
    pub(super) again: u64,
}

impl Trace {
    /// The request's part, if it has one.
    pub(super) fn of(tracer: &Tracer, head: &HeaderMap) -> Option<Box<Self>> {
        let given = continued(head);
        if let Some((_, _, false)) = given {
            return None;
        }
        let mut drawn = [0; 32];
        aws_lc_rs::rand::fill(&mut drawn).ok()?;
        let (fresh, ids) = drawn.split_at(16);
        let (server, client) = ids.split_at(8);
        // An id of zeros is none.
        let id = |bytes: &[u8]| bytes.iter().fold(0, |id: u64, byte| (id << 8) | u64::from(*byte)).max(1);
        let fresh = fresh.iter().fold(0, |id: u128, byte| (id << 8) | u128::from(*byte)).max(1);
        let (trace, parent, state) = match given {
            Some((trace, parent, _)) => (trace, Some(parent), state(head)),
            None => {
                let random = u32::try_from(fresh & u128::from(u32::MAX)).unwrap_or(u32::MAX);
                if !tracer.keeps(random) {
                    return None;
                }
                (fresh, None, String::new())
            }
        };
        Some(Box::new(Self { trace, parent, state, server: id(server), client: id(client) }))
    }

    /// The `traceparent` of the call to the vendor.
    pub(super) fn onward(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("00-{:032x}-{:016x}-01", self.trace, self.client)).ok()
    }

    /// Leaves its spans with the tracer.
    pub(super) fn leave(self, tracer: &Tracer, told: &Told<'_>) {
        let began = told.began.unix_nanos();
        let since = |took: Duration| began.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        let ended = since(told.began.elapsed());
        let route = told.matched.and_then(Matched::route);
        let client = told.sent.map(|sent| Span {
            trace: self.trace,
            id: self.client,
            parent: Some(self.server),
            state: self.state.clone(),
            side: Side::Client,
            name: method(told.method).to_owned(),
            began: since(sent),
            ended,
            attributes: told.to_vendor(route.map(|route| &**route)),
            failed: told.ended_early || told.code.is_some() || told.status >= 400,
        });
        let server = Span {
            trace: self.trace,
            id: self.server,
            parent: self.parent,
            state: self.state,
            side: Side::Server,
            name: route.map_or_else(
                || method(told.method).to_owned(),
                |route| format!("{} /{}", method(told.method), route.name),
            ),
            began,
            ended,
            attributes: told.to_app(route.map(|route| &**route)),
            failed: told.ended_early || told.status >= 500,
        };
        tracer.leave(server);
        client.into_iter().for_each(|client| tracer.leave(client));
    }
}

impl Told<'_> {
    fn to_app(&self, route: Option<&Route>) -> Vec<(&'static str, Attribute)> {
        let mut all = self.common();
        if let Some(route) = route {
            all.push(("http.route", text(format!("/{}", route.name))));
        }
        if let Some(matched) = self.matched {
            all.push(("url.scheme", text(scheme(matched.is_secure()))));
        }
        if self.status != 0 {
            all.push(("http.response.status_code", Attribute::Whole(self.status.into())));
        }
        let early = self.ended_early.then_some(OTHER);
        all.extend(self.code.or(early).map(|error| ("error.type", text(error))));
        all
    }

    fn to_vendor(&self, route: Option<&Route>) -> Vec<(&'static str, Attribute)> {
        let mut all = self.common();
        if let Some(route) = route {
            all.push(("url.scheme", text(scheme(route.origin.is_secure()))));
            // One that is a customer's own would name the customer.
            if route.hosts.is_none() {
                all.push(("server.address", text(route.origin.host().to_owned())));
                all.push(("server.port", Attribute::Whole(route.origin.port().into())));
            }
        }
        // Where relay answered, the status is not the vendor's.
        if self.code.is_none() && self.status != 0 {
            all.push(("http.response.status_code", Attribute::Whole(self.status.into())));
        }
        if self.again > 0 {
            all.push(("http.request.resend_count", Attribute::Whole(self.again)));
        }
        let failed = || (self.status >= 400).then(|| text(self.status.to_string()));
        let early = || self.ended_early.then(|| text(OTHER));
        all.extend(self.code.map(text).or_else(failed).or_else(early).map(|error| ("error.type", error)));
        all
    }

    fn common(&self) -> Vec<(&'static str, Attribute)> {
        let mut all = Vec::with_capacity(8);
        all.push(("http.request.method", text(method(self.method))));
        all.push(("relay.request_id", text(self.request_id.clone())));
        all
    }
}

fn text(text: impl Into<Cow<'static, str>>) -> Attribute {
    Attribute::Text(text.into())
}

const fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

/// A method that is known, since callers can make up others.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}

/// The trace of the request's one valid `traceparent`: its id, the caller's span, and whether it is sampled.
fn continued(head: &HeaderMap) -> Option<(u128, u64, bool)> {
    let mut all = head.get_all(TRACEPARENT).iter();
    let (first, second) = (all.next()?, all.next());
    if second.is_some() {
        return None;
    }
    traceparent(first.to_str().ok()?)
}

/// `00-TRACE-SPAN-FLAGS` in lower-case hex; a later version may go on behind that, `ff` is none (section 3.2).
fn traceparent(text: &str) -> Option<(u128, u64, bool)> {
    const LENGTH: usize = 55;
    let hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (fixed, more) = text.split_at_checked(LENGTH)?;
    let parts: Vec<&str> = fixed.split('-').collect();
    let &[version, trace, span, flags] = parts.as_slice() else { return None };
    let lengths = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2];
    let ends = more.is_empty() || (version != "00" && more.starts_with('-'));
    if !lengths || !parts.iter().all(|part| hex(part)) || version == "ff" || !ends {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    let span = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace, span, flags & 1 == 1))
}

/// What other tracers noted, if it is printable and short enough.
fn state(head: &HeaderMap) -> String {
    let all: Option<Vec<&str>> =
        head.get_all(TRACESTATE).iter().map(|value| value.to_str().ok().map(str::trim)).collect();
    all.map(|all| all.join(",")).filter(|state| state.len() <= STATE_BYTES).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_taken_only_as_the_specification_writes_it() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = |flags: &str| format!("00-{TRACE}-00f067aa0ba902b7-{flags}");
        let ids = (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7);
        assert_eq!(traceparent(&good("01")), Some((ids.0, ids.1, true)));
        assert_eq!(traceparent(&good("00")), Some((ids.0, ids.1, false)));
        assert_eq!(traceparent(&good("03")), Some((ids.0, ids.1, true)), "other flags are not looked at");
        let later = good("01").replacen("00", "cc", 1);
        assert!(traceparent(&later).is_some() && traceparent(&format!("{later}-more")).is_some());
        let bad = [
            String::new(),
            good("1"),
            good("0g"),
            good("01").to_uppercase(),
            format!("{}-more", good("01")),
            format!("{later}more"),
            good("01").replacen("00", "ff", 1),
            good("01").replace(TRACE, &"0".repeat(32)),
            good("01").replace("00f067aa0ba902b7", &"0".repeat(16)),
            good("01").replace('-', "_"),
            good("01").replacen("-00f0", "-é0f", 1),
        ];
        for text in bad {
            assert_eq!(traceparent(&text), None, "{text}");
        }
    }
}
