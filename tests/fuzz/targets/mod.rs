//! What a fuzzer may try to break, a file per target: each has `run`, which panics when a promise is broken.
//!
//! The fuzz binaries and the replay of the corpus on stable share these files.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

/// relay.toml: every text is judged, none is a panic.
pub mod config;
/// One request at a time, strictly framed: gate, hyper and a second reader agree.
pub mod gate;
/// What goes on to the vendor and what comes back to the app, field by field.
pub mod headers;
/// A vendor's JSON means the same but for its URLs, in any pieces.
pub mod json;
/// Where a request's target may lead.
pub mod path;
/// An integration to aim at.
pub mod place;
/// No form of a credential survives, whatever the pieces; nothing of it is told by what is held back.
pub mod scrub;
/// A caller's token opens only what its claims say, by a configured key.
pub mod token;

/// Each target's name and its function.
pub const ALL: [(&str, fn(&[u8])); 7] = [
    ("config", config::run),
    ("gate", gate::run),
    ("headers", headers::run),
    ("json", json::run),
    ("path", path::run),
    ("scrub", scrub::run),
    ("token", token::run),
];
