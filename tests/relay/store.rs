//! Both engines keep what they acknowledged: one promise per test, run over every engine; then what only
//! an engine with a disk can break. The crash harness is also driven by the drills, with more rounds.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relay::model::{Customer, DataKeyId, SecretId};
use relay::store::memory::Memory;
use relay::store::sled::{OpenError, Sled};
use relay::store::{Change, Expected, SecretRow, Store, StoreError};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::TryRecvError;

struct Case {
    name: &'static str,
    store: Arc<dyn Store>,
    _folder: Option<TempDir>,
}

fn every_engine() -> Vec<Case> {
    let folder = TempDir::new().unwrap();
    let sled = Sled::open(&folder.path().join("db"), Handle::current()).unwrap();
    vec![
        Case { name: "memory", store: Arc::new(Memory::new()), _folder: None },
        Case { name: "sled", store: Arc::new(sled), _folder: Some(folder) },
    ]
}

fn customer(name: &str) -> Customer {
    Customer::parse(name).unwrap()
}

fn row(customer: &Customer, id: SecretId, version: u32, sealed: impl Into<Bytes>) -> SecretRow {
    let head = Bytes::from(format!("head {version}"));
    SecretRow { customer: customer.clone(), id, version, head, sealed: sealed.into() }
}

// No two bytes of a piece repeat in step with the pieces, so that a swapped piece would show.
fn long(bytes: usize) -> Bytes {
    (0..bytes).map(|i| u8::try_from((i * 7 + i / 251) % 256).unwrap()).collect()
}

#[tokio::test]
async fn a_foreign_customer_is_a_plain_miss() {
    for Case { name, store, .. } in every_engine() {
        let (ours, theirs, id) = (customer("acme"), customer("globex"), SecretId::random());
        store.put_secret(row(&ours, id, 1, "sealed"), Expected::Absent).await.unwrap();
        assert_eq!(store.secret(&theirs, id).await.unwrap(), None, "{name}");
        assert_eq!(store.secrets(&theirs, None, 10).await.unwrap(), [], "{name}");
        assert!(!store.remove_secret(&theirs, id).await.unwrap(), "{name}");
        let stored = store.secret(&ours, id).await.unwrap();
        assert_eq!(stored, Some(row(&ours, id, 1, "sealed")), "{name}");
    }
}

#[tokio::test]
async fn a_customer_whose_name_begins_anothers_sees_nothing_of_it() {
    for Case { name, store, .. } in every_engine() {
        // "b" is 0x62: 98 bytes of name behind a length of 98 is what a missing length would confuse.
        let names = ["a", "aa", "a b", "a\u{a0}", "b", "B", &"b".repeat(98), &"b".repeat(128)];
        let all = names.map(customer);
        let mut ids = Vec::new();
        for one in &all {
            let (id, key) = (SecretId::random(), DataKeyId::random());
            store.put_secret(row(one, id, 1, one.to_string()), Expected::Absent).await.unwrap();
            store.add_data_key(one, key, one.to_string().into()).await.unwrap();
            ids.push((id, key));
        }
        for (one, (id, key)) in all.iter().zip(&ids) {
            let theirs = [row(one, *id, 1, one.to_string())];
            assert_eq!(store.secrets(one, None, 100).await.unwrap(), theirs, "{name} {one}");
            let wrapped = Bytes::from(one.to_string());
            assert_eq!(store.active_data_key(one).await.unwrap(), Some((*key, wrapped)), "{name} {one}");
            for (other, _) in ids.iter().filter(|(other, _)| other != id) {
                assert_eq!(store.secret(one, *other).await.unwrap(), None, "{name} {one}");
            }
        }
    }
}

