//! Rotation, rebinding, forgetting: over both engines, a real key file, and the jobs as relay runs them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use relay::audit::{Durability, Log, MemorySink, Setup, Signer};
use relay::config::FieldSetting;
use relay::envelope::{self, Head};
use relay::kms::cached::DataKeys;
use relay::kms::keyring::Keyring;
use relay::kms::local::Local;
use relay::kms::{self, KeyContext, Kms, KmsError, Shown};
use relay::model::{Customer, DataKeyId, FieldName, IntegrationName, Origin, Policy, RequestId, SecretId};
use relay::seal::jobs::{Habits, Job, Jobs, Work};
use relay::seal::{NewSecret, SealError, SealTarget, Sealer, Was};
use relay::secret::Secret;
use relay::store::memory::Memory;
use relay::store::sled::Sled;
use relay::store::{Expected, Store};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{customer, spec};

const CANARY: &str = "xoxb-canary-5d1f0c77";

fn target(name: &str, origin: &str) -> SealTarget {
    let field = FieldSetting {
        spec: spec("token", true),
        label: "Token".to_owned(),
        help: None,
        example: None,
        scrub_off_danger: false,
        optional: false,
        pem: false,
        pattern: None,
    };
    SealTarget {
        name: IntegrationName::parse(name).unwrap(),
        origin: Origin::parse(origin).unwrap(),
        per_customer: None,
        token_origin: None,
        fields: vec![field],
        client_certificate: None,
        rate: None,
        concurrency: None,
    }
}

fn value(text: &str) -> Vec<(FieldName, Secret)> {
    vec![(FieldName::parse("token").unwrap(), Secret::new(text.as_bytes().to_vec()))]
}

/// A store, a key file and a sealer over both: what a relay has before it listens.
struct Bench {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    keys: Arc<DataKeys>,
    sink: MemorySink,
    _log: Log,
    jobs: Arc<Jobs>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Bench {
    async fn of(store: Arc<dyn Store>, ring: Keyring, targets: Vec<SealTarget>, habits: Habits) -> Self {
        let keys = Arc::new(DataKeys::new(ring, 1000, Handle::current()));
        let sealer = Arc::new(Sealer::open(store.clone(), keys.clone(), targets).await.unwrap());
        let sink = MemorySink::default();
        let setup = Setup {
            replica: "here".to_owned(),
            durability: Durability::Written,
            signer: Signer::from_seed(&Secret::new(vec![7; 32])).unwrap(),
            newest: None,
            generation: Arc::default(),
            on_anchor: Box::new(|_| {}),
        };
        let log = Log::open(Box::new(sink.clone()), setup).unwrap();
        let jobs = Arc::new(Jobs::open(sealer.clone(), log.chain(), habits).await.unwrap());
        Self { store, sealer, keys, sink, _log: log, jobs, running: None }
    }

    async fn over(store: Arc<dyn Store>, kms: Arc<dyn Kms>) -> Self {
        let targets = vec![target("slack", "https://slack.com")];
        Self::of(store, Keyring::of(kms), targets, Habits::default()).await
    }

    /// Lets jobs go on.
    fn run(&mut self) {
        let jobs = self.jobs.clone();
        self.running = Some(tokio::spawn(async move { jobs.run().await }));
    }

    /// As a crash does, between any two steps.
    async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
    }

    async fn job(&mut self, work: Work) -> Job {
        let (job, begun) = self.jobs.start(RequestId::fresh(), work, false).await.unwrap();
        assert!(begun, "another job is under way");
        if self.running.is_none() {
            self.run();
        }
        self.ended(job.id).await
    }

