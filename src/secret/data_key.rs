//! A customer's data key, and what HKDF-SHA-256 (RFC 5869) makes of it for one sealed record.
//!
//! What was derived for records in use is kept beside the data key and goes when it goes, so that it opens nothing
//! for longer than the data key itself would. What must never enter: a plaintext of a record.

use std::sync::{Arc, Mutex, PoisonError};

use aes_gcm::{Aes256Gcm, KeyInit};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use super::Secret;
use crate::model::DataKeyId;

/// Bytes of a record's salt.
pub(crate) const SALT: usize = 32;
/// Bytes of the commitment to a record's key.
pub(crate) const COMMITMENT: usize = 32;
/// Records whose derivation is kept beside one data key: about 1 KiB at most.
const KEPT: usize = 8;

/// An AES-256 key that seals one customer's secrets, unwrapped.
pub struct DataKey {
    id: DataKeyId,
    key: Secret,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: Vec<Entry>,
    /// Which is replaced next.
    next: usize,
}

struct Entry {
    label: &'static [u8],
    salt: [u8; SALT],
    derived: Arc<Derived>,
}

impl DataKey {
    /// A key from its 32 bytes; `None` for any other length.
    pub fn new(id: DataKeyId, key: Secret) -> Option<Self> {
        (key.len() == 32).then_some(Self { id, key, kept: Mutex::default() })
    }

    /// The id under which it stands, wrapped, in the store.
    pub const fn id(&self) -> DataKeyId {
        self.id
    }

    /// The key's 32 bytes, for `envelope` and for a KMS key to wrap.
    pub fn expose(&self) -> &[u8] {
        self.key.expose()
    }

    /// What opens the record of that salt, kept for the next time.
    pub(crate) fn derived(
        &self,
        label: &'static [u8],
        salt: &[u8; SALT],
    ) -> Result<Arc<Derived>, Unspecified> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |entry: &&Entry| entry.salt == *salt && entry.label == label;
        if let Some(found) = lock().entries.iter().find(is_it) {
            return Ok(found.derived.clone());
        }
        let derived = Arc::new(self.derive(label, salt)?);
        let entry = Entry { label, salt: *salt, derived: derived.clone() };
        let mut kept = lock();
        let next = kept.next;
        kept.next = (next + 1) % KEPT;
        match kept.entries.get_mut(next) {
            Some(oldest) => *oldest = entry,
            None => kept.entries.push(entry),
        }
        Ok(derived)
    }

    /// The same, not kept: for a salt that is drawn at this moment.
    pub(crate) fn derive(&self, label: &'static [u8], salt: &[u8; SALT]) -> Result<Derived, Unspecified> {
        let mut both = Zeroizing::new([[0; 32]; 2]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(self.key.expose())
            .expand(&[label], Both)
            .and_then(|okm| okm.fill(both.as_flattened_mut()))?;
        Ok(Derived(both))
    }
}

/// The AES key and the commitment of one sealed record, wiped when dropped.
pub(crate) struct Derived(Zeroizing<[[u8; 32]; 2]>);

impl Derived {
    /// What seals and opens it.
    pub(crate) fn cipher(&self) -> Aes256Gcm {
        let [key, _] = &*self.0;
        Aes256Gcm::new(key.into())
    }

    /// What stands in the record beside its ciphertext.
    pub(crate) fn commitment(&self) -> &[u8; COMMITMENT] {
        let [_, commitment] = &*self.0;
        commitment
    }
}

/// The length of key and commitment together.
struct Both;

impl hkdf::KeyType for Both {
    fn len(&self) -> usize {
        32 + COMMITMENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey::new(DataKeyId::from_bytes([1; 16]), Secret::new(vec![byte; 32])).unwrap()
    }

    #[test]
    fn what_is_kept_is_what_is_derived_and_bounded() {
        let key = key(7);
        for round in 0..3_u8 {
            for number in 0..(3 * KEPT) {
                let salt = [u8::try_from(number).unwrap(); SALT];
                for label in [b"one".as_slice(), b"other"] {
                    let (kept, anew) =
                        (key.derived(label, &salt).unwrap(), key.derive(label, &salt).unwrap());
                    assert_eq!(kept.0, anew.0, "round {round}");
                    let again = key.derived(label, &salt).unwrap();
                    assert!(Arc::ptr_eq(&kept, &again), "it was not kept");
                }
            }
        }
        assert_eq!(key.kept.lock().unwrap().entries.len(), KEPT);
    }

    #[test]
    fn another_salt_label_or_key_derives_something_else() {
        let (first, salt) = (key(7), [1; SALT]);
        let one = first.derived(b"one", &salt).unwrap();
        assert_ne!(one.0, first.derived(b"one", &[2; SALT]).unwrap().0, "another salt");
        assert_ne!(one.0, first.derived(b"two", &salt).unwrap().0, "another label");
        assert_ne!(one.0, key(8).derived(b"one", &salt).unwrap().0, "another key");
    }
}
