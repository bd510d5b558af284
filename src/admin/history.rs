//! `/v1/customers/CUSTOMER/history`: what was done with a customer's secrets, as lines of JSON.
//!
//! Read from this replica's own files while it goes on, in constant memory. What must never enter: a line
//! of another customer.

use std::io;
use std::path::{Path as File, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc};

use super::Admin;
use super::door::Denied;
use crate::audit::history::{Asked, history as tell};
use crate::audit::several::find;
use crate::model::Customer;
use crate::refusal::{Code, Refusal};

/// Histories read at once: each goes through the whole audit.
static AT_ONCE: Semaphore = Semaphore::const_new(2);
/// Bytes handed over at a time, and how many of those wait for a slow reader.
const PIECE: usize = 64 * 1024;
const PIECES: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    /// Begun at or after this, in seconds since 1970.
    since: Option<u64>,
    /// Begun before this.
    until: Option<u64>,
}

pub(super) async fn history(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    Query(span): Query<Span>,
) -> Result<Response, Denied> {
    let customer =
        Customer::parse(&name).map_err(|why| Refusal::new(Code::RequestMalformed, why.to_string()))?;
    let path = admin.log.path().map(File::to_path_buf).ok_or_else(|| {
        Refusal::new(
            Code::RequestMalformed,
            "This relay keeps its audit in no file that could be read again.",
        )
    })?;
    let turn = AT_ONCE.try_acquire().map_err(|_| Refusal::from(Code::TooBusy))?;
    let asked = Asked { customer: customer.as_str().to_owned(), since: span.since, until: span.until };
    let (send, pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read(path, &asked, &send) {
            tracing::warn!(%error, "a customer's history was not told to its end");
            let _ = send.blocking_send(Err(error));
        }
        drop(turn);
    });
    Ok(([(CONTENT_TYPE, "application/jsonl")], Body::new(Pieces(pieces))).into_response())
}

fn read(path: PathBuf, asked: &Asked, send: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut piece = Vec::new();
    tell(find(&[path], false)?, asked, &mut |access| {
        serde_json::to_writer(&mut piece, access)?;
        piece.push(b'\n');
        if piece.len() < PIECE {
            return Ok(());
        }
        send.blocking_send(Ok(std::mem::take(&mut piece).into())).map_err(gone)
    })?;
    send.blocking_send(Ok(piece.into())).map_err(gone)
}

/// A body that ends with an error if the reading did.
struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
