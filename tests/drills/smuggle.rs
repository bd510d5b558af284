//! What relay sends is as many requests as it says, to every reader; and no customer sees another's bytes.
//!
//! The corpus of malformed and ambiguous requests, then mutations of it, the same for the same number, go to
//! relay by raw sockets with a good token and a good secret. A vendor keeps every byte. What it kept is counted
//! by relay's audit and metrics, and by nginx, HAProxy and Python. Then two customers share a vendor that takes
//! bodies for requests.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::corpus::{Caller, Outcome, Row, rows};
use crate::figure::{Figure, Plan};
use crate::recorder::{Recorder, careless};
use crate::replay::{Readers, statuses};
use crate::rig::client::Client;
use crate::sample::Noise;
use crate::stage::Stage;

const THREADS: u64 = 16;
/// An app gives up on a request that it has not ended when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(300);
/// Bytes that mean something to one reader or another.
const ODD: &[u8] = b"\r\n\t :;,#\0\x0b\x7f\x80\xff05axXGHT/?\"%-+";

pub fn run(plan: &Plan) -> Figure {
    let n = plan.size(800, 21_000);
    let recorder = Recorder::start();
    let integrations = format!("{}{}", plain("vendor", recorder.address), plain("careless", careless()));
    let mut stage = Stage::set(&plan.relay, "", &integrations);
    stage.start();
    let secret = stage.secret("acme", "vendor", "sk-drill-0123456789abcdef0123456789");
    let caller = Caller { path: format!("/vendor/{secret}"), token: stage.token("acme") };
    let corpus = rows(&caller);
    let app = App { address: stage.app, odd: AtomicU64::new(0) };

    plan.say("the corpus");
    let wrong = app.corpus(&corpus);
    let smuggled = recorder.holds(b"/smuggled");
    plan.say("mutations");
    app.mutations(&corpus, caller.token.as_bytes(), n.saturating_sub(corpus.len() as u64));
    let recorded = recorder.requests();
    let said = said(&stage, recorded);

    plan.say("replaying");
    let readers = Readers::start();
    let (mut disagreed, mut unwanted) = (0, 0);
    for connection in recorder.take() {
        for (name, found) in readers.read(&connection) {
            unwanted += found.unwanted;
            if found.requests != connection.len() as u64 {
                disagreed += 1;
                let sent = connection.concat().escape_ascii().to_string();
                eprintln!("{name} finds {found:?} of {}: {sent:.2000}", connection.len());
            }
        }
    }
    plan.say("two customers");
    let (answered, leaks, own) = two_customers(&stage, plan.size(200, 5_000));
    let odd = app.odd.load(Ordering::Relaxed);
    let agreed =
        recorded == said.metrics && said.answered <= recorded && recorded <= said.answered + said.gone;
    let result = format!(
        "corpus={} wrong={wrong} smuggled={} recorded={recorded} audit={} gone={} metrics={} not_relays={odd} \
         readers_disagree={disagreed} unwanted={unwanted} two_customers={answered} leaks={leaks} own_mixed_up={own}",
        corpus.len(),
        u64::from(smuggled),
        said.answered,
        said.gone,
        said.metrics,
    );
    let kept = wrong + odd + disagreed + leaks == 0 && !smuggled && agreed && recorded > 0 && answered > 0;
    Figure { n, result, kept }
}

fn plain(name: &str, vendor: SocketAddr) -> String {
    format!(
        "[integrations.{name}]\nupstream = \"http://{vendor}\"\nplaintext_danger = true\n\
         private_cidrs = [\"127.0.0.0/8\"]\n\
         inject = [{{ header = \"authorization\", value = \"Bearer {{token}}\" }}]\n\n"
    )
}

struct App {
    address: SocketAddr,
    /// Answers other than 200 that relay did not author.
    odd: AtomicU64,
}

impl App {
    /// How many rows had another end than they must.
    fn corpus(&self, corpus: &[Row]) -> u64 {
        let wrong = AtomicU64::new(0);
        in_threads(corpus.len() as u64, |at| {
            let row = &corpus[at as usize];
            let answers = self.ask(&row.bytes);
            let got: Vec<u16> = statuses(&answers).into_iter().map(|(_, status)| status).collect();
            let expected: Vec<u16> = row.expected.iter().map(status).collect();
            if got != expected {
                wrong.fetch_add(1, Ordering::Relaxed);
                eprintln!("{}: {got:?}, not {expected:?}", row.mistake);
            }
        });
        wrong.into_inner()
    }

    fn mutations(&self, corpus: &[Row], token: &[u8], n: u64) {
        in_threads(n, |at| {
            let mut random = Noise::of(at * 2 + 1);
            // The first numbers of seeds that are close are close.
            for _ in 0..8 {
                random.next();
            }
            self.ask(&mutated(corpus, token, &mut random));
        });
    }

    /// Sends bytes as they are; what came back until the connection ended or was quiet.
    fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(QUIET)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        // What relay no longer takes is not this side's failure.
        let _ = stream.write_all(bytes);
        let mut answers = Vec::new();
        let mut piece = [0; 16 * 1024];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => answers.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        for (at, status) in statuses(&answers) {
            let head = &answers[at..];
            let head = &head[..memchr::memmem::find(head, b"\r\n\r\n").unwrap_or(head.len())];
            if status != 200 && memchr::memmem::find(head, b"\r\nrelay-error: ").is_none() {
                self.odd.fetch_add(1, Ordering::Relaxed);
                eprintln!(
                    "not relay's: {} for {:.1000}",
                    head.escape_ascii(),
                    bytes.escape_ascii().to_string()
                );
            }
        }
        answers
    }
}

