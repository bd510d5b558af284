use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay::app::Options;
use relay::model::{Customer, DataKeyId, SecretId};
use relay::store::memory::Memory;
use relay::store::{Call, Change, Expected, SecretRow, Store, StoreError, Upkeep};
use tokio::sync::broadcast;

use crate::rig::client::Client;
use crate::rig::vendor::{Vendor, more, raw};
use crate::rig::{Rig, Settings};

const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &[u8] = b"9\r\nevent 1\n\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

/// A vendor that begins an answer, or not, sends what it is told, and says when its connection ends.
fn vendor(answers: bool) -> (Vendor, mpsc::Sender<Vec<u8>>, mpsc::Receiver<Instant>) {
    let (tell, told) = mpsc::channel::<Vec<u8>>();
    let (ended, end) = mpsc::channel();
    let (told, ended) = (Mutex::new(told), Mutex::new(ended));
    let vendor = Vendor::by_hand(move |_, out| {
        if answers {
            raw(out, CHUNKED);
            raw(out, EVENT);
        }
        out.sock.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut came = Vec::new();
        loop {
            if let Ok(piece) = told.lock().unwrap().try_recv() {
                raw(out, &piece);
            }
            let mut one = [0; 4096];
            match std::io::Read::read(out, &mut one) {
                Ok(n) if n > 0 => came.extend_from_slice(&one[..n]),
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                _ => break,
            }
        }
        let _ = ended.lock().unwrap().send(Instant::now());
    });
    (vendor, tell, end)
}

fn begin(rig: &Rig, method: &str, id: &str, more: &str) -> Client {
    let mut client = rig.client();
    let token = rig.token("acme");
    client.send(&format!(
        "{method} /vendor/{id}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{more}\r\n"
    ));
    client
}

