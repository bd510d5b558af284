//! A relay whose store and audit stand where a drill wants them, before a vendor that counts; customers whose secrets
//! are at hand, and others of whom nothing is; and what is asked of it while something is wrong.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::figure::Plan;
use crate::paced::{Load, Paced};
use crate::rig::client::{Answer, Client};
use crate::rig::vendor::{Vendor, answer};
use crate::stage::{Stage, integration};

/// Requests a second for secrets at hand.
const PER_SECOND: u64 = 100;
/// How long they go on at least.
const LOAD: Duration = Duration::from_secs(2);
const CREDENTIAL: &str = "sk-drill-0123456789abcdef0123456789";
/// How soon after its cause a fault must be over.
const HEALED: Duration = Duration::from_secs(5);

pub struct Fault {
    pub stage: Stage,
    vendor: Vendor,
    admin_token: String,
    warm: (String, String),
    cold: Vec<(String, String)>,
    asked_cold: usize,
    /// Every secret that relay said it had stored, and has not said that it deleted.
    stored: HashSet<String>,
    _folder: TempDir,
}

impl Fault {
    /// With as many customers of whom nothing is at hand as are asked for, until all were asked for once.
    pub fn set(plan: &Plan, data: &Path, audit: &Path, cold: u64, environment: &[(String, String)]) -> Self {
        let vendor = Vendor::start(|_, out| answer(out, 200, &[], b"ok"));
        let folder = TempDir::new().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, &vendor.ca_pem).unwrap();
        let upstream = format!("https://localhost:{}", vendor.port);
        let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &upstream, &ca));
        for (written, place) in
            [("\"relay.db\"", data.join("relay.db")), ("\"audit.jsonl\"", audit.join("audit.jsonl"))]
        {
            stage.rewrite(written, &format!("\"{}\"", place.display()));
        }
        stage.environment = environment.to_vec();
        stage.start();
        let admin_token = stage.admin_token();
        let warm = (String::new(), stage.token("warm"));
        let tokens = (0..cold).map(|number| (String::new(), stage.token(&format!("cold-{number}"))));
        let cold = tokens.collect();
        let stored = HashSet::new();
        let mut fault =
            Self { stage, vendor, admin_token, warm, cold, asked_cold: 0, stored, _folder: folder };
        fault.warm.0 = fault.added("warm");
        for number in 0..fault.cold.len() {
            fault.cold[number].0 = fault.added(&format!("cold-{number}"));
        }
        // Nothing is at hand after a restart.
        fault.stage.stop();
        fault.stage.start();
        fault
    }

    /// The load of secrets at hand, while `work` goes on.
    pub fn under_load<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> (Paced, T) {
        let token = self.warm.1.clone();
        self.under_load_of(&token, work)
    }

    /// The same with another token of that customer's.
    pub fn under_load_of<T>(&mut self, token: &str, work: impl FnOnce(&mut Self) -> T) -> (Paced, T) {
        assert_eq!(self.use_with(token).status, 200, "it does not work before anything goes wrong");
        let requests = vec![request(&(self.warm.0.clone(), token.to_owned()))];
        let load = Load { address: self.stage.app, requests, per_second: PER_SECOND };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let loading = scope.spawn(|| load.run(LOAD, &over));
            let done = work(self);
            over.store(true, Ordering::Relaxed);
            let paced = loading.join().unwrap();
            paced.heads.iter().for_each(|head| eprintln!("not answered: {head}"));
            (paced, done)
        })
    }

    pub fn use_warm(&self) -> Answer {
        self.used(&self.warm)
    }

    /// The secret at hand, with another token of its customer's.
    pub fn use_with(&self, token: &str) -> Answer {
        self.used(&(self.warm.0.clone(), token.to_owned()))
    }

    /// Each time another customer's.
    pub fn use_cold(&mut self) -> Answer {
        let cold = &self.cold[self.asked_cold];
        self.asked_cold += 1;
        self.used(cold)
    }

    pub fn add(&mut self) -> Answer {
        self.add_for("warm")
    }

    pub fn remove(&mut self) -> Answer {
        let id =
            self.stored.iter().find(|id| **id != self.warm.0 && !self.cold.iter().any(|cold| cold.0 == **id));
        let id = id.expect("a secret to spare").clone();
        let answer = self.stage.call("DELETE", &format!("/v1/secrets/{id}"), &self.admin_token, "");
        if answer.status < 300 {
            self.stored.remove(&id);
        }
        answer
    }

    /// Whether `/readyz` says 200, and the state that it says `dependency` is in.
    pub fn health(&self, dependency: &str) -> (bool, String) {
        let answer = self.stage.call("GET", "/readyz", &self.admin_token, "");
        let said = answer.json();
        let checks = said["checks"].as_array().unwrap();
        let state = checks.iter().find(|check| check["name"] == dependency).unwrap();
        (answer.status == 200, state["state"].as_str().unwrap().to_owned())
    }

    /// Seconds until it is so; `None` if it is not within five.
    pub fn until(&mut self, mut so: impl FnMut(&mut Self) -> bool) -> Option<f64> {
        let begun = Instant::now();
        while begun.elapsed() < HEALED {
            if so(self) {
                return Some(begun.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// How many secrets that were acknowledged do not open.
    pub fn lost(&self) -> usize {
        let mut lost = 0;
        for id in &self.stored {
            let cold = self.cold.iter().find(|cold| cold.0 == *id);
            let token = cold.map_or(&self.warm.1, |cold| &cold.1);
            let answer = self.used(&(id.clone(), token.clone()));
            if answer.status != 200 {
                eprintln!("{id}: {} {}", answer.status, answer.text());
                lost += 1;
            }
        }
        lost
    }

    /// Requests that the vendor got.
    pub fn sends(&self) -> usize {
        self.vendor.received.lock().unwrap().len()
    }

    /// Intents in the audit, and whether `relay audit verify` is content.
    pub fn audit(&self, audit: &Path) -> (usize, bool) {
        let text = std::fs::read_to_string(audit.join("audit.jsonl")).unwrap();
        let intents = text.lines().filter(|line| line.contains("\"kind\":\"intent\"")).count();
        let verdict = self.stage.command(&["audit", "verify"], "");
        if !verdict.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&verdict.stdout));
        }
        (intents, verdict.status.success())
    }

    fn used(&self, (id, token): &(String, String)) -> Answer {
        let mut client = self.stage.client();
        client.request(
            "GET",
            &format!("/vendor/{id}/x"),
            &[("authorization", &format!("Bearer {token}"))],
            b"",
        )
    }

    fn add_for(&mut self, customer: &str) -> Answer {
        let fields = json!({ "token": CREDENTIAL });
        let body = json!({ "customer": customer, "integration": "vendor", "fields": fields }).to_string();
        let mut client = Client::connect(self.stage.admin, self.stage.shown.clone());
        let bearer = format!("Bearer {}", self.admin_token);
        let answer = client.request("POST", "/v1/secrets", &[("authorization", &bearer)], body.as_bytes());
        if answer.status == 201 {
            self.stored.insert(answer.json()["id"].as_str().unwrap().to_owned());
        }
        answer
    }

    fn added(&mut self, customer: &str) -> String {
        let answer = self.add_for(customer);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }
}

/// An answer and how many milliseconds it took.
pub fn timed(ask: impl FnOnce() -> Answer) -> (Answer, f64) {
    let begun = Instant::now();
    let answer = ask();
    (answer, begun.elapsed().as_secs_f64() * 1000.0)
}

/// That it is a refusal with this code, which says when to come again.
pub fn refused(answer: &Answer, code: &str) -> bool {
    let so = (answer.status, answer.code()) == (503, code) && answer.header("retry-after").is_some();
    if !so {
        eprintln!("no {code}: {} {}", answer.status, answer.text());
    }
    so
}

pub fn shown(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.2}"))
}

fn request((id, token): &(String, String)) -> Vec<u8> {
    format!("GET /vendor/{id}/x HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {token}\r\n\r\n")
        .into_bytes()
}
