//! Every promise of relay, kept against the real thing. One binary; a file per promise.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::redundant_clone,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    clippy::cognitive_complexity,
    clippy::print_stdout,
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

/// The audit shows every edit.
mod audit;
/// Requests as bytes, each with the mistake that it carries and what must come of it.
#[path = "../corpus/framing.rs"]
mod corpus;
/// A real relay, a real vendor, a canary credential and the hunt for it.
#[path = "../rig/mod.rs"]
mod rig;

/// What the app gets back: the vendor's answer, but for the listed edits.
mod answers;
/// A customer's own access history, and the newest records, over segments.
mod audit_history;
/// One intent before the vendor sees a request, one outcome behind its last byte.
mod audit_path;
/// Segments and replicas: one chain over many files, lawful cuts, and every other one found.
mod audit_segments;
/// Several sinks: one is enough, none is a refusal, one that is behind catches up or says what it lost.
mod audit_sinks;
/// A credential in a body, and bodies that are collected for it.
mod bodies;
/// Callers' issuers: their keys over https, rotated, removed, out of reach; several at once; Kubernetes.
mod callers;
/// The hunt finds a leak when there is one, and there is none.
mod canary;
/// The catalogue: every entry is good, and an integration's own keys stand over it.
mod catalog;
/// The command line as a person and a script use it, by the real binary.
mod cli;
/// A vendor that demands a certificate sees each secret's own, on connections that nobody else uses.
mod client_certificate;
/// Compressed, partial and framed answers, on the wire; what vouches for their bytes.
mod codings;
/// relay.toml: every mistake is reported at once, with its line and the fix.
mod config;
/// The tree of crates: licences, bans, second versions.
mod crates;
/// What relay does while something that it depends on does not work, cell by cell.
mod dependencies;
/// `relay dev` and its built-in vendor.
mod dev;
/// An integration's own port and host name, TLS and Unix sockets on the app's side.
mod doors;
/// A vendor's address is resolved, vetted and dialled; nothing else is.
mod egress;
/// `Expect: 100-continue`: the vendor is asked before the app's body is.
mod expect;
/// What two programs could frame in two ways passes neither from the app nor from the vendor.
mod framing;
/// What the fuzzers kept holds on stable too.
mod fuzz_corpus;
/// Vendors whose host or path is each customer's own: frozen when a secret is sealed, never picked by a request.
mod hosts;
/// The house keeps its own rules: imports, file sizes, a `//!` on every file.
mod house;
/// HTTP/2 on both sides, gRPC among it.
mod http2;
/// A request on its way to the vendor: how it names its secret, where its token stands, what goes on.
mod journey;
/// A vendor's URLs in JSON lead back through relay, and nothing else of the JSON changes.
mod json_rewrite;
/// Every KMS keeps data keys as relay needs it, and says what is wrong with it.
mod kms;
/// Starts, restarts and damage: what is told, and that what was acknowledged still opens.
mod life;
/// Access tokens are had, kept and renewed, or given up in words.
mod lifecycle;
/// A request that names no secret gets the only one there is.
mod only_secret;
/// A credential stands wherever the vendor wants it, escaped for the place.
mod placements;
/// What an integration, a secret and a token allow: each only narrows the one before it.
mod policy;
/// Connections to a vendor are shared no further than is safe.
mod pool;
/// A vendor that sends the credential back gives it to nobody.
mod reflection;
/// Every refusal: its code, its status, its order, and what the operator learns.
mod refusals;
/// relay.toml is read again: all of it or none, and nothing under way notices.
mod reload;
/// Several relays on one store: what happens on one holds on all, and each knows how long it may go without the store.
mod replicas;
/// A secret that is revoked ends what it opened.
mod revocation;
/// Keys are rotated, moved and forgotten while requests go on.
mod rotation;
/// What comes back carries neither the credential nor a way around relay.
mod scrub;
/// Sealed rows open for what they were sealed for, and for nothing else.
mod sealing;
/// Requests are signed with the customer's key, whatever the app's SDK signed them with.
mod signing;
/// The caller's token in each of the places that vendors' SDKs use.
mod slots;
/// Both engines keep what they acknowledged.
mod store;
/// Bodies stream both ways, and what breaks is seen to break.
mod streaming;
/// Traces: which requests are in one, what their spans tell, and a collector that is no help.
#[cfg(feature = "otel")]
mod traces;
/// A credential is tried before it is sealed.
mod verify;
/// WebSocket: the handshake, the messages, the ends.
mod websocket;
