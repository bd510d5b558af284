use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relay::audit::segments::segments;
use relay::audit::several::{Trust, find, verify_files};
use relay::audit::{
    Anchor, Chain, Durability, Event, FileSink, Kind, Log, PublicKey, Rotation, Setup, Signer, Verdict,
    replica,
};
use relay::model::{Customer, IntegrationName, RequestId};
use relay::secret::Secret;
use tokio::runtime::{Builder, Runtime};

/// One replica's file, and what the store would keep of it.
struct Replica {
    name: &'static str,
    path: PathBuf,
    newest: Arc<Mutex<Option<Anchor>>>,
    rotation: Rotation,
}

fn signer() -> Signer {
    Signer::from_seed(&Secret::new(vec![7; 32])).unwrap()
}

fn key() -> PublicKey {
    signer().public_key()
}

fn worker() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

impl Replica {
    fn at(folder: &Path, name: &'static str, rotation: Rotation) -> Self {
        Self { name, path: folder.join(format!("{name}.jsonl")), newest: Arc::default(), rotation }
    }

    fn small(folder: &Path, name: &'static str) -> Self {
        Self::at(folder, name, Rotation { bytes: Some(16 * 1024), ..Rotation::default() })
    }

    fn open(&self) -> Log {
        let keep = self.newest.clone();
        let setup = Setup {
            replica: self.name.to_owned(),
            durability: Durability::Written,
            signer: signer(),
            newest: self.newest(),
            generation: Arc::new(AtomicU64::new(3)),
            on_anchor: Box::new(move |anchor| *keep.lock().unwrap() = Some(anchor)),
        };
        Log::open(Box::new(FileSink::rotating(&self.path, self.rotation.clone()).unwrap()), setup).unwrap()
    }

    fn newest(&self) -> Option<Anchor> {
        self.newest.lock().unwrap().clone()
    }

    /// Opens, writes so many requests over three chains, closes.
    fn run(&self, requests: usize) {
        let log = self.open();
        let chains = [log.chain(), log.chain(), log.chain()];
        worker().block_on(async {
            for round in 0..requests {
                write(&chains[round % 3], 1).await;
            }
        });
        log.close().unwrap();
    }

    fn segments(&self) -> Vec<PathBuf> {
        segments(&self.path).unwrap().into_iter().map(|segment| segment.path).collect()
    }
}

async fn write(chain: &Chain, requests: usize) {
    let (customer, integration) =
        (Customer::parse("acme").unwrap(), IntegrationName::parse("slack").unwrap());
    for _ in 0..requests {
        let intent = Event {
            request_id: Some(RequestId::fresh()),
            customer: Some(&customer),
            integration: Some(&integration),
            method: Some("POST"),
            path: Some("/chat.postMessage"),
            ..Event::of(Kind::Intent)
        };
        chain.record(&intent).await.unwrap();
        chain.record(&Event { kind: Kind::Outcome, status: Some(200), ..intent }).await.unwrap();
    }
}

fn judge(paths: &[PathBuf], replicas: &[&Replica], whole: bool) -> Vec<Verdict> {
    let newest = replicas.iter().filter_map(|replica| replica.newest()).collect();
    let trust = Trust { key: key(), newest, whole, part: false };
    verify_files(find(paths, false).unwrap(), &trust, &mut |file| Box::new(file)).unwrap()
}

fn problems(verdicts: &[Verdict]) -> Vec<String> {
    verdicts.iter().flat_map(|verdict| &verdict.problems).map(ToString::to_string).collect()
}

#[track_caller]
fn assert_good(verdicts: &[Verdict]) {
    assert!(!verdicts.is_empty() && problems(verdicts).is_empty(), "{:#?}", problems(verdicts));
}

