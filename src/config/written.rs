//! What was typed: typed readers over the parsed text that note what is wrong and go on.
//!
//! serde stops at its first error, so the document is walked by hand. A reader that answers `None` has
//! either found nothing there or has already reported why; nobody reports it twice. What must never
//! enter: a meaning of any key (that is the sections' business), a value in a message.

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Files;
use super::environment::{self, Overrides};
use super::keys::{self, Kind};
use super::report::{Findings, Place};

/// A value and where it was written.
pub(super) struct Given<T> {
    /// The value.
    pub(super) value: T,
    /// Where it stands.
    pub(super) place: Place,
}

impl<T> Given<T> {
    /// The same place with what `make` makes of the value.
    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Given<U> {
        Given { value: make(self.value), place: self.place }
    }
}

/// One table of the document, or the place where it would be.
pub(super) struct Table<'d> {
    /// How to name it to people: `[integrations.slack]`.
    pub(super) shown: String,
    /// Its header.
    pub(super) place: Place,
    path: String,
    pattern: &'static str,
    entries: Option<&'d DeTable<'d>>,
}

impl<'d> Table<'d> {
    /// Whether it stands in the text.
    pub(super) const fn exists(&self) -> bool {
        self.entries.is_some()
    }

    /// Whether `key` stands there under a wrong name, which is reported as that.
    pub(super) fn misspells(&self, key: &str) -> bool {
        let unknown = |name: &&Spanned<_>| keys::kind(self.pattern, name_of(name)).is_none();
        let mut names = self.entries.into_iter().flat_map(|entries| entries.keys()).filter(unknown);
        names.any(|name| keys::near(self.pattern, name_of(name)) == Some(key))
    }

    /// The entry under `key`.
    pub(super) fn entry(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.entries?.get(key)
    }

    /// Where `key` is written, else the table's header.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let entry = self.entries.and_then(|entries| entries.get_key_value(key));
        entry.map_or_else(|| self.place.clone(), |(key, _)| Place::Bytes(key.span()))
    }

    /// Its entries in the order of the text: name, where the name stands, value.
    pub(super) fn in_order(&self) -> Vec<(&'d str, Place, &'d Spanned<DeValue<'d>>)> {
        let mut all: Vec<_> = self.entries.into_iter().flatten().collect();
        all.sort_by_key(|(key, _)| key.span().start);
        all.into_iter()
            .map(|(key, value)| (key.get_ref().as_ref(), Place::Bytes(key.span()), value))
            .collect()
    }
}

/// The text, what surrounds it, and what was found wrong so far.
pub(super) struct Written<'a> {
    /// What was found wrong so far.
    pub(super) findings: Findings,
    /// The overrides from the environment.
    pub(super) overrides: Overrides,
    /// Whether the text is no valid TOML, so that what seems missing may only be unread.
    pub(super) torn: bool,
    /// The integrations whose `use` means nothing, so that what they seem to lack may be the entry's.
    pub(super) unsettled: Vec<String>,
    /// Whether a value stands outside the text and could not be had, under [`Files::Optional`].
    pub(super) incomplete: bool,
    pub(super) folder: &'a Path,
    pub(super) files: Files,
    pub(super) environment: &'a [(String, String)],
}

impl<'a> Written<'a> {
    /// The whole document.
    pub(super) fn root<'d>(&mut self, document: &'d DeTable<'d>) -> Table<'d> {
        let root = Table {
            shown: "relay.toml".to_owned(),
            place: Place::File,
            path: String::new(),
            pattern: "",
            entries: Some(document),
        };
        self.refuse_unknown(&root);
        root
    }

    /// The table `key` of `parent`, whose shape is `pattern` (as in [`keys::SHAPES`]).
    pub(super) fn child<'d>(&mut self, parent: &Table<'d>, key: &str, pattern: &'static str) -> Table<'d> {
        let path = if parent.path.is_empty() { key.to_owned() } else { format!("{}.{key}", parent.path) };
        let shown = format!("[{}]", plain(&path));
        let place = parent.place_of(key);
        let entries = parent.entry(key).and_then(|value| match value.get_ref() {
            DeValue::Table(entries) => Some(entries),
            other => {
                mask_all(&mut self.findings, value);
                let message = format!("{shown} is a table, not {}", article(other));
                self.findings.error(&place, message, format!("write {shown} on a line of its own"));
                None
            }
        });
        let table = Table { shown, place, path, pattern, entries };
        self.refuse_unknown(&table);
        table
    }

