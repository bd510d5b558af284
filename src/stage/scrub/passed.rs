//! The body on its way to the app, however it is encoded, and the trail that hears when the credential was in
//! it.
//!
//! What must never enter: an edit of the bytes, which is made below.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http_body::{Body, Frame, SizeHint};

use crate::config::OnReflect;
use crate::net::body::{BodyError, VendorBody};
use crate::net::channel::Channel;
use crate::refusal::{Code, Refusal};
use crate::stage::authorize::leases::{Revoked, Watcher};
use crate::stage::coding::{Coding, is_grpc};
use crate::stage::record::{Opened, Trail};

use super::ahead::{self, Ahead, BRIEF, MOST_AHEAD, PATIENCE};
use super::body::{Cut, Scrubbed, with_waiting};
use super::content::Content;
use super::forms::Forms;
use super::json;
use super::packed::Packed;
use super::passage::Passage;
use super::passage::Reflected;
use super::validators;

/// How a body is to be read.
pub(super) struct Terms {
    /// How it is compressed.
    pub(super) packing: Option<Coding>,
    /// What must not pass.
    pub(super) forms: Forms,
    /// Where its references are kept, if they are.
    pub(super) inside: Option<json::Inside>,
}

/// A vendor's side of a WebSocket, and what scrubs its messages.
pub(super) struct Socket {
    pub(super) channel: Box<Channel>,
    pub(super) passage: Passage,
}

impl Socket {
    /// An answer that switched protocols has one, and for its body, which has no bytes, there is nothing to
    /// look for.
    fn of(
        body: &mut VendorBody,
        forms: Forms,
        on_reflect: OnReflect,
        reflected: &Reflected,
    ) -> (Option<Self>, Forms) {
        let Some(channel) = body.take_channel() else { return (None, forms) };
        let passage = Passage::new(forms, on_reflect, reflected.clone());
        (Some(Self { channel, passage }), Forms::of([], []))
    }
}

/// A scrubbed body that tells the trail when the credential was in it.
pub struct Passed {
    /// What was scrubbed before the head went out.
    early: Ahead<Cut<BodyError>>,
    inner: Inner,
    reflected: Reflected,
    trail: Rc<Trail>,
    on_reflect: OnReflect,
    socket: Option<Socket>,
    /// Whether what came before a break had its turn to be written.
    breaks: bool,
    // The customer's place among the requests under way is taken until the answer has ended.
    opened: Opened,
}