#[test]
fn a_full_segment_ends_and_the_chain_goes_on_in_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let here = Replica::small(folder.path(), "here");
    here.run(100);
    here.run(100);
    let full = here.segments();
    assert!(full.len() >= 4, "{full:?}");
    for (number, path) in full.iter().chain([&here.path]).enumerate() {
        let text = fs::read_to_string(path).unwrap();
        let first = Anchor::parse(text.lines().next().unwrap().as_bytes()).expect("it begins with an anchor");
        assert_eq!((first.key(), first.replica()), (key(), Some("here")), "{}", path.display());
        let last = Anchor::parse(text.lines().last().unwrap().as_bytes());
        assert!(last.is_some_and(|last| last.is_signed_by(key())), "it ends with one");
        assert!(number == full.len() || text.len() < 32 * 1024, "{} bytes", text.len());
        assert!(
            text.lines()
                .all(|line| line.contains("\"chain\":\"here/") || line.contains("\"replica\":\"here\""))
        );
    }
    // Named by the file, by the folder, or one by one and in no order.
    let mut each = full;
    each.push(here.path.clone());
    each.reverse();
    for paths in [vec![here.path.clone()], vec![folder.path().to_owned()], each] {
        let verdicts = judge(&paths, &[&here], true);
        assert_good(&verdicts);
        let [verdict] = verdicts.as_slice() else { panic!("{verdicts:#?}") };
        assert_eq!((verdict.kinds["intent"], verdict.kinds["outcome"], verdict.unfinished), (200, 200, 0));
        assert_eq!((verdict.unsealed, verdict.warnings.len()), (0, 0), "{:?}", verdict.warnings);
    }
}

#[test]
fn a_segment_by_itself_can_be_checked_as_a_part_and_is_not_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let here = Replica::small(folder.path(), "here");
    here.run(150);
    let middle = here.segments()[1].clone();
    let part = |path: &Path, part: bool| {
        let trust = Trust { key: key(), newest: here.newest().into_iter().collect(), whole: false, part };
        let files = find(&[path.to_owned()], true).unwrap();
        verify_files(files, &trust, &mut |file| Box::new(file)).unwrap()
    };
    assert_good(&part(&middle, true));
    assert!(problems(&part(&middle, false)).iter().any(|p| p.contains("missing")), "what is before it");
    let text = fs::read_to_string(&middle).unwrap();
    fs::write(&middle, text.replacen("\"customer\":\"acme\"", "\"customer\":\"acmf\"", 1)).unwrap();
    assert_eq!(problems(&part(&middle, true)).len(), 1);
}

#[test]
fn a_missing_segment_is_named_once_with_where_it_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let here = Replica::small(folder.path(), "here");
    here.run(200);
    let full = here.segments();
    let kept = fs::read(&full[2]).unwrap();
    fs::remove_file(&full[2]).unwrap();
    let verdicts = judge(std::slice::from_ref(&here.path), &[&here], false);
    let found = problems(&verdicts);
    let next = full[3].display().to_string();
    assert!(found.len() == 1 && found[0].contains("segment between is missing"), "{found:#?}");
    assert_eq!(verdicts[0].problems[0].file.as_deref(), Some(next.as_str()));
    fs::write(&full[2], &kept).unwrap();
    assert_good(&judge(std::slice::from_ref(&here.path), &[&here], false));
    // The first, the last, and the one that is written to.
    for path in [&full[0], full.last().unwrap(), &here.path] {
        let kept = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        let found = problems(&judge(&[folder.path().to_owned()], &[&here], true));
        assert!(!found.is_empty(), "{} is gone", path.display());
        fs::write(path, kept).unwrap();
    }
}

