//! `relay check [FILE]`: judges a configuration's text and says everything that is wrong with it; with
//! `--effective` what holds in the end, and where each value comes from.
//!
//! Only the text is judged: missing files and variables are warnings, so that a file can be checked where
//! it does not run. Nothing is started and nothing is written.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::config::{self, Files, Finding, Setting};

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
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<&'a [Setting]>,
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
    let said = match format {
        Format::Json => say_json(file, &report, None, out),
        Format::Plain | Format::Fancy => say(file, &report, format == Format::Fancy, out, err),
    };
    code(&report, &said)
}

/// As [`run`], but a valid configuration is printed as it holds in the end, each value with where it comes
/// from. What is a secret is printed only as the file or the variable that holds it.
pub fn effective(
    file: &Path,
    format: Format,
    environment: &[(String, String)],
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let (settings, report) = config::effective_file(file, environment);
    let said = match format {
        Format::Json => say_json(file, &report, Some(&settings), out),
        _ if report.errors() > 0 => say(file, &report, format == Format::Fancy, out, err),
        _ => write!(err, "{}", report.render(format == Format::Fancy))
            .and_then(|()| write!(out, "{}", config::effective::shown(&settings))),
    };
    code(&report, &said)
}

fn code(report: &config::Report, said: &io::Result<()>) -> u8 {
    match said {
        Err(_) => 1,
        Ok(()) if report.errors() == 0 => 0,
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

fn say_json(
    file: &Path,
    report: &config::Report,
    settings: Option<&[Setting]>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let judgement = Judgement {
        file: file.display().to_string(),
        valid: report.errors() == 0,
        errors: report.errors(),
        warnings: report.warnings(),
        findings: report.findings(),
        settings,
    };
    serde_json::to_writer(&mut *out, &judgement)?;
    writeln!(out)
}
