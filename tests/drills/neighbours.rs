//! One customer at fifty times its rate, whose other vendor hangs, and the neighbours who are not touched.
//!
//! The neighbours ask at a fixed rate, of both integrations: alone first, then beside the customer who floods
//! one and fills its share of the other with requests that the vendor never answers. Nobody else may see an
//! error, and their p99 stays within one and a half of what it was.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::paced::{Load, Paced};
use crate::process::allow_descriptors;
use crate::rig::client::Client;
use crate::rig::vendor::{Received, Vendor, answer};
use crate::sample::median;
use crate::stage::{Stage, integration};

/// Requests per second and customer.
const RATE: u64 = 20;
const TIMES: u64 = 50;
const NEIGHBOURS: usize = 10;
/// Requests of all neighbours per second: each is below its own rate.
const PER_SECOND: u64 = 160;
const FLOODERS: u64 = 10;
const WORST: f64 = 1.5;
/// What is no difference at the smallest size, whose p99 is that of a few hundred requests: a machine that others use
/// stands still for as long.
const NOISE_US: f64 = 5000.0;
/// How often the smallest size looks, within one flood, for ten seconds that such a machine left alone.
const TRIES: u64 = 3;

pub fn run(plan: &Plan) -> Figure {
    let share = plan.size(50, 500);
    let lasting = Duration::from_secs(plan.size(10, 60));
    allow_descriptors(4 * share + 256);
    let gate = Gate::default();
    let vendor = vendor(gate.clone());
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let limited =
        format!("{}rate = {RATE}\n\n", integration("limited", &upstream, &ca).trim_end().to_owned() + "\n");
    let integrations = limited + &integration("hangs", &upstream, &ca);
    let limits = format!("limits.in_flight_per_customer = {}", 2 * share);
    let mut stage = Stage::set(&plan.relay, &limits, &integrations);
    stage.start();
    let neighbours = Load { address: stage.app, requests: neighbours(&stage), per_second: PER_SECOND };
    let busy = Busy::new(&stage);

    plan.say("alone");
    let over = AtomicBool::new(true);
    // What is new is slow: connections, keys, pages.
    neighbours.run(Duration::from_secs(2), &over);
    let alone = neighbours.run(lasting, &over);
    let control = p99(plan, &alone);

    plan.say("beside");
    let (mut beside, mut loaded, mut lasted) = (Vec::new(), f64::INFINITY, 0);
    let near = |loaded: f64| loaded <= control * WORST || (!plan.full && loaded - control < NOISE_US);
    let hanging = busy.hang(share);
    std::thread::scope(|scope| {
        for number in 0..FLOODERS {
            let busy = &busy;
            scope.spawn(move || busy.flood(number));
        }
        for _ in 0..plan.size(TRIES, 1) {
            let paced = neighbours.run(lasting, &over);
            loaded = loaded.min(p99(plan, &paced));
            lasted += lasting.as_secs();
            beside.push(paced);
            if near(loaded) {
                break;
            }
        }
        busy.over.store(true, Ordering::Relaxed);
    });
    gate.open();
    drop(hanging);

    let (passed, limited, full) = busy.counts();
    let tried = (passed + limited) / lasted;
    let errors = alone.errors + beside.iter().map(|paced| paced.errors).sum::<u64>();
    let answered = beside.iter().map(Paced::answered).sum();
    let result = format!(
        "neighbours={answered} errors={errors} control_p99={control:.0}us p99={loaded:.0}us ratio={:.2} tried={tried}/s \
         passed={passed} rate_limited={limited} hanging={share} too_busy={full} seconds_beside={lasted}",
        loaded / control,
    );
    for head in [&alone].into_iter().chain(&beside).flat_map(|paced| &paced.heads) {
        eprintln!("a neighbour: {head}");
    }
    // Without a flood, or without a vendor that hangs, nothing was shown.
    let flooded = tried >= RATE * TIMES * 8 / 10 && full > 0;
    let bounded = passed <= RATE * (lasted + 3);
    Figure { n: answered, result, kept: errors == 0 && flooded && bounded && near(loaded) }
}

