//! A store as large as a large SaaS has it is exported and imported elsewhere: the same, fast, in flat memory.
//!
//! The store is filled by relay's own write path. It is exported beside the running relay, and of the stopped one;
//! the second fills a store in one go, and another one in pieces, with kill -9 between them. Both must hold what the
//! export says, and a relay over the last must tell each secret's fingerprint as before. Then the same between engines.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::across;
use crate::figure::{Figure, Plan};
use crate::process::Process;
use crate::rig::vendor::{Vendor, answer};
use crate::rotate::fingerprints;
use crate::stage::{Stage, integration};
use crate::stock::{EACH, Stock};

const MIB: f64 = 1024.0 * 1024.0;
/// What a command may have resident at most, and a relay gain, whatever the number of secrets.
const MOST_PEAK_MIB: f64 = 384.0;
/// Hundredths of the export behind which an import is killed.
const KILLED_AT: [u64; 4] = [20, 45, 70, 99];

pub fn run(plan: &Plan) -> Figure {
    let customers = plan.size(200, 100_000);
    let vendor = Vendor::start(|_, out| answer(out, 200, &[], b""));
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &vendor.ca_pem).unwrap();
    let integrations = integration("vendor", &format!("https://localhost:{}", vendor.port), &ca);
    let mut from = Stage::set(&plan.relay, "", &integrations);
    plan.say("filling the store");
    drop(Stock::lay(&from, customers));

    plan.say("export beside a running relay");
    from.start();
    let before = fingerprints(&from, customers);
    let at_rest = from.relay().rested_kib();
    let live = Ran::of(&mut from.prepared(&["--format", "json", "store", "export"]), |command| {
        command.arg("--output").arg(folder.path().join("live.export"));
    });
    let gained = from.relay().peak_kib().saturating_sub(at_rest) as f64 / 1024.0;
    from.stop();
    std::fs::remove_file(folder.path().join("live.export")).unwrap();

    plan.say("export of a stopped relay");
    let file = folder.path().join("store.export");
    let export = Ran::of(&mut from.prepared(&["--format", "json", "store", "export"]), |command| {
        command.arg("--output").arg(&file);
    });
    let size = std::fs::metadata(&file).unwrap().len();

    plan.say("import");
    let whole = twin(&from, plan, &integrations);
    let import = Ran::of(&mut whole.prepared(&["--format", "json", "store", "import"]), |command| {
        command.arg(&file);
    });
    drop(whole);

    plan.say("import in pieces, killed between them");
    let mut pieces = twin(&from, plan, &integrations);
    let mut resumed = 0;
    for (number, hundredths) in KILLED_AT.into_iter().enumerate() {
        resumed += u64::from(killed(&pieces, &file, size * hundredths / 100, number > 0));
    }
    let last =
        Ran::of(&mut pieces.prepared(&["--format", "json", "store", "import", "--resume"]), |command| {
            command.arg(&file);
        });
    resumed += u64::from(last.said.contains("goes on behind block"));

    plan.say("every secret");
    pieces.start();
    let after = fingerprints(&pieces, customers);
    pieces.stop();
    drop(pieces);
    let across = across::run(plan, (&from, &integrations), (&file, &export.told), &before);
    let changed = before.iter().filter(|(id, print)| after.get(*id) != Some(print)).count();
    let n = customers * EACH;
    // The running relay wrote anchors of its audit since: its sum is another.
    let equal = [&live, &import, &last].iter().all(|ran| same(&ran.told, &export.told))
        && [&import, &last].iter().all(|ran| ran.told["sum"] == export.told["sum"]);
    let counted = export.told["secrets"] == n && export.told["customers"] == customers;
    let peak = [&live, &export, &import, &last].iter().map(|ran| ran.peak_mib).fold(gained, f64::max);
    let peak = peak.max(across.peak_mib);
    let kept = equal
        && across.kept
        && counted
        && changed == 0
        && before.len() as u64 == n
        && after.len() as u64 == n
        && resumed == KILLED_AT.len() as u64
        && peak <= MOST_PEAK_MIB;
    let result = format!(
        "equal={equal} changed={changed} kills={} resumed={resumed} mib={:.0} export_per_s={:.0} export_mib_per_s={:.1} \
         live_export_per_s={:.0} import_per_s={:.0} import_mib_per_s={:.1} export_peak_mib={:.0} import_peak_mib={:.0} \
         relay_gained_mib={gained:.0} {}",
        KILLED_AT.len(),
        size as f64 / MIB,
        n as f64 / export.seconds,
        size as f64 / MIB / export.seconds,
        n as f64 / live.seconds,
        n as f64 / import.seconds,
        size as f64 / MIB / import.seconds,
        export.peak_mib.max(live.peak_mib),
        import.peak_mib.max(last.peak_mib),
        across.result,
    );
    Figure { n, result, kept }
}

/// A stage with the same keys, issuer and audit, and no store.
pub fn twin(from: &Stage, plan: &Plan, integrations: &str) -> Stage {
    let stage = Stage::set(&plan.relay, "", integrations);
    for file in ["relay.key", "jwks.json", "issuer.key", "audit.jsonl"] {
        std::fs::copy(from.folder.path().join(file), stage.folder.path().join(file)).unwrap();
    }
    stage
}

/// The same counts.
pub fn same(one: &Value, other: &Value) -> bool {
    ["customers", "data_keys", "secrets", "past_versions"].iter().all(|name| one[name] == other[name])
}

/// A command that ended well.
pub struct Ran {
    pub told: Value,
    pub said: String,
    pub seconds: f64,
    pub peak_mib: f64,
}

impl Ran {
    pub fn of(command: &mut Command, words: impl FnOnce(&mut Command)) -> Self {
        words(command);
        let begun = Instant::now();
        let mut process =
            Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let peak_kib = peak_until_end(&mut process);
        let seconds = begun.elapsed().as_secs_f64();
        let (mut out, mut said) = (String::new(), String::new());
        process.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        process.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let ended = process.0.wait().unwrap();
        assert!(ended.success(), "{command:?}: {said}");
        let told = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{command:?}: {out}"));
        Self { told, said, seconds, peak_mib: peak_kib as f64 / 1024.0 }
    }
}

/// The most that was ever resident, in KiB.
fn peak_until_end(process: &mut Process) -> u64 {
    let mut peak = 0;
    while !process.has_ended() {
        let status = process.proc("status").unwrap_or_default();
        let status = String::from_utf8_lossy(&status).into_owned();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or_default());
        std::thread::sleep(Duration::from_millis(5));
    }
    peak
}

/// Gives the first `bytes` of the export to an import and kills it; whether it went on with an earlier one.
pub fn killed(stage: &Stage, file: &Path, bytes: u64, resume: bool) -> bool {
    let mut command = stage.prepared(&["store", "import", "-"]);
    if resume {
        command.arg("--resume");
    }
    let mut import =
        Process::start(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()));
    let mut stdin = import.0.stdin.take().unwrap();
    let given = std::io::copy(&mut File::open(file).unwrap().take(bytes), &mut stdin);
    let flushed = given.and_then(|_| stdin.flush());
    assert!(!import.has_ended(), "the import ended by itself: {flushed:?}");
    import.kill();
    let mut said = String::new();
    import.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    said.contains("goes on behind block")
}
