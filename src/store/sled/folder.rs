//! The store's folder: made, guarded, locked and opened.
//!
//! The folder is 0700 and its files 0600, whatever the umask; one that others may enter is refused, not
//! mended, because what they already read cannot be taken back. What must never enter: a row other than
//! the format marker. A folder whose records vanished must be refused, never begun anew: an empty store
//! would answer that every secret is unknown.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate};
use sled::Db;

use crate::store::StoreError;

/// Why the store cannot be opened, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made, read or written.
    #[error(
        "the store {path} cannot be used: {cause}. Its folder must be writable for the user that runs relay"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Others may read or write in the folder.
    #[error("the store {path} is open to other users (mode {mode:o}). Close it: chmod -R go= {path}")]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder holds files that are not a store's.
    #[error(
        "the folder {path} holds other files but no relay store. Name a folder that is empty or not yet there"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// Another process has the store open.
    #[error(
        "the store {path} is in use by another process. Stop that one, or give each relay a folder of its own"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The store has a format that this relay does not know.
    #[error(
        "the store {path} has a format that this relay does not know. Run the relay that wrote it, or a newer one"
    )]
    Format {
        /// The folder.
        path: PathBuf,
    },
    /// The files are not what was written.
    #[error("the store {path} is damaged: {what}. Keep a copy of the folder and put a backup in its place")]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What was found.
        what: &'static str,
    },
    /// A customer that was being forgotten could not be forgotten to the end.
    #[error(
        "the store {path} holds a customer that was being forgotten, and that could not be ended: {cause}. Start again"
    )]
    Unended {
        /// The folder.
        path: PathBuf,
        /// What stood in the way.
        cause: StoreError,
    },
    /// There is no space to open it.
    #[error("the disk of the store {path} is full: opening it needs a few MiB. Free some space")]
    Full {
        /// The folder.
        path: PathBuf,
    },
}

/// The row that says what this tree is, and the one format there is so far.
const MARKER: &[u8] = b"relay-store";
const FORMAT: &[u8] = &[FORMAT_VERSION];
/// Its number.
pub(super) const FORMAT_VERSION: u8 = 1;
/// The file that says that the marker row was durable once.
const CREATED: &str = "relay-store";
/// The ballast's name.
const SPARE: &str = "ballast";
/// sled's page cache, which really takes several times this; records are cached above the store.
const CACHE: u64 = 16 << 20;
/// Free bytes below which a write is refused, before sled meets the full disk: two segments for the log,
/// the rest for its cleaner.
const HEADROOM: u64 = 8 << 20;
/// A file of this many bytes is given up when the disk is full, because sled cannot open without space
/// and would cost the reads too.
const BALLAST: u64 = 8 << 20;
/// The unit in which the system tells what a file takes.
const BLOCK: u64 = 512;
/// How long a lock may outlive its holder: sled's threads let go of their file late.
const LOCK_LINGERS: Duration = Duration::from_secs(1);

/// Opens the store in `path`, or creates it: sled, and a second handle of its data file for syncing.
pub(super) fn open(path: &Path) -> Result<(Db, File), OpenError> {
    match open_once(path) {
        Err(OpenError::Full { .. }) if fs::remove_file(path.join(SPARE)).is_ok() => open_once(path),
        other => other,
    }
}

/// What the folder takes on the disk, its ballast included. Files come and go meanwhile.
pub(super) fn bytes(path: &Path) -> io::Result<u64> {
    let mut all = 0;
    for entry in fs::read_dir(path)?.flatten() {
        let Ok(about) = entry.metadata() else { continue };
        all += if about.is_dir() { bytes(&entry.path()).unwrap_or(0) } else { about.blocks() * BLOCK };
    }
    Ok(all)
}

/// Whether there is space for a write. The ballast is not: where it was given up, there must be enough to lay it again.
pub(super) fn has_room(path: &Path) -> io::Result<bool> {
    let disk = rustix::fs::statvfs(path)?;
    // What a user without special rights may still write.
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = if path.join(SPARE).exists() { HEADROOM } else { HEADROOM + BALLAST };
    Ok(free >= needed)
}

/// Sets space aside where there is room and none is set aside yet. Where the file system cannot, a full disk costs the
/// reads until there is space.
pub(super) fn lay_ballast(path: &Path) {
    let file = path.join(SPARE);
    if file.exists() {
        return;
    }
    let laid =
        private(&file).and_then(|ballast| Ok(fallocate(ballast, FallocateFlags::empty(), 0, BALLAST)?));
    if let Err(cause) = laid {
        tracing::debug!(%cause, "no space could be set aside for the store");
    }
}