#[tokio::test]
async fn a_write_that_expected_something_else_changes_nothing() {
    for Case { name, store, .. } in every_engine() {
        let (ours, theirs, id) = (customer("acme"), customer("globex"), SecretId::random());
        let head = |text: &'static str| Expected::Head(Bytes::from_static(text.as_bytes()));
        let first = row(&ours, id, 1, "one");
        let early = store.put_secret(first.clone(), head("head 1")).await;
        assert!(matches!(early, Err(StoreError::Conflict)), "{name}: changed what was not there");
        assert_eq!(store.owner(id).await.unwrap(), None, "{name}: a refused write left an owner");
        store.put_secret(first.clone(), Expected::Absent).await.unwrap();

        let mut feed = store.changes();
        let table = [
            ("made twice", row(&ours, id, 1, "two"), Expected::Absent),
            ("head of another version", row(&ours, id, 2, "two"), head("head 2")),
            ("head cut short", row(&ours, id, 2, "two"), head("head")),
            ("head empty", row(&ours, id, 2, "two"), head("")),
            ("id taken by another customer", row(&theirs, id, 1, "two"), Expected::Absent),
            ("changed by another customer", row(&theirs, id, 2, "two"), head("head 1")),
        ];
        for (mistake, row, expected) in table {
            let refused = store.put_secret(row, expected).await;
            assert!(matches!(refused, Err(StoreError::Conflict)), "{name}: {mistake}");
            assert_eq!(store.secret(&ours, id).await.unwrap().as_ref(), Some(&first), "{name}: {mistake}");
            assert_eq!(store.owner(id).await.unwrap().as_ref(), Some(&ours), "{name}: {mistake}");
            assert_eq!(feed.try_recv(), Err(TryRecvError::Empty), "{name}: {mistake}");
        }
    }
}

#[tokio::test]
async fn of_many_writers_that_expect_the_same_head_one_wins() {
    for Case { name, store, .. } in every_engine() {
        let (ours, id) = (customer("acme"), SecretId::random());
        store.put_secret(row(&ours, id, 1, "first"), Expected::Absent).await.unwrap();
        let racers = (2..10u32).map(|version| {
            let (store, row) = (store.clone(), row(&ours, id, version, format!("by {version}")));
            tokio::spawn(async move { store.put_secret(row, Expected::Head("head 1".into())).await })
        });
        let mut won = Vec::new();
        for (version, racer) in (2..).zip(racers.collect::<Vec<_>>()) {
            match racer.await.unwrap() {
                Ok(()) => won.push(version),
                Err(error) => assert!(matches!(error, StoreError::Conflict), "{name}: {error}"),
            }
        }
        let [version] = won[..] else { panic!("{name}: {won:?} won") };
        let stored = store.secret(&ours, id).await.unwrap();
        assert_eq!(stored, Some(row(&ours, id, version, format!("by {version}"))), "{name}");
    }
}

#[tokio::test]
async fn a_new_version_is_the_current_one_and_an_old_one_can_be_put_back() {
    for Case { name, store, .. } in every_engine() {
        let (ours, id) = (customer("acme"), SecretId::random());
        // Longer, shorter, the same bytes under a new head, and back to an older version's number.
        let steps = [(1, long(9000)), (2, long(20_000)), (3, long(10)), (3, long(10)), (1, long(9000))];
        let mut expected = Expected::Absent;
        for (step, (version, sealed)) in steps.into_iter().enumerate() {
            let head = Bytes::from(format!("head {step}"));
            let row = SecretRow { head: head.clone(), ..row(&ours, id, version, sealed) };
            store.put_secret(row.clone(), expected).await.unwrap();
            assert_eq!(store.secret(&ours, id).await.unwrap(), Some(row.clone()), "{name} step {step}");
            assert_eq!(store.secrets(&ours, None, 9).await.unwrap(), [row], "{name} step {step}");
            expected = Expected::Head(head);
        }
    }
}

#[tokio::test]
async fn a_list_is_in_the_order_of_ids_and_its_pages_meet() {
    for Case { name, store, .. } in every_engine() {
        let (ours, before, behind) = (customer("bbb"), customer("bba"), customer("bbc"));
        let mut ids: Vec<_> = (0..23).map(|_| SecretId::random()).collect();
        ids.extend([SecretId::from_bytes([0; 16]), SecretId::from_bytes([255; 16])]);
        for id in &ids {
            store.put_secret(row(&ours, *id, 1, long(5000)), Expected::Absent).await.unwrap();
        }
        for other in [&before, &behind] {
            store.put_secret(row(other, SecretId::random(), 1, ""), Expected::Absent).await.unwrap();
        }
        ids.sort();
        for limit in [1, 7, 25, 26, usize::MAX] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = store.secrets(&ours, after, limit).await.unwrap();
                assert!(page.len() <= limit, "{name}");
                let Some(last) = page.last() else { break };
                after = Some(last.id);
                seen.extend(page.iter().map(|row| row.id));
            }
            assert_eq!(seen, ids, "{name} limit {limit}");
        }
        assert_eq!(store.secrets(&ours, None, 0).await.unwrap(), [], "{name}");
    }
}

