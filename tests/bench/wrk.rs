//! wrk, and what it says: as many requests as fit, over connections that are kept.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::plan::OTHER_CPU;
use crate::process::output;

/// One request as an app would write it.
#[derive(Clone)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// So many bytes of letters.
    pub body: usize,
}

/// What one run came to.
pub struct Loaded {
    pub requests: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// Not connected, not read, not written, late, answered with 4xx or 5xx, or too short.
    pub failed: u64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// Sends `requests` in turn. Every answer has a body of `answer` bytes.
pub fn load(to: SocketAddr, requests: &[Request], answer: u64, connections: u32, seconds: u64) -> Loaded {
    let script = NamedTempFile::new().unwrap();
    std::fs::write(script.path(), lua(requests)).unwrap();
    let mut command = Command::new("taskset");
    command.args(["-c", OTHER_CPU, "wrk", "-t1", "--latency", "--timeout", "10s"]);
    command.arg(format!("-c{connections}")).arg(format!("-d{seconds}s")).arg("-s").arg(script.path());
    let done = output(command.arg(format!("http://{to}/")));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&done.stderr));
    let mut loaded = read(&text).unwrap_or_else(|| panic!("wrk does not print what its script says: {text}"));
    let short = (loaded.requests * answer).saturating_sub(loaded.bytes);
    loaded.failed += short.div_ceil(answer.max(1));
    loaded
}

fn lua(requests: &[Request]) -> String {
    let mut text = String::new();
    // One request is prepared once; several cost a call into Lua each.
    if let [one] = requests {
        let _ = writeln!(text, "wrk.method = {:?}\nwrk.path = {:?}", one.method, one.path);
        for (name, value) in &one.headers {
            let _ = writeln!(text, "wrk.headers[{name:?}] = {value:?}");
        }
        if one.body > 0 {
            let _ = writeln!(text, "wrk.body = string.rep('a', {})", one.body);
        }
    } else {
        text += "local all, at = {}, 0\nfunction init(args)\n";
        for one in requests {
            let headers: Vec<String> = one.headers.iter().map(|(n, v)| format!("[{n:?}]={v:?}")).collect();
            let _ = writeln!(
                text,
                "all[#all + 1] = wrk.format({:?}, {:?}, {{ [\"Host\"]=wrk.headers[\"Host\"], {} }})",
                one.method,
                one.path,
                headers.join(", ")
            );
        }
        text += "end\nfunction request()\n at = at % #all + 1\n return all[at]\nend\n";
    }
    text += "function done(summary, latency)\n\
        local e = summary.errors\n\
        io.write(string.format('BENCH %d %d %d %d %d %d\\n', summary.requests, summary.bytes, summary.duration,\n\
        e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))\n\
        end\n";
    text
}

fn read(text: &str) -> Option<Loaded> {
    let line = text.lines().find_map(|line| line.strip_prefix("BENCH "))?;
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let &[requests, bytes, duration_us, failed, p50, p99] = numbers.as_slice() else { return None };
    let seconds = duration_us as f64 / 1e6;
    Some(Loaded { requests, bytes, seconds, failed, p50_us: p50 as f64, p99_us: p99 as f64 })
}
