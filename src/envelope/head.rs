//! What relay believes of a secret without opening it: state, version, expiry, fields, origin.
//!
//! Format 1 is the fields below in the clear and an HMAC-SHA-256 over all of them, under a key derived from
//! the customer's data key. No field is believed before the code is found right. It does not prove that
//! the head is the newest: an older whole head put back is found by the audit's anchors, not here. What
//! must never enter: a value, or anything that would have to be hidden.

use aws_lc_rs::{hkdf, hmac};

use super::wire::{self, FORMAT, Reader};
use super::{Binding, EnvelopeError};
use crate::model::{Customer, DataKeyId, FieldSpec, IntegrationName, Origin, SecretId, State};
use crate::secret::DataKey;

const CODE: usize = 32;

/// A secret's head. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose it is.
    pub customer: Customer,
    /// Its UUID.
    pub id: SecretId,
    /// The integration it may be used on.
    pub integration: IntegrationName,
    /// Where it may go.
    pub origin: Origin,
    /// Where else it may go, for access tokens alone.
    pub token_origin: Option<Origin>,
    /// What people call it.
    pub label: String,
    /// Whether it may be used.
    pub state: State,
    /// The current version.
    pub version: u32,
    /// The highest version there ever was: a new one gets the next number.
    pub highest_version: u32,
    /// Until when it may be used.
    pub expires_at: Option<u64>,
    /// The data key that the current version and this head are under.
    pub data_key: DataKeyId,
    /// The names and flags of the current version's fields, in order.
    pub fields: Vec<FieldSpec>,
    /// [`super::Terms`]: a base path of the customer's own, limits of the secret's own. Authenticated.
    pub policy: Vec<u8>,
    /// The fingerprint of the current version's values.
    pub fingerprint: [u8; 8],
    /// When it was added.
    pub created_at: u64,
    /// When it was last changed.
    pub updated_at: u64,
    /// How often it was changed.
    pub changes: u64,
}

impl Head {
    /// The head as stored, with its code under `key`, which must be the key that `data_key` names.
    pub fn encode(&self, key: &DataKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.push(FORMAT);
        out.extend_from_slice(self.data_key.as_bytes());
        wire::put(&mut out, self.customer.as_str().as_bytes());
        out.extend_from_slice(self.id.as_bytes());
        wire::put(&mut out, self.integration.as_str().as_bytes());
        wire::put_origin(&mut out, &self.origin);
        wire::put(&mut out, self.label.as_bytes());
        out.push(match self.state {
            State::Active => 1,
            State::Disabled => 2,
        });
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.highest_version.to_be_bytes());
        wire::put_instant(&mut out, self.expires_at);
        wire::put_fields(&mut out, &self.fields);
        wire::put(&mut out, &self.policy);
        out.extend_from_slice(&self.fingerprint);
        for number in [self.created_at, self.updated_at, self.changes] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        if let Some(origin) = &self.token_origin {
            wire::put_origin(&mut out, origin);
        }
        // Without a key there is no code, and a head without its code opens nowhere.
        if let Ok(key) = code_key(key) {
            let code = hmac::sign(&key, &out);
            out.extend_from_slice(code.as_ref());
        }
        out
    }

    /// Which data key to ask for, read before anything is proven: good for finding the key, and for
    /// nothing else.
    pub fn data_key_of(bytes: &[u8]) -> Result<DataKeyId, EnvelopeError> {
        Reader::of_record(bytes)?.array().map(|id| DataKeyId::from_bytes(*id))
    }

    /// What a stored head says, before anything is proven: good for leaving out what is not looked for, where
    /// opening every customer's data key would be too much, and for nothing else.
    pub fn unproven(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (signed, _) = Reader::over(bytes).rest_and_last::<CODE>()?;
        Self::read(signed)
    }

    /// Reads a stored head, if its code is right and it is the head of this customer's secret `id`.
    pub fn decode(
        key: &DataKey,
        customer: &Customer,
        id: SecretId,
        bytes: &[u8],
    ) -> Result<Self, EnvelopeError> {
        if Self::data_key_of(bytes)? != key.id() {
            return Err(EnvelopeError::WrongKey);
        }
        let (signed, code) = Reader::over(bytes).rest_and_last::<CODE>()?;
        hmac::verify(&code_key(key)?, signed, code).map_err(|_| EnvelopeError::NotAuthentic)?;
        let head = Self::read(signed)?;
        if head.customer != *customer || head.id != id {
            return Err(EnvelopeError::NotAuthentic);
        }
        Ok(head)
    }

    /// What the current version is sealed for.
    pub fn binding(&self) -> Binding<'_> {
        Binding {
            customer: &self.customer,
            secret: self.id,
            version: self.version,
            data_key: self.data_key,
            integration: &self.integration,
            origin: &self.origin,
            expires_at: self.expires_at,
            fields: &self.fields,
            token_origin: self.token_origin.as_ref(),
        }
    }

    fn read(signed: &[u8]) -> Result<Self, EnvelopeError> {
        let mut from = Reader::of_record(signed)?;
        let data_key = DataKeyId::from_bytes(*from.array()?);
        let customer =
            Customer::parse(from.text()?).map_err(|_| EnvelopeError::Damaged("its customer is none"))?;
        let mut head = Self {
            data_key,
            token_origin: None,
            customer,
            id: SecretId::from_bytes(*from.array()?),
            integration: IntegrationName::parse(from.text()?)
                .map_err(|_| EnvelopeError::Damaged("its integration is none"))?,
            origin: from.origin()?,
            label: from.text()?.to_owned(),
            state: match from.byte()? {
                1 => State::Active,
                2 => State::Disabled,
                _ => return Err(EnvelopeError::Damaged("its state is none")),
            },
            version: from.number()?,
            highest_version: from.number()?,
            expires_at: from.instant()?,
            fields: from.fields()?,
            policy: from.bytes()?.to_vec(),
            fingerprint: *from.array()?,
            created_at: from.long()?,
            updated_at: from.long()?,
            changes: from.long()?,
        };
        // A secret that goes nowhere else ends here, as every one did before there were tokens.
        if !from.is_at_end() {
            head.token_origin = Some(from.origin()?);
        }
        from.end()?;
        Ok(head)
    }
}

/// HKDF-SHA-256 (RFC 5869) of the data key: what authenticates heads encrypts nothing. It fails only for
/// keys of more than 255 blocks, and this is one.
fn code_key(key: &DataKey) -> Result<hmac::Key, EnvelopeError> {
    hkdf::Salt::none(hkdf::HKDF_SHA256)
        .extract(key.expose())
        .expand(&[b"relay head v1"], hmac::HMAC_SHA256)
        .map(hmac::Key::from)
        .map_err(|_| EnvelopeError::Library)
}
