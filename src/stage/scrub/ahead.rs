//! The beginning of a body, scrubbed before the head goes out.
//!
//! Only for answers whose head vouches for the body's bytes, and for compressed ones: by then it is known for the
//! usual small answer whether a byte of it changes, or must not pass at all. A credential further behind, or after
//! a vendor's pause, changes or cuts the body when the head is out: its `ETag` stays strong and its digests no
//! longer fit. What must never enter: a stream of events or messages, which may begin with nothing for a long time.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};

/// How much of a body is scrubbed before its head goes out.
pub(super) const MOST_AHEAD: usize = 32 * 1024;

/// How long a vendor's pause may hold the head back.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long it may where the answer can be a stream of something.
pub(super) const BRIEF: Duration = Duration::from_millis(20);

/// What was read and has not gone out.
pub(super) type Ahead<E> = VecDeque<Result<Frame<Bytes>, E>>;

/// Reads up to [`MOST_AHEAD`] bytes of `body`, or to its end, for no longer than `patience`.
pub(super) async fn read<B: Body<Data = Bytes> + Unpin>(body: &mut B, patience: Duration) -> Ahead<B::Error> {
    let mut ahead = Ahead::new();
    let mut bytes = 0;
    let mut more = |context: &mut Context<'_>| -> Poll<()> {
        while bytes < MOST_AHEAD && !body.is_end_stream() {
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => break,
                Poll::Ready(Some(next)) => {
                    bytes += next.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    let broken = next.is_err();
                    ahead.push_back(next);
                    if broken {
                        break;
                    }
                }
            }
        }
        Poll::Ready(())
    };
    // The usual answer is there already, and costs no timer.
    let there = poll_fn(|context| Poll::Ready(more(context).is_ready())).await;
    if !there {
        let _ = tokio::time::timeout(patience, poll_fn(more)).await;
    }
    ahead
}
