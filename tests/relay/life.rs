use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay::app::{Options, start, start_with};
use relay::config::{self, Files};
use relay::model::{Customer, SecretId};
use relay::refusal::Code;
use relay::store::memory::Memory;
use relay::store::sled::Sled;
use relay::store::{Expected, SecretRow, Store};
use tokio::runtime::Runtime;

use crate::refusals::refused;
use crate::rig::vendor;
use crate::rig::{Rig, Settings};

/// Why a relay does not start over this rig's folder.
fn refuses_to_start(rig: &Rig, toml: &str) -> String {
    let config = config::parse(toml, "relay.toml", rig.folder.path(), &[], Files::Required);
    let config = config.unwrap_or_else(|report| panic!("{}", report.render(false)));
    let runtime = Runtime::new().unwrap();
    let started = runtime.block_on(start(config, runtime.handle().clone()));
    let error = started.map(|_| ()).expect_err("it starts");
    runtime.shutdown_timeout(Duration::from_secs(2));
    error.to_string()
}

#[test]
fn a_restart_over_the_same_folder_serves_the_same_secrets() {
    let mut rig = Rig::plain();
    let (id, off) = (rig.secret("acme"), rig.secret("acme"));
    let token = rig.token("acme");
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{off}/disable"), None).status, 200);
    let listed = |rig: &Rig| {
        let mut listed = rig.admin("GET", "/v1/secrets?customer=acme", None).json();
        // It is used below.
        for secret in listed["secrets"].as_array_mut().unwrap() {
            secret["last_used_at"].take();
        }
        listed
    };
    let before = listed(&rig);
    for _ in 0..3 {
        rig.stop();
        rig.start();
        assert_eq!(rig.get(&format!("/vendor/{id}/x"), &token).status, 200);
        assert!(rig.vendor.last().head.contains(rig.canary.text()));
        refused(&rig.get(&format!("/vendor/{off}/x"), &token), Code::SecretDisabled);
        assert_eq!(listed(&rig), before);
    }
    let records = rig.audit();
    let notes = |what: &str| records.iter().filter(|r| r["kind"] == "system" && r["note"] == what).count();
    assert_eq!((notes("start"), notes("stop")), (4, 3));
}

