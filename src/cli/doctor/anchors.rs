//! The newest anchor of an audit file, found without reading all of a large one.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};

use crate::audit::Anchor;

/// The largest audit that is verified whole, in bytes, and the piece at the end of a larger one.
pub(super) const WHOLE: u64 = 64 << 20;
pub(super) const TAIL: u64 = 4 << 20;

/// The last anchor at or behind the byte `from`, where a line may begin or not.
pub(super) fn newest_anchor(mut file: File, from: u64) -> std::io::Result<Option<Anchor>> {
    file.seek(SeekFrom::Start(from))?;
    let mut found = None;
    for line in BufReader::new(file).split(b'\n') {
        found = Anchor::parse(&line?).or(found);
    }
    Ok(found)
}
