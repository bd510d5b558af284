//! A store as large as a large SaaS has it: start, memory, lookups, and the bounds of the caches.
//!
//! The store is filled by relay's own write path and its pages are dropped from the kernel's cache, so that
//! relay starts from the disk. A cold lookup is of a secret and of a data key that this relay never used; a
//! warm one is the same again. Then the same requests are made of a relay with small caches and of one with
//! large ones: only what the configured bytes explain may differ.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Advice, fadvise};
use tempfile::TempDir;

use crate::figure::{Figure, Plan};
use crate::rig::client::Client;
use crate::rig::vendor::{Vendor, answer};
use crate::sample::percentile;
use crate::stage::{Stage, integration};
use crate::stock::{self, EACH, Stock};

const MIB: f64 = 1024.0 * 1024.0;
/// From the start of the process until it says that it is ready.
const MOST_STARTUP_MS: u128 = 10_000;
/// Resident after the start and after the lookups, whatever the number of secrets.
const MOST_RSS_MIB: f64 = 512.0;
/// The small caches of the second part, as relay.toml names them.
const SMALL: &str = "limits.record_cache_bytes = 1048576\nlimits.data_keys = 100\n";
const SMALL_MIB: f64 = 1.0;
/// The large ones: everything that is asked for fits.
const LARGE: &str = "limits.record_cache_bytes = 268435456\nlimits.data_keys = 100000\n";
/// What else may grow while secrets are touched that no cache keeps: the allocator's gaps, sled's own pages.
const SLACK_MIB: f64 = 8.0;

pub fn run(plan: &Plan) -> Figure {
    let customers = plan.size(1_000, 100_000);
    let vendor = vendor();
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, &vendor.ca_pem).unwrap();
    let upstream = format!("https://localhost:{}", vendor.port);
    let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &upstream, &ca));
    plan.say("filling the store");
    let begun = Instant::now();
    let stock = Stock::lay(&stage, customers);
    let filled = begun.elapsed().as_secs_f64();
    let store = stock::folder(&stage);
    let disk = on_disk(&store) / MIB;

    plan.say("start and lookups");
    forget_pages(&store);
    let begun = Instant::now();
    stage.start();
    let startup = begun.elapsed().as_millis();
    let started = resident(&stage);
    let n = plan.size(200, 2_000);
    let step = customers / n;
    let mut app = App::of(&stage, &stock, (0..n).map(|number| number * step + step / 2));
    let mut cold = app.ask_all(0);
    let mut warm = app.ask_all(0);
    let looked_up = resident(&stage);
    let mut unanswered = app.unanswered;
    drop(app);
    stage.stop();

    let touched = plan.size(1_000, 5_000).min(customers);
    let mut restart = None;
    let [small, large] = [SMALL, LARGE].map(|limits| {
        plan.say("bounds of the caches");
        with_limits(&stage, limits);
        let begun = Instant::now();
        stage.start();
        restart.get_or_insert(begun.elapsed().as_millis());
        let mut app = App::of(&stage, &stock, 0..touched);
        let (early, late) = (0..EACH / 2, EACH / 2..EACH);
        early.for_each(|place| drop(app.ask_all(place)));
        let before = resident(&stage);
        late.for_each(|place| drop(app.ask_all(place)));
        let after = resident(&stage);
        unanswered += app.unanswered;
        stage.stop();
        after - before
    });
    let bounded = small <= SMALL_MIB + SLACK_MIB && small * 2.0 < large;
    let restart = restart.unwrap_or_default();
    let rss = looked_up.max(started);
    let result = format!(
        "startup_ms={startup} restart_ms={restart} rss_start_mib={started:.0} rss_mib={looked_up:.0} cold_p50_us={:.0} cold_p99_us={:.0} \
         warm_p50_us={:.0} warm_p99_us={:.0} disk_mib={disk:.0} fill_s={filled:.0} small_cache_growth_mib={small:.1} \
         large_cache_growth_mib={large:.1} unanswered={unanswered}",
        percentile(&mut cold, 50.0),
        percentile(&mut cold, 99.0),
        percentile(&mut warm, 50.0),
        percentile(&mut warm, 99.0),
    );
    let kept = unanswered == 0 && startup <= MOST_STARTUP_MS && rss <= MOST_RSS_MIB && bounded;
    Figure { n: customers * EACH, result, kept }
}

