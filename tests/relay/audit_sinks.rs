use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use relay::app::Options;
use relay::audit::collector::Otlp;
use relay::audit::several::{Trust, find, verify_files};
use relay::audit::{
    Anchor, Chain, Durability, Event, FanOut, FileSink, Kind, Log, Outlet, Setup, Signer, Sink, Verdict,
    verify,
};
use relay::model::RequestId;
use relay::net::otlp::Collector;
use relay::net::tls::{Roots, client_config};
use relay::secret::Secret;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::rig::vendor::{self, Vendor};
use crate::rig::{Rig, Settings};

/// A sink that fails or hangs when told to.
#[derive(Clone, Default)]
struct Moody {
    bytes: Arc<Mutex<Vec<u8>>>,
    fails: Arc<AtomicBool>,
    hangs: Arc<(Mutex<bool>, Condvar)>,
}

impl Moody {
    fn hang(&self, hangs: bool) {
        *self.hangs.0.lock().unwrap() = hangs;
        self.hangs.1.notify_all();
    }

    fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

impl Outlet for Moody {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let hangs = self.hangs.0.lock().unwrap();
        drop(self.hangs.1.wait_while(hangs, |hangs| *hangs).unwrap());
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }
}

fn signer() -> Signer {
    Signer::from_seed(&Secret::new(vec![7; 32])).unwrap()
}

fn worker() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn open(sink: impl Sink + 'static) -> (Log, Arc<Mutex<Option<Anchor>>>) {
    let kept: Arc<Mutex<Option<Anchor>>> = Arc::default();
    let keep = kept.clone();
    let setup = Setup {
        replica: "here".to_owned(),
        durability: Durability::Written,
        signer: signer(),
        newest: None,
        generation: Arc::new(AtomicU64::new(3)),
        on_anchor: Box::new(move |anchor| *keep.lock().unwrap() = Some(anchor)),
    };
    (Log::open(Box::new(sink), setup).unwrap(), kept)
}

fn file(path: &Path) -> Option<(FileSink, Durability)> {
    Some((FileSink::open(path).unwrap(), Durability::Written))
}

fn outlet(name: &'static str, moody: &Moody) -> (&'static str, Box<dyn Outlet>) {
    (name, Box::new(moody.clone()))
}

fn intent() -> Event<'static> {
    Event { request_id: Some(RequestId::fresh()), ..Event::of(Kind::Intent) }
}

async fn write(chain: &Chain, count: usize) {
    for _ in 0..count {
        chain.record(&intent()).await.unwrap();
    }
}

/// Waits for at most 10 s.
fn until(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(10), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn judge(bytes: &[u8], newest: &Mutex<Option<Anchor>>) -> Verdict {
    verify(bytes, Some(signer().public_key()), newest.lock().unwrap().as_ref()).unwrap()
}

fn fault(log: &Log, name: &str) -> Option<String> {
    log.members().iter().find(|member| member.name() == name).unwrap().fault()
}

#[test]
fn one_sink_is_enough_and_the_one_that_was_down_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let second = Moody::default();
    let (log, newest) = open(FanOut::new(file(&path), vec![outlet("second", &second)]).unwrap());
    let chain = log.chain();
    worker().block_on(write(&chain, 5));
    second.fail(true);
    worker().block_on(write(&chain, 20));
    until("the fault is told", || fault(&log, "second").is_some());
    assert!(log.healthy() && fault(&log, "file").is_none());
    second.fail(false);
    until("it works again", || fault(&log, "second").is_none());
    worker().block_on(write(&chain, 5));
    log.close().unwrap();
    let written = std::fs::read(&path).unwrap();
    assert_eq!(second.bytes(), written, "both have the same lines in the same order");
    let verdict = judge(&written, &newest);
    assert!(verdict.is_good() && verdict.kinds["intent"] == 30, "{verdict:#?}");
    assert!(log.members().iter().all(|member| member.lost() == 0));
}

