//! Texts of the configuration, filled with the secret's fields.
//!
//! What must never enter: a buffer that grows, as it would leave values behind.

use zeroize::Zeroizing;

use crate::config::renewal::Material;
use crate::config::template::{Part, Template};
use crate::refusal::{Code, Refusal};
use crate::secret::Field;

/// A value as the fields fill it.
pub(super) fn filled(value: &Material, fields: &[Field]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let template = match value {
        Material::Owned(secret) => return Ok(Zeroizing::new(secret.expose().to_vec())),
        Material::Fields(template) => template,
    };
    let parts = pieces(template, fields)?;
    let mut out = Zeroizing::new(Vec::with_capacity(parts.iter().map(|(piece, _)| piece.len()).sum()));
    for (piece, _) in parts {
        out.extend_from_slice(piece);
    }
    Ok(out)
}

/// A path in which each field is (part of) one segment.
pub(super) fn path(template: &Template, fields: &[Field]) -> Result<String, Refusal> {
    let mut out = String::new();
    for (piece, is_field) in pieces(template, fields)? {
        if !is_field {
            out.push_str(std::str::from_utf8(piece).unwrap_or_default());
            continue;
        }
        if piece.iter().all(|byte| *byte == b'.') {
            return Err(Refusal::new(
                Code::CredentialUnusable,
                "A field of the secret is no segment of a path.",
            ));
        }
        for byte in piece {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
                out.push(char::from(*byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    Ok(out)
}

/// The pieces of a text, and whether each is a field's value.
fn pieces<'a>(template: &'a Template, fields: &'a [Field]) -> Result<Vec<(&'a [u8], bool)>, Refusal> {
    // Configuration has let nothing but text pass.
    let Template::Text(parts) = template else { return Err(Code::CredentialUnusable.into()) };
    let mut pieces = Vec::with_capacity(parts.len());
    for part in parts {
        pieces.push(match part {
            Part::Field(name) => {
                let found = fields.iter().find(|field| field.spec.name == *name);
                (found.ok_or_else(|| missing(name.as_str()))?.value.expose(), true)
            }
            literal => (literal.literal().as_bytes(), false),
        });
    }
    Ok(pieces)
}

/// There is no such field.
pub(super) fn missing(name: &str) -> Refusal {
    let detail = format!("The stored credential has no field {name:?}: add a new version of the secret.");
    Refusal::new(Code::CredentialUnusable, detail)
}
