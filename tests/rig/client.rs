//! An app as plain as can be: it writes what it is told and keeps every byte it gets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Client {
    pub stream: TcpStream,
    shown: Arc<Mutex<Vec<u8>>>,
    buffer: Vec<u8>,
}

/// One answer, as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body did not end as its framing promised.
    pub cut: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// relay's own code, if relay authored the answer.
    pub fn code(&self) -> &str {
        self.header("relay-error").unwrap_or("")
    }
}

impl Client {
    pub fn connect(address: SocketAddr, shown: Arc<Mutex<Vec<u8>>>) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, shown, buffer: Vec::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    /// What relay no longer takes is not this side's failure.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: relay.test\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        self.send(&text);
        self.send_bytes(body);
        self.answer(method)
    }

    /// Reads one whole answer.
    pub fn answer(&mut self, method: &str) -> Answer {
        let (status, headers) = self.head();
        let mut answer = Answer { status, headers, body: Vec::new(), cut: false };
        if method == "HEAD" || matches!(status, 204 | 304) {
            return answer;
        }
        if answer.header("transfer-encoding").is_some() {
            self.chunks(&mut answer);
        } else if let Some(length) = answer.header("content-length").map(|l| l.parse::<usize>().unwrap()) {
            while self.buffer.len() < length && self.more() {}
            answer.cut = self.buffer.len() < length;
            let taken = length.min(self.buffer.len());
            answer.body = self.buffer.drain(..taken).collect();
        } else {
            while self.more() {}
            answer.body = std::mem::take(&mut self.buffer);
        }
        answer
    }

    /// Reads the head alone; an end of the connection before it is status 0.
    pub fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let end = loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more() {
                return (0, Vec::new());
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned()));
        (status, headers.collect())
    }

    fn chunks(&mut self, answer: &mut Answer) {
        loop {
            let Some(line) = self.line() else {
                answer.cut = true;
                return;
            };
            let length = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap();
            if length == 0 {
                while self.line().is_some_and(|line| !line.is_empty()) {}
                return;
            }
            while self.buffer.len() < length + 2 && self.more() {}
            if self.buffer.len() < length + 2 {
                answer.cut = true;
                return;
            }
            answer.body.extend(self.buffer.drain(..length));
            self.buffer.drain(..2);
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// Reads what comes next; false at the end.
    pub fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.shown.lock().unwrap().extend_from_slice(&piece[..n]);
                self.buffer.extend_from_slice(&piece[..n]);
                true
            }
        }
    }

    /// What was read and not yet taken.
    pub fn taken(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Whether relay closes the connection now.
    pub fn is_closed(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        !self.more()
    }
}
