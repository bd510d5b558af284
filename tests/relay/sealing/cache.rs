//! Data keys at hand: how long, how many calls, and what an outage and a denial make of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relay::kms::KmsError;
use relay::kms::cached::{Ages, BUDGET, Called, DataKeys, Pace, Settings, Standing};
use relay::kms::keyring::Keyring;
use relay::kms::{Kms, Shown};
use relay::model::{Customer, DataKeyId};
use tokio::runtime::Handle;

use super::customer;
use super::keys::until;
use crate::rig::kms::{Mood, Told};

const MINUTES: Ages = Ages { soft: Duration::from_secs(600), hard: Duration::from_secs(1200) };

/// A data key in the store: whose, its id, wrapped.
#[derive(Clone)]
struct Stored(Customer, DataKeyId, Vec<u8>);

impl Stored {
    async fn made_by(kms: &Arc<Told>, owner: &str) -> Self {
        let (owner, id) = (customer(owner), DataKeyId::random());
        let wrapped = Keyring::of(kms.clone()).generate(&owner, id).await.unwrap().1;
        Self(owner, id, wrapped)
    }

    async fn open(&self, keys: &DataKeys) -> Result<(), KmsError> {
        keys.open(&self.0, self.1, &self.2).await.map(drop)
    }

    fn is_warm(&self, keys: &DataKeys) -> bool {
        keys.warm(&self.0, self.1).is_some()
    }
}

fn keys(kms: &Arc<Told>, ages: Ages) -> DataKeys {
    DataKeys::with(Keyring::of(kms.clone()), Settings { ages, ..Settings::of(10_000) }, Handle::current())
}

