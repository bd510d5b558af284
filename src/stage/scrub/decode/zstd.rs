//! zstd (RFC 8878): its frames, block by block.
//!
//! The decoder takes a block in piece by piece and gives nothing of it before its end, while a reader of
//! the raw bytes may see literals in it. So the headers are read along here, the decoder is never fed
//! beyond the part that it is in, and only the end of a block settles. Skippable frames, which a decoder
//! passes over in silence, and dictionaries are refused.

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::{Broken, MOST_WINDOW_BITS, Step};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Frames, one behind the other.
pub(in super::super) struct Zstd {
    context: DCtx<'static>,
    part: Part,
    /// How many bytes of the part are still to come.
    missing: usize,
    /// The header so far.
    header: [u8; 4],
    filled: usize,
    /// Whether the block at hand is the frame's last.
    last: bool,
    sum: bool,
    frames: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Magic,
    Descriptor,
    /// Window, dictionary, size.
    Rest,
    BlockHeader,
    Block,
    Sum,
}

impl Zstd {
    pub(super) fn new() -> Result<Self, Broken> {
        let mut context = DCtx::try_create().ok_or(Broken)?;
        context.set_parameter(DParameter::WindowLogMax(MOST_WINDOW_BITS)).map_err(|_| Broken)?;
        Ok(Self {
            context,
            part: Part::Magic,
            missing: 4,
            header: [0; 4],
            filled: 0,
            last: false,
            sum: false,
            frames: 0,
        })
    }

    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Broken> {
        let input = input.get(..self.missing.min(input.len())).unwrap_or(&[]);
        let mut from = InBuffer::around(input);
        let (taken, given) = {
            let mut to = OutBuffer::around(out);
            self.context.decompress_stream(&mut to, &mut from).map_err(|_| Broken)?;
            (from.pos, to.pos())
        };
        self.read_along(input.get(..taken).unwrap_or(&[]))?;
        let between = matches!(self.part, Part::BlockHeader | Part::Magic) && self.filled == 0;
        Ok(Step { taken, given, settled: between && given < out.len() })
    }

    pub(super) fn ended(&self) -> bool {
        self.part == Part::Magic && self.filled == 0 && self.frames > 0
    }

    /// Notes what the decoder took, which is never more than the part that it is in.
    fn read_along(&mut self, taken: &[u8]) -> Result<(), Broken> {
        if taken.is_empty() {
            return Ok(());
        }
        if matches!(self.part, Part::Magic | Part::Descriptor | Part::BlockHeader) {
            let room = self.header.get_mut(self.filled..).unwrap_or_default();
            room.iter_mut().zip(taken).for_each(|(place, byte)| *place = *byte);
            self.filled += taken.len();
        }
        self.missing = self.missing.saturating_sub(taken.len());
        while self.missing == 0 {
            (self.part, self.missing) = self.next()?;
            self.filled = 0;
        }
        Ok(())
    }

    /// What follows the part that has come whole.
    fn next(&mut self) -> Result<(Part, usize), Broken> {
        let [a, b, c, _] = self.header;
        Ok(match self.part {
            Part::Magic if self.header == MAGIC => (Part::Descriptor, 1),
            Part::Magic => return Err(Broken),
            Part::Descriptor => {
                let single = a & 0x20 != 0;
                if a & 0x0b != 0 {
                    return Err(Broken);
                }
                self.sum = a & 4 != 0;
                let size = [usize::from(single), 2, 4, 8].get(usize::from(a >> 6)).copied().unwrap_or(0);
                (Part::Rest, usize::from(!single) + size)
            }
            Part::Rest => (Part::BlockHeader, 3),
            Part::BlockHeader => {
                let header = u32::from_le_bytes([a, b, c, 0]);
                self.last = header & 1 != 0;
                let size = usize::try_from(header >> 3).map_err(|_| Broken)?;
                match header >> 1 & 3 {
                    0 | 2 => (Part::Block, size),
                    1 => (Part::Block, 1),
                    _ => return Err(Broken),
                }
            }
            Part::Block if !self.last => (Part::BlockHeader, 3),
            Part::Block if self.sum => (Part::Sum, 4),
            Part::Block | Part::Sum => {
                self.frames += 1;
                (Part::Magic, 4)
            }
        })
    }
}
