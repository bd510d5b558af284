//! Apps on keep-alive connections and streams, against replicas that come and go.
//!
//! Whoever opens a connection goes where new ones go at that moment, as behind a balancer; one that says
//! `Connection: close` is left behind its answer. A connection that is closed without an answer is a failed request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::rig::vendor::{self, Vendor};
use crate::stage::{Stage, integration};

/// Connections, each with a thread of its own: many enough that one that waits for an answer does not hold up the rate.
const CLIENTS: u64 = 60;
const TICK: Duration = Duration::from_millis(50);

/// One replica as apps know it.
pub struct Replica {
    pub address: SocketAddr,
    /// What stands in each request's head for it.
    pub fields: String,
}

/// Where new connections go.
pub struct Balancer {
    pub replicas: Vec<Replica>,
    pub live: AtomicUsize,
}

/// What came of it.
#[derive(Default)]
pub struct Seen {
    ended: OnceLock<Instant>,
    /// Requests that were due, whether or not a connection was free to send them.
    pub offered: AtomicU64,
    pub answered: AtomicU64,
    pub failed: AtomicU64,
    pub refused: AtomicU64,
    pub streams: AtomicU64,
    pub truncated: AtomicU64,
}

/// A vendor whose `/stream` goes on for `lasting`, and that answers `ok` to everything else.
pub fn vendor(lasting: Duration) -> Vendor {
    Vendor::start(move |request, out| {
        if !request.target().ends_with("/stream") {
            return vendor::answer(out, 200, &[], b"ok");
        }
        vendor::raw(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let begun = Instant::now();
        while begun.elapsed() < lasting {
            vendor::raw(out, b"6\r\ntick.\n\r\n");
            std::thread::sleep(TICK);
        }
        vendor::raw(out, b"0\r\n\r\n");
    })
}

/// A relay before that vendor, started, with a secret of its own.
pub fn replica(relay: &std::path::Path, vendor: &Vendor) -> (Stage, Replica) {
    let upstream = format!("https://localhost:{}", vendor.port);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let mut stage = Stage::set(relay, "", &integration("vendor", &upstream, std::path::Path::new("ca.pem")));
    std::fs::copy(&ca, stage.folder.path().join("ca.pem")).unwrap();
    stage.start();
    let id = stage.secret("acme", "vendor", "sk-drill-0123456789");
    let token = stage.token("acme");
    let fields = format!("authorization: Bearer {token}\r\nrelay-secret: {id}\r\n");
    let replica = Replica { address: stage.app, fields };
    (stage, replica)
}

impl Seen {
    /// Ends the load; what is due later was not offered.
    pub fn end(&self, over: &AtomicBool) {
        self.ended.get_or_init(Instant::now);
        over.store(true, Ordering::Relaxed);
    }

    /// Whether nearly all that was offered was also sent and answered.
    pub fn kept_up(&self) -> bool {
        let (offered, answered) =
            (self.offered.load(Ordering::Relaxed), self.answered.load(Ordering::Relaxed));
        offered > 0 && answered * 100 >= offered * 98
    }
}

impl Balancer {
    fn connect(&self, seen: &Seen) -> (TcpStream, &Replica) {
        loop {
            let replica = &self.replicas[self.live.load(Ordering::SeqCst)];
            match TcpStream::connect(replica.address) {
                Ok(stream) => {
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                    return (stream, replica);
                }
                Err(_) => {
                    seen.refused.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// So many requests per second and so many streams at once, until `over`.
    pub fn load(&self, per_second: u64, streams: u64, over: &AtomicBool, seen: &Seen) {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                scope.spawn(move || self.client(number, (begun, per_second), over, seen));
            }
            for _ in 0..streams {
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let whole = self.stream(seen);
                        seen.streams.fetch_add(1, Ordering::Relaxed);
                        seen.truncated.fetch_add(u64::from(!whole), Ordering::Relaxed);
                    }
                });
            }
        });
    }

    fn client(&self, client: u64, (begun, per_second): (Instant, u64), over: &AtomicBool, seen: &Seen) {
        let due = |number: u64| begun + Duration::from_micros(number * 1_000_000 / per_second);
        let mut line = None;
        for number in (client..).step_by(CLIENTS as usize) {
            std::thread::sleep(due(number).saturating_duration_since(Instant::now()));
            if over.load(Ordering::Relaxed) {
                let end = seen.ended.get().copied().unwrap_or(begun);
                let unsent = (number..).step_by(CLIENTS as usize).take_while(|number| due(*number) < end);
                seen.offered.fetch_add(unsent.count() as u64, Ordering::Relaxed);
                return;
            }
            seen.offered.fetch_add(1, Ordering::Relaxed);
            let (mut stream, replica): (TcpStream, &Replica) =
                line.take().unwrap_or_else(|| self.connect(seen));
            match exchange(&mut stream, replica) {
                Ok(kept) => {
                    seen.answered.fetch_add(1, Ordering::Relaxed);
                    line = kept.then_some((stream, replica));
                }
                Err(why) => {
                    eprintln!("a request failed: {why}");
                    seen.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Whether a whole stream came.
    fn stream(&self, seen: &Seen) -> bool {
        let (mut stream, replica) = self.connect(seen);
        let head = format!("GET /vendor/stream HTTP/1.1\r\nhost: a\r\n{}\r\n", replica.fields);
        if stream.write_all(head.as_bytes()).is_err() {
            return false;
        }
        let (mut last, mut piece) = (Vec::new(), [0; 16 * 1024]);
        while !last.ends_with(b"\r\n0\r\n\r\n") {
            match stream.read(&mut piece) {
                Ok(read) if read > 0 => last.extend_from_slice(&piece[..read]),
                _ => return false,
            }
            let kept = last.len().saturating_sub(64);
            last.drain(..kept);
        }
        true
    }
}

/// One request and its whole answer; whether the connection may carry another.
fn exchange(stream: &mut TcpStream, replica: &Replica) -> Result<bool, String> {
    let failed = |error: std::io::Error| error.to_string();
    let head = format!("GET /vendor/x HTTP/1.1\r\nhost: a\r\n{}\r\n", replica.fields);
    stream.write_all(head.as_bytes()).map_err(failed)?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = memchr::memmem::find(&answer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(head);
            }
            if answer.len() >= end + 6 {
                return Ok(!head.contains("\r\nconnection: close"));
            }
        }
        match stream.read(&mut piece).map_err(failed)? {
            0 => return Err(format!("closed after {} bytes", answer.len())),
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
}
