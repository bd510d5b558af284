//! PostgreSQL's primary is killed and its standby promoted, over and over: nothing that was acknowledged is lost or
//! there twice, warm requests notice nothing, and writes go on by themselves.
//!
//! Two relays with both hosts in their URL. The standby is synchronous; once it is promoted, it demands no standby until
//! the dead primary was built anew as one. Each round both relays write through their admin API while both serve, and
//! then every acknowledged secret is asked for on both. What is refused, or of which nobody knows whether it was
//! written, is tried again on the other relay with the same `Idempotency-Key` until it is acknowledged: so that in
//! the end the store holds as many secrets as were acknowledged, and each one more is there twice. That this
//! counts is shown by one that is written again without a key.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::client::Client;
use crate::rig::postgres::{OWNER, PASSWORD, SERVING, Server};
use crate::rig::vendor::{Vendor, answer};
use crate::stage::{Stage, integration};

/// How soon after the promotion a write must be acknowledged.
const WRITES_BACK: Duration = Duration::from_secs(10);
/// How long a write is tried at all.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// How long writes and reads go on before the kill.
const CALM: Duration = Duration::from_millis(800);
/// Warm secrets that are asked for without end.
const WARM: usize = 5;

/// UUID and credential of everything that relay said it had stored.
type Known = Arc<Mutex<HashMap<String, String>>>;

pub fn run(plan: &Plan) -> Figure {
    let rounds = plan.size(1, 20);
    let known = Known::default();
    let there = known.clone();
    // 200 only if the credential is the one that belongs to the UUID in the path.
    let vendor = Vendor::start(move |received, out| {
        let id = received.target().rsplit('/').next().unwrap_or_default();
        let wanted = there.lock().unwrap().get(id).map(|credential| format!("Bearer {credential}"));
        let right = wanted.is_some() && received.header("authorization") == wanted.as_deref();
        answer(out, if right { 200 } else { 418 }, &[], b"");
    });
    let mut primary = Server::start();
    let mut standby = primary.standby();
    primary.set("synchronous_standby_names", "*");
    let database = primary.database();
    let files = TempDir::new().unwrap();
    let stages = replicas(plan, &vendor, &files, &[&primary, &standby], &database.name);
    let token = stages[0].token("acme");
    let warm: Vec<String> = (0..WARM).map(|_| New::of().add(&stages[0], &known).expect("a write")).collect();

    let (mut lost, mut back, again) = (0, Vec::new(), AtomicU64::new(0));
    let failed = Arc::new(AtomicU64::new(0));
    let served = Arc::new(AtomicU64::new(0));
    for round in 0..rounds {
        let over = AtomicBool::new(false);
        let took = std::thread::scope(|scope| {
            for stage in &stages {
                let (warm, over, token) = (&warm, &over, &token);
                let (failed, served) = (failed.clone(), served.clone());
                scope.spawn(move || ask_without_end(stage, warm, token, over, (&failed, &served)));
            }
            for first in 0..stages.len() {
                let (stages, known, over, again) = (&stages, &known, &over, &again);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        write_until_acknowledged(stages, first, known, again);
                    }
                });
            }
            std::thread::sleep(CALM);
            primary.kill();
            std::thread::sleep(Duration::from_millis(300));
            standby.promote();
            standby.set("synchronous_standby_names", "");
            let promoted = Instant::now();
            let took = write_again(&stages, &known, promoted);
            std::thread::sleep(CALM);
            over.store(true, Ordering::Relaxed);
            took
        });
        std::mem::swap(&mut primary, &mut standby);
        standby.become_standby_of(&primary);
        primary.set("synchronous_standby_names", "*");
        lost += stages.iter().map(|stage| unopened(stage, &known, &token)).sum::<usize>();
        back.push(took);
        plan.say(&format!(
            "round {round}: {} acknowledged, {lost} lost, back after {took:?}",
            known.lock().unwrap().len()
        ));
    }
    let acknowledged = known.lock().unwrap().len();
    let owner = primary.named(&database.name);
    let rows = || owner.sql_as(OWNER, "SELECT count(*) FROM relay.secrets").parse::<usize>().unwrap();
    let there = rows();
    let new = New::of();
    let both = [new.add(&stages[0], &known), new.without_key().add(&stages[1], &Known::default())];
    let counts = both.iter().all(Option::is_some)
        && rows().checked_sub(known.lock().unwrap().len()) == there.checked_sub(acknowledged).map(|n| n + 1);
    let slowest = back.iter().copied().max().unwrap_or(Duration::MAX);
    let (failed, again) = (failed.load(Ordering::Relaxed), again.into_inner());
    let result = format!(
        "acknowledged={acknowledged} tried_again={again} rows={there} lost={lost} twice={} twice_is_seen={} warm={} warm_errors={failed} writes_back_s={:.1}",
        there.saturating_sub(acknowledged),
        if counts { "yes" } else { "no" },
        served.load(Ordering::Relaxed),
        slowest.as_secs_f64()
    );
    let once = there == acknowledged && counts && again > 0;
    let kept = lost == 0 && once && failed == 0 && slowest <= WRITES_BACK;
    Figure { n: rounds, result, kept }
}

