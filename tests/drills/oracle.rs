//! Another customer's UUID is answered as an unknown one, and as fast.
//!
//! Both kinds are asked in turn over one connection, in random order within each pair, and equally often
//! each, so that neither is better known to any cache.

use std::time::Instant;

use crate::figure::{Figure, Plan};
use crate::rig::client::{Answer, Client};
use crate::sample::{Noise, median, median_interval};
use crate::stage::{BuiltIn, Stage, integration};

/// How many UUIDs there are of each kind.
const KNOWN: u64 = 100;
/// An interval that lies wholly beyond this shows a difference that an app could use.
const MOST_US: f64 = 5.0;

pub fn run(plan: &Plan) -> Figure {
    let n = plan.size(300, 20_000);
    let vendor = BuiltIn::start(&plan.relay);
    let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &vendor.origin, &vendor.ca));
    stage.start();
    let token = format!("Bearer {}", stage.token("acme"));
    // So that the asking customer has a data key too.
    stage.secret("acme", "vendor", "sk-drill-0123456789abcdef0123456789");
    let admin = stage.admin_token();
    let foreign: Vec<String> = (0..KNOWN).map(|_| add(&stage, &admin)).collect();
    let unknown: Vec<String> = (0..KNOWN).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let mut app = App { client: stage.client(), stage: &stage, token };
    for _ in 0..200 {
        app.ask(&uuid::Uuid::new_v4().to_string());
    }
    plan.say("asking");
    let mut random = Noise::of(n);
    let (mut differences, mut foreign_us, mut unknown_us) = (Vec::new(), Vec::new(), Vec::new());
    let mut unequal = 0;
    for pair in 0..n {
        let (theirs, nobodys) = (&foreign[(pair % KNOWN) as usize], &unknown[(pair % KNOWN) as usize]);
        let ((their_us, their), (nobodys_us, nobody)) = if random.next().is_multiple_of(2) {
            let first = app.ask(theirs);
            (first, app.ask(nobodys))
        } else {
            let first = app.ask(nobodys);
            (app.ask(theirs), first)
        };
        unequal += u64::from(
            without_ids(&their, theirs) != without_ids(&nobody, nobodys)
                || their.code() != "secret_not_found",
        );
        differences.push(their_us - nobodys_us);
        foreign_us.push(their_us);
        unknown_us.push(nobodys_us);
    }
    let (low, high) = median_interval(&mut differences);
    let result = format!(
        "unequal={unequal} ci=[{low:.2},{high:.2}]us foreign={:.1}us unknown={:.1}us",
        median(&mut foreign_us),
        median(&mut unknown_us)
    );
    Figure { n, result, kept: unequal == 0 && low < MOST_US && high > -MOST_US }
}

fn add(stage: &Stage, admin: &str) -> String {
    let body = serde_json::json!({
        "customer": "globex", "integration": "vendor", "fields": { "token": "sk-drill-other-0123456789abcdef" },
    });
    let added = stage.call("POST", "/v1/secrets", admin, &body.to_string());
    added.json()["id"].as_str().expect("an id").to_owned()
}

struct App<'a> {
    stage: &'a Stage,
    client: Client,
    token: String,
}

impl App<'_> {
    /// Asks for a secret: microseconds, and the answer.
    fn ask(&mut self, id: &str) -> (f64, Answer) {
        let headers = [("authorization", self.token.as_str()), ("relay-secret", id)];
        let begun = Instant::now();
        let answer = self.client.request("GET", "/vendor/hello", &headers, b"");
        let took = begun.elapsed().as_secs_f64() * 1e6;
        if answer.status == 0 || answer.header("connection") == Some("close") {
            self.client = self.stage.client();
        }
        assert_ne!(answer.status, 0, "no answer");
        (took, answer)
    }
}

/// An answer with its own ids and its date left out.
fn without_ids(answer: &Answer, asked: &str) -> String {
    let request_id = answer.header("relay-request-id").unwrap_or_default().to_owned();
    let head: Vec<_> = answer.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date")).collect();
    let text = format!("{} {head:?} {}", answer.status, answer.text());
    text.replace(&request_id, "REQUEST").replace(asked, "SECRET")
}
