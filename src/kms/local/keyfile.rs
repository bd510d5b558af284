//! The key file itself: its lines, its mode, its owner, and what is said when one of them is wrong.
//!
//! What must never enter: a byte of a key in an error, or a file that others may open.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::{hmac, rand};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::KEY;
use crate::secret::Secret;

/// The first word of every key's line.
const WORD: &str = "relay-key-1";
/// No key file is larger: some hundred keys.
const LARGEST: u64 = 16 * 1024;

/// Why a key file gives no keys. Says how to mend it; holds nothing of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error(
        "the key file {0} does not exist: `relay init` makes one; if this store was in use before, put its own key file back, since a new key opens nothing old"
    )]
    Missing(PathBuf),
    /// A new key may not take the place of a file.
    #[error(
        "{0} exists already, and overwriting a key file would lose every secret sealed under it: move it away or name another file"
    )]
    Exists(PathBuf),
    /// A folder, a socket, a device.
    #[error("the key file {0} is not a regular file: name the file itself")]
    NotAFile(PathBuf),
    /// Others than its owner may open it.
    #[error("the key file {file} may be opened by others (mode {mode:04o}): run `chmod 600 {file}`")]
    Open {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to someone else.
    #[error(
        "the key file {file} belongs to user {owner}, who could change it, and relay runs as user {user}: run `chown {user} {file}`"
    )]
    Owner {
        /// The file.
        file: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// relay's effective user id.
        user: u32,
    },
    /// A line is not a key.
    #[error("line {line} of the key file {file} {why}")]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong and how to mend it.
        why: &'static str,
    },
    /// No line has a key.
    #[error(
        "the key file {0} has no key in it: put its contents back from where they are kept safe; `relay init` makes a new key only for a new store"
    )]
    Empty(PathBuf),
    /// The system failed to read or write it.
    #[error("the key file {file} cannot be used: {cause}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// The keys of a file, in its order; at least one.
pub(super) fn load(path: &Path) -> Result<Vec<RootKey>, KeyFileError> {
    parse(&read(path)?, path)
}

fn parse(text: &[u8], path: &Path) -> Result<Vec<RootKey>, KeyFileError> {
    let mut keys: Vec<RootKey> = Vec::new();
    for (index, line) in text.split(|b| *b == b'\n').enumerate() {
        let at = |why| KeyFileError::Line { file: path.to_owned(), line: index + 1, why };
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let key = RootKey::parse(line).map_err(at)?;
        if keys.iter().any(|other| other.id == key.id) {
            return Err(at("has a key id that stands above already: remove one of the two lines"));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(KeyFileError::Empty(path.to_owned()));
    }
    Ok(keys)
}

/// Writes a new file with one new key.
pub(super) fn create(path: &Path) -> Result<RootKey, KeyFileError> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => KeyFileError::Io { file: path.to_owned(), cause },
    };
    let key = RootKey::random().map_err(failed)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    if let Err(cause) = file.write_all(&key.line()).and_then(|()| file.sync_all()) {
        // Half a key file would stand in the way of the next try. It was made here, so it may go.
        let _ = std::fs::remove_file(path);
        return Err(failed(cause));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(key)
}

/// Puts a new key on top of the file, above all that stands in it, and gives all its keys.
pub(super) fn add(path: &Path) -> Result<Vec<RootKey>, KeyFileError> {
    let old = read(path)?;
    let mut keys = parse(&old, path)?;
    let key = RootKey::random().map_err(|cause| KeyFileError::Io { file: path.to_owned(), cause })?;
    let line = key.line();
    // Room for all of it at once: a vector that grew would leave keys behind.
    let mut text = Zeroizing::new(Vec::with_capacity(line.len() + old.len()));
    text.extend_from_slice(&line);
    text.extend_from_slice(&old);
    replace(path, &text).map_err(|cause| KeyFileError::Io { file: path.to_owned(), cause })?;
    keys.insert(0, key);
    Ok(keys)
}

/// The whole new file takes the old one's place at once: a crash leaves one or the other. A link is
/// followed, so that the link stays one.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let path = std::fs::canonicalize(path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = folder.join(name);
    // Half a file that an earlier try left.
    let _ = std::fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()
}

/// One line of the file.
pub(super) struct RootKey {
    pub(super) id: String,
    pub(super) key: Secret,
}

impl RootKey {
    /// A new key with a new id.
    pub(super) fn random() -> io::Result<Self> {
        let failed = |_| io::Error::other("the system's random source failed");
        let mut id = [0; 8];
        rand::fill(&mut id).map_err(failed)?;
        let key = Secret::filled(KEY, rand::fill).map_err(failed)?;
        Ok(Self { id: hex(&id), key })
    }

