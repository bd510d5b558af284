//! What is wrong with a configuration, all of it at once, each with its place and its fix.
//!
//! A report keeps the text it is about only with everything masked that could be a secret, so that it can
//! be printed, logged and sent anywhere. Deterministic: the same text gives the same report.

use std::fmt::{self, Write as _};
use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource};
use serde::Serialize;

/// Findings beyond this many are dropped: nobody reads them, and a hostile text could ask for millions.
const MOST: usize = 200;

/// A source line longer than this many bytes is not quoted.
const QUOTED: usize = 240;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// relay does not start.
    Error,
    /// relay starts; somebody should look.
    Warning,
}

/// Where a finding is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Of the file as a whole.
    File,
    /// These bytes of the file.
    Bytes(Range<usize>),
    /// The value of this variable of the environment.
    Variable(String),
}

/// One thing that is wrong, or looks it. Serializes as the machine form of `--format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, or the name of the variable that the value came from.
    pub file: String,
    /// The line, from 1; `None` where the finding is of the whole file or a variable.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong. Never a value of a secret.
    pub message: String,
    /// What to do about it.
    pub fix: Option<String>,
    #[serde(skip)]
    bytes: Option<Range<usize>>,
}

/// Every finding on one configuration, in the order of the file; findings without a line come last.
#[derive(Debug, Clone)]
pub struct Report {
    name: String,
    masked: String,
    findings: Vec<Finding>,
}

impl Report {
    /// Every finding.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    /// The report as text for people: `color` gives the drawn form for a terminal, else the plain one.
    pub fn render(&self, color: bool) -> String {
        if !color {
            return self.to_string();
        }
        let painter = GraphicalReportHandler::new_themed(GraphicalTheme::unicode()).with_context_lines(0);
        let mut text = String::new();
        for finding in &self.findings {
            // Writing to a String cannot fail; a finding that miette cannot draw is still said plainly.
            if painter.render_report(&mut text, self.drawn(finding).as_ref()).is_err() {
                let _ = writeln!(text, "{}: {}", finding.file, finding.message);
            }
        }
        text
    }

