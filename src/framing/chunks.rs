//! The chunks of a body (RFC 9112 section 7.1), followed as their bytes go by. Nothing is kept but counts.

use super::{Flaw, NAME_BYTES, is_control, is_token_byte};

/// Extensions of one body's chunks, together. Nobody is known to need any.
const EXTENSION_BYTES: usize = 1024;
/// Fields behind the last chunk, together.
const TRAILER_BYTES: usize = 8 * 1024;
const TRAILERS: usize = 64;

/// How far the chunks of one body have gone.
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
    /// The size so far, then what is left of the chunk.
    left: u64,
    digits: u8,
    extensions: usize,
    trailer_bytes: usize,
    trailers: usize,
    name: Name,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Where a trailer's line begins, or the last empty one.
    Line,
    Name,
    Value,
    ValueLf,
    LastLf,
    Over,
}

/// The first bytes of a trailer's name in lower case, to know a framing field.
#[derive(Debug, Default, Clone, Copy)]
struct Name {
    bytes: [u8; 20],
    length: usize,
}

impl Chunks {
    /// Follows `bytes`; says how many of them belong to the body. Fewer than all only if it is over.
    ///
    /// # Errors
    /// The first byte that is out of place.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Flaw> {
        let mut rest = bytes;
        while self.at != At::Over {
            if self.at == At::Data {
                let whole = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                rest = rest.split_at(whole).1;
                self.took(whole as u64);
            }
            let Some((byte, behind)) = rest.split_first() else { break };
            self.step(*byte)?;
            rest = behind;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Follows what stands between two chunks' data, as far as the data, the trailers' beginning or, when in those,
    /// the body's end; says how many bytes that were.
    ///
    /// # Errors
    /// The first byte that is out of place.
    pub fn follow_framing(&mut self, bytes: &[u8]) -> Result<usize, Flaw> {
        let trailing = self.is_trailing();
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(self.at, At::Data | At::Over) || self.is_trailing() != trailing {
                return Ok(at);
            }
            self.step(*byte)?;
        }
        Ok(bytes.len())
    }

    /// Whether the last chunk has gone by, and its trailers have not.
    pub fn is_trailing(&self) -> bool {
        matches!(self.at, At::Line | At::Name | At::Value | At::ValueLf | At::LastLf)
    }

    /// Bytes of the current chunk's data that are still to come: whatever they are, they belong to it.
    pub fn data_left(&self) -> u64 {
        if self.at == At::Data { self.left } else { 0 }
    }

    /// Notes that so many bytes of the current chunk's data have gone by.
    pub fn took(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        if self.left == 0 {
            self.at = At::DataCr;
        }
    }

    /// Whether the last chunk and its trailers have gone by.
    pub fn is_over(&self) -> bool {
        self.at == At::Over
    }

    fn step(&mut self, byte: u8) -> Result<(), Flaw> {
        self.at = match (self.at, byte) {
            (At::Size, _) => self.size(byte)?,
            (At::Extension, b'\r') => At::SizeLf,
            (At::Extension, _) => self.extension(byte)?,
            (At::SizeLf, b'\n') if self.left == 0 => At::Line,
            (At::SizeLf, b'\n') => At::Data,
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                (self.left, self.digits) = (0, 0);
                At::Size
            }
            (At::Line, b'\r') => At::LastLf,
            (At::LastLf, b'\n') => At::Over,
            (At::Line | At::Name | At::Value | At::ValueLf, _) => self.trailer(byte)?,
            (At::SizeLf | At::LastLf, _) => return Err(Flaw("A line of a chunk ends in CR without LF.")),
            (At::DataCr | At::DataLf | At::Data | At::Over, _) => {
                return Err(Flaw("A chunk is longer than it says."));
            }
        };
        Ok(())
    }

    fn size(&mut self, byte: u8) -> Result<At, Flaw> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            // Sixteen digits are all that fits.
            if self.digits == 16 {
                return Err(Flaw("A chunk's size has more than 16 digits."));
            }
            self.digits += 1;
            self.left = self.left << 4 | u64::from(digit);
            return Ok(At::Size);
        }
        match byte {
            _ if self.digits == 0 => Err(Flaw("A chunk has no size.")),
            b'\r' => Ok(At::SizeLf),
            b';' => Ok(At::Extension),
            _ => Err(Flaw("A chunk's size is not hexadecimal digits alone.")),
        }
    }

    fn extension(&mut self, byte: u8) -> Result<At, Flaw> {
        self.extensions += 1;
        if self.extensions > EXTENSION_BYTES {
            return Err(Flaw("The extensions of a body's chunks are too long."));
        }
        if is_control(byte) || byte >= 0x80 {
            return Err(Flaw("A chunk's extension holds a byte that is not text."));
        }
        Ok(At::Extension)
    }

    /// As [`super::field`] reads a line, byte by byte.
    fn trailer(&mut self, byte: u8) -> Result<At, Flaw> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES || self.trailers > TRAILERS {
            return Err(Flaw("The fields behind the last chunk are too long."));
        }
        match (self.at, byte) {
            (At::Line | At::Name, _) if is_token_byte(byte) => {
                if self.at == At::Line {
                    self.name = Name::default();
                    self.trailers += 1;
                }
                self.name.push(byte);
                Ok(At::Name)
            }
            (At::Name, b':') if self.name.frames() => {
                Err(Flaw("A field behind the last chunk is one that frames a message."))
            }
            (At::Name, b':') if self.name.length <= NAME_BYTES => Ok(At::Value),
            (At::Value, b'\r') => Ok(At::ValueLf),
            (At::Value, _) if !is_control(byte) => Ok(At::Value),
            (At::ValueLf, b'\n') => Ok(At::Line),
            _ => Err(Flaw("A field behind the last chunk is malformed.")),
        }
    }
}

