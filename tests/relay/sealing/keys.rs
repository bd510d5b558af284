//! The key file, and the cache of unwrapped data keys.

use std::fs::{self, OpenOptions, Permissions};
use std::future::poll_fn;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::time::{Duration, Instant};

use relay::kms::cached::{BUDGET, DataKeys};
use relay::kms::keyring::Keyring;
use relay::kms::local::{KeyFileError, Local};
use relay::kms::{Call, KeyContext, Kms, KmsError};
use relay::model::{Customer, DataKeyId};
use relay::secret::Secret;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::{customer, damaged, unhex};

const LINE: &str = "relay-key-1 vector-1 ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM= d35c6f7da74675dc\n";
const WRAPPED: &str = "0108766563746f722d31c3c3c3c3c3c3c3c3c3c3c3c32e27d31dfb408703539dc21977faf0c9e024bb8d455186e8fd23\
    9ca37b5c4bf351e57d6247b5da1a5ee493a41709c566";

fn data_key_id() -> DataKeyId {
    DataKeyId::from_bytes(unhex("aaaaaaaabbbb4ccc8dddeeeeeeeeeeee").try_into().unwrap())
}

fn key_file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("relay.key");
    let _ = fs::remove_file(&path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

#[test]
fn a_new_key_file_is_closed_to_others_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.key");
    Local::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    let before = fs::read(&path).unwrap();
    assert!(matches!(Local::create(&path), Err(KeyFileError::Exists(_))));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_created_key_opens_after_a_restart_what_it_wrapped_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.key");
    let (acme, id) = (customer("acme"), DataKeyId::random());
    let context = KeyContext { customer: &acme, id, shown: "" };
    let (key, wrapped) = Local::create(&path).unwrap().generate(context).await.unwrap();
    assert!(!wrapped.windows(8).any(|part| key.expose().starts_with(part)));
    let again = Local::load(&path).unwrap().unwrap(context, &wrapped).await.unwrap();
    assert!(again.equals(key.expose()));
}

#[tokio::test]
async fn a_key_wrapped_in_format_1_opens_for_ever_and_for_its_context_only() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::load(&key_file(folder.path(), LINE)).unwrap();
    let (acme, globex) = (customer("acme"), customer("globex"));
    let context = KeyContext { customer: &acme, id: data_key_id(), shown: "" };
    let key = local.unwrap(context, &unhex(WRAPPED)).await.unwrap();
    assert!(key.equals(&(0..32).collect::<Vec<u8>>()));
    for (mistake, context) in [
        ("another customer", KeyContext { customer: &globex, id: data_key_id(), shown: "" }),
        ("another data key's id", KeyContext { customer: &acme, id: DataKeyId::random(), shown: "" }),
    ] {
        let opened = local.unwrap(context, &unhex(WRAPPED)).await;
        assert!(matches!(opened, Err(KmsError::Broken(_))), "{mistake}");
    }
    for (mistake, bytes) in damaged(&unhex(WRAPPED)) {
        assert!(matches!(local.unwrap(context, &bytes).await, Err(KmsError::Broken(_))), "{mistake}");
    }
}

#[tokio::test]
async fn a_new_key_on_top_wraps_and_the_old_one_still_unwraps() {
    let folder = tempfile::tempdir().unwrap();
    let fresh = folder.path().join("fresh.key");
    Local::create(&fresh).unwrap();
    let both = format!("{}\n# the old one\n\n{LINE}", fs::read_to_string(&fresh).unwrap());
    let local = Local::load(&key_file(folder.path(), &both)).unwrap();
    let acme = customer("acme");
    let context = KeyContext { customer: &acme, id: data_key_id(), shown: "" };
    local.unwrap(context, &unhex(WRAPPED)).await.unwrap();
    let (_, wrapped) = local.generate(context).await.unwrap();
    Local::load(&fresh).unwrap().unwrap(context, &wrapped).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_not_in_the_file_is_named() {
    let acme = customer("acme");
    let context = KeyContext { customer: &acme, id: data_key_id(), shown: "" };
    match Local::ephemeral().unwrap(context, &unhex(WRAPPED)).await {
        Err(KmsError::Broken(why)) => assert!(why.contains("vector-1"), "{why}"),
        _ => panic!("opened, or failed otherwise"),
    }
}

#[test]
fn a_key_file_that_others_may_open_is_refused_with_the_way_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = key_file(folder.path(), LINE);
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = Local::load(&path).err().expect("an open file was taken");
        assert!(matches!(error, KeyFileError::Open { .. }), "{mode:o}: {error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert!(Local::load(&path).is_ok(), "{mode:o}");
    }
}