#[test]
fn two_replicas_are_judged_each_by_itself_and_one_that_is_missing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Replica::small(folder.path(), "relay-a"), Replica::small(folder.path(), "relay-b"));
    a.run(60);
    b.run(90);
    let all = [folder.path().to_owned()];
    let verdicts = judge(&all, &[&a, &b], true);
    assert_good(&verdicts);
    let counts: Vec<_> =
        verdicts.iter().map(|v| (v.replica.as_deref().unwrap(), v.kinds["intent"])).collect();
    assert_eq!(counts, [("relay-a", 60), ("relay-b", 90)]);

    // A record of one put into the other's file, and a whole file under the other's name.
    let (own, other) = (fs::read_to_string(&a.path).unwrap(), fs::read_to_string(&b.path).unwrap());
    let foreign = other.lines().nth(1).unwrap();
    fs::write(&a.path, format!("{own}{foreign}\n")).unwrap();
    let verdicts = judge(&all, &[&a, &b], true);
    assert!(verdicts[1].is_good(), "only relay-a's was touched");
    // What no anchor seals yet stands behind it: it is counted, and the next anchor does not bear it out.
    assert_eq!(verdicts[0].unsealed, 1);
    fs::write(&a.path, own.replacen('\n', &format!("\n{foreign}\n"), 1)).unwrap();
    assert!(!judge(&all, &[&a, &b], true)[0].is_good());
    fs::write(&a.path, &other).unwrap();
    assert!(!problems(&judge(&all, &[&a, &b], true)).is_empty());
    fs::write(&a.path, &own).unwrap();
    assert_good(&judge(&all, &[&a, &b], true));

    // One replica alone: its own operator checks it, and is told of the other; who wants the whole is refused.
    let alone = judge(std::slice::from_ref(&a.path), &[&a, &b], false);
    assert_good(&alone);
    assert!(alone[0].warnings.iter().any(|warning| warning.contains("relay-b")), "{:?}", alone[0].warnings);
    let found = problems(&judge(std::slice::from_ref(&a.path), &[&a, &b], true));
    assert!(found.len() == 1 && found[0].contains("no file of the replica relay-b"), "{found:#?}");
}

#[test]
fn a_replicas_file_is_not_written_to_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let here = Replica::small(folder.path(), "relay-a");
    here.run(3);
    let mut sink = FileSink::open(&here.path).unwrap();
    assert_eq!(replica::named(&mut sink, None, None, key()).unwrap(), "relay-a", "the file says whose it is");
    assert_eq!(replica::named(&mut sink, Some("relay-a"), None, key()).unwrap(), "relay-a");
    let why = replica::named(&mut sink, Some("relay-b"), None, key()).unwrap_err().to_string();
    assert!(why.contains("relay-a") && why.contains("relay-b"), "{why}");
    let other = Signer::from_seed(&Secret::new(vec![8; 32])).unwrap().public_key();
    assert_eq!(
        replica::named(&mut sink, Some("relay-b"), None, other).unwrap(),
        "relay-b",
        "another store's file"
    );
    assert!(replica::is_name(&replica::host_name()), "{}", replica::host_name());
    for bad in ["", "A", "a/b", "a b", "ä", &"a".repeat(65)] {
        assert!(!replica::is_name(bad), "{bad}");
    }
}

/// A generator that gives the same numbers each time (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % most as u64) as usize
    }
}

type Files = Vec<(PathBuf, Vec<Vec<u8>>)>;

/// Touches the files in one way; what was done. `None` if nothing changed.
fn touch(files: &mut Files, dice: &mut Dice) -> Option<String> {
    let before = files.clone();
    let pick = |dice: &mut Dice, files: &Files| {
        let file = dice.below(files.len());
        (file, dice.below(files[file].1.len()))
    };
    let (file, line) = pick(dice, files);
    let what = match dice.below(6) {
        0 => {
            let at = dice.below(files[file].1[line].len());
            let bit = 1 << dice.below(8);
            files[file].1[line][at] ^= bit;
            format!("bit {bit} of byte {at} of line {line} of file {file}")
        }
        1 => {
            files[file].1.remove(line);
            format!("line {line} of file {file} deleted")
        }
        2 => {
            let (other, place) = pick(dice, files);
            let (a, b) = (files[file].1[line].clone(), files[other].1[place].clone());
            files[file].1[line] = b;
            files[other].1[place] = a;
            format!("line {line} of file {file} swapped with {place} of {other}")
        }
        3 => {
            let (other, place) = pick(dice, files);
            let copy = files[file].1[line].clone();
            files[other].1.insert(place, copy);
            format!("line {line} of file {file} doubled before {place} of {other}")
        }
        4 => {
            files[file].1.truncate(line);
            format!("file {file} cut behind line {line}")
        }
        _ => {
            files.remove(file);
            format!("file {file} deleted")
        }
    };
    (before.iter().map(|(_, lines)| lines.concat()).ne(files.iter().map(|(_, lines)| lines.concat())))
        .then_some(what)
}