    /// Reads `relay-key-1 ID BASE64 CHECK`, or says what is wrong with it.
    fn parse(line: &[u8]) -> Result<Self, &'static str> {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        if words.next() != Some(WORD.as_bytes()) {
            return Err("does not begin with relay-key-1: a newer relay wrote it, or it is no key's line");
        }
        let (Some(id), Some(encoded), Some(check), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("is not relay-key-1, a key id, the key and its check: put the whole line back");
        };
        let named = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        if id.len() > 40 || !id.iter().all(named) {
            return Err("has a key id that is not 1 to 40 letters, digits, - _ or .: put the line back");
        }
        // Base64 of 32 bytes is 44 characters, which its decoder takes for up to 33 bytes.
        let mut bytes = Zeroizing::new([0; 33]);
        let len = match encoded.len() {
            44 => STANDARD.decode_slice(encoded, &mut *bytes).ok(),
            _ => None,
        };
        let bytes = bytes.get(..len.unwrap_or(0)).unwrap_or_default();
        if bytes.len() != KEY {
            return Err("has a key that is not 32 bytes in base64: put the whole line back");
        }
        let id = String::from_utf8_lossy(id).into_owned();
        let key = Self { id, key: Secret::new(bytes.to_vec()) };
        if key.check().as_bytes() != check {
            return Err("was changed or damaged, its check does not fit: put the whole line back");
        }
        Ok(key)
    }

    fn line(&self) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new([0; 44]);
        // 32 bytes are 44 characters in base64: it always fits.
        let len = STANDARD.encode_slice(self.key.expose(), &mut *key).unwrap_or(0);
        // Room for all of it at once: a vector that grew would leave the key behind.
        let mut line = Zeroizing::new(Vec::with_capacity(512));
        line.extend_from_slice(
            b"# relay's key: whoever reads it reads every credential. Keep a copy apart from the store.\n",
        );
        for part in [WORD.as_bytes(), b" ", self.id.as_bytes(), b" "] {
            line.extend_from_slice(part);
        }
        line.extend_from_slice(key.get(..len).unwrap_or_default());
        line.extend_from_slice(b" ");
        line.extend_from_slice(self.check().as_bytes());
        line.extend_from_slice(b"\n");
        line
    }

    /// 8 bytes that tell a damaged line from a whole one, and nothing of the key.
    fn check(&self) -> String {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.key.expose()));
        mac.update(b"relay key check v1 ");
        mac.update(self.id.as_bytes());
        hex(mac.sign().as_ref().get(..8).unwrap_or_default())
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
        _ => KeyFileError::Io { file: path.to_owned(), cause },
    };
    // Without waiting: opening a pipe would otherwise hang the start until someone writes to it.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
    // Asked of the open file, not of the path: what was judged is what is read.
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    }
    let (owner, user) = (about.uid(), rustix::process::geteuid().as_raw());
    if owner != user && owner != 0 {
        return Err(KeyFileError::Owner { file: path.to_owned(), owner, user });
    }
    let mode = about.mode() & 0o7777;
    if mode & open_bits(owner, user) != 0 {
        return Err(KeyFileError::Open { file: path.to_owned(), mode });
    }
    // Room for all of it at once: a vector that grew would leave keys behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(LARGEST).unwrap_or(0) + 1));
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LARGEST {
        let cause = io::Error::other("it is over 16 KiB, so it is no key file: name the right file");
        return Err(KeyFileError::Io { file: path.to_owned(), cause });
    }
    Ok(text)
}

/// Permission bits that a key file must not have. What root hands to another user by the group's right to read,
/// as Kubernetes and systemd mount secrets, is as closed as root wanted it.
const fn open_bits(owner: u32, user: u32) -> u32 {
    if owner == 0 && user != 0 { 0o037 } else { 0o077 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::open_bits;

    #[test]
    fn only_root_may_let_a_group_read_a_key_file() {
        let (root, relay) = (0, 65_532);
        for mode in [0o440, 0o640] {
            assert_eq!(mode & open_bits(root, relay), 0, "{mode:o}");
            assert_ne!(mode & open_bits(relay, relay), 0, "{mode:o} of relay's own");
            assert_ne!(mode & open_bits(root, root), 0, "{mode:o} of root's own");
        }
        for mode in [0o660, 0o450, 0o444, 0o604, 0o601] {
            assert_ne!(mode & open_bits(root, relay), 0, "{mode:o}");
        }
        assert_eq!(0o600 & open_bits(relay, relay), 0);
    }
}
