//! Where the lines go: a file, or memory for `relay dev` and tests.
//!
//! A sink takes all of what it is given or nothing: were half a record to stay behind after an error,
//! the next one would be glued to it and a chain would break. It only ever appends.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::line::{self, ANCHOR_START, GAP_START, Read, Record};
use super::record::{Hash, Head, Order, hash};
use super::rotation::{Age, Rotation};
use super::segments::{self, identity};
use super::{Anchor, Durability};

/// A call that brings everything appended so far to the disk, from another thread.
pub type Syncer = Box<dyn FnMut() -> io::Result<()> + Send>;

/// A call that deletes the segments up to the anchor of this number, from another thread.
pub type Eraser = Box<dyn FnMut(u64) + Send>;

/// Where audit lines are appended.
pub trait Sink: Send {
    /// Appends all of `bytes` and, for [`Durability::Synced`], brings them to the disk. After an error
    /// nothing of them stands in the sink, and they will be given again.
    fn append(&mut self, bytes: &[u8], durability: Durability) -> io::Result<()>;

    /// What stood in it when it was opened. Asked before the first append.
    fn inherited(&mut self) -> io::Result<Inherited> {
        Ok(Inherited::default())
    }

    /// For syncing before an anchor is kept elsewhere, without holding up the writer.
    fn syncer(&self) -> io::Result<Syncer> {
        Ok(Box::new(|| Ok(())))
    }

