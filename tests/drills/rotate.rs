//! Keys are rotated under load without a failed request, and killed in the middle without a loss.
//!
//! The store is filled by relay's own write path. First `relay key rotate --new-version` and `relay key rotate
//! --data` run while apps ask for warm and cold secrets at a fixed pace; the vendor answers 200 only to the
//! credential that belongs to the UUID. Then the process is killed again and again while a job is under way;
//! afterwards every secret opens, with the fingerprint that it had before.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::client::Client;
use crate::rig::vendor::{Vendor, answer};
use crate::sample::Noise;
use crate::stage::{Stage, integration};
use crate::stock::{self, EACH, Stock};

/// Requests a second, and the connections that they come over.
const PACE: u64 = 500;
const APPS: u64 = 10;
/// Secrets that are asked for again and again; every fifth request is for any other.
const WARM: u64 = 200;
const COLD_EVERY: u64 = 5;
/// Connections that check every secret at the end.
const CHECKERS: u64 = 8;

pub fn run(plan: &Plan) -> Figure {
    let customers = plan.size(100, 10_000);
    let kills = plan.size(3, 20);
    let vendor = vendor();
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &upstream, &ca));
    plan.say("filling the store");
    let stock = Stock::lay(&stage, customers);
    let tokens: Vec<String> =
        stock::tokens(&stage, 0..customers).into_iter().map(|token| format!("Bearer {token}")).collect();
    let town = Town { stock: &stock, tokens: &tokens, customers };
    stage.start();
    let before = fingerprints(&stage, customers);

    plan.say("rotation under load");
    let (rewrap, data, load) = under_load(&stage, &town);
    plan.say(&format!("{} requests, {} failed; {rewrap:?} {data:?}", load.sent, load.failed));

    plan.say("kills");
    let killed = kill_in_the_middle(plan, &mut stage, kills, rewrap.seconds.min(data.seconds));
    plan.say("every secret");
    let unopened = unopened(&stage, &town);
    let changed =
        fingerprints(&stage, customers).iter().filter(|(id, print)| before.get(*id) != Some(print)).count();
    let lost = before.len() as u64 - customers * EACH + unopened;
    stage.stop();

    let whole = rewrap.left + data.left + killed.left == 0 && rewrap.moved == customers;
    let kept = load.failed == 0
        && load.sent > 0
        && lost == 0
        && changed == 0
        && whole
        && data.moved == customers * EACH
        && killed.kills == kills;
    let result = format!(
        "failed={} requests={} rewrapped_per_s={:.0} resealed_per_s={:.0} kills={} lost={lost} changed={changed} left={}",
        load.failed,
        load.sent,
        rewrap.moved as f64 / rewrap.seconds,
        data.moved as f64 / data.seconds,
        killed.kills,
        rewrap.left + data.left + killed.left,
    );
    Figure { n: customers * EACH, result, kept }
}

/// Who asks for what.
struct Town<'a> {
    stock: &'a Stock,
    tokens: &'a [String],
    customers: u64,
}

/// What a job came to.
#[derive(Debug, Default)]
struct Done {
    moved: u64,
    left: u64,
    seconds: f64,
}

struct Load {
    sent: u64,
    failed: u64,
}

#[derive(Default)]
struct Killed {
    kills: u64,
    left: u64,
}

/// 200 only if the credential is the one that belongs to the customer and place in the path.
fn vendor() -> Vendor {
    Vendor::start(|received, out| {
        let target = received.target();
        let mut parts = target.rsplit('/').map(|part| part.parse().unwrap_or(u64::MAX));
        let (place, customer) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let wanted = format!("Bearer {}", stock::credential(customer, place));
        let right = received.header("authorization") == Some(&wanted);
        answer(out, if right { 200 } else { 418 }, &[], b"");
    })
}

impl Town<'_> {
    /// Asks for one secret; whether its own credential reached the vendor.
    fn ask(&self, client: &mut Client, customer: u64, place: u64) -> bool {
        let (id, token) = (self.stock.id(customer, place), &self.tokens[customer as usize]);
        let path = format!("/vendor/check/{customer}/{place}");
        let answer = client.request("GET", &path, &[("authorization", token), ("relay-secret", &id)], b"");
        if answer.status != 200 {
            eprintln!("{id}: {} {}", answer.status, answer.text());
        }
        answer.status == 200 && !answer.cut
    }
}

