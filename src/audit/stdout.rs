//! The audit on standard output, for collectors of logs. relay itself says nothing else there.

use std::io::{self, Write as _};

use super::lane::Outlet;

/// Standard output, line by line.
#[derive(Default)]
pub(super) struct Stdout {
    /// Whether an error may have left half a line behind.
    torn: bool,
}

impl Outlet for Stdout {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.torn {
            out.write_all(b"\n")?;
        }
        self.torn = true;
        out.write_all(bytes)?;
        out.flush()?;
        self.torn = false;
        Ok(())
    }
}
