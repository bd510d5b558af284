//! `POST /v1/reload`: relay.toml is read again. What comes of it is told by key names, never by values.

use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Admin;
use crate::config::{Finding, Report};
use crate::model::RequestId;

/// Reads relay.toml again, for this request.
pub type Reload = Box<dyn Fn(RequestId) -> Pending + Send + Sync>;
/// Its result to be.
pub type Pending = Pin<Box<dyn Future<Output = Result<Reloaded, NotReloaded>> + Send>>;

/// What holds from now on.
#[derive(Debug, Clone, Serialize)]
pub struct Reloaded {
    /// The SHA-256 of relay.toml, in hex.
    pub digest: String,
    /// The keys whose values are others than before.
    pub changed: Vec<String>,
}

/// Why what held before still holds.
#[derive(Debug, thiserror::Error)]
pub enum NotReloaded {
    /// relay.toml is not valid.
    #[error("the configuration is not valid; the last good one stays in use")]
    Invalid(Report),
    /// These keys are read only at start.
    #[error("these keys need a restart, and nothing was changed: {}", .0.join(", "))]
    NeedsRestart(Vec<String>),
    /// Something that it names cannot be used, or the reload cannot be recorded.
    #[error("{0}; the last good configuration stays in use")]
    Unusable(String),
    /// This relay was started without a file.
    #[error("this relay has no relay.toml to read again")]
    NoFile,
}

impl NotReloaded {
    /// A stable word for it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "config_invalid",
            Self::NeedsRestart(_) => "restart_needed",
            Self::Unusable(_) => "config_unusable",
            Self::NoFile => "config_no_file",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NeedsRestart(_) | Self::NoFile => StatusCode::CONFLICT,
            Self::Unusable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    /// Whether the findings are drawn for a terminal.
    #[serde(default)]
    fancy: bool,
}

#[derive(Serialize)]
struct Refused<'a> {
    code: &'static str,
    message: String,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<&'a [Finding]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<String>,
}

/// Reads relay.toml again.
pub(super) async fn reload(State(admin): State<Arc<Admin>>, Query(wanted): Query<Wanted>) -> Response {
    let request_id = RequestId::fresh();
    let why = match (admin.reload)(request_id).await {
        Ok(done) => return Json(done).into_response(),
        Err(why) => why,
    };
    let (mut keys, mut findings, mut report) = (None, None, None);
    match &why {
        NotReloaded::Invalid(found) => {
            (findings, report) = (Some(found.findings()), Some(found.render(wanted.fancy)));
        }
        NotReloaded::NeedsRestart(needing) => keys = Some(needing.as_slice()),
        NotReloaded::Unusable(_) | NotReloaded::NoFile => {}
    }
    let (code, message, request_id) = (why.code(), why.to_string(), request_id.to_string());
    (why.status(), Json(Refused { code, message, request_id, keys, findings, report })).into_response()
}
