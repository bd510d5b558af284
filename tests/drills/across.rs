//! A store moves to another engine and back: from sled into PostgreSQL, and from there into a new sled.
//!
//! Each import is killed -9 once, behind half of what it is given, and resumed. What the export of the PostgreSQL store
//! says must be what the export of the sled store said, and both stores must tell each secret's fingerprint as before.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::figure::Plan;
use crate::moving::{Ran, killed, same, twin};
use crate::rig::postgres::Server;
use crate::rotate::fingerprints;
use crate::stage::Stage;
use crate::stock::EACH;

/// PostgreSQL's own default of what it keeps in memory.
const SETTINGS: &str = "shared_buffers = 128MB\n";

/// What came out.
pub struct Across {
    pub kept: bool,
    pub peak_mib: f64,
    pub result: String,
}

/// What the stopped relay `from` held when it wrote `file` and said `told`, whose secrets have these fingerprints.
pub fn run(
    plan: &Plan,
    (from, integrations): (&Stage, &str),
    (file, told): (&Path, &Value),
    before: &HashMap<String, String>,
) -> Across {
    let customers = told["customers"].as_u64().unwrap();
    let server = Server::on_disk(SETTINGS);
    let database = server.database();
    plan.say("from sled into PostgreSQL");
    let mut there = twin(from, plan, integrations);
    there.keep_in(&format!("engine = \"postgres\"\nurl = \"{}\"", database.url()));
    let into = Leg::over(&there, file);
    plan.say("from PostgreSQL into sled");
    let again = there.folder.path().join("store.export");
    let words = ["--format", "json", "store", "export"];
    let export = Ran::of(&mut there.prepared(&words), |command| {
        command.arg("--output").arg(&again);
    });
    let mut home = twin(from, plan, integrations);
    let back = Leg::over(&home, &again);
    plan.say("every secret, in both");
    let changed = [&mut there, &mut home].map(|stage| {
        stage.start();
        let after = fingerprints(stage, customers);
        stage.stop();
        before.iter().filter(|(id, print)| after.get(*id) != Some(print)).count()
            + after.len().abs_diff(before.len())
    });
    let all = [&into.last, &export, &back.last];
    let equal = all.iter().all(|ran| same(&ran.told, told) && ran.told["sum"] == told["sum"]);
    let resumed = u64::from(into.resumed) + u64::from(back.resumed);
    let per_s = |seconds: f64| (customers * EACH) as f64 / seconds;
    let result = format!(
        "across_equal={equal} across_changed={} across_resumed={resumed} into_postgres_per_s={:.0} postgres_export_per_s={:.0} \
         into_sled_per_s={:.0}",
        changed[0] + changed[1],
        per_s(into.seconds),
        per_s(export.seconds),
        per_s(back.seconds),
    );
    let peak_mib = all.iter().map(|ran| ran.peak_mib).fold(0.0, f64::max);
    Across { kept: equal && resumed == 2 && changed == [0, 0], peak_mib, result }
}

/// An import, killed and resumed.
struct Leg {
    last: Ran,
    resumed: bool,
    /// Of both parts; the killed one's work counts.
    seconds: f64,
}

impl Leg {
    fn over(stage: &Stage, file: &Path) -> Self {
        let size = std::fs::metadata(file).unwrap().len();
        let begun = Instant::now();
        killed(stage, file, size / 2, false);
        let words = ["--format", "json", "store", "import", "--resume"];
        let last = Ran::of(&mut stage.prepared(&words), |command| {
            command.arg(file);
        });
        let resumed = last.said.contains("goes on behind block");
        Self { last, resumed, seconds: begun.elapsed().as_secs_f64() }
    }
}