impl Name {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte.to_ascii_lowercase();
        }
        self.length += 1;
    }

    /// RFC 9110 section 6.5.1: these never stand in trailers.
    fn frames(&self) -> bool {
        let name = self.bytes.get(..self.length).unwrap_or_default();
        [&b"content-length"[..], b"transfer-encoding", b"host"].contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that belong to the body, whatever the pieces that they come in; `None` for a flaw.
    fn followed(bytes: &[u8]) -> Option<(usize, bool)> {
        let whole = pieces(bytes, bytes.len().max(1));
        for size in [1, 2, 3, 7] {
            assert_eq!(pieces(bytes, size), whole, "in pieces of {size}: {}", bytes.escape_ascii());
        }
        whole
    }

    fn pieces(bytes: &[u8], size: usize) -> Option<(usize, bool)> {
        let mut chunks = Chunks::default();
        let mut taken = 0;
        for piece in bytes.chunks(size) {
            let took = chunks.follow(piece).ok()?;
            taken += took;
            if took < piece.len() {
                break;
            }
        }
        Some((taken, chunks.is_over()))
    }

    #[test]
    fn chunks_end_where_they_say() {
        let rows: [(&[u8], usize, bool); 7] = [
            (b"0\r\n\r\n", 5, true),
            (b"0\r\n\r\nGET", 5, true),
            (b"5\r\nhello\r\n0\r\n\r\nx", 15, true),
            (b"A;x=\"y z\"\r\n0123456789\r\n000\r\nx: y\r\n\r\n", 36, true),
            (b"5\r\nhel", 6, false),
            (b"ffffffffffffffff\r\nx", 19, false),
            (b"", 0, false),
        ];
        for (bytes, taken, over) in rows {
            assert_eq!(followed(bytes), Some((taken, over)), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_byte_out_of_place_is_a_flaw() {
        let long = [b"1;".to_vec(), vec![b'x'; 1025]].concat();
        let trailers = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(65), b"\r\n".to_vec()].concat();
        let rows: [&[u8]; 30] = [
            b"\r\n",
            b"g\r\n",
            b"0x5\r\n",
            b"+5\r\n",
            b"-0\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"5\t\r\n",
            b"5\n",
            b"5\rx",
            b"5\r\nhello0\r\n",
            b"5\r\nhello\n0\r\n",
            b"5\r\nhello\r0\r\n",
            b"5\r\nhello\r\n\r\n",
            b"10000000000000000\r\n",
            b"1;\x00\r\n",
            b"1;\n",
            b"1;\xe9\r\n",
            b";x\r\n",
            b"1,1\r\n",
            b"0\r\n\n",
            b"0\r\n x: y\r\n\r\n",
            b"0\r\nx : y\r\n\r\n",
            b"0\r\n: y\r\n\r\n",
            b"0\r\nx: y\n\r\n",
            b"0\r\nContent-Length: 5\r\n\r\n",
            b"0\r\ntransfer-encoding: chunked\r\n\r\n",
            b"0\r\nx\r\n\r\n",
            &long,
            &trailers,
        ];
        for bytes in rows {
            assert_eq!(followed(bytes), None, "{}", bytes.escape_ascii());
        }
    }
}
