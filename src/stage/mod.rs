//! Not built yet.

pub mod scrub;
