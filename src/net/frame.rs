//! A vendor's answer, followed byte by byte as it is read: where it ends, and that nothing stands behind it.
//!
//! hyper reads more generously than it should for a connection that other customers will use: bare LF, a
//! length beside chunks (which it hides), two equal lengths; and what stands behind an answer it finds out
//! only when the connection is idle, after the app was told of a clean end. Here the read that brought a
//! surplus byte fails, with all that it brought, so that the answer it ends never ends cleanly. Bytes that
//! come later than the end cannot be told from an early answer; [`super::tap`] looks for them before the
//! connection is used again. What must never enter: anything that keeps the bytes, but for the line that a
//! read broke off in.

use memchr::memchr;

use crate::framing::{self, Chunks, Field, Flaw};

/// The longest line that is kept from one read to the next; hyper limits the head as a whole.
const LINE: usize = 32 * 1024;
/// Interim answers before the final one.
const INTERIM: usize = 16;

/// What a request asks for, as far as its answer's framing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// By HEAD: the answer has no body, whatever it says.
    pub(super) head: bool,
    /// For another protocol: 101 is an answer.
    pub(super) upgrade: bool,
}

/// One connection's answers.
pub(super) struct Frame {
    at: At,
    asked: Asked,
    interim: usize,
    /// The beginning of a line that a read broke off in.
    line: Vec<u8>,
}

enum At {
    /// Nothing is asked: every byte is surplus.
    Idle,
    /// Before the status line.
    Status,
    /// Among the fields.
    Fields(Head),
    Length(u64),
    Chunks(Chunks),
    /// The answer ends with the connection.
    Close,
    /// The connection speaks another protocol.
    Open,
}

#[derive(Clone, Copy)]
struct Head {
    status: u16,
    old: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Default for Frame {
    fn default() -> Self {
        let asked = Asked { head: false, upgrade: false };
        Self { at: At::Idle, asked, interim: 0, line: Vec::new() }
    }
}

impl Frame {
    /// A request goes out: its answer comes next.
    pub(super) fn begin(&mut self, asked: Asked) {
        (self.at, self.asked, self.interim) = (At::Status, asked, 0);
    }

    /// Whether no answer is under way.
    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.at, At::Idle)
    }

    /// Follows what a read has brought.
    ///
    /// # Errors
    /// The first byte that is out of place, or that nobody asked for.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match &mut self.at {
                At::Idle => return Err(Flaw("bytes stand behind the answer")),
                At::Close | At::Open => return Ok(()),
                At::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.at = At::Idle;
                    }
                    taken
                }
                At::Chunks(chunks) => {
                    let taken = chunks.follow(rest)?;
                    if chunks.is_over() {
                        self.at = At::Idle;
                    }
                    taken
                }
                At::Status | At::Fields(_) => self.follow_line(rest)?,
            };
            rest = rest.split_at_checked(taken).unwrap_or_default().1;
        }
        Ok(())
    }

    /// Takes one line of the head, or what there is of it.
    fn follow_line(&mut self, bytes: &[u8]) -> Result<usize, Flaw> {
        let Some(at) = memchr(b'\n', bytes) else {
            if self.line.len() + bytes.len() > LINE {
                return Err(Flaw("a line of the head is too long"));
            }
            self.line.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        let line = bytes.split_at_checked(at + 1).unwrap_or_default().0;
        if self.line.is_empty() {
            self.read_line(line)?;
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.read_line(&whole)?;
        }
        Ok(line.len())
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let line = framing::line(line)?;
        self.at = match &mut self.at {
            At::Fields(head) if line.is_empty() => {
                let head = *head;
                self.behind(head)?
            }
            At::Fields(head) => return head.read(line),
            _ => At::Fields(status_line(line)?),
        };
        Ok(())
    }

    /// What comes behind a whole head (RFC 9112 section 6.3).
    fn behind(&mut self, head: Head) -> Result<At, Flaw> {
        if head.chunked && head.length.is_some() {
            return Err(Flaw("the answer has a length and a transfer-encoding"));
        }
        if head.chunked && head.old {
            return Err(Flaw("an HTTP/1.0 answer has a transfer-encoding"));
        }
        match head.status {
            101 if self.asked.upgrade => Ok(At::Open),
            101 => Err(Flaw("the vendor switched protocols unasked")),
            100..=199 => {
                self.interim += 1;
                if self.interim > INTERIM {
                    return Err(Flaw("there are too many interim answers"));
                }
                Ok(At::Status)
            }
            204 if head.chunked || head.length.is_some_and(|length| length > 0) => {
                Err(Flaw("an answer without content announces some"))
            }
            204 | 304 => Ok(At::Idle),
            _ if self.asked.head => Ok(At::Idle),
            _ if head.chunked => Ok(At::Chunks(Chunks::default())),
            _ => Ok(match head.length {
                Some(0) => At::Idle,
                Some(length) => At::Length(length),
                None => At::Close,
            }),
        }
    }
}

