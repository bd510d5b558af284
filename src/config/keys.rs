//! Every key that relay.toml may have, once. Unknown keys, wrong tables, overrides from the environment
//! and the masking of secrets are all judged by this table.
//!
//! A key that a section reads but that is not listed here is refused as unknown, so the two cannot drift
//! apart unseen. Nothing is ever read here.

use super::suggest;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One value: text, a number, a switch. May come from the environment.
    Scalar,
    /// One value that must never be seen, nor stand literally in the file. May come from the environment.
    Secret,
    /// A list or a table.
    Compound,
}

use Kind::{Compound, Scalar, Secret};

/// A table of relay.toml and its keys. `*` stands for a name that people choose.
pub(super) struct Shape {
    /// Its dotted path.
    pub(super) path: &'static str,
    /// How to name it to people.
    pub(super) shown: &'static str,
    /// Its keys; empty where people choose them.
    pub(super) keys: &'static [(&'static str, Kind)],
}

/// The tables, each before its own children.
pub(super) const SHAPES: &[Shape] = &[
    Shape {
        path: "",
        shown: "relay.toml",
        keys: &[
            ("server", Compound),
            ("callers", Compound),
            ("keys", Compound),
            ("store", Compound),
            ("audit", Compound),
            ("traces", Compound),
            ("admin", Compound),
            ("integrations", Compound),
        ],
    },
    Shape {
        path: "server",
        shown: "[server]",
        keys: &[
            ("listen", Scalar),
            ("admin_listen", Scalar),
            ("public_url", Scalar),
            ("workers", Scalar),
            ("grace", Scalar),
            ("drain_delay", Scalar),
            ("limits", Compound),
            ("tls", Compound),
        ],
    },
    Shape {
        path: "server.limits",
        shown: "[server.limits]",
        keys: &[
            ("head_bytes", Scalar),
            ("head_fields", Scalar),
            ("head_timeout", Scalar),
            ("connections", Scalar),
            ("in_flight_per_customer", Scalar),
            ("record_cache_bytes", Scalar),
            ("data_keys", Scalar),
            ("idle_per_origin", Scalar),
            ("idle_timeout", Scalar),
        ],
    },
    Shape {
        path: "server.tls",
        shown: "[server.tls]",
        keys: &[("certificate", Scalar), ("key", Scalar), ("client_ca", Scalar)],
    },
    Shape {
        path: "callers",
        shown: "[callers]",
        keys: &[
            ("jwks", Scalar),
            ("discovery", Scalar),
            ("ca_file", Scalar),
            ("jwks_token", Secret),
            ("key", Secret),
            ("issuer", Scalar),
            ("audience", Scalar),
            ("algorithms", Compound),
            ("customer", Scalar),
            ("customer_prefix", Scalar),
            ("secret", Scalar),
            ("secrets", Scalar),
            ("max_lifetime", Scalar),
            ("leeway", Scalar),
        ],
    },
    Shape {
        path: "keys",
        shown: "[keys]",
        keys: &[
            ("provider", Scalar),
            ("file", Scalar),
            ("key", Scalar),
            ("region", Scalar),
            ("endpoint", Scalar),
            ("vault", Scalar),
            ("address", Scalar),
            ("mount", Scalar),
            ("namespace", Scalar),
            ("token", Secret),
            ("role_id", Scalar),
            ("secret_id", Secret),
            ("auth_mount", Scalar),
            ("ca_file", Scalar),
            ("context", Scalar),
            ("data_key_max_age", Scalar),
            ("refresh_after", Scalar),
            ("serve_at_most", Scalar),
            ("calls_per_second", Scalar),
            ("previous", Compound),
        ],
    },
    Shape {
        path: "keys.previous",
        shown: "previous of [keys]",
        keys: &[
            ("provider", Scalar),
            ("file", Scalar),
            ("key", Scalar),
            ("region", Scalar),
            ("endpoint", Scalar),
            ("vault", Scalar),
            ("address", Scalar),
            ("mount", Scalar),
            ("namespace", Scalar),
            ("token", Secret),
            ("role_id", Scalar),
            ("secret_id", Secret),
            ("auth_mount", Scalar),
            ("ca_file", Scalar),
        ],
    },
    Shape {
        path: "store",
        shown: "[store]",
        keys: &[
            ("engine", Scalar),
            ("path", Scalar),
            ("url", Secret),
            ("password", Secret),
            ("ca_file", Scalar),
            ("connections", Scalar),
            ("plaintext_danger", Scalar),
            ("retain", Scalar),
        ],
    },
    Shape {
        path: "audit",
        shown: "[audit]",
        keys: &[
            ("path", Scalar),
            ("durability", Scalar),
            ("replica", Scalar),
            ("rotate_bytes", Scalar),
            ("rotate_every", Scalar),
            ("retain", Scalar),
            ("stdout", Scalar),
            ("otlp", Compound),
        ],
    },
    Shape {
        path: "audit.otlp",
        shown: "otlp of [audit]",
        keys: &[("endpoint", Scalar), ("headers", Compound), ("ca_file", Scalar)],
    },
    Shape { path: "audit.otlp.headers", shown: "headers of otlp", keys: &[] },
    Shape {
        path: "traces",
        shown: "[traces]",
        keys: &[
            ("endpoint", Scalar),
            ("headers", Compound),
            ("ca_file", Scalar),
            ("sample", Scalar),
            ("propagate", Scalar),
        ],
    },
    Shape { path: "traces.headers", shown: "headers of [traces]", keys: &[] },
    Shape { path: "admin", shown: "[admin]", keys: &[("token", Secret)] },
    Shape { path: "integrations", shown: "[integrations]", keys: &[] },
    Shape {
        path: "integrations.*",
        shown: "[integrations.NAME]",
        keys: &[
            ("use", Scalar),
            ("upstream", Scalar),
            ("listen", Scalar),
            ("host", Scalar),
            ("http2", Scalar),
            ("inject", Compound),
            ("sign", Compound),
            ("client_certificate", Compound),
            ("fields", Compound),
            ("allow", Compound),
            ("deny", Compound),
            ("ca_file", Scalar),
            ("private_cidrs", Compound),
            ("plaintext_danger", Scalar),
            ("timeout", Compound),
            ("cookies", Scalar),
            ("ranges", Scalar),
            ("websocket", Scalar),
            ("isolate", Scalar),
            ("rewrite", Compound),
            ("on_reflect", Scalar),
            ("rate", Scalar),
            ("body_limit", Scalar),
            ("default_secret", Scalar),
            ("burst", Scalar),
            ("concurrency", Scalar),
            ("any_host_danger", Scalar),
            ("oauth2", Compound),
            ("login", Compound),
            ("verify", Compound),
        ],
    },
    Shape {
        path: "integrations.*.oauth2",
        shown: "oauth2 of [integrations.NAME]",
        keys: &[
            ("grant", Scalar),
            ("token", Scalar),
            ("auth", Scalar),
            ("client_id", Scalar),
            ("client_secret", Secret),
            ("refresh_token", Scalar),
            ("scope", Scalar),
            ("audience", Scalar),
            ("resource", Scalar),
            ("parameters", Compound),
            ("assertion", Compound),
            ("answer", Compound),
            ("lifetime", Scalar),
        ],
    },
    Shape { path: "integrations.*.oauth2.parameters", shown: "parameters of oauth2", keys: &[] },
    Shape {
        path: "integrations.*.oauth2.assertion",
        shown: "assertion of oauth2",
        keys: &[
            ("algorithm", Scalar),
            ("issuer", Scalar),
            ("subject", Scalar),
            ("audience", Scalar),
            ("scope", Scalar),
            ("key", Secret),
            ("key_id", Scalar),
            ("lifetime", Scalar),
            ("send", Scalar),
        ],
    },
    Shape {
        path: "integrations.*.oauth2.answer",
        shown: "answer of oauth2",
        keys: &[("token", Scalar), ("expires_in", Scalar), ("expires_at", Scalar), ("refresh_token", Scalar)],
    },
    Shape {
        path: "integrations.*.login",
        shown: "login of [integrations.NAME]",
        keys: &[
            ("post", Scalar),
            ("json", Compound),
            ("form", Compound),
            ("token", Scalar),
            ("expires_in", Scalar),
            ("expires_at", Scalar),
            ("lifetime", Scalar),
        ],
    },
    Shape { path: "integrations.*.login.json", shown: "json of login", keys: &[] },
    Shape { path: "integrations.*.login.form", shown: "form of login", keys: &[] },
    Shape {
        path: "integrations.*.verify",
        shown: "verify of [integrations.NAME]",
        keys: &[("get", Scalar), ("post", Scalar), ("expect", Scalar), ("json", Scalar), ("equals", Scalar)],
    },
    Shape {
        path: "integrations.*.inject",
        shown: "inject of [integrations.NAME]",
        keys: &[
            ("header", Scalar),
            ("query", Scalar),
            ("path", Scalar),
            ("cookie", Scalar),
            ("json", Scalar),
            ("form", Scalar),
            ("value", Scalar),
        ],
    },
    Shape {
        path: "integrations.*.sign",
        shown: "[integrations.NAME.sign]",
        keys: &[
            ("with", Scalar),
            ("region", Scalar),
            ("service", Scalar),
            ("access_key", Scalar),
            ("secret_key", Scalar),
            ("session_token", Scalar),
            ("key", Scalar),
            ("secret", Scalar),
            ("passphrase", Scalar),
            ("secret_is", Scalar),
            ("message", Compound),
            ("joined_by", Scalar),
            ("time", Scalar),
            ("output", Scalar),
            ("signature_prefix", Scalar),
            ("signature_header", Scalar),
            ("time_header", Scalar),
            ("nonce_header", Scalar),
            ("key_header", Scalar),
            ("passphrase_header", Scalar),
        ],
    },
    Shape {
        path: "integrations.*.client_certificate",
        shown: "[integrations.NAME.client_certificate]",
        keys: &[("certificate", Scalar), ("key", Scalar)],
    },
    Shape { path: "integrations.*.fields", shown: "[integrations.NAME.fields]", keys: &[] },
    Shape {
        path: "integrations.*.fields.*",
        shown: "[integrations.NAME.fields.FIELD]",
        keys: &[
            ("label", Scalar),
            ("help", Scalar),
            ("example", Scalar),
            ("secret", Scalar),
            ("scrub", Scalar),
            ("optional", Scalar),
            ("match", Scalar),
        ],
    },
    Shape {
        path: "integrations.*.timeout",
        shown: "[integrations.NAME.timeout]",
        keys: &[("connect", Scalar), ("first_byte", Scalar), ("idle", Scalar)],
    },
];

