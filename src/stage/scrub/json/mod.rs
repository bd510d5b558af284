//! References in a JSON body, kept inside relay: `rewrite = ["json"]`, for vendors whose SDK follows them.
//!
//! PyGithub, python-gitlab and Octokit go to the URL that the answer names for page 2, with the caller's token
//! in hand. So each string value that is wholly a URL of the integration is written anew as this request's own
//! address form, as it streams: `scan` finds the strings, `reference` judges one. At most one string of
//! [`LONGEST`] bytes is held, and only while it may still be a URL; that depends on the vendor's text and
//! on nothing of the credential, which is gone from it already. What must never enter: a value that is dropped
//! or invented. A URL that relay would not follow (outside of the base path, with dot segments, of another
//! origin) passes byte for byte, because a client could not tell an edited value from the vendor's.

mod reference;
mod scan;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::validators;
use crate::stage::coding;
pub use reference::Inside;
use scan::Scanner;
pub use scan::{DEEPEST, LONGEST};

/// Whether an answer's body is JSON that can be read as it stands: a whole one, in no coding, in UTF-8.
pub fn applies(method: &Method, status: StatusCode, headers: &HeaderMap) -> bool {
    let bodiless = method == Method::HEAD || matches!(status.as_u16(), 204 | 205 | 206 | 304);
    let plain = headers.get_all(CONTENT_ENCODING).iter().all(|coding| {
        let coding = coding.as_bytes().trim_ascii();
        coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
    });
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else { return false };
    !bodiless && plain && kind.to_str().is_ok_and(is_json)
}

/// `application/json`, `text/json` and every `+json` (RFC 6839 section 3.1), in UTF-8.
fn is_json(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let (essence, parameters) = kind.split_once(';').unwrap_or((&kind, ""));
    let essence = essence.trim_matches([' ', '\t']);
    let json = essence == "application/json" || essence == "text/json" || essence.ends_with("+json");
    json && coding::is_utf8(parameters)
}

/// The head of an answer whose body may change: no length, and nothing that vouches for the bytes.
pub fn edit_head(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    validators::loosen(headers);
}

/// A body whose JSON strings are kept inside; without [`Inside`] the body as it is.
pub struct Rewritten<B> {
    inner: B,
    json: Option<Box<Json>>,
}

struct Json {
    scanner: Scanner,
    inside: Inside,
    /// What goes out behind the last piece.
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl<B> Rewritten<B> {
    /// `inner`, its references rewritten to `inside` if there is one.
    pub fn new(inner: B, inside: Option<Inside>) -> Self {
        let json = |inside| Json { scanner: Scanner::default(), inside, trailers: None, ended: false };
        Self { inner, json: inside.map(|inside| Box::new(json(inside))) }
    }
}

impl<B> Body for Rewritten<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Some(json) = &mut this.json else { return Pin::new(&mut this.inner).poll_frame(context) };
        while !json.ended {
            let out = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => json.scanner.pass(piece, |string| json.inside.rewritten(string)),
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        validators::loosen(&mut trailers);
                        json.trailers = Some(trailers);
                        json.ended = true;
                        json.scanner.rest()
                    }
                },
                Some(Err(cause)) => {
                    json.ended = true;
                    return Poll::Ready(Some(Err(cause)));
                }
                None => {
                    json.ended = true;
                    json.scanner.rest()
                }
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
        Poll::Ready(json.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.json {
            None => self.inner.is_end_stream(),
            Some(json) if json.ended => json.trailers.is_none(),
            Some(json) => json.scanner.holds_nothing() && self.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.json {
            None => self.inner.size_hint(),
            Some(_) if self.is_end_stream() => SizeHint::with_exact(0),
            Some(_) => SizeHint::default(),
        }
    }
}
