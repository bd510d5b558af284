//! Vendors without TLS that keep every byte: one that reads as it should, one that ignores bodies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The whole requests that came over one connection, each as its bytes.
pub type Recorded = Vec<Vec<u8>>;

/// A vendor that answers each whole request with 200.
pub struct Recorder {
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Recorded>>>,
}

impl Recorder {
    pub fn start() -> Self {
        let connections: Arc<Mutex<Vec<Recorded>>> = Arc::default();
        let kept = connections.clone();
        let address = serving(move |stream| record(stream, &kept));
        Self { address, connections }
    }

    pub fn requests(&self) -> u64 {
        self.connections.lock().unwrap().iter().map(|connection| connection.len() as u64).sum()
    }

    /// Whether any request that came holds these bytes.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let connections = self.connections.lock().unwrap();
        connections.iter().flatten().any(|request| memchr::memmem::find(request, bytes).is_some())
    }

    pub fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.connections.lock().unwrap())
    }
}

/// A vendor that answers each head with its `x-mark`, and takes the body behind it for the next head.
pub fn careless() -> SocketAddr {
    serving(|mut stream| {
        let mut buffer = Vec::new();
        loop {
            while let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                let head: Vec<u8> = buffer.drain(..end + 4).collect();
                let mark = field(&head, "x-mark").unwrap_or_default();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{mark}", mark.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            if !more(&mut stream, &mut buffer) {
                return;
            }
        }
    })
}

fn serving(each: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let each = Arc::new(each);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
            stream.set_nodelay(true).unwrap();
            let each = each.clone();
            std::thread::spawn(move || each(stream));
        }
    });
    address
}

fn record(mut stream: TcpStream, connections: &Mutex<Vec<Recorded>>) {
    let place = {
        let mut connections = connections.lock().unwrap();
        connections.push(Recorded::default());
        connections.len() - 1
    };
    let mut buffer = Vec::new();
    loop {
        let Some(length) = whole(&buffer) else {
            if more(&mut stream, &mut buffer) {
                continue;
            }
            return;
        };
        let request: Vec<u8> = buffer.drain(..length).collect();
        let content = if request.starts_with(b"HEAD ") { "" } else { "ok" };
        if let Some(connection) = connections.lock().unwrap().get_mut(place) {
            connection.push(request);
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{content}");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// How long the first request is, if it is whole. What relay writes is plain; anything else is this drill's
/// to stumble over.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let (begin, mut rest) = bytes.split_at(head);
    match (field(begin, "content-length"), field(begin, "transfer-encoding")) {
        (None, None) => Some(head),
        (Some(length), None) => {
            let length: usize = length.parse().expect("a length");
            (rest.len() >= length).then_some(head + length)
        }
        (None, Some(coding)) => {
            assert_eq!(coding, "chunked");
            loop {
                let line = memchr::memmem::find(rest, b"\r\n")?;
                let size = std::str::from_utf8(&rest[..line]).expect("a size");
                let size = usize::from_str_radix(size, 16).expect("a size");
                rest = rest.get(line + 2 + size + 2..)?;
                if size == 0 {
                    return Some(bytes.len() - rest.len());
                }
            }
        }
        (Some(_), Some(_)) => panic!("relay sent a length and a coding"),
    }
}

fn field(head: &[u8], name: &str) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    let mut found = head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
    found.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    let mut piece = [0; 64 * 1024];
    match stream.read(&mut piece) {
        Ok(n) if n > 0 => {
            buffer.extend_from_slice(&piece[..n]);
            true
        }
        _ => false,
    }
}
