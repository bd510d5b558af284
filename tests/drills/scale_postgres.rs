//! A PostgreSQL as large as a large SaaS has it, and the replicas on it: start, memory, lookups, and what they cost
//! PostgreSQL while nobody asks.
//!
//! It is filled as somebody who moves there fills it: sealed by relay's own write path, exported, imported. Then it is
//! restarted with nothing of its files in memory, and the first replica starts on it. A cold lookup is of a secret and
//! a data key that this relay never used; a warm one is the same again. A flood of other secrets fills the caches.
//! The others start beside it, are left alone for a while, and are told of one disabled secret.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::moving::Ran;
use crate::rig::postgres::{Database, Server, program};
use crate::rig::vendor::Vendor;
use crate::sample::{median, percentile};
use crate::scale::{App, forget_pages, resident, vendor};
use crate::stage::{Stage, integration};
use crate::stock::{self, EACH, Stock};

const MIB: f64 = 1024.0 * 1024.0;
/// Room for every replica's sessions; PostgreSQL's own default of what it keeps in memory.
const SETTINGS: &str = "max_connections = 2000\nshared_buffers = 128MB\n";
/// From the start of the process until it says that it is ready. Nothing that is read then is more in a larger store:
/// it is sessions, a few store-wide records, and the change feed's first beat, which alone may take 3 s.
const MOST_STARTUP_MS: f64 = 5_000.0;
/// Resident after the start, before anything was asked for.
const MOST_RSS_START_MIB: f64 = 96.0;
/// Resident with full caches: 64 MiB of records, 10,000 data keys, the tokens' verdicts, and as much again for what
/// an allocator holds of what was.
const MOST_RSS_MIB: f64 = 256.0;
/// A whole request whose record and data key come from PostgreSQL, which may have to read either from its disk. A call
/// of the store is given up after 2 s.
const MOST_COLD_P99_US: f64 = 100_000.0;
/// One that asks PostgreSQL nothing: as long as a busy machine may leave a thread waiting.
const MOST_WARM_P99_US: f64 = 20_000.0;
/// A secret with its indexes, and its part of its customer and data key: twice what is sealed here.
const MOST_BYTES_EACH: f64 = 1_024.0;
/// Beats that replicas left alone send in a second, for each of them. One beat is heard by all and serves for all;
/// were each to send its own, it would be two.
const MOST_NOTES_EACH_PER_S: f64 = 1.0;
/// How long the replicas are left alone.
const ALONE: Duration = Duration::from_secs(5);
/// Callers at once in the flood: as many as a relay has sessions.
const CALLERS: u64 = 16;
/// Operators at once, and for how long.
const OPERATORS: u64 = 8;
const OPERATING: Duration = Duration::from_secs(2);
/// The promise for what is disabled.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);

pub fn run(plan: &Plan) -> Figure {
    let customers = plan.size(1_000, 100_000);
    let vendor = vendor();
    let folder = TempDir::new().unwrap();
    let (mut server, database) = served();
    let (mut first, stock, mut told) = filled(plan, &vendor, &folder, &database, customers);
    told.extend(sizes(&server, &database, customers));

    plan.say("start and lookups");
    server.stop("fast");
    forget_pages(&server.data());
    server.run();
    told.push(("startup_ms", started(&mut first)));
    told.push(("rss_start_mib", resident(&first)));
    let unanswered = lookups(plan, &first, &stock, customers, &mut told);

    plan.say("a flood of cold lookups");
    let touched = plan.size(500, 20_000);
    let (seconds, missed) = flood(&first, &stock, touched);
    told.push(("flood_per_s", (touched * EACH) as f64 / seconds));
    told.push(("rss_mib", resident(&first)));

    plan.say("replicas");
    let others = replicas(plan, &vendor, &folder, &first, &database, &mut told);
    told.extend(idle(&server, &database, &first, &others));
    told.push(("writes_per_s", writes(&first)));
    let served = still_served(&first, &others, &stock);
    let (unanswered, served) = ((unanswered + missed) as f64, served as f64);
    told.extend([
        ("replicas", others.len() as f64 + 1.0),
        ("unanswered", unanswered),
        ("still_served", served),
    ]);

    let kept = bounds(others.len() as f64 + 1.0).iter().all(|(name, most)| {
        let (_, value) = told.iter().find(|(told, _)| told == name).expect(name);
        *value <= *most
    });
    let result: Vec<String> = told.iter().map(|(name, value)| format!("{name}={value:.0}")).collect();
    Figure { n: customers * EACH, result: result.join(" "), kept }
}