#[tokio::test]
async fn a_customer_has_one_active_data_key_and_keeps_it() {
    for Case { name, store, .. } in every_engine() {
        let (ours, theirs) = (customer("acme"), customer("globex"));
        let (first, second) = (DataKeyId::random(), DataKeyId::random());
        assert_eq!(store.active_data_key(&ours).await.unwrap(), None, "{name}");
        store.add_data_key(&ours, first, "wrapped".into()).await.unwrap();
        for again in [first, second] {
            let refused = store.add_data_key(&ours, again, "other".into()).await;
            assert!(matches!(refused, Err(StoreError::Conflict)), "{name}");
        }
        let kept = Some((first, Bytes::from("wrapped")));
        assert_eq!(store.active_data_key(&ours).await.unwrap(), kept, "{name}");
        assert_eq!(store.data_key(&ours, first).await.unwrap(), Some("wrapped".into()), "{name}");
        assert_eq!(store.data_key(&ours, second).await.unwrap(), None, "{name}");
        assert_eq!(store.data_key(&theirs, first).await.unwrap(), None, "{name}");
        assert_eq!(store.active_data_key(&theirs).await.unwrap(), None, "{name}");
    }
}

#[tokio::test]
async fn a_store_wide_record_is_the_one_last_written() {
    for Case { name, store, .. } in every_engine() {
        assert_eq!(store.meta("anchor").await.unwrap(), None, "{name}");
        // Growing, shrinking and empty: no piece of a longer one may be left behind.
        for value in [long(3), long(30_000), Bytes::new(), long(4091), long(4092), long(1)] {
            store.put_meta("anchor", value.clone()).await.unwrap();
            assert_eq!(store.meta("anchor").await.unwrap(), Some(value), "{name}");
        }
        for other in ["anchors", "ancho", "", "anchor\0\0\0\0"] {
            assert_eq!(store.meta(other).await.unwrap(), None, "{name} {other:?}");
        }
    }
}

#[tokio::test]
async fn an_id_leads_to_its_owner_until_it_is_removed() {
    for Case { name, store, .. } in every_engine() {
        let (ours, id, other) = (customer("acmé"), SecretId::random(), SecretId::random());
        store.put_secret(row(&ours, id, 1, "sealed"), Expected::Absent).await.unwrap();
        assert_eq!(store.owner(id).await.unwrap(), Some(ours.clone()), "{name}");
        assert_eq!(store.owner(other).await.unwrap(), None, "{name}");
        assert!(store.remove_secret(&ours, id).await.unwrap(), "{name}");
        assert_eq!(store.owner(id).await.unwrap(), None, "{name}");
    }
}

#[tokio::test]
async fn a_removed_secret_is_gone_with_all_its_versions_and_only_it() {
    for Case { name, store, .. } in every_engine() {
        let (ours, id, other) = (customer("acme"), SecretId::random(), SecretId::random());
        store.put_secret(row(&ours, other, 1, long(9000)), Expected::Absent).await.unwrap();
        store.put_secret(row(&ours, id, 1, long(9000)), Expected::Absent).await.unwrap();
        store.put_secret(row(&ours, id, 2, long(50)), Expected::Head("head 1".into())).await.unwrap();
        assert!(store.remove_secret(&ours, id).await.unwrap(), "{name}");
        assert!(!store.remove_secret(&ours, id).await.unwrap(), "{name}");
        assert_eq!(store.secret(&ours, id).await.unwrap(), None, "{name}");
        assert_eq!(
            store.secrets(&ours, None, 9).await.unwrap(),
            [row(&ours, other, 1, long(9000))],
            "{name}"
        );
        // The id is free again, also for somebody else.
        let theirs = customer("globex");
        store.put_secret(row(&theirs, id, 1, "new"), Expected::Absent).await.unwrap();
        assert_eq!(store.secret(&theirs, id).await.unwrap(), Some(row(&theirs, id, 1, "new")), "{name}");
    }
}

