//! The KMS key in a file of this machine, for one host or where the file itself comes from a vault.
//!
//! A line per key: `relay-key-1 ID BASE64 CHECK`. The first key wraps; the others still unwrap, so a new
//! key is put on top and the old one kept. Whoever reads the file reads every credential, so a file that
//! others may open is refused. What must never enter: a default key, a way on without the file.

mod keyfile;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use aws_lc_rs::{hkdf, rand};
use zeroize::Zeroizing;

use super::{Call, DATA_KEY as KEY, KeyContext, Kms, KmsError};
use crate::secret::Secret;

pub use keyfile::KeyFileError;
use keyfile::RootKey;

/// The first byte of what [`Local`] wraps.
const FORMAT: u8 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;

/// A key file's keys: the first wraps, every one unwraps.
pub struct Local {
    keys: RwLock<Arc<Vec<RootKey>>>,
    /// Where a new key is added; `None` for a key of this process alone.
    file: Option<PathBuf>,
}

impl Local {
    /// Reads a key file: a regular file (a link to one is followed), closed to group and others, owned by
    /// the effective user or root.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        keyfile::load(path).map(|keys| Self::of(keys, Some(path)))
    }

    /// Writes a new file with one new key, 0600, and syncs file and folder. An existing file is an error.
    pub fn create(path: &Path) -> Result<Self, KeyFileError> {
        Ok(Self::of(vec![keyfile::create(path)?], Some(path)))
    }

    /// A key of this process alone, gone with it (`relay dev`, tests). If the system's random source
    /// fails there is none, and every later call says so.
    pub fn ephemeral() -> Self {
        Self::of(RootKey::random().into_iter().collect(), None)
    }

    fn of(keys: Vec<RootKey>, file: Option<&Path>) -> Self {
        Self { keys: RwLock::new(Arc::new(keys)), file: file.map(Path::to_owned) }
    }

    // A writer replaces the whole list at once, so a poisoned lock guards whole data.
    fn keys(&self) -> Arc<Vec<RootKey>> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// `1 | key id behind its length | nonce 12 | ciphertext 32 | tag 16`
    fn seal(&self, context: KeyContext<'_>, key: &Secret) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).ok()?;
        let mut buffer = Zeroizing::new([0; KEY]);
        if key.len() != KEY {
            return None;
        }
        buffer.copy_from_slice(key.expose());
        let keys = self.keys();
        let active = keys.first()?;
        let tag = active
            .cipher()?
            .encrypt_inout_detached((&nonce).into(), &active.context(context), buffer.as_mut_slice().into())
            .ok()?;
        let id = active.id.as_bytes();
        let mut wrapped = vec![FORMAT, u8::try_from(id.len()).ok()?];
        wrapped.extend_from_slice(id);
        wrapped.extend_from_slice(&nonce);
        wrapped.extend_from_slice(&*buffer);
        wrapped.extend_from_slice(&tag);
        Some(wrapped)
    }

    fn open(&self, context: KeyContext<'_>, wrapped: &[u8]) -> Result<Secret, KmsError> {
        let damaged = || KmsError::Broken("it is not what a key file wrapped".to_owned());
        let keys = self.keys();
        let (format, rest) = wrapped.split_first().ok_or_else(damaged)?;
        if *format != FORMAT {
            return Err(KmsError::Broken(format!("it has format {format}, and this relay reads {FORMAT}")));
        }
        let (len, rest) = rest.split_first().ok_or_else(damaged)?;
        let (id, rest) = rest.split_at_checked((*len).into()).ok_or_else(damaged)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or_else(damaged)?;
        let (ciphertext, rest) = rest.split_first_chunk::<KEY>().ok_or_else(damaged)?;
        let tag: &[u8; TAG] = rest.try_into().map_err(|_| damaged())?;
        let key = named(&keys, id)?;
        let cipher = key.cipher().ok_or_else(|| KmsError::Broken("the key derivation failed".to_owned()))?;
        let wrong =
            || KmsError::Broken(format!("the key {} did not wrap it for this customer and data key", key.id));
        Secret::filled(KEY, |out| {
            out.copy_from_slice(ciphertext);
            cipher.decrypt_inout_detached(nonce.into(), &key.context(context), out.into(), tag.into())
        })
        .map_err(|_| wrong())
    }
}

/// A key that is not in the file is `Broken` and not `Denied`: nobody forbids its use, and no later try can
/// help until the operator puts the line back.
fn named<'k>(keys: &'k [RootKey], id: &[u8]) -> Result<&'k RootKey, KmsError> {
    keys.iter().find(|key| key.id.as_bytes() == id).ok_or_else(|| {
        let has: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
        KmsError::Broken(format!(
            "the key {} wrapped it, and the key file has only {}: add that key's line below the first",
            id.escape_ascii(),
            has.join(", "),
        ))
    })
}

impl Kms for Local {
    fn provider(&self) -> &'static str {
        "local"
    }

    fn key(&self) -> String {
        self.keys().first().map(|key| key.id.clone()).unwrap_or_default()
    }

    fn answers_to(&self, key: &str) -> bool {
        self.keys().iter().any(|other| other.id == key)
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> Call<'a, Vec<u8>> {
        let sealed = self.seal(context, key);
        Box::pin(async move {
            sealed.ok_or_else(|| KmsError::Unavailable("the random source or the cipher failed".to_owned()))
        })
    }

    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret> {
        Box::pin(async move { self.open(context, wrapped) })
    }

    /// A new key on top of the file, in place of the old file at once and synced. The file is read again
    /// first: a line that an operator added since the start stays.
    fn new_version(&self) -> Call<'_, ()> {
        Box::pin(async move {
            let failed = |error: KeyFileError| KmsError::Unavailable(error.to_string());
            let file = self.file.as_deref().ok_or_else(|| {
                KmsError::Denied("this key is of this process alone and has no newer version".to_owned())
            })?;
            let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
            *keys = Arc::new(keyfile::add(file).map_err(failed)?);
            Ok(())
        })
    }
}

impl RootKey {
    fn cipher(&self) -> Option<Aes256Gcm> {
        let mut key = Zeroizing::new([0; KEY]);
        hkdf::Salt::none(hkdf::HKDF_SHA256)
            .extract(self.key.expose())
            .expand(&[b"relay wrap v1"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut *key))
            .ok()?;
        Some(Aes256Gcm::new((&*key).into()))
    }

    /// The associated data: format, key id, customer and data key id, each variable part behind its length.
    fn context(&self, context: KeyContext<'_>) -> Vec<u8> {
        let mut out = vec![FORMAT];
        for part in [self.id.as_bytes(), context.customer.as_str().as_bytes()] {
            out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(part);
        }
        out.extend_from_slice(context.id.as_bytes());
        out
    }
}
