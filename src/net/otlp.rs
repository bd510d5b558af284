//! OTLP over HTTP, JSON-encoded: log records and spans to a collector, each batch acknowledged or not.
//!
//! By relay's own control-plane client, so that there is one TLS stack. What must never enter: a credential,
//! a caller's token; the collector's own credentials stand in the headers alone.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::fetch::{FetchRequest, fetch};

/// How long a collector may take for a batch.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The longest answer that is read: a collector's says how much it rejected, and why.
const ANSWER_BYTES: usize = 64 * 1024;
/// `SEVERITY_NUMBER_INFO`
const INFO: u32 = 9;

/// A collector.
pub struct Collector {
    /// Where it takes them: `https://collector:4318/v1/logs`.
    pub url: String,
    /// Further header fields, such as its credentials.
    pub headers: HeaderMap,
    /// Trust roots; the built-in ones if `None`.
    pub tls: Option<Arc<ClientConfig>>,
    /// Which of several instances this is (`service.instance.id`).
    pub instance: String,
}

/// One log record.
pub struct LogRecord<'a> {
    /// When, in nanoseconds since 1970.
    pub unix_nanos: u64,
    /// The whole line, so that what the collector keeps can be verified.
    pub body: &'a str,
    /// What to look records up by.
    pub attributes: Vec<(&'static str, String)>,
}

impl Collector {
    /// Sends a batch. It is acknowledged by a 2xx that rejects no record of it.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn send(&self, records: &[LogRecord<'_>]) -> Result<(), String> {
        match self.post(self.encode(records), "/partialSuccess/rejectedLogRecords").await? {
            0 => Ok(()),
            rejected => Err(format!("the collector rejected {rejected} of {} records", records.len())),
        }
    }

    /// Sends one request, and says how much of it was not taken, by this member of the answer.
    ///
    /// # Errors
    /// Why nothing of it was.
    pub(super) async fn post(&self, body: String, rejects: &str) -> Result<u64, String> {
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = FetchRequest {
            method: Method::POST,
            url: self.url.clone(),
            headers,
            body: body.into_bytes(),
            limit: ANSWER_BYTES,
            timeout: ANSWER_TIME,
            tls: self.tls.clone(),
        };
        let answer = fetch(request).await.map_err(|error| error.to_string())?;
        if !answer.status.is_success() {
            return Err(format!("the collector answered {}", answer.status.as_u16()));
        }
        Ok(rejected(&answer.body, rejects))
    }

    /// `ExportLogsServiceRequest`, as the JSON of its protocol buffers (integers of 64 bits are texts).
    pub fn encode(&self, records: &[LogRecord<'_>]) -> String {
        let records: Vec<Value> = records.iter().map(encoded).collect();
        json!({ "resourceLogs": [{
            "resource": self.resource(),
            "scopeLogs": [{ "scope": { "name": "relay.audit" }, "logRecords": records }],
        }] })
        .to_string()
    }

    /// Who sends.
    pub(super) fn resource(&self) -> Value {
        let attributes = attributes(&[
            ("service.name", "relay".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", self.instance.clone()),
        ]);
        json!({ "attributes": attributes })
    }
}

fn encoded(record: &LogRecord<'_>) -> Value {
    json!({
        "timeUnixNano": record.unix_nanos.to_string(),
        "observedTimeUnixNano": record.unix_nanos.to_string(),
        "severityNumber": INFO,
        "severityText": "INFO",
        "body": { "stringValue": record.body },
        "attributes": attributes(&record.attributes),
    })
}

fn attributes(all: &[(&'static str, String)]) -> Value {
    all.iter().map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } })).collect()
}

/// How much of the batch was not taken. An answer without a body takes all.
fn rejected(body: &[u8], member: &str) -> u64 {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let count = answer.pointer(member);
    // As a text by the specification, as a number by some collectors.
    count.and_then(|count| count.as_u64().or_else(|| count.as_str()?.parse().ok())).unwrap_or(0)
}
