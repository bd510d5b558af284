//! `GET /v1/store`: what the store is, and how much is in it. `GET /v1/store/export`: the whole of it as one stream,
//! while relay serves.
//!
//! What is in it is sealed or wrapped, as it stands in the store. That it was asked for is recorded before its first
//! byte, and that it is whole before its last. What must never enter: a value, an unwrapped key.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::door::Denied;
use super::trace::{About, Made, Trace};
use super::{Admin, replicas};
use crate::refusal::{Code, Refusal};
use crate::seal::{SealError, travels};
use crate::store::moving::{Export, Totals};
use crate::store::{Info, Store, StoreError};

/// Pieces that wait for a slow reader.
const WAITING: usize = 4;

/// What was exported.
struct Exported(Totals);

impl Made for Exported {
    fn about(&self) -> About<'_> {
        About::default()
    }

    fn note(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// What the store is, how much is in it, and which replicas it knows.
///
/// # Errors
/// If it cannot be read.
pub async fn described(store: &dyn Store) -> Result<Value, StoreError> {
    let Info { engine, format, customers, data_keys, secrets, bytes, writable } =
        store.upkeep().info().await?;
    Ok(json!({
        "engine": engine,
        "format": format,
        "customers": customers,
        "data_keys": data_keys,
        "secrets": secrets,
        "replicas": replicas(store).await?.1,
        "bytes": bytes,
        "writable": writable,
    }))
}

pub(super) async fn info(State(admin): State<Arc<Admin>>) -> Result<Json<Value>, Denied> {
    let described = described(&*admin.store).await;
    Ok(Json(described.map_err(|error| Refusal::from(SealError::from(error)))?))
}

pub(super) async fn export(State(admin): State<Arc<Admin>>) -> Result<Response, Denied> {
    admin.takes_new()?;
    let trace = admin.begin("store.export", &About::default()).await?;
    let begun = match Export::begin(admin.store.clone(), travels).await {
        Ok(begun) => begun,
        Err(error) => return Err(undone(&admin, trace, SealError::from(error).into()).await.into()),
    };
    let (pieces, waiting) = mpsc::channel(WAITING);
    tokio::spawn(async move { send(&admin, trace, begun, &pieces).await });
    let mut answer = Body::new(Pieces(waiting)).into_response();
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(answer)
}

async fn undone(admin: &Admin, trace: Trace, why: Refusal) -> Refusal {
    match admin.finish::<Exported>(trace, Err(why)).await {
        Ok(_) => Refusal::from(Code::StoreUnavailable),
        Err(refusal) => refusal,
    }
}

/// Sends piece after piece. The one that was made last is kept back until the audit says that all were.
async fn send(
    admin: &Admin,
    trace: Trace,
    mut export: Export,
    pieces: &mpsc::Sender<Result<Bytes, StoreError>>,
) {
    let mut last = Bytes::new();
    loop {
        match export.next().await {
            Ok(Some(piece)) => {
                if pieces.send(Ok(std::mem::replace(&mut last, piece))).await.is_err() {
                    let why = Refusal::new(Code::RequestMalformed, "The reader of the export has gone.");
                    undone(admin, trace, why).await;
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::error!(%error, "an export was broken off");
                undone(admin, trace, SealError::from(error.clone()).into()).await;
                let _ = pieces.send(Err(error)).await;
                return;
            }
        }
    }
    let end = match admin.finish(trace, Ok::<_, SealError>(Exported(*export.totals()))).await {
        Ok(_) => Ok(last),
        Err(refusal) => Err(StoreError::Unavailable(refusal.detail().to_owned())),
    };
    let _ = pieces.send(end).await;
}

/// The stream as a body.
struct Pieces(mpsc::Receiver<Result<Bytes, StoreError>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