fn open_once(path: &Path) -> Result<(Db, File), OpenError> {
    let fail = |cause: io::Error| match is_full(&cause) {
        true => OpenError::Full { path: path.into() },
        false => OpenError::Folder { path: path.into(), cause },
    };
    prepare(path)?;
    let data = private(&path.join("db")).map_err(fail)?;
    private(&path.join("conf")).map_err(fail)?;
    await_lock(path)?;
    // On damage that its checksums do not cover, sled asserts instead of returning an error. Nothing that
    // it touched is used after such a panic.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = open_sled(path)?;
        mark(path, &db, &data)?;
        Ok(db)
    }));
    let panicked = OpenError::Damaged { path: path.into(), what: "sled cannot make sense of its files" };
    let db = opened.unwrap_or(Err(panicked))?;
    settle(path).map_err(fail)?;
    Ok((db, data))
}

/// Whether the disk, a quota or a file size limit is used up.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn prepare(path: &Path) -> Result<(), OpenError> {
    let fail = |cause| OpenError::Folder { path: path.into(), cause };
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fail(error)),
    }
    let mode = fs::metadata(path).map_err(fail)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(OpenError::Exposed { path: path.into(), mode });
    }
    if path.join(CREATED).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let known = [CREATED, "db", "conf", "blobs", SPARE, "lost+found"].iter().any(|known| name == *known)
            || name.to_string_lossy().starts_with("snap.");
        if !known {
            return Err(OpenError::Foreign { path: path.into() });
        }
    }
    Ok(())
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

// sled reports its lock by a text only; flock(2) on a handle of our own says it by a code. While that
// is held nobody else is in the folder.
fn await_lock(path: &Path) -> Result<(), OpenError> {
    let fail = |cause| OpenError::Folder { path: path.into(), cause };
    let begun = Instant::now();
    loop {
        let probe = private(&path.join("db")).map_err(fail)?;
        match rustix::fs::flock(&probe, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let dropped = drop_unfinished(path).map_err(fail);
                // Closing does not do it while a process that was just forked still has the handle too.
                let freed = rustix::fs::flock(&probe, FlockOperation::Unlock);
                return dropped.and(freed.map_err(|error| fail(error.into())));
            }
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_LINGERS => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked { path: path.into() }),
            Err(error) => return Err(fail(error.into())),
        }
    }
}

// A start that was cut off, or met a full disk, leaves half a snapshot, and sled takes it for the newest
// one and refuses to open. The one before it is still there: it is removed only after the rename.
fn drop_unfinished(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn open_sled(path: &Path) -> Result<Db, OpenError> {
    let path = path.to_owned();
    match sled::Config::new().path(&path).cache_capacity(CACHE).open() {
        Ok(db) => Ok(db),
        Err(sled::Error::Io(cause)) if is_full(&cause) => Err(OpenError::Full { path }),
        Err(sled::Error::Io(cause)) => Err(OpenError::Folder { path, cause }),
        Err(sled::Error::Unsupported(_)) => Err(OpenError::Format { path }),
        Err(_) => Err(OpenError::Damaged { path, what: "one of sled's checksums does not fit" }),
    }
}

// The row comes first and is durable before the file: a crash between the two leaves a store whose file
// is written at the next start, and a file without its row can only mean loss.
fn mark(path: &Path, db: &Db, data: &File) -> Result<(), OpenError> {
    let damaged = |what| OpenError::Damaged { path: path.into(), what };
    let fail = |cause| OpenError::Folder { path: path.into(), cause };
    let unreadable = |_| damaged("its first row cannot be read or written");
    let created = path.join(CREATED);
    match db.get(MARKER).map_err(unreadable)? {
        Some(format) if format == FORMAT => {}
        Some(_) => return Err(OpenError::Format { path: path.into() }),
        None if created.exists() => return Err(damaged("its records are gone")),
        None if !db.is_empty() => return Err(OpenError::Foreign { path: path.into() }),
        None => {
            db.insert(MARKER, FORMAT).map_err(unreadable)?;
            db.flush().map_err(unreadable)?;
            data.sync_data().map_err(fail)?;
        }
    }
    if !created.exists() {
        private(&created).and_then(|mut file| file.write_all(b"relay store, format 1\n")).map_err(fail)?;
    }
    Ok(())
}

// sled neither syncs its settings nor the folder after it put a snapshot in place, and makes its files
// by the umask. Their names must be durable before the first acknowledgement.
fn settle(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o600))?;
            File::open(entry.path())?.sync_all()?;
        } else if kind.is_dir() && entry.file_name() == "blobs" {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
        }
    }
    File::open(path)?.sync_all()?;
    let parent = path.canonicalize()?;
    parent.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
