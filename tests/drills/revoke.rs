//! What an operator stops on one replica is stopped on the other: two relays on one PostgreSQL, a secret in use on
//! the second, disabled on the first.
//!
//! The figure is the last use that the vendor saw, counted from the first relay's acknowledgement. Then the same
//! with the second relay's change feed cut again and again, as fast as it comes back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::client::Client;
use crate::rig::postgres::{Database, SERVING, Server};
use crate::rig::vendor::{Vendor, answer};
use crate::stage::{Stage, integration};

/// Who uses a secret at once.
const USING: usize = 4;
/// The second relay's own role, by which its feed is told from the first's.
const SECOND: &str = "relay_serving_second";
/// Without the feed: the bound.
const DEAF: Duration = Duration::from_secs(2);

/// When the vendor last saw each secret, and how often.
type Uses = Arc<Mutex<HashMap<String, (Instant, u64)>>>;

pub fn run(plan: &Plan) -> Figure {
    let rounds = plan.size(3, 100);
    let uses = Uses::default();
    let seen = uses.clone();
    let vendor = Vendor::start(move |received, out| {
        let now = Instant::now();
        let id = received.target().rsplit('/').next().unwrap_or_default().to_owned();
        let mut uses = seen.lock().unwrap();
        let entry = uses.entry(id).or_insert((now, 0));
        *entry = (now, entry.1 + 1);
        drop(uses);
        answer(out, 200, &[], b"");
    });
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let integration = integration("vendor", &upstream, &ca);
    let server = Server::start();
    let database = server.database();
    server.sql("postgres", &format!("CREATE ROLE {SECOND} LOGIN IN ROLE {SERVING}"));
    let mut first = Stage::set(&plan.relay, "", &integration);
    let mut second = Stage::set(&plan.relay, "", &integration);
    second.beside(&first, "second");
    first.keep_in(&format!("engine = \"postgres\"\nurl = \"{}\"", database.url()));
    second.keep_in(&format!("engine = \"postgres\"\nurl = \"{}\"", database.url_as(SECOND)));
    first.start();
    second.start();
    let bearer = format!("Bearer {}", first.token("acme"));
    let one = |settle: Duration| stopped(&first, &second, &uses, &bearer, settle);
    let mut heard: Vec<Duration> = (0..rounds).map(|_| one(Duration::from_millis(1500))).collect();
    plan.say("with the feed cut");
    let over = AtomicBool::new(false);
    let (mut deaf, cuts) = std::thread::scope(|scope| {
        let cutting = scope.spawn(|| cut(&database, &over));
        let deaf: Vec<Duration> = (0..rounds).map(|_| one(DEAF + Duration::from_secs(1))).collect();
        over.store(true, Ordering::Relaxed);
        (deaf, cutting.join().unwrap())
    });
    let told = |name: &str, all: &mut Vec<Duration>| {
        all.sort();
        let ms = |at: usize| all.get(at).map_or(0.0, |it| it.as_secs_f64() * 1000.0);
        format!("{name}_median_ms={:.1} {name}_max_ms={:.1}", ms(all.len() / 2), ms(all.len() - 1))
    };
    let result = format!("{} {} feed_cuts={cuts}", told("heard", &mut heard), told("cut", &mut deaf));
    let within = |all: &[Duration], most: Duration| all.iter().all(|it| *it < most);
    let kept = within(&heard, Duration::from_secs(1)) && within(&deaf, DEAF) && cuts >= rounds;
    Figure { n: rounds * 2, result, kept }
}

/// A secret in use on the second relay, disabled on the first: how long after the acknowledgement the vendor last
/// saw it.
fn stopped(first: &Stage, second: &Stage, uses: &Uses, bearer: &str, settle: Duration) -> Duration {
    let id = first.secret("acme", "vendor", "sk-of-a-drill-that-revokes");
    let over = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        for _ in 0..USING {
            scope.spawn(|| {
                let mut client = Client::connect(second.app, Arc::default());
                let headers = [("authorization", bearer), ("relay-secret", id.as_str())];
                while !over.load(Ordering::Relaxed) {
                    let answer = client.request("GET", &format!("/vendor/{id}"), &headers, b"");
                    match (answer.status, answer.code()) {
                        (200, "") => {}
                        // Not asked in a hurry any more, but still.
                        (410, "secret_disabled") => std::thread::sleep(Duration::from_millis(5)),
                        other => panic!("{other:?}: {}", answer.text()),
                    }
                }
            });
        }
        let begun = Instant::now();
        while uses.lock().unwrap().get(&id).is_none_or(|(_, count)| *count < 20) {
            assert!(begun.elapsed() < Duration::from_secs(30), "the secret is not used");
            std::thread::sleep(Duration::from_millis(1));
        }
        let answer = first.call("POST", &format!("/v1/secrets/{id}/disable"), &first.admin_token(), "");
        let acknowledged = Instant::now();
        assert_eq!(answer.status, 200, "{}", answer.text());
        std::thread::sleep(settle);
        over.store(true, Ordering::Relaxed);
        acknowledged
    });
    let (last, _) = uses.lock().unwrap()[&id];
    last.saturating_duration_since(acknowledged)
}

/// Ends the second relay's listening sessions until `over`; how many there were. Only those say LISTEN, and NOTIFY
/// for a beat.
fn cut(database: &Database, over: &AtomicBool) -> u64 {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{SECOND}' AND query ~* '^(listen|notify) '"
    );
    let mut cuts = 0;
    while !over.load(Ordering::Relaxed) {
        cuts += database.sql_as("postgres", &sql).parse::<u64>().unwrap_or(0);
    }
    cuts
}
