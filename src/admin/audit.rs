//! `/v1/audit`: what `relay audit verify` needs beside the files.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Admin;
use super::door::Denied;
use crate::audit::replica::anchor_name;
use crate::seal::SealError;

/// Where the names of all replicas that ever wrote an audit stand in the store: a JSON list.
pub const REPLICAS: &str = "audit-replicas";

#[derive(Serialize)]
pub(super) struct Key {
    /// Ed25519, base64url without padding.
    public_key: String,
}

#[derive(Serialize)]
pub(super) struct Newest {
    /// The replica that answers.
    replica: String,
    /// Its newest anchor's whole line as it stands in the file; `None` before the first.
    anchor: Option<String>,
}

pub(super) async fn key(State(admin): State<Arc<Admin>>) -> Json<Key> {
    Json(Key { public_key: admin.log.public_key().to_string() })
}

pub(super) async fn anchor(State(admin): State<Arc<Admin>>) -> Result<Json<Newest>, Denied> {
    let newest = admin.store.meta(&anchor_name(admin.log.replica())).await.map_err(SealError::from)?;
    let anchor = newest.map(|line| String::from_utf8_lossy(&line).into_owned());
    Ok(Json(Newest { replica: admin.log.replica().to_owned(), anchor }))
}

#[derive(Serialize)]
pub(super) struct All {
    /// The newest anchors of all replicas, each as its line stands in the file.
    anchors: Vec<String>,
}

/// Those of every replica that shares the store.
pub(super) async fn anchors(State(admin): State<Arc<Admin>>) -> Result<Json<All>, Denied> {
    let names = admin.store.meta(REPLICAS).await.map_err(SealError::from)?;
    let names: Vec<String> = names.and_then(|names| serde_json::from_slice(&names).ok()).unwrap_or_default();
    let mut anchors = Vec::new();
    for name in names {
        let newest = admin.store.meta(&anchor_name(&name)).await.map_err(SealError::from)?;
        anchors.extend(newest.map(|line| String::from_utf8_lossy(&line).into_owned()));
    }
    Ok(Json(All { anchors }))
}