/// Both jobs, while apps ask at their pace.
fn under_load(stage: &Stage, town: &Town<'_>) -> (Done, Done, Load) {
    let (over, sent, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let jobs = std::thread::scope(|scope| {
        for app in 0..APPS {
            let (over, sent, failed) = (&over, &sent, &failed);
            scope.spawn(move || {
                let mut client = stage.client();
                let mut random = Noise::of(app * 7919 + 1);
                let begun = Instant::now();
                for turn in 0u64.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // By the clock and not by the answers: a slow answer lets the next ones come late, not fewer.
                    let due = Duration::from_micros((turn * APPS + app) * 1_000_000 / PACE);
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                    let all = town.customers * EACH;
                    let range = if turn.is_multiple_of(COLD_EVERY) { all } else { WARM.min(all) };
                    let secret = random.next() % range;
                    // Warm secrets of many customers, not all of a few.
                    let (customer, place) = (secret % town.customers, secret / town.customers);
                    sent.fetch_add(1, Ordering::Relaxed);
                    if !town.ask(&mut client, customer, place) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        client = stage.client();
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(2));
        let rewrap = rotate(stage, "--new-version");
        let data = rotate(stage, "--data");
        std::thread::sleep(Duration::from_secs(1));
        over.store(true, Ordering::Relaxed);
        (rewrap, data)
    });
    let load = Load { sent: sent.into_inner(), failed: failed.into_inner() };
    (jobs.0, jobs.1, load)
}

/// `relay key rotate` to its end.
fn rotate(stage: &Stage, what: &str) -> Done {
    let begun = Instant::now();
    let done = stage.command(&["--format", "json", "key", "rotate", what], "");
    let job: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|_| panic!("relay key rotate: {}", String::from_utf8_lossy(&done.stderr)));
    let number = |name: &str| job[name].as_u64().unwrap();
    Done { moved: number("moved"), left: number("left"), seconds: begun.elapsed().as_secs_f64() }
}

fn newest(stage: &Stage) -> Value {
    stage.call("GET", "/v1/jobs", &stage.admin_token(), "").json()["job"].clone()
}

/// Kills relay while a job is under way, `kills` times, and lets the last job end.
fn kill_in_the_middle(plan: &Plan, stage: &mut Stage, kills: u64, seconds: f64) -> Killed {
    let mut killed = Killed::default();
    let mut random = Noise::of(u64::from(uuid::Uuid::new_v4().as_fields().0));
    let longest = ((seconds * 300.0) as u64).clamp(20, 3_000);
    let mut data = false;
    while killed.kills < kills {
        if newest(stage)["ended_at"].is_string() {
            killed.left += newest(stage)["left"].as_u64().unwrap();
            // One kind and the other.
            data = !data;
            let body = format!("{{\"data\":{data},\"new_version\":{}}}", !data);
            let begun = stage.call("POST", "/v1/keys/rotate", &stage.admin_token(), &body);
            assert_eq!(begun.status, 202, "{}", begun.text());
        }
        std::thread::sleep(Duration::from_millis(random.next() % longest));
        let job = newest(stage);
        stage.kill();
        if job["ended_at"].is_null() {
            killed.kills += 1;
            plan.say(&format!(
                "kill {}: {} {} of {}",
                killed.kills, job["kind"], job["customers"], job["of"]
            ));
        }
        stage.start();
    }
    let begun = Instant::now();
    while newest(stage)["ended_at"].is_null() {
        assert!(begun.elapsed() < Duration::from_secs(600), "the job does not end: {}", newest(stage));
        std::thread::sleep(Duration::from_millis(100));
    }
    killed.left += newest(stage)["left"].as_u64().unwrap();
    killed
}

/// How many secrets do not open, or open as something else.
fn unopened(stage: &Stage, town: &Town<'_>) -> u64 {
    let unopened = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for checker in 0..CHECKERS {
            let unopened = &unopened;
            scope.spawn(move || {
                let mut client = stage.client();
                for customer in (checker..town.customers).step_by(CHECKERS as usize) {
                    for place in 0..EACH {
                        if !town.ask(&mut client, customer, place) {
                            unopened.fetch_add(1, Ordering::Relaxed);
                            client = stage.client();
                        }
                    }
                }
            });
        }
    });
    unopened.into_inner()
}

/// Every secret's fingerprint, as the admin API tells it.
pub fn fingerprints(stage: &Stage, customers: u64) -> HashMap<String, String> {
    let (found, token) = (Mutex::new(HashMap::new()), format!("Bearer {}", stage.admin_token()));
    std::thread::scope(|scope| {
        for place in 0..CHECKERS {
            let (found, token) = (&found, &token);
            scope.spawn(move || {
                let mut client = Client::connect(stage.admin, std::sync::Arc::default());
                for customer in (place..customers).step_by(CHECKERS as usize) {
                    let path = format!("/v1/secrets?customer=customer-{customer:07}");
                    let page = client.request("GET", &path, &[("authorization", token)], b"").json();
                    assert_eq!(page["unusable"].as_array().map(Vec::len), Some(0), "{page}");
                    let mut found = found.lock().unwrap();
                    for secret in page["secrets"].as_array().unwrap() {
                        let text = |name: &str| secret[name].as_str().unwrap().to_owned();
                        found.insert(text("id"), text("fingerprint"));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}
