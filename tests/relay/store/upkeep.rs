//! What rotation, forgetting and erasing ask of every engine.

use std::collections::BTreeSet;

use bytes::Bytes;
use relay::clock::unix_seconds;
use relay::model::{Customer, DataKeyId, SecretId};
use relay::store::{Change, Expected, Forgotten, Past, StoreError};
use tokio::sync::broadcast::error::TryRecvError;

use super::{Case, customer, every_engine, long, row};

fn head(text: &'static str) -> Expected {
    Expected::Head(Bytes::from_static(text.as_bytes()))
}

#[allow(clippy::needless_pass_by_value, reason = "what a call gave is asked and dropped")]
fn conflict<T>(done: Result<T, StoreError>) -> bool {
    matches!(done, Err(StoreError::Conflict))
}

#[tokio::test]
async fn every_customer_with_a_data_key_is_met_once_whatever_the_page() {
    for Case { name, store, .. } in every_engine().await {
        let names = ["a", "b", "aa", "a b", "\u{e9}", &"c".repeat(128), &"b".repeat(97), &"b".repeat(98)];
        let all: BTreeSet<Customer> = names.iter().map(|name| customer(name)).collect();
        for one in &all {
            store.add_data_key(one, DataKeyId::random(), long(9000)).await.unwrap();
        }
        // Without a data key nothing can be sealed for it.
        store
            .put_secret(row(&customer("keyless"), SecretId::random(), 1, ""), Expected::Absent)
            .await
            .unwrap();
        for limit in [1, 3, 8, 9, usize::MAX] {
            let (mut met, mut after) = (Vec::new(), None);
            loop {
                let page = store.upkeep().customers(after.as_ref(), limit).await.unwrap();
                assert!(page.len() <= limit, "{name}");
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                met.extend(page);
            }
            assert_eq!(met.len(), all.len(), "{name} limit {limit}");
            assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), all, "{name} limit {limit}");
        }
    }
}

#[tokio::test]
async fn a_data_key_is_exchanged_only_for_what_was_expected() {
    for Case { name, store, .. } in every_engine().await {
        let (ours, theirs, upkeep) = (customer("acme"), customer("globex"), store.upkeep());
        let [first, second, third] = [(); 3].map(|()| DataKeyId::random());
        store.add_data_key(&ours, first, "one".into()).await.unwrap();
        let mut feed = store.changes();
        let told = Change::DataKeys(ours.clone());

        assert!(conflict(upkeep.rewrap_data_key(&ours, first, "other".into(), "x".into()).await), "{name}");
        assert!(conflict(upkeep.rewrap_data_key(&ours, second, "one".into(), "x".into()).await), "{name}");
        assert!(conflict(upkeep.rewrap_data_key(&theirs, first, "one".into(), "x".into()).await), "{name}");
        assert!(conflict(upkeep.renew_data_key(&ours, second, third, "x".into()).await), "{name}");
        assert!(conflict(upkeep.renew_data_key(&ours, first, first, "x".into()).await), "{name}: its own id");
        assert!(conflict(upkeep.renew_data_key(&theirs, first, second, "x".into()).await), "{name}");
        assert!(conflict(upkeep.remove_data_key(&ours, first).await), "{name}: the active one was removed");
        assert_eq!(feed.try_recv(), Err(TryRecvError::Empty), "{name}");
        assert_eq!(store.active_data_key(&ours).await.unwrap(), Some((first, "one".into())), "{name}");

        upkeep.rewrap_data_key(&ours, first, "one".into(), "uno".into()).await.unwrap();
        assert_eq!(feed.try_recv().as_ref(), Ok(&told), "{name} rewrap");
        assert_eq!(store.data_key(&ours, first).await.unwrap(), Some("uno".into()), "{name}");
        upkeep.renew_data_key(&ours, first, second, "two".into()).await.unwrap();
        assert_eq!(feed.try_recv().as_ref(), Ok(&told), "{name} renew");
        assert_eq!(store.active_data_key(&ours).await.unwrap(), Some((second, "two".into())), "{name}");
        let mut both = vec![(first, Bytes::from("uno")), (second, Bytes::from("two"))];
        both.sort();
        assert_eq!(upkeep.data_keys(&ours).await.unwrap(), both, "{name}");
        assert!(upkeep.remove_data_key(&ours, first).await.unwrap(), "{name}");
        assert_eq!(feed.try_recv().as_ref(), Ok(&told), "{name} remove");
        assert!(!upkeep.remove_data_key(&ours, first).await.unwrap(), "{name}: removed twice");
        assert_eq!(store.data_key(&ours, first).await.unwrap(), None, "{name}");
        assert_eq!(upkeep.data_keys(&theirs).await.unwrap(), [], "{name}");
    }
}

