//! The vendor's body on its way to the app, the credential overwritten as it streams.
//!
//! What may be the beginning of a form waits for the next piece, by [`Forms`]' rules, which do not look
//! at the credential; no timer ever lets it go. Everything else goes on at once: a clean piece is passed
//! on as the same memory. At most the longest form less one byte is held, plus the piece at hand. A body
//! that breaks takes what was held with it. What must never enter: a count or a delay that depends on
//! anything of the credential but its forms' lengths.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use zeroize::{Zeroize, Zeroizing};

use super::forms::{Forms, mark};
use super::head;
use crate::config::OnReflect;

/// Up to this many bytes are copied behind what was held, to go out as one piece.
const JOINED: usize = 4096;

/// Whether the credential was seen in an answer. Clones share the one answer.
#[derive(Debug, Clone, Default)]
pub struct Reflected(Arc<AtomicBool>);

impl Reflected {
    /// Notes that it was seen.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was seen so far; final once the body has ended or was dropped.
    pub fn seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a scrubbed body breaks off. The app's connection must then be cut, not ended cleanly.
#[derive(Debug)]
pub enum Cut<E> {
    /// The vendor sent the credential back and `on_reflect = "block"`.
    Reflected,
    /// The vendor's own body broke.
    Vendor(E),
}

impl<E: fmt::Display> fmt::Display for Cut<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reflected => f.write_str("the vendor sent the credential back, and on_reflect is block"),
            Self::Vendor(cause) => write!(f, "the vendor's body broke: {cause}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Cut<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Reflected => None,
            Self::Vendor(cause) => Some(cause),
        }
    }
}

/// A body without the credential.
pub struct Scrubbed<B> {
    inner: B,
    forms: Forms,
    on_reflect: OnReflect,
    reflected: Reflected,
    held: Zeroizing<Vec<u8>>,
    /// How many of the held bytes belong to a form that began before them.
    covered: usize,
    /// How many overwritten bytes went out directly before the held ones.
    marked: usize,
    /// A piece that goes out next.
    ready: Option<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl<B> Scrubbed<B> {
    /// `inner` without what `forms` finds. `reflected` is set when there was something.
    pub fn new(inner: B, forms: Forms, on_reflect: OnReflect, reflected: Reflected) -> Self {
        Self {
            inner,
            forms,
            on_reflect,
            reflected,
            held: Zeroizing::new(Vec::new()),
            covered: 0,
            marked: 0,
            ready: None,
            trailers: None,
            ended: false,
        }
    }

    /// Takes the next piece in, or the end, and says what may go out now.
    fn pass<E>(&mut self, piece: Bytes, end: bool) -> Result<Bytes, Cut<E>> {
        let wait = if end { 0 } else { self.forms.held_back(&self.held, &piece) };
        let found = self.holds_form(&piece);
        if found {
            self.found()?;
        }
        Ok(if found || self.covered > 0 {
            self.pass_marked(&piece, wait)
        } else {
            self.pass_clean(piece, wait)
        })
    }

    fn found<E>(&mut self) -> Result<(), Cut<E>> {
        self.reflected.set();
        match self.on_reflect {
            OnReflect::Redact | OnReflect::Alert => Ok(()),
            OnReflect::Block => Err(self.cut(Cut::Reflected)),
        }
    }

    fn cut<E>(&mut self, cause: Cut<E>) -> Cut<E> {
        self.ended = true;
        self.held.zeroize();
        self.ready = None;
        self.trailers = None;
        cause
    }

    /// Whether a form stands in what is held followed by `piece`.
    fn holds_form(&self, piece: &Bytes) -> bool {
        if self.held.is_empty() {
            return !self.forms.ranges(piece).is_empty();
        }
        let (across, apart) = if piece.len() <= JOINED {
            (piece.len(), false)
        } else {
            (piece.len().min(self.forms.longest()), true)
        };
        let seam = joined(&self.held, piece.get(..across).unwrap_or(piece));
        !self.forms.ranges(&seam).is_empty() || (apart && !self.forms.ranges(piece).is_empty())
    }

    /// There is nothing to overwrite: what may go is passed on as it is.
    fn pass_clean(&mut self, mut piece: Bytes, wait: usize) -> Bytes {
        let goes = (self.held.len() + piece.len()).saturating_sub(wait);
        if goes > 0 {
            self.marked = 0;
        }
        let Some(of_piece) = goes.checked_sub(self.held.len()) else {
            let out = Bytes::copy_from_slice(self.held.get(..goes).unwrap_or(&[]));
            self.held.drain(..goes);
            self.hold(&piece);
            return out;
        };
        let waits = piece.split_off(of_piece);
        let front = if self.held.is_empty() {
            piece
        } else if piece.len() <= JOINED {
            Bytes::from([self.held.as_slice(), &piece].concat())
        } else {
            let front = Bytes::copy_from_slice(&self.held);
            self.ready = Some(piece);
            front
        };
        self.held.clear();
        self.hold(&waits);
        front
    }

    /// There is something to overwrite. What is held stays as it came, because a form that overlaps may
    /// still be completed.
    fn pass_marked(&mut self, piece: &Bytes, wait: usize) -> Bytes {
        let mut text = joined(&self.held, piece);
        let goes = text.len().saturating_sub(wait);
        self.held.clear();
        self.hold(text.get(goes..).unwrap_or(&[]));
        if goes == 0 {
            return Bytes::new();
        }
        let mut ranges = self.forms.ranges(&text);
        if self.covered > 0 {
            let met = ranges.iter().take_while(|range| range.start <= self.covered).count();
            let reach = ranges.drain(..met).fold(self.covered, |reach, range| reach.max(range.end));
            ranges.insert(0, 0..reach);
        }
        mark(&mut text, &ranges, self.marked);
        let before = std::mem::take(&mut self.marked);
        self.covered = 0;
        if let Some(range) = ranges.iter().find(|range| range.start < goes && goes <= range.end) {
            self.covered = range.end - goes;
            self.marked = goes - range.start + if range.start == 0 { before } else { 0 };
        }
        Bytes::copy_from_slice(text.get(..goes).unwrap_or(&[]))
    }

    fn hold(&mut self, bytes: &[u8]) {
        // Room for all that can ever be held: a growing vector would leave its old place unwiped.
        if self.held.capacity() == 0 && !bytes.is_empty() {
            self.held.reserve_exact(self.forms.longest());
        }
        self.held.extend_from_slice(bytes);
    }

    fn pass_trailers<E>(&mut self, mut trailers: HeaderMap) -> Result<(), Cut<E>> {
        head::strip_trailers(&mut trailers);
        if head::scrub_head(&mut trailers, &self.forms) {
            self.found()?;
        }
        self.trailers = Some(trailers);
        Ok(())
    }

    fn waiting(&self) -> u64 {
        (self.held.len() + self.ready.as_ref().map_or(0, Bytes::len)) as u64
    }
}

fn joined(before: &[u8], after: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([before, after].concat())
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
            if this.ended {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let out = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => this.pass(piece, false),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        this.ended = true;
                        this.pass_trailers(trailers).and_then(|()| this.pass(Bytes::new(), true))
                    }
                },
                Some(Err(cause)) => Err(this.cut(Cut::Vendor(cause))),
                None => {
                    this.ended = true;
                    this.pass(Bytes::new(), true)
                }
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
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(self.waiting()));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(self.waiting()));
        }
        hint
    }
}
