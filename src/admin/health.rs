//! Health and metrics: no token needed, no customer named, no cause told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use super::{Admin, watch};
use crate::clock;
use crate::dependency::Answer;

#[derive(Serialize)]
pub(super) struct Ready {
    ready: bool,
    degraded: bool,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    state: &'static str,
    since: String,
}

/// The process runs.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Whether requests can be served, by the table of dependencies.
pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, Json<Ready>) {
    watch::look(&admin).await;
    let readiness = admin.board.readiness();
    let checks = admin.board.shown().into_iter().map(|shown| Check {
        name: shown.dependency.as_str(),
        ok: shown.state.is_none(),
        state: shown.as_str(),
        since: clock::rfc3339(shown.since),
    });
    let checks = checks.collect();
    let ready = readiness != Answer::NotReady;
    admin.started.fetch_or(ready, Ordering::Relaxed);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, degraded: readiness != Answer::Ready, checks }))
}

/// Whether requests could be served once: what comes later is `ready`'s.
pub(super) async fn started(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    if !admin.started.load(Ordering::Relaxed) {
        watch::look(&admin).await;
        admin.started.fetch_or(admin.board.readiness() != Answer::NotReady, Ordering::Relaxed);
    }
    match admin.started.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
    }
}

/// OpenMetrics text.
pub(super) async fn metrics(
    State(admin): State<Arc<Admin>>,
) -> ([(http::HeaderName, &'static str); 1], String) {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], admin.metrics.render())
}
