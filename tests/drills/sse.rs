//! Events are not delayed: each is with the app within 20 ms of its sending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::vendor::{Vendor, raw};
use crate::sample::median;
use crate::stage::{Stage, integration};

const APART: Duration = Duration::from_millis(50);
const MOST_MS: f64 = 20.0;

pub fn run(plan: &Plan) -> Figure {
    let n = plan.size(20, 200);
    let vendor = Vendor::start(move |_, out| {
        raw(out, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
        for event in 0..n {
            let text = format!("id: {event}\ndata: {}\n\n", now_us());
            raw(out, format!("{:x}\r\n{text}\r\n", text.len()).as_bytes());
            std::thread::sleep(APART);
        }
        raw(out, b"0\r\n\r\n");
    });
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &upstream, &ca));
    stage.start();
    let secret = stage.secret("acme", "vendor", "sk-drill-0123456789abcdef0123456789");
    let bearer = format!("Bearer {}", stage.token("acme"));
    let stalls = Stalls::watch();
    let mut app = stage.client();
    app.send(&format!(
        "GET /vendor/{secret}/events HTTP/1.1\r\nhost: relay\r\nauthorization: {bearer}\r\n\r\n"
    ));
    let (status, _) = app.head();
    assert_eq!(status, 200, "the stream does not begin");
    let (mut delays, mut text) = (Vec::new(), Vec::new());
    while delays.len() < n as usize {
        text.extend_from_slice(&app.taken());
        while let Some(end) = memchr::memmem::find(&text, b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = String::from_utf8(event).unwrap();
            let sent: u64 = event.rsplit_once("data: ").unwrap().1.trim_end().parse().unwrap();
            delays.push(now_us().saturating_sub(sent) as f64 / 1000.0);
        }
        assert!(delays.len() == n as usize || app.more(), "the stream broke off after {}", delays.len());
    }
    let middle = median(&mut delays);
    let most = delays.last().copied().unwrap_or(f64::NAN);
    let stall = stalls.longest_ms();
    // The small size runs beside whatever a test machine does: what the machine itself stood still is not
    // relay's. The full size is held to the promise as it is.
    let allowed = if plan.full { MOST_MS } else { MOST_MS + stall };
    let result = format!("max={most:.2}ms median={middle:.2}ms machine_stall={stall:.2}ms");
    Figure { n, result, kept: most < allowed }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// How late a thread that does nothing but sleep wakes up: what this machine adds by itself.
struct Stalls {
    longest_us: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Stalls {
    fn watch() -> Self {
        let stalls = Self { longest_us: Arc::default(), over: Arc::default() };
        let (longest, over) = (stalls.longest_us.clone(), stalls.over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::sleep(Duration::from_millis(5));
                let late = begun.elapsed().saturating_sub(Duration::from_millis(5));
                longest.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            }
        });
        stalls
    }

    fn longest_ms(&self) -> f64 {
        self.over.store(true, Ordering::Relaxed);
        self.longest_us.load(Ordering::Relaxed) as f64 / 1000.0
    }
}
