//! A vendor's WebSocket messages on their way to the app (RFC 6455 section 5), the credential overwritten.
//!
//! Frames are taken apart strictly and made anew: what must wait, as a body's end must, shifts pieces over the
//! borders of frames, which section 5.4 lets an intermediary do. Every piece that may go is a frame, and the
//! end of a message lets go of all that waits. A message that came as one short frame stays one. Control frames
//! pass in between, their payload scrubbed as a whole. What must never enter: sockets; a frame that two readers
//! could read in two ways.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::passage::{Blocked, Passage};

/// An unfragmented message up to this long is waited for and goes on as one frame.
const WHOLE: u64 = 16 * 1024;
const LONGEST_CONTROL: usize = 125;

const CONTINUATION: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;

/// Why a vendor's stream goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It is no WebSocket as RFC 6455 says.
    #[error("the vendor broke the WebSocket protocol: {0}")]
    Framing(&'static str),
    /// The vendor sent the credential back and `on_reflect = "block"`.
    #[error("the vendor sent the credential back, and on_reflect is block")]
    Reflected,
}

impl From<Blocked> for Fault {
    fn from(_: Blocked) -> Self {
        Self::Reflected
    }
}

/// Where the reader stands.
enum State {
    /// In a frame's head.
    Head,
    /// In a frame's payload.
    Payload { frame: Frame, left: u64 },
    /// Behind the vendor's Close: nothing counts any more.
    Closed,
}

#[derive(Clone, Copy)]
struct Frame {
    opcode: u8,
    fin: bool,
    /// Its payload goes on at its end, not as it comes.
    whole: bool,
}

