//! Apps that stop reading, and vendors that do, cost relay a bounded amount of memory each.
//!
//! Every app asks for an answer far larger than all socket buffers on its way, reads the head and then
//! nothing; every upload goes to a vendor that reads the head and then nothing. Relay's memory at rest, over
//! what it was before, is what they cost. One reader then goes on to the end, so that it was standing still
//! and not broken.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::process::allow_descriptors;
use crate::rig::client::Client;
use crate::rig::vendor::{Received, Vendor, answer, raw};
use crate::sample::Noise;
use crate::stage::{Stage, integration};

const MIB: u64 = 1024 * 1024;
/// More than the kernel lets stand in one connection's buffers on this side and that together.
const ANSWER: u64 = 16 * MIB;
const MOST_KIB: f64 = 256.0;
/// More than a small machine would have: what each of them allows adds up.
const WORKERS: u64 = 4;
/// What the kernel may keep on this side of each connection: thousands of large ones would use up the memory
/// that it has for all of this machine's sockets.
const SOCKET: usize = 64 * 1024;
/// How long an upload may make no progress before it counts as stalled.
const STILL: Duration = Duration::from_millis(1500);

pub fn run(plan: &Plan) -> Figure {
    let n = plan.size(100, 1000);
    // A connection has both its ends here or in relay, which has this process' limit.
    allow_descriptors(2 * n + 256);
    let gate = Gate::default();
    let vendor = vendor(gate.clone());
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let limits = format!("workers = {WORKERS}\nlimits.in_flight_per_customer = {}", 2 * (n + 10));
    let mut stage = Stage::set(&plan.relay, &limits, &integration("vendor", &upstream, &ca));
    stage.start();
    let apps = Apps {
        address: stage.app,
        secret: stage.secret("acme", "vendor", "sk-drill-0123456789abcdef01234567"),
        token: stage.token("acme"),
    };
    plan.say("readers");
    let before = apps.before(&stage);
    let mut readers: Vec<Client> = (0..n).map(|_| apps.reader(&stage)).collect();
    let reading = stage.relay().rested_kib();
    let whole = rest_of(readers.pop().expect("a reader"));
    drop(readers);
    let read = stage.relay().rested_kib();

    plan.say("uploads");
    // A relay of their own: what the readers left behind would be used again.
    stage.stop();
    stage.start();
    let before_uploads = apps.before(&stage);
    let uploads = apps.uploads(n);
    let uploading = stage.relay().rested_kib();
    drop(uploads);
    gate.open();
    let after = stage.relay().rested_kib();

    let each = |with: u64, without: u64| with.saturating_sub(without) as f64 / n as f64;
    let mib = |kib: u64| kib as f64 / 1024.0;
    let (reader, upload) = (each(reading, before), each(uploading, before_uploads));
    let result = format!(
        "reader={reader:.1}KiB upload={upload:.1}KiB before={:.1}MiB readers={:.1}MiB closed={:.1}MiB \
         before={:.1}MiB uploads={:.1}MiB closed={:.1}MiB whole={whole}",
        mib(before),
        mib(reading),
        mib(read),
        mib(before_uploads),
        mib(uploading),
        mib(after),
    );
    // One that costs nothing was not measured.
    let within = |cost: f64| cost > 0.0 && cost <= MOST_KIB;
    Figure { n, result, kept: within(reader) && within(upload) && whole == ANSWER }
}

/// Gives as fast as it is read, takes nothing until the gate opens.
fn vendor(gate: Gate) -> Vendor {
    Vendor::by_hand(move |received: &Received, out| match received.target() {
        "/large" => {
            keep_little(out.sock);
            raw(out, format!("HTTP/1.1 200 OK\r\ncontent-length: {ANSWER}\r\n\r\n").as_bytes());
            let block = Noise::of(ANSWER).block();
            for _ in 0..ANSWER / Noise::BLOCK as u64 {
                if out.write_all(&block).is_err() {
                    return;
                }
            }
            let _ = out.flush();
        }
        "/upload" => {
            keep_little(out.sock);
            gate.wait();
            let _ = out.sock.shutdown(Shutdown::Both);
        }
        _ => answer(out, 200, &[], b"ok"),
    })
}

fn keep_little(socket: impl AsFd) {
    set_socket_recv_buffer_size(&socket, SOCKET).unwrap();
    set_socket_send_buffer_size(&socket, SOCKET).unwrap();
}

struct Apps {
    address: SocketAddr,
    secret: String,
    token: String,
}

impl Apps {
    /// Relay's memory when all is there that the first requests need.
    fn before(&self, stage: &Stage) -> u64 {
        (0..20).for_each(|_| self.warm(stage));
        stage.relay().rested_kib()
    }

    fn warm(&self, stage: &Stage) {
        let headers =
            [("authorization", format!("Bearer {}", self.token)), ("relay-secret", self.secret.clone())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = stage.client().request("GET", "/vendor/small", &headers, b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// An app that has read the head of a large answer, and what came with it.
    fn reader(&self, stage: &Stage) -> Client {
        let mut client = Client::connect(self.address, stage.shown.clone());
        keep_little(&client.stream);
        client.send(&self.head("GET /vendor/large", ""));
        assert_eq!(client.head().0, 200);
        client
    }

    /// Apps that have sent what would go of a large body.
    fn uploads(&self, n: u64) -> Vec<TcpStream> {
        let length = format!("content-length: {ANSWER}\r\n");
        let head = self.head("POST /vendor/upload", &length);
        let mut going: Vec<(TcpStream, u64)> = (0..n)
            .map(|_| {
                let mut stream = TcpStream::connect(self.address).unwrap();
                keep_little(&stream);
                stream.write_all(head.as_bytes()).unwrap();
                stream.set_nonblocking(true).unwrap();
                (stream, 0)
            })
            .collect();
        let block = vec![b'u'; Noise::BLOCK];
        let mut moved = Instant::now();
        while moved.elapsed() < STILL {
            for (stream, sent) in &mut going {
                match stream.write(&block) {
                    Ok(bytes) => {
                        *sent += bytes as u64;
                        assert!(*sent < ANSWER, "an upload went through though the vendor reads nothing");
                        moved = Instant::now();
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("an upload broke off: {error}"),
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        going.into_iter().map(|(stream, _)| stream).collect()
    }

    fn head(&self, line: &str, more: &str) -> String {
        let Self { secret, token, .. } = self;
        format!(
            "{line} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {token}\r\nrelay-secret: {secret}\r\n{more}\r\n"
        )
    }
}

/// How many bytes of its answer a reader gets once it reads on.
fn rest_of(mut reader: Client) -> u64 {
    let mut total = reader.taken().len() as u64;
    let mut piece = vec![0; Noise::BLOCK];
    while total < ANSWER {
        match reader.stream.read(&mut piece) {
            Ok(n) if n > 0 => total += n as u64,
            _ => break,
        }
    }
    total
}

/// What the vendor's threads wait at.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
    }
}