#[test]
fn a_thousand_edits_deletions_swaps_and_copies_over_two_replicas_segments_are_all_found() {
    let source = tempfile::tempdir().unwrap();
    let tiny = || Rotation { bytes: Some(6 * 1024), ..Rotation::default() };
    let a = Replica::at(source.path(), "relay-a", tiny());
    let b = Replica::at(source.path(), "relay-b", tiny());
    a.run(40);
    b.run(40);
    b.run(20);
    assert!(a.segments().len() >= 2 && b.segments().len() >= 2, "there are segments to touch");
    let all = |folder: &Path| judge(&[folder.to_owned()], &[&a, &b], true);
    assert_good(&all(source.path()));
    let mut paths: Vec<PathBuf> = fs::read_dir(source.path()).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let lines = |path: &PathBuf| -> Vec<Vec<u8>> {
        fs::read(path).unwrap().split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
    };
    let whole: Files = paths.iter().map(|path| (path.file_name().unwrap().into(), lines(path))).collect();

    let mut dice = Dice(7);
    let mut done = 0;
    while done < 1000 {
        let mut files = whole.clone();
        let Some(what) = touch(&mut files, &mut dice) else { continue };
        let folder = tempfile::tempdir().unwrap();
        for (name, lines) in &files {
            fs::write(folder.path().join(name), lines.concat()).unwrap();
        }
        let verdicts = all(folder.path());
        assert!(!problems(&verdicts).is_empty(), "{what}: not found");
        done += 1;
    }
    assert_good(&all(source.path()));
}

/// Makes a segment look as if it had ended long ago.
fn age(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut parts: Vec<&str> = name.split('-').collect();
    let time = parts.len() - 2;
    parts[time] = "20010101T000000Z";
    let old = path.with_file_name(parts.join("-"));
    fs::rename(path, &old).unwrap();
    old
}

#[test]
fn segments_whose_time_is_over_are_deleted_lawfully_and_any_other_cut_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut here = Replica::small(folder.path(), "here");
    here.run(200);
    let full = here.segments();
    assert!(full.len() >= 5);
    let old: Vec<PathBuf> = full[..2].iter().map(|path| age(path)).collect();
    assert_good(&judge(std::slice::from_ref(&here.path), &[&here], false));

    // Nothing is deleted unless it is asked for.
    here.run(1);
    assert!(old.iter().all(|path| path.exists()));
    here.rotation.retain = Some(Duration::from_secs(3600));
    here.run(1);
    assert!(old.iter().all(|path| !path.exists()) && full[2..].iter().all(|path| path.exists()));
    let verdicts = judge(std::slice::from_ref(&here.path), &[&here], false);
    assert_good(&verdicts);
    assert!(verdicts[0].kinds["intent"] > 100, "the rest is there");
    let said = fs::read_to_string(&here.path).unwrap();
    assert!(said.contains("\"why\":\"retain\"") && said.contains("\"cut\":"), "{said}");

    // One more by hand is no lawful cut, and neither is the anchor's word changed.
    let kept = fs::read(&full[2]).unwrap();
    fs::remove_file(&full[2]).unwrap();
    assert!(
        problems(&judge(std::slice::from_ref(&here.path), &[&here], false))
            .iter()
            .any(|p| p.contains("missing"))
    );
    fs::write(&full[2], kept).unwrap();
    assert_good(&judge(std::slice::from_ref(&here.path), &[&here], false));
    let forged = said.replacen("\"cut\":", "\"cut\":1", 1);
    fs::write(&here.path, forged).unwrap();
    assert!(!problems(&judge(std::slice::from_ref(&here.path), &[&here], false)).is_empty());
}

