//! A vendor's answers, read strictly: where each ends, and that nothing stands behind it.
//!
//! What could be read in two ways is refused: bare LF, a folded line, a length beside chunks, two lengths. A read
//! that brought a surplus byte fails before the end that it stands behind is told, so that such an answer never
//! ends cleanly; bytes that come later cannot be told from an early answer (RFC 9112 section 9.2), and
//! [`super::super::stream::is_quiet`] looks for them before the connection is used again. What must never enter: a
//! socket, and anything that keeps bytes of an answer beyond it.

use std::mem;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Response, StatusCode};
use memchr::memchr;

use super::super::demand::Demand;
use crate::framing::{self, Chunks, Field, Flaw};

/// The longest head of an answer, in bytes.
const HEAD_BYTES: usize = 32 * 1024;
/// The most fields of one.
const FIELDS: usize = 100;
/// Interim answers before the final one.
const INTERIM: usize = 16;

/// What an answer is followed by where nothing may be.
pub(super) const SURPLUS: Flaw = Flaw("bytes stand behind the answer");

/// What a request asks for, as far as its answer's framing depends on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    /// By HEAD: the answer has no body, whatever it says.
    pub(super) head: bool,
    /// For another protocol: 101 is an answer.
    pub(super) upgrade: bool,
    /// For a 100 before its body goes.
    pub(super) demand: Option<Demand>,
}

/// One connection's answers.
pub(super) struct Reading {
    buffer: BytesMut,
    at: At,
    asked: Asked,
    interim: usize,
    /// Where the head's line begins that has not ended yet, and how many fields' lines stand before it.
    line: usize,
    fields: usize,
    /// Up to where a line's end was looked for.
    looked: usize,
    /// Whether the connection may carry another request behind this answer (RFC 9112 section 9.3).
    lasts: bool,
    /// Whether any byte has come since the request.
    came: bool,
}

enum At {
    /// Nothing is asked: every byte is surplus.
    Idle,
    /// In a head.
    Head,
    Length(u64),
    Chunks(Chunks),
    /// Behind the last chunk; the fields so far.
    Trailers(Chunks, Vec<u8>),
    /// All has come but these are to be told.
    Ended(HeaderMap),
    /// The answer ends with the connection.
    Close,
    /// The connection speaks another protocol.
    Open,
}

