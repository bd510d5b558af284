//! The steps of a request's life, a file each, in the order of `pipeline`.
//!
//! Each turns one proof into the next: `Matched -> Caller -> Grant -> Opened -> Line -> Credential ->
//! Armed`. The proofs have private fields and are built only here, so a step cannot be skipped. A stage
//! knows the types of the stages before it, never of those behind it. `limits` is no stage: a route holds its
//! rate, authorize counts. Nor is `coding`: inject asks by it, scrub judges by it. `gather` makes no proof: it collects a
//! body where one is needed whole. `sign` is a part of inject, and `wiped` what both put in.

pub mod authenticate;
pub mod authorize;
pub mod coding;
pub mod connect;
pub mod gather;
pub mod hosts;
pub mod inject;
pub mod limits;
#[doc(hidden)]
pub mod probe;
pub mod record;
pub mod route;
pub mod scrub;
pub mod send;
pub mod sign;
pub mod unseal;
mod wiped;
