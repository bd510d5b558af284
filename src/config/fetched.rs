//! What stands outside the text: paths, secrets, and the values behind `env:` and `file:`.
//!
//! What is fetched may be a secret, so no message names it, its path or its variable; the quoted line of
//! relay.toml shows as much as its author wrote there.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Files;
use super::environment::{self, Source, Unread};
use super::report::Place;
use super::written::{Given, Table, Written};
use crate::secret::Secret;

impl Written<'_> {
    /// The path under `key`, from relay.toml's folder.
    pub(super) fn path(&mut self, table: &Table<'_>, key: &str, default: &str) -> Option<Given<PathBuf>> {
        let given = match self.raw(table, key) {
            Some(given) => given,
            None if self.absent(table, key) => {
                self.missing(table, key, &format!("write {key} = \"{default}\""));
                return None;
            }
            None => return None,
        };
        if given.value.starts_with("file:") {
            let message =
                format!("{} {key} is itself a path; file: would read the path out of that file", table.shown);
            self.findings.error(&given.place, message, "leave file: away");
            return None;
        }
        let given = self.fetched(given, &format!("{} {key}", table.shown))?;
        if given.value.is_empty() || given.value.starts_with("~/") || given.value.contains('\0') {
            let message = format!("{} {key} is no path (~ is not expanded)", table.shown);
            self.findings.error(&given.place, message, format!("write {key} = \"{default}\""));
            return None;
        }
        Some(Given { value: self.folder.join(&given.value), place: given.place })
    }

    /// The secret under `key`, from a variable or a file; a literal one is refused. At least `least` bytes.
    pub(super) fn secret(&mut self, table: &Table<'_>, key: &str, least: usize) -> Option<Given<Secret>> {
        let name = format!("{} {key}", table.shown);
        let given = self.raw(table, key)?;
        let bytes = match (environment::source(&given.value), &given.place) {
            (Some(Source::File(path)), _) => {
                self.warn_if_open(&name, path, &given.place);
                self.read_file(&name, path, &given.place)
            }
            (Some(Source::Variable(variable)), _) => {
                self.look_up(&name, variable, &given.place).map(String::into_bytes)
            }
            // A variable is not the file: what it holds was never written down here.
            (None, Place::Variable(_)) => Some(given.value.clone().into_bytes()),
            (None, _) => {
                let message = format!("{name} is a secret and may not stand in relay.toml itself");
                let fix =
                    format!("write {key} = \"file:PATH\" or {key} = \"env:NAME\", and replace this secret");
                self.findings.error(&given.place, message, fix);
                return None;
            }
        };
        let Some(bytes) = bytes else { return self.unknowable(least, given.place) };
        let secret = Secret::new(bytes);
        if secret.len() < least {
            let message = format!("{name} has {} bytes; it must have at least {least}", secret.len());
            self.findings.error(&given.place, message, "make one with: openssl rand -base64 48");
            return None;
        }
        Some(Given { value: secret, place: given.place })
    }

    /// Whether a file named by the configuration is there; an error, or a warning under [`Files::Optional`].
    pub(super) fn expect_file(&mut self, name: &str, path: &Path, place: &Place, fix: &str) {
        let problem = match std::fs::metadata(path) {
            Ok(found) if found.is_file() => return,
            Ok(_) => "is not a file",
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "does not exist",
            Err(_) => "cannot be looked at",
        };
        self.outside(place, format!("the file of {name} {problem}"), fix);
    }

    /// The value itself, or what `env:` or `file:` leads to.
    pub(super) fn fetched(&mut self, given: Given<String>, name: &str) -> Option<Given<String>> {
        let value = match environment::source(&given.value) {
            None => return Some(given),
            Some(Source::Variable(variable)) => self.look_up(name, variable, &given.place),
            Some(Source::File(path)) => self.read_file(name, path, &given.place).and_then(|bytes| {
                let text = String::from_utf8(bytes).ok();
                if text.is_none() {
                    let message = format!("the file of {name} is not UTF-8 text");
                    self.findings.error(&given.place, message, "write it as text");
                }
                text
            }),
        };
        self.incomplete |= value.is_none();
        value.map(|value| Given { value, place: given.place })
    }

    fn look_up(&mut self, name: &str, variable: &str, place: &Place) -> Option<String> {
        let found = self.environment.iter().find(|(n, _)| n == variable);
        if let Some((_, value)) = found {
            return Some(value.clone());
        }
        self.outside(place, format!("the variable of {name} is not set"), "set it before relay starts");
        None
    }

    fn read_file(&mut self, name: &str, path: &str, place: &Place) -> Option<Vec<u8>> {
        match environment::read_value(&self.folder.join(path)) {
            Ok(bytes) => return Some(bytes),
            Err(Unread::Missing) => {
                let message = format!("the file of {name} does not exist");
                self.outside(place, message, "write it; paths are relative to relay.toml's folder");
            }
            Err(Unread::Because(why)) => {
                let message = format!("the file of {name} cannot be read: {why}");
                self.outside(place, message, "make it a readable file");
            }
        }
        None
    }

    /// A secret's file that others may read is told, not refused: mounted secrets are often made that way.
    fn warn_if_open(&mut self, name: &str, path: &str, place: &Place) {
        let Ok(found) = std::fs::metadata(self.folder.join(path)) else { return };
        let mode = found.mode();
        // What root lets a group of another user read was mounted so for relay.
        let mounted = found.uid() == 0 && !rustix::process::geteuid().is_root();
        let open = if mounted { 0o037 } else { 0o077 };
        if mode & open != 0 {
            let message =
                format!("the file of {name} can be read by other users (mode {:03o})", mode & 0o777);
            self.findings.warning(place, message, "give it mode 0600");
        }
    }

    /// Something outside the text is not as it must be for relay to run.
    fn outside(&mut self, place: &Place, message: String, fix: &str) {
        match self.files {
            Files::Required => self.findings.error(place, message, fix),
            Files::Optional => self.findings.warning(place, message, fix),
        }
    }

    /// A secret that could not be had. Under [`Files::Optional`] random bytes that nobody knows stand in
    /// for it, so that such a configuration opens nothing.
    fn unknowable(&mut self, least: usize, place: Place) -> Option<Given<Secret>> {
        if self.files == Files::Required {
            return None;
        }
        let value = Secret::filled(least, aws_lc_rs::rand::fill).ok()?;
        Some(Given { value, place })
    }
}