#[test]
fn a_relay_that_cannot_be_what_it_was_does_not_start_and_says_why() {
    let mut rig = Rig::plain();
    rig.secret("acme");
    let toml = rig.toml();
    let told = refuses_to_start(&rig, &toml);
    assert!(
        told.starts_with("[store] path") && told.contains("another"),
        "a second relay on the folder: {told}"
    );

    let taken = format!("listen = \"{}\"", rig.app());
    let told = refuses_to_start(&rig, &toml.replacen("listen = \"127.0.0.1:0\"", &taken, 1));
    assert!(told.contains("[server] listen") && told.contains(&rig.app().to_string()), "{told}");
    assert!(told.contains("another process listens there"), "{told}");
    rig.stop();

    let key = rig.folder.path().join("relay.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let told = refuses_to_start(&rig, &toml);
    assert!(told.contains("[keys]") && told.contains("600"), "a key that others can read: {told}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    std::fs::write(&key, &good[..good.len() / 2]).unwrap();
    let told = refuses_to_start(&rig, &toml);
    assert!(told.contains("[keys]"), "half a key: {told}");

    std::fs::remove_file(&key).unwrap();
    relay::kms::local::Local::create(&key).map(|_| ()).unwrap();
    let told = refuses_to_start(&rig, &toml);
    assert!(told.contains("[keys]") && told.contains("key"), "another key: {told}");

    std::fs::write(&key, &good).unwrap();
    rig.start();
    assert_eq!(
        rig.admin("GET", "/v1/secrets?customer=acme", None).status,
        200,
        "with the right key it starts"
    );
}

/// What a relay left whose audit had no name yet: the same records but for the replicas and the names of their anchors.
async fn of_a_relay_without_a_name(store: &Memory, with_anchor: bool) -> Arc<Memory> {
    let earlier = Memory::new();
    for name in store.upkeep().moving().meta_names().await.unwrap() {
        let value = store.meta(&name).await.unwrap().unwrap();
        match name.as_str() {
            "audit-replicas" => {}
            anchor if anchor.starts_with("anchor/") => {
                if with_anchor {
                    earlier.put_meta("audit-anchor", value).await.unwrap();
                }
            }
            other => earlier.put_meta(other, value).await.unwrap(),
        }
    }
    Arc::new(earlier)
}

#[test]
fn the_newest_anchor_of_a_relay_without_a_name_still_shows_that_its_audit_is_gone() {
    let (mut rig, store) = open_store();
    rig.stop();
    std::fs::remove_file(rig.audit_path()).unwrap();
    let runtime = Runtime::new().unwrap();
    let starts = |store: Arc<Memory>| {
        let options = Options { store: Some(store), ..Options::default() };
        let started = runtime.block_on(start_with(rig.config(), options, runtime.handle().clone()));
        started.map(|relay| runtime.block_on(relay.stop())).map_err(|error| error.to_string())
    };
    let with = runtime.block_on(of_a_relay_without_a_name(&store, true));
    let why = starts(with.clone()).expect_err("it starts without its audit");
    assert!(why.contains("the store has an audit with an anchor of"), "{why}");
    // The control: the same store, which knows of none.
    let without = runtime.block_on(of_a_relay_without_a_name(&store, false));
    assert_eq!(starts(without), Ok(()));
}

/// A rig over a store that the test can write to.
fn open_store() -> (Rig, Arc<Memory>) {
    let store = Arc::new(Memory::new());
    let shared = store.clone();
    let options = move || Options { store: Some(shared.clone()), ..Options::default() };
    let rig = Rig::with(Settings { options: Box::new(options), ..Settings::default() }, |_, out| {
        vendor::answer(out, 200, &[], b"ok");
    });
    (rig, store)
}

fn row(rig: &Rig, store: &dyn Store, customer: &str, id: &str) -> SecretRow {
    let (customer, id) = (Customer::parse(customer).unwrap(), SecretId::parse(id).unwrap());
    rig.runtime().block_on(store.secret(&customer, id)).unwrap().unwrap()
}

fn put(rig: &Rig, store: &dyn Store, row: SecretRow, expected: Expected) {
    rig.runtime().block_on(store.put_secret(row, expected)).unwrap();
}

fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << (at % 8);
    bytes.into()
}

#[test]
fn a_row_with_any_byte_changed_opens_nothing() {
    let (rig, store) = open_store();
    let id = rig.secret("acme");
    let token = rig.token("acme");
    let auth = format!("Bearer {token}");
    let good = row(&rig, &*store, "acme", &id);
    let path = format!("/vendor/{id}/x");
    let mut client = rig.client();
    let mut in_store = good.clone();
    let heads = (0..good.head.len()).map(|at| SecretRow { head: flipped(&good.head, at), ..good.clone() });
    let sealed =
        (0..good.sealed.len()).map(|at| SecretRow { sealed: flipped(&good.sealed, at), ..good.clone() });
    let cut = [
        SecretRow { head: good.head.slice(..good.head.len() - 1), ..good.clone() },
        SecretRow { sealed: good.sealed.slice(..good.sealed.len() - 1), ..good.clone() },
        SecretRow { sealed: Bytes::new(), ..good.clone() },
        SecretRow { head: Bytes::new(), ..good.clone() },
    ];
    for (number, bad) in heads.chain(sealed).chain(cut).enumerate() {
        put(&rig, &*store, bad.clone(), Expected::Head(in_store.head.clone()));
        in_store = bad;
        let answer = client.request("GET", &path, &[("authorization", &auth)], b"");
        assert_eq!(
            answer.code(),
            "credential_unusable",
            "change {number}: {} {}",
            answer.status,
            answer.text()
        );
    }
    assert!(rig.vendor.requests().is_empty(), "nothing was sent");
    put(&rig, &*store, good, Expected::Head(in_store.head));
    // The change feed is followed beside the requests: the row before may answer for a moment.
    let answer = (0..200)
        .map(|_| client.request("GET", &path, &[("authorization", &auth)], b""))
        .find(|a| a.status == 200);
    assert!(answer.is_some(), "the row as it was opens");
}

#[test]
fn a_row_moved_to_where_it_was_not_sealed_for_opens_nothing_and_is_recorded() {
    let (rig, store) = open_store();
    let (id, other) = (rig.secret("acme"), rig.secret("acme"));
    let (gone, theirs) = (rig.secret("acme"), rig.secret("globex"));
    let (mine, second) = (row(&rig, &*store, "acme", &id), row(&rig, &*store, "acme", &other));
    let foreign = row(&rig, &*store, "globex", &theirs);
    let (acme, globex) = (Customer::parse("acme").unwrap(), Customer::parse("globex").unwrap());
    // A UUID has one owner: it must be gone before it can be another's.
    let taken = row(&rig, &*store, "acme", &gone);
    assert!(rig.runtime().block_on(store.remove_secret(&acme, taken.id)).unwrap());
    let fresh = SecretId::random();
    let rows = [
        (
            SecretRow { customer: globex.clone(), ..taken.clone() },
            Expected::Absent,
            "globex",
            gone.clone(),
            "to another customer",
        ),
        (
            SecretRow { id: fresh, ..mine.clone() },
            Expected::Absent,
            "acme",
            fresh.to_string(),
            "to another UUID",
        ),
        (
            SecretRow { sealed: mine.sealed.clone(), ..second.clone() },
            Expected::Head(second.head.clone()),
            "acme",
            other.clone(),
            "the sealed part of another secret of the same customer",
        ),
        (
            SecretRow { head: mine.head.clone(), sealed: mine.sealed.clone(), ..foreign.clone() },
            Expected::Head(foreign.head.clone()),
            "globex",
            theirs.clone(),
            "in the place of another customer's",
        ),
    ];
    for (number, (moved, expected, customer, id, mistake)) in rows.into_iter().enumerate() {
        put(&rig, &*store, moved, expected);
        refused(&rig.get(&format!("/vendor/{id}/x"), &rig.token(customer)), Code::CredentialUnusable);
        let told = |r: &serde_json::Value| {
            r["code"] == "credential_unusable" && r["customer"] == customer && r["secret"] == id.as_str()
        };
        let records = rig.audit_until(|records| records.iter().any(told));
        let count = records.iter().filter(|r| r["code"] == "credential_unusable").count();
        assert_eq!(count, number + 1, "{mistake}: recorded once");
    }
    assert!(rig.vendor.requests().is_empty());
    assert_eq!(
        rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")).status,
        200,
        "what was not touched serves"
    );
}

#[test]
fn a_row_changed_on_the_disk_is_found_after_a_restart() {
    for part in ["head", "sealed"] {
        let mut rig = Rig::plain();
        let (id, sound) = (rig.secret("acme"), rig.secret("acme"));
        rig.stop();
        let runtime = Runtime::new().unwrap();
        {
            let store = Sled::open(&rig.folder.path().join("relay.db"), runtime.handle().clone()).unwrap();
            let (customer, id) = (Customer::parse("acme").unwrap(), SecretId::parse(&id).unwrap());
            let mut row = runtime.block_on(store.secret(&customer, id)).unwrap().unwrap();
            let expected = Expected::Head(row.head.clone());
            match part {
                "head" => row.head = flipped(&row.head, row.head.len() / 2),
                _ => row.sealed = flipped(&row.sealed, row.sealed.len() / 2),
            }
            runtime.block_on(store.put_secret(row, expected)).unwrap();
        }
        drop(runtime);
        rig.start();
        let token = rig.token("acme");
        refused(&rig.get(&format!("/vendor/{id}/x"), &token), Code::CredentialUnusable);
        rig.audit_until(|records| {
            records.iter().any(|r| r["code"] == "credential_unusable" && r["secret"] == id.as_str())
        });
        assert_eq!(rig.get(&format!("/vendor/{sound}/x"), &token).status, 200, "{part}: the others serve");
        assert_eq!(rig.vendor.requests().len(), 1, "{part}");
    }
}

#[test]
fn a_damaged_row_hides_no_other_and_can_be_removed() {
    let (rig, store) = open_store();
    let (sound, damaged) = (rig.secret("acme"), rig.secret("acme"));
    let mut bad = row(&rig, &*store, "acme", &damaged);
    let expected = Expected::Head(bad.head.clone());
    bad.head = flipped(&bad.head, bad.head.len() / 2);
    put(&rig, &*store, bad, expected);
    let listed = rig.admin("GET", "/v1/secrets?customer=acme", None).json();
    assert_eq!(listed["secrets"].as_array().unwrap().len(), 1);
    assert_eq!(listed["secrets"][0]["id"], sound.as_str());
    assert_eq!(listed["unusable"], serde_json::json!([damaged]));
    assert_eq!(rig.admin("GET", &format!("/v1/secrets/{damaged}"), None).code(), "credential_unusable");
    assert_eq!(rig.admin("DELETE", &format!("/v1/secrets/{damaged}"), None).status, 204);
    let listed = rig.admin("GET", "/v1/secrets?customer=acme", None).json();
    assert_eq!(listed["unusable"], serde_json::json!([]));
}

#[test]
fn a_field_that_is_given_twice_is_refused() {
    let rig = Rig::plain();
    let body =
        r#"{"customer":"acme","integration":"vendor","fields":{"token":"aaaaaaaaaa","token":"bbbbbbbbbb"}}"#;
    assert_eq!(rig.admin("POST", "/v1/secrets", Some(body)).code(), "request_malformed");
    assert_eq!(rig.admin("GET", "/v1/secrets?customer=acme", None).json()["secrets"], serde_json::json!([]));
}

#[test]
fn what_waits_in_memory_for_a_slow_app_is_sent_before_relay_ends() {
    // Some of these sizes lie between what the kernel takes and what relay then holds itself.
    let mut waited = 0;
    for size in (0..12).map(|step| 1_500_000 + step * 200_000) {
        let mut rig = Rig::answering(move |_, out| vendor::answer(out, 200, &[], &vec![b'x'; size]));
        let id = rig.secret("acme");
        let token = rig.token("acme");
        let mut client = rig.client();
        client.send(&format!(
            "GET /vendor/{id}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
        ));
        rig.audit_until(|records| records.iter().any(|r| r["kind"] == "intent"));
        let under_way = || rig.running().metrics().in_flight().get() > 0;
        let since = Instant::now();
        while under_way() && since.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if under_way() {
            continue;
        }
        waited += 1;
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            client.answer("GET")
        });
        rig.stop();
        let answer = reader.join().unwrap();
        assert!(answer.body.len() == size && !answer.cut, "{} of {size} bytes", answer.body.len());
    }
    assert!(waited > 0, "no answer was ever wholly read from the vendor before the app read it");
}

