//! A template and a credential become what stands in a place, before it is escaped for the place.
//!
//! One pass: a value that holds `{other}` is text like any other. Buffers have their exact size, so that none
//! grows and leaves a copy behind. What must never leave: plaintext in an error.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::config::template::{Part, Template};
use crate::envelope::check_value;
use crate::model::FieldName;
use crate::refusal::{Code, Refusal};
use crate::secret::Secret;
use crate::stage::unseal::Credential;

/// A template, filled.
pub(super) struct Rendered {
    /// What stands in the place.
    pub(super) text: Zeroizing<Vec<u8>>,
    /// What a function made of the fields, for the scrubber.
    pub(super) encoded: Option<Secret>,
}

/// Fills a template.
///
/// # Errors
/// `credential_unusable` if a field is missing or has a value that no place takes.
pub(super) fn render(template: &Template, credential: &Credential) -> Result<Rendered, Refusal> {
    match template {
        Template::Text(parts) => Ok(Rendered { text: text(parts, credential)?, encoded: None }),
        Template::Basic { user, password } => {
            let (user, password) = (usable(credential, user)?, usable(credential, password)?);
            if user.contains(&b':') {
                return Err(Refusal::new(
                    Code::CredentialUnusable,
                    "Basic's user name holds a colon (RFC 7617 section 2).",
                ));
            }
            let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + password.len() + 1));
            pair.extend_from_slice(user);
            pair.push(b':');
            pair.extend_from_slice(password);
            encoded(b"Basic ", &pair)
        }
        Template::Base64 { before, inside } => encoded(before.as_bytes(), &text(inside, credential)?),
    }
}

fn text(parts: &[Part], credential: &Credential) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut text = Zeroizing::new(Vec::with_capacity(text_length(parts, credential)));
    for part in parts {
        match part {
            Part::Literal(literal) => text.extend_from_slice(literal.as_bytes()),
            Part::Field(name) => text.extend_from_slice(usable(credential, name)?),
        }
    }
    Ok(text)
}

fn encoded(before: &[u8], plain: &[u8]) -> Result<Rendered, Refusal> {
    let mut encoded = Zeroizing::new(vec![0; plain.len().div_ceil(3) * 4]);
    let length =
        STANDARD.encode_slice(plain, &mut encoded).map_err(|_| Refusal::from(Code::CredentialUnusable))?;
    encoded.truncate(length);
    let mut text = Zeroizing::new(Vec::with_capacity(before.len() + length));
    text.extend_from_slice(before);
    text.extend_from_slice(&encoded);
    Ok(Rendered { text, encoded: Some(Secret::new(std::mem::take(&mut *encoded))) })
}

/// The exact length, so that the buffer never grows and leaves a copy behind.
fn text_length(parts: &[Part], credential: &Credential) -> usize {
    let length = |part: &Part| match part {
        Part::Literal(literal) => literal.len(),
        Part::Field(name) => credential.value(name).map_or(0, Secret::len),
    };
    parts.iter().map(length).sum()
}

/// A field's value, checked again: the store may have been written by an older relay.
pub(super) fn usable<'a>(credential: &'a Credential, name: &FieldName) -> Result<&'a [u8], Refusal> {
    let Some(value) = credential.value(name) else {
        let detail =
            format!("The stored credential has no field {:?}: add a version that has it.", name.as_str());
        return Err(Refusal::new(Code::CredentialUnusable, detail));
    };
    check_value(value.expose()).map_err(|why| {
        let detail = format!("The stored credential's field {:?} cannot stand in a request.", name.as_str());
        Refusal::new(Code::CredentialUnusable, detail).because(why.to_string())
    })?;
    Ok(value.expose())
}

/// `text` percent-encoded (RFC 3986 section 2.1), but for letters, digits, `-._~` and what `also` names.
pub(super) fn percent_encoded(text: &[u8], also: &[u8]) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let stands = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || also.contains(byte);
    let escaped = text.iter().filter(|byte| !stands(byte)).count();
    let mut encoded = Zeroizing::new(Vec::with_capacity(text.len() + 2 * escaped));
    for byte in text {
        if stands(byte) {
            encoded.push(*byte);
        } else {
            let digits = [byte >> 4, byte & 15].map(|half| DIGITS.get(usize::from(half)).copied());
            encoded.push(b'%');
            encoded.extend(digits.into_iter().flatten());
        }
    }
    encoded
}

/// Joins `pieces` into a buffer of their exact length.
pub(super) fn joined(pieces: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum()));
    for piece in pieces {
        text.extend_from_slice(piece);
    }
    text
}

/// `text` as a secret of its own, for the scrubber.
pub(super) fn kept(text: &[u8]) -> Secret {
    Secret::new(text.to_vec())
}
