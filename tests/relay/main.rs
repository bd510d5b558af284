//! Every promise of relay, kept against the real thing. One binary; a file per promise.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

/// The audit shows every edit.
mod audit;
/// relay.toml: every mistake is reported at once, with its line and the fix.
mod config;
/// `relay dev` and its built-in vendor.
mod dev;
/// A vendor's address is resolved, vetted and dialled; nothing else is.
mod egress;
/// The house keeps its own rules: imports, file sizes, a `//!` on every file.
mod house;
/// What comes back carries neither the credential nor a way around relay.
mod scrub;
/// Sealed rows open for what they were sealed for, and for nothing else.
mod sealing;
/// Both engines keep what they acknowledged.
mod store;
