//! CPU time of a process between two moments, all threads, in microseconds.
//!
//! The scheduler counts each thread in nanoseconds (/proc/PID/task/TID/schedstat), but what a thread that
//! has ended used is gone from there; the process's own count keeps it, in ticks of 10 ms. The fine count
//! is taken if the two agree, the coarse one otherwise.

use std::collections::BTreeMap;
use std::fs;

use crate::process::Process;

/// What the two counts may differ by: a share, and the ticks at both ends.
const SHARE: f64 = 0.03;
const TICKS_US: f64 = 30_000.0;

pub struct Meter<'p> {
    process: &'p Process,
    threads: BTreeMap<String, u64>,
    coarse_us: u64,
}

/// What was spent.
pub struct Spent {
    pub us: f64,
    /// Taken from the ticks, because the fine count was missing or did not agree.
    pub coarse: bool,
}

impl<'p> Meter<'p> {
    pub fn start(process: &'p Process) -> Self {
        Self { process, threads: threads(process), coarse_us: process.cpu_us() }
    }

    pub fn stop(self) -> Spent {
        let coarse = (self.process.cpu_us() - self.coarse_us) as f64;
        let spent = |(thread, now): (String, u64)| now - self.threads.get(&thread).copied().unwrap_or(0);
        let fine = threads(self.process).into_iter().map(spent).sum::<u64>() as f64 / 1_000.0;
        let agree = (fine - coarse).abs() <= SHARE * coarse + TICKS_US;
        if agree && fine > 0.0 {
            Spent { us: fine, coarse: false }
        } else {
            Spent { us: coarse, coarse: true }
        }
    }
}

/// Nanoseconds on a CPU so far, by thread.
fn threads(process: &Process) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).expect("the process runs");
    let one = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let on_cpu = text.split(' ').next()?.parse().ok()?;
        Some((task.file_name().to_string_lossy().into_owned(), on_cpu))
    };
    tasks.flatten().filter_map(one).collect()
}
