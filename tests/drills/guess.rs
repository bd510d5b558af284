//! An app that guesses the next byte learns nothing from what comes back.
//!
//! The app has a vendor say a beginning of the credential and one more byte, pauses, and counts what came
//! back; then it has a delimiter said and counts again. Right and wrong bytes must give the same counts, in
//! the body of a POST, in events, and in a WebSocket's messages. The control is a scrubber that holds back
//! only what may still become the credential: the same program must find it out in each of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::vendor::Vendor;
use crate::sample::Noise;
use crate::stage::{BuiltIn, Stage, integration};
use ways::{App, Counts, WAYS, Way, give_back};

/// The ways to put one question.
mod ways;

const PAUSE: Duration = Duration::from_millis(60);
/// A difference must still be there with so much time, or it was the machine's.
const LONG_PAUSE: Duration = Duration::from_millis(300);
const AT_ONCE: usize = 8;
const ALPHABET: &[u8] = b"0123456789abcdef";
const WIDE: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// One question: these bytes end in a guess at what comes next.
struct Question {
    /// The beginning, and before it what is no part of the credential.
    known: Vec<u8>,
    /// The first is right.
    guesses: Vec<u8>,
}

/// What came of one way.
struct Learnt {
    told_apart: usize,
    asked_again: usize,
    /// Told apart where a scrubber gives it away.
    naive: usize,
}

pub fn run(plan: &Plan) -> Figure {
    let vendor = BuiltIn::start(&plan.relay);
    let live = Vendor::by_hand(give_back);
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &live.ca_pem).unwrap();
    let sockets = integration("live", &format!("https://localhost:{}", live.port), &ca);
    let both =
        integration("vendor", &vendor.origin, &vendor.ca) + sockets.trim_end() + "\nwebsocket = true\n";
    let mut stage = Stage::set(&plan.relay, "", &both);
    stage.start();
    // 48 bytes: its base64 has no odd end, and stands in forms of every alignment.
    let credential = format!("sk-live-{}00", &uuid::Uuid::new_v4().simple().to_string().repeat(2)[..38]);
    let [secret, live] = ["vendor", "live"].map(|name| stage.secret("acme", name, &credential));
    let app = App { address: stage.app, secret, live, token: stage.token("acme"), asked: AtomicU64::new(0) };
    let forms = [credential.clone().into_bytes(), STANDARD_NO_PAD.encode(&credential).into_bytes()];
    let questions: Vec<Question> = forms.iter().flat_map(|form| questions(plan, form)).collect();
    let learnt = WAYS.map(|way| {
        plan.say(&format!("asking relay: {}", way.name()));
        ask(&app, way, &questions, &forms)
    });

    let counts = WAYS.map(|way| format!("{}={}", way.name(), questions.len())).join(" ");
    let sum = |of: fn(&Learnt) -> usize| learnt.iter().map(of).sum::<usize>();
    let result = format!(
        "questions={} {counts} told_apart={} asked_again={} naive_told_apart={}",
        questions.len() * WAYS.len(),
        sum(|way| way.told_apart),
        sum(|way| way.asked_again),
        sum(|way| way.naive)
    );
    // Once the last byte is right the whole is found, and goes on marked: counts no longer matter there.
    let last = questions.iter().filter(|question| question.completes(&forms)).count();
    let kept = learnt.iter().all(|way| way.told_apart == 0 && way.naive >= questions.len() - last);
    Figure { n: app.asked.load(Ordering::Relaxed), result, kept }
}

/// Puts every question in one way, to relay and to the control.
fn ask(app: &App, way: Way, questions: &[Question], forms: &[Vec<u8>]) -> Learnt {
    // Were nothing let go before the end, counts would be equal for another reason.
    let (short, long) = (app.echoed(way, b"w", LONG_PAUSE), app.echoed(way, &[b'w'; 2000], LONG_PAUSE));
    assert!(
        short.1 > 0 && long.0 >= short.0 + 250,
        "{}: what is said does not come back before its end: {short:?} {long:?}",
        way.name()
    );
    let suspected = told_apart(questions, AT_ONCE, &|text| app.echoed(way, text, PAUSE));
    let again: Vec<Question> = suspected.into_iter().map(|at| questions[at].again()).collect();
    let found = told_apart(&again, 1, &|text| app.echoed(way, text, LONG_PAUSE));
    let naive = told_apart(questions, 1, &|text| held_by_match(&way.said(text), forms));
    Learnt { told_apart: found.len(), asked_again: again.len(), naive: naive.len() }
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

/// What a scrubber lets go that holds back only what may still become one of `forms`.
fn held_by_match(text: &[u8], forms: &[Vec<u8>]) -> Counts {
    let live = |form: &Vec<u8>| (1..form.len()).rev().find(|length| text.ends_with(&form[..*length]));
    let held = forms.iter().filter_map(live).max().unwrap_or(0);
    // The whole form is found and goes on marked.
    let held = if forms.iter().any(|form| text.ends_with(form)) { 0 } else { held };
    (text.len() - held, text.len() + 1)
}
