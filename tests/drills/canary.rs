//! Nothing that relay shows to anyone but the vendor holds the credential; the hunt would find it.
//!
//! A mix of everything that can happen to a request, with logs at TRACE. Then every byte that clients,
//! operators and the command line got, the logs, audit, metrics, store files, argv and environment are
//! searched for the credential in all its forms. The control is the same traffic through a relay built
//! with scrubbing off: there the hunt must find it.

use std::path::{Path, PathBuf};
use std::sync::Barrier;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::canary::Canary;
use crate::rig::client::Answer;
use crate::rig::vendor::{Out, Received, Vendor, answer, raw};
use crate::stage::{Stage, integration};

const AT_ONCE: u64 = 8;
const CONTROL: u64 = 48;

pub fn run(plan: &Plan) -> Figure {
    let n = plan.size(500, 10_000);
    let leaky = plan.leaky.as_ref().expect("--leaky FILE: the relay that the hunt must catch");
    plan.say("the control");
    let (_, caught) = hunted(leaky, CONTROL);
    plan.say("the real one");
    let (right, hits) = hunted(&plan.relay, n);
    for ((kind, status), _) in KINDS.iter().zip(right).filter(|(_, right)| !right) {
        eprintln!("{kind}: not always {status}");
    }
    let kinds = right.iter().filter(|right| **right).count();
    hits.iter().for_each(|hit| eprintln!("found: {hit}"));
    let result = format!(
        "hits={} kinds={kinds} control={}",
        hits.len(),
        if caught.is_empty() { "missed".to_owned() } else { format!("caught({})", caught.len()) }
    );
    Figure { n, result, kept: hits.is_empty() && !caught.is_empty() && kinds == KINDS.len() }
}

/// What a request can be; each is told by the answer that it must get.
const KINDS: [(&str, u16); 16] = [
    ("good", 200),
    ("the vendor echoes in a header", 200),
    ("the vendor echoes in a body", 200),
    ("the vendor echoes as base64, in pieces", 200),
    ("the vendor echoes in events", 200),
    ("the vendor fails and echoes", 500),
    ("the vendor redirects with it", 502),
    ("the vendor compresses unasked", 502),
    ("the vendor breaks off", 200),
    ("an upload that comes back", 200),
    ("another customer's token", 404),
    ("a broken token", 401),
    ("no token", 401),
    ("a path that climbs", 400),
    ("no such integration", 404),
    ("operators' calls, good and bad", 201),
];

/// Plays `n` requests against `binary`: which kinds always got the answer they must, and where the
/// credential was found.
fn hunted(binary: &Path, n: u64) -> ([bool; KINDS.len()], Vec<String>) {
    let canary = Canary::fresh();
    let vendor = Vendor::start(echo);
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let mut stage = Stage::set(binary, "", &integration("vendor", &upstream, &ca));
    "trace".clone_into(&mut stage.log_level);
    stage.start();
    let play = Play {
        secret: stage.secret("acme", "vendor", canary.text()),
        token: format!("Bearer {}", stage.token("acme")),
        other: format!("Bearer {}", stage.token("globex")),
        admin: stage.admin_token(),
        canary: &canary,
        stage: &stage,
    };
    let start = Barrier::new(AT_ONCE as usize);
    let right = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|thread| {
                let (play, start) = (&play, &start);
                scope.spawn(move || {
                    start.wait();
                    let turns = (thread..n).step_by(AT_ONCE as usize);
                    turns.fold(KINDS.map(|_| true), |mut right, turn| {
                        let kind = turn as usize % KINDS.len();
                        right[kind] &= play.turn(kind, turn);
                        right
                    })
                })
            })
            .collect();
        threads.into_iter().fold(KINDS.map(|_| true), |mut all, thread| {
            all.iter_mut().zip(thread.join().unwrap()).for_each(|(all, one)| *all &= one);
            all
        })
    });
    (right, hunt(stage, &canary))
}

/// Everywhere that the credential is found.
fn hunt(mut stage: Stage, canary: &Canary) -> Vec<String> {
    stage.call("GET", "/metrics", "", "");
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    for file in ["cmdline", "environ"] {
        // What the kernel shows to nobody holds nothing for anybody.
        places.push((file.to_owned(), stage.relay().proc(file).unwrap_or_default()));
    }
    stage.stop();
    let shown = std::mem::take(&mut *stage.shown.lock().unwrap());
    places.push(("what clients and operators got".to_owned(), shown));
    for file in files(stage.folder.path()) {
        places.push((file.file_name().unwrap().display().to_string(), std::fs::read(&file).unwrap()));
    }
    // The finest that relay itself says so far is DEBUG.
    let log = places.iter().find(|(name, _)| name == "relay.log").unwrap();
    assert!(memchr::memmem::find(&log.1, b"\"DEBUG\"").is_some(), "RELAY_LOG=trace changed nothing");
    places.iter().flat_map(|(name, bytes)| canary.hunt(name, bytes)).collect()
}

struct Play<'a> {
    stage: &'a Stage,
    canary: &'a Canary,
    secret: String,
    token: String,
    other: String,
    admin: String,
}