    /// A table inside a list, which has no name of its own; `fix` says how one is written.
    pub(super) fn member<'d>(
        &mut self,
        shown: String,
        pattern: &'static str,
        value: &'d Spanned<DeValue<'d>>,
        fix: &str,
    ) -> Option<Table<'d>> {
        let place = Place::Bytes(value.span());
        let DeValue::Table(entries) = value.get_ref() else {
            mask_all(&mut self.findings, value);
            let message = format!("{shown} is a list of tables; this is {}", article(value.get_ref()));
            self.findings.error(&place, message, fix);
            return None;
        };
        // `[]` is in no variable's name, so nothing overrides a member of a list.
        let table = Table { shown, place, path: "[]".to_owned(), pattern, entries: Some(entries) };
        self.refuse_unknown(&table);
        Some(table)
    }

    /// The text under `key`, fetched if it is `env:` or `file:`.
    pub(super) fn text(&mut self, table: &Table<'_>, key: &str) -> Option<Given<String>> {
        self.scalar(table, key, "a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    /// As [`Written::text`]; its absence or emptiness is an error, mended by `fix`.
    pub(super) fn needed_text(&mut self, table: &Table<'_>, key: &str, fix: &str) -> Option<Given<String>> {
        if self.absent(table, key) {
            self.missing(table, key, fix);
            return None;
        }
        let given = self.text(table, key)?;
        if given.value.trim().is_empty() {
            self.findings.error(&given.place, format!("{} {key} is empty", table.shown), fix);
            return None;
        }
        Some(given)
    }

    /// The whole number under `key`, or `default`.
    pub(super) fn whole(
        &mut self,
        table: &Table<'_>,
        key: &str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        self.whole_if_given(table, key, range).unwrap_or(default)
    }

    /// The whole number under `key`.
    pub(super) fn whole_if_given(
        &mut self,
        table: &Table<'_>,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let digits = self.scalar(table, key, "a whole number without quotes", |value| {
            let whole = value.as_integer()?;
            let number = i128::from_str_radix(whole.as_str(), whole.radix()).ok();
            Some(number.map_or_else(|| "none".to_owned(), |n| n.to_string()))
        })?;
        match digits.value.trim().parse::<u64>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let (least, most) = (range.start(), range.end());
                let message = format!("{} {key} must be a whole number from {least} to {most}", table.shown);
                self.findings.error(&digits.place, message, format!("write a number from {least} to {most}"));
                None
            }
        }
    }

    /// The switch under `key`; off unless given.
    pub(super) fn switch(&mut self, table: &Table<'_>, key: &str) -> Option<Given<bool>> {
        let word = self.scalar(table, key, "true or false without quotes", |value| {
            value.as_bool().map(|on| on.to_string())
        })?;
        match word.value.trim() {
            "true" => Some(Given { value: true, place: word.place }),
            "false" => Some(Given { value: false, place: word.place }),
            _ => {
                let message = format!("{} {key} must be true or false", table.shown);
                self.findings.error(&word.place, message, "write true or false");
                None
            }
        }
    }

    /// The duration under `key`, or `default`.
    pub(super) fn duration(
        &mut self,
        table: &Table<'_>,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let wanted = "a duration in quotes, such as \"3s\", \"5m\", \"24h\" or \"500ms\"";
        let given = self.scalar(table, key, wanted, |value| value.as_str().map(str::to_owned));
        let Some(given) = given else { return default };
        let (least, most) =
            (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        match humantime::parse_duration(given.value.trim()) {
            Ok(duration) if range.contains(&duration) => return duration,
            Ok(_) => {
                let message = format!("{} {key} must be from {least} to {most}", table.shown);
                self.findings.error(
                    &given.place,
                    message,
                    format!("write a duration from {least} to {most}"),
                );
            }
            Err(_) => {
                let message = format!("{} {key} is no duration", table.shown);
                self.findings.error(&given.place, message, "write a number and its unit: 500ms, 3s, 5m, 24h");
            }
        }
        default
    }

    /// One of the words of `choices` under `key`. `later` are words that relay will know, but does not yet.
    pub(super) fn choice<T: Copy>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        choices: &[(&str, T)],
        later: &[&str],
    ) -> Option<T> {
        let given = self.text(table, key)?;
        if let Some((_, chosen)) = choices.iter().find(|(word, _)| *word == given.value) {
            return Some(*chosen);
        }
        let there: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let there = there.join(" or ");
        let message = match later.iter().find(|word| **word == given.value) {
            Some(word) => format!("{} {key} \"{word}\" is not built into relay yet", table.shown),
            None => format!("{} {key} is not one of those that relay has", table.shown),
        };
        self.findings.error(&given.place, message, format!("write {there}"));
        None
    }

    /// The texts of the list under `key`; `None` if there is no list.
    pub(super) fn texts(&mut self, table: &Table<'_>, key: &str) -> Option<Given<Vec<Given<String>>>> {
        let place = table.place_of(key);
        let members = self.list(table, key)?;
        let mut texts = Vec::new();
        for member in members {
            match member.get_ref() {
                DeValue::String(text) => {
                    texts.push(Given { value: text.to_string(), place: Place::Bytes(member.span()) });
                }
                other => {
                    let message =
                        format!("{} {key} is a list of texts; this is {}", table.shown, article(other));
                    self.findings.error(&Place::Bytes(member.span()), message, "put it in quotes");
                }
            }
        }
        Some(Given { value: texts, place })
    }

    /// The members of the list under `key`; `None` if there is no list.
    pub(super) fn list<'d>(&mut self, table: &Table<'d>, key: &str) -> Option<Vec<&'d Spanned<DeValue<'d>>>> {
        let value = table.entry(key)?;
        if let DeValue::Array(members) = value.get_ref() {
            return Some(members.iter().collect());
        }
        mask_all(&mut self.findings, value);
        let message = format!("{} {key} is a list, not {}", table.shown, article(value.get_ref()));
        self.findings.error(&Place::Bytes(value.span()), message, format!("write {key} = [...]"));
        None
    }

    /// Reports that `key` is not there, at the table's header. Quiet where the text could not be read.
    pub(super) fn missing(&mut self, table: &Table<'_>, key: &str, fix: &str) {
        let unsettled = table
            .path
            .strip_prefix("integrations.")
            .is_some_and(|name| self.unsettled.iter().any(|n| n == name));
        if !self.torn && !unsettled && table.exists() && !table.misspells(key) {
            self.findings.error(&table.place, format!("{} has no {key}", table.shown), fix);
        }
    }

    /// Whether `key` is set neither in the text nor by a variable.
    pub(super) fn absent(&mut self, table: &Table<'_>, key: &str) -> bool {
        table.entry(key).is_none() && self.overrides.take(&format!("{}.{key}", table.path)).is_none()
    }

    /// `bytes` of the text are never quoted.
    pub(super) fn mask(&mut self, place: &Place) {
        if let Place::Bytes(bytes) = place {
            self.findings.mask(bytes.clone());
        }
    }

    /// The scalar under `key` as text: a variable's value, what `literal` makes of the typed value, or what
    /// `env:` and `file:` lead to.
    pub(super) fn scalar(
        &mut self,
        table: &Table<'_>,
        key: &str,
        wanted: &str,
        literal: impl FnOnce(&DeValue<'_>) -> Option<String>,
    ) -> Option<Given<String>> {
        let name = format!("{} {key}", table.shown);
        let given = match self.overrides.take(&format!("{}.{key}", table.path)) {
            Some((variable, value)) => Given { value, place: Place::Variable(variable) },
            None => {
                let value = table.entry(key)?;
                let place = Place::Bytes(value.span());
                let fetched = value.as_ref().as_str().filter(|text| environment::source(text).is_some());
                match fetched.map(str::to_owned).or_else(|| literal(value.get_ref())) {
                    Some(text) => Given { value: text, place },
                    None => {
                        mask_compound(&mut self.findings, value);
                        let message = format!("{name} must be {wanted}, not {}", article(value.get_ref()));
                        self.findings.error(&place, message, format!("write {wanted}"));
                        return None;
                    }
                }
            }
        };
        self.fetched(given, &name)
    }

    /// The text under `key` as typed, before `env:` and `file:` are followed.
    pub(super) fn raw(&mut self, table: &Table<'_>, key: &str) -> Option<Given<String>> {
        if let Some((variable, value)) = self.overrides.take(&format!("{}.{key}", table.path)) {
            return Some(Given { value, place: Place::Variable(variable) });
        }
        let value = table.entry(key)?;
        let place = Place::Bytes(value.span());
        if let DeValue::String(text) = value.get_ref() {
            return Some(Given { value: text.to_string(), place });
        }
        mask_all(&mut self.findings, value);
        let message =
            format!("{} {key} must be a text in quotes, not {}", table.shown, article(value.get_ref()));
        self.findings.error(&place, message, "put it in quotes");
        None
    }

    fn refuse_unknown(&mut self, table: &Table<'_>) {
        let Some(shape) = keys::shape(table.pattern) else { return };
        for (key, place, value) in table.in_order() {
            match keys::kind(table.pattern, key) {
                Some(Kind::Secret) => mask_all(&mut self.findings, value),
                Some(Kind::Scalar | Kind::Compound) => {}
                // People choose the names here.
                None if shape.keys.is_empty() => {}
                // A key without a byte is what the parser makes of a broken line, which is told of already.
                None if key.is_empty() && matches!(&place, Place::Bytes(span) if span.is_empty()) => {}
                None => {
                    mask_all(&mut self.findings, value);
                    let (end, fix) = keys::meant(table.pattern, key);
                    let message = format!("unknown key {key:?} in {}{end}", table.shown);
                    self.findings.error(&place, message, fix);
                }
            }
        }
    }
}

fn name_of<'k>(name: &'k Spanned<toml::de::DeString<'_>>) -> &'k str {
    name.get_ref()
}

/// What kind of value it is, with its article.
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Masks every value below `value`, but where a value is only the name of a place.
pub(super) fn mask_all(findings: &mut Findings, value: &Spanned<DeValue<'_>>) {
    let span: Range<usize> = value.span();
    match value.get_ref() {
        DeValue::Array(members) => members.iter().for_each(|member| mask_all(findings, member)),
        DeValue::Table(entries) => entries.iter().for_each(|(_, value)| mask_all(findings, value)),
        DeValue::String(text) if environment::source(text).is_some() => {}
        _ => findings.mask(span),
    }
}

fn mask_compound(findings: &mut Findings, value: &Spanned<DeValue<'_>>) {
    if matches!(value.get_ref(), DeValue::Array(_) | DeValue::Table(_)) {
        mask_all(findings, value);
    }
}

/// A dotted path with what a terminal would obey escaped.
fn plain(path: &str) -> String {
    path.escape_debug().to_string()
}
