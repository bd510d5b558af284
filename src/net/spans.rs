//! Spans to a collector, as OTLP over HTTP: queued without waiting, sent in batches, dropped when it lags.
//!
//! Tracing never holds a request up: a queue that is full and a batch that is not taken are counted and
//! forgotten. What must never enter: a credential, a token, a customer, a path or a query.

use std::borrow::Cow;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::otlp::Collector;

/// Spans that wait for the collector; what comes on top of them is dropped.
pub const QUEUE: usize = 4096;
/// Spans of one request at most, so that it stays far below what collectors take.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const BATCH_AFTER: Duration = Duration::from_secs(1);
/// How long the last batches have when relay stops.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Whose side of a call a span tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// relay was called: `SPAN_KIND_SERVER`.
    Server,
    /// relay called: `SPAN_KIND_CLIENT`.
    Client,
}

/// One value of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// A text.
    Text(Cow<'static, str>),
    /// A whole number.
    Whole(u64),
}

/// One span that has ended.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace that it is part of.
    pub trace: u128,
    /// Its own id.
    pub id: u64,
    /// The id of the span that called it, if there was one.
    pub parent: Option<u64>,
    /// What other tracers noted (`tracestate`).
    pub state: String,
    /// Whose side it tells.
    pub side: Side,
    /// A name of few values.
    pub name: String,
    /// When it began, in nanoseconds since 1970.
    pub began: u64,
    /// And when it ended.
    pub ended: u64,
    /// What is told about it.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Whether it failed.
    pub failed: bool,
}

/// Where spans are left: one per worker, all leading to the same collector.
#[derive(Clone)]
pub struct Tracer {
    queue: Sender<Span>,
    dropped: Counter,
    sample: f64,
    propagates: bool,
}

/// What carries them there.
pub struct Carrier {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Tracer {
    /// Sends to this collector from now on. `sample` is the part of new traces that is kept, `propagates` whether
    /// the vendor is told the trace; `dropped` counts spans that never arrived.
    pub fn open(
        collector: Collector,
        (sample, propagates): (f64, bool),
        dropped: Counter,
        control: &Handle,
    ) -> (Self, Carrier) {
        let (queue, waiting) = channel(QUEUE);
        let (stop, stopped) = watch::channel(false);
        let task = control.spawn(carry(collector, waiting, dropped.clone(), stopped));
        (Self { queue, dropped, sample, propagates }, Carrier { task, stop })
    }

    /// Leaves a span, or counts that there was no room for it.
    pub fn leave(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.dropped.inc();
        }
    }

    /// Whether a new trace is kept, by a part of its id that is random.
    pub fn keeps(&self, random: u32) -> bool {
        f64::from(random) < self.sample * (f64::from(u32::MAX) + 1.0)
    }

    /// Whether the vendor is told the trace.
    pub const fn propagates(&self) -> bool {
        self.propagates
    }
}

impl Carrier {
    /// Sends what still waits, for at most a second.
    pub async fn stop(self) {
        // The task is gone if nobody listens.
        let _ = self.stop.send(true);
        let mut task = self.task;
        if timeout(LAST_WORDS, &mut task).await.is_err() {
            task.abort();
        }
    }
}

async fn carry(
    collector: Collector,
    mut waiting: Receiver<Span>,
    dropped: Counter,
    mut stopped: watch::Receiver<bool>,
) {
    let mut works = true;
    loop {
        let mut batch = Vec::new();
        gather(&mut waiting, &mut batch, &mut stopped).await;
        if batch.is_empty() {
            return;
        }
        let (lost, failure) = match collector.send_spans(&batch).await {
            Ok(rejected) => (rejected, None),
            Err(error) => (batch.len() as u64, Some(error)),
        };
        dropped.inc_by(lost);
        match &failure {
            Some(error) if works => tracing::warn!(error, "the collector takes no spans: they are dropped"),
            None if !works => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        works = failure.is_none();
    }
}

/// The next batch: full, or old enough. Empty only when relay stops and nothing is left.
async fn gather(waiting: &mut Receiver<Span>, batch: &mut Vec<Span>, stopped: &mut watch::Receiver<bool>) {
    let first = tokio::select! {
        biased;
        first = waiting.recv() => first,
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    batch.extend(first);
    let until = Instant::now() + BATCH_AFTER;
    while batch.len() < BATCH && !batch.is_empty() {
        let next = async {
            tokio::select! {
                biased;
                next = waiting.recv() => next,
                _ = stopped.wait_for(|stopped| *stopped) => None,
            }
        };
        let Ok(Some(next)) = timeout_at(until, next).await else { return };
        batch.push(next);
    }
}

impl Collector {
    /// Sends a batch of spans, and says how many of them it did not take.
    ///
    /// # Errors
    /// Why it took none.
    async fn send_spans(&self, spans: &[Span]) -> Result<u64, String> {
        self.post(self.encode_spans(spans), "/partialSuccess/rejectedSpans").await
    }

    /// `ExportTraceServiceRequest`, as the JSON of its protocol buffers (ids in hex, integers of 64 bits as texts).
    pub fn encode_spans(&self, spans: &[Span]) -> String {
        let spans: Vec<Value> = spans.iter().map(encoded).collect();
        json!({ "resourceSpans": [{
            "resource": self.resource(),
            "scopeSpans": [{ "scope": { "name": "relay" }, "spans": spans }],
        }] })
        .to_string()
    }
}

fn encoded(span: &Span) -> Value {
    // `STATUS_CODE_ERROR`, else unset: what went well is not for relay to say.
    let status = if span.failed { json!({ "code": 2 }) } else { json!({}) };
    json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.id),
        "parentSpanId": span.parent.map(|id| format!("{id:016x}")).unwrap_or_default(),
        "traceState": span.state,
        // Sampled.
        "flags": 1,
        "kind": match span.side {
            Side::Server => 2,
            Side::Client => 3,
        },
        "name": span.name,
        "startTimeUnixNano": span.began.to_string(),
        "endTimeUnixNano": span.ended.to_string(),
        "attributes": span.attributes.iter().map(attribute).collect::<Vec<_>>(),
        "status": status,
    })
}

fn attribute((key, value): &(&'static str, Attribute)) -> Value {
    let value = match value {
        Attribute::Text(text) => json!({ "stringValue": text }),
        Attribute::Whole(number) => json!({ "intValue": number.to_string() }),
    };
    json!({ "key": key, "value": value })
}