impl Play<'_> {
    /// One request of this kind; whether it got the answer it must.
    fn turn(&self, kind: usize, turn: u64) -> bool {
        let (name, status) = KINDS[kind];
        let through = |path: &str| format!("/vendor/{}/{path}", self.secret);
        let get = |path: &str, token: &str| self.request("GET", path, token, b"");
        let got = match name {
            "an upload that comes back" => {
                let body = vec![b'u'; 1 + turn as usize % 20_000];
                self.request("POST", &through("upload"), &self.token, &body)
            }
            "another customer's token" => get(&through("good"), &self.other),
            "a broken token" => get(&through("good"), &self.token[..self.token.len() - 5]),
            "no token" => get(&through("good"), ""),
            "a path that climbs" => get(&through("a/..%2f../b"), &self.token),
            "no such integration" => get(&format!("/nobody/{}/good", self.secret), &self.token),
            "operators' calls, good and bad" => self.operate(turn),
            _ => get(&through(&kind.to_string()), &self.token),
        };
        got.status == status
    }

    fn request(&self, method: &str, path: &str, token: &str, body: &[u8]) -> Answer {
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("authorization", token)] };
        self.stage.client().request(method, path, headers, body)
    }

    /// One good call, and around it those that must not repeat what they were given.
    fn operate(&self, turn: u64) -> Answer {
        let canary = self.canary.text();
        let call = |method: &str, path: &str, body: &str| self.stage.call(method, path, &self.admin, body);
        let add = |fields: serde_json::Value| {
            let body = json!({ "customer": "acme", "integration": "vendor", "fields": fields });
            call("POST", "/v1/secrets", &body.to_string())
        };
        let added = add(json!({ "token": canary }));
        let id = added.json()["id"].as_str().unwrap_or_default().to_owned();
        let bad = match turn / KINDS.len() as u64 % 8 {
            0 => add(json!({ "token": format!("{canary}\u{0}") })),
            1 => add(json!({ "token": format!("{canary}\r\nx: y") })),
            2 => add(json!(canary)),
            3 => add(json!({ "no_such_field": canary })),
            4 => call("POST", "/v1/secrets", &format!("{{\"fields\":{{\"token\":\"{canary}\"")),
            5 => call(
                "POST",
                &format!("/v1/secrets/{id}/versions"),
                &json!({ "fields": [canary] }).to_string(),
            ),
            6 => self.stage.call("GET", "/v1/secrets?customer=acme", canary, ""),
            _ => call("DELETE", &format!("/v1/secrets/{canary}"), ""),
        };
        assert!((400..500).contains(&bad.status), "a bad call was answered {}", bad.status);
        call("POST", &format!("/v1/secrets/{id}/disable"), "");
        call("GET", &format!("/v1/secrets/{id}"), "");
        call("DELETE", &format!("/v1/secrets/{id}"), "");
        added
    }
}

/// A vendor that gives back the credential in every way that relay promises to scrub.
fn echo(received: &Received, out: &mut Out<'_>) {
    let given = received.header("authorization").unwrap_or_default().to_owned();
    let credential = given.strip_prefix("Bearer ").unwrap_or_default();
    let kind = received.target().trim_start_matches('/').parse::<usize>().ok().map(|kind| KINDS[kind].0);
    match kind {
        Some("the vendor echoes in a header") => {
            let encoded = STANDARD.encode(&given);
            let link = format!("</next?key={credential}>; rel=\"next\"");
            let headers =
                [("x-given", given.as_str()), ("x-encoded", &encoded), ("link", &link), (credential, "1")];
            answer(out, 200, &headers, b"ok");
        }
        Some("the vendor echoes in a body") => answer(out, 200, &[], format!("you are {given}.").as_bytes()),
        Some("the vendor echoes as base64, in pieces") => {
            raw(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            for lead in ["", "a", "ab"] {
                let text = format!("{lead}{credential}");
                let text = format!("{} {}\n", STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text));
                text.as_bytes().chunks(7).for_each(|piece| chunk(out, piece));
            }
            raw(out, b"0\r\n\r\n");
        }
        Some("the vendor echoes in events") => {
            raw(
                out,
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
            );
            (0..5).for_each(|event| chunk(out, format!("id: {event}\ndata: {credential}\n\n").as_bytes()));
            raw(out, b"0\r\n\r\n");
        }
        Some("the vendor fails and echoes") => answer(out, 500, &[], given.as_bytes()),
        Some("the vendor redirects with it") => {
            let location = format!("/next?key={credential}");
            answer(
                out,
                302,
                &[("location", &location), ("link", &format!("<{location}>; rel=\"next\""))],
                b"",
            );
        }
        Some("the vendor compresses unasked") => {
            answer(out, 200, &[("content-encoding", "gzip")], given.as_bytes());
        }
        Some("the vendor breaks off") => {
            raw(out, b"HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n");
            raw(out, &given.as_bytes()[..given.len() - 3]);
            let _ = out.sock.shutdown(std::net::Shutdown::Both);
        }
        _ => answer(out, 200, &[], &received.body),
    }
}

fn chunk(out: &mut Out<'_>, piece: &[u8]) {
    raw(out, &[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
