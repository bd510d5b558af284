//! Everything that relay logs in this process, at TRACE, kept for the hunt.

use std::io;
use std::sync::{Mutex, Once};

use tracing_subscriber::fmt::MakeWriter;

static KEPT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static ONCE: Once = Once::new();

#[derive(Clone, Copy)]
struct Keep;

impl io::Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        KEPT.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Keep {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

/// From now on relay's logs are kept, once per process.
pub fn capture() {
    ONCE.call_once(|| {
        let filter = tracing_subscriber::EnvFilter::new("info,relay=trace");
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(Keep).with_ansi(false).init();
    });
}

/// What was logged so far.
pub fn captured() -> Vec<u8> {
    KEPT.lock().unwrap().clone()
}
