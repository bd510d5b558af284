//! One integration's own handles: what became of its requests, and how long each part took.
//!
//! A counter is made when it first counts, since most methods and status classes never come. What must never
//! enter: a method as the caller wrote it; all but the known ones are `other`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::IntegrationLabel;
use super::buckets::Buckets;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other"];
const OUTCOMES: [&str; 2] = ["relayed", "refused"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    integration: Arc<str>,
    method: &'static str,
    code_class: &'static str,
    outcome: &'static str,
}

/// From 500 us to two minutes.
pub(super) type Whole = Buckets<500_000>;
/// From 20 us to five seconds.
pub(super) type Own = Buckets<20_000>;

/// What all integrations have.
#[derive(Default)]
pub(super) struct Requests {
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) duration: Family<IntegrationLabel, Whole>,
    pub(super) overhead: Family<IntegrationLabel, Own>,
    pub(super) first_byte: Family<IntegrationLabel, Whole>,
    pub(super) reflected: Family<IntegrationLabel, Counter>,
}

/// One integration's own handles.
#[derive(Clone)]
pub struct IntegrationMetrics {
    counts: Arc<Counts>,
    duration: Whole,
    overhead: Own,
    first_byte: Whole,
    reflected: Counter,
}

struct Counts {
    integration: Arc<str>,
    all: Family<RequestLabels, Counter>,
    each: [[[OnceLock<Counter>; CLASSES.len()]; METHODS.len()]; OUTCOMES.len()],
}

/// How long the parts of one request took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// From the request's head to the end of the answer.
    pub whole: Duration,
    /// From the request's head until it was sent to the vendor; nothing if it was not.
    pub own: Option<Duration>,
    /// From there to the head of the vendor's answer; nothing if there was none.
    pub first_byte: Option<Duration>,
}

impl Requests {
    pub(super) fn of(&self, name: &str) -> IntegrationMetrics {
        let integration: Arc<str> = name.into();
        let label = IntegrationLabel { integration: integration.clone() };
        let counts = Counts { integration, all: self.requests.clone(), each: Default::default() };
        IntegrationMetrics {
            counts: Arc::new(counts),
            duration: self.duration.get_or_create(&label).clone(),
            overhead: self.overhead.get_or_create(&label).clone(),
            first_byte: self.first_byte.get_or_create(&label).clone(),
            reflected: self.reflected.get_or_create(&label).clone(),
        }
    }
}

impl Counts {
    fn count(&self, method: &Method, status: u16, refused: bool) {
        let (method, class) = (known(method), usize::from(status / 100).wrapping_sub(1));
        let outcome = usize::from(refused);
        let cell = self.each.get(outcome).and_then(|each| each.get(method)).and_then(|each| each.get(class));
        let Some(cell) = cell else { return };
        cell.get_or_init(|| self.made(method, class, outcome)).inc();
    }

    #[cold]
    fn made(&self, method: usize, class: usize, outcome: usize) -> Counter {
        let word = |words: &[&'static str], place| words.get(place).copied().unwrap_or("other");
        let labels = RequestLabels {
            integration: self.integration.clone(),
            method: word(&METHODS, method),
            code_class: word(&CLASSES, class),
            outcome: word(&OUTCOMES, outcome),
        };
        self.all.get_or_create(&labels).clone()
    }
}

/// The method's place among the known ones.
fn known(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::POST => 1,
        Method::PUT => 2,
        Method::PATCH => 3,
        Method::DELETE => 4,
        Method::HEAD => 5,
        Method::OPTIONS => 6,
        _ => 7,
    }
}

impl IntegrationMetrics {
    /// Counts one answered request.
    pub fn answered(&self, method: &Method, status: u16, (refused, reflected): (bool, bool), took: Took) {
        self.counts.count(method, status, refused);
        if reflected {
            self.reflected.inc();
        }
        self.duration.observe(took.whole);
        if let Some(own) = took.own {
            self.overhead.observe(own);
        }
        if let Some(first_byte) = took.first_byte {
            self.first_byte.observe(first_byte);
        }
    }
}
