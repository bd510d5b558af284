//! Where the lines go: a file, or memory for `relay dev` and tests.
//!
//! A sink takes all of what it is given or nothing: were half a record to stay behind after an error,
//! the next one would be glued to it and a chain would break. It only ever appends.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::line::{self, ANCHOR_START, Read, Record};
use super::record::{Hash, Head, Order, hash};
use super::{Anchor, Durability};

/// A call that brings everything appended so far to the disk, from another thread.
pub type Syncer = Box<dyn FnMut() -> io::Result<()> + Send>;

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
    file: File,
    /// Whether it can be cut; a device cannot.
    regular: bool,
    /// Up to where it holds what was acknowledged.
    good: u64,
    /// Whether its last line lacks its line feed: a crash tore it.
    torn: bool,
    /// Whether an error left bytes behind that could not be cut off yet.
    dirty: bool,
}

impl FileSink {
    /// Opens or creates the file and syncs its folder. Fails if another process holds it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            io::Error::new(io::ErrorKind::WouldBlock, "another process writes to this audit file")
        })?;
        let about = file.metadata()?;
        let regular = about.is_file();
        if regular {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()?;
        }
        let good = if regular { about.len() } else { 0 };
        let torn = good > 0 && byte_at(&file, good - 1)? != b'\n';
        Ok(Self { file, regular, good, torn, dirty: false })
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
        if self.torn {
            self.file.write_all(b"\n")?;
            written += 1;
        }
        self.file.write_all(bytes)?;
        if durability == Durability::Synced {
            self.file.sync_data()?;
        }
        Ok(written)
    }
}

impl Sink for FileSink {
    fn append(&mut self, bytes: &[u8], durability: Durability) -> io::Result<()> {
        if self.dirty {
            self.cut_back()?;
        }
        match self.write_through(bytes, durability) {
            Ok(written) => {
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
        if self.good == 0 {
            return Ok(Inherited::default());
        }
        let start = newest_anchor(&self.file, self.good)?;
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Inherited::read(BufReader::with_capacity(64 * 1024, file.take(self.good - start)))
    }

    fn syncer(&self) -> io::Result<Syncer> {
        let file = self.file.try_clone()?;
        let regular = self.regular;
        Ok(Box::new(move || if regular { file.sync_data() } else { Ok(()) }))
    }
}

fn byte_at(file: &File, at: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(byte[0])
}

/// Where the newest whole anchor begins, or 0 if there is none. Reads backwards.
fn newest_anchor(file: &File, len: u64) -> io::Result<u64> {
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
                return Ok(at);
            }
        }
        end = start;
    }
    Ok(0)
}

fn is_anchor(file: &File, at: u64, len: u64) -> io::Result<bool> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(at))?;
    let mut text = Vec::new();
    line::read(&mut BufReader::new(file.take(len - at)), &mut text)?;
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
