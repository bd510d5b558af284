//! Health and metrics: no token needed, no customer named.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use super::{Admin, CHECK_TIME};

#[derive(Serialize)]
pub(super) struct Ready {
    ready: bool,
    checks: [Check; 4],
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
}

/// The process runs.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Requests can be served: the store answers, the audit can be written, every issuer's keys are there, relay
/// is not shutting down.
pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, Json<Ready>) {
    let asked = tokio::time::timeout(CHECK_TIME, admin.store.meta("ready")).await;
    let checks = [
        Check { name: "store", ok: matches!(asked, Ok(Ok(_))) },
        Check { name: "audit", ok: admin.log.healthy() },
        Check { name: "issuers", ok: admin.issuers.iter().all(|issuer| issuer.state().standing.is_ready()) },
        Check { name: "accepting", ok: (admin.accepting)() },
    ];
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, checks }))
}

/// OpenMetrics text.
pub(super) async fn metrics(
    State(admin): State<Arc<Admin>>,
) -> ([(http::HeaderName, &'static str); 1], String) {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], admin.metrics.render())
}
