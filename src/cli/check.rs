//! `relay check [FILE]`: judges a configuration's text and says everything that is wrong with it.
//!
//! Only the text is judged: missing files and variables are warnings, so that a file can be checked where
//! it does not run. Nothing is started and nothing is written.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::config::{self, Files, Finding};

/// How to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines of text, the same each time.
    Plain,
    /// Drawn, for a terminal.
    Fancy,
    /// One JSON object on stdout.
    Json,
}

/// The JSON object of `relay check --format json`.
#[derive(Serialize)]
struct Judgement<'a> {
    file: String,
    valid: bool,
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

/// Checks `file`. Findings go to `err`, the verdict (or the JSON object) to `out`. The exit code: 0 valid,
/// 3 invalid, 1 if the verdict could not be written.
pub fn run(
    file: &Path,
    format: Format,
    environment: &[(String, String)],
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let (_, report) = config::examine_file(file, environment, Files::Optional);
    let valid = report.errors() == 0;
    let said = match format {
        Format::Json => say_json(file, &report, out),
        Format::Plain | Format::Fancy => say(file, &report, format == Format::Fancy, out, err),
    };
    match said {
        Err(_) => 1,
        Ok(()) if valid => 0,
        Ok(()) => 3,
    }
}

fn say(
    file: &Path,
    report: &config::Report,
    fancy: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    write!(err, "{}", report.render(fancy))?;
    let verdict = if report.errors() == 0 { "valid" } else { "invalid" };
    let (errors, warnings) = (report.errors(), report.warnings());
    writeln!(out, "{}: {verdict}, errors: {errors}, warnings: {warnings}", file.display())
}

fn say_json(file: &Path, report: &config::Report, out: &mut dyn Write) -> io::Result<()> {
    let judgement = Judgement {
        file: file.display().to_string(),
        valid: report.errors() == 0,
        errors: report.errors(),
        warnings: report.warnings(),
        findings: report.findings(),
    };
    serde_json::to_writer(&mut *out, &judgement)?;
    writeln!(out)
}