#[tokio::test]
async fn nothing_new_is_sealed_under_a_key_that_is_not_the_active_one() {
    for Case { name, store, .. } in every_engine().await {
        let ours = customer("acme");
        let (first, second) = (DataKeyId::random(), DataKeyId::random());
        let put = async |key| {
            store.put_secret(row(&ours, SecretId::random(), 1, "sealed"), Expected::New(key)).await
        };
        assert!(conflict(put(first).await), "{name}: without any data key");
        store.add_data_key(&ours, first, "one".into()).await.unwrap();
        put(first).await.unwrap();
        assert!(conflict(put(second).await), "{name}: under a key that is not there");
        store.upkeep().renew_data_key(&ours, first, second, "two".into()).await.unwrap();
        assert!(conflict(put(first).await), "{name}: under the key before");
        put(second).await.unwrap();
        assert_eq!(store.secrets(&ours, None, 9).await.unwrap().len(), 2, "{name}");
    }
}

#[tokio::test]
async fn a_version_that_another_replaces_is_kept_with_its_own_head() {
    for Case { name, store, .. } in every_engine().await {
        let (ours, id, upkeep) = (customer("acme"), SecretId::random(), store.upkeep());
        let begun = unix_seconds();
        store.put_secret(row(&ours, id, 1, long(9000)), Expected::Absent).await.unwrap();
        assert_eq!(upkeep.past(&ours, id).await.unwrap(), [], "{name}");
        // The same version under another head is no new version.
        let again = relay::store::SecretRow { head: "head 1b".into(), ..row(&ours, id, 1, long(8000)) };
        store.put_secret(again, head("head 1")).await.unwrap();
        assert_eq!(upkeep.past(&ours, id).await.unwrap(), [], "{name}");
        store.put_secret(row(&ours, id, 2, "two"), head("head 1b")).await.unwrap();
        store.put_secret(row(&ours, id, 3, long(5000)), head("head 2")).await.unwrap();
        let past = upkeep.past(&ours, id).await.unwrap();
        let told: Vec<_> = past.iter().map(|p| (p.version, p.head.clone(), p.sealed.clone())).collect();
        let wanted = [(1, Some("head 1b".into()), long(8000)), (2, Some("head 2".into()), "two".into())];
        assert_eq!(told, wanted, "{name}");
        assert!(past.iter().all(|p| (begun..=unix_seconds()).contains(&p.superseded_at)), "{name}");
        assert_eq!(upkeep.past(&customer("globex"), id).await.unwrap(), [], "{name}: somebody else's");

        let moved = Past { head: Some("moved".into()), sealed: long(12_000), ..past[0].clone() };
        let replace = async |expected: &'static str, past: &Past| {
            upkeep.replace_past(&ours, id, expected.into(), past.clone()).await
        };
        assert!(conflict(replace("head 2", &moved).await), "{name}: another version's head");
        let missing = Past { version: 7, ..moved.clone() };
        assert!(conflict(replace("head 1b", &missing).await), "{name}: no such version");
        let current = Past { version: 3, ..moved.clone() };
        assert!(conflict(replace("head 3", &current).await), "{name}: the current version");
        replace("head 1b", &moved).await.unwrap();
        assert_eq!(upkeep.past(&ours, id).await.unwrap(), [moved, past[1].clone()], "{name}");
        assert_eq!(store.secret(&ours, id).await.unwrap(), Some(row(&ours, id, 3, long(5000))), "{name}");

        assert!(store.remove_secret(&ours, id).await.unwrap(), "{name}");
        assert_eq!(upkeep.past(&ours, id).await.unwrap(), [], "{name}: removed with the secret");
    }
}

