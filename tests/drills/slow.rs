//! Thousands of slow clients take nothing from one that is not slow.
//!
//! A third sends a head byte by byte, a third a body byte by byte, a third reads an answer byte by byte. Those
//! that relay cuts come again at once. Meanwhile another customer asks one request after the other; each must
//! be answered.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::process::allow_descriptors;
use crate::rig::vendor::{Vendor, answer};
use crate::sample::{median, percentile};
use crate::stage::{Stage, integration};

/// Between two bytes of one slow client.
const APART: Duration = Duration::from_millis(500);
/// More than the sockets on both sides hold for a reader with a small buffer.
const ANSWER: usize = 512 * 1024;
const SMALL: usize = 4 * 1024;
const THREADS: usize = 8;

pub fn run(plan: &Plan) -> Figure {
    let n = plan.size(200, 4_000);
    let lasting = Duration::from_secs(plan.size(5, 60));
    // Relay has this process' limit, and two connections for each body and each answer.
    allow_descriptors(3 * n + 1024);
    let vendor = Vendor::start(|request, out| {
        let content = if request.target() == "/large" { ANSWER } else { 2 };
        answer(out, 200, &[], &vec![b'x'; content]);
    });
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let limits =
        format!("limits.in_flight_per_customer = {}\nlimits.connections = {}", 2 * (n + 10), n + 100);
    let mut stage = Stage::set(&plan.relay, &limits, &integration("vendor", &upstream, &ca));
    stage.start();
    let secret = stage.secret("acme", "vendor", "sk-drill-0123456789abcdef0123456789");
    let slow = Slow { address: stage.app, secret, token: stage.token("acme"), ..Slow::default() };
    let victim = stage.secret("globex", "vendor", "sk-drill-abcdef0123456789abcdef0123");
    let bearer = format!("Bearer {}", stage.token("globex"));

    plan.say("slow clients");
    let memory = stage.relay().rested_kib();
    let mut asked = Asked::default();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (slow, share) = (&slow, n as usize / THREADS);
            scope.spawn(move || slow.crowd(thread * share..(thread + 1) * share));
        }
        let begun = Instant::now();
        while slow.open.load(Ordering::Relaxed) < n / 2 && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let begun = Instant::now();
        while begun.elapsed() < lasting {
            asked.ask(&stage, &victim, &bearer);
            std::thread::sleep(Duration::from_millis(5));
        }
        slow.over.store(true, Ordering::Relaxed);
    });
    let most = stage.relay().peak_kib().saturating_sub(memory) / 1024;
    let (open, again) = (slow.most.into_inner().unwrap(), slow.again.load(Ordering::Relaxed));
    let result = format!(
        "victim={} errors={} p50={:.1}ms p99={:.1}ms slow={open} cut={again} memory=+{most}MiB",
        asked.answered,
        asked.errors,
        median(&mut asked.ms),
        percentile(&mut asked.ms, 99.0),
    );
    // Without a crowd nothing was shown; nor with a victim that hardly ever asked.
    let crowded = open >= n * 9 / 10;
    Figure { n, result, kept: asked.errors == 0 && asked.answered >= lasting.as_secs() * 10 && crowded }
}

/// What the other customer got.
#[derive(Default)]
struct Asked {
    answered: u64,
    errors: u64,
    ms: Vec<f64>,
}

impl Asked {
    fn ask(&mut self, stage: &Stage, secret: &str, bearer: &str) {
        let begun = Instant::now();
        // Each over a connection of its own: a newcomer finds a place as well.
        let path = format!("/vendor/{secret}/x");
        let answer = stage.client().request("GET", &path, &[("authorization", bearer)], b"");
        self.ms.push(begun.elapsed().as_secs_f64() * 1000.0);
        if answer.status == 200 && !answer.cut {
            self.answered += 1;
        } else {
            self.errors += 1;
            eprintln!("the other client: {} {}", answer.status, answer.text());
        }
    }
}

struct Slow {
    address: SocketAddr,
    secret: String,
    token: String,
    over: AtomicBool,
    open: AtomicU64,
    /// The most that were ever open at once.
    most: Mutex<u64>,
    again: AtomicU64,
}

impl Default for Slow {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            secret: String::new(),
            token: String::new(),
            over: AtomicBool::default(),
            open: AtomicU64::default(),
            most: Mutex::default(),
            again: AtomicU64::default(),
        }
    }
}

impl Slow {
    /// Keeps one thread's share of the slow clients going.
    fn crowd(&self, share: std::ops::Range<usize>) {
        let mut clients: Vec<(usize, Option<TcpStream>)> = share.map(|number| (number, None)).collect();
        while !self.over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            for (number, client) in &mut clients {
                let kind = *number % 3;
                if client.is_none() {
                    *client = self.connect(kind);
                } else if !client.as_mut().is_some_and(|stream| goes_on(kind, stream)) {
                    *client = None;
                    self.open.fetch_sub(1, Ordering::Relaxed);
                    self.again.fetch_add(1, Ordering::Relaxed);
                }
                if self.over.load(Ordering::Relaxed) {
                    return;
                }
            }
            std::thread::sleep(APART.saturating_sub(begun.elapsed()));
        }
    }

    fn connect(&self, kind: usize) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let Self { secret, token, .. } = self;
        let head = |line: &str, more: &str| {
            format!(
                "{line} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {token}\r\nrelay-secret: {secret}\r\n{more}"
            )
        };
        let begin = match kind {
            0 => head("GET /vendor/x", "x-slow: "),
            1 => head("POST /vendor/x", "content-length: 1000000\r\n\r\n"),
            _ => {
                set_socket_recv_buffer_size(&stream, SMALL).ok()?;
                head("GET /vendor/large", "\r\n")
            }
        };
        stream.set_write_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(begin.as_bytes()).ok()?;
        stream.set_nonblocking(true).ok()?;
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let mut most = self.most.lock().unwrap();
        *most = open.max(*most);
        Some(stream)
    }
}

/// One byte more; false if relay has ended the connection.
fn goes_on(kind: usize, stream: &mut TcpStream) -> bool {
    let mut byte = [b'x'];
    let done = if kind == 2 { stream.read(&mut byte) } else { stream.write(&byte) };
    match done {
        Ok(n) => n > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
