//! An app that guesses the next byte learns nothing from what comes back.
//!
//! The app sends a beginning of the credential and one more byte to a vendor that echoes as it reads,
//! pauses, and counts what came back; then it sends a delimiter and counts again. Right and wrong bytes
//! must give the same counts. The control is a scrubber that holds back only what may still become the
//! credential: the same program must find it out.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::figure::{Figure, Plan};
use crate::sample::Noise;
use crate::stage::{BuiltIn, Stage, integration};

const PAUSE: Duration = Duration::from_millis(60);
/// A difference must still be there with so much time, or it was the machine's.
const LONG_PAUSE: Duration = Duration::from_millis(300);
const AT_ONCE: usize = 8;
const ALPHABET: &[u8] = b"0123456789abcdef";
const WIDE: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// How many bytes were there after the first pause, and after the second.
type Counts = (usize, usize);

/// One question: these bytes end in a guess at what comes next.
struct Question {
    /// The beginning, and before it what is no part of the credential.
    known: Vec<u8>,
    /// The first is right.
    guesses: Vec<u8>,
}

pub fn run(plan: &Plan) -> Figure {
    let vendor = BuiltIn::start(&plan.relay);
    let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &vendor.origin, &vendor.ca));
    stage.start();
    // 48 bytes: its base64 has no odd end, and stands in forms of every alignment.
    let credential = format!("sk-live-{}00", &uuid::Uuid::new_v4().simple().to_string().repeat(2)[..38]);
    let secret = stage.secret("acme", "vendor", &credential);
    let app = App { address: stage.app, secret, token: stage.token("acme"), asked: AtomicU64::new(0) };
    let forms = [credential.clone().into_bytes(), STANDARD_NO_PAD.encode(&credential).into_bytes()];
    let questions: Vec<Question> = forms.iter().flat_map(|form| questions(plan, form)).collect();

    // Were nothing let go before the end, counts would be equal for another reason.
    let (short, long) = (app.echoed(b"w", LONG_PAUSE).0, app.echoed(&[b'w'; 2000], LONG_PAUSE).0);
    assert!(short > 0 && long >= short + 250, "the echo does not come back while the request lasts");
    plan.say("asking relay");
    let suspected = told_apart(&questions, AT_ONCE, &|text| app.echoed(text, PAUSE));
    let again: Vec<Question> = suspected.into_iter().map(|at| questions[at].again()).collect();
    let found = told_apart(&again, 1, &|text| app.echoed(text, LONG_PAUSE)).len();
    let naive = told_apart(&questions, 1, &|text| held_by_match(text, &forms)).len();
    let asked = app.asked.load(Ordering::Relaxed);
    let result = format!(
        "questions={} told_apart={found} asked_again={} naive_told_apart={naive}",
        questions.len(),
        again.len()
    );
    // Once the last byte is right the whole is found, and goes on marked: counts no longer matter there.
    let last = questions.iter().filter(|question| question.completes(&forms)).count();
    Figure { n: asked, result, kept: found == 0 && naive >= questions.len() - last }
}

impl Question {
    /// Whether the right guess is the credential's last byte.
    fn completes(&self, forms: &[Vec<u8>]) -> bool {
        let right = [self.known.as_slice(), &self.guesses[..1]].concat();
        forms.iter().any(|form| right.ends_with(form))
    }

    fn again(&self) -> Self {
        Self { known: self.known.clone(), guesses: self.guesses.clone() }
    }
}

/// Every beginning, alone and behind a long word.
fn questions(plan: &Plan, form: &[u8]) -> Vec<Question> {
    let lengths: Vec<usize> =
        if plan.full { (0..form.len()).collect() } else { vec![0, form.len() / 2, form.len() - 1] };
    let mut noise = Noise::of(form.len() as u64 * 7919);
    let mut all = Vec::new();
    for length in lengths {
        let right = form[length];
        let mut guesses = vec![right];
        if plan.full {
            while guesses.len() < 6 {
                let wrong = WIDE[noise.next() as usize % WIDE.len()];
                if !guesses.contains(&wrong) {
                    guesses.push(wrong);
                }
            }
        } else {
            guesses.extend(ALPHABET.iter().filter(|byte| **byte != right));
        }
        for before in [String::new(), "~".repeat(3) + &"w".repeat(1500)] {
            all.push(Question {
                known: [before.as_bytes(), &form[..length]].concat(),
                guesses: guesses.clone(),
            });
        }
    }
    all
}

/// The questions whose right guess gives other counts than the wrong ones do, or whose wrong ones differ.
fn told_apart(
    questions: &[Question],
    at_once: usize,
    counts: &(impl Fn(&[u8]) -> Counts + Sync),
) -> Vec<usize> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(question) = questions.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut seen: Vec<Counts> = Vec::new();
                    for guess in &question.guesses {
                        seen.push(counts(&[question.known.as_slice(), &[*guess]].concat()));
                    }
                    if seen.iter().any(|counts| *counts != seen[0]) {
                        let at = questions.iter().position(|other| std::ptr::eq(other, question)).unwrap();
                        found.lock().unwrap().push(at);
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort_unstable();
    found
}

struct App {
    address: SocketAddr,
    secret: String,
    token: String,
    asked: AtomicU64,
}

impl App {
    /// Sends `text`, pauses and counts; sends a delimiter, pauses and counts.
    fn echoed(&self, text: &[u8], pause: Duration) -> Counts {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!(
            "POST /vendor/{}/echo HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {}\r\n\
             content-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n",
            self.secret, self.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        send_chunk(&mut stream, text);
        let first = read_for(&mut stream, pause);
        send_chunk(&mut stream, b"\n");
        (first, first + read_for(&mut stream, pause))
    }
}

fn send_chunk(stream: &mut TcpStream, text: &[u8]) {
    let chunk = [format!("{:x}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
    stream.write_all(&chunk).unwrap();
}

/// How many bytes come within `pause`.
fn read_for(stream: &mut TcpStream, pause: Duration) -> usize {
    let (begun, mut count, mut piece) = (Instant::now(), 0, [0; 4096]);
    while let Some(left) = pause.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut piece) {
            Ok(0) => panic!("the answer ended"),
            Ok(n) => count += n,
            Err(_) => {}
        }
    }
    count
}

/// What a scrubber lets go that holds back only what may still become one of `forms`.
fn held_by_match(text: &[u8], forms: &[Vec<u8>]) -> Counts {
    let live = |form: &Vec<u8>| (1..form.len()).rev().find(|length| text.ends_with(&form[..*length]));
    let held = forms.iter().filter_map(live).max().unwrap_or(0);
    // The whole form is found and goes on marked.
    let held = if forms.iter().any(|form| text.ends_with(form)) { 0 } else { held };
    (text.len() - held, text.len() + 1)
}
