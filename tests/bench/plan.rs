//! What was asked for.

use std::io::IsTerminal;
use std::path::PathBuf;

/// The names of the cases, in the order in which they run.
pub const CASES: [&str; 8] = ["get1k", "get64k", "post16k", "get10m", "many", "synced", "rate", "before"];

/// The core of whatever is measured.
pub const PROXY_CPU: &str = "0";
/// The core of the load tool and of the vendor.
pub const OTHER_CPU: &str = "1";

pub struct Plan {
    /// One short round of each: proves that everything works, says nothing about speed.
    pub small: bool,
    pub cases: Vec<String>,
    pub relay: PathBuf,
    pub bare: PathBuf,
    pub envoy: PathBuf,
    /// An earlier relay, for the case of that name.
    pub before: Option<PathBuf>,
    pub commit: String,
}

impl Plan {
    /// `--relay FILE --bare FILE --envoy FILE [--before FILE] [--commit HASH] [--small] [CASE...]`
    pub fn of(arguments: &[String]) -> Option<Self> {
        let (mut relay, mut bare, mut envoy, mut commit) = (None, None, None, None);
        let mut before = None;
        let (mut small, mut asked) = (false, Vec::new());
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--small" => small = true,
                "--relay" => relay = Some(PathBuf::from(words.next()?)),
                "--bare" => bare = Some(PathBuf::from(words.next()?)),
                "--envoy" => envoy = Some(PathBuf::from(words.next()?)),
                "--before" => before = Some(PathBuf::from(words.next()?)),
                "--commit" => commit = Some(words.next()?.clone()),
                case if CASES.contains(&case) => asked.push(case.to_owned()),
                _ => return None,
            }
        }
        let unasked = |name: &str| name != "before" || before.is_some();
        let wanted = |name: &&str| match asked.is_empty() {
            true => unasked(name),
            false => asked.iter().any(|one| one == name),
        };
        let cases = CASES.iter().filter(|name| wanted(name)).map(|name| (*name).to_owned()).collect();
        let commit = commit.unwrap_or_else(|| "unknown".to_owned());
        Some(Self { small, cases, relay: relay?, bare: bare?, envoy: envoy?, before, commit })
    }

    pub fn rounds(&self) -> usize {
        if self.small { 1 } else { 5 }
    }

    /// Of one round of one contender.
    pub fn seconds(&self) -> u64 {
        if self.small { 1 } else { 5 }
    }

    /// Progress, for whoever watches.
    pub fn say(&self, words: &str) {
        if std::io::stderr().is_terminal() {
            eprintln!("bench: {words}");
        }
    }
}
