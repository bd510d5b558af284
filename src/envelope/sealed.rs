//! The values of one version of a secret, encrypted and bound.
//!
//! Format 1: `1 | salt 32 | commitment 32 | nonce 12 | ciphertext | tag 16`. HKDF-SHA-256 (RFC 5869) of the
//! data key under the random salt gives a fresh AES-256-GCM key and a commitment to it: GCM alone lets one
//! ciphertext open under two keys. The plaintext is every value behind its length, in the binding's order.
//! What must never enter: a way to open without a binding.

use aes_gcm::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aws_lc_rs::rand;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::wire::{self, FORMAT, Reader};
use super::{EnvelopeError, LONGEST_VALUE};
use crate::model::{Customer, DataKeyId, FieldSpec, IntegrationName, Origin, SecretId};
use crate::secret::data_key::{COMMITMENT, SALT};
use crate::secret::{DataKey, Field, Secret};

const NONCE: usize = 12;
const TAG: usize = 16;

/// What a sealed version is bound to: the AEAD's associated data. It opens for exactly this.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// Whose it is.
    pub customer: &'a Customer,
    /// Which secret.
    pub secret: SecretId,
    /// Which version of it.
    pub version: u32,
    /// The data key it is sealed under.
    pub data_key: DataKeyId,
    /// The integration it may be used on.
    pub integration: &'a IntegrationName,
    /// Where it may go.
    pub origin: &'a Origin,
    /// Until when, in seconds since 1970; `None` is without end.
    pub expires_at: Option<u64>,
    /// The names and flags of its fields, in order.
    pub fields: &'a [FieldSpec],
    /// Where else it may go, for access tokens alone; `None` is nowhere.
    pub token_origin: Option<&'a Origin>,
}

/// Seals `fields` under `key` for what `binding` says and nothing else.
pub fn seal(key: &DataKey, binding: &Binding<'_>, fields: &[Field]) -> Result<Vec<u8>, EnvelopeError> {
    let (salt, nonce) = drawn()?;
    seal_with(key, binding, fields, &salt, &nonce)
}

/// Opens what [`seal`] returned, for the same key and binding only. Nothing is decrypted before the
/// commitment and the tag are found right.
pub fn open(key: &DataKey, binding: &Binding<'_>, sealed: &[u8]) -> Result<Vec<Field>, EnvelopeError> {
    let key = Purpose::Fields.of(key, binding)?;
    let plaintext = key.open(&binding.encode(), Reader::of_record(sealed)?)?;
    split(&plaintext, binding.fields)
}

/// Seals anew what [`seal`] returned: for another data key, another origin, another expiry. The plaintext does
/// not leave this function; the fields stay what they are.
pub fn reseal(
    (old, from): (&DataKey, &Binding<'_>),
    sealed: &[u8],
    (new, to): (&DataKey, &Binding<'_>),
) -> Result<Vec<u8>, EnvelopeError> {
    let fields = open(old, from, sealed)?;
    seal(new, to, &fields)
}

fn seal_with(
    key: &DataKey,
    binding: &Binding<'_>,
    fields: &[Field],
    salt: &[u8; SALT],
    nonce: &[u8; NONCE],
) -> Result<Vec<u8>, EnvelopeError> {
    if !binding.fields.iter().eq(fields.iter().map(|field| &field.spec)) {
        return Err(EnvelopeError::FieldsDiffer);
    }
    if fields.iter().any(|field| field.value.len() > LONGEST_VALUE) {
        return Err(EnvelopeError::Damaged("a value is over 64 KiB"));
    }
    let key = Purpose::Fields.of(key, binding)?;
    let len: usize = fields.iter().map(|field| 4 + field.value.len()).sum();
    // Room for all of it at once: a vector that grew would leave plaintext behind.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(len));
    for field in fields {
        wire::put(&mut plaintext, field.value.expose());
    }
    let mut sealed = vec![FORMAT];
    key.seal(&binding.encode(), plaintext, (salt, nonce), &mut sealed)?;
    Ok(sealed)
}

fn split(plaintext: &Secret, specs: &[FieldSpec]) -> Result<Vec<Field>, EnvelopeError> {
    let mut reader = Reader::over(plaintext.expose());
    let mut fields = Vec::with_capacity(specs.len());
    for spec in specs {
        fields.push(Field { spec: spec.clone(), value: Secret::new(reader.bytes()?.to_vec()) });
    }
    reader.end()?;
    Ok(fields)
}

impl Binding<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let texts = self.customer.as_str().len() + self.integration.as_str().len() + self.origin.host().len();
        let mut out = Vec::with_capacity(72 + texts + 45 * self.fields.len());
        out.push(FORMAT);
        wire::put(&mut out, self.customer.as_str().as_bytes());
        out.extend_from_slice(self.secret.as_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(self.data_key.as_bytes());
        wire::put(&mut out, self.integration.as_str().as_bytes());
        wire::put_origin(&mut out, self.origin);
        wire::put_instant(&mut out, self.expires_at);
        wire::put_fields(&mut out, self.fields);
        // The fields are counted: what stands behind them is this, or nothing.
        if let Some(origin) = self.token_origin {
            wire::put_origin(&mut out, origin);
        }
        out
    }
}

/// What is sealed: no key of one purpose opens what another sealed.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// The fields of a version.
    Fields,
    /// An access token.
    Access,
    /// A refresh token.
    Refresh,
}

