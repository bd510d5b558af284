//! The front door: parse the command line, run it, return its exit code.

fn main() {}
