//! A process that ends with its owner, and what the kernel knows of it.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// USER_HZ, in which /proc counts CPU time on every Linux that Debian builds.
const TICKS_PER_SECOND: u64 = 100;
/// What a process at rest may still gain.
const STANDS_STILL_KIB: u64 = 256;

pub struct Process(pub Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{} does not start: {error}", shown(command))))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// kill -9, without waiting for its end.
    pub fn kill_now(&self) {
        kill_process(Pid::from_child(&self.0), Signal::KILL).unwrap();
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM, and waits.
    pub fn stop(&mut self) {
        self.end_by(Signal::TERM);
    }

    /// SIGINT, and waits.
    pub fn interrupt(&mut self) {
        self.end_by(Signal::INT);
    }

    fn end_by(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        let begun = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(40), "the process does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// The most memory that was ever resident, in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The memory that is resident now, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The resident memory once it has not grown for two seconds, in KiB. It may shrink: a kernel takes back
    /// pages of the program that nobody touches.
    pub fn rested_kib(&self) -> u64 {
        let begun = Instant::now();
        let (mut high, mut since) = (0, Instant::now());
        loop {
            let now = self.resident_kib();
            if now > high + STANDS_STILL_KIB {
                (high, since) = (now, Instant::now());
            }
            if since.elapsed() >= Duration::from_secs(2) {
                return now;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "its memory grows and grows: {now} KiB");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A field of /proc/PID/status that is in KiB, such as `VmRSS:`.
    pub fn status_kib(&self, name: &str) -> u64 {
        let status = self.proc("status").expect("the process runs");
        let status = String::from_utf8_lossy(&status).into_owned();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// User and system time of all its threads so far, in microseconds.
    pub fn cpu_us(&self) -> u64 {
        let stat = self.proc("stat").expect("the process runs");
        let stat = String::from_utf8_lossy(&stat).into_owned();
        // The second field is a name in parentheses and may hold spaces; utime and stime are 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks * 1_000_000 / TICKS_PER_SECOND
    }

    /// A file of /proc/PID; `None` if it may not be read.
    pub fn proc(&self, file: &str) -> Option<Vec<u8>> {
        std::fs::read(format!("/proc/{}/{file}", self.pid())).ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command to its end; what it printed.
pub fn output(command: &mut Command) -> std::process::Output {
    command.output().unwrap_or_else(|error| panic!("{} does not start: {error}", shown(command)))
}

/// Raises the limit on open files to `wanted`, for this process and those it starts.
pub fn allow_descriptors(wanted: u64) {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let maximum = now.maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap_or_else(|error| {
        panic!("this drill opens {wanted} files in one process and may open only {now:?}: {error}")
    });
}

fn shown(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
