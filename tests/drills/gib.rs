//! Ten gibibytes pass each way unchanged, in flat memory.

use std::io::{Read, Write};
use std::net::TcpStream;

use aws_lc_rs::digest::{Context, SHA256};
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::vendor::{Vendor, raw};
use crate::sample::Noise;
use crate::stage::{BuiltIn, Stage, integration};

const MIB: u64 = 1024 * 1024;
const MOST_GROWTH_KIB: u64 = 32 * 1024;
const DOWN: u64 = 0x5eed_d041;
const UP: u64 = 0x5eed_0b0a;

pub fn run(plan: &Plan) -> Figure {
    let size = plan.size(64, 10 * 1024) * MIB;
    // Down from a vendor of this drill, because the built-in one has only zeros to give.
    let giver = Vendor::start(|received, out| {
        let length: u64 = received.target().rsplit('/').next().unwrap().parse().unwrap();
        raw(out, format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes());
        let mut noise = Noise::of(DOWN);
        (0..length / Noise::BLOCK as u64).for_each(|_| raw(out, &noise.block()));
    });
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("giver.pem");
    std::fs::write(&ca, &giver.ca_pem).unwrap();
    let taker = BuiltIn::start(&plan.relay);
    let integrations = integration("giver", &format!("https://localhost:{}", giver.port), &ca)
        + &integration("taker", &taker.origin, &taker.ca);
    let mut stage = Stage::set(&plan.relay, "", &integrations);
    stage.start();
    let secrets =
        ["giver", "taker"].map(|name| stage.secret("acme", name, "sk-drill-0123456789abcdef01234567"));
    let app = App { stage: &stage, token: stage.token("acme") };

    // Both ways once with little, so that what every request needs is there.
    app.down(&secrets[0], 2 * Noise::BLOCK as u64);
    app.up(&secrets[1], 2 * Noise::BLOCK as u64);
    let before = stage.relay().peak_kib();
    plan.say("down");
    let down = app.down(&secrets[0], size) == sum_of(DOWN, size);
    plan.say("up");
    let up = app.up(&secrets[1], size) == sum_of(UP, size);
    // The kernel counts per thread and sums up late: a later peak may read a little lower.
    let growth = stage.relay().peak_kib().saturating_sub(before);
    let same = |same: bool| if same { "same" } else { "other" };
    let result = format!(
        "down_sha256={} up_sha256={} growth={:.1}MiB peak={:.1}MiB",
        same(down),
        same(up),
        growth as f64 / 1024.0,
        (before + growth) as f64 / 1024.0
    );
    Figure { n: size, result, kept: down && up && growth < MOST_GROWTH_KIB }
}

struct App<'a> {
    stage: &'a Stage,
    token: String,
}

impl App<'_> {
    /// Gets `size` bytes and says their SHA-256.
    fn down(&self, secret: &str, size: u64) -> String {
        let mut stream = self.ask(&format!("GET /giver/{secret}/{size}"), "");
        let mut rest = head(&mut stream, &format!("content-length: {size}"));
        let mut hash = Context::new(&SHA256);
        let mut left = size;
        let mut piece = vec![0; Noise::BLOCK];
        hash.update(&rest);
        left -= rest.len() as u64;
        rest.clear();
        while left > 0 {
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0, "the answer broke off {left} bytes before its end");
            hash.update(&piece[..n]);
            left -= n as u64;
        }
        hex(hash)
    }

    /// Sends `size` bytes, and what the vendor says their SHA-256 is.
    fn up(&self, secret: &str, size: u64) -> String {
        let length = format!("content-length: {size}\r\n");
        let mut stream = self.ask(&format!("POST /taker/{secret}/count"), &length);
        let mut noise = Noise::of(UP);
        (0..size / Noise::BLOCK as u64).for_each(|_| stream.write_all(&noise.block()).unwrap());
        let mut text = head(&mut stream, "content-length: ");
        while !text.ends_with(b"\n") {
            let mut piece = [0; 1024];
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0, "the vendor's count broke off");
            text.extend_from_slice(&piece[..n]);
        }
        let count: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(count["bytes"], size, "the vendor got another number of bytes");
        count["sha256"].as_str().unwrap().to_owned()
    }

    fn ask(&self, line: &str, more: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.stage.app).unwrap();
        let text =
            format!("{line} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {}\r\n{more}\r\n", self.token);
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }
}

/// Reads a 200's head, which must hold `line`; what came behind it.
fn head(stream: &mut TcpStream, line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
            assert!(head.starts_with("http/1.1 200") && head.contains(line), "{head}");
            return bytes.split_off(at + 4);
        }
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "no answer: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..n]);
    }
}

fn sum_of(seed: u64, size: u64) -> String {
    let mut noise = Noise::of(seed);
    let mut hash = Context::new(&SHA256);
    (0..size / Noise::BLOCK as u64).for_each(|_| hash.update(&noise.block()));
    hex(hash)
}

fn hex(hash: Context) -> String {
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
