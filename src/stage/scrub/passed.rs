//! The body on its way to the app: the trail hears when the credential was in it, a revocation ends it.
//!
//! What must never enter: an edit of the bytes, which is made below.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::config::OnReflect;
use crate::net::body::{BodyError, VendorBody};
use crate::net::channel::Channel;
use crate::refusal::{Code, Refusal};
use crate::stage::authorize::leases::{Revoked, Watcher};
use crate::stage::record::{Opened, Trail};

use super::body::{Cut, Reflected};
use super::clean::Clean;
use super::forms::Forms;
use super::json;
use super::passage::Passage;

/// A vendor's side of a WebSocket, and what scrubs its messages.
pub(super) struct Socket {
    pub(super) channel: Box<Channel>,
    pub(super) passage: Passage,
}

impl Socket {
    /// An answer that switched protocols has one, and for its body, which has no bytes, there is nothing to
    /// look for.
    pub(super) fn of(
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
    inner: json::Rewritten<Clean>,
    reflected: Reflected,
    trail: Rc<Trail>,
    socket: Option<Socket>,
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
        inner: json::Rewritten<Clean>,
        reflected: Reflected,
        socket: Option<Socket>,
        trail: &Rc<Trail>,
        opened: Opened,
    ) -> Self {
        Self { inner, reflected, trail: trail.clone(), socket, opened }
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
            tell(&self.trail, self.opened.grant().route().on_reflect);
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
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if polled.is_pending() {
            // Nothing can have come between: the worker is one thread. This leaves the waker.
            let _ = self.opened.grant().lease().poll_revoked(context);
        }
        self.tell();
        polled.map_err(Broken::Body)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The refusal of `on_reflect = "block"` before the head is out.
pub(super) fn holds_credential() -> Refusal {
    Refusal::new(Code::ResponseRefused, "The vendor's answer holds the credential.")
}

/// Notes, once per answer, that the credential was in it.
pub(super) fn tell(trail: &Trail, on_reflect: OnReflect) {
    if trail.reflected() && on_reflect == OnReflect::Alert {
        tracing::warn!(request_id = %trail.request_id(), "the vendor's answer held the credential");
    }
}
