//! `/v1/secrets`: add, list, show, rotate, disable, enable, delete. Values go in and never come out.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use http::{HeaderMap, StatusCode};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::Admin;
use super::door::{Denied, json};
use crate::audit::{Event, Kind};
use crate::clock;
use crate::model::{Customer, FieldName, IntegrationName, RequestId, SecretId, State as SecretState};
use crate::refusal::{Code, Refusal};
use crate::seal::{NewSecret, SealError, Summary};
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
    fields: BTreeMap<FieldName, Value>,
    #[serde(default)]
    expires_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddVersion {
    fields: BTreeMap<FieldName, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    customer: Customer,
    after: Option<SecretId>,
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct Page {
    secrets: Vec<Summary>,
    /// Give this as `after` for the next page.
    next: Option<SecretId>,
}

pub(super) async fn add(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Summary>), Denied> {
    let asked: Add = json(body).await?;
    let expires_at = asked.expires_at.map(|text| {
        clock::parse_rfc3339(&text).ok_or(Refusal::new(
            Code::RequestMalformed,
            "expires_at is not RFC 3339, as in 2027-01-31T00:00:00Z.",
        ))
    });
    let idempotency = headers.get("idempotency-key").map(|key| key.to_str().map(str::to_owned));
    let idempotency = idempotency
        .transpose()
        .map_err(|_| Refusal::new(Code::RequestMalformed, "The Idempotency-Key is not visible ASCII."))?;
    let label = asked.label.unwrap_or_else(|| format!("{} for {}", asked.integration, asked.customer));
    let about =
        About { customer: Some(&asked.customer), integration: Some(&asked.integration), secret: None };
    let trace = admin.begin("secret.add", &about).await?;
    let new = NewSecret {
        customer: asked.customer.clone(),
        integration: asked.integration.clone(),
        label,
        fields: asked.fields.into_iter().map(|(name, value)| (name, value.0)).collect(),
        expires_at: expires_at.transpose()?,
        idempotency,
    };
    let summary = admin.finish(trace, admin.sealer.add(new).await).await?;
    Ok((StatusCode::CREATED, Json(summary)))
}

pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    listing: Result<Query<Listing>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Page>, Denied> {
    let Query(asked) = listing.map_err(|_| {
        Refusal::new(Code::RequestMalformed, "A listing wants ?customer=, and may have &after= and &limit=.")
    })?;
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let secrets = admin.sealer.list(&asked.customer, asked.after, limit).await?;
    let next = (secrets.len() == limit).then(|| secrets.last().map(|last| last.id)).flatten();
    Ok(Json(Page { secrets, next }))
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
    let id = parsed(&id)?;
    let asked: AddVersion = json(body).await?;
    let trace = admin.begin("secret.rotate", &About::secret(id)).await?;
    let fields = asked.fields.into_iter().map(|(name, value)| (name, value.0)).collect();
    let summary = admin.finish(trace, admin.sealer.add_version(id, fields).await).await?;
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
    let before = admin.sealer.show(id).await?;
    let trace = admin.begin("secret.rm", &About::secret(id)).await?;
    let removed = admin.sealer.remove(id).await.map(|_| before);
    admin.finish(trace, removed).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parsed(id: &str) -> Result<SecretId, Refusal> {
    SecretId::parse(id).map_err(|why| Refusal::new(Code::RequestMalformed, why.to_string()))
}

struct About<'a> {
    customer: Option<&'a Customer>,
    integration: Option<&'a IntegrationName>,
    secret: Option<SecretId>,
}

impl About<'_> {
    const fn secret(id: SecretId) -> Self {
        Self { customer: None, integration: None, secret: Some(id) }
    }
}

/// A change that is under way.
struct Trace {
    request_id: RequestId,
    operation: &'static str,
}

impl Admin {
    /// The change stands in the audit before it is made: no audit, no change.
    async fn begin(&self, operation: &'static str, about: &About<'_>) -> Result<Trace, Refusal> {
        let trace = Trace { request_id: RequestId::fresh(), operation };
        let mut event = Event::of(Kind::Admin);
        event.request_id = Some(trace.request_id);
        event.method = Some(operation);
        event.customer = about.customer;
        event.integration = about.integration;
        event.secret = about.secret;
        event.note = Some("asked");
        self.chain.record(&event).await.map_err(Refusal::from)?;
        Ok(trace)
    }

    /// And its result behind it, before it is acknowledged.
    async fn finish(&self, trace: Trace, result: Result<Summary, SealError>) -> Result<Summary, Refusal> {
        let mut event = Event::of(Kind::Admin);
        event.request_id = Some(trace.request_id);
        event.method = Some(trace.operation);
        match result {
            Ok(summary) => {
                event.customer = Some(&summary.customer);
                event.integration = Some(&summary.integration);
                event.secret = Some(summary.id);
                event.version = Some(summary.version);
                event.note = Some("done");
                self.chain.record(&event).await.map_err(Refusal::from)?;
                Ok(summary)
            }
            Err(error) => {
                let refusal = Refusal::from(error);
                event.code = Some(refusal.code().as_str());
                event.note = Some("not done");
                self.chain.record(&event).await.map_err(Refusal::from)?;
                Err(refusal)
            }
        }
    }
}
