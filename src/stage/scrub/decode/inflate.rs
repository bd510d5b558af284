//! gzip (RFC 1952), zlib (RFC 1950) and bare deflate (RFC 1951).
//!
//! gzip's header and trailer are read here, so that members may follow one another and nothing else may.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{Broken, Step, behind_the_end};

/// The longest gzip header; it may carry a name and a comment.
const MOST_HEADER: usize = 4096;

/// `deflate`: with zlib's frame, or bare.
#[derive(Default)]
pub(in super::super) struct Deflate {
    /// The first bytes, until they tell which.
    lead: Vec<u8>,
    inflate: Option<Decompress>,
    done: bool,
}

impl Deflate {
    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Broken> {
        if self.done {
            return behind_the_end(input);
        }
        if let Some(inflate) = &mut self.inflate {
            let (step, end) = run(inflate, input, out)?;
            self.done = end;
            return Ok(step);
        }
        let taken = input.len().min(2 - self.lead.len());
        self.lead.extend(input.iter().take(taken));
        let [first, second] = *self.lead.as_slice() else {
            return Ok(Step { taken, given: 0, settled: false });
        };
        let framed =
            first & 0x0f == 8 && first >> 4 <= 7 && (u16::from(first) << 8 | u16::from(second)) % 31 == 0;
        let inflate = self.inflate.insert(Decompress::new(framed));
        let (step, end) = run(inflate, &[first, second], out)?;
        self.done = end;
        // A bare stream may end within its first two bytes, but only with both of them.
        if step.taken < 2 { Err(Broken) } else { Ok(Step { taken, ..step }) }
    }

    pub(super) fn ended(&self) -> bool {
        self.done
    }
}

/// gzip's members, one behind the other.
pub(in super::super) struct Gzip {
    part: Part,
    /// The header or trailer so far.
    frame: Vec<u8>,
    inflate: Decompress,
    sum: Crc,
    members: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Data,
    Trailer,
}

impl Default for Gzip {
    fn default() -> Self {
        let inflate = Decompress::new(false);
        Self { part: Part::Header, frame: Vec::new(), inflate, sum: Crc::new(), members: 0 }
    }
}

impl Gzip {
    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Broken> {
        match self.part {
            Part::Header => self.header(input),
            Part::Data => {
                let (step, end) = run(&mut self.inflate, input, out)?;
                self.sum.update(out.get(..step.given).unwrap_or(&[]));
                if end {
                    self.part = Part::Trailer;
                }
                Ok(step)
            }
            Part::Trailer => self.trailer(input),
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.part == Part::Header && self.frame.is_empty() && self.members > 0
    }

    fn header(&mut self, input: &[u8]) -> Result<Step, Broken> {
        let before = self.frame.len();
        let room = MOST_HEADER - before;
        self.frame.extend(input.iter().take(room));
        match header_length(&self.frame)? {
            Some(length) => {
                self.part = Part::Data;
                self.frame.clear();
                self.inflate.reset(false);
                self.sum.reset();
                Ok(Step { taken: length - before, given: 0, settled: true })
            }
            None if self.frame.len() == MOST_HEADER => Err(Broken),
            None => {
                let settled = self.frame.is_empty();
                Ok(Step { taken: self.frame.len() - before, given: 0, settled })
            }
        }
    }

    fn trailer(&mut self, input: &[u8]) -> Result<Step, Broken> {
        let taken = input.len().min(8 - self.frame.len());
        self.frame.extend(input.iter().take(taken));
        if let [a, b, c, d, e, f, g, h] = *self.frame.as_slice() {
            let right = u32::from_le_bytes([a, b, c, d]) == self.sum.sum()
                && u32::from_le_bytes([e, f, g, h]) == self.sum.amount();
            if !right {
                return Err(Broken);
            }
            self.frame.clear();
            self.part = Part::Header;
            self.members += 1;
        }
        Ok(Step { taken, given: 0, settled: true })
    }
}

/// How long the header is, once all of it is there.
fn header_length(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    for (byte, wanted) in bytes.iter().zip([0x1f, 0x8b, 8]) {
        if *byte != wanted {
            return Err(Broken);
        }
    }
    let Some(flags) = bytes.get(3) else { return Ok(None) };
    if flags & 0xe0 != 0 {
        return Err(Broken);
    }
    let mut at = 10;
    if flags & 4 != 0 {
        let [low, high] = *bytes.get(at..at + 2).unwrap_or(&[]) else { return Ok(None) };
        at += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    // A name, a comment: each to its NUL.
    for flag in [8, 16] {
        if flags & flag != 0 {
            let Some(end) = bytes.get(at..).and_then(|rest| memchr::memchr(0, rest)) else { return Ok(None) };
            at += end + 1;
        }
    }
    at += usize::from(flags & 2);
    Ok((bytes.len() >= at).then_some(at))
}

/// One step, and whether the data ended with it.
fn run(inflate: &mut Decompress, input: &[u8], out: &mut [u8]) -> Result<(Step, bool), Broken> {
    let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
    let status = inflate.decompress(input, out, FlushDecompress::None).map_err(|_| Broken)?;
    let taken = usize::try_from(inflate.total_in() - before_in).map_err(|_| Broken)?;
    let given = usize::try_from(inflate.total_out() - before_out).map_err(|_| Broken)?;
    let end = status == Status::StreamEnd;
    let settled = end || (taken == input.len() && given < out.len());
    Ok((Step { taken, given, settled }, end))
}