/// The vendor's side of one WebSocket.
pub(super) struct Frames {
    state: State,
    head: Vec<u8>,
    /// Payload that is waited for as a whole.
    whole: Zeroizing<Vec<u8>>,
    /// The opcode for the next frame of the message that is under way; a continuation's once one went out.
    message: Option<u8>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head,
            head: Vec::with_capacity(10),
            whole: Zeroizing::new(Vec::new()),
            message: None,
        }
    }

    /// Whether the vendor's Close has been passed on.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Takes in what came and adds the frames that may go out now to `out`.
    pub(super) fn pass(
        &mut self,
        passage: &mut Passage,
        mut came: Bytes,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        loop {
            match self.state {
                State::Closed => return Ok(()),
                State::Head => {
                    if came.is_empty() {
                        return Ok(());
                    }
                    self.head.extend_from_slice(&came.split_to(1));
                    if let Some((frame, left)) = self.opened()? {
                        self.head.clear();
                        self.state = State::Payload { frame, left };
                    }
                }
                State::Payload { frame, left } => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(came.len());
                    if here == 0 && left > 0 {
                        return Ok(());
                    }
                    let piece = came.split_to(here);
                    let left = left - here as u64;
                    self.state = if left > 0 { State::Payload { frame, left } } else { State::Head };
                    self.payload(passage, frame, piece, left == 0, out)?;
                }
            }
        }
    }

    /// The frame that the head opens and the length of its payload, once the head is whole.
    fn opened(&self) -> Result<Option<(Frame, u64)>, Fault> {
        let [first, second, extended @ ..] = self.head.as_slice() else { return Ok(None) };
        let (opcode, fin) = (first & 0x0f, first & FIN != 0);
        self.judge(*first, *second)?;
        let length = match (second, extended) {
            (126, &[a, b]) => u64::from(u16::from_be_bytes([a, b])),
            (127, &[a, b, c, d, e, f, g, h]) => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            (126 | 127, _) => return Ok(None),
            (short, _) => u64::from(*short),
        };
        let least = match second {
            126 => 126,
            127 => 1 << 16,
            _ => 0,
        };
        if length < least || length > i64::MAX.unsigned_abs() {
            return Err(Fault::Framing("a length is not in its shortest form"));
        }
        let control = opcode >= CLOSE;
        let unfragmented = fin && self.message.is_none();
        Ok(Some((Frame { opcode, fin, whole: control || (unfragmented && length <= WHOLE) }, length)))
    }

    fn judge(&self, first: u8, second: u8) -> Result<(), Fault> {
        let (opcode, fin) = (first & 0x0f, first & FIN != 0);
        let fault = |why| Err(Fault::Framing(why));
        if first & 0x70 != 0 {
            return fault("a reserved bit is set, and no extension was agreed on");
        }
        if second & 0x80 != 0 {
            return fault("a frame to the client is masked");
        }
        match opcode {
            CONTINUATION if self.message.is_none() => fault("a continuation of nothing"),
            1 | 2 if self.message.is_some() => fault("a message inside of another"),
            CONTINUATION | 1 | 2 => Ok(()),
            CLOSE..=PONG if !fin => fault("a control frame is fragmented"),
            CLOSE..=PONG if usize::from(second) > LONGEST_CONTROL => fault("a control frame is too long"),
            CLOSE..=PONG => Ok(()),
            _ => fault("a reserved opcode"),
        }
    }

    fn payload(
        &mut self,
        passage: &mut Passage,
        frame: Frame,
        piece: Bytes,
        ends: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let mut piece = piece;
        if frame.whole && !(ends && self.whole.is_empty()) {
            self.gather(&piece);
            if !ends {
                return Ok(());
            }
            piece = Bytes::copy_from_slice(&self.whole);
            self.whole = Zeroizing::new(Vec::new());
        }
        if frame.opcode >= CLOSE {
            return self.control(passage, frame.opcode, &piece, out);
        }
        let opcode = match self.message {
            Some(next) => next,
            None => *self.message.insert(frame.opcode),
        };
        let end = frame.fin && ends;
        let released = passage.pass(piece, end)?;
        if end || !released.is_empty() {
            write(out, opcode, end, &released);
            self.message = if end { None } else { Some(CONTINUATION) };
        }
        Ok(())
    }

    fn gather(&mut self, piece: &[u8]) {
        let wanted = self.whole.len() + piece.len();
        if wanted > self.whole.capacity() {
            // A vector that grows by itself would leave its old place unwiped.
            let mut roomier = Zeroizing::new(Vec::with_capacity(wanted.next_power_of_two()));
            roomier.extend_from_slice(&self.whole);
            self.whole = roomier;
        }
        self.whole.extend_from_slice(piece);
    }

    fn control(
        &mut self,
        passage: &mut Passage,
        opcode: u8,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if opcode == CLOSE {
            judge_code(payload)?;
        }
        let mut payload = Zeroizing::new(payload.to_vec());
        // A Close's code is no text.
        let text = payload.get_mut(if opcode == CLOSE { 2 } else { 0 }..).unwrap_or_default();
        if passage.forms().redact(text) {
            passage.note()?;
        }
        write(out, opcode, true, &payload);
        if opcode == CLOSE {
            self.state = State::Closed;
        }
        Ok(())
    }
}

/// A Close's code is one that may be sent (RFC 6455 section 7.4). It is not searched, and text in its place would
/// be the beginning of a credential that nobody finds: every code begins with a control byte.
fn judge_code(payload: &[u8]) -> Result<(), Fault> {
    match payload {
        [] => Ok(()),
        [_] => Err(Fault::Framing("a Close has half a code")),
        [high, low, ..] => match u16::from_be_bytes([*high, *low]) {
            1005 | 1006 | 1015 => Err(Fault::Framing("a Close has a code that is never sent")),
            1000..=4999 => Ok(()),
            _ => Err(Fault::Framing("a Close has a code that there is not")),
        },
    }
}

/// A Close of relay's own. Between the frames that stand in `out` it is always in its place.
pub(super) fn close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.bytes().take(LONGEST_CONTROL - 2));
    write(out, CLOSE, true, &payload);
}

fn write(out: &mut Vec<u8>, opcode: u8, fin: bool, payload: &[u8]) {
    out.push(if fin { FIN | opcode } else { opcode });
    let length = payload.len() as u64;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}
