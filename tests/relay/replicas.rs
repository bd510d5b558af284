//! Two relays on one store, as replicas are: what an operator does on one holds on the other within a second, also
//! for what is open; renewals and jobs are done once; and a relay that hears or reaches the store no more serves no
//! longer than it may.

use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::stage::authorize::records::Bounds;
use relay::store::Store;
use relay::store::memory::Memory;

use crate::rig::client::Client;
use crate::rig::pair::{Pair, stores};
use crate::rig::vendor::{self, Vendor, raw};
use crate::rig::{Settings, way::Way};

/// The bounds without a change feed, and without the store.
mod bounds;
/// Renewals, jobs and starts that only one of them may do.
mod once;

const SECOND: Duration = Duration::from_secs(1);
const INTEGRATION: &str = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\nwebsocket = true\ndefault_secret = \"only\"\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A vendor that answers, streams without end, or speaks WebSocket and says nothing, by what it is asked.
fn streaming() -> Vendor {
    Vendor::start(|request, out| {
        if request.header("upgrade").is_some() {
            raw(
                out,
                format!(
                    "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
                )
                .as_bytes(),
            );
        } else if request.target().ends_with("/stream") {
            raw(out, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\nevent 1\n\n\r\n");
        } else {
            return vendor::answer(out, 200, &[], b"ok");
        }
        let mut came = Vec::new();
        while vendor::more(out, &mut came).is_some() {}
    })
}

fn pair(bounds: Bounds) -> Pair {
    let memory: Arc<dyn Store> = Arc::new(Memory::new());
    over([memory.clone(), memory], bounds)
}

fn over(stores: [Arc<dyn Store>; 2], bounds: Bounds) -> Pair {
    let settings = Settings { integration: INTEGRATION.to_owned(), ..Settings::default() };
    Pair::over(stores, settings, streaming(), bounds)
}

/// Two relays over each engine.
fn pairs() -> impl Iterator<Item = Pair> {
    stores().into_iter().map(|stores| over(stores, Bounds::default()))
}

/// An answer of the second relay's that streams without end.
fn stream(pair: &Pair, id: &str) -> Client {
    let mut client = pair.client(1);
    let token = pair.rig.token("acme");
    client.send(&format!(
        "GET /vendor/{id}/stream HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
    ));
    until_seen(&mut client, "event 1");
    client
}

/// A WebSocket through the second relay.
fn socket(pair: &Pair, id: &str) -> Client {
    let mut client = pair.client(1);
    let token = pair.rig.token("acme");
    client.send(&format!(
        "GET /vendor/{id}/live HTTP/1.1\r\nhost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         authorization: Bearer {token}\r\n\r\n"
    ));
    until_seen(&mut client, "101 ");
    client
}

fn until_seen(client: &mut Client, wanted: &str) {
    let mut seen = client.taken();
    while memchr::memmem::find(&seen, wanted.as_bytes()).is_none() {
        assert!(client.more(), "it ended before {wanted:?}: {:?}", String::from_utf8_lossy(&seen));
        seen.extend(client.taken());
    }
}

/// When the connection ended; a chunked body must not have ended cleanly.
fn ended(client: &mut Client) -> Instant {
    let mut seen = client.taken();
    while client.more() {
        seen.extend(client.taken());
    }
    assert!(!String::from_utf8_lossy(&seen).contains("0\r\n\r\n"), "a clean end");
    Instant::now()
}

#[test]
fn what_is_done_to_a_secret_on_one_relay_holds_on_the_other_within_a_second() {
    for pair in pairs() {
        let id = pair.rig.secret("acme");
        assert_eq!(pair.ask(1, &id).status, 200);
        let secret = format!("/v1/secrets/{id}");
        let on_first = |method: &str, path: String, body: &str| {
            let answer = pair.admin(0, method, &path, body);
            assert!(matches!(answer.status, 200 | 201 | 204), "{}", answer.text());
        };
        on_first("POST", format!("{secret}/disable"), "");
        pair.until(1, &id, (410, "secret_disabled"), SECOND);
        on_first("POST", format!("{secret}/enable"), "");
        pair.until(1, &id, (200, ""), SECOND);
        on_first("PUT", format!("{secret}/policy"), r#"{"allow":["GET /elsewhere"]}"#);
        pair.until(1, &id, (403, "request_denied"), SECOND);
        on_first("PUT", format!("{secret}/policy"), "{}");
        pair.until(1, &id, (200, ""), SECOND);

        let other = format!("{}-rotated", pair.rig.canary.text());
        let fields = serde_json::json!({ "fields": { "token": other } }).to_string();
        on_first("POST", format!("{secret}/versions"), &fields);
        let begun = Instant::now();
        loop {
            assert_eq!(pair.ask(1, &id).status, 200);
            if pair.rig.vendor.last().header("authorization") == Some(&format!("Bearer {other}")) {
                break;
            }
            assert!(begun.elapsed() < SECOND, "the old version is still sent");
        }
        // An unknown UUID is remembered as such, and a secret that was just added is not.
        on_first("DELETE", secret, "");
        pair.until(1, &id, (404, "secret_not_found"), SECOND);
        let added = pair.rig.secret("acme");
        pair.until(1, &added, (200, ""), SECOND);
    }
}

#[test]
fn a_forgotten_customer_is_gone_from_the_other_relay_with_its_data_key() {
    for pair in pairs() {
        let (id, other) = (pair.rig.secret("acme"), pair.rig.secret("globex"));
        assert_eq!((pair.ask(1, &id).status, pair.ask_as(1, &other, "globex").status), (200, 200));
        let held = |pair: &Pair| {
            assert_eq!(pair.admin(1, "GET", "/readyz", "").status, 200);
            let text = pair.admin(1, "GET", "/metrics", "").text();
            let line = text.lines().find(|line| line.starts_with("relay_data_keys ")).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!(held(&pair), "2");
        let forgotten = pair.admin(0, "DELETE", "/v1/customers/acme", "");
        assert_eq!(forgotten.status, 200, "{}", forgotten.text());
        pair.until(1, &id, (404, "secret_not_found"), SECOND);
        let begun = Instant::now();
        while held(&pair) != "1" {
            assert!(begun.elapsed() < SECOND, "the forgotten customer's data key is still in memory");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(pair.ask_as(1, &other, "globex").status, 200);
    }
}

#[test]
fn a_revocation_on_one_relay_ends_what_is_open_on_the_other() {
    for (pair, (method, how)) in [("POST", "/disable"), ("DELETE", ""), ("DELETE", "customer")]
        .into_iter()
        .flat_map(|how| pairs().map(move |pair| (pair, how)))
    {
        let (id, stays) = (pair.rig.secret("acme"), pair.rig.secret("acme"));
        let (mut one, mut two, mut other) = (stream(&pair, &id), socket(&pair, &id), stream(&pair, &stays));
        let path = match how {
            "customer" => "/v1/customers/acme".to_owned(),
            how => format!("/v1/secrets/{id}{how}"),
        };
        let answer = pair.admin(0, method, &path, "");
        assert!(matches!(answer.status, 200 | 204), "{}", answer.text());
        let at = Instant::now();
        assert!(ended(&mut one) - at < SECOND, "{how}: the stream");
        assert!(ended(&mut two) - at < SECOND, "{how}: the WebSocket");
        if how == "customer" {
            assert!(ended(&mut other) - at < SECOND, "all of a forgotten customer's streams end");
            continue;
        }
        other.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut one = [0; 1];
        let still = std::io::Read::read(&mut other.stream, &mut one);
        assert!(still.is_err(), "another secret's stream goes on: {still:?}");
    }
}

#[test]
fn both_relays_take_the_store_wide_keys_of_the_one_that_came_first() {
    for _ in 0..5 {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let late = Duration::from_millis(60);
        let settings = |way: Arc<Way>| Settings {
            options: Box::new(move || relay::app::Options {
                store: Some(way.clone()),
                ..relay::app::Options::default()
            }),
            ..Settings::default()
        };
        let first = crate::rig::Rig::before(settings(Way::late(Arc::new(Memory::new()), late)), streaming());
        // Both over the same folder's key file, at the same time, on a store that has nothing.
        let (keys, toml) = (first.folder.path().to_owned(), first.toml());
        let started: Vec<(relay::app::Running, tokio::runtime::Runtime)> = std::thread::scope(|scope| {
            let all: Vec<_> = ["one", "two"]
                .map(|name| {
                    let (store, toml, keys) = (store.clone(), toml.clone(), keys.clone());
                    scope.spawn(move || {
                        let own = format!("path = \"audit-{name}.jsonl\"\nreplica = \"{name}\"");
                        let toml = toml.replace("path = \"audit.jsonl\"", &own);
                        let config = relay::config::parse(
                            &toml,
                            "relay.toml",
                            &keys,
                            &[],
                            relay::config::Files::Required,
                        );
                        let options = relay::app::Options {
                            store: Some(Way::late(store, late)),
                            ..relay::app::Options::default()
                        };
                        let runtime = tokio::runtime::Builder::new_multi_thread()
                            .worker_threads(1)
                            .enable_all()
                            .build()
                            .unwrap();
                        let mut config = config.unwrap_or_else(|report| panic!("{}", report.render(false)));
                        config.audit.replica = Some(name.to_owned());
                        let start = relay::app::start_with(config, options, runtime.handle().clone());
                        let started = runtime.block_on(start);
                        (started.unwrap_or_else(|error| panic!("{name}: {error}")), runtime)
                    })
                })
                .into_iter()
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let audit: Vec<String> =
            started.iter().map(|(relay, _)| relay.log().public_key().to_string()).collect();
        assert_eq!(audit[0], audit[1], "the audits are signed by the store's one key");
        // The id that an idempotency key makes comes from the store-wide key.
        let ids: Vec<String> = started
            .iter()
            .map(|(relay, _)| {
                let mut client = Client::connect(relay.admin, first.shown.clone());
                let bearer = format!("Bearer {}", crate::rig::ADMIN_TOKEN);
                let headers = [("authorization", bearer.as_str()), ("idempotency-key", "the-same")];
                let value = first.canary.text();
                let body = serde_json::json!({
                    "customer": "acme", "integration": "vendor", "fields": { "token": value },
                });
                let answer = client.request("POST", "/v1/secrets", &headers, body.to_string().as_bytes());
                assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
                answer.json()["id"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(ids[0], ids[1]);
        for (relay, runtime) in started {
            runtime.block_on(relay.stop());
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

#[test]
fn a_replica_that_is_gone_for_good_is_retired_by_another_and_never_by_itself() {
    let pair = pair(Bounds::default());
    let names = || {
        let told = pair.admin(0, "GET", "/v1/audit/anchors", "").json();
        let anchors = told["anchors"].as_array().unwrap().clone();
        anchors.iter().filter(|line| line.as_str().unwrap().contains("\"replica\":\"second\"")).count()
    };
    // The store is told of an anchor once the file is on the disk.
    let begun = Instant::now();
    while names() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the second replica has no anchor in the store");
        std::thread::sleep(Duration::from_millis(10));
    }
    let retire = |which, name: &str| pair.admin(which, "DELETE", &format!("/v1/audit/replicas/{name}"), "");
    assert_eq!(retire(1, "second").status, 400, "it is not gone: it answers");
    assert_eq!(retire(0, "third").status, 400, "there never was one");
    assert_eq!(names(), 1);
    let done = retire(0, "second");
    assert_eq!((done.status, &done.json()["replica"]), (200, &"second".into()));
    assert_eq!(names(), 0);
    assert_eq!(retire(0, "second").status, 400, "it is gone already");
    let told = pair.rig.audit();
    let notes = told.iter().filter(|record| record["method"] == "audit.retire").map(|record| &record["note"]);
    assert_eq!(notes.collect::<Vec<_>>(), ["asked", "done: second"]);
}