/// 200 if the credential is the one that belongs to the path, `/CUSTOMER/PLACE`.
pub fn vendor() -> Vendor {
    Vendor::start(|received, out| {
        let mut parts = received.target().split('/').skip(1).map(|part| part.parse().unwrap_or(u64::MAX));
        let (customer, place) = (parts.next().unwrap_or(u64::MAX), parts.next().unwrap_or(u64::MAX));
        let wanted = format!("Bearer {}", stock::credential(customer, place));
        let right = received.header("authorization") == Some(wanted.as_str());
        answer(out, if right { 200 } else { 418 }, &[], b"right");
    })
}

/// One connection, with every customer's token already verified on it.
pub struct App<'a> {
    stock: &'a Stock,
    client: Client,
    /// Each customer with its `Bearer ...`.
    callers: Vec<(u64, String)>,
    pub unanswered: u64,
}

impl<'a> App<'a> {
    pub fn of(stage: &Stage, stock: &'a Stock, customers: impl Iterator<Item = u64> + Clone) -> Self {
        let tokens = stock::tokens(stage, customers.clone());
        let callers = customers.zip(tokens).map(|(customer, token)| (customer, format!("Bearer {token}")));
        let mut app = Self { stock, client: stage.client(), callers: callers.collect(), unanswered: 0 };
        // Names no secret: refused behind the token's check and before any lookup.
        for (_, bearer) in &app.callers {
            let refused = app.client.request("GET", "/vendor/", &[("authorization", bearer)], b"");
            assert_eq!(refused.code(), "secret_missing", "{}", refused.text());
        }
        // The line to the vendor is there, by a secret that no lookup asks for.
        for _ in 0..20 {
            app.ask(0, EACH - 1);
        }
        app
    }

    /// One request for each customer's secret at `place`; microseconds.
    pub fn ask_all(&mut self, place: u64) -> Vec<f64> {
        (0..self.callers.len()).map(|caller| self.ask(caller, place)).collect()
    }

    fn ask(&mut self, caller: usize, place: u64) -> f64 {
        let (customer, bearer) = &self.callers[caller];
        let (path, id) = (format!("/vendor/{customer}/{place}"), self.stock.id(*customer, place));
        let begun = Instant::now();
        let headers = [("authorization", bearer.as_str()), ("relay-secret", id.as_str())];
        let answer = self.client.request("GET", &path, &headers, b"");
        let took = begun.elapsed().as_secs_f64() * 1e6;
        if answer.status != 200 {
            eprintln!("{path}: {} {}", answer.status, answer.text());
            self.unanswered += 1;
        }
        took
    }
}

pub fn resident(stage: &Stage) -> f64 {
    stage.relay().rested_kib() as f64 / 1024.0
}

/// Writes `limits` into the stage's relay.toml, in the place of earlier ones.
fn with_limits(stage: &Stage, limits: &str) {
    let text = fs::read_to_string(stage.config()).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("limits.")).collect();
    let text = kept.join("\n").replace("[server]\n", &format!("[server]\n{limits}"));
    fs::write(stage.config(), text).unwrap();
}

/// Bytes that a folder's files take up on the disk.
fn on_disk(folder: &Path) -> f64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    entries.map(|file| file.blocks() as f64 * 512.0).sum()
}

/// What is on the disk is no longer in memory too.
pub fn forget_pages(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
        if kind.is_dir() {
            forget_pages(&path);
        } else if kind.is_file() {
            let file = File::open(path).unwrap();
            file.sync_all().unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}