/// Neighbours who wait for the flood do so in every window. Two windows have no middle: the smallest size judges by
/// the one that the machine disturbed least.
fn p99(plan: &Plan, paced: &Paced) -> f64 {
    let mut windows = paced.p99s();
    if plan.full { median(&mut windows) } else { windows.into_iter().fold(f64::INFINITY, f64::min) }
}

/// Each neighbour's request to each integration, in turn.
fn neighbours(stage: &Stage) -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    for number in 0..NEIGHBOURS {
        let customer = format!("neighbour-{number}");
        let token = stage.token(&customer);
        for integration in ["limited", "hangs"] {
            let secret = stage.secret(&customer, integration, "sk-drill-0123456789abcdef01234567");
            requests.push(request(integration, &secret, "x", &token).into_bytes());
        }
    }
    requests
}

fn request(integration: &str, secret: &str, path: &str, token: &str) -> String {
    format!(
        "GET /{integration}/{secret}/{path} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {token}\r\n\r\n"
    )
}

/// The customer who asks for too much.
struct Busy {
    app: SocketAddr,
    limited: String,
    hangs: String,
    over: AtomicBool,
    passed: AtomicU64,
    rate_limited: AtomicU64,
    too_busy: AtomicU64,
}

impl Busy {
    fn new(stage: &Stage) -> Self {
        let token = stage.token("acme");
        let [limited, hangs] = [("limited", "x"), ("hangs", "hang")].map(|(integration, path)| {
            let secret = stage.secret("acme", integration, "sk-drill-abcdef0123456789abcdef0123");
            request(integration, &secret, path, &token)
        });
        Self {
            app: stage.app,
            limited,
            hangs,
            over: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            rate_limited: AtomicU64::new(0),
            too_busy: AtomicU64::new(0),
        }
    }

    /// Fills the share of one integration, and asks for more than that.
    fn hang(&self, share: u64) -> Vec<Client> {
        let mut clients: Vec<Client> = (0..share).map(|_| self.connect()).collect();
        clients.iter_mut().for_each(|client| client.send(&self.hangs));
        let begun = Instant::now();
        while self.too_busy.load(Ordering::Relaxed) == 0 && begun.elapsed() < Duration::from_secs(30) {
            let mut client = self.connect();
            client.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            client.send(&self.hangs);
            if client.head().0 == 429 {
                self.too_busy.fetch_add(1, Ordering::Relaxed);
            } else {
                // Taken while the share is not full yet, it hangs as well, and fills it.
                clients.push(client);
            }
        }
        clients
    }

    /// One of those who ask fifty times too often, each at its own part of it.
    fn flood(&self, number: u64) {
        let mut client = self.connect();
        let begun = Instant::now();
        for turn in (number..).step_by(FLOODERS as usize) {
            let due = begun + Duration::from_micros(turn * 1_000_000 / (RATE * TIMES));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            client.send(&self.limited);
            let answer = client.answer("GET");
            match answer.status {
                200 => self.passed.fetch_add(1, Ordering::Relaxed),
                429 if answer.header("retry-after").is_some() => {
                    self.rate_limited.fetch_add(1, Ordering::Relaxed)
                }
                other => panic!("the one who floods was told {other}: {}", answer.text()),
            };
        }
    }

    fn connect(&self) -> Client {
        Client::connect(self.app, Arc::default())
    }

    fn counts(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.passed), of(&self.rate_limited), of(&self.too_busy))
    }
}

/// Answers at once, but for `/hang`, which waits until the gate opens.
fn vendor(gate: Gate) -> Vendor {
    Vendor::start(move |request: &Received, out| {
        if request.target() == "/hang" {
            gate.wait();
        }
        answer(out, 200, &[], b"ok");
    })
}

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
