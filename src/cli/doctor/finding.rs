//! What was found, and how it is said.
//!
//! What must never enter: a value of a secret.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::token::harmless;

/// How one part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// As it must be.
    Ok,
    /// It works, and is worth a look.
    Warn,
    /// relay does not work this way.
    Fail,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    fix: Option<String>,
}

/// All that was found, in the order it was looked at.
#[derive(Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Ok, found: found.into(), fix: None });
    }

    pub(super) fn warn(&mut self, check: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Warn, found: found.into(), fix: Some(fix.into()) });
    }

    pub(super) fn fail(&mut self, check: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Fail, found: found.into(), fix: Some(fix.into()) });
    }

    pub(super) fn worst(&self) -> Verdict {
        self.0.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
    }

    pub(super) fn to_json(&self) -> Vec<Value> {
        let one = |finding: &Finding| {
            json!({
                "check": finding.check,
                "verdict": finding.verdict.as_str().to_ascii_lowercase(),
                "found": finding.found,
                "fix": finding.fix,
            })
        };
        self.0.iter().map(one).collect()
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        for finding in &self.0 {
            let verdict = finding.verdict.as_str();
            let _ = writeln!(text, "{verdict:<4}  {:<14} {}", finding.check, harmless(&finding.found));
            if let Some(fix) = &finding.fix {
                let _ = writeln!(text, "      {:<14} -> {}", "", harmless(fix));
            }
        }
        let count = |verdict| self.0.iter().filter(|finding| finding.verdict == verdict).count();
        let (good, odd, bad) = (count(Verdict::Ok), count(Verdict::Warn), count(Verdict::Fail));
        let _ = writeln!(text, "{good} OK, {odd} WARN, {bad} FAIL");
        text
    }
}