/// What comes next of an answer.
#[derive(Debug)]
pub(super) enum Piece {
    Head(Response<()>),
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Reading {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            at: At::Idle,
            asked: Asked::default(),
            interim: 0,
            line: 0,
            fields: 0,
            looked: 0,
            lasts: true,
            came: false,
        }
    }

    /// A request goes out: its answer comes next.
    pub(super) fn begin(&mut self, asked: Asked) {
        (self.at, self.asked, self.interim, self.came) = (At::Head, asked, 0, false);
        (self.line, self.fields, self.looked) = (0, 0, 0);
    }

    /// Where what is read next belongs.
    pub(super) const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Notes that something has been read.
    pub(super) const fn note(&mut self) {
        self.came = true;
    }

    /// Whether any byte has come since the request.
    pub(super) const fn has_begun(&self) -> bool {
        self.came
    }

    /// Whether no answer is under way.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.at, At::Idle)
    }

    /// Whether the connection speaks another protocol.
    pub(super) const fn has_switched(&self) -> bool {
        matches!(self.at, At::Open)
    }

    /// Whether the connection may carry another request once the answer is over.
    pub(super) const fn lasts(&self) -> bool {
        self.lasts
    }

    /// How much of the body is to come, where that is known.
    pub(super) const fn left(&self) -> Option<u64> {
        match self.at {
            At::Idle => Some(0),
            At::Length(left) => Some(left),
            _ => None,
        }
    }

    /// The connection has ended: whether that is where the answer ends, too.
    pub(super) fn end(&mut self) -> bool {
        if matches!(self.at, At::Close) {
            self.at = At::Idle;
        }
        self.is_over()
    }

    /// The next piece of what has been read; `None` if more is needed, or the answer is over.
    ///
    /// # Errors
    /// The first byte that is out of place, or that nobody asked for. With it goes what came before it in the
    /// same read.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, Flaw> {
        let piece = match &mut self.at {
            At::Idle => None,
            At::Head => self.read_head()?.map(Piece::Head),
            At::Length(left) if !self.buffer.is_empty() => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.at = At::Idle;
                }
                Some(Piece::Data(self.buffer.split_to(taken).freeze()))
            }
            At::Close if !self.buffer.is_empty() => Some(Piece::Data(self.buffer.split().freeze())),
            At::Chunks(_) | At::Trailers(..) => self.read_chunks()?.map(Piece::Data),
            At::Length(_) | At::Ended(_) | At::Close | At::Open => None,
        };
        let piece = piece.or_else(|| self.tell_trailers());
        if self.is_over() {
            if !self.buffer.is_empty() {
                return Err(SURPLUS);
            }
            // Nothing of an answer stays with a connection that stands idle.
            self.buffer = BytesMut::new();
        }
        Ok(piece)
    }

    fn tell_trailers(&mut self) -> Option<Piece> {
        let At::Ended(fields) = &mut self.at else { return None };
        let fields = mem::take(fields);
        self.at = At::Idle;
        Some(Piece::Trailers(fields))
    }

    /// The final answer's head; the interim ones before it are passed over.
    fn read_head(&mut self) -> Result<Option<Response<()>>, Flaw> {
        while let Some(ended) = self.find_end()? {
            let bytes = self.buffer.split_to(ended).freeze();
            let head = Head::read(&bytes, mem::take(&mut self.fields))?;
            (self.line, self.looked) = (0, 0);
            self.at = self.behind(&head)?;
            if !matches!(self.at, At::Head) {
                self.lasts = self.lasts && head.lasts() && !matches!(self.at, At::Close | At::Open);
                self.look_ahead()?;
                return Ok(Some(head.response));
            }
        }
        Ok(None)
    }

    /// What came with the head and is wrong is known before the head is told.
    fn look_ahead(&self) -> Result<(), Flaw> {
        let belongs = match &self.at {
            At::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len()),
            At::Chunks(_) => Chunks::default().follow(&self.buffer)?,
            _ => self.buffer.len(),
        };
        if belongs < self.buffer.len() { Err(SURPLUS) } else { Ok(()) }
    }

    /// Behind the empty line that ends a head, if that has come.
    fn find_end(&mut self) -> Result<Option<usize>, Flaw> {
        while let Some(at) = memchr(b'\n', self.buffer.get(self.looked..).unwrap_or_default()) {
            self.looked += at + 1;
            let line = framing::line(self.buffer.get(self.line..self.looked).unwrap_or_default())?;
            let (first, empty) = (self.line == 0, line.is_empty());
            self.line = self.looked;
            match (first, empty) {
                (true, true) => return Err(NO_STATUS),
                (true, false) => {}
                (false, false) => self.fields += 1,
                (false, true) if self.looked > HEAD_BYTES => return Err(TOO_LONG),
                (false, true) => return Ok(Some(self.looked)),
            }
        }
        let begun = self.buffer.get(..BEGINNING.len().min(self.buffer.len())).unwrap_or_default();
        if !BEGINNING.starts_with(begun) {
            return Err(NO_STATUS);
        }
        self.looked = self.buffer.len();
        if self.looked > HEAD_BYTES || self.fields > FIELDS {
            return Err(TOO_LONG);
        }
        Ok(None)
    }

    /// What comes behind a whole head (RFC 9112 section 6.3).
    fn behind(&mut self, head: &Head) -> Result<At, Flaw> {
        if head.chunked && head.length.is_some() {
            return Err(Flaw("the answer has a length and a transfer-encoding"));
        }
        if head.chunked && head.old {
            return Err(Flaw("an HTTP/1.0 answer has a transfer-encoding"));
        }
        match head.response.status().as_u16() {
            101 if self.asked.upgrade => Ok(At::Open),
            101 => Err(Flaw("the vendor switched protocols unasked")),
            status @ 100..=199 => {
                self.interim += 1;
                if self.interim > INTERIM {
                    return Err(Flaw("there are too many interim answers"));
                }
                if let Some(demand) = self.asked.demand.as_ref().filter(|_| status == 100) {
                    demand.asked();
                }
                Ok(At::Head)
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

    /// The next data in chunks, and as much of the framing behind it as is there.
    fn read_chunks(&mut self) -> Result<Option<Bytes>, Flaw> {
        let mut data = None;
        loop {
            let (chunks, trailers) = match &mut self.at {
                At::Chunks(chunks) => (chunks, None),
                At::Trailers(chunks, fields) => (chunks, Some(fields)),
                _ => return Ok(data),
            };
            let left = usize::try_from(chunks.data_left()).unwrap_or(usize::MAX);
            if self.buffer.is_empty() || (left > 0 && data.is_some()) {
                return Ok(data);
            }
            if left > 0 {
                let taken = left.min(self.buffer.len());
                chunks.took(taken as u64);
                data = Some(self.buffer.split_to(taken).freeze());
                continue;
            }
            let taken = chunks.follow_framing(&self.buffer)?;
            let framing = self.buffer.split_to(taken);
            match trailers {
                Some(fields) => fields.extend_from_slice(&framing),
                None if chunks.is_trailing() => self.at = At::Trailers(mem::take(chunks), Vec::new()),
                None => {}
            }
            self.at.end_trailers()?;
        }
    }
}

impl At {
    fn end_trailers(&mut self) -> Result<(), Flaw> {
        if let Self::Trailers(chunks, fields) = self
            && chunks.is_over()
        {
            let fields = Bytes::from(mem::take(fields));
            let mut map = HeaderMap::new();
            each_line(&fields, |line| {
                let (name, value) = field(&fields, line)?;
                map.append(name, value);
                Ok(())
            })?;
            *self = if map.is_empty() { Self::Idle } else { Self::Ended(map) };
        }
        Ok(())
    }
}

/// A head as it is framed.
struct Head {
    response: Response<()>,
    old: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    /// Reads a head with its last line, the empty one.
    fn read(bytes: &Bytes, fields: usize) -> Result<Self, Flaw> {
        if fields > FIELDS {
            return Err(Flaw("the answer's head has too many fields"));
        }
        let mut response = Response::new(());
        *response.headers_mut() = HeaderMap::with_capacity(fields);
        let mut head = Self { response, old: false, length: None, chunked: false };
        let mut first = true;
        each_line(bytes, |line| {
            if mem::take(&mut first) { head.read_status(line) } else { head.read_field(bytes, line) }
        })?;
        Ok(head)
    }

    /// `HTTP/1.1 200 Any words`; the words and the space before them may be missing, as some servers do.
    fn read_status(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let (version, rest) = line.split_at_checked(9).ok_or(NO_STATUS)?;
        self.old = match version {
            b"HTTP/1.1 " => false,
            b"HTTP/1.0 " => true,
            _ => return Err(NO_STATUS),
        };
        let (digits, words) = rest.split_at_checked(3).ok_or(NO_STATUS)?;
        let behind = words.first().is_none_or(|byte| *byte == b' ');
        if !behind || words.iter().any(|byte| framing::is_control(*byte)) {
            return Err(NO_STATUS);
        }
        *self.response.status_mut() = StatusCode::from_bytes(digits).map_err(|_| NO_STATUS)?;
        Ok(())
    }

    fn read_field(&mut self, bytes: &Bytes, line: &[u8]) -> Result<(), Flaw> {
        let (name, value) = field(bytes, line)?;
        if name == CONTENT_LENGTH {
            if self.length.is_some() {
                return Err(Flaw("the answer has two lengths"));
            }
            self.length = Some(framing::length(value.as_bytes())?);
        } else if name == TRANSFER_ENCODING {
            if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Flaw("the answer's transfer-encoding is not chunked, once"));
            }
            self.chunked = true;
        }
        self.response.headers_mut().append(name, value);
        Ok(())
    }

    /// RFC 9112 section 9.3.
    fn lasts(&self) -> bool {
        let options = self.response.headers().get_all(CONNECTION);
        let says = |wanted: &[u8]| {
            let mut listed = options.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
            listed.any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted))
        };
        !says(b"close") && (!self.old || says(b"keep-alive"))
    }
}

