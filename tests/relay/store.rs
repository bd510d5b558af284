//! Every engine keeps the store's promises: one per test, run over all of them. What only an engine with
//! a disk can break is in `store/sled.rs`; `store/crash.rs` kills a writing process, here and in a drill.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relay::model::{Customer, DataKeyId, SecretId};
use relay::store::memory::Memory;
use relay::store::sled::Sled;
use relay::store::{Change, Expected, SecretRow, Store, StoreError};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::TryRecvError;
use uuid::Uuid;

/// A process that writes is killed at random moments.
mod crash;
/// A store as one stream of bytes, and back.
mod moving;
/// What only an engine behind a network can break: losing it, other replicas, its roles and its schema.
#[cfg(feature = "postgres")]
mod postgres;
/// A whole relay over PostgreSQL.
#[cfg(feature = "postgres")]
mod served;
/// What only an engine with a folder can break.
mod sled;
/// What rotation, forgetting and erasing ask of every engine.
mod upkeep;

struct Case {
    name: &'static str,
    store: Arc<dyn Store>,
    _folder: Option<TempDir>,
}

async fn every_engine() -> Vec<Case> {
    let folder = TempDir::new().unwrap();
    let sled = Sled::open(&folder.path().join("db"), Handle::current()).unwrap();
    let mut every = vec![
        Case { name: "memory", store: Arc::new(Memory::new()), _folder: None },
        Case { name: "sled", store: Arc::new(sled), _folder: Some(folder) },
    ];
    #[cfg(feature = "postgres")]
    if let Some(server) = tokio::task::spawn_blocking(crate::rig::postgres::shared).await.unwrap() {
        let store = postgres::open(&server.database()).await;
        every.push(Case { name: "postgres", store: Arc::new(store), _folder: None });
    }
    every
}

fn customer(name: &str) -> Customer {
    Customer::parse(name).unwrap()
}

fn row(customer: &Customer, id: SecretId, version: u32, sealed: impl Into<Bytes>) -> SecretRow {
    let head = Bytes::from(format!("head {version}"));
    SecretRow { customer: customer.clone(), id, version, head, sealed: sealed.into(), tokens: None }
}

// No two bytes of a piece repeat in step with the pieces, so that a swapped piece would show.
fn long(bytes: usize) -> Bytes {
    (0..bytes).map(|i| u8::try_from((i * 7 + i / 251) % 256).unwrap()).collect()
}

#[tokio::test]
async fn a_foreign_customer_is_a_plain_miss() {
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
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
async fn a_store_wide_record_is_swapped_only_where_the_expected_one_stands() {
    for Case { name, store, .. } in every_engine().await {
        let (one, two) = (Bytes::from("1"), Bytes::from("2"));
        let conflict = |swapped| matches!(swapped, Err(StoreError::Conflict));
        assert!(
            conflict(store.swap_meta("keys", Some(one.clone()), two.clone()).await),
            "{name}: nothing stands"
        );
        store.swap_meta("keys", None, one.clone()).await.unwrap();
        assert!(conflict(store.swap_meta("keys", None, two.clone()).await), "{name}: something stands");
        assert!(
            conflict(store.swap_meta("keys", Some(two.clone()), two.clone()).await),
            "{name}: another one"
        );
        assert_eq!(store.meta("keys").await.unwrap(), Some(one.clone()), "{name}");
        store.swap_meta("keys", Some(one), two.clone()).await.unwrap();
        assert_eq!(store.meta("keys").await.unwrap(), Some(two), "{name}");
    }
}

#[tokio::test]
async fn a_lease_has_one_holder_and_ends_by_itself() {
    for Case { name, store, .. } in every_engine().await {
        let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(50));
        assert!(store.lease("jobs", one, long).await.unwrap(), "{name}");
        assert!(store.lease("jobs", one, short).await.unwrap(), "{name}: renewed, and shorter");
        assert!(store.lease("renew", two, long).await.unwrap(), "{name}: another lease");
        assert!(!store.lease("renew", one, long).await.unwrap(), "{name}: it is another's");
        store.release("renew", one).await.unwrap();
        assert!(!store.lease("renew", one, long).await.unwrap(), "{name}: not given back by its holder");
        store.release("renew", two).await.unwrap();
        assert!(store.lease("renew", one, long).await.unwrap(), "{name}: given back");
        while !store.lease("jobs", two, long).await.unwrap() {
            tokio::time::sleep(short).await;
        }
        assert!(!store.lease("jobs", one, long).await.unwrap(), "{name}: it ended, and another has it");
    }
}

#[tokio::test]
async fn an_id_leads_to_its_owner_until_it_is_removed() {
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
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
    for Case { name, store, .. } in every_engine().await {
        let ours = customer("acme");
        for bytes in [0, 1, 4090, 4091, 4092, 2 * 4091, 2 * 4091 + 1, 64 << 10, (64 << 10) + 300] {
            let row = row(&ours, SecretId::random(), 1, long(bytes));
            store.put_secret(row.clone(), Expected::Absent).await.unwrap();
            assert!(store.secret(&ours, row.id).await.unwrap() == Some(row), "{name} {bytes} bytes");
        }
    }
}

#[tokio::test]
async fn tokens_are_written_kept_and_deleted_with_their_row() {
    for Case { name, store, .. } in every_engine().await {
        let (ours, id) = (customer("acme"), SecretId::random());
        let with = |head: &'static str, tokens: Option<Bytes>| SecretRow {
            head: Bytes::from_static(head.as_bytes()),
            tokens,
            ..row(&ours, id, 1, "sealed")
        };
        let expected = |head: &'static str| Expected::Head(Bytes::from_static(head.as_bytes()));
        let read = async || store.secret(&ours, id).await.unwrap().unwrap().tokens;
        store.put_secret(with("a", None), Expected::Absent).await.unwrap();
        assert_eq!(read().await, None, "{name}");
        let large = long(40_000);
        store.put_secret(with("b", Some(large.clone())), expected("a")).await.unwrap();
        assert_eq!(read().await, Some(large.clone()), "{name}: larger than a page");
        let late = store.put_secret(with("c", Some(Bytes::from_static(b"late"))), expected("a")).await;
        assert!(matches!(late, Err(StoreError::Conflict)), "{name}");
        assert_eq!(read().await, Some(large), "{name}: a write that came too late changes nothing");
        let small = Bytes::from_static(b"small");
        store.put_secret(with("c", Some(small.clone())), expected("b")).await.unwrap();
        assert_eq!(read().await, Some(small.clone()), "{name}: and leaves no piece of a larger one");
        assert_eq!(store.secrets(&ours, None, 10).await.unwrap()[0].tokens, Some(small), "{name}: in a list");
        let next = SecretRow { version: 2, ..with("d", None) };
        store.put_secret(next, expected("c")).await.unwrap();
        assert_eq!(read().await, None, "{name}: a new version has none");
        store.put_secret(with("e", Some(Bytes::from_static(b"more"))), expected("d")).await.unwrap();
        assert!(store.remove_secret(&ours, id).await.unwrap(), "{name}");
        store.put_secret(with("f", None), Expected::Absent).await.unwrap();
        assert_eq!(read().await, None, "{name}: they went with the secret");
    }
}
