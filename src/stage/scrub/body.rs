//! The vendor's body on its way to the app, the credential overwritten as it streams.
//!
//! [`Passage`] decides what may go; here it is fed by a body, and the trailers go behind it. A body that
//! breaks takes what was held with it. What must never enter: a way round the passage.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::forms::Forms;
use super::head;
use super::messages::{self, Part, Prefixes};
use super::passage::{Blocked, JOINED, Passage, Reflected};
use super::validators;
use crate::config::OnReflect;

/// Why a scrubbed body breaks off. The app's connection must then be cut, not ended cleanly.
#[derive(Debug)]
pub enum Cut<E> {
    /// The vendor sent the credential back and `on_reflect = "block"`.
    Reflected,
    /// The vendor sent it back compressed, where it cannot be overwritten.
    Compressed,
    /// It is compressed, and relay cannot read it: broken, cut off, followed by something, or beyond a limit;
    /// or one of gRPC's messages is compressed although that was not asked for, is none, or breaks off.
    Unreadable,
    /// The vendor's own body broke.
    Vendor(E),
}

impl<E: fmt::Display> fmt::Display for Cut<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reflected => f.write_str("the vendor sent the credential back, and on_reflect is block"),
            Self::Compressed => {
                f.write_str("the vendor sent the credential back compressed, where it cannot be overwritten")
            }
            Self::Unreadable => {
                f.write_str("the vendor's body is compressed or framed in a way that cannot be read")
            }
            Self::Vendor(cause) => write!(f, "the vendor's body broke: {cause}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Cut<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Reflected | Self::Compressed | Self::Unreadable => None,
            Self::Vendor(cause) => Some(cause),
        }
    }
}

impl<E> From<Blocked> for Cut<E> {
    fn from(_: Blocked) -> Self {
        Self::Reflected
    }
}

/// A body without the credential.
pub struct Scrubbed<B> {
    inner: B,
    passage: Passage,
    /// For gRPC: where the messages end.
    prefixes: Option<Box<Prefixes>>,
    /// The prefix of the message at hand, if nothing of that has gone out.
    lead: Bytes,
    /// What was not cut into messages yet.
    uncut: Bytes,
    /// A piece that goes out next.
    ready: Option<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl<B> Scrubbed<B> {
    /// `inner` without what `forms` finds. `reflected` is set when there was something.
    pub fn new(inner: B, forms: Forms, on_reflect: OnReflect, reflected: Reflected) -> Self {
        let passage = Passage::new(forms, on_reflect, reflected);
        Self {
            inner,
            passage,
            prefixes: None,
            lead: Bytes::new(),
            uncut: Bytes::new(),
            ready: None,
            trailers: None,
            ended: false,
        }
    }

    /// The same for a body of gRPC's messages: nothing waits beyond a message's end.
    #[must_use]
    pub fn of_messages(self) -> Self {
        Self { prefixes: Some(Box::default()), ..self }
    }

    /// Takes the next piece of the body in.
    fn take_in<E>(&mut self, piece: Bytes) -> Result<Bytes, Cut<E>> {
        if self.prefixes.is_none() {
            return self.pass(piece, false);
        }
        self.uncut = piece;
        self.next_part()
    }

    /// The next part of a piece that is cut into messages.
    fn next_part<E>(&mut self) -> Result<Bytes, Cut<E>> {
        let Some(prefixes) = &mut self.prefixes else { return Ok(Bytes::new()) };
        match prefixes.next(&mut self.uncut) {
            // An empty message has nothing to go out with.
            Ok(Part::Prefix(bytes)) if prefixes.at_end() => Ok(bytes),
            Ok(Part::Prefix(bytes)) => {
                self.lead = bytes;
                Ok(Bytes::new())
            }
            Ok(Part::Message(bytes, end)) => {
                let piece = self.pass(bytes, end)?;
                Ok(self.behind_lead(piece))
            }
            Err(messages::Unreadable) => Err(self.cut(Cut::Unreadable)),
        }
    }

    /// Takes the next piece in, or the end, and says what may go out now.
    fn pass<E>(&mut self, piece: Bytes, end: bool) -> Result<Bytes, Cut<E>> {
        match self.passage.pass_apart(piece, end) {
            Ok((front, rest)) => {
                self.ready = rest;
                Ok(front)
            }
            Err(blocked) => Err(self.cut(blocked.into())),
        }
    }

    /// A message's prefix goes out with the first of what it announces.
    fn behind_lead(&mut self, piece: Bytes) -> Bytes {
        if self.lead.is_empty() || piece.is_empty() {
            return piece;
        }
        let lead = std::mem::take(&mut self.lead);
        if piece.len() > JOINED && self.ready.is_none() {
            self.ready = Some(piece);
            return lead;
        }
        Bytes::from([lead, piece].concat())
    }

    fn cut<E>(&mut self, cause: Cut<E>) -> Cut<E> {
        self.ended = true;
        self.passage.forget();
        self.uncut = Bytes::new();
        self.lead = Bytes::new();
        self.ready = None;
        self.trailers = None;
        cause
    }

    fn pass_end<E>(&mut self) -> Result<Bytes, Cut<E>> {
        self.ended = true;
        match &self.prefixes {
            Some(prefixes) if prefixes.waiting() > 0 || !prefixes.at_end() => Err(self.cut(Cut::Unreadable)),
            _ => {
                let last = self.pass(Bytes::new(), true)?;
                Ok(self.behind_lead(last))
            }
        }
    }

    fn pass_trailers<E>(&mut self, mut trailers: HeaderMap) -> Result<(), Cut<E>> {
        head::strip_trailers(&mut trailers);
        if head::scrub_head(&mut trailers, self.passage.forms())
            && let Err(blocked) = self.passage.note()
        {
            return Err(self.cut(blocked.into()));
        }
        // No digest fits bytes that were overwritten.
        if self.passage.has_found() {
            validators::loosen(&mut trailers);
        }
        self.trailers = Some(trailers);
        Ok(())
    }

    fn waiting(&self) -> u64 {
        let prefix = self.prefixes.as_ref().map_or(0, |prefixes| prefixes.waiting());
        let waiting = self.passage.waiting() + prefix + self.lead.len() + self.uncut.len();
        (waiting + self.ready.as_ref().map_or(0, Bytes::len)) as u64
    }
}

impl<B> Body for Scrubbed<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = Cut<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(piece) = this.ready.take() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if !this.uncut.is_empty() {
                match this.next_part() {
                    Ok(piece) if piece.is_empty() => continue,
                    Ok(piece) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                    Err(cause) => return Poll::Ready(Some(Err(cause))),
                }
            }
            if this.ended {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let out = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => this.take_in(piece),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        this.pass_end().and_then(|last| this.pass_trailers(trailers).map(|()| last))
                    }
                },
                Some(Err(cause)) => Err(this.cut(Cut::Vendor(cause))),
                None => this.pass_end(),
            };
            match out {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                Err(cause) => return Poll::Ready(Some(Err(cause))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_waits = self.waiting() == 0 && self.trailers.is_none();
        nothing_waits && (self.ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let inner = if self.ended { SizeHint::with_exact(0) } else { self.inner.size_hint() };
        with_waiting(&inner, self.waiting())
    }
}

/// What is left of a body while `waiting` bytes of it are still held here.
pub(super) fn with_waiting(inner: &SizeHint, waiting: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(inner.lower().saturating_add(waiting));
    if let Some(upper) = inner.upper() {
        hint.set_upper(upper.saturating_add(waiting));
    }
    hint
}