#[test]
fn a_key_file_of_another_user_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = key_file(folder.path(), LINE);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        assert!(matches!(Local::load(&path), Err(KeyFileError::Owner { owner: 65_534, .. })));
    } else {
        // Who is not root cannot give a file away; but root's own file must not be refused for its owner.
        assert!(matches!(Local::load(Path::new("/etc/passwd")), Err(KeyFileError::Open { .. })));
    }
}

#[test]
fn what_is_no_key_file_is_told_without_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Local::load(&folder.path().join("none")).err().unwrap();
    assert!(matches!(missing, KeyFileError::Missing(_)));
    assert!(missing.to_string().contains("relay init"));
    assert!(matches!(Local::load(folder.path()), Err(KeyFileError::NotAFile(_))));
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(Local::load(&pipe), Err(KeyFileError::NotAFile(_))), "a pipe would hang the start");

    let key = "ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM=";
    for (text, line, mistake) in [
        (LINE.replace("ZGVm", "ZGVn"), 1, "a typing error in the key"),
        (LINE.replace("vector-1", "vector-2"), 1, "another key's id"),
        (LINE.replace("d35c", "d35d"), 1, "a typing error in the check"),
        (LINE.replace(" d35c6f7da74675dc", ""), 1, "a line cut short"),
        (LINE.replace('\n', " more\n"), 1, "a word too many"),
        (LINE.replace(key, "ZGVm"), 1, "a short key"),
        (LINE.replace(key, &key.replace('=', "A")), 1, "a key of 33 bytes"),
        (LINE.replace(key, &key.replace('=', "!")), 1, "no base64"),
        (format!("\n{key}\n"), 2, "a bare key"),
        (LINE.replace("relay-key-1", "relay-key-2"), 1, "a newer format"),
        (format!("# twice\n{LINE}{LINE}"), 3, "the same key twice"),
        (LINE.replace("vector-1", "\u{1b}[31m"), 1, "a key id that is no word"),
    ] {
        let error = Local::load(&key_file(folder.path(), &text)).err().expect(mistake);
        assert!(matches!(error, KeyFileError::Line { line: at, .. } if at == line), "{mistake}: {error}");
        let said = format!("{error} {error:?}");
        assert!(!said.contains("ZGV") && !said.contains("hpamts"), "{mistake}: {said}");
    }
    for text in ["", "\n\n", "# nothing but words\n"] {
        let error = Local::load(&key_file(folder.path(), text)).err().unwrap();
        assert!(matches!(error, KeyFileError::Empty(_)), "{error}");
    }
    let endless = Local::load(&key_file(folder.path(), &"#\n".repeat(20_000))).err().unwrap();
    assert!(matches!(endless, KeyFileError::Io { .. }), "{endless}");
}

/// A KMS whose calls wait for a permit and are counted.
struct Gated {
    inner: Local,
    gate: Semaphore,
    calls: AtomicUsize,
    failures: AtomicUsize,
}

impl Gated {
    /// `permits` calls may answer, the first `failures` of them with an error.
    fn new(permits: usize, failures: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Local::ephemeral(),
            gate: Semaphore::new(permits),
            calls: AtomicUsize::new(0),
            failures: AtomicUsize::new(failures),
        })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Kms for Gated {
    fn provider(&self) -> &'static str {
        "gated"
    }

    fn key(&self) -> String {
        "gated".to_owned()
    }

    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> Call<'a, Vec<u8>> {
        self.inner.wrap(context, key)
    }

    fn new_version(&self) -> Call<'_, ()> {
        self.inner.new_version()
    }

    fn generate<'a>(&'a self, context: KeyContext<'a>) -> Call<'a, (Secret, Vec<u8>)> {
        self.inner.generate(context)
    }

    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            let left = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            match left {
                Ok(_) => Err(KmsError::Denied("no".to_owned())),
                Err(_) => self.inner.unwrap(context, wrapped).await,
            }
        })
    }
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn wrapped_by(kms: &Arc<Gated>, owner: &Customer, id: DataKeyId) -> Vec<u8> {
    Keyring::of(kms.clone()).generate(owner, id).await.unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_that_want_one_cold_key_make_one_call() {
    let kms = Gated::new(0, 0);
    let (acme, id) = (customer("acme"), DataKeyId::random());
    let wrapped = wrapped_by(&kms, &acme, id).await;
    let keys = Arc::new(DataKeys::new(Keyring::of(kms.clone()), 100, Handle::current()));
    assert!(keys.warm(&acme, id).is_none());
    let ready = Arc::new(Barrier::new(9));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (keys, acme, wrapped, ready) = (keys.clone(), acme.clone(), wrapped.clone(), ready.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    let mut call = Box::pin(keys.open(&acme, id, &wrapped));
                    // Polled once, so that the call is under way before any may be answered.
                    let first = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
                    assert!(first.is_pending());
                    ready.wait();
                    call.await.unwrap().id()
                })
            })
        })
        .collect();
    ready.wait();
    kms.gate.add_permits(100);
    for worker in workers {
        assert_eq!(worker.join().unwrap(), id);
    }
    assert_eq!(kms.calls(), 1);
    assert!(keys.warm(&acme, id).is_some());
    assert!(keys.warm(&customer("globex"), id).is_none(), "a warm key served another customer");
}

