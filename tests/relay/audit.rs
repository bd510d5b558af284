//! The audit shows every edit, and nothing is acknowledged that is not written.
#![allow(clippy::indexing_slicing)]

use std::env::current_exe;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use relay::audit::several::{Trust, find};
use relay::audit::{
    Anchor, Chain, Durability, Event, FileSink, Kind, Log, MemorySink, PublicKey, Setup, Signer, Sink,
    Verdict, Written, verify,
};
use relay::cli;
use relay::model::{Customer, IntegrationName, RequestId, SecretId};
use relay::secret::Secret;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// What the store would keep.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<Anchor>>>);

impl Kept {
    fn newest(&self) -> Option<Anchor> {
        self.0.lock().unwrap().clone()
    }
}

fn signer() -> Signer {
    Signer::from_seed(&Secret::new(vec![7; 32])).unwrap()
}

fn key() -> PublicKey {
    signer().public_key()
}

fn open(sink: impl Sink + 'static, kept: &Kept) -> Log {
    open_as(sink, kept, Durability::Written)
}

fn open_as(sink: impl Sink + 'static, kept: &Kept, durability: Durability) -> Log {
    let keep = kept.clone();
    let setup = Setup {
        replica: "here".to_owned(),
        durability,
        signer: signer(),
        newest: kept.newest(),
        generation: Arc::new(AtomicU64::new(3)),
        on_anchor: Box::new(move |anchor| *keep.0.lock().unwrap() = Some(anchor)),
    };
    Log::open(Box::new(sink), setup).unwrap()
}

fn worker() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// An intent and its outcome, as a request writes them.
fn events(customer: &Customer, integration: &IntegrationName, id: RequestId) -> [Event<'static>; 2] {
    // Leaked: a test's few events live as long as the process.
    let customer: &'static Customer = Box::leak(Box::new(customer.clone()));
    let integration: &'static IntegrationName = Box::leak(Box::new(integration.clone()));
    let intent = Event {
        request_id: Some(id),
        iss: Some("https://auth.saas.example"),
        customer: Some(customer),
        secret: Some(SecretId::from_bytes([1; 16])),
        version: Some(1),
        integration: Some(integration),
        method: Some("POST"),
        path: Some("/chat.postMessage"),
        ..Event::of(Kind::Intent)
    };
    let outcome = Event { kind: Kind::Outcome, status: Some(200), reflected: Some(false), ..intent };
    [intent, outcome]
}

fn request() -> [Event<'static>; 2] {
    events(&Customer::parse("acme").unwrap(), &IntegrationName::parse("slack").unwrap(), RequestId::fresh())
}

async fn write(chain: &Chain, requests: usize) {
    for _ in 0..requests {
        for event in request() {
            chain.record(&event).await.unwrap();
        }
    }
}

fn judge(bytes: &[u8], newest: Option<&Anchor>) -> Verdict {
    verify(bytes, Some(key()), newest).unwrap()
}

#[track_caller]
fn assert_good(verdict: &Verdict) {
    assert!(verdict.is_good(), "{:#?}", verdict.problems);
}