/// What each figure may be at most.
fn bounds(replicas: f64) -> [(&'static str, f64); 11] {
    [
        ("startup_ms", MOST_STARTUP_MS),
        ("replica_startup_max_ms", MOST_STARTUP_MS),
        ("rss_start_mib", MOST_RSS_START_MIB),
        ("replica_rss_mib", MOST_RSS_START_MIB),
        ("rss_mib", MOST_RSS_MIB),
        ("cold_p99_us", MOST_COLD_P99_US),
        ("warm_p99_us", MOST_WARM_P99_US),
        ("bytes_each", MOST_BYTES_EACH),
        ("notes_per_s", MOST_NOTES_EACH_PER_S * replicas),
        ("unanswered", 0.0),
        ("still_served", 0.0),
    ]
}

/// A figure by its name.
type Told = Vec<(&'static str, f64)>;

fn served() -> (Server, Database) {
    let server = Server::on_disk(SETTINGS);
    let database = server.database();
    (server, database)
}

/// A stage that does not run yet, over the filled database.
fn filled(
    plan: &Plan,
    vendor: &Vendor,
    folder: &TempDir,
    database: &Database,
    customers: u64,
) -> (Stage, Stock, Told) {
    let stage = stage(plan, vendor, folder);
    plan.say("sealing");
    let begun = Instant::now();
    let stock = Stock::lay(&stage, customers);
    let sealed = begun.elapsed().as_secs_f64();
    plan.say("filling PostgreSQL");
    let file = folder.path().join("store.export");
    let words = ["--format", "json", "store"];
    Ran::of(&mut stage.prepared(&[&words[..], &["export"]].concat()), |command| {
        command.arg("--output").arg(&file);
    });
    stage.keep_in(&format!("engine = \"postgres\"\nurl = \"{}\"", database.url()));
    let import = Ran::of(&mut stage.prepared(&[&words[..], &["import"]].concat()), |command| {
        command.arg(&file);
    });
    assert_eq!(import.told["secrets"], customers * EACH, "{}", import.said);
    fs::remove_file(&file).unwrap();
    // What autovacuum does sooner or later, so that no lookup pays for it.
    database.sql_as("postgres", "VACUUM ANALYZE");
    let per_s = (customers * EACH) as f64 / import.seconds;
    (stage, stock, vec![("sealing_s", sealed), ("import_per_s", per_s)])
}

fn stage(plan: &Plan, vendor: &Vendor, folder: &TempDir) -> Stage {
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    Stage::set(&plan.relay, "", &integration("vendor", &upstream, &ca))
}

/// What stands on PostgreSQL's disk.
fn sizes(server: &Server, database: &Database, customers: u64) -> Told {
    let number = |sql: &str| -> f64 { server.sql(&database.name, sql).parse().unwrap() };
    let whole = number("SELECT pg_database_size(current_database())");
    let rows = number("SELECT count(*) FROM relay.secrets");
    assert_eq!(rows, (customers * EACH) as f64);
    let ours = "('relay.customers', 'relay.data_keys', 'relay.secrets', 'relay.past_versions', 'relay.uses')";
    let ours = number(&format!(
        "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE oid::regclass::text IN {ours}"
    ));
    vec![
        ("rows", rows),
        ("database_mib", whole / MIB),
        ("row_bytes", number("SELECT avg(pg_column_size(s.*)) FROM relay.secrets s")),
        ("index_bytes", number("SELECT pg_indexes_size('relay.secrets')") / rows),
        ("bytes_each", ours / rows),
    ]
}

/// How long it takes until it is ready, in milliseconds.
fn started(stage: &mut Stage) -> f64 {
    let begun = Instant::now();
    stage.start();
    begun.elapsed().as_secs_f64() * 1000.0
}

/// Cold and warm, one after the other; how many were not answered.
fn lookups(plan: &Plan, stage: &Stage, stock: &Stock, customers: u64, told: &mut Told) -> u64 {
    let n = plan.size(200, 2_000);
    // Behind those of the flood, and each some way behind the one before.
    let from = plan.size(500, 20_000);
    let step = (customers - from) / n;
    let mut app = App::of(stage, stock, (0..n).map(|number| from + number * step + step / 2));
    let mut cold = app.ask_all(0);
    let before = fs::metadata(stage.audit()).unwrap().len();
    let mut warm = app.ask_all(0);
    let written = fs::metadata(stage.audit()).unwrap().len() - before;
    told.extend([
        ("cold_p50_us", percentile(&mut cold, 50.0)),
        ("cold_p99_us", percentile(&mut cold, 99.0)),
        ("warm_p50_us", percentile(&mut warm, 50.0)),
        ("warm_p99_us", percentile(&mut warm, 99.0)),
        ("audit_bytes_per_request", written as f64 / n as f64),
    ]);
    app.unanswered
}

/// All secrets of the first `touched` customers, by [`CALLERS`] at once: seconds, and how many were not answered.
fn flood(stage: &Stage, stock: &Stock, touched: u64) -> (f64, u64) {
    let ready = std::sync::Barrier::new(CALLERS as usize + 1);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let ready = &ready;
                scope.spawn(move || {
                    let customers = (caller..touched).step_by(CALLERS as usize);
                    let mut app = App::of(stage, stock, customers);
                    ready.wait();
                    (0..EACH).for_each(|place| drop(app.ask_all(place)));
                    app.unanswered
                })
            })
            .collect();
        ready.wait();
        let begun = Instant::now();
        let missed = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        (begun.elapsed().as_secs_f64(), missed)
    })
}

