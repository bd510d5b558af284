//! `/v1/audit`: what `relay audit verify` needs beside the files.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;
use serde::Serialize;

use super::Admin;
use super::door::Denied;
use super::trace::{About, Made};
use crate::audit::replica::{REPLICAS, anchor_name};
use crate::refusal::{Code, Refusal};
use crate::seal::SealError;
use crate::store::{Store, StoreError};

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
    let (_, names) = replicas(&*admin.store).await.map_err(SealError::from)?;
    let mut anchors = Vec::new();
    for name in names {
        let newest = admin.store.meta(&anchor_name(&name)).await.map_err(SealError::from)?;
        anchors.extend(newest.map(|line| String::from_utf8_lossy(&line).into_owned()));
    }
    Ok(Json(All { anchors }))
}

/// A replica that is gone for good.
#[derive(Serialize)]
pub(super) struct Retired {
    replica: String,
}

impl Made for Retired {
    fn about(&self) -> About<'_> {
        About::default()
    }

    fn note(&self) -> Option<String> {
        Some(self.replica.clone())
    }
}

/// Takes a replica from those that `relay audit verify` wants files of. One that starts again is back among them.
pub(super) async fn retire(
    State(admin): State<Arc<Admin>>,
    Path(replica): Path<String>,
) -> Result<Json<Retired>, Denied> {
    if replica == admin.log.replica() {
        let why = "This replica itself answers: it is not gone.";
        return Err(Refusal::new(Code::RequestMalformed, why).into());
    }
    let (_, names) = replicas(&*admin.store).await.map_err(SealError::from)?;
    if !names.contains(&replica) {
        let why = format!("The store knows no such replica, but {}.", names.join(", "));
        return Err(Refusal::new(Code::RequestMalformed, why).into());
    }
    let trace = admin.begin("audit.retire", &About::default()).await?;
    let taken = take(&admin, &replica).await.map(|()| Retired { replica });
    Ok(Json(admin.finish(trace, taken).await?))
}

async fn take(admin: &Admin, replica: &str) -> Result<(), SealError> {
    loop {
        let (before, mut names) = replicas(&*admin.store).await?;
        names.retain(|name| name != replica);
        let left = serde_json::to_vec(&names).map_err(|error| StoreError::Damaged(error.to_string()))?;
        match admin.store.swap_meta(REPLICAS, before, Bytes::from(left)).await {
            // A replica starts at this moment.
            Err(StoreError::Conflict) => {}
            done => return Ok(done?),
        }
    }
}

/// The names as stored, and as read.
///
/// # Errors
/// The store's own.
pub async fn replicas(store: &dyn Store) -> Result<(Option<Bytes>, Vec<String>), StoreError> {
    let stored = store.meta(REPLICAS).await?;
    let names = stored.as_ref().and_then(|names| serde_json::from_slice(names).ok()).unwrap_or_default();
    Ok((stored, names))
}
