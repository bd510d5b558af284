//! Bodies of the built-in vendor's answers: whole, or piece by piece in constant memory.
//!
//! What must never enter: a body that grows with the request; the drills send gigabytes through here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use tokio::sync::mpsc;

/// Any answer's body.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer with this body and type.
pub(super) fn whole(status: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    flowing(status, media, body)
}

/// A JSON answer with a line end, which a terminal wants.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Text keys and plain values: there is nothing in them that JSON cannot say.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    whole(status, "application/json", text)
}

/// An answer whose body is already one.
pub(super) fn flowing(status: StatusCode, media: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A `text/event-stream` that sends the events that `next` makes, `pause` apart, until it makes none.
pub(super) fn events(
    pause: Duration,
    mut next: impl FnMut() -> Option<String> + Send + 'static,
) -> Response<Body> {
    let (sender, pieces) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut first = true;
        while let Some(event) = next() {
            if !first && !pause.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = sender.closed() => return,
                }
            }
            first = false;
            if sender.send(Ok(event.into())).await.is_err() {
                return;
            }
        }
    });
    let mut response = flowing(StatusCode::OK, "text/event-stream", Pieces(pieces).boxed_unsync());
    response.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body that sends `start` and then breaks.
pub(super) fn breaking(start: Bytes) -> Body {
    Break { start: Some(start), flushed: false }.boxed_unsync()
}

/// A body of `length` bytes that are never all there.
pub(super) fn zeros(length: u64) -> Body {
    Zeros { left: length }.boxed_unsync()
}

/// What a task sends.
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

struct Break {
    start: Option<Bytes>,
    flushed: bool,
}

impl http_body::Body for Break {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(start) = self.start.take() {
            return Poll::Ready(Some(Ok(Frame::data(start))));
        }
        // hyper writes out what it has only when a body makes it wait, and not when it breaks.
        if !self.flushed {
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::BrokenPipe, "asked to break off"))))
    }
}

static ZEROS: [u8; 64 * 1024] = [b'0'; 64 * 1024];

struct Zeros {
    left: u64,
}

impl http_body::Body for Zeros {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(ZEROS.len());
        let Some(piece) = ZEROS.get(..count).filter(|piece| !piece.is_empty()) else {
            return Poll::Ready(None);
        };
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
