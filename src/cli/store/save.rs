//! A file that is there whole or not at all.
//!
//! It is written as `FILE.part`, 0600, synced, and gets its name when it is whole. A file that is there already is
//! never replaced: it may be the only backup.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

/// A file that is being written.
pub(super) struct Save {
    file: File,
    part: PathBuf,
    to: PathBuf,
    kept: bool,
}

impl Save {
    /// Begins one that will be `to`.
    pub(super) fn begin(to: &Path) -> io::Result<Self> {
        refuse_existing(to)?;
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = to.with_file_name(name);
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
        let file = options.open(&part)?;
        // One that was killed left its part behind, and holds it no longer.
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => io::Error::other("another export is writing it"),
            other => other.into(),
        })?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.set_len(0)?;
        Ok(Self { file, part, to: to.to_owned(), kept: false })
    }

    /// Syncs it and gives it its name.
    pub(super) fn keep(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        match renameat_with(CWD, &self.part, CWD, &self.to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // A file system that cannot refuse by itself.
            Err(Errno::INVAL | Errno::NOSYS) => {
                refuse_existing(&self.to)?;
                std::fs::rename(&self.part, &self.to)?;
            }
            Err(error) => return Err(error.into()),
        }
        self.kept = true;
        let folder = self.to.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for Save {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Save {
    fn drop(&mut self) {
        if !self.kept {
            // What is no whole export must not be taken for one.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

fn refuse_existing(to: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(to) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there already and is not replaced")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
