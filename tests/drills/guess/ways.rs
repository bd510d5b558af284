//! The ways to put one question: a vendor that gives back what it is told, and bytes that are counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::rig::vendor::{Out, Received, more, raw};
use crate::rig::websocket::{ACCEPT, KEY, frame, masked, take};

/// How many bytes were there after the first pause, and after the second.
pub type Counts = (usize, usize);

/// How the vendor is asked, and in what it gives the text back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The body of a POST, in the body of its answer while it lasts.
    Post,
    /// The same, as the data of an event.
    Events,
    /// The beginning of a text message over WebSocket.
    Text,
    /// The same of a binary message.
    Binary,
}

pub const WAYS: [Way; 4] = [Way::Post, Way::Events, Way::Text, Way::Binary];

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Post => "post",
            Self::Events => "sse",
            Self::Text => "ws_text",
            Self::Binary => "ws_binary",
        }
    }

    /// What the vendor is asked to say with `text` at its end.
    pub fn said(self, text: &[u8]) -> Vec<u8> {
        let before: &[u8] = if self == Self::Events { b"id: 1\ndata: " } else { b"" };
        [before, text].concat()
    }

    /// What makes it clear that the text went on otherwise.
    fn delimiter(self) -> &'static [u8] {
        if self == Self::Events { b"\n\n" } else { b"\n" }
    }

    fn opcode(self) -> Option<u8> {
        match self {
            Self::Post | Self::Events => None,
            Self::Text => Some(1),
            Self::Binary => Some(2),
        }
    }
}

/// Who asks, and its secret of each of the two integrations.
pub struct App {
    pub address: SocketAddr,
    pub secret: String,
    pub live: String,
    pub token: String,
    pub asked: AtomicU64,
}

impl App {
    /// Has `text` said, pauses and counts; has a delimiter said, pauses and counts.
    pub fn echoed(&self, way: Way, text: &[u8], pause: Duration) -> Counts {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        let first = match way.opcode() {
            None => self.post(&mut stream, way),
            Some(_) => self.handshake(&mut stream),
        };
        let mut send = |piece: &[u8], last: bool| {
            let bytes = match way.opcode() {
                None => [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat(),
                // The message stays open until the delimiter.
                Some(opcode) => masked(last, if last { 0 } else { opcode }, piece),
            };
            stream.write_all(&bytes).unwrap();
            read_for(&mut stream, pause)
        };
        let first = first + send(&way.said(text), false);
        (first, first + send(way.delimiter(), true))
    }

    fn post(&self, stream: &mut TcpStream, way: Way) -> usize {
        let media = if way == Way::Events { "text/event-stream" } else { "text/plain" };
        let head = format!(
            "POST /vendor/{}/echo HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {}\r\n\
             content-type: {media}\r\ntransfer-encoding: chunked\r\n\r\n",
            self.secret, self.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        0
    }

    /// Opens a WebSocket; how many bytes came behind the answer's head.
    fn handshake(&self, stream: &mut TcpStream) -> usize {
        let head = format!(
            "GET /live/{}/echo HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\n\r\n",
            self.live, self.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let came = stream.read(&mut piece).unwrap();
            assert!(came > 0, "no WebSocket: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..came]);
            if let Some(end) = memchr::memmem::find(&answer, b"\r\n\r\n") {
                let status = answer.get(..12);
                assert_eq!(status, Some(&b"HTTP/1.1 101"[..]), "{}", String::from_utf8_lossy(&answer));
                return answer.len() - end - 4;
            }
        }
    }
}

/// Becomes a WebSocket and sends every frame back as it came.
pub fn give_back(request: &Received, out: &mut Out<'_>) {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {ACCEPT}\r\n\r\n"
    );
    raw(out, head.as_bytes());
    let mut buffer = request.body.clone();
    loop {
        while let Some(came) = take(&mut buffer) {
            raw(out, &frame(came.fin, came.opcode, &came.payload));
        }
        if more(out, &mut buffer).is_none() {
            return;
        }
    }
}

/// How many bytes come within `pause`.
fn read_for(stream: &mut TcpStream, pause: Duration) -> usize {
    let (begun, mut count, mut piece) = (Instant::now(), 0, [0; 4096]);
    while let Some(left) = pause.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut piece) {
            Ok(0) => panic!("the answer ended"),
            Ok(n) => count += n,
            Err(_) => {}
        }
    }
    count
}
