//! Several files checked together: segments of one replica, and several replicas, in any order.
//!
//! Which replica a file is of, and where in its order it stands, its own signed anchors say; its name says
//! nothing. What must never enter: a line of one replica into another's chains.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek as _};
use std::path::{Path, PathBuf};

use super::line::{self, Read as Line, Record, replica_of};
use super::segments::{active_of, ended, identity, segments};
use super::verify::Check;
use super::{Anchor, Problem, PublicKey, Verdict};

/// What files are checked against.
pub struct Trust {
    /// The key that signs the anchors.
    pub key: PublicKey,
    /// The newest anchors kept outside the files, one of each replica. Taken before the files are opened.
    pub newest: Vec<Anchor>,
    /// Whether every replica of which there is a newest anchor must be among the files.
    pub whole: bool,
    /// Whether what stands before the first line of all and behind the last is none of its business.
    pub part: bool,
}

/// The files that `paths` mean: a folder's `*.jsonl`, and beside each file its full segments. What is written to
/// is opened before its segments are listed, so that none ends unseen in between.
///
/// # Errors
/// If one is not there, or a folder cannot be read.
pub fn find(paths: &[PathBuf], alone: bool) -> io::Result<Vec<Found>> {
    let mut all = Collected::default();
    for path in paths {
        let about = fs::metadata(path).map_err(|error| at(path, &error))?;
        if !about.is_dir() {
            all.open(path)?;
            if !alone {
                all.beside(path)?;
            }
            continue;
        }
        let mut inside: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
        inside.retain(|path| path.extension().is_some_and(|e| e == "jsonl") && path.is_file());
        inside.sort();
        let (full, active): (Vec<_>, Vec<_>) = inside.into_iter().partition(|path| active_of(path).is_some());
        active.iter().try_for_each(|path| all.open(path))?;
        active.iter().try_for_each(|path| all.beside(path))?;
        full.iter().try_for_each(|path| all.add(path))?;
    }
    Ok(all.files)
}

/// A file to be checked.
pub struct Found {
    path: PathBuf,
    /// Open already, if it is one that is written to.
    file: Option<File>,
    /// Its bytes when it was found.
    pub size: u64,
}

impl Found {
    /// How to name it to people.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether it is a full segment that ended before this, in seconds since 1970.
    pub(super) fn ended_before(&self, since: Option<u64>) -> bool {
        let ended = active_of(&self.path).and_then(|active| ended(&active, &self.path));
        since.zip(ended).is_some_and(|(since, ended)| ended < since)
    }

    /// Its bytes from the first.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(&self) -> io::Result<File> {
        let mut file = match &self.file {
            Some(file) => file.try_clone()?,
            None => File::open(&self.path).map_err(|error| at(&self.path, &error))?,
        };
        file.rewind()?;
        Ok(file)
    }
}

#[derive(Default)]
struct Collected {
    files: Vec<Found>,
    seen: HashSet<(u64, u64)>,
}

impl Collected {
    fn open(&mut self, path: &Path) -> io::Result<()> {
        let file = File::open(path).map_err(|error| at(path, &error))?;
        let about = file.metadata()?;
        if self.seen.insert(identity(&about)) {
            self.files.push(Found { path: path.to_owned(), file: Some(file), size: about.len() });
        }
        Ok(())
    }

    /// The full segments of the file at `path`.
    fn beside(&mut self, path: &Path) -> io::Result<()> {
        segments(path)?.iter().try_for_each(|segment| self.add(&segment.path))
    }

