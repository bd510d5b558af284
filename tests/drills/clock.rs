//! A wall clock that is set, by an hour and by five years, forth and back, under load.
//!
//! Debian's faketime is preloaded into relay and moves the wall clock alone, as an operator or NTP would. Nothing
//! panics and no request that the clock has no say in fails: data keys, records, connections and limits go by the
//! steady clock. A caller's token is judged by the wall clock at once. `/readyz` says that it jumped; the audit's
//! order is that of its numbers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::fault::{Fault, shown};
use crate::figure::{Figure, Plan};
use crate::process::output;

const HOUR: i64 = 3600;
const YEARS: i64 = 5 * 365 * 24 * HOUR;
/// Where Debian puts it, by machine.
const LIBRARY: &str = "faketime/libfaketime.so.1";

pub fn run(plan: &Plan) -> Figure {
    let rounds = plan.size(1, 10);
    let folder = TempDir::new().unwrap();
    let clock = Clock { file: folder.path().join("offset"), library: library() };
    clock.set(0);
    let mut fault = Fault::set(plan, folder.path(), folder.path(), 1, &clock.environment());
    let (mut failed, mut answered, mut errors, mut noticed) = (0_u64, 0, 0, None::<f64>);
    let mut hold = |what: &str, so: bool| {
        if !so {
            eprintln!("not so: {what}");
            failed += 1;
        }
    };
    let relay = fault.stage.relay().pid();
    for round in 0..rounds {
        plan.say(&format!("round {round}"));
        for by in [HOUR, -HOUR, YEARS, -YEARS] {
            let now = clock.token(&fault);
            clock.set(by);
            let set = Instant::now();
            let then = clock.token(&fault);
            let (expired, early) = ("token_expired", "token_not_yet_valid");
            let code = if by > 0 { expired } else { early };
            // faketime looks at its file once a second.
            let judged = fault.until(|fault| fault.use_with(&now).code() == code);
            let told = || fault.use_with(&now).code().to_owned();
            let told = judged.map_or_else(told, |_| code.to_owned());
            hold(&format!("by {by} s: a token of before is {code}, not {told:?}"), judged.is_some());
            hold(
                &format!("by {by} s: a token of its own time is believed"),
                fault.use_with(&then).status == 200,
            );
            let found = fault.until(|fault| fault.health("clock") == (true, "jumped".to_owned()));
            hold(&format!("by {by} s: health says that it jumped"), found.is_some());
            let took = found.map(|_| set.elapsed().as_secs_f64());
            noticed = took.map(|took| noticed.map_or(took, |before| before.max(took)));
            let (paced, ()) = fault.under_load_of(&then, |_| std::thread::sleep(Duration::from_secs(2)));
            answered += paced.answered();
            errors += paced.errors;
            hold(&format!("by {by} s: no request failed"), paced.errors == 0 && paced.answered() > 100);
            hold(&format!("by {by} s: a secret is added"), fault.add().status == 201);
            clock.set(0);
            let back = fault.until(|fault| fault.health("clock") == (true, "ok".to_owned()));
            hold("it says that the clock is back", back.is_some());
            hold("a token of now is believed again", fault.use_warm().status == 200);
        }
    }
    hold("it is the same process", !fault.stage.has_ended() && fault.stage.relay().pid() == relay);
    let log = std::fs::read_to_string(fault.stage.log()).unwrap();
    hold("nothing panicked", !log.contains("panicked"));
    hold("the log tells of the jumps", log.contains("the wall clock moved by"));
    let (intents, good) = fault.audit(folder.path());
    hold("the audit's order is kept", good && intents >= fault.sends());
    let result = format!(
        "failed={failed} jumps={} answered={answered} errors={errors} noticed_s={} audit={}",
        rounds * 4,
        shown(noticed),
        if good { "good" } else { "altered" },
    );
    Figure { n: rounds, result, kept: failed == 0 }
}

/// The wall clock of those who are started with it.
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn set(&self, by: i64) {
        // Renamed, so that nobody reads half of it.
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{by:+}\n")).unwrap();
        std::fs::rename(&next, &self.file).unwrap();
    }

    fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        let pairs = [
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file)),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DONT_RESET", "1".to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// A token of ten minutes, of an issuer whose clock is set as well.
    fn token(&self, fault: &Fault) -> String {
        let mut command = Command::new(fault.stage.binary());
        command
            .args(["token", "mint", "--customer", "warm", "--ttl", "10m", "--config"])
            .arg(fault.stage.config());
        let done = output(command.envs(self.environment()));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
    }
}

fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = folders.map(|folder| folder.path().join(LIBRARY)).filter(|path| path.exists());
    found.next().expect("faketime is not installed")
}