/// Why an answer breaks off. The app's connection must then be cut, not ended cleanly.
#[derive(Debug)]
pub enum Broken {
    /// The vendor's body broke, or held what must not pass.
    Body(Cut<BodyError>),
    /// The secret was revoked meanwhile.
    Revoked(Revoked),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(cause) => cause.fmt(f),
            Self::Revoked(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for Broken {}

impl Passed {
    pub(super) fn new(
        mut body: VendorBody,
        terms: Terms,
        headers: &HeaderMap,
        trail: &Rc<Trail>,
        opened: Opened,
    ) -> Result<Self, Refusal> {
        let on_reflect = opened.grant().route().on_reflect;
        let reflected = Reflected::default();
        let (socket, forms) = Socket::of(&mut body, terms.forms, on_reflect, &reflected);
        let forms = forms.carried_by(Content::of(headers.get(CONTENT_TYPE)));
        let inner = if let Some(coding) = terms.packing {
            let packed = Packed::new(body, coding, forms, reflected.clone());
            Inner::Packed(Box::new(packed.ok_or(Code::ResponseRefused)?))
        } else {
            let body = Scrubbed::new(body, forms, on_reflect, reflected.clone());
            let body = if is_grpc(headers) { body.of_messages() } else { body };
            Inner::Plain(json::Rewritten::new(body, terms.inside))
        };
        let early = Ahead::new();
        Ok(Self { early, inner, reflected, trail: trail.clone(), on_reflect, socket, breaks: false, opened })
    }

    /// Scrubs the beginning of the body, if the head vouches for its bytes or it is compressed; when one changed,
    /// the head no longer does.
    ///
    /// # Errors
    /// `response_refused` when the credential is there and `on_reflect` is "block", or the body is compressed.
    pub(super) async fn read_ahead(&mut self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        let vouched = validators::any(headers);
        if is_stream(headers) {
            return Ok(());
        }
        self.early = match &mut self.inner {
            Inner::Plain(_) if !vouched => return Ok(()),
            Inner::Plain(body) => ahead::read(body, PATIENCE).await,
            Inner::Packed(body) => {
                let short = body.size_hint().upper().is_some_and(|most| most <= MOST_AHEAD as u64);
                ahead::read(body.as_mut(), if vouched || short { PATIENCE } else { BRIEF }).await
            }
        };
        if self.reflected.seen() {
            self.tell();
            let held = |next: &Result<_, _>| matches!(next, Err(Cut::Reflected | Cut::Compressed));
            if self.early.iter().any(held) {
                return Err(holds_credential());
            }
            validators::loosen(headers);
        }
        if self.early.iter().any(|next| matches!(next, Err(Cut::Unreadable))) {
            let why = "The vendor's answer is compressed in a way that relay cannot read.";
            return Err(Refusal::new(Code::ResponseRefused, why));
        }
        Ok(())
    }

    /// What stands in the body's place where the answer switched protocols, once.
    pub(super) fn take_socket(&mut self) -> Option<Socket> {
        self.socket.take()
    }

    pub(super) const fn trail(&self) -> &Rc<Trail> {
        &self.trail
    }

    /// Ready once the secret is revoked.
    pub(super) fn poll_revoked(&self, cx: &Context<'_>) -> Poll<Revoked> {
        self.opened.grant().lease().poll_revoked(cx)
    }

    /// Tells the trail if the credential was found.
    pub(super) fn tell(&self) {
        if self.reflected.seen() {
            tell(&self.trail, self.on_reflect);
        }
    }

    /// Sees whether the secret is revoked meanwhile.
    pub fn watcher(&self) -> Watcher {
        self.opened.grant().lease().watcher()
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        if let Some(why) = self.opened.grant().lease().revoked() {
            self.trail.revoked(why);
        }
    }
}

/// The refusal of `on_reflect = "block"` before the head is out.
pub(super) fn holds_credential() -> Refusal {
    Refusal::new(Code::ResponseRefused, "The vendor's answer holds the credential.")
}

impl Body for Passed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // Asked first: a vendor that never makes anyone wait must end as well.
        if let Some(why) = self.opened.grant().lease().revoked() {
            return Poll::Ready(Some(Err(Broken::Revoked(why))));
        }
        let early = self.early.pop_front();
        let polled = match (&mut self.inner, early) {
            (_, Some(next)) => Poll::Ready(Some(next)),
            (Inner::Plain(body), None) => Pin::new(body).poll_frame(context),
            (Inner::Packed(body), None) => Pin::new(body).poll_frame(context),
        };
        if !self.breaks
            && let Poll::Ready(Some(Err(cause))) = polled
        {
            // hyper throws away what it has not written when a body fails, also the head.
            self.breaks = true;
            self.early.push_front(Err(cause));
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if polled.is_pending() {
            // Nothing can have come between: the worker is one thread. This leaves the waker.
            let _ = self.opened.grant().lease().poll_revoked(context);
        }
        self.tell();
        polled.map_err(Broken::Body)
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
        with_waiting(&inner, early.map(|piece| piece.len() as u64).sum())
    }
}

/// The body, by how it is encoded.
// One per request, in the one box that the body stands in.
#[allow(clippy::large_enum_variant)]
enum Inner {
    Plain(json::Rewritten<Scrubbed<VendorBody>>),
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