#[tokio::test]
async fn the_change_feed_has_each_write_by_the_time_it_is_acknowledged() {
    for Case { name, store, .. } in every_engine() {
        let (ours, id) = (customer("acme"), SecretId::random());
        let mut feed = store.changes();
        let secret = Change::Secret(ours.clone(), id);
        store.put_secret(row(&ours, id, 1, "one"), Expected::Absent).await.unwrap();
        assert_eq!(feed.try_recv().unwrap(), secret, "{name} put");
        store.put_secret(row(&ours, id, 2, "two"), Expected::Head("head 1".into())).await.unwrap();
        assert_eq!(feed.try_recv().unwrap(), secret, "{name} put again");
        store.add_data_key(&ours, DataKeyId::random(), "wrapped".into()).await.unwrap();
        assert_eq!(feed.try_recv().unwrap(), Change::DataKeys(ours.clone()), "{name} data key");
        store.put_meta("anchor", "1".into()).await.unwrap();
        assert!(store.remove_secret(&ours, id).await.unwrap());
        assert_eq!(feed.try_recv().unwrap(), secret, "{name} removed");
        assert!(!store.remove_secret(&ours, id).await.unwrap());
        assert_eq!(feed.try_recv(), Err(TryRecvError::Empty), "{name} nothing more");
    }
}

#[tokio::test]
async fn a_record_of_64_kib_comes_back_as_it_went_in() {
    for Case { name, store, .. } in every_engine() {
        let ours = customer("acme");
        for bytes in [0, 1, 4090, 4091, 4092, 2 * 4091, 2 * 4091 + 1, 64 << 10, (64 << 10) + 300] {
            let row = row(&ours, SecretId::random(), 1, long(bytes));
            store.put_secret(row.clone(), Expected::Absent).await.unwrap();
            assert!(store.secret(&ours, row.id).await.unwrap() == Some(row), "{name} {bytes} bytes");
        }
    }
}

// === sled alone ===

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
    let raw = |path: &Path, change: &dyn Fn(&sled::Db)| {
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

fn snapshots(path: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|name| name.file_name().unwrap().to_string_lossy().starts_with("snap.")).collect()
}