fn replicas(
    plan: &Plan,
    vendor: &Vendor,
    files: &TempDir,
    servers: &[&Server],
    database: &str,
) -> Vec<Stage> {
    let ca = files.path().join("vendor.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let roots: PathBuf = files.path().join("postgres.pem");
    let authorities: Vec<&str> = servers.iter().map(|server| server.ca_pem()).collect();
    std::fs::write(&roots, authorities.join("\n")).unwrap();
    let hosts: Vec<String> = servers.iter().map(|server| format!("localhost:{}", server.port())).collect();
    let url = format!("postgres://{SERVING}@{}/{database}", hosts.join(","));
    let upstream = format!("https://localhost:{}", vendor.port);
    let mut stages: Vec<Stage> = Vec::new();
    for _ in 0..2 {
        let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &upstream, &ca));
        let text = std::fs::read_to_string(stage.config()).unwrap();
        let (before, store) = text.split_once("[store]\n").expect("a section of the store");
        let (_, after) = store.split_once("\n[").expect("a section behind it");
        let store = format!(
            "engine = \"postgres\"\nurl = \"{url}\"\npassword = \"env:STORE_PASSWORD\"\nca_file = \"{}\"\n",
            roots.display()
        );
        std::fs::write(stage.config(), format!("{before}[store]\n{store}\n[{after}")).unwrap();
        stage.environment.push(("STORE_PASSWORD".to_owned(), PASSWORD.to_owned()));
        if let Some(first) = stages.first() {
            // One deployment: the same keys, the same issuer, the same operators.
            for file in ["relay.key", "admin.token", "jwks.json", "issuer.key"] {
                std::fs::copy(first.folder.path().join(file), stage.folder.path().join(file)).unwrap();
            }
            // Its audit is its own, and new.
            stage.first_words.push("--accept-older-store".to_owned());
        }
        stage.start();
        stages.push(stage);
    }
    stages
}

/// A secret to be written.
struct New {
    key: Option<String>,
    credential: String,
}

impl New {
    fn of() -> Self {
        let unique = || uuid::Uuid::new_v4().simple();
        Self { key: Some(unique().to_string()), credential: format!("sk-{}", unique()) }
    }

    /// The same once more, by somebody who does not say that it is the same.
    fn without_key(&self) -> Self {
        Self { key: None, credential: self.credential.clone() }
    }

    /// Adds it; its UUID if that was acknowledged.
    fn add(&self, stage: &Stage, known: &Known) -> Option<String> {
        let body =
            json!({ "customer": "acme", "integration": "vendor", "fields": { "token": self.credential } });
        let mut client = Client::connect(stage.admin, Arc::default());
        let bearer = format!("Bearer {}", stage.admin_token());
        let mut fields = vec![("authorization", bearer.as_str())];
        fields.extend(self.key.iter().map(|key| ("idempotency-key", key.as_str())));
        let answer = client.request("POST", "/v1/secrets", &fields, body.to_string().as_bytes());
        if answer.status != 201 || answer.cut {
            return None;
        }
        let id = answer.json()["id"].as_str()?.to_owned();
        known.lock().unwrap().insert(id.clone(), self.credential.clone());
        Some(id)
    }
}

/// Tries one relay after the other, until one says that it is stored.
fn write_until_acknowledged(stages: &[Stage], first: usize, known: &Known, again: &AtomicU64) {
    let (new, begun) = (New::of(), Instant::now());
    for stage in stages.iter().cycle().skip(first) {
        if new.add(stage, known).is_some() {
            return;
        }
        assert!(begun.elapsed() < GIVEN_UP, "a write is not acknowledged");
        again.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How long after the promotion a write was acknowledged on every relay.
fn write_again(stages: &[Stage], known: &Known, promoted: Instant) -> Duration {
    for stage in stages {
        let new = New::of();
        while new.add(stage, known).is_none() && promoted.elapsed() < GIVEN_UP {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    promoted.elapsed()
}

fn ask_without_end(
    stage: &Stage,
    warm: &[String],
    token: &str,
    over: &AtomicBool,
    (failed, served): (&AtomicU64, &AtomicU64),
) {
    let bearer = format!("Bearer {token}");
    let mut app = stage.client();
    while !over.load(Ordering::Relaxed) {
        for id in warm {
            let path = format!("/vendor/warm/{id}");
            let answer = app.request("GET", &path, &[("authorization", &bearer), ("relay-secret", id)], b"");
            if answer.status == 200 {
                served.fetch_add(1, Ordering::Relaxed);
            } else {
                eprintln!("warm {id}: {} {}", answer.status, answer.text());
                failed.fetch_add(1, Ordering::Relaxed);
                app = stage.client();
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
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