    async fn ended(&self, id: RequestId) -> Job {
        for _ in 0..2000 {
            let job = self.jobs.newest().await.unwrap().unwrap();
            if job.id == id && !job.is_under_way() {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the job does not end: {:?}", self.jobs.newest().await);
    }

    async fn add(&self, owner: &str, text: &str) -> SecretId {
        let new = NewSecret {
            customer: customer(owner),
            integration: IntegrationName::parse("slack").unwrap(),
            label: "Bot".to_owned(),
            fields: value(text),
            expires_at: None,
            policy: Policy::default(),
            idempotency: None,
        };
        self.sealer.add(new).await.unwrap().id
    }

    /// The current value, as the data path opens it.
    async fn opened(&self, owner: &Customer, id: SecretId) -> Result<(Head, String), String> {
        let row = self.store.secret(owner, id).await.unwrap().ok_or("it is gone")?;
        let key_id = Head::data_key_of(&row.head).map_err(|e| e.to_string())?;
        let wrapped = self.store.data_key(owner, key_id).await.unwrap().ok_or("its data key is gone")?;
        let key = self.keys.open(owner, key_id, &wrapped).await.map_err(|e| e.to_string())?;
        let head = Head::decode(&key, owner, id, &row.head).map_err(|e| e.to_string())?;
        let fields = envelope::open(&key, &head.binding(), &row.sealed).map_err(|e| e.to_string())?;
        let text = String::from_utf8(fields[0].value.expose().to_vec()).unwrap();
        Ok((head, text))
    }

    async fn only_key(&self, owner: &Customer) -> (DataKeyId, Bytes) {
        let keys = self.store.upkeep().data_keys(owner).await.unwrap();
        let [one] = &keys[..] else { panic!("{} data keys", keys.len()) };
        assert_eq!(self.store.active_data_key(owner).await.unwrap().as_ref(), Some(one));
        one.clone()
    }

    fn audit(&self) -> String {
        String::from_utf8(self.sink.bytes()).unwrap()
    }
}

struct Engine {
    name: &'static str,
    store: Arc<dyn Store>,
    _folder: Option<TempDir>,
}

fn every_engine() -> Vec<Engine> {
    let folder = TempDir::new().unwrap();
    let sled = Sled::open(&folder.path().join("db"), Handle::current()).unwrap();
    vec![
        Engine { name: "memory", store: Arc::new(Memory::new()), _folder: None },
        Engine { name: "sled", store: Arc::new(sled), _folder: Some(folder) },
    ]
}

fn local(folder: &TempDir) -> Arc<Local> {
    let file = folder.path().join("relay.key");
    Arc::new(if file.exists() { Local::load(&file) } else { Local::create(&file) }.unwrap())
}

#[tokio::test]
async fn new_data_keys_carry_every_version_over_and_the_old_ones_go() {
    for Engine { name, store, .. } in every_engine() {
        let mut bench = Bench::over(store, Arc::new(Local::ephemeral())).await;
        let mut before = BTreeMap::new();
        for number in 0..100 {
            let owner = format!("customer-{}", number % 20);
            let id = bench.add(&owner, &format!("{CANARY}-{number}")).await;
            if number % 3 == 0 {
                bench.sealer.add_version(id, value(&format!("{CANARY}-{number}-second"))).await.unwrap();
            }
            before.insert(id, (customer(&owner), bench.sealer.show(id).await.unwrap(), number));
        }
        let mut keys = BTreeMap::new();
        for number in 0..20 {
            let owner = customer(&format!("customer-{number}"));
            keys.insert(owner.clone(), bench.only_key(&owner).await);
        }
        let job = bench.job(Work::Data).await;
        // 100 current versions and 34 past ones.
        assert_eq!((job.customers, job.of, job.moved, job.left), (20, Some(20), 134, 0), "{name}");
        for (owner, (old, wrapped)) in &keys {
            assert_ne!(bench.only_key(owner).await.0, *old, "{name}");
            bench.keys.forget(owner, *old);
            assert_eq!(bench.store.data_key(owner, *old).await.unwrap(), None, "{name}");
            assert!(!wrapped.is_empty());
        }
        for (id, (owner, told, number)) in &before {
            let (head, text) = bench.opened(owner, *id).await.unwrap();
            let wanted = if number % 3 == 0 {
                format!("{CANARY}-{number}-second")
            } else {
                format!("{CANARY}-{number}")
            };
            assert_eq!(text, wanted, "{name}");
            assert_eq!(&bench.sealer.show(*id).await.unwrap(), told, "{name}: people see no change");
            assert_eq!(head.version, told.version, "{name}");
            if number % 3 == 0 {
                let back = bench.sealer.rollback(*id, 1).await.unwrap();
                assert_eq!(back.version, 3, "{name}");
                assert_eq!(bench.opened(owner, *id).await.unwrap().1, format!("{CANARY}-{number}"), "{name}");
            }
        }
        let again = bench.job(Work::Data).await;
        assert_eq!((again.customers, again.left), (20, 0), "{name}: twice is harmless");
        let audit = bench.audit();
        assert_eq!(audit.matches("\"note\":\"new data key\"").count(), 40, "{name}");
        assert!(audit.contains("ended: moved 134, left 0, customers 20"), "{name}: {audit}");
        assert!(!audit.contains("canary"), "{name}");
    }
}

#[tokio::test]
async fn a_job_that_is_stopped_anywhere_goes_on_and_loses_nothing() {
    for Engine { name, store, .. } in every_engine() {
        let kms: Arc<dyn Kms> = Arc::new(Local::ephemeral());
        let mut bench = Bench::over(store.clone(), kms.clone()).await;
        let mut ids = Vec::new();
        for number in 0..400 {
            let owner = format!("customer-{}", number % 200);
            let id = bench.add(&owner, &format!("{CANARY}-{number}")).await;
            ids.push((customer(&owner), id, bench.sealer.show(id).await.unwrap()));
        }
        for work in [Work::Data, Work::Rewrap] {
            let (job, _) = bench.jobs.start(RequestId::fresh(), work.clone(), false).await.unwrap();
            let mut stops = 0;
            loop {
                bench.run();
                tokio::time::sleep(Duration::from_millis(2 + 3 * stops)).await;
                bench.stop().await;
                if !bench.jobs.newest().await.unwrap().unwrap().is_under_way() {
                    break;
                }
                stops += 1;
                // What a new process knows: the store alone.
                bench = Bench::over(store.clone(), kms.clone()).await;
                let found = bench.jobs.newest().await.unwrap().unwrap();
                assert!(found.id == job.id && found.work == work, "{name}: {found:?}");
                // Its end stood in the store already when it was stopped.
                if !found.is_under_way() {
                    break;
                }
            }
            assert!(stops > 0, "{name}: it was never stopped in the middle");
            assert_eq!(bench.jobs.newest().await.unwrap().unwrap().left, 0, "{name}");
            for (owner, id, told) in &ids {
                assert!(bench.opened(owner, *id).await.unwrap().1.starts_with(CANARY), "{name}");
                assert_eq!(&bench.sealer.show(*id).await.unwrap(), told, "{name}");
                bench.only_key(owner).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_and_readers_go_on_while_keys_are_renewed() {
    for Engine { name, store, .. } in every_engine() {
        let mut bench = Bench::over(store, Arc::new(Local::ephemeral())).await;
        let mut ids = Vec::new();
        for number in 0..60 {
            let owner = format!("customer-{}", number % 6);
            ids.push((customer(&owner), bench.add(&owner, CANARY).await));
        }
        let over = Arc::new(AtomicBool::new(false));
        let mut writers = tokio::task::JoinSet::new();
        for place in 0..4usize {
            let (sealer, over, mine) = (bench.sealer.clone(), over.clone(), ids.clone());
            writers.spawn(async move {
                let mut written = BTreeMap::new();
                for turn in place.. {
                    if over.load(Ordering::SeqCst) {
                        return written;
                    }
                    // Each writer has secrets of its own, and adds some.
                    let (owner, id) = &mine[(turn * 4 + place) % mine.len()];
                    let text = format!("{CANARY}-{place}-{turn}");
                    if (turn * 4 + place) % 4 == place {
                        match sealer.add_version(*id, value(&text)).await {
                            Ok(_) => drop(written.insert((owner.clone(), *id), text.clone())),
                            Err(error) => assert!(matches!(error, SealError::Conflict), "{error}"),
                        }
                    }
                    let new = NewSecret {
                        customer: owner.clone(),
                        integration: IntegrationName::parse("slack").unwrap(),
                        label: "Bot".to_owned(),
                        fields: value(&text),
                        expires_at: None,
                        policy: Policy::default(),
                        idempotency: None,
                    };
                    match sealer.add(new).await {
                        Ok(told) => drop(written.insert((owner.clone(), told.id), text)),
                        Err(error) => assert!(matches!(error, SealError::Conflict), "{error}"),
                    }
                    // Reading never meets a key that is gone.
                    sealer.show(*id).await.unwrap();
                    assert!(sealer.list(owner, None, 1000).await.unwrap().unusable.is_empty());
                    tokio::task::yield_now().await;
                }
                written
            });
        }
        for _ in 0..5 {
            let job = bench.job(Work::Data).await;
            assert_eq!(job.left, 0, "{name}");
        }
        over.store(true, Ordering::SeqCst);
        let mut written = BTreeMap::new();
        while let Some(done) = writers.join_next().await {
            written.extend(done.unwrap());
        }
        assert!(written.len() > 20, "{name}: nobody wrote anything");
        for ((owner, id), text) in written {
            let (_, found) = bench.opened(&owner, id).await.unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(found, text, "{name}");
        }
        bench.stop().await;
    }
}

#[tokio::test]
async fn rewrapping_moves_all_keys_to_a_new_version_and_to_another_provider() {
    for Engine { name, store, .. } in every_engine() {
        let folder = TempDir::new().unwrap();
        let kms = local(&folder);
        let mut bench = Bench::over(store.clone(), kms.clone()).await;
        let mut ids = Vec::new();
        for number in 0..30 {
            let owner = format!("customer-{}", number % 10);
            ids.push((customer(&owner), bench.add(&owner, CANARY).await));
        }
        let before = kms.key();
        let (job, _) = bench.jobs.start(RequestId::fresh(), Work::Rewrap, true).await.unwrap();
        assert_ne!(kms.key(), before, "{name}: a new version was asked for");
        bench.run();
        let job = bench.ended(job.id).await;
        assert_eq!((job.moved, job.left), (10, 0), "{name}");
        let inventory = bench.sealer.inventory().await.unwrap();
        let [one] = &inventory.keys[..] else { panic!("{name}: {inventory:?}") };
        assert_eq!((one.data_keys, one.store_keys, one.wraps_now), (10, 1, true), "{name}");
        assert_eq!(one.key, kms.key(), "{name}");
        assert!(one.oldest.is_some() && one.oldest <= one.newest, "{name}");
        bench.stop().await;

        // Without the old line everything still opens.
        let file = folder.path().join("relay.key");
        let text = std::fs::read_to_string(&file).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.contains(&before)).collect();
        assert_eq!(kept.iter().filter(|line| line.starts_with("relay-key-1")).count(), 1, "{name}");
        std::fs::write(&file, kept.join("\n")).unwrap();
        let bench = Bench::over(store.clone(), local(&folder)).await;
        for (owner, id) in &ids {
            assert_eq!(bench.opened(owner, *id).await.unwrap().1, CANARY, "{name}");
        }
        // And to another KMS, with both configured while keys are moved.
        let (old, new) = (local(&folder), Arc::new(Local::ephemeral()));
        let both = Keyring::new(new.clone(), [old as Arc<dyn Kms>], Shown::Hash);
        let targets = vec![target("slack", "https://slack.com")];
        let mut bench = Bench::of(store.clone(), both, targets, Habits::default()).await;
        assert_eq!(bench.sealer.inventory().await.unwrap().keys.len(), 2, "{name}");
        assert_eq!(bench.job(Work::Rewrap).await.moved, 10, "{name}");
        assert_eq!(bench.sealer.inventory().await.unwrap().keys.len(), 1, "{name}");
        bench.stop().await;
        let bench = Bench::over(store, new).await;
        for (owner, id) in &ids {
            assert_eq!(bench.opened(owner, *id).await.unwrap().1, CANARY, "{name}");
        }
    }
}

/// A KMS that is black-holed or says no while it is told to, and counts who asks at once.
struct Switched {
    inner: Local,
    fails: AtomicUsize,
    at_once: AtomicUsize,
    most: AtomicUsize,
}

impl Switched {
    fn new() -> Arc<Self> {
        let (fails, at_once, most) = Default::default();
        Arc::new(Self { inner: Local::ephemeral(), fails, at_once, most })
    }

    async fn turn(&self) -> Result<(), KmsError> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        match self.fails.load(Ordering::SeqCst) {
            0 => Ok(()),
            1 => Err(KmsError::Unavailable("told to".to_owned())),
            _ => Err(KmsError::Denied("told to".to_owned())),
        }
    }
}

impl Kms for Switched {
    fn provider(&self) -> &'static str {
        "local"
    }
    fn key(&self) -> String {
        self.inner.key()
    }
    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> kms::Call<'a, Vec<u8>> {
        Box::pin(async move {
            self.turn().await?;
            self.inner.wrap(context, key).await
        })
    }
    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> kms::Call<'a, Secret> {
        Box::pin(async move {
            self.turn().await?;
            self.inner.unwrap(context, wrapped).await
        })
    }
    fn new_version(&self) -> kms::Call<'_, ()> {
        self.inner.new_version()
    }
}

