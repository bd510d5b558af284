//! The stage itself: one vendor's answer, from its head to its streaming body.
//!
//! The order on a head is the one that the room's `//!` gives. What must never enter: an edit that is not
//! listed there.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};

use crate::config::OnReflect;
use crate::net::body::{BodyError, VendorBody};
use crate::net::channel::Channel;
use crate::refusal::{Code, Refusal};
use crate::reply;
use crate::secret::Secret;
use crate::stage::authorize::leases::{Revoked, Watcher};
use crate::stage::record::{Opened, Trail};
use crate::stage::route::Matched;
use crate::stage::send::Answer;

use super::body::{Cut, Reflected, Scrubbed};
use super::forms::Forms;
use super::links::Address;
use super::passage::Passage;
use super::{coding, handshake, head as fields, json, links};

/// How the app addresses relay: what references are rewritten to, and what they must not point at.
pub struct Surroundings {
    /// The address given in configuration, without a slash at its end.
    pub public_url: Option<String>,
    /// relay's own authorities: listeners, and the public URL's.
    pub own: Arc<[String]>,
}

/// Step 9: the vendor's answer as the app may have it. The body is still streaming.
///
/// # Errors
/// `response_refused` for an answer that cannot be read or that redirects out of the integration.
pub fn scrub(
    surroundings: &Surroundings,
    opened: Opened,
    trail: &Rc<Trail>,
    asked: &Parts,
    answer: Answer,
) -> Result<Response<Box<Passed>>, Refusal> {
    let grant = opened.grant();
    let route = grant.route();
    let (head, mut body) = answer.response.into_parts();
    let mut headers = head.headers;
    // Without a body there is nothing that could not be read: the fields only tell of a GET's.
    let bodiless = asked.method == Method::HEAD || matches!(head.status.as_u16(), 101 | 204 | 304);
    let switches = handshake::is_one(head.status, &asked.headers, &headers)?;
    if !bodiless {
        coding::identity_only(&headers)?;
        coding::whole_only(head.status, &headers)?;
    }
    fields::strip(&mut headers, route.cookies);
    let planted = answer.planted;
    let forms = forms(planted.secrets().map(Secret::expose), planted.rendered().map(Secret::expose));
    if fields::scrub_head(&mut headers, &forms) {
        trail.reflected();
        if route.on_reflect == OnReflect::Block {
            return Err(Refusal::new(Code::ResponseRefused, "The vendor's answer holds the credential."));
        }
    }
    if links::any(&headers) {
        let address = Address {
            app_base: surroundings.app_base(asked, grant.matched()),
            prefix: grant.matched().prefix(),
            origin: &route.origin,
            base_path: &route.base_path,
            target: grant.target().path_and_query().map_or("/", PathAndQuery::as_str),
            own: &surroundings.own,
        };
        for dropped in links::rewrite(&mut headers, head.status, &address)? {
            tracing::debug!(request_id = %trail.request_id(), field = %dropped.field, why = %dropped.why, "a reference was dropped");
        }
    }
    if switches {
        handshake::complete(&mut headers);
    }
    let inside = (route.rewrite_json && json::applies(&asked.method, head.status, &headers)).then(|| {
        json::edit_head(&mut headers);
        inside(surroundings, &opened, asked)
    });
    reply::mark(&mut headers, trail.request_id());
    trail.relayed(head.status.as_u16());
    let reflected = Reflected::default();
    let (socket, forms) = Socket::of(&mut body, forms, route.on_reflect, &reflected);
    let inner = Scrubbed::new(body, forms, route.on_reflect, reflected.clone());
    let inner = json::Rewritten::new(inner, inside);
    // Boxed: it is handed on through every layer up to the connection.
    let mut response = Response::new(Box::new(Passed {
        inner,
        reflected,
        trail: trail.clone(),
        on_reflect: route.on_reflect,
        socket,
        opened,
    }));
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    Ok(response)
}

impl Surroundings {
    /// How the app reached relay with this request, without a slash at its end.
    fn app_base(&self, asked: &Parts, matched: &Matched) -> String {
        let host = asked.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        match &self.public_url {
            // It is the address of the common listener.
            Some(url) if matched.is_by_path() => url.clone(),
            _ => format!("{}://{host}", if matched.is_secure() { "https" } else { "http" }),
        }
    }
}

fn inside(surroundings: &Surroundings, opened: &Opened, asked: &Parts) -> json::Inside {
    let grant = opened.grant();
    json::Inside {
        app_base: surroundings.app_base(asked, grant.matched()),
        prefix: grant.matched().prefix(),
        route: grant.route().clone(),
        target: grant.target().path_and_query().map_or("/", PathAndQuery::as_str).to_owned(),
        own: surroundings.own.clone(),
    }
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
    inner: json::Rewritten<Scrubbed<VendorBody>>,
    reflected: Reflected,
    trail: Rc<Trail>,
    on_reflect: OnReflect,
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
        if self.reflected.seen() && self.trail.reflected() && self.on_reflect == OnReflect::Alert {
            tracing::warn!(request_id = %self.trail.request_id(), "the vendor's answer held the credential");
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

#[cfg(not(feature = "leak_for_tests_danger"))]
fn forms<'a>(secrets: impl Iterator<Item = &'a [u8]>, rendered: impl Iterator<Item = &'a [u8]>) -> Forms {
    Forms::of(secrets, rendered)
}

/// The positive control of the canary hunt: nothing is looked for, so everything leaks.
#[cfg(feature = "leak_for_tests_danger")]
fn forms<'a>(_: impl Iterator<Item = &'a [u8]>, _: impl Iterator<Item = &'a [u8]>) -> Forms {
    Forms::of([], [])
}
