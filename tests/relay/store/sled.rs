//! The engine with a folder: what it refuses to open, what it survives, what it leaves on the disk.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use relay::model::{Customer, DataKeyId, SecretId};
use relay::store::sled::{OpenError, Sled};
use relay::store::{Expected, Store, StoreError};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::crash::{kill_writers, write_until_killed};
use super::{customer, long, row};

fn open(path: &Path) -> Sled {
    Sled::open(path, Handle::current()).unwrap()
}

fn refusal(path: &Path) -> OpenError {
    Sled::open(path, Handle::current()).err().expect("the folder is refused")
}

#[tokio::test]
async fn a_reopened_store_has_everything() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("db");
    let (ours, id, gone, key) =
        (customer("acme"), SecretId::random(), SecretId::random(), DataKeyId::random());
    let store = open(&path);
    store.put_secret(row(&ours, id, 1, "one"), Expected::Absent).await.unwrap();
    store.put_secret(row(&ours, id, 2, long(70_000)), Expected::Head("head 1".into())).await.unwrap();
    store.put_secret(row(&ours, gone, 1, "one"), Expected::Absent).await.unwrap();
    store.remove_secret(&ours, gone).await.unwrap();
    store.add_data_key(&ours, key, "wrapped".into()).await.unwrap();
    store.put_meta("anchor", "7".into()).await.unwrap();
    drop(store);
    for _ in 0..3 {
        open_again(&path, &ours, id, gone, key).await;
    }
}

async fn open_again(path: &Path, ours: &Customer, id: SecretId, gone: SecretId, key: DataKeyId) {
    let store = open(path);
    let wanted = row(ours, id, 2, long(70_000));
    assert!(store.secret(ours, id).await.unwrap() == Some(wanted));
    assert_eq!(store.owner(id).await.unwrap().as_ref(), Some(ours));
    assert_eq!(store.secret(ours, gone).await.unwrap(), None);
    assert_eq!(store.data_key(ours, key).await.unwrap(), Some("wrapped".into()));
    assert_eq!(store.active_data_key(ours).await.unwrap(), Some((key, "wrapped".into())));
    assert_eq!(store.meta("anchor").await.unwrap(), Some("7".into()));
}

#[tokio::test]
async fn a_store_that_is_in_use_is_refused_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("db");
    let store = open(&path);
    let refused = refusal(&path);
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("in use by another process") && text.contains("Stop that one"), "{text}");
    store.put_meta("anchor", "still here".into()).await.unwrap();
    drop(store);
    assert_eq!(open(&path).meta("anchor").await.unwrap(), Some("still here".into()));
}

#[tokio::test]
async fn no_record_ever_becomes_a_blob_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("db");
    let store = open(&path);
    let ours = customer(&"c".repeat(128));
    for turn in 0..40u32 {
        let id = SecretId::random();
        store.put_secret(row(&ours, id, 1, long((64 << 10) + 300)), Expected::Absent).await.unwrap();
        let again = row(&ours, id, 2, long((60 << 10) + usize::try_from(turn).unwrap()));
        store.put_secret(again, Expected::Head("head 1".into())).await.unwrap();
        if turn % 3 == 0 {
            store.remove_secret(&ours, id).await.unwrap();
        }
    }
    for _ in 0..2 {
        assert_eq!(std::fs::read_dir(path.join("blobs")).unwrap().count(), 0);
        assert_eq!(store.secrets(&ours, None, 99).await.unwrap().len(), 26);
    }
}

