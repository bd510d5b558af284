//! What a key is when nobody writes it, as it would be written: for people, beside what they wrote.
//!
//! The sections have the values themselves; `tests/relay/catalog/effective.rs` holds these to relay.toml, and
//! `tests/relay/config.rs` holds relay.toml to the sections. Nothing is ever read here.

use serde_json::{Value, json};

/// The default of `key` in the table of this shape, if it has one.
pub(super) fn default(pattern: &str, key: &str) -> Option<Value> {
    Some(match (pattern, key) {
        ("server", "listen") => json!("127.0.0.1:8480"),
        ("server", "admin_listen") => json!("127.0.0.1:8481"),
        ("server", "workers") => json!(std::thread::available_parallelism().map_or(1, usize::from)),
        ("server", "grace") => json!("25s"),
        ("server", "drain_delay") => json!("0s"),
        ("server.limits", "head_bytes") => json!(32_768),
        ("server.limits", "head_fields") => json!(100),
        ("server.limits", "head_timeout") => json!("10s"),
        ("server.limits", "connections") => json!(10_000),
        ("server.limits", "in_flight_per_customer") => json!(1_000),
        ("server.limits", "record_cache_bytes") => json!(67_108_864),
        ("server.limits", "data_keys") => json!(10_000),
        ("server.limits", "idle_per_origin") => json!(64),
        ("server.limits", "idle_timeout") => json!("60s"),
        ("callers", "customer_prefix") => json!(""),
        ("callers", "secret") => json!("secret"),
        ("callers", "secrets") => json!("secrets"),
        ("callers", "max_lifetime") => json!("24h"),
        ("callers", "leeway") => json!("30s"),
        ("keys", "context") => json!("name"),
        ("keys", "refresh_after") => json!("30m"),
        ("keys", "serve_at_most") => json!("1h"),
        ("keys", "calls_per_second") => json!(200),
        ("store", "engine") => json!("sled"),
        ("store", "retain") => json!("30d"),
        ("audit", "durability") => json!("written"),
        ("audit", "stdout") => json!(false),
        ("traces", "sample") => json!(0.01),
        ("traces", "propagate") => json!(false),
        ("integrations.*", "http2") => json!(true),
        ("integrations.*", "plaintext_danger" | "cookies" | "ranges" | "websocket") => json!(false),
        ("integrations.*", "on_reflect") => json!("redact"),
        ("integrations.*", "fields") => json!({ "token": { "label": "Token", "secret": true } }),
        ("integrations.*.fields.*", "secret") => json!(true),
        ("integrations.*.timeout", "connect") => json!("3s"),
        ("integrations.*.timeout", "first_byte") => json!("30s"),
        ("integrations.*.timeout", "idle") => json!("5m"),
        _ => return None,
    })
}
