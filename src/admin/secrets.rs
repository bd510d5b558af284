//! `/v1/secrets`: add, list, show, rotate, disable, enable, delete. Values go in and never come out.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::Admin;
use super::door::{Denied, json, parsed};
use super::policy::Limits;
use super::trace::{About, Made};
use crate::clock;
use crate::model::{Customer, FieldName, IntegrationName, Members, SecretId, State as SecretState};
use crate::refusal::{Code, Refusal};
use crate::seal::{Judged, Listing, NewSecret, Summary, Versions};
use crate::secret::Secret;

const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;

/// A value as it arrives: straight from the parser into the type that is wiped.
struct Value(Secret);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Value;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("text")
            }
            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value(Secret::new(text.as_bytes().to_vec())))
            }
        }
        from.deserialize_str(Text)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    customer: Customer,
    integration: IntegrationName,
    #[serde(default)]
    label: Option<String>,
    fields: Members<FieldName, Value>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    policy: Limits,
    /// Whether the vendor is asked if it works, where relay knows how.
    #[serde(default = "yes")]
    verify: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddVersion {
    fields: Members<FieldName, Value>,
    #[serde(default = "yes")]
    verify: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListAsked {
    customer: Customer,
    after: Option<SecretId>,
    limit: Option<usize>,
}

pub(super) async fn add(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Summary>), Denied> {
    admin.takes_new()?;
    let asked: Add = json(body).await?;
    let expires_at = asked.expires_at.map(|text| instant(&text));
    let idempotency = headers.get("idempotency-key").map(|key| key.to_str().map(str::to_owned));
    let idempotency = idempotency
        .transpose()
        .map_err(|_| Refusal::new(Code::RequestMalformed, "The Idempotency-Key is not visible ASCII."))?;
    let label = asked.label.unwrap_or_else(|| format!("{} for {}", asked.integration, asked.customer));
    let about = About {
        customer: Some(&asked.customer),
        integration: Some(&asked.integration),
        secret: None,
        version: None,
    };
    let trace = admin.begin("secret.add", &about).await?;
    let new = NewSecret {
        customer: asked.customer.clone(),
        integration: asked.integration.clone(),
        label,
        fields: asked.fields.0.into_iter().map(|(name, value)| (name, value.0)).collect(),
        expires_at: expires_at.transpose()?,
        policy: asked.policy.0,
        idempotency,
    };
    let summary = admin.finish(trace, admin.seal_new(new, asked.verify).await).await?;
    Ok((StatusCode::CREATED, Json(summary)))
}

impl Admin {
    /// Tries a new secret, unless it is to be sealed untried, and seals it.
    async fn seal_new(&self, new: NewSecret, verify: bool) -> Result<Summary, Refusal> {
        let judged = self.sealer.judged(new)?;
        // What came before is not tried another time: a vendor takes some credentials once.
        if let Some(summary) = self.sealer.standing(&judged).await? {
            return Ok(summary);
        }
        self.seal(judged, verify).await
    }

    async fn seal_version(
        &self,
        id: SecretId,
        fields: Vec<(FieldName, Secret)>,
        verify: bool,
    ) -> Result<Summary, Refusal> {
        let judged = self.sealer.judged_version(id, fields).await?;
        self.seal(judged, verify).await
    }

    async fn seal(&self, judged: Judged, verify: bool) -> Result<Summary, Refusal> {
        let given = if verify { self.now().lifecycle.verify(&judged).await? } else { None };
        Ok(self.sealer.add_judged(judged, given).await?)
    }
}

pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    listing: Result<Query<ListAsked>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Listing>, Denied> {
    let Query(asked) = listing.map_err(|_| {
        Refusal::new(Code::RequestMalformed, "A listing wants ?customer=, and may have &after= and &limit=.")
    })?;
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    Ok(Json(admin.sealer.list(&asked.customer, asked.after, limit).await?))
}

pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<Summary>, Denied> {
    Ok(Json(admin.sealer.show(parsed(&id)?).await?))
}

pub(super) async fn add_version(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Summary>), Denied> {
    admin.takes_new()?;
    let id = parsed(&id)?;
    let asked: AddVersion = json(body).await?;
    let trace = admin.begin("secret.rotate", &About::secret(id)).await?;
    let fields = asked.fields.0.into_iter().map(|(name, value)| (name, value.0)).collect();
    let summary = admin.finish(trace, admin.seal_version(id, fields, asked.verify).await).await?;
    Ok((StatusCode::CREATED, Json(summary)))
}

pub(super) async fn disable(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<Summary>, Denied> {
    set_state(&admin, &id, "secret.disable", SecretState::Disabled).await
}

pub(super) async fn enable(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<Summary>, Denied> {
    set_state(&admin, &id, "secret.enable", SecretState::Active).await
}

async fn set_state(
    admin: &Admin,
    id: &str,
    operation: &'static str,
    state: SecretState,
) -> Result<Json<Summary>, Denied> {
    let id = parsed(id)?;
    let trace = admin.begin(operation, &About::secret(id)).await?;
    Ok(Json(admin.finish(trace, admin.sealer.set_state(id, state).await).await?))
}

pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Denied> {
    let id = parsed(&id)?;
    let trace = admin.begin("secret.rm", &About::secret(id)).await?;
    // Without reading it: a secret whose row is damaged must go, too.
    let removed = admin.sealer.remove(id).await.map(|customer| Removed { customer, id });
    admin.finish(trace, removed).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A secret that is gone, as the audit tells it.
struct Removed {
    customer: Customer,
    id: SecretId,
}

impl Made for Removed {
    fn about(&self) -> About<'_> {
        About { customer: Some(&self.customer), ..About::secret(self.id) }
    }
}

fn instant(text: &str) -> Result<u64, Refusal> {
    let wanted = "expires_at is not RFC 3339, as in 2027-01-31T00:00:00Z.";
    clock::parse_rfc3339(text).ok_or_else(|| Refusal::new(Code::RequestMalformed, wanted))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RollBack {
    to: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expire {
    /// Must be there: leaving it out must not mean "for ever".
    #[serde(deserialize_with = "Option::deserialize")]
    expires_at: Option<String>,
}

pub(super) async fn versions(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<Versions>, Denied> {
    Ok(Json(admin.sealer.versions(parsed(&id)?).await?))
}

pub(super) async fn rollback(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Summary>), Denied> {
    admin.takes_new()?;
    let id = parsed(&id)?;
    let RollBack { to } = json(body).await?;
    let trace = admin.begin("secret.rollback", &About { version: Some(to), ..About::secret(id) }).await?;
    let summary = admin.finish(trace, admin.sealer.rollback(id, to).await).await?;
    Ok((StatusCode::CREATED, Json(summary)))
}

pub(super) async fn expire(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Summary>, Denied> {
    admin.takes_new()?;
    let id = parsed(&id)?;
    let Expire { expires_at } = json(body).await?;
    let expires_at = expires_at.map(|text| instant(&text)).transpose()?;
    let trace = admin.begin("secret.expire", &About::secret(id)).await?;
    Ok(Json(admin.finish(trace, admin.sealer.set_expiry(id, expires_at).await).await?))
}