#[tokio::test]
async fn only_versions_that_are_past_for_long_enough_are_erased() {
    for Case { name, store, .. } in every_engine().await {
        let (ours, theirs, upkeep) = (customer("acme"), customer("acme2"), store.upkeep());
        for one in [&ours, &theirs] {
            let id = SecretId::random();
            store.put_secret(row(one, id, 1, "one"), Expected::Absent).await.unwrap();
            store.put_secret(row(one, id, 2, "two"), head("head 1")).await.unwrap();
        }
        let [kept] = &store.secrets(&ours, None, 9).await.unwrap()[..] else { panic!("{name}") };
        assert_eq!(upkeep.erase_past(&ours, unix_seconds() - 5).await.unwrap(), 0, "{name}: too young");
        assert_eq!(upkeep.past(&ours, kept.id).await.unwrap().len(), 1, "{name}");
        assert_eq!(upkeep.erase_past(&ours, unix_seconds() + 5).await.unwrap(), 1, "{name}");
        assert_eq!(upkeep.erase_past(&ours, unix_seconds() + 5).await.unwrap(), 0, "{name}: twice");
        assert_eq!(upkeep.past(&ours, kept.id).await.unwrap(), [], "{name}");
        assert_eq!(
            store.secret(&ours, kept.id).await.unwrap().as_ref(),
            Some(kept),
            "{name}: the current one"
        );
        let [other] = &store.secrets(&theirs, None, 9).await.unwrap()[..] else { panic!("{name}") };
        assert_eq!(upkeep.past(&theirs, other.id).await.unwrap().len(), 1, "{name}: another customer's");
    }
}

#[tokio::test]
async fn a_forgotten_customer_leaves_nothing_and_takes_nobody_along() {
    for Case { name, store, .. } in every_engine().await {
        let (ours, theirs, upkeep) = (customer("acme"), customer("acme2"), store.upkeep());
        let (first, second) = (DataKeyId::random(), DataKeyId::random());
        let mut ids = Vec::new();
        for one in [&ours, &theirs] {
            store.add_data_key(one, first, "one".into()).await.unwrap();
            upkeep.renew_data_key(one, first, second, "two".into()).await.unwrap();
            for number in 0..250 {
                let id = SecretId::random();
                store.put_secret(row(one, id, 1, long(10)), Expected::Absent).await.unwrap();
                if number % 10 == 0 {
                    store.put_secret(row(one, id, 2, long(5000)), head("head 1")).await.unwrap();
                }
                ids.push((one.clone(), id));
            }
        }
        let mut feed = store.changes();
        let forgotten = upkeep.forget(&ours).await.unwrap();
        assert_eq!(forgotten, Forgotten { data_keys: 2, secrets: 250 }, "{name}");
        assert_eq!(feed.try_recv().unwrap(), Change::DataKeys(ours.clone()), "{name}: the keys go first");
        let mut told = BTreeSet::new();
        while let Ok(Change::Secret(customer, id)) = feed.try_recv() {
            assert_eq!(customer, ours, "{name}");
            told.insert(id);
        }
        assert_eq!(told.len(), 250, "{name}");
        assert_eq!(store.active_data_key(&ours).await.unwrap(), None, "{name}");
        assert_eq!(upkeep.data_keys(&ours).await.unwrap(), [], "{name}");
        assert_eq!(upkeep.customers(None, 9).await.unwrap(), std::slice::from_ref(&theirs), "{name}");
        assert_eq!(upkeep.data_keys(&theirs).await.unwrap().len(), 2, "{name}");
        for (one, id) in ids {
            let there = one == theirs;
            assert_eq!(store.secret(&one, id).await.unwrap().is_some(), there, "{name}");
            assert_eq!(store.owner(id).await.unwrap().is_some(), there, "{name}");
            if !there {
                assert_eq!(upkeep.past(&one, id).await.unwrap(), [], "{name}");
            }
        }
        assert_eq!(upkeep.forget(&ours).await.unwrap(), Forgotten::default(), "{name}: twice");
        // The name is free for a new beginning.
        store.add_data_key(&ours, DataKeyId::random(), "new".into()).await.unwrap();
    }
}

