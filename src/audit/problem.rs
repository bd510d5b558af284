//! One thing that is wrong with an audit file, and how it is said.

use std::fmt;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The file, where several were checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, 1 for the first; the one before which records are missing.
    pub line: u64,
    /// The chain, where it is known.
    pub chain: Option<String>,
    /// The record's number in its chain, where it is known.
    pub seq: Option<u64>,
    /// What is wrong, as the rest of a sentence that begins with the record.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{} ", file.escape_debug())?;
        }
        write!(f, "line {}: ", self.line)?;
        match (&self.chain, self.seq) {
            (Some(chain), Some(seq)) => write!(f, "record {seq} of chain {}", chain.escape_debug())?,
            (Some(chain), None) => write!(f, "chain {}", chain.escape_debug())?,
            _ => f.write_str("the line")?,
        }
        write!(f, " {}", self.what)
    }
}
