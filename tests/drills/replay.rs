//! Other programs that read HTTP/1.1: how many requests do they find in the same bytes?

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::nginx::Nginx;
use crate::process::Process;
use crate::stage::free_ports;

/// Python's own server, which answers every method with 200.
const PYTHON: &str = r#"
import http.client, http.server, socketserver
http.client._MAXHEADERS = 1000
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")
    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)
    def log_message(self, *words):
        pass
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
server = Server(("127.0.0.1", 0), Answer)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// nginx, HAProxy before it, and Python.
pub struct Readers {
    readers: Vec<(&'static str, SocketAddr)>,
    _nginx: Nginx,
    _processes: Vec<Process>,
    _folder: TempDir,
}

impl Readers {
    pub fn start() -> Self {
        let nginx = Nginx::start(
            "0-1023",
            TempDir::new().unwrap(),
            "large_client_header_buffers 8 64k; client_max_body_size 0;\n\
             server { listen ADDRESS; keepalive_requests 1000000000; location / { return 200 'ok'; } }",
        );
        let folder = TempDir::new().unwrap();
        let [haproxy] = free_ports();
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(
            &file,
            format!(
                "global\n  nbthread 1\n  maxconn 1024\n  tune.bufsize 131072\n  tune.http.maxhdr 1000\n\
                 defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
                 frontend apps\n  bind {haproxy}\n  default_backend vendor\n\
                 backend vendor\n  server one {}\n",
                nginx.address
            ),
        )
        .unwrap();
        let mut command = Command::new("haproxy");
        let proxy = Process::start(command.args(["-db", "-f"]).arg(&file).stdin(Stdio::null()));
        let begun = Instant::now();
        while TcpStream::connect(haproxy).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "HAProxy does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut command = Command::new("python3");
        let mut python =
            Process::start(command.args(["-c", PYTHON]).stdin(Stdio::null()).stdout(Stdio::piped()));
        let mut port = String::new();
        BufReader::new(python.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let python_address = SocketAddr::from(([127, 0, 0, 1], port.trim().parse().expect("Python's port")));
        let readers = vec![("nginx", nginx.address), ("haproxy", haproxy), ("python", python_address)];
        Self { readers, _nginx: nginx, _processes: vec![proxy, python], _folder: folder }
    }

    /// What each finds in a connection's bytes.
    pub fn read(&self, requests: &[Vec<u8>]) -> Vec<(&'static str, Found)> {
        self.readers.iter().map(|(name, address)| (*name, found(*address, requests))).collect()
    }
}

/// How one reader took a connection's bytes.
#[derive(Debug, Default)]
pub struct Found {
    pub requests: u64,
    /// Those of them that it does not want, and closes the connection over: alone as well as in their row.
    pub unwanted: u64,
}

/// A reader that does not want a request is sent the rest again on a connection of its own.
fn found(address: SocketAddr, requests: &[Vec<u8>]) -> Found {
    let (mut rest, mut found) = (requests, Found::default());
    while !rest.is_empty() {
        let read = answers(address, rest);
        let wanted = read.iter().take_while(|status| **status == 200).count();
        if wanted == read.len() {
            // The last one is what ends the connection.
            found.requests += (wanted as u64).saturating_sub(1);
            break;
        }
        found.requests += wanted as u64;
        let Some(unwanted) = rest.get(wanted) else { break };
        if answers(address, std::slice::from_ref(unwanted)).first().is_none_or(|status| *status == 200) {
            // It stumbled over what stands before.
            break;
        }
        (found.requests, found.unwanted) = (found.requests + 1, found.unwanted + 1);
        rest = &rest[wanted + 1..];
    }
    found
}

fn answers(address: SocketAddr, requests: &[Vec<u8>]) -> Vec<u16> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut writing = stream.try_clone().unwrap();
    let bytes =
        [&requests.concat()[..], b"GET /last HTTP/1.1\r\nhost: last\r\nconnection: close\r\n\r\n"].concat();
    let writer = std::thread::spawn(move || {
        // A reader that closes early is told by its count.
        let _ = writing.write_all(&bytes);
    });
    let mut answers = Vec::new();
    // So is one that resets the connection.
    let _ = stream.read_to_end(&mut answers);
    writer.join().unwrap();
    statuses(&answers).into_iter().map(|(_, status)| status).collect()
}

/// The status of each answer in a connection's bytes, with the place where its head begins.
pub fn statuses(answers: &[u8]) -> Vec<(usize, u16)> {
    memchr::memmem::find_iter(answers, b"HTTP/1.")
        .filter_map(|at| {
            let line = answers.get(at..at + 12)?;
            let status = std::str::from_utf8(line.get(8..)?).ok()?.strip_prefix(' ')?;
            Some((at, status.parse().ok()?))
        })
        .collect()
}