fn status(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Passed(..) => 200,
        Outcome::Refused("head_too_large") => 431,
        Outcome::Refused(_) => 400,
    }
}

/// One of the corpus with one or two bytes or pieces changed, beside the token: without that a request gets
/// nowhere.
fn mutated(corpus: &[Row], token: &[u8], random: &mut Noise) -> Vec<u8> {
    let below = |random: &mut Noise, most: usize| (random.next() % most.max(1) as u64) as usize;
    // As often one that passes, so that many mutations do.
    let passing = random.next().is_multiple_of(2);
    let mut bytes = loop {
        let row = &corpus[below(random, corpus.len())];
        let passes = row.expected.iter().all(|outcome| matches!(outcome, Outcome::Passed(..)));
        if row.bytes.len() < 8 * 1024 && (passes || !passing) {
            break row.bytes.clone();
        }
    };
    for _ in 0..=below(random, 2) {
        let tokens: Vec<usize> = memchr::memmem::find_iter(&bytes, token).collect();
        let at = loop {
            let at = below(random, bytes.len());
            if !tokens.iter().any(|from| (*from..*from + token.len()).contains(&at)) {
                break at;
            }
        };
        let odd = ODD[below(random, ODD.len())];
        let end = (at + 1 + below(random, 12)).min(bytes.len());
        match below(random, 6) {
            0 => bytes.insert(at, odd),
            1 => bytes[at] = odd,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = below(random, bytes.len());
                drop(bytes.splice(to..to, piece));
            }
            4 => {
                let other = &corpus[below(random, corpus.len())].bytes;
                let from = below(random, other.len());
                let piece = &other[from..(from + 60).min(other.len())];
                drop(bytes.splice(at..end, piece.iter().copied()));
            }
            _ => bytes[at] ^= 1 << below(random, 8),
        }
        if bytes.is_empty() {
            bytes.push(odd);
        }
    }
    bytes
}

fn in_threads(n: u64, each: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= n {
                        return;
                    }
                    each(at);
                }
            });
        }
    });
}

/// How many requests relay says that it sent to the vendor.
struct Said {
    /// Outcomes with the vendor's status.
    answered: u64,
    /// Outcomes of requests whose app went away before.
    gone: u64,
    metrics: u64,
}

/// Waits a moment for records that are still on their way.
fn said(stage: &Stage, recorded: u64) -> Said {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(stage.audit()).unwrap();
        let outcomes = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|record| record["kind"] == "outcome" && record["integration"] == "vendor");
        let (mut answered, mut gone) = (0, 0);
        for outcome in outcomes {
            answered += u64::from(outcome["status"] == 200);
            gone += u64::from(outcome.get("status").is_none());
        }
        let mut client = Client::connect(stage.admin, stage.shown.clone());
        let metrics = client.request("GET", "/metrics", &[], b"").text();
        let metrics = metrics
            .lines()
            .filter(|line| line.starts_with("relay_requests_total{integration=\"vendor\""))
            .filter(|line| line.contains("code_class=\"2xx\""))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        if (answered == recorded && metrics == recorded) || begun.elapsed() > Duration::from_secs(5) {
            return Said { answered, gone, metrics };
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// acme's bodies are requests to the vendor that takes them for such; how many answers came to either, and
/// how many held what is not the asker's own.
fn two_customers(stage: &Stage, rounds: u64) -> (u64, u64, u64) {
    let (answered, leaks, own) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let callers = ["acme", "globex"].map(|customer| {
        let secret = stage.secret(customer, "careless", "sk-drill-0123456789abcdef0123456789");
        (customer, secret, stage.token(customer))
    });
    std::thread::scope(|scope| {
        for (customer, secret, token) in &callers {
            let (answered, leaks, own) = (&answered, &leaks, &own);
            scope.spawn(move || {
                for round in 0..rounds {
                    let mark = format!("{customer}-{round}");
                    let stolen =
                        format!("GET /stolen HTTP/1.1\r\nhost: v\r\nx-mark: {customer}-stolen\r\n\r\n");
                    let bearer = format!("Bearer {token}");
                    let headers = [("authorization", bearer.as_str()), ("x-mark", mark.as_str())];
                    // globex sends bodies of the same kind every third time.
                    let with_body = *customer == "acme" || round % 3 == 0;
                    let (method, body) = if with_body { ("POST", stolen.as_str()) } else { ("GET", "") };
                    let path = format!("/careless/{secret}/x");
                    let answer = stage.client().request(method, &path, &headers, body.as_bytes());
                    // A visible failure is an answer of relay's own, or one that is cut.
                    let other = if *customer == "acme" { "globex-" } else { "acme-" };
                    let leaked = answer.text().contains(other);
                    leaks.fetch_add(u64::from(leaked), Ordering::Relaxed);
                    if answer.status == 200 && !answer.cut {
                        answered.fetch_add(1, Ordering::Relaxed);
                        // The vendor's second answer, to what was this customer's own body: it came between relay's
                        // look at the connection and its next request, and nothing tells it from an answer to that.
                        own.fetch_add(u64::from(!leaked && answer.text() != mark), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    (answered.into_inner(), leaks.into_inner(), own.into_inner())
}
