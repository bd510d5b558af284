//! The answer's body on its way to the app: counted, and closing the trail when it ends or is dropped.

use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Trail;
use crate::model::RequestId;

/// A body that closes its request's [`Trail`].
pub struct Recorded<B: Body> {
    inner: B,
    trail: Rc<Trail>,
    handed_over: bool,
}

impl<B: Body> Recorded<B> {
    /// Ties `trail` to `inner`.
    pub const fn new(inner: B, trail: Rc<Trail>) -> Self {
        Self { inner, trail, handed_over: false }
    }

    /// Gives up what is counted, with the duty to close the trail; `instead` is passed on uncounted.
    pub fn hand_over(&mut self, instead: B) -> B {
        self.handed_over = true;
        std::mem::replace(&mut self.inner, instead)
    }

    /// What is counted.
    pub const fn inner(&self) -> &B {
        &self.inner
    }

    /// The request's id.
    pub fn request_id(&self) -> RequestId {
        self.trail.request_id()
    }
}

impl<B> Body for Recorded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.trail.answered(data.len() as u64);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let error = error.into();
                self.trail.close(Some(format!("cut: {error}")));
                Poll::Ready(Some(Err(error)))
            }
            None => {
                if !self.handed_over {
                    self.trail.close(None);
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Body> Drop for Recorded<B> {
    fn drop(&mut self) {
        // A body that is at its end may be dropped without being asked for the end; so may that of an answer
        // to HEAD, which is not sent at all (RFC 9110 section 9.3.2).
        if !self.handed_over && (self.inner.is_end_stream() || self.trail.is_bodyless()) {
            self.trail.close(None);
        }
    }
}
