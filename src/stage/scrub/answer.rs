//! The stage itself: one vendor's answer, from its head to its streaming body.
//!
//! The order on a head is the one that the room's `//!` gives. What must never enter: an edit that is not
//! listed there.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use crate::config::OnReflect;
use crate::net::body::{BodyError, VendorBody};
use crate::refusal::{Code, Refusal};
use crate::reply;
use crate::secret::Secret;
use crate::stage::authorize::leases::{Revoked, Watcher};
use crate::stage::record::{Opened, Trail};
use crate::stage::send::Answer;

use super::body::{Cut, Reflected, Scrubbed};
use super::forms::Forms;
use super::links::Address;
use super::passage::Passage;
use super::{coding, handshake, head as fields, links};

/// How the app addresses relay: what references are rewritten to, and what they must not point at.
pub struct Surroundings {
    /// The address given in configuration, without a slash at its end.
    pub public_url: Option<String>,
    /// relay's own authorities: listeners, and the public URL's.
    pub own: Vec<String>,
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
    let (head, body) = answer.response.into_parts();
    let mut headers = head.headers;
    // Without a body there is nothing that could not be read: the fields only tell of a GET's.
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let bodiless = switches || asked.method == Method::HEAD || matches!(head.status.as_u16(), 204 | 304);
    if switches {
        handshake::check(&asked.headers, &headers)?;
    }
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
        let host = asked.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let app_base = surroundings.public_url.clone().unwrap_or_else(|| format!("http://{host}"));
        let address = Address {
            app_base,
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
    reply::mark(&mut headers, trail.request_id());
    trail.relayed(head.status.as_u16());
    let reflected = Reflected::default();
    let inner = Scrubbed::new(body, forms, route.on_reflect, reflected.clone());
    // Boxed: it is handed on through every layer up to the connection.
    let mut response = Response::new(Box::new(Passed {
        inner,
        reflected,
        trail: trail.clone(),
        on_reflect: route.on_reflect,
        opened,
    }));
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// A scrubbed body that tells the trail when the credential was in it.
pub struct Passed {
    inner: Scrubbed<VendorBody>,
    reflected: Reflected,
    trail: Rc<Trail>,
    on_reflect: OnReflect,
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
    /// The vendor's body.
    pub(super) fn body(&mut self) -> &mut VendorBody {
        self.inner.parts().0
    }

    /// What scrubs it.
    pub(super) fn passage(&mut self) -> &mut Passage {
        self.inner.parts().1
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