#[tokio::test]
async fn only_the_owner_of_the_folder_can_open_its_files() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("db");
    for _ in 0..2 {
        let store = open(&path);
        store.put_meta("anchor", long(100)).await.unwrap();
        drop(store);
        assert_eq!(mode(&path), 0o700);
        let mut files = 0;
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap().path();
            assert_eq!(mode(&entry), if entry.is_dir() { 0o700 } else { 0o600 }, "{}", entry.display());
            files += 1;
        }
        assert!(files >= 4, "{files}");
    }
    for shared in [0o750, 0o705, 0o770, 0o701] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(shared)).unwrap();
        let refused = refusal(&path);
        assert!(matches!(refused, OpenError::Exposed { mode, .. } if mode == shared), "{refused}");
        assert!(refused.to_string().contains("chmod -R go= "), "{refused}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(open(&path).meta("anchor").await.unwrap(), Some(long(100)));
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_folder_that_is_not_a_store_or_is_not_whole_is_refused_in_words() {
    let made = |spoil: &dyn Fn(&Path)| {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("db");
        drop(open(&path));
        spoil(&path);
        let refused = refusal(&path);
        assert!(!refused.to_string().is_empty());
        refused
    };
    let raw = |path: &Path, change: &dyn Fn(&::sled::Db)| {
        let db = open_raw(path);
        change(&db);
        db.flush().unwrap();
    };
    let newer = made(&|path| raw(path, &|db| drop(db.insert("relay-store", &[2]).unwrap())));
    assert!(matches!(newer, OpenError::Format { .. }), "a newer relay's store: {newer}");
    let unmarked = made(&|path| raw(path, &|db| drop(db.remove("relay-store").unwrap())));
    assert!(matches!(unmarked, OpenError::Damaged { .. }), "no marker row: {unmarked}");
    let emptied = made(&|path| {
        std::fs::remove_file(path.join("db")).unwrap();
        snapshots(path).iter().for_each(|snapshot| std::fs::remove_file(snapshot).unwrap());
    });
    assert!(matches!(emptied, OpenError::Damaged { .. }), "the data file is gone: {emptied}");
    let torn = made(&|path| {
        drop(open(path));
        assert!(!snapshots(path).is_empty());
        snapshots(path).iter().for_each(|snapshot| std::fs::write(snapshot, [7; 64]).unwrap());
    });
    assert!(matches!(torn, OpenError::Damaged { .. }), "a torn snapshot: {torn}");
    let overwritten = made(&|path| {
        let bytes = std::fs::metadata(path.join("db")).unwrap().len();
        std::fs::write(path.join("db"), long(usize::try_from(bytes).unwrap())).unwrap();
    });
    assert!(matches!(overwritten, OpenError::Damaged { .. }), "an overwritten data file: {overwritten}");

    let folder = TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(folder.path().join("letters.txt"), "mine").unwrap();
    let foreign = refusal(folder.path());
    assert!(matches!(foreign, OpenError::Foreign { .. }), "a folder of other things: {foreign}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing was put beside them");
    let missing = refusal(&folder.path().join("not/there"));
    assert!(matches!(missing, OpenError::Folder { .. }), "a parent that is missing: {missing}");
    let file = refusal(&folder.path().join("letters.txt"));
    assert!(matches!(file, OpenError::Exposed { .. } | OpenError::Folder { .. }), "a file: {file}");
}

#[tokio::test]
async fn a_start_that_was_cut_off_in_its_snapshot_does_not_stop_the_next() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("db");
    let store = open(&path);
    store.put_meta("anchor", long(9000)).await.unwrap();
    drop(store);
    for (left, bytes) in [("nothing", 0), ("a few bytes", 9), ("a page", 4096)] {
        std::fs::write(path.join("snap.7FFFFFFFFFFFFFFF.generating"), long(bytes)).unwrap();
        assert_eq!(open(&path).meta("anchor").await.unwrap(), Some(long(9000)), "{left}");
    }
}

#[tokio::test]
async fn a_forgetting_that_was_cut_off_is_ended_by_the_next_start() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("db");
    let (ours, theirs, kept) = (customer("acme"), customer("globex"), SecretId::random());
    let store = open(&path);
    for number in 0..150u8 {
        store
            .put_secret(row(&ours, SecretId::from_bytes([number; 16]), 1, "x"), Expected::Absent)
            .await
            .unwrap();
    }
    store.put_secret(row(&theirs, kept, 1, "x"), Expected::Absent).await.unwrap();
    drop(store);
    // The mark, as the first of forgetting's writes leaves it.
    let db = open_raw(&path);
    db.insert([&[b'f', 4], b"acme".as_slice(), &[0; 4]].concat(), &[1, 0, 0, 0, 0]).unwrap();
    drop(db);
    let store = open(&path);
    assert_eq!(store.secrets(&ours, None, 9).await.unwrap(), []);
    assert_eq!(store.owner(SecretId::from_bytes([7; 16])).await.unwrap(), None);
    assert_eq!(store.owner(kept).await.unwrap(), Some(theirs));
    store.add_data_key(&ours, DataKeyId::random(), "new".into()).await.unwrap();
}

