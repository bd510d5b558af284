//! Every request of a load is answered and recorded, and the record shows every edit.

use std::path::Path;

use serde_json::Value;

use crate::figure::{Figure, Plan};
use crate::load::h2load;
use crate::stage::{BuiltIn, Stage, integration};

const CONNECTIONS: &str = "64";

pub fn run(plan: &Plan) -> Figure {
    let n = plan.size(500, 10_000);
    let vendor = BuiltIn::start(&plan.relay);
    let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &vendor.origin, &vendor.ca));
    stage.start();
    let secret = stage.secret("acme", "vendor", "sk-drill-0123456789abcdef0123456789");
    let bearer = format!("Bearer {}", stage.token("acme"));
    plan.say("load");
    let loaded = h2load(
        &[],
        &["-c", CONNECTIONS, "-n", &n.to_string()],
        &format!("http://{}/vendor/hello", stage.app),
        &[("authorization", &bearer), ("relay-secret", &secret)],
    );
    // In order, so that an anchor seals everything that was written.
    stage.stop();
    stage.start();
    plan.say("verify");
    let whole = verify(&stage, &stage.audit());
    let count = |kind: &str| whole["kinds"][kind].as_u64().unwrap_or(0);
    let (intents, outcomes) = (count("intent"), count("outcome"));
    let verified = whole["good"] == true && whole["unfinished"] == 0;
    let flip = flip_is_found(&stage);
    let cut = cuts_are_found(&stage);
    let kept = loaded.errors == 0
        && loaded.succeeded == n
        && (intents, outcomes, count("refused")) == (n, n, 0)
        && verified
        && flip
        && cut;
    let result = format!(
        "errors={} records={} verify={} flip={} cut={} rps={:.0}",
        loaded.errors,
        intents + outcomes,
        if verified { "ok" } else { "bad" },
        if flip { "found" } else { "missed" },
        if cut { "found" } else { "missed" },
        loaded.per_second
    );
    Figure { n, result, kept }
}

/// `relay audit verify FILE` against the running relay's key and newest anchor.
fn verify(stage: &Stage, file: &Path) -> Value {
    let done = stage.command(&["--format", "json", "audit", "verify", file.to_str().unwrap()], "");
    let verdict: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|_| panic!("no verdict: {}", String::from_utf8_lossy(&done.stderr)));
    assert_eq!(done.status.success(), verdict["good"] == true, "the exit code says something else");
    verdict
}

/// One byte in the middle is another: exactly that record must be named.
fn flip_is_found(stage: &Stage) -> bool {
    let mut bytes = std::fs::read(stage.audit()).unwrap();
    let middle = bytes.len() / 2;
    let start = memchr::memrchr(b'\n', &bytes[..middle]).unwrap() + 1;
    let line = bytes[..start].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    let end = start + memchr::memchr(b'\n', &bytes[start..]).unwrap();
    let record: Value = serde_json::from_slice(&bytes[start..end]).unwrap();
    // Inside the request's path, so that the line is still a record: only the chain can tell.
    let at = start + memchr::memmem::find(&bytes[start..end], b"/hello").expect("a path") + 1;
    bytes[at] ^= 1;
    let verdict = verify(stage, &copy(stage, &bytes));
    let problems = verdict["problems"].as_array().unwrap();
    let [problem] = problems.as_slice() else { return false };
    verdict["good"] == false
        && problem["line"] == line
        && problem["seq"] == record["seq"]
        && problem["chain"] == record["chain"]
}

/// The end is missing, from the newest anchor on or from three quarters on. What stands behind the newest
/// anchor alone is vouched for by nothing yet.
fn cuts_are_found(stage: &Stage) -> bool {
    let bytes = std::fs::read(stage.audit()).unwrap();
    let line_of = |at: usize| memchr::memrchr(b'\n', &bytes[..at]).unwrap() + 1;
    let newest = memchr::memmem::rfind(&bytes, b"\"chain\":\"anchor\"").expect("an anchor");
    [line_of(newest), line_of(bytes.len() / 4 * 3)].into_iter().all(|at| {
        let verdict = verify(stage, &copy(stage, &bytes[..at]));
        verdict["good"] == false && verdict["problems"].to_string().contains("it was cut")
    })
}

fn copy(stage: &Stage, bytes: &[u8]) -> std::path::PathBuf {
    let path = stage.folder.path().join("copy.jsonl");
    std::fs::write(&path, bytes).unwrap();
    path
}
