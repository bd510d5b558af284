//! `POST /v1/keys/purge`: every data key leaves memory now, and the next use of each asks the KMS.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Admin;
use super::door::Denied;
use crate::audit::{Event, Kind};
use crate::model::RequestId;
use crate::refusal::Refusal;

#[derive(Serialize)]
pub(super) struct Purged {
    dropped: usize,
}

/// Recorded before it is done, as every change is.
pub(super) async fn purge(State(admin): State<Arc<Admin>>) -> Result<Json<Purged>, Denied> {
    let mut event = Event::of(Kind::Admin);
    event.request_id = Some(RequestId::fresh());
    event.method = Some("key.purge");
    event.note = Some("asked");
    admin.chain.record(&event).await.map_err(Refusal::from)?;
    let dropped = admin.keys.purge();
    let note = format!("done: {dropped} data keys left memory");
    event.note = Some(&note);
    admin.chain.record(&event).await.map_err(Refusal::from)?;
    Ok(Json(Purged { dropped }))
}