#[test]
fn where_no_sink_can_be_written_nothing_is_acknowledged() {
    let second = Moody::default();
    let full = (FileSink::open(Path::new("/dev/full")).unwrap(), Durability::Written);
    let (log, _) = open(FanOut::new(Some(full), vec![outlet("second", &second)]).unwrap());
    let chain = log.chain();
    worker().block_on(write(&chain, 3));
    assert!(log.healthy() && fault(&log, "file").is_some(), "the full file is told of, the other is enough");
    second.fail(true);
    worker().block_on(async {
        let error = chain.record(&intent()).await.unwrap_err();
        assert!(error.0.contains("file: ") && error.0.contains("second: "), "{error}");
    });
    assert!(!log.healthy());
    second.fail(false);
    let runtime = worker();
    until("it works again", || runtime.block_on(chain.record(&intent())).is_ok());
    assert!(log.close().is_ok());
}

#[test]
fn a_sink_that_hangs_holds_up_no_other_and_if_all_hang_nothing_is_acknowledged() {
    let (first, second) = (Moody::default(), Moody::default());
    let fan = FanOut::new(None, vec![outlet("first", &first), outlet("second", &second)]).unwrap();
    let (log, newest) = open(fan);
    let chain = log.chain();
    worker().block_on(write(&chain, 2));
    first.hang(true);
    worker().block_on(write(&chain, 50));
    until("the one that hangs is told of", || fault(&log, "first").is_some());
    assert!(log.healthy());
    second.hang(true);
    worker().block_on(async {
        let error = chain.record(&intent()).await.unwrap_err();
        assert!(error.0.contains("250 ms"), "{error}");
        assert!(chain.record(&intent()).await.is_err());
    });
    until("that is told of", || !log.healthy());
    second.hang(false);
    let runtime = worker();
    until("it works again", || runtime.block_on(chain.record(&intent())).is_ok());
    first.hang(false);
    log.close().unwrap();
    for sink in [&first, &second] {
        assert!(judge(&sink.bytes(), &newest).is_good());
    }
}

#[test]
fn what_a_sink_lost_is_counted_and_marked_in_it() {
    let (slow, quick) = (Moody::default(), Moody::default());
    let fan = FanOut::new(None, vec![outlet("slow", &slow), outlet("quick", &quick)]).unwrap();
    let (log, newest) = open(fan);
    let chain = log.chain();
    slow.hang(true);
    let long = "x".repeat(500);
    let mut written = 0;
    let lost = || log.members()[0].lost();
    worker().block_on(async {
        while lost() < 1000 {
            let mut last = None;
            for _ in 0..500 {
                last = Some(chain.record(&Event { note: Some(&long), path: Some(&long), ..intent() }));
            }
            last.unwrap().await.unwrap();
            written += 500;
            assert!(written < 200_000, "the queue of a sink that hangs has no bound");
        }
    });
    slow.hang(false);
    until("it has caught up", || {
        worker().block_on(write(&chain, 1));
        slow.bytes().windows(12).any(|part| part == b"\"kind\":\"gap\"")
    });
    log.close().unwrap();
    let count = |bytes: &[u8]| bytes.iter().filter(|b| **b == b'\n').count() as u64;
    let text = String::from_utf8(slow.bytes()).unwrap();
    let gaps: Vec<Value> = text
        .lines()
        .filter(|line| line.contains("\"kind\":\"gap\""))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: u64 = gaps.iter().map(|gap| gap["lost"].as_u64().unwrap()).sum();
    assert_eq!(told, log.members()[0].lost());
    assert_eq!(
        count(&quick.bytes()),
        count(text.as_bytes()) - gaps.len() as u64 + told,
        "each line or its gap"
    );
    assert!(judge(&quick.bytes(), &newest).is_good());
    let verdict = judge(text.as_bytes(), &newest);
    assert!(!verdict.is_good(), "a gap excuses nothing");
    assert!(verdict.warnings.iter().any(|w| w.contains("lines are missing")), "{:?}", verdict.warnings);
}

