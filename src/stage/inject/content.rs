//! A credential in the request's body: a member of a JSON object, or a field of a form.
//!
//! The body was collected and judged by `gather`. Its other bytes stay as they are. The new body is wiped when the
//! connection lets go of it; the app's own, without the credential, is kept for another try. What must never enter:
//! a parser that writes the whole body anew.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::render::{joined, kept, percent_encoded};
use crate::config::placement::Pointer;
use crate::net::body::Outgoing;
use crate::refusal::{Code, Refusal};
use crate::secret::Secret;
use crate::stage::gather::{Joint, joint, unfit};
use crate::stage::route::parameters;
use crate::stage::wiped::Wiped;

/// What becomes of a collected body; nothing, for most requests.
#[derive(Default)]
pub(super) struct Content(Option<Zeroizing<Vec<u8>>>);

impl Content {
    /// Sets a member of a JSON body; its rendered form, where that differs from `text`.
    ///
    /// # Errors
    /// `request_malformed` for a body that the member does not fit into.
    pub(super) fn member(
        &mut self,
        body: &Outgoing,
        pointer: &Pointer,
        text: &[u8],
    ) -> Result<Option<Secret>, Refusal> {
        let value = quoted(text);
        let before = self.so_far(body)?;
        let before = std::str::from_utf8(before).map_err(|_| unfit("it is not UTF-8"))?;
        let split = |from: usize, to: usize| {
            (before.get(..from).unwrap_or_default(), before.get(to..).unwrap_or_default())
        };
        let after = match joint(before, pointer).map_err(unfit)? {
            Joint::Instead(place) => {
                let (before, behind) = split(place.start, place.end);
                joined(&[before.as_bytes(), &value, behind.as_bytes()])
            }
            Joint::New { at, first } => {
                let (before, behind) = split(at, at);
                let comma: &[u8] = if first { b"" } else { b"," };
                let name = quoted(pointer.member().as_bytes());
                joined(&[before.as_bytes(), comma, &name, b":", &value, behind.as_bytes()])
            }
        };
        self.0 = Some(after);
        let inner = value.get(1..value.len() - 1).unwrap_or_default();
        Ok((inner != text).then(|| kept(inner)))
    }

    /// Sets a field of a form, behind all others; its rendered form, where that differs from `text`.
    ///
    /// # Errors
    /// None that a judged body could meet.
    pub(super) fn field(
        &mut self,
        body: &Outgoing,
        name: &str,
        text: &[u8],
    ) -> Result<Option<Secret>, Refusal> {
        let value = percent_encoded(text, b"");
        let others = Zeroizing::new(parameters::without(self.so_far(body)?, &[name]));
        let mark: &[u8] = if others.is_empty() { b"" } else { b"&" };
        self.0 = Some(joined(&[&others, mark, &percent_encoded(name.as_bytes(), b""), b"=", &value]));
        Ok((value.as_slice() != text).then(|| kept(&value)))
    }

    /// The vendor's body; and the app's own, if that is another.
    pub(super) fn finish(self, body: Outgoing) -> (Outgoing, Option<Outgoing>) {
        match self.0 {
            None => (body, None),
            Some(armed) => (Outgoing::whole(Bytes::from_owner(Wiped(armed))), Some(body)),
        }
    }

    fn so_far<'a>(&'a self, body: &'a Outgoing) -> Result<&'a [u8], Refusal> {
        match (&self.0, body.collected()) {
            (Some(armed), _) => Ok(armed),
            (None, Some(collected)) => Ok(collected),
            (None, None) => Err(Refusal::from(Code::RequestMalformed).because("the body was not collected")),
        }
    }
}

/// `text` as a JSON string (RFC 8259 section 7). It has no control bytes: a field with one is refused before.
fn quoted(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let escaped = text.iter().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    let mut quoted = Zeroizing::new(Vec::with_capacity(text.len() + escaped + 2));
    quoted.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    quoted
}