#[test]
fn after_a_wall_clock_that_jumped_nothing_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut here = Replica::small(folder.path(), "here");
    here.run(60);
    let old = age(&here.segments()[0]);
    here.rotation.retain = Some(Duration::from_secs(3600));
    // As if the clock had stood a year back when relay started.
    here.rotation.began.1 -= Duration::from_secs(365 * 24 * 3600);
    here.run(1);
    assert!(old.exists());
    here.rotation.began = Rotation::default().began;
    here.run(1);
    assert!(!old.exists());
}

#[test]
fn a_crash_in_the_midst_of_a_turn_leaves_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let here = Replica::small(folder.path(), "here");
    let all = [folder.path().to_owned()];
    here.run(50);
    // Before the new file took the place: the old one has two names.
    let twice = folder.path().join("here-20261122T130501Z-99.jsonl");
    fs::hard_link(&here.path, &twice).unwrap();
    fs::write(folder.path().join("here.next"), "").unwrap();
    assert_good(&judge(&all, &[&here], true));
    here.run(1);
    assert!(!twice.exists() && !folder.path().join("here.next").exists());
    assert_good(&judge(&all, &[&here], true));

    // After it, and before its first anchor, or in the midst of that.
    for torn in ["", "{\"v\":1,\"chain\":\"anchor\",\"se"] {
        let newest = here.newest().unwrap().seq();
        fs::rename(&here.path, folder.path().join(format!("here-20261122T130501Z-{newest}.jsonl"))).unwrap();
        fs::write(&here.path, torn).unwrap();
        assert_good(&judge(&all, &[&here], true));
        here.run(1);
        let verdicts = judge(&all, &[&here], true);
        assert_good(&verdicts);
        assert_eq!(verdicts[0].warnings.len(), usize::from(!torn.is_empty()), "{:?}", verdicts[0].warnings);
        // The torn line is told of once, and must not be in the way of the next round.
        if torn.is_empty() {
            here.run(40);
        }
    }
}

/// Writes until `seen`, for at most 10 s.
fn write_until(chain: &Chain, seen: impl Fn(bool) -> bool) {
    let since = Instant::now();
    loop {
        let taken = worker().block_on(chain.record(&Event::of(Kind::System))).is_ok();
        if seen(taken) {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "it was not noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_file_that_was_moved_away_is_noticed_and_the_audit_goes_on_in_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let here = Replica::at(folder.path(), "here", Rotation::default());
    let log = here.open();
    let chain = log.chain();
    worker().block_on(write(&chain, 5));
    let moved = folder.path().join("elsewhere.jsonl");
    fs::rename(&here.path, &moved).unwrap();
    write_until(&chain, |_| here.path.exists());
    worker().block_on(write(&chain, 5));
    log.close().unwrap();
    let first = fs::read_to_string(&here.path).unwrap();
    assert!(Anchor::parse(first.lines().next().unwrap().as_bytes()).is_some(), "it begins with an anchor");
    let verdicts = judge(&[folder.path().to_owned()], &[&here], true);
    assert_good(&verdicts);
    assert_eq!(verdicts[0].kinds["outcome"], 10, "no record was lost");
    fs::remove_file(&moved).unwrap();
    assert!(!problems(&judge(&[folder.path().to_owned()], &[&here], true)).is_empty());
}

#[test]
fn another_file_in_the_audits_place_is_not_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let here = Replica::at(folder.path(), "here", Rotation::default());
    let log = here.open();
    let chain = log.chain();
    worker().block_on(write(&chain, 2));
    let (moved, other) = (folder.path().join("moved.jsonl"), "someone else's\n");
    fs::rename(&here.path, &moved).unwrap();
    let mut file = fs::File::create(&here.path).unwrap();
    file.write_all(other.as_bytes()).unwrap();
    write_until(&chain, |taken| !taken);
    assert_eq!(fs::read_to_string(&here.path).unwrap(), other);
    // Put back, everything that was recorded meanwhile is written.
    fs::rename(&moved, &here.path).unwrap();
    write_until(&chain, |taken| taken);
    log.close().unwrap();
    assert_good(&judge(std::slice::from_ref(&here.path), &[&here], true));
}
