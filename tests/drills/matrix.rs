//! Every spelling of a credential, in every content coding, cut at every place by the vendor's writes: none
//! reaches the app, over HTTP/1.1 and over HTTP/2.
//!
//! The vendor echoes what it was given; each answer is one spelling in one coding, written in two parts with
//! the second behind a pause at a place of its own. The client unpacks with decoders of its own and hunts
//! every spelling in what it got, however the answer ended. Between them stand near misses, which must pass
//! byte for byte. The control is the same through a relay built with scrubbing off, where every single
//! answer must leak. A last figure is what scrubbing costs: 10 MiB of JSON through it in this process.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use relay::config::OnReflect;

use relay::stage::scrub::forms::Forms;
use relay::stage::scrub::passage::{Passage, Reflected};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::figure::{Figure, Plan};
use crate::rig::canary::Canary;
use crate::rig::client::{Answer, Client};
use crate::rig::packing::{ALL, Packing};
use crate::rig::spellings::{Spelling, hunt, spellings};
use crate::rig::vendor::{Out, Received, Vendor, raw};
use crate::stage::{Stage, integration};

const AT_ONCE: u64 = 4;
const CONTROL: u64 = 300;
/// One answer in so many is a near miss.
const NEAR: u64 = 10;
const BEFORE: &[u8] = b"{\"ok\":true,\"given\":\"";
const BEHIND: &[u8] = b"\",\"n\":[1,2,3]}";

/// How the app speaks to relay.
#[derive(Clone, Copy)]
enum Speech {
    Http1,
    Http2,
}

const SPEECHES: [Speech; 2] = [Speech::Http1, Speech::Http2];

pub fn run(plan: &Plan) -> Figure {
    let leaky = plan.leaky.as_ref().expect("--leaky FILE: the relay that must leak in every answer");
    let n = plan.size(400, 24_000);
    plan.say("the control");
    let mut control = Seen::default();
    for speech in SPEECHES {
        control.add(played(leaky, speech, CONTROL / 2));
    }
    let mut seen = Seen::default();
    for speech in SPEECHES {
        plan.say("the real one");
        let played = played(&plan.relay, speech, n / SPEECHES.len() as u64);
        played.found.iter().for_each(|found| eprintln!("leaked: {found}"));
        seen.add(played);
    }
    let speed = mebibytes_per_second();
    let result = format!(
        "leaks={} near_misses_changed={} unmarked={} leaks_of_control={}/{} scrub_mib_s={speed:.0}",
        seen.leaks,
        seen.changed,
        seen.unmarked,
        control.leaks,
        control.answers - control.near,
    );
    let kept = seen.leaks == 0
        && seen.changed == 0
        && seen.unmarked == 0
        && seen.answers == n / SPEECHES.len() as u64 * SPEECHES.len() as u64
        && control.leaks == control.answers - control.near;
    Figure { n: seen.answers, result, kept }
}

/// What the app saw.
#[derive(Default)]
struct Seen {
    answers: u64,
    near: u64,
    leaks: u64,
    /// Near misses that did not come byte for byte.
    changed: u64,
    /// Answers without the credential and without a sign that it was there: no marker, and a clean end.
    unmarked: u64,
    /// What leaked.
    found: Vec<String>,
}

impl Seen {
    fn add(&mut self, more: Self) {
        self.answers += more.answers;
        self.near += more.near;
        self.leaks += more.leaks;
        self.changed += more.changed;
        self.unmarked += more.unmarked;
        self.found.extend(more.found);
    }
}

/// What the `number`th answer is: a spelling, a coding, where the vendor's write is cut, in thousandths.
struct Cell {
    spelling: usize,
    packing: Packing,
    cut: u64,
    near: bool,
}

impl Cell {
    fn of(number: u64, spellings: u64) -> Self {
        let packings = ALL.len() as u64;
        Self {
            spelling: (number % spellings) as usize,
            packing: ALL[(number / spellings % packings) as usize],
            // 619 has no factor in common with 1000, so every place has its turn.
            cut: number / (spellings * packings) * 619 % 1000 + number * 7 % 31,
            near: number % NEAR == NEAR - 1,
        }
    }

    fn body(&self, credential: &str) -> (Vec<u8>, Spelling) {
        let near = format!("{}#", &credential[..credential.len() - 1]);
        let mut all = spellings(if self.near { &near } else { credential });
        let spelling = all.swap_remove(self.spelling);
        (self.packing.whole(&[BEFORE, &spelling.text, BEHIND].concat()), spelling)
    }
}

fn played(binary: &Path, speech: Speech, n: u64) -> Seen {
    let canary = Canary::fresh();
    let vendor = Vendor::start(echo);
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let mut stage = Stage::set(binary, "", &integration("vendor", &upstream, &ca));
    stage.start();
    let secret = stage.secret("acme", "vendor", canary.text());
    let token = format!("Bearer {}", stage.token("acme"));
    let all = spellings(canary.text());
    let next = AtomicU64::new(0);
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (stage, secret, token, all, next, canary) =
                    (&stage, &secret, &token, &all, &next, &canary);
                scope.spawn(move || {
                    let mut seen = Seen::default();
                    let mut app = App::new(stage, speech);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= n {
                            return seen;
                        }
                        let path = format!("/vendor/{secret}/{number}");
                        let answer = app.request(&path, token);
                        seen.add(judged(&answer, number, all, canary.text()));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| seen.add(thread.join().unwrap()));
    });
    stage.stop();
    seen
}

