//! `[audit]`: where the audit goes, under whose name, and how long it is kept.

use std::path::PathBuf;

use http::HeaderMap;

use crate::audit::{Durability, Rotation};

/// `[audit]`
pub struct Audit {
    /// The file; where there is no other place either, it is kept in memory (`relay dev`).
    pub path: Option<PathBuf>,
    /// When a record counts as written.
    pub durability: Durability,
    /// Which replica this is; unless set, as the file says, else the machine's name.
    pub replica: Option<String>,
    /// When segments of the file end, and when they are deleted.
    pub rotation: Rotation,
    /// Whether it also goes to standard output.
    pub stdout: bool,
    /// The collector that it also goes to.
    pub otlp: Option<Otlp>,
}

/// `otlp` of `[audit]`
pub struct Otlp {
    /// Where logs are sent.
    pub endpoint: String,
    /// Further header fields, each of them a secret.
    pub headers: HeaderMap,
    /// Trust roots instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            path: None,
            durability: Durability::Written,
            replica: None,
            rotation: Rotation::default(),
            stdout: false,
            otlp: None,
        }
    }
}