    fn add(&mut self, path: &Path) -> io::Result<()> {
        let about = match fs::metadata(path) {
            Ok(about) => about,
            // Its time was over: an anchor says so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at(path, &error)),
        };
        if self.seen.insert(identity(&about)) {
            self.files.push(Found { path: path.to_owned(), file: None, size: about.len() });
        }
        Ok(())
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Checks the files: one verdict for each replica. `count` wraps each as it is read.
///
/// # Errors
/// If one cannot be read.
pub fn verify_files<'c>(
    files: Vec<Found>,
    trust: &Trust,
    count: &mut dyn FnMut(File) -> Box<dyn Read + 'c>,
) -> io::Result<Vec<Verdict>> {
    let several = files.len() > 1;
    let mut verdicts = Vec::new();
    for (replica, files) in in_order(files, Some(trust.key))? {
        let newest = trust.newest.iter().find(|anchor| anchor.replica() == replica.as_deref());
        let mut check = Check::new(Some(trust.key), newest);
        if trust.part {
            check.only_a_part();
        }
        if newest.is_none() && !trust.part {
            check.warn("no newest anchor of it is known: whether its end was cut off cannot be told".into());
        }
        for found in files {
            if several {
                check.file(found.name());
            }
            check.read(&mut BufReader::with_capacity(256 * 1024, count(found.open()?)))?;
        }
        let mut verdict = check.end();
        verdict.replica = verdict.replica.or(replica);
        verdicts.push(verdict);
    }
    if !trust.part {
        absent(trust, &mut verdicts);
    }
    Ok(verdicts)
}

/// The files of each replica in their order; those without a line are left out.
pub(super) fn in_order(
    files: Vec<Found>,
    key: Option<PublicKey>,
) -> io::Result<BTreeMap<Option<String>, Vec<Found>>> {
    let mut replicas: BTreeMap<Option<String>, Vec<(u64, Found)>> = BTreeMap::new();
    for found in files {
        if let Some((replica, seq)) = place(&found, key)? {
            replicas.entry(replica).or_default().push((seq, found));
        }
    }
    adopt_nameless(&mut replicas);
    let sorted = |mut files: Vec<(u64, Found)>| -> Vec<Found> {
        files.sort_by(|(a, x), (b, y)| (a, &x.path).cmp(&(b, &y.path)));
        files.into_iter().map(|(_, found)| found).collect()
    };
    Ok(replicas.into_iter().map(|(replica, files)| (replica, sorted(files))).collect())
}

/// Files from before replicas had names stand before those of the only replica that there is.
fn adopt_nameless(replicas: &mut BTreeMap<Option<String>, Vec<(u64, Found)>>) {
    if replicas.len() == 2
        && let Some(nameless) = replicas.remove(&None)
        && let Some(named) = replicas.values_mut().next()
    {
        named.extend(nameless);
    }
}

/// Replicas of which the store knows an anchor, and of which there is no file.
fn absent(trust: &Trust, verdicts: &mut Vec<Verdict>) {
    for newest in &trust.newest {
        let Some(replica) = newest.replica() else { continue };
        if verdicts.iter().any(|verdict| verdict.replica.as_deref() == Some(replica)) {
            continue;
        }
        let what =
            format!("of {} is known outside, and no file of the replica {replica} is here", newest.time());
        if trust.whole {
            let chain = Some("anchor".to_owned());
            let problem = Problem { file: None, line: 0, chain, seq: Some(newest.seq()), what };
            let replica = Some(replica.to_owned());
            verdicts.push(Verdict { replica, problems: vec![problem], ..Verdict::default() });
        } else if let Some(first) = verdicts.first_mut() {
            first.warnings.push(format!("the newest anchor {what}: only what is here was checked"));
        }
    }
}

/// Whose file it is, and the number of its first anchor: by the first that is signed, else by the first that
/// there is, else by a record. `None` for a file without a line.
fn place(found: &Found, key: Option<PublicKey>) -> io::Result<Option<(Option<String>, u64)>> {
    let mut source = BufReader::with_capacity(64 * 1024, found.open()?);
    let mut text = Vec::new();
    let (mut any, mut unsigned, mut recorded) = (false, None, None);
    while line::read(&mut source, &mut text)? != Line::End {
        any = true;
        if let Some(anchor) = Anchor::parse(&text) {
            let place = (anchor.replica().map(str::to_owned), anchor.seq());
            if key.is_none_or(|key| anchor.is_signed_by(key)) {
                return Ok(Some(place));
            }
            unsigned = unsigned.or(Some(place));
        } else if recorded.is_none()
            && let Ok(record) = Record::parse(&text)
        {
            recorded = Some((replica_of(record.chain).map(str::to_owned), u64::MAX));
        }
    }
    Ok(unsigned.or(recorded).or(any.then_some((None, u64::MAX))))
}
