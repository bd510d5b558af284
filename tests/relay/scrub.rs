//! What comes back carries neither the credential nor a way around relay: each piece by itself.
//!
//! The pieces are pure, so they are driven directly; the whole way is driven elsewhere.
#![allow(clippy::indexing_slicing, reason = "a test that panics has failed")]

/// Compressed bodies: a decoded copy is scanned, the original bytes pass.
mod codings;
/// Heads: what is removed, what is overwritten, what is refused.
mod heads;
/// References: inside, elsewhere, or dropped.
mod references;
/// Every way to write a credential, cut anywhere; and what only looks like one.
mod spellings;
/// Bodies: every cut, what is held back, what a guesser can see.
mod streams;