fn standing(keys: &DataKeys, place: usize) -> Standing {
    keys.standings()[place].standing
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[tokio::test]
async fn a_key_in_use_is_refreshed_in_the_background_and_one_that_is_not_ages_out() {
    let kms = Told::new("one");
    let (used, unused) = (Stored::made_by(&kms, "acme").await, Stored::made_by(&kms, "globex").await);
    let keys = keys(&kms, Ages { soft: ms(300), hard: ms(1500) });
    used.open(&keys).await.unwrap();
    unused.open(&keys).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < ms(3500) {
        assert!(used.is_warm(&keys), "a key in use was not at hand after {:?}", begun.elapsed());
        tokio::time::sleep(ms(5)).await;
    }
    assert!(!unused.is_warm(&keys), "a key was served past its age");
    // Two opened; one refreshed each 300 to 360 ms, the other never.
    let refreshed = kms.unwraps() - 2;
    assert!((3..=11).contains(&refreshed), "{refreshed} refreshes in 3.5 s");
}

#[tokio::test]
async fn keys_unwrapped_together_are_not_refreshed_together() {
    let kms = Told::new("one");
    let keys = keys(&kms, Ages { soft: ms(1000), hard: ms(60_000) });
    let mut all = Vec::new();
    for n in 0..100 {
        let stored = Stored::made_by(&kms, &format!("customer-{n}")).await;
        all.push(stored);
    }
    for stored in &all {
        stored.open(&keys).await.unwrap();
    }
    let opened = kms.unwraps();
    let begun = Instant::now();
    let mut seen = BTreeMap::new();
    while kms.unwraps() < opened + 100 && begun.elapsed() < Duration::from_secs(8) {
        all.iter().for_each(|stored| assert!(stored.is_warm(&keys)));
        tokio::time::sleep(ms(10)).await;
        seen.insert(begun.elapsed().as_millis() / 20, kms.unwraps() - opened);
    }
    assert!(kms.unwraps() >= opened + 100, "only {} were refreshed", kms.unwraps() - opened);
    let counts: Vec<usize> = std::iter::once(0).chain(seen.into_values()).collect();
    let largest = counts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(largest <= 60, "{largest} of 100 were refreshed within 20 ms: {counts:?}");
}

#[tokio::test]
async fn a_key_is_served_through_an_outage_until_its_hard_age_and_no_longer() {
    let kms = Told::new("one");
    let (warm, cold) = (Stored::made_by(&kms, "acme").await, Stored::made_by(&kms, "globex").await);
    let keys = keys(&kms, Ages { soft: ms(200), hard: ms(7000) });
    warm.open(&keys).await.unwrap();
    let begun = Instant::now();
    kms.be(Mood::Silent);
    let asked = Instant::now();
    let refused = cold.open(&keys).await;
    assert!(matches!(refused, Err(KmsError::Unavailable(_))));
    assert!(asked.elapsed() < Duration::from_secs(2), "an app waited {:?}", asked.elapsed());
    until("the outage was not noticed", || {
        assert!(warm.is_warm(&keys));
        standing(&keys, 0) == Standing::Unavailable
    })
    .await;
    let asked = Instant::now();
    assert!(matches!(cold.open(&keys).await, Err(KmsError::Unavailable(_))));
    assert!(asked.elapsed() < BUDGET / 2, "known to be down, and asked all the same: {:?}", asked.elapsed());
    let mut last = Instant::now();
    while warm.is_warm(&keys) {
        last = Instant::now();
        assert!(begun.elapsed() < Duration::from_secs(9), "it is served past its hard age");
        tokio::time::sleep(ms(10)).await;
    }
    assert!(last - begun > ms(6500), "it was given up after {:?}", last - begun);
    assert!(matches!(warm.open(&keys).await, Err(KmsError::Unavailable(_))));
    kms.be(Mood::Well);
    let well = Instant::now();
    while warm.open(&keys).await.is_err() {
        assert!(well.elapsed() < Duration::from_secs(5), "it is not back within 5 s");
        tokio::time::sleep(ms(10)).await;
    }
    cold.open(&keys).await.unwrap();
}

#[tokio::test]
async fn a_denial_found_by_one_key_refuses_every_key_that_the_same_kms_key_wrapped_and_no_other() {
    let (current, earlier) = (Told::new("current"), Told::new("earlier"));
    let ours = Stored::made_by(&current, "acme").await;
    let other = Stored::made_by(&current, "globex").await;
    let theirs = Stored::made_by(&earlier, "initech").await;
    let ring = Keyring::new(current.clone(), [earlier.clone() as Arc<dyn Kms>], Shown::Name);
    let keys = DataKeys::with(ring, Settings { ages: MINUTES, ..Settings::of(100) }, Handle::current());
    for stored in [&ours, &other, &theirs] {
        stored.open(&keys).await.unwrap();
    }
    current.be(Mood::Denies);
    // A third key is asked for, and denied; the probe confirms it for all.
    let cold = Stored(customer("hooli"), DataKeyId::random(), ours.2.clone());
    assert!(matches!(cold.open(&keys).await, Err(KmsError::Denied(_))));
    until("the denial was not established", || standing(&keys, 0) == Standing::Denied).await;
    for stored in [&ours, &other] {
        assert!(!stored.is_warm(&keys), "a denied key was served");
        assert!(matches!(stored.open(&keys).await, Err(KmsError::Denied(_))));
    }
    assert!(matches!(keys.create(&customer("new")).await, Err(KmsError::Denied(_))));
    assert!(theirs.is_warm(&keys) && standing(&keys, 1) == Standing::Works, "another KMS key was condemned");
    // An outage in the middle of a denial does not lift it.
    current.be(Mood::Fails);
    tokio::time::sleep(ms(3000)).await;
    assert_eq!(standing(&keys, 0), Standing::Denied);
    current.be(Mood::Well);
    let well = Instant::now();
    while !ours.is_warm(&keys) {
        assert!(well.elapsed() < Duration::from_secs(5), "it is not back within 5 s");
        tokio::time::sleep(ms(10)).await;
    }
}

#[tokio::test]
async fn a_policy_against_one_customer_condemns_no_other() {
    let kms = Told::new("one");
    let denied = Stored::made_by(&kms, "acme").await;
    let others = [Stored::made_by(&kms, "globex").await, Stored::made_by(&kms, "initech").await];
    for order in ["the denied one opened last", "the denied one opened first"] {
        let keys = keys(&kms, Ages { soft: ms(300), hard: ms(60_000) });
        kms.denied_none();
        let last = order.ends_with("last");
        if !last {
            denied.open(&keys).await.unwrap();
        }
        others[0].open(&keys).await.unwrap();
        if last {
            denied.open(&keys).await.unwrap();
        } else {
            others[1].open(&keys).await.unwrap();
        }
        kms.deny("acme");
        // Its refresh is denied, and it alone is dropped.
        until("a denied key stayed at hand", || {
            assert!(others[0].is_warm(&keys), "{order}: another customer's key went");
            !denied.is_warm(&keys)
        })
        .await;
        assert!(matches!(denied.open(&keys).await, Err(KmsError::Denied(_))), "{order}");
        let begun = Instant::now();
        while begun.elapsed() < ms(1500) {
            assert_eq!(standing(&keys, 0), Standing::Works, "{order}");
            assert!(others[0].is_warm(&keys), "{order}");
            tokio::time::sleep(ms(20)).await;
        }
    }
}

#[tokio::test]
async fn a_purge_drops_every_key_and_what_is_under_way() {
    let kms = Told::new("one");
    let stored = [Stored::made_by(&kms, "acme").await, Stored::made_by(&kms, "globex").await];
    let keys = Arc::new(keys(&kms, MINUTES));
    for stored in &stored {
        stored.open(&keys).await.unwrap();
    }
    let made = keys.create(&customer("initech")).await.unwrap().0;
    let late = Stored::made_by(&kms, "hooli").await;
    kms.take(ms(300));
    let fetch = {
        let (keys, late) = (keys.clone(), late.clone());
        tokio::spawn(async move { late.open(&keys).await })
    };
    tokio::time::sleep(ms(100)).await;
    assert_eq!(keys.purge(), 3);
    assert!(stored.iter().all(|stored| !stored.is_warm(&keys)));
    assert!(keys.warm(&customer("initech"), made.id()).is_none());
    fetch.await.unwrap().unwrap();
    assert!(!late.is_warm(&keys), "what was under way at the purge was kept");
    kms.take(ms(0));
    let before = kms.unwraps();
    stored[0].open(&keys).await.unwrap();
    assert_eq!(kms.unwraps(), before + 1, "a purged key was served without asking");
}

#[tokio::test]
async fn a_customer_that_is_forgotten_takes_its_keys_along_and_nobody_elses() {
    let kms = Told::new("one");
    let theirs = [Stored::made_by(&kms, "acme").await, Stored::made_by(&kms, "acme").await];
    let other = Stored::made_by(&kms, "globex").await;
    let keys = keys(&kms, MINUTES);
    for stored in theirs.iter().chain([&other]) {
        stored.open(&keys).await.unwrap();
    }
    keys.forget_customer(&customer("acme"));
    assert!(theirs.iter().all(|stored| !stored.is_warm(&keys)));
    assert!(other.is_warm(&keys));
    assert_eq!(keys.held(), 1);
}

#[tokio::test]
async fn a_key_that_was_rewrapped_stays_at_hand_and_is_asked_for_as_it_stands_now() {
    let (current, earlier) = (Told::new("current"), Told::new("earlier"));
    let stored = Stored::made_by(&earlier, "acme").await;
    let ring = Keyring::new(current.clone(), [earlier.clone() as Arc<dyn Kms>], Shown::Name);
    let keys =
        DataKeys::with(ring.clone(), Settings { ages: MINUTES, ..Settings::of(10) }, Handle::current());
    stored.open(&keys).await.unwrap();
    let moved = ring.rewrap(&stored.0, stored.1, &stored.2).await.unwrap();
    assert_eq!(keys.held_of(&stored.0), [stored.1]);
    keys.stands_as(&stored.0, stored.1, Some(&moved));
    assert!(stored.is_warm(&keys), "a rewrap took a key away");
    until("it was not asked for by the KMS key that wraps it now", || current.unwraps() == 1).await;
    // What wrapped it before is of no more consequence.
    earlier.be(Mood::Denies);
    let cold = Stored(customer("globex"), DataKeyId::random(), stored.2.clone());
    assert!(cold.open(&keys).await.is_err());
    tokio::time::sleep(ms(500)).await;
    assert!(stored.is_warm(&keys), "an earlier KMS key's denial took a key that it no longer wraps");
    keys.stands_as(&stored.0, stored.1, None);
    assert!(!stored.is_warm(&keys), "a key that the store does not have stayed at hand");
}

#[tokio::test]
async fn a_version_that_is_destroyed_after_a_rewrap_is_no_denial() {
    let (current, earlier) = (Told::new("current"), Told::new("earlier"));
    let stored = Stored::made_by(&earlier, "acme").await;
    let ring = Keyring::new(current.clone(), [earlier.clone() as Arc<dyn Kms>], Shown::Name);
    let keys = DataKeys::with(ring, Settings { ages: MINUTES, ..Settings::of(10) }, Handle::current());
    stored.open(&keys).await.unwrap();
    let moved = keys.rewrap(&stored.0, stored.1, &stored.2).await.unwrap();
    keys.stands_as(&stored.0, stored.1, Some(&moved));
    earlier.be(Mood::Denies);
    let old = Stored(customer("globex"), DataKeyId::random(), stored.2.clone());
    assert!(matches!(old.open(&keys).await, Err(KmsError::Denied(_))));
    tokio::time::sleep(ms(800)).await;
    assert_eq!(standing(&keys, 1), Standing::Works, "probed by what was wrapped before");
    // And the KMS key that wraps it now is probed by it.
    current.be(Mood::Denies);
    let cold = Stored(customer("globex"), DataKeyId::random(), moved);
    assert!(matches!(cold.open(&keys).await, Err(KmsError::Denied(_))));
    until("the denial was not established", || standing(&keys, 0) == Standing::Denied).await;
    assert!(!stored.is_warm(&keys));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_start_of_five_hundred_customers_is_five_hundred_calls_and_no_storm() {
    let kms = Told::new("one");
    let mut all = Vec::new();
    for n in 0..500 {
        all.push(Stored::made_by(&kms, &format!("customer-{n}")).await);
    }
    kms.take(ms(20));
    let keys = Arc::new(keys(&kms, MINUTES));
    let begun = Instant::now();
    // Each customer three times at once.
    let asked = all.iter().cycle().take(1500).map(|stored| {
        let (keys, stored) = (keys.clone(), stored.clone());
        tokio::spawn(async move { stored.open(&keys).await })
    });
    let asked: Vec<_> = asked.collect();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(kms.unwraps(), 500);
    assert!(kms.most() <= Pace::DEFAULT.at_once, "{} calls were under way at once", kms.most());
    // 200 at once, then 200 a second.
    assert!(begun.elapsed() >= ms(1300), "500 calls came within {:?}", begun.elapsed());
}

#[tokio::test]
async fn what_cannot_have_its_turn_in_time_is_refused_and_casts_no_doubt_on_the_kms() {
    let kms = Told::new("one");
    let mut all = Vec::new();
    for n in 0..40 {
        all.push(Stored::made_by(&kms, &format!("customer-{n}")).await);
    }
    let pace = Pace { per_second: 10, at_once: 4 };
    let settings = Settings { pace, ages: MINUTES, ..Settings::of(100) };
    let keys = Arc::new(DataKeys::with(Keyring::of(kms.clone()), settings, Handle::current()));
    let begun = Instant::now();
    let asked: Vec<_> = all
        .iter()
        .map(|stored| {
            let (keys, stored) = (keys.clone(), stored.clone());
            tokio::spawn(async move { stored.open(&keys).await })
        })
        .collect();
    let mut opened = 0;
    for asked in asked {
        match asked.await.unwrap() {
            Ok(()) => opened += 1,
            Err(KmsError::Unavailable(why)) => assert!(why.contains("calls_per_second"), "{why}"),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert!((20..=29).contains(&opened), "{opened} of 40 opened at 10 a second in 1.9 s");
    assert_eq!(standing(&keys, 0), Standing::Works);
}

#[tokio::test]
async fn each_call_is_counted_by_what_for_and_how_it_ended() {
    let kms = Told::new("one");
    let counted: Arc<Mutex<BTreeMap<(&str, &str), u64>>> = Arc::default();
    let stored = Stored::made_by(&kms, "acme").await;
    let tally = counted.clone();
    let settings = Settings {
        ages: Ages { soft: ms(200), hard: ms(60_000) },
        counted: Arc::new(move |call: Called| {
            assert_eq!(call.provider, "told");
            *tally.lock().unwrap().entry((call.operation, call.outcome)).or_default() += 1;
        }),
        ..Settings::of(10)
    };
    let keys = DataKeys::with(Keyring::of(kms.clone()), settings, Handle::current());
    stored.open(&keys).await.unwrap();
    keys.create(&customer("globex")).await.unwrap();
    let of = |operation, outcome| counted.lock().unwrap().get(&(operation, outcome)).copied().unwrap_or(0);
    until("no refresh was counted", || stored.is_warm(&keys) && of("refresh", "ok") > 0).await;
    kms.be(Mood::Denies);
    until("no denied probe was counted", || {
        stored.is_warm(&keys);
        of("probe", "denied") > 0
    })
    .await;
    assert_eq!((of("unwrap", "ok"), of("generate", "ok")), (1, 1));
    assert!(of("refresh", "denied") > 0);
}