const TOO_LONG: Flaw = Flaw("the answer's head is too long");
/// What every answer begins with.
const BEGINNING: &[u8] = b"HTTP/1.";
const NO_STATUS: Flaw = Flaw("the answer begins with no status line of HTTP/1");

/// Calls `take` with each line but the last, which is empty.
fn each_line<'b>(bytes: &'b [u8], mut take: impl FnMut(&'b [u8]) -> Result<(), Flaw>) -> Result<(), Flaw> {
    let mut rest = bytes;
    while let Some(at) = memchr(b'\n', rest) {
        let (line, behind) = rest.split_at_checked(at + 1).unwrap_or_default();
        let line = framing::line(line)?;
        if line.is_empty() {
            break;
        }
        take(line)?;
        rest = behind;
    }
    Ok(())
}

/// The field of `line`, which is a part of `bytes` and shares their memory.
fn field(bytes: &Bytes, line: &[u8]) -> Result<(HeaderName, HeaderValue), Flaw> {
    let odd = Flaw("a field is malformed");
    let Field { name, value } = framing::field(line)?;
    let name = HeaderName::from_bytes(name).map_err(|_| odd)?;
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(value)).map_err(|_| odd)?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked { head: false, upgrade: false, demand: None };

    /// Whether the answer has ended; `None` for a flaw. The same in pieces of any size.
    fn ended(asked: &Asked, bytes: &[u8]) -> Option<bool> {
        let sized = |size: usize| {
            let mut reading = Reading::new();
            reading.begin(asked.clone());
            for piece in bytes.chunks(size) {
                reading.buffer().extend_from_slice(piece);
                while reading.next().ok()?.is_some() {}
            }
            Some(reading.is_over())
        };
        let whole = sized(bytes.len());
        for size in [1, 2, 5, 11] {
            assert_eq!(sized(size), whole, "in pieces of {size}: {}", bytes.escape_ascii());
        }
        whole
    }

    #[test]
    fn an_answer_ends_where_it_says() {
        let head = Asked { head: true, ..GET };
        let upgrade = Asked { upgrade: true, ..GET };
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
            (head.clone(), "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", true),
            (head, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", true),
            (upgrade.clone(), "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n\0\n\n", false),
            (upgrade, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            (GET, "HTTP/1.1 200 \u{d6}K\r\nx: \u{e9}\r\ncontent-length: 0\r\n\r\n", true),
        ];
        for (asked, bytes, end) in rows {
            assert_eq!(ended(&asked, bytes.as_bytes()), Some(end), "{bytes:?}");
        }
    }

    #[test]
    fn nobody_asked_for_a_byte_on_an_idle_connection() {
        let mut reading = Reading::new();
        reading.buffer().extend_from_slice(b"H");
        assert!(reading.next().is_err());
    }
}