/// The other replicas, started one after the other while the first serves.
fn replicas(
    plan: &Plan,
    vendor: &Vendor,
    folder: &TempDir,
    first: &Stage,
    database: &Database,
    told: &mut Told,
) -> Vec<Stage> {
    let mut others = Vec::new();
    let mut starts = Vec::new();
    for number in 1..plan.size(8, 100) {
        let mut other = stage(plan, vendor, folder);
        other.beside(first, &format!("replica-{number}"));
        other.keep_in(&format!("engine = \"postgres\"\nurl = \"{}\"", database.url()));
        starts.push(started(&mut other));
        others.push(other);
    }
    let mut memory: Vec<f64> =
        others.iter().map(|other| other.relay().resident_kib() as f64 / 1024.0).collect();
    told.extend([
        ("replica_startup_p50_ms", median(&mut starts)),
        ("replica_startup_max_ms", percentile(&mut starts, 100.0)),
        ("replica_rss_mib", median(&mut memory)),
    ]);
    others
}

/// What replicas that nobody asks anything cost.
fn idle(server: &Server, database: &Database, first: &Stage, others: &[Stage]) -> Told {
    let relays = || -> u64 { others.iter().chain([first]).map(|stage| stage.relay().cpu_us()).sum() };
    let (before, before_server) = (relays(), cpu_us(server));
    let begun = Instant::now();
    let notes = notes(server, database);
    let seconds = begun.elapsed().as_secs_f64();
    let percent = |us: u64| us as f64 / seconds / 10_000.0;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'relay'";
    vec![
        ("notes_per_s", notes as f64 / ALONE.as_secs_f64()),
        ("idle_postgres_cpu_percent", percent(cpu_us(server) - before_server)),
        ("idle_replica_cpu_percent", percent(relays() - before) / (others.len() as f64 + 1.0)),
        ("sessions", server.sql(&database.name, sessions).parse().unwrap()),
    ]
}

/// Notes that are heard while the replicas are left alone.
fn notes(server: &Server, database: &Database) -> usize {
    let sleep = format!("SELECT pg_sleep({})", ALONE.as_secs());
    let heard = program("psql")
        .args(["-X", "-U", "postgres", "-d", &database.name, "-p", &server.port().to_string(), "-h"])
        .arg(server.socket())
        .args(["-c", "LISTEN relay_changes", "-c", &sleep, "-c", "SELECT 1"])
        .output()
        .unwrap();
    assert!(heard.status.success(), "{}", String::from_utf8_lossy(&heard.stderr));
    String::from_utf8_lossy(&heard.stdout).matches("Asynchronous notification").count()
}

/// CPU time of all of PostgreSQL's processes so far.
fn cpu_us(server: &Server) -> u64 {
    let postmaster = server.pid().expect("it runs").as_raw_nonzero().get().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let ticks = stats.filter_map(|stat| {
        let (head, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ours = fields[1] == postmaster || head.split(' ').next() == Some(&postmaster);
        ours.then(|| fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap())
    });
    // USER_HZ is 100.
    ticks.sum::<u64>() * 10_000
}

/// Secrets that one replica adds in a second, each told to all of them.
fn writes(first: &Stage) -> f64 {
    let begun = Instant::now();
    let token = first.admin_token();
    let body = json!({ "customer": "writer", "integration": "vendor", "fields": { "token": "sk-of-a-drill-that-writes" } });
    let body = body.to_string();
    let written: u64 = std::thread::scope(|scope| {
        let operators = [(); OPERATORS as usize].map(|()| {
            scope.spawn(|| {
                let mut written = 0;
                while begun.elapsed() < OPERATING {
                    let answer = first.call("POST", "/v1/secrets", &token, &body);
                    assert_eq!(answer.status, 201, "{}", answer.text());
                    written += 1;
                }
                written
            })
        });
        operators.into_iter().map(|operator| operator.join().unwrap()).sum()
    });
    written as f64 / begun.elapsed().as_secs_f64()
}

/// How many replicas still use a secret a second after it was disabled on the first.
fn still_served(first: &Stage, others: &[Stage], stock: &Stock) -> usize {
    let (id, bearer) = (stock.id(0, 0), format!("Bearer {}", stock::tokens(first, 0..1).remove(0)));
    let headers = [("authorization", bearer.as_str()), ("relay-secret", id.as_str())];
    let all = || others.iter().chain([first]);
    let ask = |stage: &Stage| stage.client().request("GET", "/vendor/0/0", &headers, b"").status;
    assert!(all().all(|stage| ask(stage) == 200), "a replica does not serve");
    let answer = first.call("POST", &format!("/v1/secrets/{id}/disable"), &first.admin_token(), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    // What is promised is a time.
    std::thread::sleep(REVOKED_WITHIN);
    all().filter(|stage| ask(stage) != 410).count()
}
