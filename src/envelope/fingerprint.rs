//! What is derived from values and names under the store-wide key: marks that are compared, never opened.
//!
//! A fingerprint lets an operator see that two values are the same without seeing either. Without the
//! store-wide key it tells nothing, not even about a guess. What must never enter: a plain hash of a value.

use aws_lc_rs::hmac;

use super::wire;
use crate::model::{Customer, IntegrationName, SecretId};
use crate::secret::{Field, Secret};

/// 8 bytes of HMAC-SHA-256 over names and values in their order.
pub fn fingerprint(store_key: &Secret, fields: &[Field]) -> [u8; 8] {
    let mut mac = begin(store_key, b"relay fingerprint v1");
    for field in fields {
        part(&mut mac, field.spec.name.as_str().as_bytes());
        part(&mut mac, field.value.expose());
    }
    first(&mac.sign())
}

/// The id that an idempotency key stands for: the same one each time, for this customer and integration
/// only, in the shape of a UUIDv4 (RFC 9562 section 5.4).
pub fn derived_id(
    store_key: &Secret,
    customer: &Customer,
    integration: &IntegrationName,
    idempotency: &str,
) -> SecretId {
    let mut mac = begin(store_key, b"relay idempotency v1");
    for text in [customer.as_str(), integration.as_str(), idempotency] {
        part(&mut mac, text.as_bytes());
    }
    let mut bytes: [u8; 16] = first(&mac.sign());
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    SecretId::from_bytes(bytes)
}

fn begin(store_key: &Secret, purpose: &[u8]) -> hmac::Context {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, store_key.expose()));
    part(&mut mac, purpose);
    mac
}

fn part(mac: &mut hmac::Context, bytes: &[u8]) {
    mac.update(&wire::count(bytes.len()));
    mac.update(bytes);
}

fn first<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    // SHA-256 has 32 bytes and N is 8 or 16: the default is never taken.
    tag.as_ref().first_chunk().copied().unwrap_or([0; N])
}
