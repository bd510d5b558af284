//! `/v1/keys`, `/v1/jobs`: where data keys are, and the work on all of them.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Admin;
use super::door::{Denied, json};
use super::trace::{About, Made, Trace};
use crate::model::{IntegrationName, Origin};
use crate::refusal::{Code, Refusal};
use crate::seal::jobs::{Told, Work};
use crate::seal::{Inventory, Was};

#[derive(Serialize)]
pub(super) struct Status {
    #[serde(flatten)]
    inventory: Inventory,
    job: Option<Told>,
}

#[derive(Serialize)]
pub(super) struct Newest {
    job: Option<Told>,
}

/// A job, and whether this call began it.
#[derive(Serialize)]
pub(super) struct Begun {
    begun: bool,
    job: Told,
}

impl Made for Begun {
    fn about(&self) -> About<'_> {
        About::default()
    }

    fn note(&self) -> Option<String> {
        (!self.begun).then(|| "another job is under way".to_owned())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    /// New data keys, instead of the same ones wrapped anew.
    #[serde(default)]
    data: bool,
    /// Ask the KMS for a new version of its key first.
    #[serde(default)]
    new_version: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rebind {
    /// Origins and names, one of each at most.
    from: Vec<String>,
}

pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Result<Json<Status>, Denied> {
    let inventory = admin.sealer.inventory().await?;
    Ok(Json(Status { inventory, job: admin.jobs.newest().await?.map(Told::from) }))
}

pub(super) async fn newest(State(admin): State<Arc<Admin>>) -> Result<Json<Newest>, Denied> {
    Ok(Json(Newest { job: admin.jobs.newest().await?.map(Told::from) }))
}

pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    body: Body,
) -> Result<(StatusCode, Json<Begun>), Denied> {
    admin.takes_new()?;
    let Rotate { data, new_version } = json(body).await?;
    let work = if data { Work::Data } else { Work::Rewrap };
    let trace = admin.begin(work.operation(), &About::default()).await?;
    begin(&admin, trace, work, new_version).await
}

pub(super) async fn rebind(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Begun>), Denied> {
    admin.takes_new()?;
    let integration = IntegrationName::parse(&name)
        .map_err(|_| Refusal::new(Code::IntegrationUnknown, "relay.toml has no such integration."))?;
    let Rebind { from } = json(body).await?;
    let was = read(&from)?;
    let work = Work::Rebind { integration: integration.clone(), was };
    let about = About { integration: Some(&integration), ..About::default() };
    let trace = admin.begin(work.operation(), &about).await?;
    begin(&admin, trace, work, false).await
}

async fn begin(
    admin: &Admin,
    trace: Trace,
    work: Work,
    new_version: bool,
) -> Result<(StatusCode, Json<Begun>), Denied> {
    let started = admin.jobs.start(trace.request_id, work, new_version).await;
    let begun = started.map(|(job, begun)| Begun { begun, job: job.into() });
    let begun = admin.finish(trace, begun).await?;
    let status = if begun.begun { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(begun)))
}

fn read(from: &[String]) -> Result<Was, Refusal> {
    let malformed = |why: &str| Refusal::new(Code::RequestMalformed, why.to_owned());
    let mut was = Was { integration: None, origin: None, token_origin: None };
    for text in from {
        let taken = if let Some(text) = text.strip_prefix("token:") {
            let origin = Origin::parse(text).map_err(|why| malformed(&format!("from: {why}.")))?;
            was.token_origin.replace(origin).is_some()
        } else if text.contains("://") {
            let origin = Origin::parse(text).map_err(|why| malformed(&format!("from: {why}.")))?;
            was.origin.replace(origin).is_some()
        } else {
            let name = IntegrationName::parse(text).map_err(|why| malformed(&format!("from: {why}.")))?;
            was.integration.replace(name).is_some()
        };
        if taken {
            return Err(malformed("from names one origin, one token: origin and one integration at most."));
        }
    }
    Ok(was)
}