/// 40 records in 3 chains, interleaved, and 3 anchors: at start, in between, at the end.
fn small_file() -> (Vec<u8>, Anchor) {
    let (sink, kept) = (MemorySink::default(), Kept::default());
    let log = open(sink.clone(), &kept);
    let chains = [log.chain(), log.chain(), log.chain()];
    worker().block_on(async {
        for round in 0..20 {
            write(&chains[round % 3], 1).await;
            if round == 9 {
                log.anchor_now().await.unwrap();
            }
        }
    });
    log.close().unwrap();
    (sink.bytes(), kept.newest().unwrap())
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

fn is_anchor(line: &[u8]) -> bool {
    line.windows(15).any(|part| part == b"\"kind\":\"anchor\"")
}

#[test]
fn an_untouched_file_verifies_and_its_records_are_counted() {
    let (bytes, newest) = small_file();
    let verdict = judge(&bytes, Some(&newest));
    assert_good(&verdict);
    assert_eq!(verdict.warnings, Vec::<String>::new());
    assert_eq!((verdict.records, verdict.kinds["intent"], verdict.kinds["anchor"]), (43, 20, 3));
    assert_eq!((verdict.unfinished, verdict.unsealed), (0, 0));
    assert_eq!(verdict.newest_anchor.as_deref(), Some(newest.time()));
    assert_eq!(newest.generation(), 3);
}

#[test]
fn every_flipped_bit_is_found_and_the_altered_record_is_named() {
    let (bytes, newest) = small_file();
    let mut start = 0;
    for (index, line) in lines(&bytes).iter().enumerate() {
        for at in start..start + line.len() {
            let bit = 1 << (at % 8);
            let mut edited = bytes.clone();
            edited[at] ^= bit;
            let verdict = judge(&edited, Some(&newest));
            assert!(!verdict.is_good(), "byte {at} of line {}, bit {bit}", index + 1);
            // A line feed lost or won makes one line of two, or two of one.
            let joined = bytes[at] == b'\n' || edited[at] == b'\n';
            if !joined && !is_anchor(line) {
                let named: Vec<_> = verdict.problems.iter().map(|problem| problem.line).collect();
                assert_eq!(named, [index as u64 + 1], "byte {at}, bit {bit}: {:#?}", verdict.problems);
            }
        }
        start += line.len();
    }
}

#[test]
fn every_deleted_doubled_or_moved_line_is_found() {
    let (bytes, newest) = small_file();
    let lines = lines(&bytes);
    let found = |edited: Vec<Vec<u8>>, what: &str| {
        assert!(!judge(&edited.concat(), Some(&newest)).is_good(), "{what} was not found");
    };
    for at in 0..lines.len() {
        let mut deleted = lines.clone();
        deleted.remove(at);
        found(deleted, &format!("deletion of line {}", at + 1));
        for to in 0..=lines.len() {
            let mut doubled = lines.clone();
            doubled.insert(to, lines[at].clone());
            found(doubled, &format!("copy of line {} before line {}", at + 1, to + 1));
        }
        for other in at + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(at, other);
            found(swapped, &format!("swap of lines {} and {}", at + 1, other + 1));
        }
    }
}

#[test]
fn numbers_at_the_end_of_their_range_are_judged_like_others() {
    let (bytes, newest) = small_file();
    let hash = |line: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, line.as_bytes());
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, digest)
    };
    let record = |seq: u64, prev: &str| {
        format!(
            "{{\"v\":1,\"chain\":\"x\",\"seq\":{seq},\"prev\":\"{prev}\",\"time\":\"\",\"kind\":\"intent\"}}"
        )
    };
    let mut edited = bytes;
    let mut prev = "A".repeat(43);
    for seq in [u64::MAX - 2, u64::MAX - 1, u64::MAX, u64::MAX, 0, 1] {
        let line = record(seq, &prev);
        prev = hash(&line);
        edited.extend_from_slice(line.as_bytes());
        edited.push(b'\n');
    }
    assert!(!judge(&edited, Some(&newest)).is_good());
}

#[test]
fn a_deleted_record_is_named_by_its_number() {
    let (bytes, newest) = small_file();
    let mut lines = lines(&bytes);
    lines.remove(5);
    let verdict = judge(&lines.concat(), Some(&newest));
    let [problem] = verdict.problems.as_slice() else { panic!("{:#?}", verdict.problems) };
    assert!(problem.what.contains("missing"), "{problem}");
}

#[test]
fn a_whole_chain_that_is_removed_or_made_up_is_found() {
    let (bytes, newest) = small_file();
    let without: Vec<_> = lines(&bytes)
        .into_iter()
        .filter(|line| is_anchor(line) || !String::from_utf8_lossy(line).contains("-2\",\"seq\""))
        .collect();
    assert!(without.len() < lines(&bytes).len());
    assert!(!judge(&without.concat(), Some(&newest)).is_good());

    // A made-up chain that is right in itself: another log's, put in whole.
    let (other, _) = small_file();
    let mut with = lines(&bytes);
    with.splice(4..4, lines(&other).into_iter().filter(|line| !is_anchor(line)));
    let verdict = judge(&with.concat(), Some(&newest));
    assert!(verdict.problems.iter().any(|p| p.what.contains("does not name")), "{:#?}", verdict.problems);
}