fn wait_for(client: &mut Client, wanted: &str) {
    let mut seen = Vec::new();
    while memchr::memmem::find(&seen, wanted.as_bytes()).is_none() {
        assert!(
            client.more(),
            "the connection ended before {wanted:?}: {:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend(client.taken());
    }
}

/// Reads to the connection's end.
fn rest(client: &mut Client) -> String {
    let mut seen = client.taken();
    while client.more() {
        seen.extend(client.taken());
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn outcome(rig: &Rig) -> serde_json::Value {
    let records = rig.audit_until(|records| records.iter().any(|r| r["kind"] == "outcome"));
    records.into_iter().find(|r| r["kind"] == "outcome").unwrap()
}

fn revoke(rig: &Rig, id: &str, how: &str) -> Instant {
    let answer = match how {
        "rm" => rig.admin("DELETE", &format!("/v1/secrets/{id}"), None),
        how => rig.admin("POST", &format!("/v1/secrets/{id}/{how}"), None),
    };
    assert!(matches!(answer.status, 200 | 204), "{}", answer.text());
    Instant::now()
}

#[test]
fn a_revocation_ends_an_answer_that_streams() {
    for (how, note) in [("disable", "cut: the secret was disabled"), ("rm", "cut: the secret was removed")] {
        let (vendor, _tell, end) = vendor(true);
        let rig = Rig::before(Settings::default(), vendor);
        let id = rig.secret("acme");
        let mut client = begin(&rig, "GET", &id, "");
        wait_for(&mut client, "event 1");
        let at = revoke(&rig, &id, how);
        let seen = rest(&mut client);
        assert!(at.elapsed() < SECOND, "{how}: the app waited {:?}", at.elapsed());
        assert!(!seen.contains("0\r\n\r\n"), "{how}: a clean end: {seen:?}");
        let ended = end.recv_timeout(SECOND).expect("the vendor's connection ends");
        assert!(ended.saturating_duration_since(at) < SECOND);
        let outcome = outcome(&rig);
        assert_eq!((&outcome["note"], &outcome["status"]), (&note.into(), &200.into()));
    }
}

#[test]
fn a_revocation_ends_an_upload_under_way() {
    for (how, status, code) in [("disable", 410, "secret_disabled"), ("rm", 404, "secret_not_found")] {
        let (vendor, _tell, end) = vendor(false);
        let rig = Rig::before(Settings::default(), vendor);
        let id = rig.secret("acme");
        let mut client = begin(&rig, "POST", &id, "content-length: 1000000\r\n");
        client.send("the beginning of an upload");
        let taken = Instant::now();
        while rig.vendor.requests().is_empty() && taken.elapsed() < SECOND * 5 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let at = revoke(&rig, &id, how);
        let answer = client.answer("POST");
        assert_eq!((answer.status, answer.code()), (status, code));
        assert!(client.is_closed(), "{how}: the rest of the upload is not a request");
        assert!(at.elapsed() < SECOND, "{how}: {:?}", at.elapsed());
        end.recv_timeout(SECOND).expect("the vendor's connection ends");
        assert_eq!(outcome(&rig)["code"], code);
    }
}

#[test]
fn a_revocation_ends_both_directions_at_once() {
    let (vendor, _tell, end) = vendor(true);
    let rig = Rig::before(Settings::default(), vendor);
    let id = rig.secret("acme");
    let mut client = begin(&rig, "POST", &id, "transfer-encoding: chunked\r\n");
    client.send("5\r\nhello\r\n");
    wait_for(&mut client, "event 1");
    let at = revoke(&rig, &id, "disable");
    let seen = rest(&mut client);
    assert!(at.elapsed() < SECOND && !seen.contains("0\r\n\r\n"), "{seen:?} after {:?}", at.elapsed());
    end.recv_timeout(SECOND).expect("the vendor's connection ends");
    assert_eq!(outcome(&rig)["note"], "cut: the secret was disabled");
}

// hyper asks no body whose app does not read on: the connection itself has to end.
#[test]
fn a_revocation_ends_an_answer_that_nobody_reads() {
    let (ended, end) = mpsc::channel();
    let ended = Mutex::new(ended);
    let vendor = Vendor::by_hand(move |_, out| {
        raw(out, b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n");
        while std::io::Write::write_all(out, &[b' '; 16 * 1024]).is_ok() {}
        let _ = ended.lock().unwrap().send(());
    });
    let rig = Rig::before(Settings::default(), vendor);
    let id = rig.secret("acme");
    let mut client = begin(&rig, "GET", &id, "");
    wait_for(&mut client, "\r\n\r\n");
    // Until every buffer on the way is full.
    std::thread::sleep(Duration::from_millis(700));
    assert!(end.try_recv().is_err());
    revoke(&rig, &id, "disable");
    end.recv_timeout(SECOND).expect("the vendor's connection ends although the app reads nothing");
    assert_eq!(outcome(&rig)["note"], "cut: the secret was disabled");
}

#[test]
fn a_new_version_and_enable_end_nothing() {
    let (vendor, tell, end) = vendor(true);
    let rig = Rig::before(Settings::default(), vendor);
    let (id, other) = (rig.secret("acme"), rig.secret("acme"));
    let mut client = begin(&rig, "GET", &id, "");
    wait_for(&mut client, "event 1");
    let fields = serde_json::json!({ "fields": { "token": "another-canary-of-16" } }).to_string();
    let rotated = rig.admin("POST", &format!("/v1/secrets/{id}/versions"), Some(&fields));
    assert_eq!(rotated.status, 201, "{}", rotated.text());
    revoke(&rig, &id, "enable");
    revoke(&rig, &other, "disable");
    revoke(&rig, &other, "rm");
    std::thread::sleep(Duration::from_millis(300));
    assert!(end.try_recv().is_err(), "the stream goes on");
    tell.send(b"9\r\nevent 2\n\n\r\n0\r\n\r\n".to_vec()).unwrap();
    wait_for(&mut client, "0\r\n\r\n");
    assert_eq!(outcome(&rig)["note"], serde_json::Value::Null);
}

/// A store whose reads and writes of secrets fail while `fails` is set.
pub(crate) struct Failing {
    pub(crate) inner: Memory,
    pub(crate) fails: Arc<AtomicBool>,
}

impl Store for Failing {
    fn secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, Option<SecretRow>> {
        if self.fails.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable("it is made to fail".to_owned())) });
        }
        self.inner.secret(customer, id)
    }
    fn secrets<'a>(
        &'a self,
        customer: &'a Customer,
        after: Option<SecretId>,
        limit: usize,
    ) -> Call<'a, Vec<SecretRow>> {
        self.inner.secrets(customer, after, limit)
    }
    fn owner(&self, id: SecretId) -> Call<'_, Option<Customer>> {
        self.inner.owner(id)
    }
    fn put_secret(&self, row: SecretRow, expected: Expected) -> Call<'_, ()> {
        if self.fails.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable("it is made to fail".to_owned())) });
        }
        self.inner.put_secret(row, expected)
    }
    fn remove_secret<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, bool> {
        self.inner.remove_secret(customer, id)
    }
    fn data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId) -> Call<'a, Option<Bytes>> {
        self.inner.data_key(customer, id)
    }
    fn active_data_key<'a>(&'a self, customer: &'a Customer) -> Call<'a, Option<(DataKeyId, Bytes)>> {
        self.inner.active_data_key(customer)
    }
    fn add_data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId, wrapped: Bytes) -> Call<'a, ()> {
        self.inner.add_data_key(customer, id, wrapped)
    }
    fn meta<'a>(&'a self, name: &'a str) -> Call<'a, Option<Bytes>> {
        self.inner.meta(name)
    }
    fn swap_meta<'a>(&'a self, name: &'a str, expected: Option<Bytes>, value: Bytes) -> Call<'a, ()> {
        self.inner.swap_meta(name, expected, value)
    }
    fn lease<'a>(&'a self, name: &'a str, holder: uuid::Uuid, ttl: Duration) -> Call<'a, bool> {
        self.inner.lease(name, holder, ttl)
    }
    fn release<'a>(&'a self, name: &'a str, holder: uuid::Uuid) -> Call<'a, ()> {
        self.inner.release(name, holder)
    }
    fn put_meta<'a>(&'a self, name: &'a str, value: Bytes) -> Call<'a, ()> {
        self.inner.put_meta(name, value)
    }
    fn upkeep(&self) -> &dyn Upkeep {
        self.inner.upkeep()
    }
    fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.changes()
    }
}

