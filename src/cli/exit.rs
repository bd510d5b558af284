//! How a command ends: its exit code, and the words for the person at the terminal.
//!
//! Scripts rely on the codes (DESIGN, "Command line"), so they are an enum and not numbers strewn about.
//! What must never enter the words: a token, a key, a value of a secret.

use std::fmt;

/// The exit codes of every `relay` command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// It was asked for something that it does not do.
    Usage = 2,
    /// The configuration is not valid.
    ConfigInvalid = 3,
    /// No relay answers.
    Unreachable = 4,
    /// Denied, or there is no such thing.
    Denied = 5,
}

/// Why a command did not end well.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What to tell the person, without a value of a secret.
    pub words: String,
}

impl Failure {
    /// A failure with its code and words.
    pub fn new(exit: Exit, words: impl Into<String>) -> Self {
        Self { exit, words: words.into() }
    }

    /// [`Exit::Failed`] with the cause alone.
    pub fn failed(cause: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, cause.to_string())
    }

    /// [`Exit::Failed`], saying what could not be done and why.
    pub fn because(what: &str, cause: &dyn fmt::Display) -> Self {
        Self::new(Exit::Failed, format!("{what}: {cause}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Failure {}
