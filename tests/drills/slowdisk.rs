//! A disk that hangs, and one that fails, of the store and of the audit.
//!
//! `disk.c` is preloaded into relay and holds up, or fails, its writes below one folder. Of the store: what is at hand
//! and what is not is served meanwhile, a write is refused within a second, at once once the disk is known to hang. Of the audit: a
//! use is refused within 500 ms, and nothing is sent. Each is over within five seconds of its cause, without a restart.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::fault::{Fault, refused, shown, timed};
use crate::figure::{Figure, Plan};
use crate::process::output;

const DATA: u64 = 0;
const AUDIT: u64 = 1;
const HANGS: u8 = b'h';
const FAILS: u8 = b'e';
/// Uses of what is not at hand, while the store's disk hangs and while it fails.
const COLD: u64 = 4;

pub fn run(plan: &Plan) -> Figure {
    let rounds = plan.size(1, 20);
    let moods = Moods::of();
    let [data, audit] = ["data", "audit"].map(|name| moods.folder.path().join(name));
    [&data, &audit].into_iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    let mut fault = Fault::set(plan, &data, &audit, 2 * COLD * rounds, &moods.environment(&data, &audit));
    let mut all = All::default();
    for round in 0..rounds {
        plan.say(&format!("round {round}"));
        store(&mut fault, &moods, HANGS, &mut all);
        store(&mut fault, &moods, FAILS, &mut all);
        recorded(&mut fault, &moods, HANGS, &mut all);
        recorded(&mut fault, &moods, FAILS, &mut all);
    }
    let (lost, sends) = (fault.lost(), fault.sends());
    let (intents, good) = fault.audit(&audit);
    all.hold("every acknowledged secret opens", lost == 0);
    all.hold("nothing was sent without an intent", sends <= intents && sends > 0);
    all.hold("the audit verifies", good);
    let result = format!(
        "failed={} warm={} errors={} first_refused_ms={:.0} then_ms={:.0} cold_ms={:.0} healed_s={} \
         audit_refused_ms={:.0} audit_healed_s={} lost={lost} sends={sends} intents={intents} audit={}",
        all.failed,
        all.warm,
        all.errors,
        all.first_ms,
        all.then_ms,
        all.cold_ms,
        shown(all.healed),
        all.audit_ms,
        shown(all.audit_healed),
        if good { "good" } else { "altered" },
    );
    Figure { n: rounds, result, kept: all.failed == 0 }
}

/// The worst of all rounds.
#[derive(Default)]
struct All {
    failed: u64,
    warm: u64,
    errors: u64,
    /// Until the first write on a disk that hangs is refused, and each after it.
    first_ms: f64,
    then_ms: f64,
    cold_ms: f64,
    healed: Option<f64>,
    audit_ms: f64,
    audit_healed: Option<f64>,
}

impl All {
    fn hold(&mut self, what: &str, so: bool) {
        if !so {
            eprintln!("not so: {what}");
            self.failed += 1;
        }
    }
}

fn store(fault: &mut Fault, moods: &Moods, mood: u8, all: &mut All) {
    assert_eq!(fault.add().status, 201, "it does not work before anything goes wrong");
    let (paced, ()) = fault.under_load(|fault| {
        moods.set(DATA, mood);
        let (answer, first) = timed(|| fault.add());
        all.hold("a write is refused", refused(&answer, "store_unavailable"));
        all.hold("within a second", first < 1000.0);
        all.first_ms = all.first_ms.max(first);
        for _ in 0..3 {
            let (answer, took) = timed(|| fault.add());
            all.hold("a write is refused", refused(&answer, "store_unavailable"));
            all.hold("within a second", took < 1000.0);
            all.then_ms = all.then_ms.max(took);
        }
        for _ in 0..COLD {
            let (answer, took) = timed(|| fault.use_cold());
            // Of one that fails, also reads are not believed until it is open again.
            let served = answer.status == 200 || mood == FAILS && refused(&answer, "store_unavailable");
            all.hold("what is not at hand is served", served);
            all.hold("within two seconds", took < 2000.0);
            all.cold_ms = all.cold_ms.max(took);
        }
        let told = fault.until(|fault| fault.health("store").1 == "fails");
        all.hold("it says that the store fails", told.is_some());
        moods.set(DATA, 0);
        let healed = fault.until(|fault| fault.add().status == 201);
        all.hold("it heals", healed.is_some());
        all.healed = longer(all.healed, healed);
        all.hold(
            "it is ready",
            fault.until(|fault| fault.health("store") == (true, "ok".to_owned())).is_some(),
        );
    });
    all.warm += paced.answered();
    all.errors += paced.errors;
    all.hold("no request for what is at hand failed", paced.errors == 0 && paced.answered() > 100);
}

fn recorded(fault: &mut Fault, moods: &Moods, mood: u8, all: &mut All) {
    assert_eq!(fault.use_warm().status, 200);
    moods.set(AUDIT, mood);
    let sends = fault.sends();
    for _ in 0..10 {
        let (answer, took) = timed(|| fault.use_warm());
        all.hold("a use is refused", refused(&answer, "audit_unavailable"));
        all.hold("within 500 ms", took < 500.0);
        all.audit_ms = all.audit_ms.max(took);
    }
    all.hold("a write is refused", refused(&fault.add(), "audit_unavailable"));
    all.hold("nothing is sent", fault.sends() == sends);
    let word = if mood == HANGS { "hangs" } else { "fails" };
    let unready = fault.until(|fault| fault.health("audit") == (false, word.to_owned()));
    all.hold("it is not ready", unready.is_some());
    moods.set(AUDIT, 0);
    let healed = fault.until(|fault| fault.use_warm().status == 200);
    all.hold("the audit heals", healed.is_some());
    all.audit_healed = longer(all.audit_healed, healed);
}

fn longer(before: Option<f64>, now: Option<f64>) -> Option<f64> {
    now.map(|now| before.map_or(now, |before| before.max(now)))
}

/// How each disk is disposed.
struct Moods {
    file: File,
    folder: TempDir,
}

impl Moods {
    fn of() -> Self {
        let folder = TempDir::new().unwrap();
        let file = File::create(folder.path().join("moods")).unwrap();
        file.write_all_at(&[0; 2], 0).unwrap();
        let library = folder.path().join("disk.so");
        let source = folder.path().join("disk.c");
        std::fs::write(&source, include_str!("disk.c")).unwrap();
        let mut compiler = Command::new("cc");
        let done =
            output(compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).arg("-ldl"));
        assert!(done.status.success(), "disk.c: {}", String::from_utf8_lossy(&done.stderr));
        Self { file, folder }
    }

    fn environment(&self, data: &Path, audit: &Path) -> Vec<(String, String)> {
        let place = |path: &Path| path.canonicalize().unwrap().display().to_string();
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), file("disk.so")),
            ("DRILL_MOODS".to_owned(), file("moods")),
            ("DRILL_DISKS".to_owned(), format!("{}:{}", place(data), place(audit))),
        ]
    }

    fn set(&self, disk: u64, mood: u8) {
        self.file.write_all_at(&[mood], disk).unwrap();
    }
}
