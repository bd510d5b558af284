//! One stream of text without the credential, fed piece by piece: what every kind of answer is scrubbed by.
//!
//! [`Passage::pass`] takes a piece in and says what may go out now. What may be the beginning of a form
//! waits for the next piece, by [`Forms`]' rules, which do not look at the credential; no timer ever lets
//! it go, only the end of the message. Everything else goes on at once: a clean piece is passed on as the
//! same memory. Text is searched when some of it is to go, never before, so that pieces of one byte cost no
//! more than whole ones. What must never enter: a count or a delay that depends on anything of the
//! credential but its forms' lengths.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use zeroize::{Zeroize, Zeroizing};

use super::forms::{Forms, mark};
use crate::config::OnReflect;

/// Up to this many bytes are copied behind what was held, to go out as one piece.
pub(super) const JOINED: usize = 4096;

/// The credential came back and `on_reflect` is "block": nothing may go out any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked;

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

/// A stream of messages on its way to the app; a body is one message.
pub struct Passage {
    forms: Forms,
    on_reflect: OnReflect,
    reflected: Reflected,
    /// What waits: the end of the message so far, as it came.
    held: Zeroizing<Vec<u8>>,
    /// How many of the held bytes belong to a form that began before them.
    covered: usize,
    /// How many overwritten bytes went out directly before the held ones.
    marked: usize,
}

impl Passage {
    /// Lets through what `forms` does not find. `reflected` is set when there was something.
    pub fn new(forms: Forms, on_reflect: OnReflect, reflected: Reflected) -> Self {
        Self { forms, on_reflect, reflected, held: Zeroizing::new(Vec::new()), covered: 0, marked: 0 }
    }

    /// Takes the next piece of a message in, and says what may go out now. With `end_of_message` that is
    /// all of it, and the next piece begins another message.
    ///
    /// # Errors
    /// [`Blocked`] when the credential was in it and `on_reflect` is "block".
    pub fn pass(&mut self, piece: Bytes, end_of_message: bool) -> Result<Bytes, Blocked> {
        let (front, rest) = self.pass_apart(piece, end_of_message)?;
        Ok(match rest {
            None => front,
            Some(rest) => Bytes::from([front, rest].concat()),
        })
    }

    /// The same; a long piece behind what was held stays apart from it, so that it need not be copied.
    pub(super) fn pass_apart(&mut self, piece: Bytes, end: bool) -> Result<(Bytes, Option<Bytes>), Blocked> {
        let total = self.held.len() + piece.len();
        let wait = if end { 0 } else { self.forms.held_back(&self.held, &piece) };
        if wait == total {
            self.hold(&piece);
            self.marked = if end { 0 } else { self.marked };
            return Ok((Bytes::new(), None));
        }
        let found = self.holds_form(&piece);
        if found {
            self.note()?;
        }
        let out = if found || self.covered > 0 {
            (self.pass_marked(&piece, wait), None)
        } else {
            self.pass_clean(piece, wait)
        };
        if end {
            (self.covered, self.marked) = (0, 0);
        }
        Ok(out)
    }

    /// The forms that are looked for.
    pub fn forms(&self) -> &Forms {
        &self.forms
    }

    /// Whether the credential was found so far.
    pub(super) fn has_found(&self) -> bool {
        self.reflected.seen()
    }

    /// How many bytes wait.
    pub fn waiting(&self) -> usize {
        self.held.len()
    }

    /// Notes that the credential was seen.
    ///
    /// # Errors
    /// [`Blocked`] when it is not to be overwritten.
    pub(super) fn note(&mut self) -> Result<(), Blocked> {
        self.reflected.set();
        match self.on_reflect {
            OnReflect::Redact | OnReflect::Alert => Ok(()),
            OnReflect::Block => {
                self.forget();
                Err(Blocked)
            }
        }
    }

    /// What waits is not to go out.
    pub(super) fn forget(&mut self) {
        self.held.zeroize();
        (self.covered, self.marked) = (0, 0);
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
    fn pass_clean(&mut self, mut piece: Bytes, wait: usize) -> (Bytes, Option<Bytes>) {
        let goes = (self.held.len() + piece.len()).saturating_sub(wait);
        if goes > 0 {
            self.marked = 0;
        }
        let Some(of_piece) = goes.checked_sub(self.held.len()) else {
            let out = Bytes::copy_from_slice(self.held.get(..goes).unwrap_or(&[]));
            self.drop_front(goes);
            self.hold(&piece);
            return (out, None);
        };
        let waits = piece.split_off(of_piece);
        let out = if self.held.is_empty() {
            (piece, None)
        } else if piece.len() <= JOINED {
            (Bytes::from([self.held.as_slice(), &piece].concat()), None)
        } else {
            (Bytes::copy_from_slice(&self.held), Some(piece))
        };
        self.drop_front(self.held.len());
        self.hold(&waits);
        out
    }

    /// There is something to overwrite. What is held stays as it came, because a form that overlaps may
    /// still be completed.
    fn pass_marked(&mut self, piece: &Bytes, wait: usize) -> Bytes {
        let mut text = joined(&self.held, piece);
        let goes = text.len().saturating_sub(wait);
        self.drop_front(self.held.len());
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
        let wanted = self.held.len() + bytes.len();
        if wanted > self.held.capacity() {
            // A vector that grows by itself would leave its old place unwiped.
            let mut roomier = Zeroizing::new(Vec::with_capacity(wanted.next_power_of_two()));
            roomier.extend_from_slice(&self.held);
            self.held = roomier;
        }
        self.held.extend_from_slice(bytes);
    }

    fn drop_front(&mut self, count: usize) {
        let count = count.min(self.held.len());
        self.held.drain(..count);
    }
}

fn joined(before: &[u8], after: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([before, after].concat())
}
