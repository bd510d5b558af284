//! `/v1/customers`: a customer is forgotten.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use super::Admin;
use super::door::Denied;
use super::trace::{About, Made};
use crate::model::Customer;
use crate::refusal::{Code, Refusal};
use crate::seal::SealError;

/// What was forgotten.
#[derive(Serialize)]
pub(super) struct Gone {
    customer: Customer,
    secrets: u64,
    data_keys: u64,
}

impl Made for Gone {
    fn about(&self) -> About<'_> {
        About { customer: Some(&self.customer), ..About::default() }
    }

    fn note(&self) -> Option<String> {
        Some(format!("{} secrets, {} data keys", self.secrets, self.data_keys))
    }
}

pub(super) async fn forget(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
) -> Result<Json<Gone>, Denied> {
    let customer =
        Customer::parse(&name).map_err(|why| Refusal::new(Code::RequestMalformed, why.to_string()))?;
    let about = About { customer: Some(&customer), ..About::default() };
    let trace = admin.begin("customer.forget", &about).await?;
    let forgotten = admin.sealer.forget(&customer).await;
    let nothing = matches!(forgotten, Err(SealError::NotFound));
    let gone = forgotten.map(|forgotten| Gone {
        customer: customer.clone(),
        secrets: forgotten.secrets,
        data_keys: forgotten.data_keys,
    });
    let gone = admin.finish(trace, gone).await;
    if nothing {
        return Err(Refusal::new(Code::SecretNotFound, "There is nothing of this customer.").into());
    }
    Ok(Json(gone?))
}