#[test]
fn a_tail_cut_behind_the_kept_anchor_is_found() {
    let (bytes, newest) = small_file();
    let lines = lines(&bytes);
    for keep in 0..lines.len() {
        let cut = lines[..keep].concat();
        let verdict = judge(&cut, Some(&newest));
        assert!(verdict.problems.iter().any(|p| p.what.contains("it was cut")), "{keep} lines");
    }
}

#[test]
fn a_file_signed_by_another_hand_is_found() {
    let (bytes, newest) = small_file();
    let other = Signer::from_seed(&Secret::new(vec![8; 32])).unwrap().public_key();
    let verdict = verify(bytes.as_slice(), Some(other), Some(&newest)).unwrap();
    assert!(verdict.problems.iter().filter(|p| p.what.contains("another key")).count() >= 3);
    let unpinned = verify(bytes.as_slice(), None, Some(&newest)).unwrap();
    assert_good(&unpinned);
    assert_eq!(unpinned.warnings.len(), 1, "no key is a warning");
}

#[test]
fn a_restart_goes_on_and_seals_what_a_crash_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let kept = Kept::default();
    let log = open(FileSink::open(&path).unwrap(), &kept);
    worker().block_on(write(&log.chain(), 3));
    assert!(FileSink::open(&path).is_err(), "two processes write to one file");
    // As kill -9 would leave it: no last anchor, and the lock is gone with the process.
    let crashed = fs::read(&path).unwrap();
    let sealed = Kept(Arc::new(Mutex::new(Anchor::parse(crashed.split(|b| *b == b'\n').next().unwrap()))));
    log.close().unwrap();
    fs::write(&path, &crashed).unwrap();

    let verdict = judge(&crashed, sealed.newest().as_ref());
    assert_good(&verdict);
    assert_eq!(verdict.unsealed, 6);
    for _ in 0..2 {
        let log = open(FileSink::open(&path).unwrap(), &sealed);
        worker().block_on(write(&log.chain(), 2));
        log.close().unwrap();
    }
    let bytes = fs::read(&path).unwrap();
    let verdict = judge(&bytes, sealed.newest().as_ref());
    assert_good(&verdict);
    assert_eq!((verdict.unsealed, verdict.kinds["intent"]), (0, 7));

    // What the crash left is sealed by now: an edit of its last record is found and named.
    let mut lines = lines(&bytes);
    let at = lines[6].len() - 5;
    lines[6][at] ^= 1;
    let verdict = judge(&lines.concat(), sealed.newest().as_ref());
    assert_eq!(verdict.problems.iter().map(|p| p.line).collect::<Vec<_>>(), [7]);
}

#[test]
fn a_cut_before_a_restart_stays_visible() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let kept = Kept::default();
    let run = || {
        let log = open(FileSink::open(&path).unwrap(), &kept);
        worker().block_on(write(&log.chain(), 2));
        log.close().unwrap();
    };
    run();
    let cut = lines(&fs::read(&path).unwrap())[..3].concat();
    fs::write(&path, cut).unwrap();
    run();
    assert!(!judge(&fs::read(&path).unwrap(), kept.newest().as_ref()).is_good());
}

#[test]
fn a_line_torn_by_a_crash_is_a_warning_and_an_edit_that_looks_torn_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let kept = Kept::default();
    let run = || {
        let log = open(FileSink::open(&path).unwrap(), &kept);
        worker().block_on(write(&log.chain(), 2));
        log.close().unwrap();
    };
    run();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"v\":1,\"chain\":\"0123456789abcdef-0\",\"se").unwrap();
    assert_good(&judge(&fs::read(&path).unwrap(), kept.newest().as_ref()));
    run();
    let bytes = fs::read(&path).unwrap();
    let verdict = judge(&bytes, kept.newest().as_ref());
    assert_good(&verdict);
    assert!(verdict.warnings.iter().any(|w| w.contains("torn")), "{:?}", verdict.warnings);

    // The line before a start was whole once: cutting it short now is no tear.
    let mut lines = lines(&bytes);
    let torn = lines.iter().position(|line| line.ends_with(b"\"se\n")).unwrap();
    lines[torn].truncate(10);
    lines[torn].push(b'\n');
    assert!(!judge(&lines.concat(), kept.newest().as_ref()).is_good());
}

