//! brotli (RFC 7932), without its large windows.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{Broken, MOST_WINDOW_BITS, Step, behind_the_end};

/// One stream.
pub(in super::super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    done: bool,
}

impl Brotli {
    pub(super) fn new() -> Self {
        let alloc = StandardAlloc::default();
        let mut state = BrotliState::new(alloc, alloc, alloc);
        state.large_window = false;
        Self { state, done: false }
    }

    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Broken> {
        if self.done {
            return behind_the_end(input);
        }
        let (mut left, mut taken) = (input.len(), 0);
        let (mut room, mut given, mut total) = (out.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut taken,
            input,
            &mut room,
            &mut given,
            out,
            &mut total,
            &mut self.state,
        );
        if self.state.window_bits > MOST_WINDOW_BITS {
            return Err(Broken);
        }
        let settled = match result {
            BrotliResult::ResultSuccess => {
                self.done = true;
                true
            }
            BrotliResult::NeedsMoreInput => true,
            BrotliResult::NeedsMoreOutput => false,
            BrotliResult::ResultFailure => return Err(Broken),
        };
        Ok(Step { taken, given, settled })
    }

    pub(super) fn ended(&self) -> bool {
        self.done
    }
}
