//! Between record and connect: a request's body, whole, where something has to stand in it or be made of it.
//!
//! A body placement and a signature over the body need all of it before the first byte goes out. It is collected
//! here, up to the integration's limit and before a connection and a decryption, so that an app that uploads
//! slowly holds neither. Every other integration's body streams past. What must never enter: plaintext; a
//! limit that nobody stated.

mod fit;
mod member;
mod room;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::request::Parts;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::net::body::Outgoing;
use crate::refusal::{Code, Refusal};
use crate::stage::authorize::Grant;
use crate::stage::record::{Opened, Trail};

use room::Place;
pub use room::Room;

pub use fit::unfit;
pub use member::{Joint, joint};

/// Counts the body from here on and, where the integration needs it whole, collects it: `body` is then in
/// memory, without trailers. What the app had still to send after a refusal is left in `body`.
///
/// # Errors
/// `too_busy` where too much is collected at once; `body_too_large`: at once where the length is told, else as soon as the limit is passed.
/// `request_malformed` for a body that breaks off or stands still for the idle time, and for one that the
/// credential cannot be put into; `secret_disabled`,
/// `secret_not_found` if the secret is revoked meanwhile.
pub async fn gather(
    room: &Room,
    trail: &Trail,
    opened: &Opened,
    head: &Parts,
    body: &mut Outgoing,
) -> Result<(), Refusal> {
    trail.uploads(body.meter());
    let route = opened.grant().route();
    let Some(most) = opened.grant().collects() else { return Ok(()) };
    fit::head(&route.placements, &head.headers, body.is_end_stream())?;
    // Boxed, so that a request that streams does not carry the room for it.
    let collected = Box::pin(collected(opened.grant(), body, (most, room))).await?;
    fit::body(&route.placements, &collected)?;
    *body = Outgoing::whole(collected);
    Ok(())
}

async fn collected(
    grant: &Grant,
    body: &mut Outgoing,
    (most, room): (usize, &Room),
) -> Result<Bytes, Refusal> {
    let told = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if told > most {
        return Err(too_large(most));
    }
    // Grows with what comes: a length that is told and never sent costs nothing.
    let (mut collected, mut place) = (Vec::new(), room.place(&grant.identity().customer));
    while let Some(frame) = next(grant, body).await? {
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > most - collected.len() {
            return Err(too_large(most));
        }
        place.grow(data.len())?;
        collected.extend_from_slice(&data);
    }
    Ok(Bytes::from_owner(Kept { bytes: collected, _place: place }))
}

/// A collected body: its place is free when the last share of it goes.
struct Kept {
    bytes: Vec<u8>,
    _place: Place,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body's next piece; a revocation ends the wait.
async fn next(grant: &Grant, body: &mut Outgoing) -> Result<Option<Frame<Bytes>>, Refusal> {
    let idle = grant.route().upstream.idle();
    let mut waiting = pin!(timeout(idle, body.frame()));
    let came = poll_fn(|cx| match waiting.as_mut().poll(cx) {
        Poll::Ready(came) => Poll::Ready(Ok(came)),
        Poll::Pending => grant.lease().poll_revoked(cx).map(Err),
    });
    match came.await? {
        Ok(frame) => frame.transpose().map_err(|error| {
            Refusal::from(Code::RequestMalformed).because(format!("the app's body broke off: {error}"))
        }),
        Err(_) => Err(Refusal::from(Code::RequestMalformed)
            .because(format!("the app sent nothing for {} s", idle.as_secs()))),
    }
}

fn too_large(most: usize) -> Refusal {
    let detail = format!(
        "This integration's requests are collected before they are sent on, up to {most} bytes (`body_limit`), and this body is larger."
    );
    Refusal::new(Code::BodyTooLarge, detail)
}
