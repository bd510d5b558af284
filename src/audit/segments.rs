//! Where a file's earlier parts stand: `audit.jsonl` is written to, `audit-TIME-NUMBER.jsonl` are full.
//!
//! NUMBER is that of the anchor that ends the segment, so the order is the chain's own and no clock's; TIME
//! is when it ended, for people and for retention. What must never enter: a line of the audit.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::clock;

/// One full segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it stands.
    pub path: PathBuf,
    /// The number of its last anchor.
    pub through: u64,
    /// When it ended, in seconds since 1970.
    pub ended: u64,
}

/// The full segments of the audit at `active`, oldest first.
///
/// # Errors
/// If its folder cannot be read.
pub fn segments(active: &Path) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder(active))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((ended, through)) = name.and_then(|name| read_name(active, name)) {
            found.push(Segment { path, through, ended });
        }
    }
    found.sort_by(|a, b| (a.through, &a.path).cmp(&(b.through, &b.path)));
    Ok(found)
}

/// The file of which `path` is a full segment, by its name.
pub(super) fn active_of(path: &Path) -> Option<PathBuf> {
    let (stem, extension) = parts(path);
    let (before, _) = stem.rsplit_once('-')?;
    let (name, _) = before.rsplit_once('-')?;
    let active = path.with_file_name(format!("{name}{extension}"));
    read_name(&active, path.file_name()?.to_str()?).map(|_| active)
}

/// When the segment at `path` ended, in seconds since 1970.
pub(super) fn ended(active: &Path, path: &Path) -> Option<u64> {
    read_name(active, path.file_name()?.to_str()?).map(|(ended, _)| ended)
}

/// Where the segment that ends now with the anchor `through` will stand.
pub(super) fn name(active: &Path, ended: u64, through: u64) -> PathBuf {
    let (stem, extension) = parts(active);
    let time: String = clock::rfc3339(ended).chars().filter(|c| !matches!(c, '-' | ':')).collect();
    active.with_file_name(format!("{stem}-{time}-{through}{extension}"))
}

/// The folder that a path stands in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Which file it is, whatever its name.
pub(super) fn identity(about: &fs::Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// The name before its extension, and the extension with its dot.
fn parts(active: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|text| text.to_string_lossy().into_owned());
    let extension = text(active.extension()).map_or_else(String::new, |text| format!(".{text}"));
    (text(active.file_stem()).unwrap_or_default(), extension)
}

fn read_name(active: &Path, name: &str) -> Option<(u64, u64)> {
    let (stem, extension) = parts(active);
    let rest = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
    let (time, through) = rest.split_once('-')?;
    if time.len() != 16 || !through.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| time.get(from..to);
    let written = format!(
        "{}-{}-{}{}:{}:{}",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 11)?,
        part(11, 13)?,
        part(13, 16)?
    );
    Some((clock::parse_rfc3339(&written)?, through.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segments_name_reads_back_and_no_other_name_does() {
        let active = Path::new("/var/lib/relay/audit.jsonl");
        let path = name(active, 1_795_352_701, 12);
        assert_eq!(path, Path::new("/var/lib/relay/audit-20261122T130501Z-12.jsonl"));
        let read = |name: &str| read_name(active, name);
        assert_eq!(read("audit-20261122T130501Z-12.jsonl"), Some((1_795_352_701, 12)));
        for other in [
            "audit.jsonl",
            "audit-20261122T130501Z-.jsonl",
            "audit-20261122T130501Z-1x.jsonl",
            "audit-20261122T130501Z-1.json",
            "audit-20261399T130501Z-1.jsonl",
            "other-20261122T130501Z-1.jsonl",
            "audit-2026-1.jsonl",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
