//! `/v1/audit`: what `relay audit verify` needs beside the file.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Admin;
use super::door::Denied;

/// Where the newest anchor stands in the store.
pub const ANCHOR: &str = "audit-anchor";

#[derive(Serialize)]
pub(super) struct Key {
    /// Ed25519, base64url without padding.
    public_key: String,
}

#[derive(Serialize)]
pub(super) struct Newest {
    /// The anchor's whole line as it stands in the file; `None` before the first.
    anchor: Option<String>,
}

pub(super) async fn key(State(admin): State<Arc<Admin>>) -> Json<Key> {
    Json(Key { public_key: admin.log.public_key().to_string() })
}

pub(super) async fn anchor(State(admin): State<Arc<Admin>>) -> Result<Json<Newest>, Denied> {
    let newest = admin.store.meta(ANCHOR).await.map_err(crate::seal::SealError::from)?;
    let anchor = newest.map(|line| String::from_utf8_lossy(&line).into_owned());
    Ok(Json(Newest { anchor }))
}
