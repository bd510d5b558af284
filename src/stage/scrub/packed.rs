//! A compressed body on its way to the app: a decoded copy is scanned, the vendor's own bytes pass.
//!
//! So `ETag`, checksums and `Content-Length` stay true. A byte goes out once everything that can be decoded
//! from it has been scanned and does not wait as the possible beginning of a form (`Decoder` says which
//! bytes are that far). Compressed bytes cannot be overwritten, so a hit cuts the answer visibly, whatever
//! `on_reflect` says; so do data that are broken, cut off, or followed by others, and data beyond the
//! limits here. The compressed bytes are searched as they stand as well, because names in a gzip header and
//! brotli's metadata are not part of what is decoded: a form there is cut before its end goes out.
//!
//! What must never enter: a whole body, on either side of the decoder.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::task::yield_now;
use zeroize::{Zeroize, Zeroizing};

use super::body::{Cut, with_waiting};
use super::decode::{Broken, Decoder};
use super::forms::Forms;
use super::head;
use super::passage::Reflected;
use super::passage::{Blocked, Passage};
use crate::config::OnReflect;
use crate::stage::coding::Coding;

/// How much a decoder may give at once.
const PIECE: usize = 16 * 1024;

/// How much it is fed at once: bytes are let go at the ends of these.
const FED: usize = 512;

/// How much is decoded before others have their turn.
const TURN: usize = 256 * 1024;

/// How many compressed bytes may wait at most.
const MOST_WAITING: usize = 2 * 1024 * 1024;

/// How many decoded bytes there may be for each compressed one, beyond the first [`RATIO_FROM`].
const MOST_RATIO: u64 = 1100;

/// Up to here any ratio passes.
const RATIO_FROM: u64 = 1024 * 1024;

/// How many decoded bytes there may be in all.
const MOST_DECODED: u64 = 64 * 1024 * 1024 * 1024;

/// Has this task polled again once the worker has looked at its sockets: one that just wakes itself would be polled
/// thousands of times in between, as many as such bodies are under way.
pub(super) fn give_way(context: &mut Context<'_>) {
    let _ = pin!(yield_now()).poll(context);
}

