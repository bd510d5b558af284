//! `[store]`, usable: which engine keeps the sealed records.
//!
//! What must never enter: a reading of any other section.

use std::path::{Path, PathBuf};

use super::report::Findings;
use super::written::Written;
use super::{Files, Report, document, environment, read, unread, usable};
use crate::secret::Secret;

/// `[store]`
pub enum StoreChoice {
    /// sled in this folder.
    Sled {
        /// The folder.
        path: PathBuf,
    },
    /// PostgreSQL, for several relays on one store.
    Postgres(PostgresChoice),
    /// In memory, gone on exit (`relay dev`, tests).
    Memory,
}

/// How PostgreSQL is reached.
pub struct PostgresChoice {
    /// `postgres://USER@HOST:5432/DATABASE`; where it was not written literally a password may stand in it.
    pub url: Secret,
    /// The password, in the place of the URL's.
    pub password: Option<Secret>,
    /// Trust roots instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// The most sessions at once: 16.
    pub connections: usize,
    /// Whether it is reached without TLS.
    pub plaintext_danger: bool,
}

/// `[store]` alone of the file at `path`, for who works on the store and has nothing else: none if anything is wrong
/// with it. What is wrong elsewhere is not asked.
pub fn store_file(path: &Path, environment: &[(String, String)]) -> (Option<StoreChoice>, Report) {
    let name = path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new("."));
    let text = match read(path) {
        Ok(text) => text,
        Err(wrong) => return (None, unread(&name, wrong)),
    };
    let mut findings = Findings::on(&text);
    let (document, torn) = document::parse(&text, &mut findings);
    // What a variable sets of other tables is theirs.
    let overrides = environment::Overrides::collect(environment, &[], &mut Findings::default());
    let (unsettled, files) = (Vec::new(), Files::Required);
    let mut written =
        Written { findings, overrides, torn, unsettled, incomplete: false, folder, files, environment };
    let choice = usable::store(&mut written, document.get_ref());
    let choice = choice.filter(|_| !written.findings.has_errors() && !written.incomplete);
    (choice, written.findings.report(&name, &text))
}