impl Purpose {
    /// The data key for this purpose, if it is the one that the binding names.
    pub(super) fn of<'a>(
        self,
        key: &'a DataKey,
        binding: &Binding<'_>,
    ) -> Result<PurposeKey<'a>, EnvelopeError> {
        let label: &'static [u8] = match self {
            Self::Fields => b"relay sealed v1",
            Self::Access => b"relay access token v1",
            Self::Refresh => b"relay refresh token v1",
        };
        if key.id() == binding.data_key {
            Ok(PurposeKey { key, label })
        } else {
            Err(EnvelopeError::WrongKey)
        }
    }
}

/// A data key for one purpose.
pub(super) struct PurposeKey<'a> {
    key: &'a DataKey,
    label: &'static [u8],
}

impl PurposeKey<'_> {
    /// Adds `salt | commitment | nonce | ciphertext | tag` to `out`.
    pub(super) fn seal(
        &self,
        aad: &[u8],
        mut plaintext: Zeroizing<Vec<u8>>,
        (salt, nonce): (&[u8; SALT], &[u8; NONCE]),
        out: &mut Vec<u8>,
    ) -> Result<(), EnvelopeError> {
        let derived = self.key.derive(self.label, salt).map_err(|_| EnvelopeError::Library)?;
        let tag = derived
            .cipher()
            .encrypt_inout_detached(nonce.into(), aad, plaintext.as_mut_slice().into())
            .map_err(|_| EnvelopeError::Library)?;
        out.reserve_exact(SALT + COMMITMENT + NONCE + plaintext.len() + TAG);
        out.extend_from_slice(salt);
        out.extend_from_slice(derived.commitment());
        out.extend_from_slice(nonce);
        out.extend_from_slice(&plaintext);
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// The plaintext of what `reader` stands before, to its end.
    pub(super) fn open(&self, aad: &[u8], mut reader: Reader<'_>) -> Result<Secret, EnvelopeError> {
        let salt = reader.array::<SALT>()?;
        let commitment = reader.array::<COMMITMENT>()?;
        let nonce = reader.array::<NONCE>()?;
        let (ciphertext, tag) = reader.rest_and_last::<TAG>()?;
        let derived = self.key.derived(self.label, salt).map_err(|_| EnvelopeError::Library)?;
        if !bool::from(derived.commitment().ct_eq(commitment)) {
            return Err(EnvelopeError::WrongKey);
        }
        Secret::filled(ciphertext.len(), |out| {
            let buffer = InOutBuf::new(ciphertext, out).map_err(|_| EnvelopeError::Library)?;
            derived
                .cipher()
                .decrypt_inout_detached(nonce.into(), aad, buffer, tag.into())
                .map_err(|_| EnvelopeError::NotAuthentic)
        })
    }
}

/// A fresh salt and nonce.
pub(super) fn drawn() -> Result<([u8; SALT], [u8; NONCE]), EnvelopeError> {
    let mut salt = [0; SALT];
    let mut nonce = [0; NONCE];
    rand::fill(&mut salt).map_err(|_| EnvelopeError::Library)?;
    rand::fill(&mut nonce).map_err(|_| EnvelopeError::Library)?;
    Ok((salt, nonce))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FieldName;

    /// Made by another implementation (Python's `cryptography`) from the description of format 1.
    const VECTOR: &str = "015a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a58f69f927e6a2b4f95892ff\
        3838724a11ae5631460f03e6e8da8ef508ffd847ec3c3c3c3c3c3c3c3c3c3c3c3ef95e1d160e0b6b23e048dbd747bd97187b64\
        72e2a4f9768ad6aff3c6b2c83df8656238be19561d378138849";

    #[test]
    fn the_same_salt_and_nonce_give_the_fixed_bytes() {
        let key = DataKey::new(
            DataKeyId::from_bytes(*b"\xaa\xaa\xaa\xaa\xbb\xbb\x4c\xcc\x8d\xdd\xee\xee\xee\xee\xee\xee"),
            Secret::new((0..32).collect()),
        )
        .unwrap();
        let spec = |name, secret| FieldSpec { name: FieldName::parse(name).unwrap(), secret };
        let field =
            |spec: &FieldSpec, value: &[u8]| Field { spec: spec.clone(), value: Secret::new(value.to_vec()) };
        let specs = [spec("user", false), spec("token", true)];
        let [user, token] = &specs;
        let fields = [field(user, b"bot"), field(token, b"xoxb-fixed-vector")];
        let binding = Binding {
            customer: &Customer::parse("acme").unwrap(),
            secret: SecretId::parse("11111111-2222-4333-8444-555555555555").unwrap(),
            version: 7,
            data_key: key.id(),
            integration: &IntegrationName::parse("slack").unwrap(),
            origin: &Origin::parse("https://slack.com").unwrap(),
            expires_at: Some(4_102_444_800),
            fields: &specs,
            token_origin: None,
        };
        let sealed = seal_with(&key, &binding, &fields, &[0x5a; SALT], &[0xc3; NONCE]).unwrap();
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, VECTOR);
    }
}
