//! What of an integration the write path has to know, and where a secret of it may go.
//!
//! A place that is each customer's own is made here of the values that are not secret, and frozen with them. What
//! must never enter: a place that is made of anything else.

use super::SealError;
use crate::config::upstream::{Frozen, UpstreamTemplate};
use crate::config::{self, FieldSetting};
use crate::model::{IntegrationName, Origin};
use crate::secret::Field;

/// What of an integration the write path has to know.
#[derive(Debug, Clone)]
pub struct SealTarget {
    /// Its name.
    pub name: IntegrationName,
    /// Where its secrets may go.
    pub origin: Origin,
    /// Where else they may go, for access tokens alone.
    pub token_origin: Option<Origin>,
    /// Where they may go, if that is each customer's own.
    pub per_customer: Option<UpstreamTemplate>,
    /// The fields that its secrets have.
    pub fields: Vec<FieldSetting>,
    /// Which of them are a client certificate.
    pub client_certificate: Option<config::signing::ClientCertificate>,
    /// Its requests per customer and second.
    pub rate: Option<u32>,
    /// Its requests under way per customer.
    pub concurrency: Option<usize>,
}

impl From<&config::Integration> for SealTarget {
    fn from(from: &config::Integration) -> Self {
        Self {
            name: from.name.clone(),
            origin: from.origin.clone(),
            token_origin: from.renewal.as_ref().and_then(|renewal| renewal.token_origin.clone()),
            per_customer: from.per_customer.clone(),
            fields: from.fields.clone(),
            client_certificate: from.client_certificate.clone(),
            rate: from.rate,
            concurrency: from.concurrency,
        }
    }
}

impl SealTarget {
    /// Where a secret of these values may go from now on.
    ///
    /// # Errors
    /// `Invalid` for values that make no place of the integration's.
    pub fn freeze(&self, fields: &[Field]) -> Result<Frozen, SealError> {
        let Some(template) = &self.per_customer else {
            return Ok(Frozen { origin: self.origin.clone(), base_path: None });
        };
        let frozen = template.freeze(|name| {
            let field = fields.iter().find(|field| field.spec.name == *name && !field.spec.secret)?;
            std::str::from_utf8(field.value.expose()).ok()
        });
        frozen.map_err(|unfit| SealError::Invalid { field: unfit.field, why: unfit.why.to_owned() })
    }

    /// Whether a secret that goes there is one of the integration's as it is configured today.
    pub(super) fn admits(&self, origin: &Origin, base_path: Option<&str>) -> bool {
        match &self.per_customer {
            Some(template) => template.admits(origin, base_path),
            None => *origin == self.origin && base_path.is_none(),
        }
    }
}
