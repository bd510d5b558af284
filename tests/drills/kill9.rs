//! What was acknowledged survives kill -9, on either engine: every secret opens, with its own value; and whatever a
//! vendor saw until then had its intent in the audit before.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::client::Client;
use crate::rig::postgres::{Database, Server};
use crate::rig::vendor::{Vendor, answer};
use crate::sample::Noise;
use crate::stage::{Stage, integration};

/// Who adds at once: so many over the admin API, and one more by the command line.
const ADDING: usize = 3;
/// Every so many is longer than a page of the store.
const LONG_EVERY: u64 = 4;
const LONG: usize = 9_000;

/// In every so many rounds all that was ever acknowledged is opened, in the others what is new.
const ALL_EVERY: u64 = 20;

/// Who uses what was added meanwhile.
const USING: usize = 2;

/// UUID and credential of everything that relay said it had stored.
type Known = Arc<Mutex<HashMap<String, String>>>;

/// What came of one engine.
#[derive(Default)]
struct Found {
    acknowledged: usize,
    lost: usize,
    sends: u64,
    unrecorded: u64,
}

pub fn run(plan: &Plan) -> Figure {
    let rounds = plan.size(3, 200);
    let (sled, blobs) = killed(plan, rounds, "sled", None);
    let server = Server::start();
    let database = server.database();
    let (postgres, _) = killed(plan, rounds, "postgres", Some(&database));
    let told = |name: &str, it: &Found| {
        format!(
            "{name}_acknowledged={} {name}_lost={} {name}_sends={} {name}_unrecorded={}",
            it.acknowledged, it.lost, it.sends, it.unrecorded
        )
    };
    let result = format!("{} {} blobs={blobs}", told("sled", &sled), told("postgres", &postgres));
    let kept = [sled, postgres].iter().all(|it| {
        it.lost == 0 && it.unrecorded == 0 && it.acknowledged as u64 >= rounds * 4 && it.sends >= rounds * 4
    });
    Figure { n: rounds * 2, result, kept: kept && blobs == 0 }
}

/// Kills a relay over a store so many times; how many blob files sled has left.
fn killed(plan: &Plan, rounds: u64, engine: &str, database: Option<&Database>) -> (Found, usize) {
    let known = Known::default();
    let there = known.clone();
    let intents = Arc::new(Mutex::new(Intents::default()));
    let (sends, unrecorded) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (seen, count, missing) = (intents.clone(), sends.clone(), unrecorded.clone());
    // 200 only if the credential is the one that belongs to the UUID in the path.
    let vendor = Vendor::start(move |received, out| {
        let path = received.target();
        if path.starts_with("/use/") {
            count.fetch_add(1, Ordering::Relaxed);
            // Looked for before it is answered: the intent must be there by now.
            if !seen.lock().unwrap().has(path) {
                missing.fetch_add(1, Ordering::Relaxed);
            }
            return answer(out, 200, &[], b"");
        }
        let id = path.rsplit('/').next().unwrap_or_default();
        let wanted = there.lock().unwrap().get(id).map(|credential| format!("Bearer {credential}"));
        let right = wanted.is_some() && received.header("authorization") == wanted.as_deref();
        answer(out, if right { 200 } else { 418 }, &[], b"");
    });
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &upstream, &ca));
    if let Some(database) = database {
        stage.keep_in(&format!("engine = \"postgres\"\nurl = \"{}\"", database.url()));
    }
    intents.lock().unwrap().file = stage.audit();
    let token = stage.token("acme");
    let mut random = Noise::of(u64::from(uuid::Uuid::new_v4().as_fields().0));
    let (mut found, mut checked) = (Found::default(), HashSet::new());
    for round in 0..rounds {
        stage.start();
        intents.lock().unwrap().go_on();
        let before = known.lock().unwrap().len();
        let moment = Duration::from_millis(40 + random.next() % 500);
        add_until_killed(&mut stage, &known, &token, moment);
        stage.start();
        // Those of earlier rounds were there once; now and then, and in the end, all are looked for.
        if round % ALL_EVERY == 0 || round + 1 == rounds {
            checked.clear();
        }
        found.lost += unopened(&stage, &known, (&checked, &token));
        checked.extend(known.lock().unwrap().keys().cloned());
        let all = checked.len();
        plan.say(&format!(
            "{engine}: round {round}: {} acknowledged, {all} in all, {} lost, {} sends, {} without an intent",
            all - before,
            found.lost,
            sends.load(Ordering::Relaxed),
            unrecorded.load(Ordering::Relaxed),
        ));
        stage.kill();
    }
    found.acknowledged = known.lock().unwrap().len();
    found.sends = sends.load(Ordering::Relaxed);
    found.unrecorded = unrecorded.load(Ordering::Relaxed);
    let blobs = std::fs::read_dir(stage.folder.path().join("relay.db/blobs"));
    (found, blobs.map_or(0, Iterator::count))
}

/// The intents in the audit, read on as it grows.
#[derive(Default)]
struct Intents {
    file: PathBuf,
    read: u64,
    rest: Vec<u8>,
    paths: HashSet<String>,
}

impl Intents {
    /// From where the audit ends now: what a killed relay left half-written is mended by then.
    fn go_on(&mut self) {
        self.read = std::fs::metadata(&self.file).map_or(0, |file| file.len());
        self.rest.clear();
        self.paths.clear();
    }

    fn has(&mut self, path: &str) -> bool {
        let mut file = std::fs::File::open(&self.file).unwrap();
        file.seek(SeekFrom::Start(self.read)).unwrap();
        self.read += file.read_to_end(&mut self.rest).unwrap() as u64;
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in self.rest.drain(..end).collect::<Vec<u8>>().split(|byte| *byte == b'\n') {
            let record: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
            if record["kind"] == "intent" {
                self.paths.extend(record["path"].as_str().map(str::to_owned));
            }
        }
        self.paths.contains(path)
    }
}

fn add_until_killed(stage: &mut Stage, known: &Known, token: &str, moment: Duration) {
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
    for _ in 0..USING {
        let (known, over, bearer) = (known.clone(), over.clone(), format!("Bearer {token}"));
        let address = stage.app;
        adding.push(std::thread::spawn(move || use_until_killed(address, &known, &over, &bearer)));
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

/// One request after another, each with a path of its own.
fn use_until_killed(address: std::net::SocketAddr, known: &Known, over: &AtomicBool, bearer: &str) {
    let Ok(stream) = std::net::TcpStream::connect(address) else { return };
    drop(stream);
    let mut client = Client::connect(address, Arc::default());
    while !over.load(Ordering::Relaxed) {
        let Some(id) = known.lock().unwrap().keys().next().cloned() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let path = format!("/vendor/use/{}", uuid::Uuid::new_v4().simple());
        let headers = [("authorization", bearer), ("relay-secret", id.as_str())];
        let answer = client.request("GET", &path, &headers, b"");
        if answer.status == 0 || answer.cut {
            return;
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn credential(number: u64) -> String {
    let fresh = format!("sk-{}", uuid::Uuid::new_v4().simple());
    if number.is_multiple_of(LONG_EVERY) { fresh.repeat(LONG / fresh.len()) } else { fresh }
}

/// How many do not open, or open as something else.
fn unopened(stage: &Stage, known: &Known, (but, token): (&HashSet<String>, &str)) -> usize {
    let ids: Vec<String> = known.lock().unwrap().keys().filter(|id| !but.contains(*id)).cloned().collect();
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