/// Words that other programs use for what relay calls otherwise.
const ELSEWHERE: &[(&str, &str)] = &[
    ("base", "upstream"),
    ("base_url", "upstream"),
    ("url", "upstream"),
    ("target", "upstream"),
    ("headers", "inject"),
    ("tenant", "customer"),
    ("bind", "listen"),
    ("address", "listen"),
    ("threads", "workers"),
];

/// Words under which people write a credential into an integration.
const CREDENTIALS: &[&str] =
    &["token", "key", "secret", "password", "credential", "api_key", "apikey", "access_token", "auth"];

/// The shape at `path`, names that people chose replaced by `*`.
pub(super) fn shape(path: &str) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.path == path)
}

/// What `key` of the table at `path` holds, if there is such a key.
pub(super) fn kind(path: &str, key: &str) -> Option<Kind> {
    shape(path)?.keys.iter().find(|(name, _)| *name == key).map(|(_, kind)| *kind)
}

/// Every key as (the table's dotted path, the key): `("server.limits", "head_bytes")`; `*` stands for a
/// name that people choose.
pub fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
    SHAPES.iter().flat_map(|shape| shape.keys.iter().map(|(key, _)| (shape.path, *key)))
}

/// The key of the table at `path` that was probably meant by `key`, which is none.
pub(super) fn near(path: &str, key: &str) -> Option<&'static str> {
    let word = key.to_ascii_lowercase();
    let names = || shape(path).into_iter().flat_map(|shape| shape.keys.iter().map(|(name, _)| *name));
    let elsewhere = ELSEWHERE.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours);
    elsewhere.filter(|ours| names().any(|name| name == *ours)).or_else(|| suggest::nearest(key, names()))
}

