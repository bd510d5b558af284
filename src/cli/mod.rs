//! The command line: one file per subcommand.
//!
//! stdout is data, stderr is talk; a value of a secret never comes by argv. What must never enter: the
//! data path, and any reading of the environment but at the one place that hands it down.

pub mod dev;
pub mod env;
pub mod exit;
pub mod token;
