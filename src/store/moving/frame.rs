//! The frame of an export: `relay-store-export | version 1`, then blocks.
//!
//! A block is `kind 1 | length u32 | payload | check 32`. Its check is the SHA-256 of the check before it, its kind,
//! length and payload; the first follows the hash of the stream's first bytes. So the last check covers all, no block
//! can be changed, moved, left out or taken from another stream unseen, and each is judged before the next is read.
//! A length is at most [`LONGEST`], and room is made as bytes come, not as a length promises. What must never
//! enter: what stands in a payload.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Buf as _, Bytes, BytesMut};

const MAGIC: &[u8] = b"relay-store-export";
const VERSION: u8 = 1;
const CHECK: usize = 32;
const BLOCK_HEAD: usize = 5;
/// The longest payload that is read or written.
pub(super) const LONGEST: usize = 16 << 20;

/// The check of a block.
pub(super) type Check = [u8; CHECK];

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Header = 1,
    Records = 2,
    End = 3,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Header),
            2 => Some(Self::Records),
            3 => Some(Self::End),
            _ => None,
        }
    }
}

/// Why bytes are not an export, or not a whole one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It begins otherwise.
    #[error("this is no export of a relay store")]
    Foreign,
    /// A newer relay wrote it.
    #[error(
        "the export has format {0}, and this relay reads format 1: use the relay that wrote it, or a newer one"
    )]
    Version(u8),
    /// A check does not fit.
    #[error(
        "the export is damaged in block {0}, or a piece before it is missing: what stands there is not what was written"
    )]
    Damaged(u64),
    /// It ends before its end.
    #[error("the export is cut off behind block {0}: its end is missing")]
    Cut(u64),
    /// Something stands behind the end.
    #[error("the export goes on behind its own end")]
    Behind,
    /// The checks fit, and no relay writes such a block.
    #[error("block {0} of the export is none that relay writes: {1}")]
    Malformed(u64, &'static str),
    /// The same, of one of its records.
    #[error("record {record} in block {block} of the export{of} is none that relay writes: {why}")]
    Record {
        /// Which block.
        block: u64,
        /// Which of its records, from 1.
        record: u64,
        /// Of which customer, or behind whose, as far as that can be read.
        of: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Writes the frame.
pub(super) struct Encoder(Check);

impl Encoder {
    /// A new stream, and its first bytes.
    pub(super) fn begin() -> (Self, Vec<u8>) {
        let start = [MAGIC, &[VERSION]].concat();
        (Self(check(&[&start])), start)
    }

    /// Adds a block to `out`; `None` if it is too long.
    pub(super) fn block(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= LONGEST)?;
        let mut head = [kind as u8, 0, 0, 0, 0];
        if let Some(place) = head.last_chunk_mut::<4>() {
            *place = length.to_be_bytes();
        }
        self.0 = check(&[&self.0, &head, payload]);
        out.reserve(BLOCK_HEAD + payload.len() + CHECK);
        out.extend_from_slice(&head);
        out.extend_from_slice(payload);
        out.extend_from_slice(&self.0);
        Some(())
    }
}

/// A block whose check was found right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub(super) kind: Kind,
    pub(super) payload: Bytes,
    pub(super) check: Check,
    /// Its number in the stream, 1 for the first.
    pub number: u64,
}

/// Reads the frame from pieces as they come.
#[derive(Default)]
pub struct Decoder {
    held: BytesMut,
    /// The check of the block before; `None` before the stream's first bytes.
    before: Option<Check>,
    blocks: u64,
    ended: bool,
}

impl Decoder {
    /// Takes the next bytes. All blocks should be taken out before more is fed.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next block, if it is whole.
    ///
    /// # Errors
    /// [`StreamError`]; nothing that follows can be relied on.
    pub fn block(&mut self) -> Result<Option<Block>, StreamError> {
        let Some(before) = self.begun()? else { return Ok(None) };
        if self.ended {
            return if self.held.is_empty() { Ok(None) } else { Err(StreamError::Behind) };
        }
        let Some(head) = self.held.first_chunk::<BLOCK_HEAD>().copied() else { return Ok(None) };
        let number = self.blocks.saturating_add(1);
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        // Both are covered by the check, which is not read yet: what they say is only used to be refused by.
        let kind = Kind::of(kind).filter(|_| length <= LONGEST).ok_or(StreamError::Damaged(number))?;
        if self.held.len() < BLOCK_HEAD + length + CHECK {
            return Ok(None);
        }
        self.held.advance(BLOCK_HEAD);
        let payload = self.held.split_to(length).freeze();
        let found = self.held.split_to(CHECK);
        let wanted = check(&[&before, &head, &payload]);
        if found != wanted.as_slice() {
            return Err(StreamError::Damaged(number));
        }
        (self.before, self.blocks, self.ended) = (Some(wanted), number, kind == Kind::End);
        Ok(Some(Block { kind, payload, check: wanted, number }))
    }

    /// Whether the stream was whole, once there are no more bytes.
    ///
    /// # Errors
    /// [`StreamError::Cut`], [`StreamError::Foreign`], [`StreamError::Behind`].
    pub fn end(&self) -> Result<(), StreamError> {
        match (self.ended, self.held.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(StreamError::Behind),
            (false, _) if self.before.is_none() && !MAGIC.starts_with(&self.held) => {
                Err(StreamError::Foreign)
            }
            (false, _) => Err(StreamError::Cut(self.blocks)),
        }
    }

    fn begun(&mut self) -> Result<Option<Check>, StreamError> {
        if self.before.is_none() {
            let beginning = self.held.len().min(MAGIC.len());
            if self.held.get(..beginning) != MAGIC.get(..beginning) {
                return Err(StreamError::Foreign);
            }
            match self.held.get(MAGIC.len()) {
                None => return Ok(None),
                Some(&VERSION) => {}
                Some(&other) => return Err(StreamError::Version(other)),
            }
            let start = self.held.split_to(MAGIC.len() + 1);
            self.before = Some(check(&[&start]));
        }
        Ok(self.before)
    }
}

fn check(parts: &[&[u8]]) -> Check {
    let mut hash = Context::new(&SHA256);
    parts.iter().for_each(|part| hash.update(part));
    let hash = hash.finish();
    let mut check = [0; CHECK];
    check.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    check
}