/// A sink that fails, hangs or is slow when told to, and remembers how far it is.
#[derive(Clone, Default)]
struct Moody {
    memory: MemorySink,
    fails: Arc<AtomicBool>,
    hangs: Arc<(Mutex<bool>, Condvar)>,
}

impl Moody {
    fn hang(&self, hangs: bool) {
        *self.hangs.0.lock().unwrap() = hangs;
        self.hangs.1.notify_all();
    }
}

impl Sink for Moody {
    fn append(&mut self, bytes: &[u8], durability: Durability) -> io::Result<()> {
        let hangs = self.hangs.0.lock().unwrap();
        drop(self.hangs.1.wait_while(hangs, |hangs| *hangs).unwrap());
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.memory.append(bytes, durability)
    }
}

/// Tries until a record is written; panics after 5 s.
async fn recovers(chain: &Chain) {
    let since = Instant::now();
    while chain.record(&request()[0]).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(5), "the log did not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_full_device_refuses_every_intent() {
    let log = open(FileSink::open(Path::new("/dev/full")).unwrap(), &Kept::default());
    let chain = log.chain();
    worker().block_on(async {
        for _ in 0..3 {
            let error = chain.record(&request()[0]).await.unwrap_err();
            assert!(error.0.contains("space"), "{error}");
        }
    });
    assert!(!log.healthy());
    assert!(log.close().is_err(), "a log that could not be written closes as if it had been");
}

#[test]
fn a_sink_that_failed_works_again_and_no_chain_breaks() {
    let (sink, kept) = (Moody::default(), Kept::default());
    let log = open(sink.clone(), &kept);
    let chain = log.chain();
    worker().block_on(async {
        write(&chain, 2).await;
        sink.fails.store(true, Ordering::SeqCst);
        assert!(chain.record(&request()[0]).await.is_err());
        assert!(!log.healthy());
        assert!(log.anchor_now().await.is_err());
        let [_, outcome] = request();
        assert!(chain.record(&outcome).await.is_err(), "an outcome that is not written says so");
        sink.fails.store(false, Ordering::SeqCst);
        recovers(&chain).await;
        assert!(log.healthy());
    });
    log.close().unwrap();
    let verdict = judge(&sink.memory.bytes(), kept.newest().as_ref());
    assert_good(&verdict);
    assert_eq!(verdict.kinds["outcome"], 3, "an outcome made while the sink failed is kept");
}

#[test]
fn a_half_written_batch_is_cut_off_and_written_again() {
    // Runs itself again under a file size limit, where the kernel takes a part of a write and refuses
    // the rest; lifting the limit heals the file.
    if getrlimit(Resource::Fsize).current.is_none() {
        let script = "trap '' XFSZ; ulimit -S -f 16; exec \"$0\" \"$1\" --exact";
        let name = "audit::a_half_written_batch_is_cut_off_and_written_again";
        // Heard through a pipe: where this one's own output goes to a long file, the limit holds for that, too.
        let run =
            Command::new("sh").args(["-c", script]).arg(current_exe().unwrap()).arg(name).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let kept = Kept::default();
    let log = open_as(FileSink::open(&path).unwrap(), &kept, Durability::Synced);
    let chain = log.chain();
    worker().block_on(async {
        let mut written = 0;
        while chain.record(&request()[0]).await.is_ok() {
            written += 1;
        }
        assert!((5..100).contains(&written), "{written} records under the limit");
        assert!(fs::read(&path).unwrap().ends_with(b"}\n"), "half a record stands in the file");
        let limit = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: limit.maximum, ..limit }).unwrap();
        recovers(&chain).await;
    });
    log.close().unwrap();
    assert_good(&judge(&fs::read(&path).unwrap(), kept.newest().as_ref()));
}