/// What is known about an unknown `key` of the table at `path`: the end of the message, and the fix.
pub(super) fn meant(path: &str, key: &str) -> (String, String) {
    let here = shape(path).map(|shape| shape.keys).unwrap_or_default();
    let word = key.to_ascii_lowercase();
    if path.starts_with("integrations.*") && CREDENTIALS.contains(&word.as_str()) {
        return (
            String::new(),
            "no credential stands in relay.toml: seal it with `relay secret add --integration NAME`"
                .to_owned(),
        );
    }
    if let Some(near) = near(path, key) {
        return (format!("; did you mean \"{near}\"?"), format!("write {near}"));
    }
    let owners: Vec<&str> = SHAPES
        .iter()
        .filter(|shape| shape.path != path && shape.keys.iter().any(|(name, _)| *name == key))
        // What a list of tables repeats from its parent is its parent's; a place is no setting.
        .filter(|shape| !matches!(shape.path, "keys.previous" | "integrations.*.inject"))
        .map(|shape| shape.shown)
        .collect();
    if !owners.is_empty() {
        let owners = owners.join(" or ");
        return (format!("; it belongs to {owners}"), format!("move it to {owners}"));
    }
    let all: Vec<&str> = here.iter().map(|(name, _)| *name).collect();
    (String::new(), format!("the keys here are {}", all.join(", ")))
}
