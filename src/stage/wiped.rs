//! Plaintext in a request's own types: header fields, targets and bodies share these bytes, and the last share wipes
//! them. What must never enter: a copy that is not wiped, a header that may be shown.

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::refusal::{Code, Refusal};

/// Bytes that are wiped when the last share goes.
pub(super) struct Wiped(pub(super) Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A header's value that is shown nowhere.
///
/// # Errors
/// `credential_unusable` for text that no header takes.
pub(super) fn header_value(text: Zeroizing<Vec<u8>>) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(text))).map_err(|_| {
        Refusal::new(Code::CredentialUnusable, "The stored credential cannot stand in a header.")
    })?;
    value.set_sensitive(true);
    Ok(value)
}
