//! What was acknowledged survives kill -9: every secret opens, with its own value.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::client::Client;
use crate::rig::vendor::{Vendor, answer};
use crate::sample::Noise;
use crate::stage::{Stage, integration};

/// Who adds at once: so many over the admin API, and one more by the command line.
const ADDING: usize = 3;
/// Every so many is longer than a page of the store.
const LONG_EVERY: u64 = 4;
const LONG: usize = 9_000;

/// UUID and credential of everything that relay said it had stored.
type Known = Arc<Mutex<HashMap<String, String>>>;

pub fn run(plan: &Plan) -> Figure {
    let rounds = plan.size(3, 20);
    let known = Known::default();
    let there = known.clone();
    // 200 only if the credential is the one that belongs to the UUID in the path.
    let vendor = Vendor::start(move |received, out| {
        let id = received.target().rsplit('/').next().unwrap_or_default();
        let wanted = there.lock().unwrap().get(id).map(|credential| format!("Bearer {credential}"));
        let right = wanted.is_some() && received.header("authorization") == wanted.as_deref();
        answer(out, if right { 200 } else { 418 }, &[], b"");
    });
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &upstream, &ca));
    let token = stage.token("acme");
    let mut random = Noise::of(u64::from(uuid::Uuid::new_v4().as_fields().0));
    let mut lost = 0;
    for round in 0..rounds {
        stage.start();
        let before = known.lock().unwrap().len();
        let moment = Duration::from_millis(40 + random.next() % 500);
        add_until_killed(&mut stage, &known, moment);
        stage.start();
        lost += unopened(&stage, &known, &token);
        let all = known.lock().unwrap().len();
        plan.say(&format!("round {round}: {} acknowledged, {all} in all, {lost} lost", all - before));
        stage.kill();
    }
    let acknowledged = known.lock().unwrap().len();
    let blobs = std::fs::read_dir(stage.folder.path().join("relay.db/blobs"));
    let blobs = blobs.map_or(0, Iterator::count);
    let enough = acknowledged as u64 >= rounds * 4;
    let result = format!("acknowledged={acknowledged} lost={lost} blobs={blobs}");
    Figure { n: rounds, result, kept: lost == 0 && blobs == 0 && enough }
}

fn add_until_killed(stage: &mut Stage, known: &Known, moment: Duration) {
    let over = Arc::new(AtomicBool::new(false));
    let (address, admin_token) = (stage.admin, stage.admin_token());
    let mut adding = Vec::new();
    for _ in 0..ADDING {
        let (known, over, bearer) = (known.clone(), over.clone(), format!("Bearer {admin_token}"));
        adding.push(std::thread::spawn(move || {
            for number in 0.. {
                let credential = credential(number);
                let fields = json!({ "token": credential });
                let body =
                    json!({ "customer": "acme", "integration": "vendor", "fields": fields }).to_string();
                // Between two rounds nobody listens.
                let Ok(stream) = std::net::TcpStream::connect(address) else { return };
                drop(stream);
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let mut client = Client::connect(address, Arc::default());
                let answer =
                    client.request("POST", "/v1/secrets", &[("authorization", &bearer)], body.as_bytes());
                // An answer that broke off acknowledges nothing.
                if answer.status == 0 || answer.cut {
                    return;
                }
                assert_eq!(answer.status, 201, "{}", answer.text());
                let id = answer.json()["id"].as_str().unwrap().to_owned();
                known.lock().unwrap().insert(id, credential);
            }
        }));
    }
    std::thread::scope(|scope| {
        let stage: &Stage = stage;
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let credential = credential(1);
                let words = ["secret", "add", "--customer", "acme", "--integration", "vendor"];
                let done = stage.command(&words, &credential);
                if !done.status.success() {
                    return;
                }
                let id = String::from_utf8(done.stdout).unwrap().trim_end().to_owned();
                known.lock().unwrap().insert(id, credential);
            }
        });
        std::thread::sleep(moment);
        // While everybody is writing.
        stage.relay().kill_now();
        over.store(true, Ordering::Relaxed);
    });
    adding.into_iter().for_each(|thread| thread.join().unwrap());
    stage.kill();
}

fn credential(number: u64) -> String {
    let fresh = format!("sk-{}", uuid::Uuid::new_v4().simple());
    if number.is_multiple_of(LONG_EVERY) { fresh.repeat(LONG / fresh.len()) } else { fresh }
}

/// How many do not open, or open as something else.
fn unopened(stage: &Stage, known: &Known, token: &str) -> usize {
    let ids: Vec<String> = known.lock().unwrap().keys().cloned().collect();
    let bearer = format!("Bearer {token}");
    let mut app = stage.client();
    let mut lost = 0;
    for id in ids {
        let path = format!("/vendor/check/{id}");
        let answer = app.request("GET", &path, &[("authorization", &bearer), ("relay-secret", &id)], b"");
        if answer.status != 200 {
            eprintln!("{id}: {} {}", answer.status, answer.text());
            lost += 1;
            app = stage.client();
        }
    }
    lost
}