impl Head {
    fn read(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let Field { name, value } = framing::field(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Flaw("the answer has two lengths"));
            }
            self.length = Some(framing::length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Flaw("the answer's transfer-encoding is not chunked, once"));
            }
            self.chunked = true;
        }
        Ok(())
    }
}

/// `HTTP/1.1 200 Any words`; the words and the space before them may be missing, as some servers do.
fn status_line(line: &[u8]) -> Result<Head, Flaw> {
    let flaw = Flaw("the answer begins with no status line of HTTP/1");
    let (version, rest) = line.split_at_checked(9).ok_or(flaw)?;
    let old = match version {
        b"HTTP/1.1 " => false,
        b"HTTP/1.0 " => true,
        _ => return Err(flaw),
    };
    let (digits, words) = rest.split_at_checked(3).ok_or(flaw)?;
    let behind = words.first().is_none_or(|byte| *byte == b' ');
    let controls = words.iter().any(|byte| framing::is_control(*byte));
    if !digits.iter().all(u8::is_ascii_digit) || !behind || controls {
        return Err(flaw);
    }
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    if status < 100 {
        return Err(flaw);
    }
    Ok(Head { status, old, length: None, chunked: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked { head: false, upgrade: false };

    /// Whether the answer has ended; `None` for a flaw. The same in pieces of any size.
    fn ended(asked: Asked, bytes: &[u8]) -> Option<bool> {
        let sized = |size: usize| {
            let mut frame = Frame::default();
            frame.begin(asked);
            bytes.chunks(size).try_for_each(|piece| frame.follow(piece)).ok().map(|()| frame.is_idle())
        };
        let whole = sized(bytes.len());
        for size in [1, 2, 5, 11] {
            assert_eq!(sized(size), whole, "in pieces of {size}: {}", bytes.escape_ascii());
        }
        whole
    }

    #[test]
    fn an_answer_ends_where_it_says() {
        let head = Asked { head: true, upgrade: false };
        let upgrade = Asked { head: false, upgrade: true };
        let rows: [(Asked, &str, bool); 19] = [
            (GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            (GET, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", false),
            (GET, "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", true),
            (GET, "HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n", true),
            (GET, "HTTP/1.0 404 Not Found at all\r\nContent-Length: 0\r\n\r\n", true),
            (GET, "HTTP/1.1 200 OK\r\n\r\nuntil the end\r\n\n", false),
            (GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
            (
                GET,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\na: b\r\n\r\n",
                true,
            ),
            (GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", false),
            (GET, "HTTP/1.1 204 No Content\r\n\r\n", true),
            (GET, "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", true),
            (GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", true),
            (GET, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            (GET, "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", false),
            (head, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", true),
            (head, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", true),
            (upgrade, "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n\0\n\n", false),
            (upgrade, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            (GET, "HTTP/1.1 200 \u{d6}K\r\nx: \u{e9}\r\ncontent-length: 0\r\n\r\n", true),
        ];
        for (asked, bytes, end) in rows {
            assert_eq!(ended(asked, bytes.as_bytes()), Some(end), "{bytes:?}");
        }
    }

    #[test]
    fn nobody_asked_for_a_byte_on_an_idle_connection() {
        assert!(Frame::default().follow(b"H").is_err());
    }
}