#[tokio::test]
async fn a_kms_that_hangs_costs_two_seconds() {
    let kms = Gated::new(0, 0);
    let (acme, id) = (customer("acme"), DataKeyId::random());
    let wrapped = wrapped_by(&kms, &acme, id).await;
    let keys = DataKeys::new(Keyring::of(kms), 100, Handle::current());
    let begun = Instant::now();
    assert!(matches!(keys.open(&acme, id, &wrapped).await, Err(KmsError::Unavailable(_))));
    assert!((BUDGET..BUDGET * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_failure_is_given_to_all_who_wait_and_forgotten_within_a_second() {
    let kms = Gated::new(100, 1);
    let (acme, id) = (customer("acme"), DataKeyId::random());
    let wrapped = wrapped_by(&kms, &acme, id).await;
    let keys = DataKeys::new(Keyring::of(kms.clone()), 100, Handle::current());
    let (one, two) = tokio::join!(keys.open(&acme, id, &wrapped), keys.open(&acme, id, &wrapped));
    assert!(matches!((one, two), (Err(KmsError::Denied(_)), Err(KmsError::Denied(_)))));
    assert_eq!(kms.calls(), 1);
    let failed = Instant::now();
    while keys.open(&acme, id, &wrapped).await.is_err() {
        assert!(failed.elapsed() < Duration::from_secs(1), "the failure was kept too long");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(kms.calls(), 2);
}

#[tokio::test]
async fn a_key_forgotten_while_it_is_fetched_is_not_kept() {
    let kms = Gated::new(0, 0);
    let (acme, id) = (customer("acme"), DataKeyId::random());
    let wrapped = wrapped_by(&kms, &acme, id).await;
    let keys = Arc::new(DataKeys::new(Keyring::of(kms.clone()), 100, Handle::current()));
    let fetch = {
        let (keys, acme, wrapped) = (keys.clone(), acme.clone(), wrapped.clone());
        tokio::spawn(async move { keys.open(&acme, id, &wrapped).await.map(|key| key.id()) })
    };
    until("the call never began", || kms.calls() == 1).await;
    keys.forget(&acme, id);
    kms.gate.add_permits(100);
    assert_eq!(fetch.await.unwrap().unwrap(), id);
    assert!(keys.warm(&acme, id).is_none(), "a forgotten key came back");
    keys.open(&acme, id, &wrapped).await.unwrap();
    assert_eq!(kms.calls(), 2);
    keys.forget(&acme, id);
    assert!(keys.warm(&acme, id).is_none());
}

#[tokio::test]
async fn no_more_keys_are_held_than_allowed() {
    let keys = DataKeys::new(Keyring::of(Arc::new(Local::ephemeral())), 10, Handle::current());
    let acme = customer("acme");
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(keys.create(&acme).await.unwrap().0.id());
    }
    until("200 keys are held where 10 may be", || {
        ids.iter().filter(|id| keys.warm(&acme, **id).is_some()).count() <= 10
    })
    .await;
}

#[tokio::test]
async fn a_store_wide_key_opens_by_its_own_name_and_belongs_to_no_customer() {
    let keys = DataKeys::new(Keyring::of(Arc::new(Local::ephemeral())), 10, Handle::current());
    let (made, wrapped) = keys.named("fingerprint-key", None).await.unwrap();
    let wrapped = wrapped.expect("a new key comes with its wrapped form");
    let (again, none) = keys.named("fingerprint-key", Some(&wrapped)).await.unwrap();
    assert!(again.equals(made.expose()) && none.is_none());
    assert!(matches!(keys.named("audit-key", Some(&wrapped)).await, Err(KmsError::Broken(_))));
    let id = DataKeyId::from_bytes([0; 16]);
    assert!(matches!(keys.open(&customer("fingerprint-key"), id, &wrapped).await, Err(KmsError::Broken(_))));
    for name in ["", "fingerprint-key", &"long".repeat(60)] {
        let reserved = Customer::store_wide(name);
        assert!(Customer::parse(reserved.as_str()).is_err(), "a caller's token could name {reserved}");
    }
}