    /// Whether it still stands where it was opened, asked about once a second. True if it did not and what
    /// follows goes to a new place, which an anchor must begin.
    fn look(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// Whether the segment is full.
    fn turn_due(&self) -> bool {
        false
    }

    /// Ends the segment behind the anchor `through`, and begins another. After an error it goes on in the
    /// one that there is.
    fn turn(&mut self, _through: u64) -> io::Result<()> {
        Ok(())
    }

    /// The number of the anchor that ends the newest segment whose time is over.
    fn expired(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// For deleting such segments, once an anchor that says so is on the disk.
    fn eraser(&self) -> Eraser {
        Box::new(|_| {})
    }

    /// Where its lines can be read again.
    fn path(&self) -> Option<PathBuf> {
        None
    }

    /// What it consists of, if it is several, and how each stands.
    fn members(&self) -> Vec<Arc<dyn Member>> {
        Vec::new()
    }
}

/// One of several places that the audit goes to.
pub trait Member: Send + Sync {
    /// The word for it in metrics.
    fn name(&self) -> &'static str;

    /// Why it takes nothing now; `None` if it does.
    fn fault(&self) -> Option<String>;

    /// Records that it never got, since the start.
    fn lost(&self) -> u64;
}

/// What an earlier process left behind its newest anchor, to be sealed by this one's first.
pub struct Inherited {
    pub(super) anchor: Option<Anchor>,
    pub(super) heads: Vec<Head>,
    pub(super) order: Order,
}

impl Default for Inherited {
    fn default() -> Self {
        Self { anchor: None, heads: Vec::new(), order: Order::new() }
    }
}

impl Inherited {
    /// Reads lines from the newest anchor on, in memory that depends on the number of chains only.
    pub fn read(mut source: impl BufRead) -> io::Result<Self> {
        let mut found = Self::default();
        let mut heads: BTreeMap<Arc<str>, (u64, Hash)> = BTreeMap::new();
        let mut text = Vec::new();
        while line::read(&mut source, &mut text)? != Read::End {
            if let Some(anchor) = Anchor::parse(&text) {
                found = Self { anchor: Some(anchor), ..Self::default() };
                heads.clear();
                continue;
            }
            if text.starts_with(GAP_START) {
                continue;
            }
            let hash = hash(&text);
            found.order.add(&hash);
            if let Ok(record) = Record::parse(&text) {
                heads.insert(record.chain.into(), (record.seq, hash));
            }
        }
        found.heads = heads.into_iter().map(|(chain, (seq, hash))| Head { chain, seq, hash }).collect();
        Ok(found)
    }
}

/// An append-only file, 0600, held by one process at a time.
pub struct FileSink {
    file: Arc<File>,
    path: PathBuf,
    rotation: Rotation,
    age: Age,
    /// The files that the syncer has to bring to the disk, the last of them the one that is written to.
    unsynced: Arc<Mutex<Vec<Arc<File>>>>,
    /// Whether it can be cut; a device cannot.
    regular: bool,
    /// Up to where it holds what was acknowledged.
    good: u64,
    /// Whether its last line lacks its line feed: a crash tore it.
    torn: bool,
    /// Whether an error left bytes behind that could not be cut off yet.
    dirty: bool,
    /// Whether something else stands in its place: nothing is written until that is gone.
    displaced: bool,
}

impl FileSink {
    /// Opens or creates the file and syncs its folder. Fails if another process holds it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::rotating(path, Rotation::default())
    }

    /// As [`FileSink::open`], with segments that end and are deleted by `rotation`.
    pub fn rotating(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = locked(path)?;
        let about = file.metadata()?;
        let regular = about.is_file();
        if regular {
            File::open(segments::folder(path))?.sync_all()?;
            mend_turn(path, &about)?;
        }
        let good = if regular { about.len() } else { 0 };
        let torn = good > 0 && byte_at(&file, good - 1)? != b'\n';
        let age = Age::of(first_line(&file, good)?.as_deref());
        let file = Arc::new(file);
        let unsynced = Arc::new(Mutex::new(vec![Arc::clone(&file)]));
        let path = path.to_owned();
        Ok(Self { file, path, rotation, age, unsynced, regular, good, torn, dirty: false, displaced: false })
    }

    /// From here on everything goes to `file`, which is empty.
    fn go_on_in(&mut self, file: File) {
        self.file = Arc::new(file);
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        unsynced.push(Arc::clone(&self.file));
        drop(unsynced);
        self.age = Age::of(None);
        (self.good, self.torn, self.dirty, self.displaced) = (0, false, false, false);
    }

    /// What to do where the path no longer leads to this file.
    fn replace(&mut self) -> io::Result<bool> {
        self.displaced = true;
        let file = locked(&self.path)?;
        if !file.metadata()?.is_file() || file.metadata()?.len() > 0 {
            let why =
                "another file was put in the place of the audit file; move it away, or put the audit back";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        File::open(segments::folder(&self.path))?.sync_all()?;
        tracing::warn!(
            path = %self.path.display(),
            "the audit file was moved away; the audit goes on in a new one, and verifies only together with it"
        );
        self.go_on_in(file);
        Ok(true)
    }

    fn cut_back(&mut self) -> io::Result<()> {
        if self.regular {
            self.file.set_len(self.good)?;
        }
        self.dirty = false;
        Ok(())
    }

    fn write_through(&mut self, bytes: &[u8], durability: Durability) -> io::Result<u64> {
        let mut written = bytes.len() as u64;
        let mut file = &*self.file;
        if self.torn {
            file.write_all(b"\n")?;
            written += 1;
        }
        file.write_all(bytes)?;
        if durability == Durability::Synced {
            self.file.sync_data()?;
        }
        Ok(written)
    }
}

impl Sink for FileSink {
    fn append(&mut self, bytes: &[u8], durability: Durability) -> io::Result<()> {
        if self.displaced {
            self.look()?;
        }
        if self.dirty {
            self.cut_back()?;
        }
        match self.write_through(bytes, durability) {
            Ok(written) => {
                if self.good == 0 {
                    self.age.begins_with(written);
                }
                self.good += written;
                self.torn = false;
                Ok(())
            }
            // Also after a failed sync: the kernel may have marked the pages clean without writing
            // them, so only writing them again brings them to the disk.
            Err(error) => {
                self.dirty = true;
                let _ = self.cut_back();
                Err(error)
            }
        }
    }

    fn inherited(&mut self) -> io::Result<Inherited> {
        let own = if self.good == 0 { None } else { newest_anchor(&self.file, self.good)? };
        let rest = piece(&self.file, own.unwrap_or(0), self.good)?;
        let before = if own.is_none() && self.regular { segments::segments(&self.path)?.pop() } else { None };
        // A crash between the end of a segment and the first anchor of the next.
        let Some(before) = before else { return Inherited::read(rest) };
        let file = File::open(&before.path)?;
        let len = file.metadata()?.len();
        let start = newest_anchor(&file, len)?.unwrap_or(0);
        Inherited::read(BufReader::new(piece(&file, start, len)?.chain(rest)))
    }

    fn syncer(&self) -> io::Result<Syncer> {
        let (unsynced, regular) = (Arc::clone(&self.unsynced), self.regular);
        Ok(Box::new(move || {
            let files = unsynced.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if !regular {
                return Ok(());
            }
            files.iter().try_for_each(|file| file.sync_data())?;
            // Those that are full are done with; the last is still written to.
            let mut unsynced = unsynced.lock().unwrap_or_else(PoisonError::into_inner);
            unsynced.drain(..files.len().saturating_sub(1));
            Ok(())
        }))
    }

    fn look(&mut self) -> io::Result<bool> {
        if !self.regular {
            return Ok(false);
        }
        let own = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) if identity(&there) == identity(&own) => {
                self.displaced = false;
                if own.len() < self.good && !self.dirty {
                    tracing::error!("the audit file was cut short by someone else: what is missing is lost");
                    self.good = own.len();
                    self.torn = self.good > 0 && byte_at(&self.file, self.good - 1)? != b'\n';
                }
                Ok(false)
            }
            Ok(_) => self.replace(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.replace(),
            Err(error) => Err(error),
        }
    }

    fn path(&self) -> Option<PathBuf> {
        self.regular.then(|| self.path.clone())
    }

    fn turn_due(&self) -> bool {
        self.regular && self.rotation.is_due(self.good, &self.age)
    }

    fn turn(&mut self, through: u64) -> io::Result<()> {
        self.age.turn_tried();
        let full = segments::name(&self.path, crate::clock::unix_seconds(), through);
        let next = self.path.with_extension("next");
        let _ = fs::remove_file(&next);
        let file = locked(&next)?;
        // By a second name first, so that there is always a file at the path, held by this process.
        fs::hard_link(&self.path, &full).or_else(|_| fs::rename(&self.path, &full))?;
        if let Err(error) = fs::rename(&next, &self.path) {
            // Does nothing where both names are this file's.
            if fs::rename(&full, &self.path).is_ok() {
                let _ = fs::remove_file(&full);
            }
            return Err(error);
        }
        File::open(segments::folder(&self.path))?.sync_all()?;
        self.go_on_in(file);
        Ok(())
    }

    fn expired(&self) -> io::Result<Option<u64>> {
        let Some(before) = self.rotation.forgets_before() else { return Ok(None) };
        let all = segments::segments(&self.path)?;
        Ok(all.iter().take_while(|segment| segment.ended < before).map(|segment| segment.through).max())
    }

    fn eraser(&self) -> Eraser {
        let path = self.path.clone();
        Box::new(move |through| {
            let all = segments::segments(&path).unwrap_or_default();
            for segment in all.into_iter().filter(|segment| segment.through <= through) {
                match fs::remove_file(&segment.path) {
                    Ok(()) => tracing::info!(segment = %segment.path.display(), "its time is over: deleted"),
                    Err(error) => {
                        tracing::warn!(%error, segment = %segment.path.display(), "cannot be deleted");
                    }
                }
            }
        })
    }
}

/// Opens or creates the file at `path` and holds it against every other process.
fn locked(path: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            io::Error::new(io::ErrorKind::WouldBlock, "another process writes to this audit file")
        })?;
        // Between the two the process that held it may have ended a segment: then this is the full one.
        let there = fs::metadata(path);
        if there.is_ok_and(|there| identity(&there) == file.metadata().as_ref().map_or((0, 0), identity)) {
            return Ok(file);
        }
    }
}