#[test]
fn segments_end_beside_other_sinks_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let rotation = relay::audit::Rotation { bytes: Some(8 * 1024), ..relay::audit::Rotation::default() };
    let sink = FileSink::rotating(&path, rotation).unwrap();
    let second = Moody::default();
    let (log, newest) =
        open(FanOut::new(Some((sink, Durability::Written)), vec![outlet("second", &second)]).unwrap());
    let chain = log.chain();
    for written in (20..=200).step_by(20) {
        worker().block_on(write(&chain, 20));
        // A file that is behind its neighbour takes all that waits at once, into one segment.
        until("the file has caught up", || intents(folder.path()) >= written);
    }
    log.close().unwrap();
    assert!(relay::audit::segments::segments(&path).unwrap().len() > 2);
    let trust = Trust {
        key: signer().public_key(),
        newest: newest.lock().unwrap().clone().into_iter().collect(),
        whole: true,
        part: false,
    };
    let verdicts = verify_files(find(&[path], false).unwrap(), &trust, &mut |file| Box::new(file)).unwrap();
    assert!(verdicts[0].is_good() && verdicts[0].kinds["intent"] == 200, "{:#?}", verdicts[0].problems);
    assert!(judge(&second.bytes(), &newest).is_good(), "one stream of the same lines");
}

/// How many stand in the folder's files.
fn intents(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    texts.map(|text| text.matches("\"kind\":\"intent\"").count()).sum()
}

/// A collector that answers with this status, and rejects so many records of each batch.
fn collector(status: &Arc<AtomicU16>, rejects: &Arc<AtomicU64>) -> Vendor {
    let (status, rejects) = (status.clone(), rejects.clone());
    Vendor::start(move |_, out| {
        let body = match rejects.load(Ordering::SeqCst) {
            0 => "{\"partialSuccess\":{}}".to_owned(),
            some => format!(
                "{{\"partialSuccess\":{{\"rejectedLogRecords\":\"{some}\",\"errorMessage\":\"no\"}}}}"
            ),
        };
        vendor::answer(out, status.load(Ordering::SeqCst), &[], body.as_bytes());
    })
}

/// Every line that the collector was given, in its order, batches that it did not acknowledge left out by `good`.
fn bodies(collector: &Vendor) -> Vec<String> {
    let all = collector.requests();
    let requests = all.iter().map(|request| serde_json::from_slice::<Value>(&request.body).unwrap());
    let mut bodies = Vec::new();
    for request in requests {
        let resource = &request["resourceLogs"][0];
        let attribute = |of: &Value, key: &str| {
            let all = of["attributes"].as_array().unwrap();
            let found = all.iter().find(|attribute| attribute["key"] == key).unwrap();
            found["value"]["stringValue"].as_str().unwrap().to_owned()
        };
        assert_eq!(attribute(&resource["resource"], "service.name"), "relay");
        for record in resource["scopeLogs"][0]["logRecords"].as_array().unwrap() {
            let body = record["body"]["stringValue"].as_str().unwrap();
            let line: Value = serde_json::from_str(body).unwrap();
            assert_eq!(attribute(record, "relay.audit.kind"), line["kind"].as_str().unwrap());
            assert!(
                record["timeUnixNano"].as_str().unwrap().parse::<u64>().unwrap() > 1_700_000_000_000_000_000
            );
            assert_eq!(record["severityNumber"], 9);
            bodies.push(body.to_owned());
        }
    }
    bodies
}

