//! Step 6: the only place where a stored secret becomes plaintext.
//!
//! Wants a [`Line`] that is ready, so that nothing is decrypted for a vendor that cannot be reached. The
//! [`Credential`] lives for this request only; nothing here keeps it. What must never leave: plaintext in
//! an error.

use crate::config::renewal::ACCESS_TOKEN;
use crate::envelope::{self, EnvelopeError};
use crate::kms::KmsError;
use crate::kms::cached::DataKeys;
use crate::model::{FieldName, FieldSpec};
use crate::net::identity::Identity;
use crate::net::line::Line;
use crate::refusal::{Code, Refusal};
use crate::secret::{DataKey, Field, Secret};
use crate::stage::authorize::records::Record;
use crate::stage::record::Opened;
use crate::stage::route::Route;

/// A refresh token that the vendor gave for the field's own; configuration takes no field of this name.
const REPLACED: &str = "relay_replaced_refresh_token";

/// A secret's plaintext fields, alive for one request.
pub struct Credential {
    fields: Vec<Field>,
}

impl Credential {
    /// Values that somebody gives at this moment, to be tried before they are sealed.
    pub const fn in_hand(fields: Vec<Field>) -> Self {
        Self { fields }
    }

    /// One field's value.
    pub fn value(&self, name: &FieldName) -> Option<&Secret> {
        self.fields.iter().find(|field| field.spec.name == *name).map(|field| &field.value)
    }

    /// Whether a field is declared secret.
    pub fn is_secret(&self, name: &FieldName) -> bool {
        self.fields.iter().any(|field| field.spec.secret && field.spec.name == *name)
    }

    /// The fields declared secret: what is scrubbed from the answer.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.fields.iter().filter(|field| field.spec.secret).map(|field| &field.value)
    }
}

/// Opens the granted secret.
///
/// # Errors
/// `credential_unusable` for a record that does not open, `keys_unavailable`, `keys_denied`;
/// `secret_disabled`, `secret_not_found` if it was revoked while a connection was made.
pub async fn unseal(keys: &DataKeys, opened: &Opened, _ready: &Line) -> Result<Credential, Refusal> {
    let mut fields = fields(keys, opened).await?;
    // It is in the connection already, and never in a request or an answer.
    if let Some(shown) = &opened.grant().route().client_certificate {
        fields.retain(|field| field.spec.name != shown.certificate && field.spec.name != shown.key);
    }
    Ok(Credential { fields })
}

/// Opens the granted secret's client certificate, for a handshake that comes before there is a line.
///
/// # Errors
/// As [`unseal`]; `credential_unusable` also for what is no certificate with its key.
pub async fn identity(keys: &DataKeys, opened: &Opened) -> Result<Identity, Refusal> {
    let unusable = |why: &'static str| {
        Refusal::new(Code::CredentialUnusable, "The stored client certificate cannot be used.").because(why)
    };
    let shown = opened.grant().route().client_certificate.as_ref();
    let shown = shown.ok_or_else(|| unusable("the integration has no client certificate"))?;
    let fields = fields(keys, opened).await?;
    let value = |name: &FieldName| {
        let found = fields.iter().find(|field| field.spec.name == *name);
        found.map(|field| &field.value).ok_or_else(|| unusable("the secret lacks one of its fields"))
    };
    Identity::from_pem(value(&shown.certificate)?.expose(), value(&shown.key)?.expose())
        .map_err(|wrong| unusable(wrong.0))
}

async fn fields(keys: &DataKeys, opened: &Opened) -> Result<Vec<Field>, Refusal> {
    if let Some(revoked) = opened.grant().lease().revoked() {
        return Err(revoked.into());
    }
    let record = opened.grant().record();
    let head = record.head();
    let key = match keys.warm(&head.customer, head.data_key) {
        Some(key) => key,
        None => Box::pin(keys.open(&head.customer, head.data_key, record.wrapped_key())).await?,
    };
    match &opened.grant().route().renewing {
        None => Ok(envelope::open(&key, &head.binding(), record.sealed())?),
        Some(_) => with_token(&key, record, opened.grant().route()),
    }
}

/// The access token, beside what it is had with: that goes nowhere, and is looked for in answers as any secret
/// field is. Private keys are not: they have lines, and a stream would have to wait for each line's end.
fn with_token(key: &DataKey, record: &Record, route: &Route) -> Result<Vec<Field>, Refusal> {
    let binding = record.head().binding();
    let none = || Refusal::new(Code::CredentialUnusable, "There is no access token for this secret.");
    let tokens = record.tokens().ok_or_else(none)?;
    let named = |name: &str, value: Secret| {
        let spec = FieldSpec { name: FieldName::parse(name).ok()?, secret: true };
        Some(Field { spec, value })
    };
    let is_key = |field: &Field| {
        route.fields.iter().any(|setting| setting.pem && setting.spec.name == field.spec.name)
    };
    let mut fields = envelope::open(key, &binding, record.sealed())?;
    fields.retain(|field| !is_key(field));
    let kept = tokens.open_refresh(key, &binding)?;
    fields.extend(kept.and_then(|value| named(REPLACED, value)));
    let access = tokens.open_access(key, &binding)?.ok_or_else(none)?;
    fields.push(named(ACCESS_TOKEN, access).ok_or_else(none)?);
    Ok(fields)
}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Self {
        Self::from(Code::CredentialUnusable).because(error.to_string())
    }
}

impl From<KmsError> for Refusal {
    fn from(error: KmsError) -> Self {
        let code = match &error {
            KmsError::Unavailable(_) => Code::KeysUnavailable,
            KmsError::Denied(_) => Code::KeysDenied,
            KmsError::Broken(_) => Code::CredentialUnusable,
        };
        Self::from(code).because(error.to_string())
    }
}
