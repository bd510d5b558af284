//! On what the figures were taken.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::plan::Plan;
use crate::process::output;

pub fn print(plan: &Plan) {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    println!("- machine: {}, {cores} cores", model.trim_start_matches([' ', '\t', ':']));
    println!("- kernel: Linux {}", read("/proc/sys/kernel/osrelease").trim());
    println!("- busy in the second before: {:.0} % of all cores", busy(Duration::from_secs(1)) * 100.0);
    println!("- relay: {}, commit {}", first(&plan.relay, &["--version"]), plan.commit);
    println!("- nginx: {}", first(Path::new("nginx"), &["-v"]));
    println!("- HAProxy: {}", first(Path::new("haproxy"), &["-v"]));
    // Its path, `version:`, a hash, the version, how it was built.
    let envoy = first(&plan.envoy, &["--version"]);
    println!(
        "- Envoy: {}",
        envoy.rsplit("version: ").next().and_then(|v| v.split('/').nth(1)).unwrap_or(&envoy)
    );
    println!("- wrk: {}", first(Path::new("wrk"), &["-v"]));
    println!("- h2load: {}", first(Path::new("h2load"), &["--version"]));
    let (rounds, seconds) = (plan.rounds(), plan.seconds());
    println!("- {rounds} rounds of {seconds} s, medians; CPU time is of the proxy's process, all threads");
}

/// What all cores have done since the machine began, in clock ticks.
pub struct Ticks {
    all: f64,
    idle: f64,
    stolen: f64,
}

impl Ticks {
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap();
        // user nice system idle iowait irq softirq steal; guests count as user already
        let ticks = text.lines().next().unwrap().split_whitespace().skip(1).take(8);
        let ticks: Vec<f64> = ticks.map(|word| word.parse().unwrap()).collect();
        Self { all: ticks.iter().sum(), idle: ticks[3] + ticks[4], stolen: ticks[7] }
    }

    /// The share of all cores since then that a virtual machine's host gave to others, though it was wanted here.
    pub fn stolen(&self) -> f64 {
        let now = Self::now();
        (now.stolen - self.stolen) / (now.all - self.all)
    }
}

/// The share of all cores that anything used for so long; nothing of ours runs yet.
fn busy(time: Duration) -> f64 {
    let before = Ticks::now();
    std::thread::sleep(time);
    let now = Ticks::now();
    1.0 - (now.idle - before.idle) / (now.all - before.all)
}

/// The first line with words that a program says, on either output.
fn first(program: &Path, words: &[&str]) -> String {
    let said = output(Command::new(program).args(words));
    let text = [said.stdout, said.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown");
    line.to_owned()
}