#[test]
fn a_collector_gets_every_line_and_its_rejection_degrades_while_the_file_serves() {
    let (status, rejects): (Arc<AtomicU16>, Arc<AtomicU64>) = (Arc::new(AtomicU16::new(200)), Arc::default());
    let collector = collector(&status, &rejects);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), &collector.ca_pem).unwrap();
    std::fs::write(folder.path().join("token"), "Bearer collectors-own-token").unwrap();
    let audit_more = format!(
        "replica = \"relay-3\"\notlp = {{ endpoint = \"https://localhost:{}/v1/logs\", ca_file = \"{}\", headers = {{ authorization = \"file:{}\" }} }}\n",
        collector.port,
        folder.path().join("ca.pem").display(),
        folder.path().join("token").display()
    );
    let mut rig = Rig::with(Settings { audit_more, ..Settings::default() }, |request, out| {
        vendor::answer_to(request, out, b"ok");
    });
    let id = rig.secret("acme");
    for _ in 0..3 {
        assert_eq!(rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")).status, 200);
    }
    let request = collector.last();
    assert_eq!((request.target(), request.header("content-type")), ("/v1/logs", Some("application/json")));
    assert_eq!(request.header("authorization"), Some("Bearer collectors-own-token"));
    let degraded = || rig.admin("GET", "/readyz", None).json();
    assert_eq!(degraded()["degraded"], false, "{}", degraded());

    rejects.store(1, Ordering::SeqCst);
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")).status, 200);
    until("the rejection is told", || degraded()["degraded"] == true);
    let audit =
        degraded()["checks"].as_array().unwrap().iter().find(|c| c["name"] == "audit").unwrap().clone();
    assert_eq!((&audit["state"], &degraded()["ready"]), (&"sink_down".into(), &true.into()));
    let metrics = rig.running().metrics().render();
    assert!(metrics.contains("relay_audit_sink_up{sink=\"otlp\"} 0"), "{metrics}");
    assert!(metrics.contains("relay_audit_sink_up{sink=\"file\"} 1"), "{metrics}");
    rejects.store(0, Ordering::SeqCst);
    until("it works again", || degraded()["degraded"] == false);
    rig.stop();
    let text = std::fs::read_to_string(rig.audit_path()).unwrap();
    let mut told = bodies(&collector);
    // What was rejected was given again.
    let mut seen = std::collections::BTreeSet::new();
    told.retain(|line| seen.insert(line.clone()));
    assert_eq!(told, text.lines().collect::<Vec<_>>());
    assert!(!text.contains("collectors-own-token"));
}

#[test]
fn with_a_collector_alone_a_request_waits_for_its_acknowledgement() {
    let (status, rejects): (Arc<AtomicU16>, Arc<AtomicU64>) = (Arc::new(AtomicU16::new(200)), Arc::default());
    let collector = collector(&status, &rejects);
    let carrier = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (handle, url) = (carrier.handle().clone(), format!("https://localhost:{}/v1/logs", collector.port));
    let pem = collector.ca_pem.clone();
    let options = move || {
        let collector = Collector {
            url: url.clone(),
            headers: http::HeaderMap::new(),
            tls: Some(client_config(Roots::Pem(pem.as_bytes())).unwrap()),
            instance: "here".to_owned(),
        };
        let otlp = Otlp { collector, runtime: handle.clone() };
        let fan = FanOut::new(None, vec![("otlp", Box::new(otlp))]).unwrap();
        Options { sink: Some(Box::new(fan)), ..Options::default() }
    };
    let rig = Rig::with(Settings { options: Box::new(options), ..Settings::default() }, |request, out| {
        vendor::answer_to(request, out, b"ok");
    });
    let id = rig.secret("acme");
    let path = format!("/vendor/{id}/x");
    assert_eq!(rig.get(&path, &rig.token("acme")).status, 200);
    let intents = bodies(&collector).iter().filter(|line| line.contains("\"kind\":\"intent\"")).count();
    assert_eq!(intents, 1, "the intent was there before the request went out");
    let sent = rig.vendor.requests().len();
    status.store(503, Ordering::SeqCst);
    assert_eq!(rig.get(&path, &rig.token("acme")).code(), "audit_unavailable");
    assert_eq!(rig.vendor.requests().len(), sent, "nothing went out");
    status.store(200, Ordering::SeqCst);
    until("it works again", || rig.get(&path, &rig.token("acme")).status == 200);
}