#[tokio::test]
async fn a_kms_that_is_down_or_denies_pauses_a_job_that_says_so_and_goes_on() {
    let kms = Switched::new();
    let mut bench = Bench::over(Arc::new(Memory::new()), kms.clone()).await;
    for number in 0..100 {
        bench.add(&format!("customer-{number}"), CANARY).await;
    }
    for (work, failure, said) in
        [(Work::Data, 1, "unavailable"), (Work::Rewrap, 2, "denies"), (Work::Data, 2, "denies")]
    {
        kms.most.store(0, Ordering::SeqCst);
        kms.fails.store(failure, Ordering::SeqCst);
        let (job, _) = bench.jobs.start(RequestId::fresh(), work, false).await.unwrap();
        if bench.running.is_none() {
            bench.run();
        }
        let paused = loop {
            if let Some(why) = bench.jobs.newest().await.unwrap().unwrap().paused {
                break why;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(paused.contains(said), "{paused}");
        let (second, begun) = bench.jobs.start(RequestId::fresh(), Work::Rewrap, true).await.unwrap();
        assert!(!begun && second.id == job.id, "a second start is told of the first");
        kms.fails.store(0, Ordering::SeqCst);
        let job = bench.ended(job.id).await;
        assert_eq!((job.customers, job.left, job.paused), (100, 0, None));
        // Four of the job, and the probe of a KMS key in doubt.
        assert!(kms.most.load(Ordering::SeqCst) <= 5, "{:?} calls at once", kms.most);
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_opened_keeps_its_data_key_and_stops_nobody_elses() {
    for Engine { name, store, .. } in every_engine() {
        let mut bench = Bench::over(store, Arc::new(Local::ephemeral())).await;
        let (acme, good, bad) =
            (customer("acme"), bench.add("acme", CANARY).await, bench.add("acme", CANARY).await);
        let other = bench.add("globex", CANARY).await;
        let (old, _) = bench.only_key(&acme).await;
        let row = bench.store.secret(&acme, bad).await.unwrap().unwrap();
        let mut sealed = row.sealed.to_vec();
        sealed[60] ^= 1;
        let broken = relay::store::SecretRow { sealed: sealed.into(), ..row.clone() };
        bench.store.put_secret(broken.clone(), Expected::Head(row.head.clone())).await.unwrap();
        let job = bench.job(Work::Data).await;
        assert_eq!((job.moved, job.left, job.customers), (2, 1, 2), "{name}");
        assert!(bench.store.data_key(&acme, old).await.unwrap().is_some(), "{name}: the key went");
        assert_eq!(bench.store.secret(&acme, bad).await.unwrap(), Some(broken), "{name}: it was touched");
        assert!(
            bench.opened(&acme, good).await.is_ok() && bench.opened(&customer("globex"), other).await.is_ok()
        );
        bench.only_key(&customer("globex")).await;
        // Mended from a backup, the next run ends it.
        bench.store.put_secret(row.clone(), Expected::Head(row.head)).await.unwrap();
        assert_eq!(bench.job(Work::Data).await.left, 0, "{name}");
        bench.only_key(&acme).await;
        assert_eq!(bench.opened(&acme, bad).await.unwrap().1, CANARY, "{name}");
    }
}

#[tokio::test]
async fn what_was_sealed_before_is_noise_once_the_customer_is_forgotten() {
    for Engine { name, store, .. } in every_engine() {
        let bench = Bench::over(store, Arc::new(Local::ephemeral())).await;
        let (acme, id) = (customer("acme"), bench.add("acme", CANARY).await);
        let other = bench.add("globex", CANARY).await;
        bench.sealer.add_version(id, value("xoxb-canary-second")).await.unwrap();
        let row = bench.store.secret(&acme, id).await.unwrap().unwrap();
        let gone = bench.sealer.forget(&acme).await.unwrap();
        assert_eq!((gone.secrets, gone.data_keys), (1, 1), "{name}");
        assert!(matches!(bench.sealer.forget(&acme).await, Err(SealError::NotFound)), "{name}");
        bench.store.put_secret(row.clone(), Expected::Absent).await.unwrap();
        assert!(bench.opened(&acme, id).await.is_err(), "{name}: it opened");
        assert!(matches!(bench.sealer.show(id).await, Err(SealError::Unusable(_))), "{name}");
        // Nor once the customer has come back with another data key.
        let new = bench.add("acme", CANARY).await;
        assert!(bench.opened(&acme, new).await.is_ok(), "{name}");
        assert!(bench.opened(&acme, id).await.is_err(), "{name}: it opened");
        assert!(bench.opened(&customer("globex"), other).await.is_ok(), "{name}: another customer's");
    }
}

#[tokio::test]
async fn an_older_copy_with_its_wrapped_keys_opens_until_the_kms_key_version_is_destroyed() {
    let (folder, copy) = (TempDir::new().unwrap(), Arc::new(Memory::new()));
    let kms = local(&folder);
    let mut bench = Bench::over(Arc::new(Memory::new()), kms.clone()).await;
    let (acme, id) = (customer("acme"), bench.add("acme", CANARY).await);
    let kept = bench.add("globex", CANARY).await;
    // The copy: the row and the wrapped data key, as a stolen backup has them.
    let row = bench.store.secret(&acme, id).await.unwrap().unwrap();
    let (data_key, wrapped) = bench.only_key(&acme).await;
    copy.add_data_key(&acme, data_key, wrapped.clone()).await.unwrap();
    copy.put_secret(row, Expected::Absent).await.unwrap();
    bench.sealer.forget(&acme).await.unwrap();
    let stolen = Bench::over(copy.clone(), local(&folder)).await;
    assert_eq!(stolen.opened(&acme, id).await.unwrap().1, CANARY, "with relay.key the copy opens");

    // The closing step: everything that lives is wrapped by a new version, and the old one is destroyed.
    let old = kms.key();
    let (job, _) = bench.jobs.start(RequestId::fresh(), Work::Rewrap, true).await.unwrap();
    bench.run();
    bench.ended(job.id).await;
    bench.stop().await;
    let file = folder.path().join("relay.key");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(&old)).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let keys = DataKeys::new(Keyring::of(local(&folder)), 10, Handle::current());
    let denied = keys.open(&acme, data_key, &wrapped).await.err().expect("the copy's data key opened");
    assert!(matches!(denied, KmsError::Broken(_)), "{denied}");
    let live = Bench::over(bench.store.clone(), local(&folder)).await;
    assert_eq!(live.opened(&customer("globex"), kept).await.unwrap().1, CANARY, "what lives opens");
}

#[tokio::test]
async fn secrets_are_rebound_to_where_the_integration_is_now_and_only_those_asked_for() {
    for Engine { name, store, .. } in every_engine() {
        let kms: Arc<dyn Kms> = Arc::new(Local::ephemeral());
        let bench = Bench::over(store.clone(), kms.clone()).await;
        let (acme, id) = (customer("acme"), bench.add("acme", CANARY).await);
        bench.sealer.add_version(id, value("xoxb-canary-second")).await.unwrap();
        drop(bench);
        let was = |integration: Option<&str>, origin: Option<&str>| Was {
            integration: integration.map(|name| IntegrationName::parse(name).unwrap()),
            origin: origin.map(|origin| Origin::parse(origin).unwrap()),
            token_origin: None,
        };
        let at = async |targets: Vec<SealTarget>| {
            Bench::of(store.clone(), Keyring::of(kms.clone()), targets, Habits::default()).await
        };
        let rebind =
            |to: &str, was: Was| Work::Rebind { integration: IntegrationName::parse(to).unwrap(), was };

        // The vendor's host changed.
        let mut bench = at(vec![target("slack", "https://slack.eu")]).await;
        for (mistake, to, from) in [
            ("nothing named", "slack", was(None, None)),
            ("today's own", "slack", was(Some("slack"), Some("https://slack.eu"))),
        ] {
            let refused = bench.jobs.start(RequestId::fresh(), rebind(to, from), false).await;
            assert!(matches!(refused, Err(SealError::Invalid { .. })), "{name} {mistake}");
        }
        let unknown =
            bench.jobs.start(RequestId::fresh(), rebind("github", was(Some("slack"), None)), false).await;
        assert!(matches!(unknown, Err(SealError::UnknownIntegration)), "{name}");
        let other = bench.job(rebind("slack", was(None, Some("https://evil.example")))).await;
        assert_eq!((other.moved, other.left), (0, 0), "{name}: sealed for another origin");
        let moved = bench.job(rebind("slack", was(None, Some("https://slack.com")))).await;
        assert_eq!((moved.moved, moved.left), (2, 0), "{name}: both versions");
        let (head, text) = bench.opened(&acme, id).await.unwrap();
        assert_eq!(
            (head.origin.to_string().as_str(), text.as_str()),
            ("https://slack.eu", "xoxb-canary-second")
        );
        assert_eq!(bench.sealer.rollback(id, 1).await.unwrap().version, 3, "{name}: the past one too");
        assert!(bench.audit().contains("\"kind\":\"admin\""), "{name}: {}", bench.audit());
        bench.stop().await;

        // Then its name did; as long as the old one is there its secrets are its own.
        let both = vec![target("slack", "https://slack.eu"), target("chat", "https://slack.eu")];
        let bench = at(both).await;
        let taken =
            bench.jobs.start(RequestId::fresh(), rebind("chat", was(Some("slack"), None)), false).await;
        assert!(matches!(taken, Err(SealError::Invalid { .. })), "{name}");
        let mut bench = at(vec![target("chat", "https://slack.eu")]).await;
        let moved = bench.job(rebind("chat", was(Some("slack"), None))).await;
        assert_eq!((moved.moved, moved.left), (3, 0), "{name}");
        let (head, text) = bench.opened(&acme, id).await.unwrap();
        assert_eq!((head.integration.as_str(), text.as_str()), ("chat", CANARY), "{name}");
        assert_eq!(bench.job(rebind("chat", was(Some("slack"), None))).await.moved, 0, "{name}: twice");
    }
}

#[tokio::test]
async fn old_versions_are_listed_put_back_and_erased_when_their_time_is_over() {
    for Engine { name, store, .. } in every_engine() {
        let habits =
            Habits { retain: Duration::from_secs(1), every: Duration::from_millis(100), ..Habits::default() };
        let targets = vec![target("slack", "https://slack.com")];
        let ring = Keyring::of(Arc::new(Local::ephemeral()));
        let mut bench = Bench::of(store, ring, targets, habits).await;
        let (acme, id) = (customer("acme"), bench.add("acme", CANARY).await);
        let first = bench.sealer.show(id).await.unwrap();
        let second = bench.sealer.add_version(id, value("xoxb-canary-second")).await.unwrap();
        let told = bench.sealer.versions(id).await.unwrap().versions;
        let prints: Vec<_> =
            told.iter().map(|v| (v.version, v.current, v.fingerprint.clone().unwrap())).collect();
        assert_eq!(prints, [(1, false, first.fingerprint.clone()), (2, true, second.fingerprint)], "{name}");
        for (to, mistake) in [(2, "the current one"), (3, "one that never was"), (0, "none")] {
            let refused = bench.sealer.rollback(id, to).await;
            assert!(matches!(refused, Err(SealError::Invalid { .. })), "{name}: {mistake}");
        }
        let back = bench.sealer.rollback(id, 1).await.unwrap();
        assert_eq!((back.version, &back.fingerprint), (3, &first.fingerprint), "{name}");
        assert_eq!(bench.opened(&acme, id).await.unwrap().1, CANARY, "{name}");

        let soon = relay::clock::unix_seconds() + 1000;
        assert_eq!(bench.sealer.set_expiry(id, Some(soon)).await.unwrap().expires_at, Some(soon), "{name}");
        assert_eq!(bench.opened(&acme, id).await.unwrap().0.expires_at, Some(soon), "{name}");
        let past = bench.sealer.set_expiry(id, Some(1_700_000_000)).await;
        assert!(matches!(past, Err(SealError::Invalid { .. })), "{name}");
        assert_eq!(bench.sealer.set_expiry(id, None).await.unwrap().expires_at, None, "{name}");
        assert_eq!(bench.opened(&acme, id).await.unwrap().1, CANARY, "{name}");

        assert_eq!(bench.sealer.versions(id).await.unwrap().versions.len(), 3, "{name}: too young");
        bench.run();
        for _ in 0..500 {
            if bench.sealer.versions(id).await.unwrap().versions.len() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(bench.sealer.versions(id).await.unwrap().versions.len(), 1, "{name}: kept too long");
        assert_eq!(bench.opened(&acme, id).await.unwrap().1, CANARY, "{name}");
        assert!(
            matches!(bench.sealer.rollback(id, 1).await, Err(SealError::Invalid { .. })),
            "{name}: erased"
        );
        for _ in 0..500 {
            if bench.audit().contains("secret.erase") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(bench.audit().contains("secret.erase"), "{name}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_data_key_that_is_old_enough_is_replaced_by_itself() {
    let habits =
        |age| Habits { data_key_max_age: Some(age), every: Duration::from_millis(50), ..Habits::default() };
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let ring = Keyring::of(Arc::new(Local::ephemeral()));
    let slack = || vec![target("slack", "https://slack.com")];
    let mut young = Bench::of(store.clone(), ring.clone(), slack(), habits(Duration::from_secs(3600))).await;
    let (acme, id) = (customer("acme"), young.add("acme", CANARY).await);
    let (first, wrapped) = young.only_key(&acme).await;
    young.run();
    tokio::time::sleep(Duration::from_millis(300)).await;
    young.stop().await;
    assert_eq!(young.only_key(&acme).await.0, first, "it is not an hour old");
    assert_eq!(young.jobs.newest().await.unwrap(), None, "no job was begun for nothing");

    let mut old = Bench::of(store, ring, slack(), habits(Duration::from_secs(1))).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    old.run();
    for _ in 0..500 {
        if old.store.active_data_key(&acme).await.unwrap().unwrap().0 != first {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    old.stop().await;
    assert_ne!(old.store.active_data_key(&acme).await.unwrap().unwrap().0, first, "it is still in use");
    assert!(!wrapped.is_empty());
    assert_eq!(old.opened(&acme, id).await.unwrap().1, CANARY);
}

#[test]
fn a_data_keys_id_tells_its_age_and_an_earlier_relays_does_not() {
    let before = relay::clock::unix_millis();
    let made = DataKeyId::random().made_at().unwrap();
    assert!((before..=relay::clock::unix_millis()).contains(&made));
    let version_4 = *b"\xaa\xaa\xaa\xaa\xbb\xbb\x4c\xcc\x8d\xdd\xee\xee\xee\xee\xee\xee";
    assert_eq!(DataKeyId::from_bytes(version_4).made_at(), None);
}