#[test]
fn a_hung_sink_is_not_waited_for_and_works_again() {
    let (sink, kept) = (Moody::default(), Kept::default());
    let log = open(sink.clone(), &kept);
    let chain = log.chain();
    worker().block_on(async {
        write(&chain, 1).await;
        sink.hang(true);
        let since = Instant::now();
        let first = chain.record(&request()[0]);
        let behind = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            chain.record(&request()[0]).await
        };
        let (first, behind) = tokio::join!(first, behind);
        assert!(first.is_err() && behind.is_err());
        // The sink hangs until it is told not to: any answer before that was not waited for. It comes after
        // 250 ms; a busy machine may add to that.
        assert!(since.elapsed() >= Duration::from_millis(250), "{:?}", since.elapsed());
        let since = Instant::now();
        assert!(chain.record(&request()[0]).await.is_err());
        let other = log.chain();
        assert!(other.record(&request()[0]).await.is_err());
        assert!(chain.record(&request()[1]).await.is_err(), "an outcome is kept but not yet written");
        // Three that each waited would take 750 ms.
        assert!(since.elapsed() < Duration::from_millis(700), "{:?}", since.elapsed());
        assert!(!log.healthy());
        sink.hang(false);
        recovers(&chain).await;
        recovers(&other).await;
        assert!(log.healthy());
    });
    log.close().unwrap();
    let verdict = judge(&sink.memory.bytes(), kept.newest().as_ref());
    assert_good(&verdict);
    assert_eq!(verdict.kinds["outcome"], 2);
}

#[test]
fn a_sink_that_stays_away_costs_bounded_memory() {
    let (sink, kept) = (Moody::default(), Kept::default());
    let log = open(sink.clone(), &kept);
    let chain = log.chain();
    let long = "x".repeat(400);
    let (mut intents, mut outcomes) = (0_usize, 0_usize);
    // Outside a runtime each record is handed over by itself.
    sink.hang(true);
    let intent = Event { note: Some(&long), ..Event::of(Kind::Intent) };
    while intents < 100_000 && answered(chain.record(&intent)) != Some(false) {
        intents += 1;
    }
    let outcome = Event { kind: Kind::Outcome, ..intent };
    while outcomes < 100_000 && answered(chain.record(&outcome)) != Some(false) {
        outcomes += 1;
    }
    assert!(intents < 20_000, "{intents} intents");
    assert!((10_000..40_000).contains(&outcomes), "{outcomes} outcomes");
    sink.hang(false);
    log.close().unwrap();
    let verdict = judge(&sink.memory.bytes(), kept.newest().as_ref());
    assert_good(&verdict);
    assert_eq!(verdict.records, (intents + outcomes + 2) as u64);
}

/// Polls once: `None` while there is no answer, else whether it was a good one.
fn answered(written: Written) -> Option<bool> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(written).poll(&mut context) {
        std::task::Poll::Ready(result) => Some(result.is_ok()),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn ten_thousand_records_of_four_workers_verify() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let kept = Kept::default();
    let log = open(FileSink::open(&path).unwrap(), &kept);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let chain = log.chain();
            scope.spawn(move || {
                worker().block_on(async {
                    let tasks: Vec<_> = (0..25)
                        .map(|_| {
                            let chain = chain.clone();
                            tokio::spawn(async move { write(&chain, 50).await })
                        })
                        .collect();
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
            });
        }
    });
    log.close().unwrap();
    let bytes = fs::read(&path).unwrap();
    let verdict = judge(&bytes, kept.newest().as_ref());
    assert_good(&verdict);
    assert_eq!((verdict.kinds["intent"], verdict.kinds["outcome"]), (5_000, 5_000));
    assert_eq!(verdict.unfinished, 0);
}

#[test]
fn a_record_that_nobody_waits_for_is_written_even_as_the_runtime_ends() {
    struct Trail(Chain);
    impl Drop for Trail {
        fn drop(&mut self) {
            drop(self.0.record(&request()[1]));
        }
    }
    let (sink, kept) = (MemorySink::default(), Kept::default());
    let log = open(sink.clone(), &kept);
    let chain = log.chain();
    let runtime = worker();
    runtime.block_on(async {
        drop(chain.record(&request()[0]));
        for _ in 0..10 {
            let trail = Trail(chain.clone());
            tokio::spawn(async move {
                let _trail = trail;
                std::future::pending::<()>().await;
            });
        }
        tokio::task::yield_now().await;
    });
    drop(runtime);
    drop(chain.record(&request()[1]));
    log.close().unwrap();
    assert!(answered(chain.record(&request()[0])) == Some(false));
    let verdict = judge(&sink.bytes(), kept.newest().as_ref());
    assert_good(&verdict);
    assert_eq!((verdict.kinds["intent"], verdict.kinds["outcome"]), (1, 11));
    assert_eq!(verdict.unfinished, 1);
}