/// Reads one answer with a length.
fn answer_on(stream: &mut (impl Read + ?Sized)) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    loop {
        if memchr::memmem::find(&text, b"\r\n\r\nok").is_some() {
            return String::from_utf8(text).unwrap();
        }
        let read = stream.read(&mut piece).expect("an answer");
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
    }
}

#[test]
fn what_waits_before_a_closing_door_is_served_and_nobody_comes_after() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let settings = Settings {
        // One connection at a time: the others wait in the kernel's queue.
        server: "limits = { connections = 1 }".to_owned(),
        integration: format!("{}\nlisten = \"unix:{}\"", Settings::default().integration, path.display()),
        ..Settings::default()
    };
    let mut rig = Rig::with(settings, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let (app, admin) = (rig.app(), rig.running().admin);
    let mut holder = rig.client();
    let auth = format!("Bearer {token}");
    assert_eq!(
        holder.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"").status,
        200
    );
    let head = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: {auth}\r\nrelay-secret: {id}\r\n\r\n")
    };
    let mut waiting: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(app).unwrap()).collect();
    waiting.iter_mut().for_each(|stream| stream.write_all(head("/vendor/x").as_bytes()).unwrap());
    let mut local = UnixStream::connect(&path).unwrap();
    local.write_all(head("/x").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    local.set_nonblocking(true).unwrap();
    assert!(local.read(&mut [0; 1]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "it waits");
    local.set_nonblocking(false).unwrap();
    let stopping = std::thread::spawn(move || {
        for stream in &mut waiting {
            let answer = answer_on(stream).to_ascii_lowercase();
            assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
        }
        let answer = answer_on(&mut local).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
        assert!(TcpStream::connect(app).is_err() && UnixStream::connect(&path).is_err() && !path.exists());
        drop(holder);
        admin
    });
    rig.stop();
    stopping.join().unwrap();
}

#[test]
fn an_idle_connection_is_closed_before_the_grace_is_over_and_http2_is_told_to_go() {
    let mut rig = Rig::with(Settings { server: String::new(), ..Settings::default() }, |_, out| {
        vendor::answer(out, 200, &[], b"ok")
    });
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let auth = format!("Bearer {token}");
    let mut idle = rig.client();
    assert_eq!(idle.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"").status, 200);
    let mut h2 = TcpStream::connect(rig.app()).unwrap();
    // The preface and an empty SETTINGS frame (RFC 9113 section 3.4).
    h2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let listening = std::thread::spawn(move || {
        let begun = Instant::now();
        let mut kinds = Vec::new();
        while !kinds.contains(&7) {
            let mut head = [0; 9];
            h2.read_exact(&mut head).unwrap_or_else(|error| panic!("no GOAWAY among {kinds:?}: {error}"));
            let mut rest = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            h2.read_exact(&mut rest).unwrap();
            kinds.push(head[3]);
        }
        assert!(begun.elapsed() < Duration::from_millis(500), "told after {:?}", begun.elapsed());
        drop(h2);
        assert!(idle.is_closed());
        begun.elapsed()
    });
    let begun = Instant::now();
    rig.stop();
    assert!(begun.elapsed() < Duration::from_millis(1900), "nothing held it: {:?}", begun.elapsed());
    let closed = listening.join().unwrap();
    assert!(closed > Duration::from_millis(900), "a request could have been on its way: {closed:?}");
}

#[test]
fn a_balancer_that_asks_has_the_configured_delay_to_go_elsewhere() {
    let settings = Settings { server: "drain_delay = \"800ms\"".to_owned(), ..Settings::default() };
    let mut rig = Rig::with(settings, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let (app, admin, shown) = (rig.app(), rig.running().admin, rig.shown.clone());
    assert_eq!(rig.admin("GET", "/startupz", None).status, 200);
    let balancer = std::thread::spawn(move || {
        let begun = Instant::now();
        while crate::rig::client::Client::connect(admin, shown.clone())
            .request("GET", "/readyz", &[], b"")
            .status
            == 200
        {
            assert!(begun.elapsed() < Duration::from_millis(600), "it still says that it is ready");
        }
        let mut client = crate::rig::client::Client::connect(app, shown);
        let headers = [("authorization", format!("Bearer {token}"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        for _ in 0..2 {
            let answer = client.request("GET", &format!("/vendor/{id}/x"), &headers, b"");
            assert_eq!((answer.status, answer.header("connection")), (200, None), "as before");
        }
        while TcpStream::connect(app).is_ok() {
            assert!(begun.elapsed() < Duration::from_millis(1800), "the door never closes");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
    });
    rig.stop();
    balancer.join().unwrap();
}