#[tokio::test]
async fn while_a_customer_is_forgotten_it_gets_no_new_data_key() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("db");
    let store = open(&path);
    let ours = customer("acme");
    for number in 0..250u8 {
        store
            .put_secret(row(&ours, SecretId::from_bytes([number; 16]), 1, "x"), Expected::Absent)
            .await
            .unwrap();
    }
    store.add_data_key(&ours, DataKeyId::random(), "one".into()).await.unwrap();
    let mut feed = store.changes();
    let key = DataKeyId::random();
    let race = async {
        // Told by the first write of several.
        assert_eq!(feed.recv().await.unwrap(), relay::store::Change::DataKeys(ours.clone()));
        store.add_data_key(&ours, key, "two".into()).await
    };
    let (forgotten, raced) = tokio::join!(store.upkeep().forget(&ours), race);
    assert_eq!(forgotten.unwrap().secrets, 250);
    let refused = matches!(raced, Err(StoreError::Conflict));
    let active = store.active_data_key(&ours).await.unwrap().map(|(id, _)| id);
    assert_eq!(
        active,
        (!refused).then_some(key),
        "a key of a customer half forgotten is kept or refused whole"
    );
}

fn snapshots(path: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|name| name.file_name().unwrap().to_string_lossy().starts_with("snap.")).collect()
}

#[tokio::test]
async fn a_damaged_row_is_an_error_and_harms_no_other_secret() {
    let (ours, id, other) = (customer("acme"), SecretId::from_bytes([1; 16]), SecretId::from_bytes([2; 16]));
    let key = |kind: u8, tail: &[u8]| [&[kind, 4], b"acme".as_slice(), &[1; 16], tail].concat();
    let table: [(_, _, Option<&[u8]>); 10] = [
        ("a head of another row version", key(b'h', &[0; 4]), Some(&[2, 0, 0, 0, 4, 0, 0, 0, 1])),
        ("a head without a version", key(b'h', &[0; 4]), Some(&[1, 0, 0, 0, 3, 0, 0, 0])),
        ("an empty row", key(b'h', &[0; 4]), Some(&[])),
        ("a row cut inside its length", key(b'h', &[0; 4]), Some(&[1, 0, 0])),
        ("a head that names a version not there", key(b'h', &[0; 4]), Some(&[1, 0, 0, 0, 4, 0, 0, 0, 9])),
        ("a version's first piece is gone", key(b'v', &[0, 0, 0, 1, 0, 0, 0, 0]), None),
        ("a version's last piece is gone", key(b'v', &[0, 0, 0, 1, 0, 0, 0, 2]), None),
        ("a middle piece too short", key(b'v', &[0, 0, 0, 1, 0, 0, 0, 1]), Some(&[1, 0, 0, 35, 40, 5])),
        ("a last piece too long", key(b'v', &[0, 0, 0, 1, 0, 0, 0, 2]), Some(&[1; 4000])),
        ("a length beyond memory", key(b'v', &[0, 0, 0, 1, 0, 0, 0, 0]), Some(&[1, 255, 255, 255, 255, 5])),
    ];
    for (damage, key, value) in &table {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("db");
        let store = open(&path);
        store.put_secret(row(&ours, id, 1, long(9000)), Expected::Absent).await.unwrap();
        store.put_secret(row(&ours, other, 1, "whole"), Expected::Absent).await.unwrap();
        drop(store);
        let db = open_raw(&path);
        match value {
            Some(value) => drop(db.insert(key, *value).unwrap().expect("the row was there")),
            None => drop(db.remove(key).unwrap().expect("the row was there")),
        }
        drop(db);
        let store = open(&path);
        let read = store.secret(&ours, id).await;
        assert!(matches!(read, Err(StoreError::Damaged(_))), "{damage}: {read:?}");
        let listed = store.secrets(&ours, None, 9).await;
        assert!(matches!(listed, Err(StoreError::Damaged(_))), "{damage}: {listed:?}");
        assert!(store.secret(&ours, other).await.unwrap().is_some(), "{damage}");
        assert!(store.remove_secret(&ours, id).await.unwrap(), "{damage}: cannot be removed");
        assert_eq!(store.secrets(&ours, None, 9).await.unwrap().len(), 1, "{damage}");
    }
}