/// An app on a connection of its own, which is made anew when relay has cut it.
struct App<'s> {
    stage: &'s Stage,
    link: Link,
}

enum Link {
    Http1(Client),
    Http2(Runtime, SendRequest<Empty<Bytes>>),
}

impl<'s> App<'s> {
    fn new(stage: &'s Stage, speech: Speech) -> Self {
        let link = match speech {
            Speech::Http1 => Link::Http1(stage.client()),
            Speech::Http2 => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let sender = runtime.block_on(async {
                    let stream = TokioIo::new(TcpStream::connect(stage.app).await.unwrap());
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                    tokio::spawn(connection);
                    sender
                });
                Link::Http2(runtime, sender)
            }
        };
        Self { stage, link }
    }

    fn request(&mut self, path: &str, token: &str) -> Answer {
        let headers = [("authorization", token), ("accept-encoding", "gzip, deflate, br, zstd")];
        match &mut self.link {
            Link::Http1(client) => {
                let answer = client.request("GET", path, &headers, b"");
                if answer.cut || answer.status == 0 {
                    self.link = Link::Http1(self.stage.client());
                }
                answer
            }
            // A cut is a stream's, not the connection's.
            Link::Http2(runtime, sender) => {
                let answer = runtime.block_on(over_http2(sender, path, &headers));
                if sender.is_closed() {
                    *self = Self::new(self.stage, Speech::Http2);
                }
                answer
            }
        }
    }
}

async fn over_http2(sender: &mut SendRequest<Empty<Bytes>>, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(format!("http://relay.test{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = Answer { status: 0, headers: Vec::new(), body: Vec::new(), cut: false };
    let Ok(response) = sender.send_request(request.body(Empty::new()).unwrap()).await else {
        answer.cut = true;
        return answer;
    };
    answer.status = response.status().as_u16();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => answer.body.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            // Asked again, it would say the same for ever.
            Err(_) => {
                answer.cut = true;
                break;
            }
        }
    }
    answer
}

fn judged(answer: &Answer, number: u64, all: &[Spelling], credential: &str) -> Seen {
    let cell = Cell::of(number, all.len() as u64);
    let text = cell.packing.unpack(&answer.body);
    let found = hunt(all, &text);
    let leaked = !found.is_empty();
    let whole = !answer.cut && answer.status == 200;
    let found = found.iter().map(|name| format!("{name} in {:?}, answer {number}", cell.packing)).collect();
    let mut seen =
        Seen { found, answers: 1, near: u64::from(cell.near), leaks: u64::from(leaked), ..Seen::default() };
    if cell.near {
        seen.changed = u64::from(!whole || answer.body != cell.body(credential).0);
    } else if !leaked && whole {
        seen.unmarked = u64::from(memchr::memmem::find(&text, b"[redacted by relay]").is_none());
    }
    seen
}

/// A vendor that writes what it was given as the path says.
fn echo(received: &Received, out: &mut Out<'_>) {
    let given = received.header("authorization").unwrap_or_default().to_owned();
    let credential = given.strip_prefix("Bearer ").unwrap_or_default();
    let number: u64 = received.target().trim_start_matches('/').parse().unwrap();
    let cell = Cell::of(number, spellings(credential).len() as u64);
    let (body, spelling) = cell.body(credential);
    let at = (cell.cut as usize * body.len() / 1000).min(body.len());
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncontent-encoding: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        spelling.content_type,
        cell.packing.name()
    );
    raw(out, head.as_bytes());
    let (front, back) = body.split_at(at);
    chunk(out, front);
    // So that the two parts do not come as one.
    std::thread::sleep(Duration::from_micros(300));
    chunk(out, back);
    raw(out, b"0\r\n\r\n");
}

fn chunk(out: &mut Out<'_>, piece: &[u8]) {
    if !piece.is_empty() {
        raw(out, &[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
}

/// 10 MiB of JSON as vendors send it, in pieces of 16 KiB; the best of five.
fn mebibytes_per_second() -> f64 {
    let mut text = String::new();
    for number in 0.. {
        text.push_str(&format!(
            "{{\"id\":{number},\"node_id\":\"MDU6SXNzdWU{number}\",\"url\":\"https://api.vendor.example/repos/octo/hello/issues/{number}?page=2&per_page=100\",\
            \"title\":\"Found a bug, number {number}\",\"body\":\"It \\\"breaks\\\" when\\nI do this.\",\"labels\":[\"bug\",\"help\"],\"closed_at\":null}},\n"
        ));
        if text.len() >= 10 << 20 {
            break;
        }
    }
    let text = Bytes::from(text);
    let once = || {
        let canary = Canary::fresh();
        let forms = Forms::of([canary.text().as_bytes()], []);
        let mut passage = Passage::new(forms, OnReflect::Redact, Reflected::default());
        let begun = Instant::now();
        let mut passed = 0;
        for at in (0..text.len()).step_by(16 * 1024) {
            let piece = text.slice(at..text.len().min(at + 16 * 1024));
            passed += passage.pass(piece, false).unwrap().len();
        }
        passed += passage.pass(Bytes::new(), true).unwrap().len();
        assert_eq!(passed, text.len());
        begun.elapsed()
    };
    let best = (0..5).map(|_| once()).min().unwrap();
    text.len() as f64 / f64::from(1 << 20) / best.as_secs_f64()
}
