//! The body on its way to the app, however it is encoded, and the trail that hears when the credential was in
//! it.
//!
//! What must never enter: an edit of the bytes, which is made below.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http_body::{Body, Frame, SizeHint};

use crate::config::OnReflect;
use crate::net::body::{BodyError, VendorBody};
use crate::refusal::{Code, Refusal};
use crate::stage::coding::{Coding, is_grpc};
use crate::stage::record::{Opened, Trail};

use super::ahead::{self, Ahead};
use super::body::{Cut, Reflected, Scrubbed};
use super::content::Content;
use super::forms::Forms;
use super::packed::Packed;
use super::validators;

/// A scrubbed body that tells the trail when the credential was in it.
pub struct Passed {
    /// What was scrubbed before the head went out.
    early: Ahead<Cut<BodyError>>,
    inner: Inner,
    reflected: Reflected,
    trail: Rc<Trail>,
    on_reflect: OnReflect,
    // The customer's place among the requests under way is taken until the answer has ended.
    opened: Option<Opened>,
}

impl Passed {
    pub(super) fn new(
        body: VendorBody,
        packing: Option<Coding>,
        forms: Forms,
        headers: &HeaderMap,
        trail: &Rc<Trail>,
        on_reflect: OnReflect,
    ) -> Result<Self, Refusal> {
        let forms = forms.carried_by(Content::of(headers.get(CONTENT_TYPE)));
        let reflected = Reflected::default();
        let inner = if let Some(coding) = packing {
            let packed = Packed::new(body, coding, forms, reflected.clone());
            Inner::Packed(Box::new(packed.ok_or(Code::ResponseRefused)?))
        } else {
            let body = Scrubbed::new(body, forms, on_reflect, reflected.clone());
            Inner::Plain(if is_grpc(headers) { body.of_messages() } else { body })
        };
        Ok(Self { early: Ahead::new(), inner, reflected, trail: trail.clone(), on_reflect, opened: None })
    }

    /// Scrubs the beginning of the body, if the head vouches for its bytes; when one changed, the head no
    /// longer does.
    ///
    /// # Errors
    /// `response_refused` when the credential is there and `on_reflect` is "block".
    pub(super) async fn read_ahead(&mut self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        let Inner::Plain(body) = &mut self.inner else { return Ok(()) };
        if !validators::any(headers) || is_stream(headers) {
            return Ok(());
        }
        self.early = ahead::read(body).await;
        if self.reflected.seen() {
            tell(&self.trail, self.on_reflect);
            if self.early.iter().any(|next| matches!(next, Err(Cut::Reflected))) {
                return Err(holds_credential());
            }
            validators::loosen(headers);
        }
        Ok(())
    }

    /// Keeps the customer's place until the body has ended.
    pub(super) fn hold(&mut self, opened: Opened) {
        self.opened = Some(opened);
    }
}

/// The refusal of `on_reflect = "block"` before the head is out.
pub(super) fn holds_credential() -> Refusal {
    Refusal::new(Code::ResponseRefused, "The vendor's answer holds the credential.")
}

impl Body for Passed {
    type Data = Bytes;
    type Error = Cut<BodyError>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(next) = self.early.pop_front() {
            return Poll::Ready(Some(next));
        }
        let polled = match &mut self.inner {
            Inner::Plain(body) => Pin::new(body).poll_frame(context),
            Inner::Packed(body) => Pin::new(body).poll_frame(context),
        };
        if self.reflected.seen() {
            tell(&self.trail, self.on_reflect);
        }
        polled
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

/// Notes, once per answer, that the credential was in it.
pub(super) fn tell(trail: &Trail, on_reflect: OnReflect) {
    if trail.reflected() && on_reflect == OnReflect::Alert {
        tracing::warn!(request_id = %trail.request_id(), "the vendor's answer held the credential");
    }
}