// sled's threads may hold its lock a moment longer than its handle.
fn open_raw(path: &Path) -> ::sled::Db {
    for _ in 0..100 {
        if let Ok(db) = ::sled::open(path) {
            return db;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("sled's lock stays held");
}

#[test]
fn a_call_works_from_any_runtime_and_ends_with_the_control_runtime() {
    let folder = TempDir::new().unwrap();
    let control =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let worker = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = Sled::open(&folder.path().join("db"), control.handle().clone()).unwrap();
    worker.block_on(async {
        store.put_meta("anchor", "1".into()).await.unwrap();
        assert_eq!(store.meta("anchor").await.unwrap(), Some("1".into()));
    });
    drop(control);
    let ended = worker.block_on(store.meta("anchor"));
    assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
}

// A process that is killed, or whose disk is full: this test binary runs itself again.

/// Tells a child what it is: `writer` or `full`, and the folder.
const CHILD: &str = "RELAY_TEST_STORE_CHILD";

#[allow(clippy::disallowed_methods, reason = "the child is told what it is by its environment")]
fn child_of(role: &str) -> Option<PathBuf> {
    let told = std::env::var(CHILD).ok()?;
    told.strip_prefix(role)?.strip_prefix(':').map(PathBuf::from)
}

fn this_test_again(test: &str) -> Command {
    // By its process, where there is a /proc: a rebuild meanwhile replaces the file under its name.
    let running = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let binary = if running.exists() { running } else { std::env::current_exe().unwrap() };
    let mut command = Command::new(binary);
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command
}

#[test]
fn no_acknowledged_write_is_lost_to_kill_9() {
    if let Some(path) = child_of("writer") {
        write_until_killed(&path);
    }
    let acknowledged = kill_writers(3, &|path| {
        let mut child = this_test_again("store::sled::no_acknowledged_write_is_lost_to_kill_9");
        child.env(CHILD, format!("writer:{}", path.display()));
        child
    });
    assert!(acknowledged > 0, "nothing was written");
}

#[test]
fn after_the_disk_was_full_the_store_heals_without_a_restart() {
    if let Some(path) = child_of("full") {
        return fill_and_heal(&path);
    }
    let folder = TempDir::new().unwrap();
    // A limit on file sizes stands for the full disk. Its signal would end the process; only a shell can
    // hand down that it is ignored.
    let test = this_test_again("store::sled::after_the_disk_was_full_the_store_heals_without_a_restart");
    let ended = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; exec "$0" "$@""#])
        .arg(test.get_program())
        .args(test.get_args())
        .env(CHILD, format!("full:{}", folder.path().join("db").display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    let complained = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && folder.path().join("db.healed").exists(), "{said}\n{complained}");
}

fn fill_and_heal(path: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Sled::open(path, runtime.handle().clone()).unwrap();
    let ours = customer("acme");
    let before = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(2 << 20), ..before }).unwrap();
    runtime.block_on(async {
        let mut acknowledged = Vec::new();
        let put = async || {
            let id = SecretId::random();
            store.put_secret(row(&ours, id, 1, long(30_000)), Expected::Absent).await.map(|()| id)
        };
        let full = loop {
            match put().await {
                Ok(id) => acknowledged.push(id),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, StoreError::Full), "{full:?}");
        setrlimit(Resource::Fsize, before).unwrap();
        let begun = std::time::Instant::now();
        while put().await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(5), "it stays broken");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for id in &acknowledged {
            let stored = store.secret(&ours, *id).await.unwrap();
            assert!(stored == Some(row(&ours, *id, 1, long(30_000))), "{id} is lost");
        }
    });
    std::fs::write(path.with_extension("healed"), "").unwrap();
}
