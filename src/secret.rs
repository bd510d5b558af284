//! The one type that plaintext may stand in.
//!
//! No Debug, Clone, Display, Serialize, Deref or PartialEq: it cannot slip into a log line, a second
//! copy or a comparison that stops at the first difference. It is wiped when dropped. The one door out
//! is [`Secret::expose`], so that every use can be found by its name.

pub(crate) mod data_key;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::model::FieldSpec;

pub use data_key::DataKey;

/// Bytes that must not be seen: a credential's field, a key, a password.
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes the bytes over. A vector with spare room is moved once and the old place wiped.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        if bytes.capacity() == bytes.len() {
            return Self(bytes.into_boxed_slice());
        }
        let exact: Box<[u8]> = bytes.as_slice().into();
        bytes.zeroize();
        Self(exact)
    }

    /// `len` bytes, written in place by `fill`, so that no copy stands on the stack.
    pub fn filled<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Self(vec![0; len].into_boxed_slice());
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// The plaintext. The caller keeps it inside `envelope`, `kms`, `stage::inject`,
    /// `stage::sign` or `stage::scrub`.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes it has. The length of a credential is not treated as secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it equals `other`, in time that depends on the lengths only.
    pub fn equals(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// One field of a credential, opened or about to be sealed.
pub struct Field {
    /// Its name and whether it is scrubbed.
    pub spec: FieldSpec,
    /// Its plaintext.
    pub value: Secret,
}