#[test]
fn no_intent_is_acknowledged_before_the_sink_has_it() {
    let (sink, kept) = (MemorySink::default(), Kept::default());
    for durability in [Durability::Written, Durability::Synced] {
        let log = open_as(sink.clone(), &kept, durability);
        let chain = log.chain();
        worker().block_on(async {
            let tasks: Vec<_> = (0..200)
                .map(|_| {
                    let (chain, sink) = (chain.clone(), sink.clone());
                    tokio::spawn(async move {
                        let id = RequestId::fresh();
                        let intent = Event { request_id: Some(id), ..request()[0] };
                        chain.record(&intent).await.unwrap();
                        let held = sink.bytes();
                        let wanted = id.to_string();
                        assert!(held.windows(36).any(|part| part == wanted.as_bytes()));
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        log.close().unwrap();
    }
    assert_good(&judge(&sink.bytes(), kept.newest().as_ref()));
}

#[test]
fn the_command_line_says_what_is_wrong_and_lets_no_control_character_through() {
    let (bytes, newest) = small_file();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.jsonl");
    let mut talk = Vec::new();
    let mut said = |bytes: &[u8], json: bool| {
        fs::write(&file, bytes).unwrap();
        let trust = Trust { key: key(), newest: vec![newest.clone()], whole: false, part: false };
        let files = find(std::slice::from_ref(&file), false).unwrap();
        let mut out = Vec::new();
        let code =
            cli::audit::verify(cli::audit::Verify { json, bar: false }, files, &trust, &mut out, &mut talk);
        (code, String::from_utf8(out).unwrap())
    };
    let (code, text) = said(&bytes, false);
    assert!(code == 0 && text.contains("good: nothing was altered"), "{text}");

    let edited = String::from_utf8(bytes.clone()).unwrap().replacen("acme", "acmf", 1);
    let (code, text) = said(edited.as_bytes(), false);
    assert!(code == 1 && text.contains("problem: line 2: record 1 of chain"), "{text}");
    let (code, json) = said(edited.as_bytes(), true);
    assert_eq!(code, 1);
    let verdict: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&verdict["good"], &verdict["problems"][0]["line"]), (&false.into(), &2.into()));
    assert_eq!((&verdict["replica"], &verdict["replicas"][0]["good"]), (&"here".into(), &false.into()));

    let path = folder.path().join("audit.jsonl");
    let log = open(FileSink::open(&path).unwrap(), &Kept::default());
    let chain = log.chain();
    worker().block_on(async {
        write(&chain, 3).await;
        let event = Event { path: Some("/a\u{1b}[2J\n"), ..request()[0] };
        chain.record(&event).await.unwrap();
    });
    let mut out = Vec::new();
    let args = cli::audit::Tail { lines: Some(2), ..cli::audit::Tail::default() };
    assert_eq!(cli::audit::tail(&args, &path, &|| false, &mut out, &mut talk), 0);
    let shown = String::from_utf8(out).unwrap();
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(shown.contains("outcome  acme  slack  POST  /chat.postMessage  200"), "{shown}");
    assert!(shown.contains("\\u{1b}[2J\\u{a}") && !shown.contains('\u{1b}'), "{shown}");

    // Follows what is written while it looks, whole lines only.
    let args = cli::audit::Tail { lines: Some(1), follow: true, json: true, ..cli::audit::Tail::default() };
    let rounds = AtomicU64::new(0);
    let goes_on = || match rounds.fetch_add(1, Ordering::SeqCst) {
        0 => log.close().is_ok(),
        1 => true,
        _ => false,
    };
    let mut out = Vec::new();
    assert_eq!(cli::audit::tail(&args, &path, &goes_on, &mut out, &mut talk), 0);
    let shown = lines(&out);
    assert_eq!(shown.len(), 2);
    assert!(shown[1].ends_with(b"\"}\n") && is_anchor(&shown[1]), "the last anchor was not followed");
    assert_eq!(String::from_utf8(talk).unwrap(), "");
}