/// A crash in the midst of a turn left the file under two names: the turn has not happened.
fn mend_turn(path: &Path, about: &fs::Metadata) -> io::Result<()> {
    let _ = fs::remove_file(path.with_extension("next"));
    for segment in segments::segments(path)? {
        if fs::metadata(&segment.path).is_ok_and(|there| identity(&there) == identity(about)) {
            fs::remove_file(&segment.path)?;
        }
    }
    Ok(())
}

fn first_line(file: &File, len: u64) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let read = line::read(&mut piece(file, 0, len)?, &mut text)?;
    Ok((read == Read::Whole).then_some(text))
}

fn piece(file: &File, start: u64, end: u64) -> io::Result<BufReader<io::Take<File>>> {
    let mut file = file.try_clone()?;
    if end > 0 {
        file.seek(SeekFrom::Start(start))?;
    }
    Ok(BufReader::with_capacity(64 * 1024, file.take(end.saturating_sub(start))))
}

fn byte_at(file: &File, at: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(byte[0])
}

/// Where the newest whole anchor begins. Reads backwards.
fn newest_anchor(file: &File, len: u64) -> io::Result<Option<u64>> {
    const PIECE: u64 = 64 * 1024;
    let overlap = ANCHOR_START.len() as u64;
    let mut end = len;
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        let size = (end + overlap).min(len) - start;
        let mut piece = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut piece, start)?;
        for found in memchr::memmem::rfind_iter(&piece, ANCHOR_START) {
            let at = start + found as u64;
            if (at == 0 || byte_at(file, at - 1)? == b'\n') && is_anchor(file, at, len)? {
                return Ok(Some(at));
            }
        }
        end = start;
    }
    Ok(None)
}

fn is_anchor(file: &File, at: u64, len: u64) -> io::Result<bool> {
    let mut text = Vec::new();
    line::read(&mut piece(file, at, len)?, &mut text)?;
    Ok(Anchor::parse(&text).is_some())
}

/// Keeps the newest lines in memory; clones share them.
#[derive(Clone, Default)]
pub struct MemorySink(Arc<Mutex<Vec<u8>>>);

impl MemorySink {
    /// Past this the older half goes: `relay dev` may run for days.
    const BOUND: usize = 64 * 1024 * 1024;

    /// Everything it holds.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink for MemorySink {
    fn append(&mut self, bytes: &[u8], _: Durability) -> io::Result<()> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() + bytes.len() > Self::BOUND {
            let half = held.len() / 2;
            let line_end = held.iter().skip(half).position(|b| *b == b'\n');
            let keep_from = line_end.map_or(held.len(), |at| half + at + 1);
            held.drain(..keep_from);
        }
        held.extend_from_slice(bytes);
        Ok(())
    }

    fn inherited(&mut self) -> io::Result<Inherited> {
        Inherited::read(self.bytes().as_slice())
    }
}
