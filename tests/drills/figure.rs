//! What a drill is asked for, and the line that it ends with.

use std::io::IsTerminal;
use std::path::PathBuf;

/// One call of a drill.
pub struct Plan {
    pub name: String,
    /// At the size that an issue asks for, not the smallest.
    pub full: bool,
    /// The `relay` to drive.
    pub relay: PathBuf,
    /// The same with scrubbing off, for the drill that proves its own hunt.
    pub leaky: Option<PathBuf>,
    pub commit: String,
}

/// What came out.
pub struct Figure {
    pub n: u64,
    /// `name=value` pairs with spaces between them.
    pub result: String,
    /// Whether the promise held.
    pub kept: bool,
}

impl Figure {
    pub fn broken() -> Self {
        Self { n: 0, result: "broken".to_owned(), kept: false }
    }
}

impl Plan {
    /// `NAME --relay FILE [--leaky FILE] [--commit HASH] [--full]`
    pub fn of(arguments: &[String]) -> Option<Self> {
        let behind = |flag: &str| {
            let at = arguments.iter().position(|argument| argument == flag)?;
            arguments.get(at + 1).cloned()
        };
        Some(Self {
            name: arguments.first()?.clone(),
            full: arguments.iter().any(|argument| argument == "--full"),
            relay: behind("--relay")?.into(),
            leaky: behind("--leaky").map(PathBuf::from),
            commit: behind("--commit").unwrap_or_else(|| "unknown".to_owned()),
        })
    }

    /// `small`, or `full` if that was asked for.
    pub fn size(&self, small: u64, full: u64) -> u64 {
        if self.full { full } else { small }
    }

    /// Progress, for whoever watches.
    pub fn say(&self, words: &str) {
        if std::io::stderr().is_terminal() {
            eprintln!("{}: {words}", self.name);
        }
    }
}
