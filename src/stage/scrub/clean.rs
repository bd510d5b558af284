//! The body without the credential, however it is encoded.
//!
//! What must never enter: an edit of the bytes, which is made below.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http_body::{Body, Frame, SizeHint};

use crate::config::OnReflect;
use crate::net::body::{BodyError, VendorBody};
use crate::refusal::{Code, Refusal};
use crate::stage::coding::{Coding, is_grpc};
use crate::stage::record::Trail;

use super::ahead::{self, Ahead};
use super::body::{Cut, Reflected, Scrubbed};
use super::content::Content;
use super::forms::Forms;
use super::packed::Packed;
use super::passed::{holds_credential, tell};
use super::validators;

/// A scrubbed body.
pub(super) struct Clean {
    /// What was scrubbed before the head went out.
    early: Ahead<Cut<BodyError>>,
    inner: Inner,
    reflected: Reflected,
    on_reflect: OnReflect,
}

impl Clean {
    pub(super) fn new(
        body: VendorBody,
        packing: Option<Coding>,
        forms: Forms,
        headers: &HeaderMap,
        on_reflect: OnReflect,
        reflected: &Reflected,
    ) -> Result<Self, Refusal> {
        let forms = forms.carried_by(Content::of(headers.get(CONTENT_TYPE)));
        let inner = if let Some(coding) = packing {
            let packed = Packed::new(body, coding, forms, reflected.clone());
            Inner::Packed(Box::new(packed.ok_or(Code::ResponseRefused)?))
        } else {
            let body = Scrubbed::new(body, forms, on_reflect, reflected.clone());
            Inner::Plain(if is_grpc(headers) { body.of_messages() } else { body })
        };
        Ok(Self { early: Ahead::new(), inner, reflected: reflected.clone(), on_reflect })
    }

    /// Scrubs the beginning of the body, if the head vouches for its bytes; when one changed, the head no
    /// longer does.
    ///
    /// # Errors
    /// `response_refused` when the credential is there and `on_reflect` is "block".
    pub(super) async fn read_ahead(&mut self, headers: &mut HeaderMap, trail: &Trail) -> Result<(), Refusal> {
        let Inner::Plain(body) = &mut self.inner else { return Ok(()) };
        if !validators::any(headers) || is_stream(headers) {
            return Ok(());
        }
        self.early = ahead::read(body).await;
        if self.reflected.seen() {
            tell(trail, self.on_reflect);
            if self.early.iter().any(|next| matches!(next, Err(Cut::Reflected))) {
                return Err(holds_credential());
            }
            validators::loosen(headers);
        }
        Ok(())
    }
}

impl Body for Clean {
    type Data = Bytes;
    type Error = Cut<BodyError>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(next) = self.early.pop_front() {
            return Poll::Ready(Some(next));
        }
        match &mut self.inner {
            Inner::Plain(body) => Pin::new(body).poll_frame(context),
            Inner::Packed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        let inner = match &self.inner {
            Inner::Plain(body) => body.is_end_stream(),
            Inner::Packed(body) => body.is_end_stream(),
        };
        self.early.is_empty() && inner
    }

    fn size_hint(&self) -> SizeHint {
        let inner = match &self.inner {
            Inner::Plain(body) => body.size_hint(),
            Inner::Packed(body) => body.size_hint(),
        };
        let early = self.early.iter().filter_map(|next| next.as_ref().ok()?.data_ref());
        let early = early.map(|piece| piece.len() as u64).sum::<u64>();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(early));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(early));
        }
        hint
    }
}

/// The body, by how it is encoded.
// One per request, in the one box that the body stands in.
#[allow(clippy::large_enum_variant)]
enum Inner {
    Plain(Scrubbed<VendorBody>),
    Packed(Box<Packed<VendorBody>>),
}

/// Whether a body may begin with nothing for a long time.
fn is_stream(headers: &HeaderMap) -> bool {
    let events = headers.get(CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes().get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
    });
    events || is_grpc(headers)
}
