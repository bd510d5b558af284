//! `relay audit export`: a customer's own access history, as lines of JSON or as a table.

use std::io::{self, Write};

use crate::audit::history::{Access, Asked, history};
use crate::audit::several::Found;

/// How it is written.
#[derive(Debug, Clone, Copy)]
pub struct Export {
    /// Comma-separated values (RFC 4180) instead of JSON lines.
    pub csv: bool,
}

/// The columns of the table, in their order.
const COLUMNS: [&str; 18] = [
    "time",
    "kind",
    "end",
    "request_id",
    "integration",
    "secret",
    "version",
    "method",
    "path",
    "origin",
    "status",
    "code",
    "iss",
    "sub",
    "jti",
    "bytes_in",
    "bytes_out",
    "ms",
];

impl Export {
    /// What stands before the first line.
    ///
    /// # Errors
    /// If `out` takes no more.
    pub fn begin(self, out: &mut dyn Write) -> io::Result<()> {
        if self.csv { write!(out, "{}\r\n", COLUMNS.join(",")) } else { Ok(()) }
    }

    fn line(self, access: &Access, out: &mut dyn Write) -> io::Result<()> {
        let object = serde_json::to_value(access)?;
        if !self.csv {
            return writeln!(out, "{object}");
        }
        let cell = |name: &&str| match object.get(*name) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) => quoted(text),
            Some(other) => other.to_string(),
        };
        let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
        write!(out, "{}\r\n", cells.join(","))
    }
}

/// Writes the history out of `files`.
///
/// # Errors
/// If a file cannot be read, or `out` takes no more.
pub fn export(how: Export, files: Vec<Found>, asked: &Asked, out: &mut dyn Write) -> io::Result<()> {
    how.begin(out)?;
    history(files, asked, &mut |access| how.line(access, out))?;
    out.flush()
}

/// Passes on what a running relay sends: `rest` is what is left of a line.
///
/// # Errors
/// If a line is not one, or `out` takes no more.
pub fn pass(how: Export, rest: &mut Vec<u8>, piece: &[u8], out: &mut dyn Write) -> io::Result<()> {
    if !how.csv {
        return out.write_all(piece);
    }
    rest.extend_from_slice(piece);
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line: Vec<u8> = rest.drain(..=end).collect();
        how.line(&serde_json::from_slice::<Access>(&line)?, out)?;
    }
    Ok(())
}

/// A cell that no spreadsheet takes for a formula, and that ends where it ends.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n', '\'']) || formula {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}
