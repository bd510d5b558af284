//! Decoders of compressed answers, in pieces and in bounded memory.
//!
//! relay passes the vendor's own bytes on and reads a decoded copy. So what counts here is not only what a
//! decoder gives, but which of the bytes it took may go: those of which everything that they say has been
//! given. A decoder says so by [`Step::settled`].
//!
//! Why that is right: `inflate` and brotli's decoder work symbol by symbol, read a bit only when they need
//! it, and give out everything they have decoded before they ask for more input; so when they ask, no more
//! can be decoded from what they took than they gave, but for less than one symbol. zstd decodes block by
//! block, and a block's literals may stand in it as they are; so there only the end of a block settles,
//! found by reading the headers along. gzip's header settles as a whole. What must never enter: a whole
//! body, a window over [`MOST_WINDOW_BITS`].

mod brotli;
mod inflate;
mod zstd;

use crate::stage::coding::Coding;

/// The largest window: 8 MiB.
pub(super) const MOST_WINDOW_BITS: u32 = 23;

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Bytes of the input that were read.
    pub(super) taken: usize,
    /// Bytes of the output that were written.
    pub(super) given: usize,
    /// Whether everything that was read so far has been given.
    pub(super) settled: bool,
}

/// The compressed data is none, or is beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// Nothing follows what was one stream.
fn behind_the_end(input: &[u8]) -> Result<Step, Broken> {
    if input.is_empty() { Ok(Step { taken: 0, given: 0, settled: true }) } else { Err(Broken) }
}

/// One answer's decoder.
pub(super) enum Decoder {
    Gzip(Box<inflate::Gzip>),
    Deflate(Box<inflate::Deflate>),
    Brotli(Box<brotli::Brotli>),
    Zstd(Box<zstd::Zstd>),
}

impl Decoder {
    pub(super) fn of(coding: Coding) -> Result<Self, Broken> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip(Box::default()),
            Coding::Deflate => Self::Deflate(Box::default()),
            Coding::Brotli => Self::Brotli(Box::new(brotli::Brotli::new())),
            Coding::Zstd => Self::Zstd(Box::new(zstd::Zstd::new()?)),
        })
    }

    /// Reads some of `input` and writes some of `out`. To be called again while `out` gets full or input
    /// is left.
    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Broken> {
        match self {
            Self::Gzip(decoder) => decoder.step(input, out),
            Self::Deflate(decoder) => decoder.step(input, out),
            Self::Brotli(decoder) => decoder.step(input, out),
            Self::Zstd(decoder) => decoder.step(input, out),
        }
    }

    /// Whether the data may end here.
    pub(super) fn ended(&self) -> bool {
        match self {
            Self::Gzip(decoder) => decoder.ended(),
            Self::Deflate(decoder) => decoder.ended(),
            Self::Brotli(decoder) => decoder.ended(),
            Self::Zstd(decoder) => decoder.ended(),
        }
    }
}
