//! A disk that is full, of the store and of the audit: real file systems of a few MiB, filled to the last byte.
//!
//! Of the store: what is at hand and what is not is served, a removal is done, a write is refused within a second, and
//! a restart changes nothing of it. Of the audit: everything is refused within a second and nothing is sent, also
//! after a restart. Each is over within five seconds of its cause, without a restart.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::fault::{Fault, refused, shown, timed};
use crate::figure::{Figure, Plan};
use crate::process::output;

/// How long it stays full under load.
const LASTING: Duration = Duration::from_secs(2);

pub fn run(plan: &Plan) -> Figure {
    let rounds = plan.size(1, 20);
    let (data, audit) = (Disk::of("data", 64), Disk::of("audit", 32));
    // One for each time that the store's disk is looked at while it is full.
    let mut fault = Fault::set(plan, &data.folder, &audit.folder, 3 * rounds, &[]);
    let mut all = All::default();
    for round in 0..rounds {
        plan.say(&format!("round {round}"));
        data_full(&mut fault, &data, &mut all);
        audit_full(&mut fault, &audit, &mut all);
    }
    let lost = fault.lost();
    let sends = fault.sends();
    let (intents, good) = fault.audit(&audit.folder);
    let text = std::fs::read_to_string(audit.folder.join("audit.jsonl")).unwrap();
    for note in ["the audit fails", "the audit works again"] {
        let told = text.matches(&format!("\"note\":\"{note}\"")).count() as u64;
        all.hold("the audit tells when it could not be written", told >= rounds);
    }
    all.hold("every acknowledged secret opens", lost == 0);
    all.hold("nothing was sent without an intent", sends <= intents && sends > 0);
    all.hold("the audit verifies", good);
    let result = format!(
        "failed={} warm={} errors={} refused_ms={:.0} healed_s={} audit_refused_ms={:.0} audit_healed_s={} lost={lost} \
         sends={sends} intents={intents} audit={}",
        all.failed,
        all.warm,
        all.errors,
        all.refused_ms,
        shown(all.healed),
        all.audit_refused_ms,
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
    refused_ms: f64,
    healed: Option<f64>,
    audit_refused_ms: f64,
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

fn data_full(fault: &mut Fault, data: &Disk, all: &mut All) {
    assert_eq!(fault.add().status, 201, "it does not work before anything goes wrong");
    let (paced, ()) = fault.under_load(|fault| {
        data.fill();
        refuses_writes(fault, all);
        std::thread::sleep(LASTING);
        all.hold("a removal is done", fault.remove().status < 300);
        refuses_writes(fault, all);
        data.free();
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
    data.fill();
    fault.stage.kill();
    fault.stage.start();
    all.hold("after a restart a secret is used", fault.use_warm().status == 200);
    refuses_writes(fault, all);
    data.free();
    all.hold("it heals after a restart", fault.until(|fault| fault.add().status == 201).is_some());
}

fn refuses_writes(fault: &mut Fault, all: &mut All) {
    let (answer, took) = timed(|| fault.add());
    all.hold("a write is refused", refused(&answer, "store_unavailable"));
    all.refused_ms = all.refused_ms.max(took);
    all.hold("within a second", took < 1000.0);
    all.hold("what is not at hand is served", fault.use_cold().status == 200);
    let health = fault.health("store");
    all.hold("it is ready, and says that the disk is full", health == (true, "full".to_owned()));
}

fn audit_full(fault: &mut Fault, audit: &Disk, all: &mut All) {
    assert_eq!(fault.use_warm().status, 200);
    audit.fill();
    refuses_all(fault, all);
    std::thread::sleep(LASTING);
    refuses_all(fault, all);
    audit.free();
    let healed = fault.until(|fault| fault.use_warm().status == 200);
    all.hold("the audit heals", healed.is_some());
    all.audit_healed = longer(all.audit_healed, healed);
    audit.fill();
    refuses_all(fault, all);
    fault.stage.kill();
    fault.stage.launch();
    refuses_all(fault, all);
    audit.free();
    let healed = fault.until(|fault| fault.use_warm().status == 200 && fault.health("audit").0);
    all.hold("the audit heals after a restart", healed.is_some());
    all.hold("and secrets are added", fault.add().status == 201);
}

fn refuses_all(fault: &mut Fault, all: &mut All) {
    // What is left of the file's last page takes a few records yet.
    let (found, took) = timed(|| {
        loop {
            let answer = fault.use_warm();
            if answer.status != 200 {
                break answer;
            }
        }
    });
    all.hold("a use is refused", refused(&found, "audit_unavailable"));
    all.audit_refused_ms = all.audit_refused_ms.max(took);
    all.hold("within a second", took < 1000.0);
    let sends = fault.sends();
    for _ in 0..20 {
        all.hold("a use is refused", refused(&fault.use_warm(), "audit_unavailable"));
    }
    all.hold("a write is refused", refused(&fault.add(), "audit_unavailable"));
    all.hold("a removal is refused", refused(&fault.remove(), "audit_unavailable"));
    all.hold("nothing is sent", fault.sends() == sends);
    let unready = fault.until(|fault| fault.health("audit") == (false, "fails".to_owned()));
    all.hold("it is not ready", unready.is_some());
}

fn longer(before: Option<f64>, now: Option<f64>) -> Option<f64> {
    now.map(|now| before.map_or(now, |before| before.max(now)))
}

/// A file system of its own, in memory, of a few MiB; mounted in a namespace that ends with this drill.
struct Disk {
    folder: PathBuf,
    _parent: TempDir,
}

impl Disk {
    fn of(name: &str, mib: u64) -> Self {
        let parent = TempDir::new().unwrap();
        let folder = parent.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut mount = Command::new("mount");
        let done =
            output(mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=700"), "tmpfs"]).arg(&folder));
        assert!(
            done.status.success(),
            "a file system cannot be mounted: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        Self { folder, _parent: parent }
    }

    /// To the last byte.
    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        for size in [1 << 20, 4096, 1] {
            let piece = vec![b'x'; size];
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{}: {error}", self.folder.display()),
                }
            }
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Relay may still hold it: the namespace's end is the end of it in any case.
        let _ = Command::new("umount").arg("--lazy").arg(Path::new(&self.folder)).status();
    }
}
