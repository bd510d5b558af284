//! What is given to be sealed, checked before any key is asked for.
//!
//! The fields become exactly the ones that the integration declares, in its order. What must never enter:
//! a value in an error.

use super::SealError;
use crate::clock::unix_seconds;
use crate::config::FieldSetting;
use crate::config::signing::ClientCertificate;
use crate::envelope::{Head, SHORTEST_SCRUBBED, check_text, check_value};
use crate::model::{Customer, FieldName, IntegrationName, Policy};
use crate::net::identity::Identity;
use crate::secret::{Field, Secret};

/// A secret to be added.
pub struct NewSecret {
    /// Whose it is.
    pub customer: Customer,
    /// The integration it is for.
    pub integration: IntegrationName,
    /// What people call it: 1 to 200 bytes without control characters.
    pub label: String,
    /// Its values.
    pub fields: Vec<(FieldName, Secret)>,
    /// Until when it may be used, in seconds since 1970; not in the past.
    pub expires_at: Option<u64>,
    /// Its own limits.
    pub policy: Policy,
    /// What makes the same call again give the same secret: 1 to 255 bytes, for one customer and
    /// integration.
    pub idempotency: Option<String>,
}

/// Values that were checked and are not sealed yet.
pub struct Judged {
    pub(super) head: Head,
    pub(super) fields: Vec<Field>,
    /// It came with an idempotency key.
    pub(super) repeatable: bool,
    /// A new secret; else a new version of one.
    pub(super) new: bool,
}

impl Judged {
    /// What it will be: whose, for which integration, where it may go.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The values, for the vendor's own judgement.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// Checks everything but the values.
pub(super) fn check(new: &NewSecret) -> Result<(), SealError> {
    let label = &new.label;
    if label.is_empty() || label.len() > 200 || label.chars().any(char::is_control) {
        return Err(invalid("label", "a label is 1 to 200 bytes without control characters"));
    }
    if new.expires_at.is_some_and(|at| at <= unix_seconds()) {
        return Err(invalid("expires_at", "it is in the past: such a secret could never be used"));
    }
    if new.idempotency.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
        return Err(invalid("idempotency key", "it is 1 to 255 bytes"));
    }
    Ok(())
}

/// The given values as the declared fields, in the declared order: each one there but the optional ones,
/// none twice, no other.
pub(super) fn declared(
    settings: &[FieldSetting],
    mut given: Vec<(FieldName, Secret)>,
) -> Result<Vec<Field>, SealError> {
    let mut fields = Vec::with_capacity(settings.len());
    for setting in settings {
        let name = &setting.spec.name;
        let at = given.iter().position(|(given, _)| given == name);
        if at.is_none() && setting.optional {
            continue;
        }
        let missing = || invalid(name.as_str(), format!("it is missing: {}", setting.asked()));
        let (_, value) = at.map(|at| given.swap_remove(at)).ok_or_else(missing)?;
        let check = if setting.pem { check_text } else { check_value };
        check(value.expose()).map_err(|why| invalid(name.as_str(), why.0))?;
        if setting.spec.secret && !setting.scrub_off_danger && value.len() < SHORTEST_SCRUBBED {
            let why = "it is under 8 bytes, too short to be scrubbed from answers: give a longer one, or set \
                       scrub = \"off_danger\" on the field";
            return Err(invalid(name.as_str(), why));
        }
        if let Some(pattern) = setting.pattern.as_ref().filter(|pattern| !pattern.matches(value.expose())) {
            let why =
                format!("what is wanted is \"{}\", all of which matches {}", setting.label, pattern.as_str());
            return Err(invalid(name.as_str(), why));
        }
        fields.push(Field { spec: setting.spec.clone(), value });
    }
    match given.first() {
        None => Ok(fields),
        Some((name, _)) if settings.iter().any(|setting| setting.spec.name == *name) => {
            Err(invalid(name.as_str(), "it is given twice"))
        }
        Some((name, _)) => {
            let names: Vec<&str> = settings.iter().map(|setting| setting.spec.name.as_str()).collect();
            let why = format!("the integration has no such field; it has: {}", names.join(", "));
            Err(invalid(name.as_str(), why))
        }
    }
}

/// A client certificate has to be one, with its own key: said now, and not by the vendor's handshake.
pub(super) fn identity(shown: Option<&ClientCertificate>, fields: &[Field]) -> Result<(), SealError> {
    let Some(shown) = shown else { return Ok(()) };
    let value =
        |name: &FieldName| fields.iter().find(|field| field.spec.name == *name).map(|field| &field.value);
    let (Some(certificate), Some(key)) = (value(&shown.certificate), value(&shown.key)) else {
        return Ok(());
    };
    match Identity::from_pem(certificate.expose(), key.expose()) {
        Ok(_) => Ok(()),
        Err(wrong) => Err(invalid(shown.key.as_str(), wrong.0)),
    }
}

fn invalid(field: &str, why: impl Into<String>) -> SealError {
    SealError::Invalid { field: field.to_owned(), why: why.into() }
}