/// A compressed body in which the credential was looked for.
pub struct Packed<B> {
    inner: B,
    decoder: Decoder,
    /// The decoded copy goes through here, and nowhere else.
    passage: Passage,
    reflected: Reflected,
    /// What the vendor sent and has not gone out.
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// What the decoder has not been fed.
    unfed: Bytes,
    /// Whether the decoder was interrupted by a full piece.
    more: bool,
    /// The end of the compressed bytes so far, for what stands across two pieces of them.
    tail: Zeroizing<Vec<u8>>,
    out: Zeroizing<Vec<u8>>,
    taken: u64,
    given: u64,
    gone: u64,
    /// Up to where compressed bytes may go, and where the settled places behind that are: how many bytes
    /// were taken, how many given.
    free: u64,
    settled: VecDeque<(u64, u64)>,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl<B> Packed<B> {
    /// `inner`, which is encoded in `coding`, as long as `forms` finds nothing in it.
    pub fn new(inner: B, coding: Coding, forms: Forms, reflected: Reflected) -> Option<Self> {
        Some(Self {
            inner,
            decoder: Decoder::of(coding).ok()?,
            passage: Passage::new(forms, OnReflect::Block, reflected.clone()),
            reflected,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            unfed: Bytes::new(),
            more: false,
            tail: Zeroizing::new(Vec::new()),
            out: Zeroizing::new(vec![0; PIECE]),
            taken: 0,
            given: 0,
            gone: 0,
            free: 0,
            settled: VecDeque::new(),
            trailers: None,
            ended: false,
        })
    }

    fn take_in<E>(&mut self, piece: Bytes) -> Result<(), Cut<E>> {
        if !self.passage.forms().is_empty() && self.stands_raw(&piece) {
            self.reflected.set();
            return Err(Cut::Compressed);
        }
        self.waiting_bytes += piece.len();
        self.unfed = piece.clone();
        self.waiting.push_back(piece);
        Ok(())
    }

    /// Whether a form stands in the compressed bytes as they are.
    fn stands_raw(&mut self, piece: &[u8]) -> bool {
        let forms = self.passage.forms();
        let text = Zeroizing::new([self.tail.as_slice(), piece].concat());
        let found = !forms.ranges(&text).is_empty();
        let kept = text.len().min(forms.longest_plain());
        self.tail.zeroize();
        self.tail.reserve_exact(forms.longest_plain());
        self.tail.extend_from_slice(text.get(text.len() - kept..).unwrap_or(&[]));
        found
    }

    /// Decodes what has come. Says whether this turn's share was used up.
    fn work<E>(&mut self) -> Result<bool, Cut<E>> {
        let begun = self.given;
        while self.more || !self.unfed.is_empty() {
            if self.given - begun >= TURN as u64 {
                return Ok(true);
            }
            // What was interrupted is first brought to its end by itself: a zstd block that fills the last piece
            // settles there, and would not with the next one's header taken.
            let most = if self.more { 0 } else { FED.min(self.unfed.len()) };
            let feed = self.unfed.get(..most).unwrap_or(&[]);
            let step = self.decoder.step(feed, &mut self.out).map_err(|Broken| Cut::Unreadable)?;
            if step.taken == 0 && step.given == 0 && !feed.is_empty() {
                return Err(Cut::Unreadable);
            }
            self.more = step.given == self.out.len();
            self.unfed = self.unfed.slice(step.taken..);
            self.taken += step.taken as u64;
            self.given += step.given as u64;
            let most = RATIO_FROM.max(self.taken.saturating_mul(MOST_RATIO)).min(MOST_DECODED);
            if self.given > most || self.waiting_bytes > MOST_WAITING {
                return Err(Cut::Unreadable);
            }
            if step.given > 0 {
                let piece = Bytes::copy_from_slice(self.out.get(..step.given).unwrap_or(&[]));
                self.passage.pass(piece, false).map_err(|Blocked| Cut::Compressed)?;
            }
            if step.settled {
                self.settle();
            }
        }
        Ok(false)
    }

    /// Everything that was taken has been given: those bytes may go when what they gave does.
    fn settle(&mut self) {
        match self.settled.back_mut() {
            Some((taken, given)) if *given == self.given => *taken = self.taken,
            _ => self.settled.push_back((self.taken, self.given)),
        }
    }

    /// What may go out now.
    fn release(&mut self) -> Option<Bytes> {
        let scanned = self.given - self.passage.waiting() as u64;
        while let Some((taken, _)) = self.settled.front().filter(|(_, given)| *given <= scanned) {
            self.free = *taken;
            self.settled.pop_front();
        }
        let may = usize::try_from(self.free - self.gone).unwrap_or(usize::MAX);
        let first = self.waiting.front_mut().filter(|_| may > 0)?;
        let out = if first.len() <= may { self.waiting.pop_front()? } else { first.split_to(may) };
        self.gone += out.len() as u64;
        self.waiting_bytes -= out.len();
        Some(out)
    }

    fn end<E>(&mut self, trailers: Option<HeaderMap>) -> Result<(), Cut<E>> {
        self.ended = true;
        if self.taken > 0 && !self.decoder.ended() {
            return Err(Cut::Unreadable);
        }
        self.passage.pass(Bytes::new(), true).map_err(|Blocked| Cut::Compressed)?;
        if let Some(mut trailers) = trailers {
            head::strip_trailers(&mut trailers);
            if head::scrub_head(&mut trailers, self.passage.forms()) {
                self.passage.note().map_err(|Blocked| Cut::Compressed)?;
            }
            self.trailers = Some(trailers);
        }
        self.free = self.taken;
        Ok(())
    }

    fn cut<E>(&mut self, cause: Cut<E>) -> Cut<E> {
        self.ended = true;
        self.more = false;
        self.unfed = Bytes::new();
        self.free = self.gone;
        self.settled.clear();
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.passage.forget();
        self.out.zeroize();
        self.trailers = None;
        cause
    }
}

impl<B> Body for Packed<B>
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
            // Where the length is known, the last bytes would be a clean end: they wait for the verdict.
            if (this.ended || !this.inner.is_end_stream())
                && let Some(piece) = this.release()
            {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if this.ended {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let done = if this.more || !this.unfed.is_empty() {
                this.work().inspect(|used_up| {
                    if *used_up {
                        give_way(context);
                    }
                })
            } else {
                match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(piece) => this.take_in(piece),
                        Err(frame) => this.end(Some(frame.into_trailers().unwrap_or_default())),
                    },
                    Some(Err(cause)) => Err(Cut::Vendor(cause)),
                    None => this.end(None),
                }
                .map(|()| false)
            };
            match done {
                Ok(false) => {}
                Ok(true) => return Poll::Pending,
                Err(cause) => return Poll::Ready(Some(Err(this.cut(cause)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.waiting.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = if self.ended { SizeHint::with_exact(0) } else { self.inner.size_hint() };
        with_waiting(&inner, self.waiting_bytes as u64)
    }
}