    fn drawn(&self, finding: &Finding) -> miette::Report {
        let mut drawn =
            MietteDiagnostic::new(finding.message.clone()).with_severity(match finding.severity {
                Severity::Error => miette::Severity::Error,
                Severity::Warning => miette::Severity::Warning,
            });
        if let Some(fix) = &finding.fix {
            drawn = drawn.with_help(fix.clone());
        }
        match &finding.bytes {
            Some(bytes) if self.line_of(bytes.start).is_some() => {
                drawn = drawn.with_label(LabeledSpan::at(self.on_one_line(bytes), "here"));
                miette::Report::from(drawn)
                    .with_source_code(NamedSource::new(&self.name, self.masked.clone()))
            }
            _ => {
                drawn.message = format!("{}: {}", finding.file, drawn.message);
                miette::Report::from(drawn)
            }
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// The line that byte `at` stands in, if it is short enough to be quoted, and where it begins.
    fn line_of(&self, at: usize) -> Option<(usize, &str)> {
        let begin = self.masked.get(..at)?.rfind('\n').map_or(0, |n| n + 1);
        let line = self.masked.get(begin..)?.split('\n').next()?;
        (line.len() <= QUOTED).then(|| (begin, line.trim_end_matches('\r')))
    }

    /// `bytes` cut to the line they begin in, and at least one byte long if the line has one.
    fn on_one_line(&self, bytes: &Range<usize>) -> Range<usize> {
        let Some((begin, line)) = self.line_of(bytes.start) else { return bytes.clone() };
        let end = bytes.end.min(begin + line.len()).max(bytes.start);
        bytes.start..end
    }

    fn quote(&self, f: &mut fmt::Formatter<'_>, number: usize, bytes: &Range<usize>) -> fmt::Result {
        let Some((begin, line)) = self.line_of(bytes.start) else { return Ok(()) };
        let marked = self.on_one_line(bytes);
        let before = line.get(..marked.start.saturating_sub(begin)).unwrap_or(line);
        let under = self.masked.get(marked).unwrap_or_default();
        let indent: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        writeln!(f, "{number:>5} | {line}")?;
        writeln!(f, "      | {indent}{}", "^".repeat(under.chars().count().max(1)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            write!(f, "{}:", finding.file)?;
            if let (Some(line), Some(column)) = (finding.line, finding.column) {
                write!(f, "{line}:{column}:")?;
            }
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            writeln!(f, " {severity}: {}", finding.message)?;
            if let (Some(line), Some(bytes)) = (finding.line, &finding.bytes) {
                self.quote(f, line, bytes)?;
            }
            if let Some(fix) = &finding.fix {
                writeln!(f, "  fix: {fix}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// A report under way: findings and what to mask, in any order.
#[derive(Default)]
pub(super) struct Findings {
    found: Vec<(Severity, Place, String, Option<String>)>,
    masks: Vec<Range<usize>>,
    lent: Vec<Lent>,
    end: usize,
}

/// A catalogue entry that is read as if it stood behind the text.
struct Lent {
    bytes: Range<usize>,
    entry: &'static str,
    text: &'static str,
    place: Place,
}

impl Lent {
    /// ` (from catalog:slack: "https://slack.com/api")`; what the catalogue says is no secret.
    fn said(&self, bytes: &Range<usize>) -> String {
        let inside = bytes.start.saturating_sub(self.bytes.start)..bytes.end.saturating_sub(self.bytes.start);
        let quoted = self.text.get(inside).filter(|text| text.len() <= 80 && !text.contains('\n'));
        format!(
            " (from catalog:{}{}{})",
            self.entry,
            if quoted.is_some() { ": " } else { "" },
            quoted.unwrap_or_default()
        )
    }
}

impl Findings {
    /// On a text of so many bytes.
    pub(super) fn on(text: &str) -> Self {
        Self { end: text.len(), ..Self::default() }
    }

    /// Numbers the bytes of a catalogue entry behind everything so far, and returns the first. What is found
    /// in them is told at `place`, where the entry is used.
    pub(super) fn lend(&mut self, entry: &'static str, text: &'static str, place: &Place) -> usize {
        let base = self.end + 1;
        self.end = base + text.len();
        self.lent.push(Lent { bytes: base..self.end, entry, text, place: place.clone() });
        base
    }

    /// The catalogue entry in which byte `at` stands, if it does not stand in the text.
    pub(super) fn entry_at(&self, at: usize) -> Option<&'static str> {
        self.lent.iter().find(|lent| lent.bytes.contains(&at)).map(|lent| lent.entry)
    }

    /// Notes an error.
    pub(super) fn error(&mut self, place: &Place, message: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Error, place, message.into(), fix.into());
    }

    /// Notes a warning.
    pub(super) fn warning(&mut self, place: &Place, message: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Warning, place, message.into(), fix.into());
    }

    fn push(&mut self, severity: Severity, place: &Place, mut message: String, fix: String) {
        let fix = Some(fix).filter(|f| !f.is_empty());
        let mut place = place.clone();
        if let Place::Bytes(bytes) = &place
            && let Some(lent) = self.lent.iter().find(|lent| lent.bytes.contains(&bytes.start))
        {
            message.push_str(&lent.said(bytes));
            place = lent.place.clone();
        }
        if self.found.len() < MOST {
            self.found.push((severity, place, message, fix));
        } else if severity == Severity::Error && !self.has_errors() {
            // Dropped warnings lose nothing; a dropped first error would let a wrong file pass.
            self.found.pop();
            self.found.push((severity, place, message, fix));
        }
    }

    /// Never to be quoted.
    pub(super) fn mask(&mut self, bytes: Range<usize>) {
        self.masks.push(bytes);
    }

    /// Whether any finding is an error.
    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|(severity, ..)| *severity == Severity::Error)
    }

    /// The report on `text`, which people know as `name`.
    pub(super) fn report(self, name: &str, text: &str) -> Report {
        let lines: Vec<usize> = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1))
            .collect();
        let mut findings: Vec<Finding> = self
            .found
            .into_iter()
            .map(|(severity, place, message, fix)| {
                let mut finding = Finding {
                    file: name.to_owned(),
                    line: None,
                    column: None,
                    severity,
                    message,
                    fix,
                    bytes: None,
                };
                match place {
                    Place::File => {}
                    Place::Variable(variable) => finding.file = variable,
                    Place::Bytes(bytes) => {
                        let (line, column) = position(text, &lines, bytes.start);
                        finding.line = Some(line);
                        finding.column = Some(column);
                        finding.bytes = Some(bytes);
                    }
                }
                finding
            })
            .collect();
        findings.sort_by_key(|f| f.bytes.as_ref().map_or(usize::MAX, |b| b.start));
        Report { name: name.to_owned(), masked: masked(text, self.masks), findings }
    }
}

fn position(text: &str, lines: &[usize], at: usize) -> (usize, usize) {
    let line = lines.partition_point(|begin| *begin <= at);
    let begin = line.checked_sub(1).and_then(|index| lines.get(index)).copied().unwrap_or_default();
    let before = text.get(begin..at).unwrap_or_default();
    (line.max(1), before.trim_start_matches('\u{feff}').chars().count() + 1)
}

/// `text` of the same length in bytes, with `*` for what is masked and `?` for control characters, which a
/// terminal would obey.
fn masked(text: &str, masks: Vec<Range<usize>>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for mask in masks {
        for byte in bytes.get_mut(mask).unwrap_or_default() {
            if *byte != b'\n' && *byte != b'\r' {
                *byte = b'*';
            }
        }
    }
    let mut before_newline = false;
    for byte in bytes.iter_mut().rev() {
        let control = byte.is_ascii_control() && !matches!(*byte, b'\n' | b'\t');
        let line_end = *byte == b'\r' && before_newline;
        before_newline = *byte == b'\n';
        if control && !line_end {
            *byte = b'?';
        }
    }
    // A mask that cuts a character in two leaves no valid text; then nothing is quoted.
    String::from_utf8(bytes).unwrap_or_default()
}