#[test]
fn a_store_that_fails_cuts_no_stream_and_a_revocation_outlasts_it() {
    let (vendor, _tell, end) = vendor(true);
    let fails = Arc::new(AtomicBool::new(false));
    let flag = fails.clone();
    let options = Box::new(move || Options {
        store: Some(Arc::new(Failing { inner: Memory::new(), fails: flag.clone() })),
        ..Options::default()
    });
    let rig = Rig::before(Settings { options, ..Settings::default() }, vendor);
    let id = rig.secret("acme");
    let mut client = begin(&rig, "GET", &id, "");
    wait_for(&mut client, "event 1");
    fails.store(true, Ordering::SeqCst);
    // Deleting needs no reading.
    revoke(&rig, &id, "rm");
    assert!(end.recv_timeout(Duration::from_millis(800)).is_err(), "the stream outlives the store's failure");
    fails.store(false, Ordering::SeqCst);
    end.recv_timeout(SECOND).expect("it ends once the store can be asked");
    assert!(!rest(&mut client).contains("0\r\n\r\n"));
    assert_eq!(outcome(&rig)["note"], "cut: the secret was removed");
}

#[test]
fn a_thousand_short_requests_leave_no_lease_behind() {
    let rig = Rig::with(Settings { workers: 1, ..Settings::default() }, |_, out| {
        crate::rig::vendor::answer(out, 200, &[], b"ok");
    });
    let id = rig.secret("acme");
    let token = format!("Bearer {}", rig.token("acme"));
    let mut client = rig.client();
    for _ in 0..1000 {
        let answer = client.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &token)], b"");
        assert_eq!(answer.text(), "ok");
    }
    // A row that stayed would be judged, and its place never used again; a fresh stream is still cut.
    revoke(&rig, &id, "disable");
    let answer = client.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &token)], b"");
    assert_eq!(answer.code(), "secret_disabled");
    revoke(&rig, &id, "enable");
    let answer = client.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &token)], b"");
    assert_eq!(answer.text(), "ok", "a lease is not haunted by the revocation before it");
    assert_eq!(more_than_outcomes(&rig), 0);
}

/// Outcomes with a note: none of the requests was cut.
fn more_than_outcomes(rig: &Rig) -> usize {
    rig.audit().iter().filter(|r| r["kind"] == "outcome" && !r["note"].is_null()).count()
}

#[test]
fn requests_that_race_a_revocation_end_one_way_or_the_other() {
    let vendor = Vendor::by_hand(|_, out| {
        raw(out, CHUNKED);
        raw(out, EVENT);
        let mut sink = Vec::new();
        while more(out, &mut sink).is_some() {}
    });
    let rig = Rig::before(Settings::default(), vendor);
    for _ in 0..20 {
        let id = rig.secret("acme");
        let mut clients: Vec<Client> = (0..4).map(|_| begin(&rig, "GET", &id, "")).collect();
        revoke(&rig, &id, "disable");
        for client in &mut clients {
            client.stream.set_read_timeout(Some(SECOND * 3)).unwrap();
            let started = Instant::now();
            let (status, _) = client.head();
            if status == 200 {
                let seen = rest(client);
                assert!(!seen.contains("0\r\n\r\n"), "{seen:?}");
                assert!(started.elapsed() < SECOND * 2, "a stream outlived its secret");
            } else {
                // 0: the connection was cut before the head went out.
                assert!(matches!(status, 0 | 410), "{status}");
            }
        }
    }
}
