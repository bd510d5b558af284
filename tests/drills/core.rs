//! The credential stands in relay's memory no longer than its connection to the vendor.
//!
//! A real `relay run` serves requests over keep-alive and is left idle; then every writable page of the process
//! is read as a debugger would and searched for the credential, raw and in base64. While a connection is pooled
//! one copy per connection is allowed (the HTTP library's write buffer keeps the last head); 2 s after the
//! connection's idle timeout there is none. Needs root, because the process lets nobody else read it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::figure::{Figure, Plan};
use crate::process::Process;
use crate::rig::canary::Canary;
use crate::stage::{BuiltIn, Stage, integration};

const IDLE: Duration = Duration::from_secs(4);

pub fn run(plan: &Plan) -> Figure {
    let n = plan.size(50, 5_000);
    let vendor = BuiltIn::start(&plan.relay);
    let basic = integration("basic", &vendor.origin, &vendor.ca)
        .replace("Bearer {token}", "basic(name, token)")
        .replace("inject", "fields = { name = { secret = false }, token = { secret = true } }\ninject");
    let integrations = integration("vendor", &vendor.origin, &vendor.ca) + &basic;
    let server = format!("workers = 1\nlimits = {{ idle_timeout = \"{}s\" }}", IDLE.as_secs());
    let mut stage = Stage::set(&plan.relay, &server, &integrations);
    stage.start();
    let bearer = format!("Bearer {}", stage.token("acme"));
    let canaries = [Canary::fresh(), Canary::fresh()];
    let plain = stage.secret("acme", "vendor", canaries[0].text());
    let pair =
        stage.secret("acme", "basic", &format!(r#"{{"name":"acme","token":"{}"}}"#, canaries[1].text()));
    std::thread::sleep(Duration::from_millis(300));
    // What the intake leaves behind is told, and is not the data path's.
    let intake = copies(stage.relay(), &canaries);
    stage.stop();
    stage.start();
    let none = copies(stage.relay(), &canaries);
    let mut app = stage.client();
    for _ in 0..n {
        for path in [format!("/vendor/{plain}/get"), format!("/basic/{pair}/get")] {
            let answer = app.request("GET", &path, &[("authorization", &bearer)], b"");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    let pooled = copies(stage.relay(), &canaries);
    std::thread::sleep(IDLE + Duration::from_secs(2));
    let gone = copies(stage.relay(), &canaries);
    // One connection for each integration, and one worker.
    let kept = none == 0 && pooled <= 2 && gone == 0;
    let result =
        format!("intake={intake} restarted={none} pooled={pooled} connections=2 after_timeout={gone}");
    Figure { n, result, kept }
}

/// How often any of the canaries stands in the process's memory, in any form.
fn copies(process: &Process, canaries: &[Canary]) -> usize {
    let memory = memory(process);
    assert!(memory.iter().map(Vec::len).sum::<usize>() > 1 << 20, "next to nothing could be read");
    let forms: Vec<Vec<u8>> = canaries.iter().flat_map(|canary| forms(canary.text().as_bytes())).collect();
    let count = |part: &Vec<u8>| -> usize {
        forms.iter().map(|form| memchr::memmem::find_iter(part, form).count()).sum()
    };
    memory.iter().map(count).sum()
}

/// Parts too: half a credential is one too many.
fn forms(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![value[value.len() / 2..].to_vec()];
    for skip in 0..3 {
        let part = &value[skip..];
        forms.push(STANDARD_NO_PAD.encode(&part[..part.len() / 3 * 3]).into_bytes());
    }
    forms
}

/// Every writable page of the process.
fn memory(process: &Process) -> Vec<Vec<u8>> {
    let maps = String::from_utf8(process.proc("maps").expect("this drill needs root")).unwrap();
    let mut file = File::open(format!("/proc/{}/mem", process.pid())).expect("this drill needs root");
    let mut pages = File::open(format!("/proc/{}/pagemap", process.pid())).expect("this drill needs root");
    let mut parts = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        for (from, to) in held(&mut pages, from, to) {
            let mut part = vec![0; usize::try_from(to - from).unwrap()];
            file.seek(SeekFrom::Start(from)).unwrap();
            // What was given back since the maps were read is no longer there.
            if file.read_exact(&mut part).is_ok() {
                parts.push(part);
            }
        }
    }
    parts
}

/// The parts of a range that are in memory or in swap: address space that was only reserved holds nothing.
fn held(pages: &mut File, from: u64, to: u64) -> Vec<(u64, u64)> {
    let page = rustix::param::page_size() as u64;
    let mut entries = vec![0; usize::try_from((to - from) / page * 8).unwrap()];
    pages.seek(SeekFrom::Start(from / page * 8)).unwrap();
    if pages.read_exact(&mut entries).is_err() {
        return Vec::new();
    }
    let mut held: Vec<(u64, u64)> = Vec::new();
    for (number, entry) in entries.chunks_exact(8).enumerate() {
        if u64::from_ne_bytes(entry.try_into().unwrap()) >> 62 == 0 {
            continue;
        }
        let start = from + number as u64 * page;
        match held.last_mut() {
            Some(last) if last.1 == start => last.1 += page,
            _ => held.push((start, start + page)),
        }
    }
    held
}
