//! How far an export or an import is: a bar on a terminal, nothing elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often it is drawn.
const DRAWN_EVERY: Duration = Duration::from_millis(100);

/// A bar, where somebody can see it.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    drawn: Instant,
}

impl Progress {
    /// Of `size` bytes, if that is known.
    pub(super) fn of(size: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| match size {
            Some(size) => styled(ProgressBar::new(size), "{msg} [{wide_bar}] {bytes}/{total_bytes} {eta}"),
            None => styled(ProgressBar::new_spinner(), "{msg} {bytes} {bytes_per_sec}"),
        });
        Self { bar, drawn: Instant::now() }
    }

    /// `words` say what is under way.
    pub(super) fn show(&mut self, bytes: u64, words: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar
            && self.drawn.elapsed() >= DRAWN_EVERY
        {
            self.drawn = Instant::now();
            bar.set_message(words());
            bar.set_position(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
