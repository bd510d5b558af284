//! The command line, a file per subcommand. Not built yet.

pub mod audit;
