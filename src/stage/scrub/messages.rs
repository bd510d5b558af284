//! Where the messages of a gRPC body end, so that nothing of one waits for the next.
//!
//! A message is a flag, four bytes of length, and so many bytes. The prefix itself is not searched and
//! never overwritten, so it must be one: the flag of a message or of gRPC-Web's trailers, which no text has for
//! a byte. Else a credential across the end of a message would be taken for two. A compressed message is not
//! asked for and cannot be read here. What must never enter: what is in the messages.

use bytes::{Buf, Bytes};

const MESSAGE: u8 = 0;
/// gRPC-Web's last frame, which holds trailers as text.
const TRAILERS: u8 = 0x80;

/// A prefix has the compressed flag, or one that gRPC does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Part of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What goes as it is; empty if more has to come.
    Prefix(Bytes),
    /// Part of a message, and whether it ends with it.
    Message(Bytes, bool),
}

/// Reads the prefixes along.
#[derive(Default)]
pub(super) struct Prefixes {
    prefix: Vec<u8>,
    left: usize,
}

impl Prefixes {
    /// Takes the next part off `body`, which is not empty.
    pub(super) fn next(&mut self, body: &mut Bytes) -> Result<Part, Unreadable> {
        if self.left > 0 {
            let part = body.split_to(self.left.min(body.len()));
            self.left -= part.len();
            return Ok(Part::Message(part, self.left == 0));
        }
        while let Some(byte) = body.first().copied().filter(|_| self.prefix.len() < 5) {
            self.prefix.push(byte);
            body.advance(1);
        }
        let [flags, a, b, c, d] = *self.prefix.as_slice() else { return Ok(Part::Prefix(Bytes::new())) };
        if !matches!(flags, MESSAGE | TRAILERS) {
            return Err(Unreadable);
        }
        self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        Ok(Part::Prefix(Bytes::from(std::mem::take(&mut self.prefix))))
    }

    /// Whether a message has just ended, or none has begun.
    pub(super) fn at_end(&self) -> bool {
        self.left == 0
    }

    /// How many bytes of a prefix wait for the others.
    pub(super) fn waiting(&self) -> usize {
        self.prefix.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Part, Prefixes, Unreadable};

    #[test]
    fn a_body_is_cut_at_the_ends_of_its_messages_however_it_comes() {
        let body = b"\0\0\0\0\x03abc\0\0\0\0\0\x80\0\0\0\x02de";
        for size in 1..=body.len() {
            let mut prefixes = Prefixes::default();
            let mut messages = vec![Vec::new()];
            for piece in body.chunks(size) {
                let mut piece = Bytes::from_static(piece);
                while !piece.is_empty() {
                    match prefixes.next(&mut piece).unwrap() {
                        Part::Prefix(bytes) => assert!(bytes.is_empty() || bytes.len() == 5),
                        Part::Message(bytes, end) => {
                            messages.last_mut().unwrap().extend_from_slice(&bytes);
                            if end {
                                messages.push(Vec::new());
                            }
                        }
                    }
                }
            }
            assert_eq!(messages, [b"abc".to_vec(), b"de".to_vec(), Vec::new()], "in pieces of {size}");
            assert_eq!(prefixes.waiting(), 0);
        }
        for (flags, mistake) in [
            (1, "a compressed message"),
            (0x81, "compressed trailers"),
            (b'<', "a page"),
            (b' ', "a text whose lowest bit is that of a plain message"),
        ] {
            let mut body = Bytes::from(vec![flags, 0, 0, 0, 3, b'a']);
            assert_eq!(Prefixes::default().next(&mut body), Err(Unreadable), "{mistake}");
        }
    }
}