#[tokio::test]
async fn a_damaged_row_is_an_error_and_harms_no_other_secret() {
    let (ours, id, other) = (customer("acme"), SecretId::from_bytes([1; 16]), SecretId::from_bytes([2; 16]));
    let key = |kind: u8, tail: &[u8]| [&[kind, 4], b"acme".as_slice(), &[1; 16], tail].concat();
    let table: &[(&str, Vec<u8>, Option<&[u8]>)] = &[
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
    for (damage, key, value) in table {
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
fn open_raw(path: &Path) -> sled::Db {
    for _ in 0..100 {
        if let Ok(db) = sled::open(path) {
            return db;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("sled's lock stays held");
}

#[test]
fn a_call_works_from_any_runtime_and_ends_with_the_control_runtime() {
    let folder = TempDir::new().unwrap();
    let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
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

// === a process that is killed, or whose disk is full: this test binary runs itself again ===

/// Tells a child what it is: `writer` or `full`, and the folder.
const CHILD: &str = "RELAY_TEST_STORE_CHILD";

#[allow(clippy::disallowed_methods, reason = "the child is told what it is by its environment")]
fn child_of(role: &str) -> Option<PathBuf> {
    let told = std::env::var(CHILD).ok()?;
    told.strip_prefix(role)?.strip_prefix(':').map(PathBuf::from)
}

fn this_test_again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command
}

#[test]
fn no_acknowledged_write_is_lost_to_kill_9() {
    if let Some(path) = child_of("writer") {
        write_until_killed(&path);
    }
    let acknowledged = kill_writers(3, &|path| {
        let mut child = this_test_again("store::no_acknowledged_write_is_lost_to_kill_9");
        child.env(CHILD, format!("writer:{}", path.display()));
        child
    });
    assert!(acknowledged > 0, "nothing was written");
}

/// Starts the command that `writer` makes for a folder, kills it at a random moment, `rounds` times over
/// the same store, and fails unless everything it said it had written is there afterwards. The command
/// must end in [`write_until_killed`]. Returns how many acknowledgements were checked.
pub fn kill_writers(rounds: u32, writer: &dyn Fn(&Path) -> Command) -> usize {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("db");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut said = Said::default();
    for round in 0..rounds {
        let mut child = writer(&path).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ack ") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "round {round}: the writer ended by itself");
        }
        let reader = std::thread::spawn(move || {
            let mut all = line.into_bytes();
            std::io::Read::read_to_end(&mut lines, &mut all).unwrap();
            all
        });
        let [moment, ..] = SecretId::random().as_bytes().to_owned();
        std::thread::sleep(Duration::from_millis(50 + 2 * u64::from(moment)));
        child.kill().unwrap();
        child.wait().unwrap();
        said.hear(&reader.join().unwrap());
        let store = Sled::open(&path, runtime.handle().clone()).unwrap();
        runtime.block_on(said.check(&store, round));
    }
    said.acknowledged
}

#[derive(Default)]
struct Said {
    acknowledged: usize,
    /// The version last acknowledged, and 0 for a removal.
    versions: HashMap<SecretId, u32>,
    /// Removals begun: the secret may be gone without an acknowledgement.
    leaving: Vec<SecretId>,
}

impl Said {
    fn hear(&mut self, output: &[u8]) {
        // The last line counts only if it is whole.
        let whole = output.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        for line in String::from_utf8_lossy(&output[..whole]).lines() {
            // The test harness prints the test's name in front of the first line.
            let Some(at) = line.find("ack ").or_else(|| line.find("try ")) else { continue };
            let mut words = line[at..].split(' ');
            let mut word = || words.next().unwrap();
            let (kind, id, version) = (word(), SecretId::parse(word()).unwrap(), word().parse().unwrap());
            if kind == "try" {
                self.leaving.push(id);
            } else {
                self.acknowledged += 1;
                self.versions.insert(id, version);
            }
        }
    }

    async fn check(&self, store: &Sled, round: u32) {
        let ours = customer("acme");
        for (id, version) in &self.versions {
            let stored = store.secret(&ours, *id).await.unwrap();
            let owner = store.owner(*id).await.unwrap();
            assert_eq!(stored.is_some(), owner.is_some(), "round {round}: {id} is half there");
            match (stored, *version) {
                (None, 0) => {}
                (None, _) => assert!(self.leaving.contains(id), "round {round}: {id} is lost"),
                (Some(_), 0) => panic!("round {round}: {id} was removed and is back"),
                (Some(stored), version) => {
                    // The write behind the last acknowledged one may have reached the disk as well.
                    assert!((version..=version + 1).contains(&stored.version), "round {round}: {id}");
                    assert!(stored.sealed == sealed(*id, stored.version), "round {round}: {id} is torn");
                }
            }
        }
    }
}

fn sealed(id: SecretId, version: u32) -> Bytes {
    let [salt, ..] = *id.as_bytes();
    let size = if salt < 32 { 20_000 } else { 300 };
    let fill = salt ^ u8::try_from(version % 256).unwrap();
    Bytes::from(vec![fill; size + usize::try_from(version).unwrap()])
}

/// Writes to the store in `path` from four tasks without end: adds, changes and removes secrets, and
/// prints `ack ID VERSION` after each acknowledgement (version 0 for a removal), `try ID 0` before one.
pub fn write_until_killed(path: &Path) -> ! {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Arc::new(Sled::open(path, runtime.handle().clone()).unwrap());
    let writers: Vec<_> = (0..4).map(|_| runtime.spawn(write_for_ever(store.clone()))).collect();
    for writer in writers {
        runtime.block_on(writer).unwrap();
    }
    unreachable!("the writers never end")
}

async fn write_for_ever(store: Arc<Sled>) {
    let ours = customer("acme");
    let say = |word: &str, id: SecretId, version: u32| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word} {id} {version}").unwrap();
        out.flush().unwrap();
    };
    for turn in 0u32.. {
        let id = SecretId::random();
        let mut expected = Expected::Absent;
        for version in 1..3 {
            let row = row(&ours, id, version, sealed(id, version));
            let head = row.head.clone();
            store.put_secret(row, expected).await.unwrap();
            say("ack", id, version);
            expected = Expected::Head(head);
        }
        if turn % 4 == 0 {
            say("try", id, 0);
            store.remove_secret(&ours, id).await.unwrap();
            say("ack", id, 0);
        }
    }
}

#[test]
fn after_the_disk_was_full_the_store_heals_without_a_restart() {
    if let Some(path) = child_of("full") {
        return fill_and_heal(&path);
    }
    let folder = TempDir::new().unwrap();
    // A limit on file sizes stands for the full disk. Its signal would end the process; only a shell can
    // hand down that it is ignored.
    let test = this_test_again("store::after_the_disk_was_full_the_store_heals_without_a_restart");
    let ended = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; exec "$0" "$@""#])
        .arg(test.get_program())
        .args(test.get_args())
        .env(CHILD, format!("full:{}", folder.path().join("db").display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    let complained = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("healed"), "{said}\n{complained}");
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
        let mut put = async || {
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
    println!("healed");
}
