//! Numbers for the operator, by integration and outcome, never by customer.
//!
//! Handles are made once per integration so that the data path only adds. What must never enter: a
//! customer, a secret's id, a path, anything that a caller can make up as a label.

mod buckets;
mod requests;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::clock;

use requests::Requests;
pub use requests::{IntegrationMetrics, Took};

/// All of relay's metrics and the registry that prints them.
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    denied: Family<ReasonLabel, Counter>,
    in_flight: Gauge<i64, AtomicI64>,
    connections: Gauge<i64, AtomicI64>,
    jwks_reads: Family<JwksLabels, Counter>,
    jwks_keys: Family<IssuerLabel, Gauge<i64, AtomicI64>>,
    jwks_read_at: Family<IssuerLabel, Gauge<i64, AtomicI64>>,
    kms_calls: Family<KmsCallLabels, Counter>,
    kms_state: Family<KmsStateLabels, Gauge<i64, AtomicI64>>,
    data_keys: Gauge<i64, AtomicI64>,
    dependency_state: Family<DependencyLabels, Gauge<i64, AtomicI64>>,
    audit_sink_up: Family<SinkLabel, Gauge<i64, AtomicI64>>,
    audit_lost: Family<SinkLabel, Counter>,
    store_notes_unclear: Counter,
    spans_dropped: Counter,
    token_refresh: Family<TokenLabels, Counter>,
    reload_successful: Gauge<i64, AtomicI64>,
    reload_at: Gauge<i64, AtomicI64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    integration: Arc<str>,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KmsCallLabels {
    provider: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KmsStateLabels {
    provider: &'static str,
    /// 0 wraps now, others only unwrap.
    place: u64,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DependencyLabels {
    dependency: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabel {
    sink: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IntegrationLabel {
    integration: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabel {
    issuer: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JwksLabels {
    issuer: Arc<str>,
    outcome: &'static str,
}

/// One issuer's own handles; issuers are named by configuration.
pub struct IssuerMetrics {
    changed: Counter,
    unchanged: Counter,
    failed: Counter,
    keys: Gauge<i64, AtomicI64>,
    read_at: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// Fresh metrics, all zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("relay");
        let made = Self {
            requests: Requests::default(),
            denied: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            kms_calls: Family::default(),
            kms_state: Family::default(),
            data_keys: Gauge::default(),
            dependency_state: Family::default(),
            audit_sink_up: Family::default(),
            audit_lost: Family::default(),
            store_notes_unclear: Counter::default(),
            spans_dropped: Counter::default(),
            token_refresh: Family::default(),
            reload_successful: Gauge::default(),
            reload_at: Gauge::default(),
            jwks_reads: Family::default(),
            jwks_keys: Family::default(),
            jwks_read_at: Family::default(),
            registry: Registry::default(),
        };
        made.register_requests(&mut registry);
        registry.register("denied", "Refusals by code", made.denied.clone());
        registry.register("inflight_requests", "Requests under way", made.in_flight.clone());
        registry.register("connections", "Open connections from apps", made.connections.clone());
        made.register_keys(&mut registry);
        registry.register("jwks_reads", "Readings of issuers' keys by outcome", made.jwks_reads.clone());
        registry.register(
            "jwks_keys",
            "Keys of each issuer that tokens are judged by",
            made.jwks_keys.clone(),
        );
        registry.register(
            "jwks_read_timestamp_seconds",
            "When each issuer's keys were last read, in seconds since 1970",
            made.jwks_read_at.clone(),
        );
        let build = Gauge::<i64, AtomicI64>::default();
        build.set(1);
        registry.sub_registry_with_label(("version".into(), env!("CARGO_PKG_VERSION").into())).register(
            "build_info",
            "The version that runs",
            build,
        );
        Self { registry, ..made }
    }

    fn register_requests(&self, registry: &mut Registry) {
        let Requests { requests, duration, overhead, first_byte, reflected } = &self.requests;
        registry.register(
            "requests",
            "Requests answered, by method, status class and who answered",
            requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "From the request's head to the end of the answer",
            duration.clone(),
        );
        registry.register(
            "overhead_seconds",
            "From the request's head until it is sent to the vendor: what relay itself takes, and connecting",
            overhead.clone(),
        );
        registry.register(
            "upstream_ttfb_seconds",
            "From the request sent to the head of the vendor's answer",
            first_byte.clone(),
        );
        registry.register(
            "reflected",
            "Answers in which the credential was found and scrubbed",
            reflected.clone(),
        );
    }

    fn register_keys(&self, registry: &mut Registry) {
        let reload = "1 if relay.toml as it stands was taken over, 0 if it was refused when it was last read";
        registry.register("config_last_reload_successful", reload, self.reload_successful.clone());
        registry.register(
            "config_last_reload_timestamp_seconds",
            "When relay.toml was last taken over, in seconds since 1970",
            self.reload_at.clone(),
        );
        let tokens = "Access tokens asked for, by how that ended";
        registry.register("token_refresh", tokens, self.token_refresh.clone());
        registry.register(
            "kms_calls",
            "Calls to the KMS, by what for and how they ended",
            self.kms_calls.clone(),
        );
        registry.register("kms_state", "1 for the state that a KMS key is in", self.kms_state.clone());
        registry.register("data_keys", "Data keys held unwrapped in memory", self.data_keys.clone());
        registry.register(
            "dependency_state",
            "1 for the state that something relay depends on is in",
            self.dependency_state.clone(),
        );
        registry.register(
            "audit_sink_up",
            "1 if one of several sinks of the audit takes records",
            self.audit_sink_up.clone(),
        );
        registry.register(
            "audit_sink_lost_records",
            "Records that one of several sinks of the audit never got",
            self.audit_lost.clone(),
        );
        registry.register(
            "trace_spans_dropped",
            "Spans that the collector of traces never got",
            self.spans_dropped.clone(),
        );
    }

    /// relay.toml was read, and taken over or not.
    pub fn reloaded(&self, good: bool) {
        self.reload_successful.set(good.into());
        if good {
            self.reload_at.set(i64::try_from(clock::unix_seconds()).unwrap_or(i64::MAX));
        }
    }

    /// Counts one call to a KMS.
    pub fn kms_call(&self, provider: &'static str, operation: &'static str, outcome: &'static str) {
        self.kms_calls.get_or_create(&KmsCallLabels { provider, operation, outcome }).inc();
    }

    /// Counts one asking for an access token.
    pub fn token_refresh(&self, integration: &str, outcome: &'static str) {
        self.token_refresh.get_or_create(&TokenLabels { integration: integration.into(), outcome }).inc();
    }

    /// Says whether a KMS key is in this state.
    pub fn kms_state(&self, provider: &'static str, place: usize, state: &'static str, is: bool) {
        let place = u64::try_from(place).unwrap_or(u64::MAX);
        self.kms_state.get_or_create(&KmsStateLabels { provider, place, state }).set(is.into());
    }

    /// Data keys held.
    pub fn data_keys(&self, held: u64) {
        self.data_keys.set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    /// Says whether a dependency is in this state.
    pub fn dependency_state(&self, dependency: &'static str, state: &'static str, is: bool) {
        self.dependency_state.get_or_create(&DependencyLabels { dependency, state }).set(is.into());
    }

    /// Says how one of several sinks of the audit stands, and how many records it has lost since the start.
    pub fn audit_sink(&self, sink: &'static str, up: bool, lost: u64) {
        self.audit_sink_up.get_or_create(&SinkLabel { sink }).set(up.into());
        let counted = self.audit_lost.get_or_create(&SinkLabel { sink });
        counted.inc_by(lost.saturating_sub(counted.get()));
    }

    /// Says how many words of the store's change feed were not understood since the start.
    pub fn store_notes_unclear(&self, notes: u64) {
        self.store_notes_unclear.inc_by(notes.saturating_sub(self.store_notes_unclear.get()));
    }

    /// Counts spans that never arrived.
    pub fn spans_dropped(&self) -> Counter {
        self.spans_dropped.clone()
    }

    /// The handles of one integration.
    pub fn integration(&self, name: &str) -> IntegrationMetrics {
        self.requests.of(name)
    }

    /// The handles of one issuer.
    pub fn issuer(&self, name: &str) -> IssuerMetrics {
        let issuer: Arc<str> = name.into();
        let reads = |outcome| {
            let labels = JwksLabels { issuer: issuer.clone(), outcome };
            self.jwks_reads.get_or_create(&labels).clone()
        };
        let label = IssuerLabel { issuer: issuer.clone() };
        IssuerMetrics {
            changed: reads("changed"),
            unchanged: reads("unchanged"),
            failed: reads("failed"),
            keys: self.jwks_keys.get_or_create(&label).clone(),
            read_at: self.jwks_read_at.get_or_create(&label).clone(),
        }
    }

    /// Counts a refusal by its code.
    pub fn denied(&self, reason: &'static str) {
        self.denied.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Requests under way.
    pub const fn in_flight(&self) -> &Gauge<i64, AtomicI64> {
        &self.in_flight
    }

    /// Open connections from apps.
    pub const fn connections(&self) -> &Gauge<i64, AtomicI64> {
        &self.connections
    }

    /// The OpenMetrics text of `/metrics`.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl IssuerMetrics {
    /// Keys were read: another set of so many, or the same as before.
    pub fn read(&self, changed: Option<usize>) {
        match changed {
            Some(count) => {
                self.changed.inc();
                self.keys.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            None => {
                self.unchanged.inc();
            }
        }
        self.read_at.set(i64::try_from(clock::unix_seconds()).unwrap_or(i64::MAX));
    }

    /// They could not be read.
    pub fn failed(&self) {
        self.failed.inc();
    }

    /// None is left.
    pub fn emptied(&self) {
        self.keys.set(0);
    }
}