#[tokio::test]
async fn the_last_use_is_noted_for_secrets_that_exist() {
    for Case { name, store, .. } in every_engine().await {
        let (ours, id, gone) = (customer("acme"), SecretId::random(), SecretId::random());
        store.put_secret(row(&ours, id, 1, "one"), Expected::Absent).await.unwrap();
        let upkeep = store.upkeep();
        assert_eq!(upkeep.last_used(&ours, vec![id, gone]).await.unwrap(), [None, None], "{name}");
        upkeep.note_used(vec![(ours.clone(), id, 7200), (ours.clone(), gone, 7200)]).await.unwrap();
        assert_eq!(upkeep.last_used(&ours, vec![gone, id]).await.unwrap(), [None, Some(7200)], "{name}");
        upkeep.note_used(vec![(ours.clone(), id, 10_800)]).await.unwrap();
        assert_eq!(upkeep.last_used(&ours, vec![id]).await.unwrap(), [Some(10_800)], "{name}");
        assert_eq!(upkeep.last_used(&customer("globex"), vec![id]).await.unwrap(), [None], "{name}");
        store.remove_secret(&ours, id).await.unwrap();
        store.put_secret(row(&ours, id, 1, "one"), Expected::Absent).await.unwrap();
        assert_eq!(upkeep.last_used(&ours, vec![id]).await.unwrap(), [None], "{name}: removed with it");
    }
}

#[tokio::test]
async fn the_generation_grows_with_every_write_and_with_nothing_else() {
    for Case { name, store, .. } in every_engine().await {
        let (ours, id, upkeep) = (customer("acme"), SecretId::random(), store.upkeep());
        let mut last = upkeep.generation().await.unwrap();
        let mut grown = async |what: &str, grows: bool| {
            let now = upkeep.generation().await.unwrap();
            assert_eq!(now > last, grows, "{name} {what}: {last} {now}");
            last = now;
        };
        let (first, second) = (DataKeyId::random(), DataKeyId::random());
        store.add_data_key(&ours, first, "one".into()).await.unwrap();
        grown("add_data_key", true).await;
        store.put_secret(row(&ours, id, 1, "one"), Expected::New(first)).await.unwrap();
        grown("put_secret", true).await;
        let _ = store.put_secret(row(&ours, id, 1, "one"), Expected::Absent).await.unwrap_err();
        store.secret(&ours, id).await.unwrap();
        grown("a refused write and a read", false).await;
        upkeep.rewrap_data_key(&ours, first, "one".into(), "uno".into()).await.unwrap();
        grown("rewrap", true).await;
        upkeep.renew_data_key(&ours, first, second, "two".into()).await.unwrap();
        grown("renew", true).await;
        upkeep.remove_data_key(&ours, first).await.unwrap();
        grown("remove_data_key", true).await;
        store.put_meta("anchor", "1".into()).await.unwrap();
        grown("put_meta", true).await;
        store.remove_secret(&ours, id).await.unwrap();
        grown("remove_secret", true).await;
        upkeep.forget(&ours).await.unwrap();
        grown("forget", true).await;
    }
}
