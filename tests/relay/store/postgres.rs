//! The engine behind a network: what it refuses to open, what it does while PostgreSQL is away, what replicas tell
//! each other, and that a serving role is enough for all of it and for nothing more.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay::kms::cached::DataKeys;
use relay::kms::keyring::Keyring;
use relay::kms::local::Local;
use relay::model::{DataKeyId, SecretId};
use relay::seal::Sealer;
use relay::secret::Secret;
use relay::store::postgres::{Migrated, OpenError, Postgres, Setup, VERSION, migrate};
use relay::store::{Change, Expected, Feed, Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::timeout;
use uuid::Uuid;

use super::crash::{Engine, kill_writers_of, write_to_until_killed};
use super::{customer, long, row};
use crate::rig::postgres::{Between, Database, OWNER, PASSWORD, SERVING, Server, setup, shared};

/// As a relay that serves opens it.
pub(super) async fn open(database: &Database) -> Postgres {
    let url = Secret::new(database.url().into_bytes());
    Postgres::open(setup(&url), Handle::current()).await.unwrap()
}

async fn refusal(setup: Setup<'_>) -> OpenError {
    Postgres::open(setup, Handle::current()).await.err().expect("it is refused")
}

fn secret(text: impl Into<String>) -> Secret {
    Secret::new(text.into().into_bytes())
}

/// The server that all share, from within a runtime. Without one, that was said loudly.
async fn server() -> Option<&'static Server> {
    tokio::task::spawn_blocking(shared).await.unwrap()
}

/// Runs what waits for processes.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// What is told within a second.
async fn told(feed: &mut Receiver<Change>) -> Change {
    match timeout(Duration::from_secs(1), feed.recv()).await {
        Ok(Ok(change)) => change,
        Ok(Err(RecvError::Lagged(_))) => panic!("the feed lagged"),
        other => panic!("nothing was told within a second: {other:?}"),
    }
}

async fn becomes(store: &Postgres, wanted: Feed, within: Duration) {
    let mut feed = store.feed();
    let came = timeout(within, feed.wait_for(|feed| *feed == wanted)).await;
    assert!(came.is_ok(), "the feed is not {wanted:?} within {within:?}");
}

#[tokio::test]
async fn what_one_replica_writes_the_other_hears_once() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let (one, other) = (open(&database).await, open(&database).await);
    // Spaces, quotes, what looks like a note, the longest there is.
    let names = ["acme", "a b  c", "o'hara \\ \"x\"", "1 2 keys 3", "\u{fc}\u{1f980}", &"c".repeat(128)];
    let mut mine = one.changes();
    let mut theirs = other.changes();
    for name in names {
        let (ours, id, key) = (customer(name), SecretId::random(), DataKeyId::random());
        one.add_data_key(&ours, key, "wrapped".into()).await.unwrap();
        one.put_secret(row(&ours, id, 1, "one"), Expected::New(key)).await.unwrap();
        assert_eq!(told(&mut theirs).await, Change::DataKeys(ours.clone()), "{name}");
        assert_eq!(told(&mut theirs).await, Change::Secret(ours.clone(), id), "{name}");
        assert_eq!(other.secret(&ours, id).await.unwrap(), Some(row(&ours, id, 1, "one")), "{name}");
        other.remove_secret(&ours, id).await.unwrap();
        assert_eq!(theirs.try_recv(), Ok(Change::Secret(ours.clone(), id)), "{name}: its own, at once");
        assert_eq!(mine.try_recv(), Ok(Change::DataKeys(ours.clone())), "{name}: its own, at once");
        assert_eq!(mine.try_recv(), Ok(Change::Secret(ours.clone(), id)), "{name}");
        assert_eq!(told(&mut mine).await, Change::Secret(ours, id), "{name}");
    }
    // Whatever was still on its way would have come before this.
    one.put_meta("m", "1".into()).await.unwrap();
    let (ours, id) = (customer("last"), SecretId::random());
    one.put_secret(row(&ours, id, 1, "one"), Expected::Absent).await.unwrap();
    assert_eq!(told(&mut theirs).await, Change::Secret(ours.clone(), id));
    assert_eq!(told(&mut mine).await, Change::Secret(ours, id));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(mine.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(theirs.try_recv(), Err(TryRecvError::Empty));
}

#[tokio::test]
async fn a_note_that_is_not_understood_makes_caches_forget_everything() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let store = open(&database).await;
    let mut feed = store.changes();
    for note in ["2 of a newer relay", "", "1 nobody secret x", &format!("1 {} later", Uuid::new_v4())] {
        database.sql_as(SERVING, &format!("NOTIFY relay_changes, '{note}'"));
        assert_eq!(told(&mut feed).await, Change::Everything, "{note:?}");
    }
    database.sql_as(SERVING, &format!("NOTIFY relay_changes, '1 {} beat'", Uuid::new_v4()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(feed.try_recv(), Err(TryRecvError::Empty), "a beat tells nothing");
    assert_eq!(store.unclear_notes(), 4, "each is counted, and nothing else is");
}

#[tokio::test]
async fn a_turn_whose_asker_was_stopped_while_the_store_was_asked_is_given_back_at_once() {
    let Some(server) = server().await else { return };
    let database = server.database();
    // Shows that the turn was had.
    database.sql_as(OWNER, "CREATE TABLE relay.seen (); CREATE FUNCTION relay.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO relay.seen DEFAULT VALUES; RETURN NULL; END $$; CREATE TRIGGER see AFTER INSERT ON relay.leases FOR EACH ROW EXECUTE FUNCTION relay.see()");
    let store: Arc<dyn Store> = Arc::new(open(&database).await);
    let ring = Keyring::of(Arc::new(Local::ephemeral()));
    let keys = Arc::new(DataKeys::new(ring, 9, Handle::current()));
    let sealer = Sealer::open(store.clone(), keys, Vec::new()).await.unwrap();
    let long = Duration::from_secs(600);
    let mut asked = Box::pin(sealer.turn("renew/x".to_owned(), long));
    assert!(timeout(Duration::from_micros(1), &mut asked).await.is_err(), "it was stopped in time");
    drop(asked);
    let begun = Instant::now();
    while database.sql_as(OWNER, "SELECT count(*) FROM relay.seen") == "0" {
        assert!(begun.elapsed() < Duration::from_secs(5), "the store was never asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begun = Instant::now();
    while !store.lease("renew/x", Uuid::new_v4(), long).await.unwrap() {
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody has it, and nobody gets it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_database_whose_disk_is_full_is_a_store_that_is_full_and_takes_writes_when_there_is_space() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let store = open(&database).await;
    let (ours, id) = (customer("acme"), SecretId::random());
    store.put_secret(row(&ours, id, 1, "one"), Expected::Absent).await.unwrap();
    database.sql_as(OWNER, "CREATE FUNCTION relay.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$");
    // In the middle of the transaction, and at its end.
    for trigger in [
        "CREATE TRIGGER full BEFORE INSERT OR UPDATE ON relay.secrets FOR EACH ROW",
        "CREATE CONSTRAINT TRIGGER full AFTER INSERT OR UPDATE ON relay.secrets DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
    ] {
        database
            .sql_as(OWNER, &format!("{} EXECUTE FUNCTION relay.full()", trigger.replace(" full ", " disk ")));
        let before = store.upkeep().generation().await.unwrap();
        let (other, mut feed) = (SecretId::random(), store.changes());
        let added = store.put_secret(row(&ours, other, 1, "two"), Expected::Absent).await;
        assert!(matches!(added, Err(StoreError::Full)), "{trigger}: {added:?}");
        assert_eq!(feed.try_recv(), Err(TryRecvError::Empty), "{trigger}: nothing was written");
        assert_eq!(store.secret(&ours, other).await.unwrap(), None, "{trigger}");
        assert_eq!(store.secret(&ours, id).await.unwrap(), Some(row(&ours, id, 1, "one")), "{trigger}");
        assert_eq!(store.upkeep().generation().await.unwrap(), before, "{trigger}");
        database.sql_as(OWNER, "DROP TRIGGER disk ON relay.secrets");
        store.put_secret(row(&ours, other, 1, "two"), Expected::Absent).await.unwrap();
        assert!(store.remove_secret(&ours, other).await.unwrap(), "{trigger}");
    }
}

#[tokio::test]
async fn a_write_whose_standby_does_not_answer_is_refused_in_time_and_never_acknowledged() {
    if server().await.is_none() {
        return;
    }
    // Its own: the setting is the whole server's.
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let database = server.database();
    let store = open(&database).await;
    let (ours, first, second) = (customer("acme"), SecretId::random(), SecretId::random());
    store.put_secret(row(&ours, first, 1, "one"), Expected::Absent).await.unwrap();
    server.set("synchronous_standby_names", "nobody");
    let begun = Instant::now();
    while server.sql("postgres", "SHOW synchronous_standby_names") != "nobody" {
        assert!(begun.elapsed() < Duration::from_secs(5), "the setting is not taken");
    }
    // By now it reaches the sessions that there are, too.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    let written = store.put_secret(row(&ours, second, 1, "two"), Expected::Absent).await;
    assert!(matches!(written, Err(StoreError::Unknown(_))), "{written:?}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    // What comes behind it waits for what it holds, and no longer than any call.
    let begun = Instant::now();
    let behind = store.put_secret(row(&ours, SecretId::random(), 1, "three"), Expected::Absent).await;
    assert!(behind.is_err(), "{behind:?}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(store.secret(&ours, first).await.unwrap(), Some(row(&ours, first, 1, "one")), "reads go on");
    server.set("synchronous_standby_names", "");
    let begun = Instant::now();
    loop {
        let row = row(&ours, SecretId::random(), 1, "four");
        match store.put_secret(row, Expected::Absent).await {
            Ok(()) => break,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error}"),
        }
    }
}

#[tokio::test]
async fn two_replicas_count_race_and_forget_as_one() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let stores: Vec<Arc<Postgres>> = vec![Arc::new(open(&database).await), Arc::new(open(&database).await)];
    let (ours, id) = (customer("acme"), SecretId::random());
    stores[0].put_secret(row(&ours, id, 1, "first"), Expected::Absent).await.unwrap();
    let before = stores[1].upkeep().generation().await.unwrap();
    let racers: Vec<_> = (2..18u32)
        .map(|version| {
            let (store, row) = (stores[version as usize % 2].clone(), row(&ours, id, version, "by"));
            tokio::spawn(async move { store.put_secret(row, Expected::Head("head 1".into())).await })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(()) => won += 1,
            Err(error) => assert!(matches!(error, StoreError::Conflict), "{error}"),
        }
    }
    assert_eq!(won, 1);
    for store in &stores {
        assert_eq!(store.upkeep().generation().await.unwrap(), before + 1, "refused writes are not counted");
    }
    // Everyone adds while one forgets: what is acknowledged afterwards is under a key that is there.
    let key = DataKeyId::random();
    stores[0].add_data_key(&ours, key, "wrapped".into()).await.unwrap();
    let adders: Vec<_> = (0..40)
        .map(|turn| {
            let (store, row) = (stores[turn % 2].clone(), row(&ours, SecretId::random(), 1, "x"));
            tokio::spawn(async move { store.put_secret(row, Expected::New(key)).await })
        })
        .collect();
    stores[1].upkeep().forget(&ours).await.unwrap();
    for adder in adders {
        let added = adder.await.unwrap();
        assert!(matches!(added, Ok(()) | Err(StoreError::Conflict)), "{added:?}");
    }
    assert_eq!(stores[0].secrets(&ours, None, 99).await.unwrap(), [], "something was left behind");
    assert_eq!(stores[0].active_data_key(&ours).await.unwrap(), None);
}

#[tokio::test]
async fn what_was_begun_to_be_forgotten_is_ended_at_the_next_opening_and_not_added_to_before() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let store = open(&database).await;
    let (ours, theirs) = (customer("acme"), customer("globex"));
    let key = DataKeyId::random();
    for one in [&ours, &theirs] {
        store.add_data_key(one, key, "wrapped".into()).await.unwrap();
        for _ in 0..3 {
            store.put_secret(row(one, SecretId::random(), 1, "x"), Expected::New(key)).await.unwrap();
        }
    }
    // As the first of the writes leaves it.
    database.sql_as(OWNER, "UPDATE relay.customers SET active = NULL, forgetting = true WHERE customer = 'acme'; DELETE FROM relay.data_keys WHERE customer = 'acme'");
    for expected in [Expected::Absent, Expected::New(key)] {
        let added = store.put_secret(row(&ours, SecretId::random(), 1, "x"), expected).await;
        assert!(matches!(added, Err(StoreError::Conflict)), "{added:?}");
    }
    let added = store.add_data_key(&ours, DataKeyId::random(), "again".into()).await;
    assert!(matches!(added, Err(StoreError::Conflict)), "{added:?}");
    let again = open(&database).await;
    assert_eq!(again.secrets(&ours, None, 9).await.unwrap(), []);
    assert_eq!(again.secrets(&theirs, None, 9).await.unwrap().len(), 3);
    again.add_data_key(&ours, DataKeyId::random(), "new".into()).await.unwrap();
}

#[tokio::test]
async fn a_lease_is_one_replicas_at_a_time_and_ends_by_the_servers_clock() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let (one, other) = (open(&database).await, open(&database).await);
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let long = Duration::from_secs(60);
    assert!(one.lease("jobs", a, long).await.unwrap());
    assert!(!other.lease("jobs", b, long).await.unwrap(), "it is taken");
    assert!(other.lease("jobs", a, long).await.unwrap(), "its holder renews it from anywhere");
    other.release("jobs", b).await.unwrap();
    assert!(!other.lease("jobs", b, long).await.unwrap(), "only its holder gives it back");
    assert!(one.lease("jobs", a, Duration::from_millis(300)).await.unwrap());
    let begun = Instant::now();
    while !other.lease("jobs", b, long).await.unwrap() {
        assert!(begun.elapsed() < Duration::from_secs(5), "it never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(250), "it ended early");
    assert!(!one.lease("jobs", a, long).await.unwrap());
    other.release("jobs", b).await.unwrap();
    assert!(one.lease("jobs", a, long).await.unwrap());
}

#[tokio::test]
async fn a_role_that_serves_can_do_nothing_that_serving_does_not_need() {
    let Some(server) = server().await else { return };
    let database = server.database();
    // Every test of every engine runs as this role, so it can do enough.
    let store = open(&database).await;
    store.put_meta("m", "1".into()).await.unwrap();
    let forbidden = [
        "DROP TABLE relay.secrets",
        "ALTER TABLE relay.secrets ADD COLUMN plain text",
        "CREATE TABLE relay.mine (x int)",
        "CREATE INDEX mine ON relay.secrets (version)",
        "CREATE SCHEMA mine",
        "DROP SCHEMA relay CASCADE",
        "TRUNCATE relay.secrets",
        "TRUNCATE relay.writes",
        "DELETE FROM relay.writes",
        "INSERT INTO relay.writes VALUES (99, 0)",
        "DELETE FROM relay.meta",
        "DELETE FROM relay.migrations",
        "INSERT INTO relay.migrations (version) VALUES (99)",
        "UPDATE relay.migrations SET version = 99",
        "CREATE TRIGGER t BEFORE INSERT ON relay.secrets FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "SET ROLE relay_owner",
        "COPY relay.secrets TO PROGRAM 'cat'",
    ];
    for sql in forbidden {
        let (done, _, complained) = database.try_sql_as(SERVING, sql);
        let refusals = ["permission denied", "must be owner", "must be superuser"];
        assert!(!done && refusals.iter().any(|refusal| complained.contains(refusal)), "{sql}: {complained}");
    }
    assert_eq!(store.meta("m").await.unwrap(), Some("1".into()));
    // And the check can fail: the owner may.
    assert!(database.try_sql_as(OWNER, "ALTER TABLE relay.secrets ADD COLUMN plain text").0);
}

#[tokio::test]
async fn only_the_schema_that_this_relay_knows_is_served() {
    let Some(server) = server().await else { return };
    let database = server.empty_database();
    let (url, owner) = (secret(database.url()), secret(database.url_as(OWNER)));
    let refused = refusal(setup(&url)).await;
    assert!(matches!(refused, OpenError::Empty), "{refused}");
    assert!(refused.to_string().contains("relay store migrate"), "{refused}");

    let made = migrate(setup(&owner), None).await.unwrap();
    assert_eq!(made, Migrated { from: 0, to: VERSION, serving_role: None });
    let refused = refusal(setup(&url)).await;
    assert!(matches!(refused, OpenError::Denied(_)), "{refused}");
    assert!(refused.to_string().contains("relay store migrate --serving-role"), "{refused}");

    // Both at once, and again: it is done once.
    let (one, other) =
        tokio::join!(migrate(setup(&owner), Some(SERVING)), migrate(setup(&owner), Some(SERVING)));
    let same = Migrated { from: VERSION, to: VERSION, serving_role: Some(SERVING.to_owned()) };
    assert_eq!((one.unwrap(), other.unwrap()), (same.clone(), same));
    drop(Postgres::open(setup(&url), Handle::current()).await.unwrap());

    let becomes = async |version: i32| {
        database.sql_as(OWNER, &format!("UPDATE relay.migrations SET version = {version}"));
        refusal(setup(&url)).await
    };
    let refused = becomes(VERSION + 1).await;
    assert!(matches!(refused, OpenError::Newer { found } if found == VERSION + 1), "{refused}");
    let refused = migrate(setup(&owner), None).await;
    assert!(matches!(refused, Err(OpenError::Newer { .. })), "a newer schema was migrated: {refused:?}");
    let refused = becomes(VERSION - 2).await;
    assert!(matches!(refused, OpenError::Older { found } if found == VERSION - 2), "{refused}");
    assert!(refused.to_string().contains("relay store migrate"), "{refused}");
}

#[tokio::test]
async fn a_migration_gives_a_role_that_is_there_and_no_owner() {
    let Some(server) = server().await else { return };
    let database = server.empty_database();
    let owner = secret(database.url_as(OWNER));
    for (role, wanted) in [
        ("nobody_here", "CREATE ROLE"),
        (OWNER, "owner"),
        ("postgres", "superuser"),
        ("x\"; DROP", "CREATE ROLE"),
    ] {
        let refused = migrate(setup(&owner), Some(role)).await.unwrap_err();
        assert!(matches!(refused, OpenError::Role(_)), "{role}: {refused}");
        assert!(refused.to_string().contains(wanted), "{role}: {refused}");
    }
    let left = database.sql_as(OWNER, "SELECT count(*) FROM pg_namespace WHERE nspname = 'relay'");
    assert_eq!(left, "0", "a migration that failed left something");
    let by_serving = secret(database.url());
    assert!(migrate(setup(&by_serving), None).await.is_err(), "a serving role migrated");
}

#[tokio::test]
async fn a_server_that_would_lose_an_acknowledged_write_is_refused() {
    let Some(server) = server().await else { return };
    let database = server.database();
    for (setting, good) in
        [("off", false), ("local", false), ("remote_write", false), ("on", true), ("remote_apply", true)]
    {
        server
            .sql("postgres", &format!("ALTER DATABASE {} SET synchronous_commit = {setting}", database.name));
        let url = secret(database.url());
        let opened = Postgres::open(setup(&url), Handle::current()).await;
        match opened {
            Ok(_) => assert!(good, "{setting} was taken"),
            Err(error) => {
                assert!(!good, "{setting}: {error}");
                let told = error.to_string();
                assert!(told.contains("synchronous_commit") && told.contains(setting), "{told}");
            }
        }
    }
    // A URL cannot weaken it either.
    let url = secret(format!("{}?options=-c%20synchronous_commit%3Doff", database.url()));
    let refused = refusal(setup(&url)).await;
    assert!(refused.to_string().contains("synchronous_commit is off"), "{refused}");
}

#[tokio::test]
async fn tls_is_verified_whatever_the_url_says_and_no_error_tells_the_password() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let ca = server.ca_pem().as_bytes();
    let password = secret(PASSWORD);
    for more in ["", "?sslmode=require", "?sslmode=verify-full", "?target_session_attrs=read-write"] {
        let url = secret(format!("{}{more}", database.tls_url(&[server.port()])));
        let store = Postgres::open(tls(&url, Some(ca), Some(&password)), Handle::current()).await.unwrap();
        store.put_meta("m", "1".into()).await.unwrap();
        let spoken = database.sql_as("postgres", &format!("SELECT bool_and(s.ssl) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.datname = '{}' AND a.application_name = 'relay'", database.name));
        assert_eq!(spoken, "t", "{more}");
    }
    let plain = database.tls_url(&[server.port()]);
    let with_password = plain.replace(&format!("{SERVING}@"), &format!("{SERVING}:{PASSWORD}@"));
    let wrong_password =
        plain.replace(&format!("{SERVING}@"), &format!("{SERVING}:{}@", "canary-wrong-password"));
    let by_address = with_password.replace("localhost", "127.0.0.1");
    let rows = [
        (with_password.clone(), None, "UnknownIssuer"),
        (by_address, Some(ca), "certificate"),
        (wrong_password, Some(ca), "28P01"),
        (format!("{with_password}?sslmode=disable"), Some(ca), "plaintext_danger"),
        (format!("{with_password}?target_session_attrs=any&connect_timeout=1"), Some(ca), "parameters"),
        (format!("{with_password}?target_session_attrs=read-only"), Some(ca), "read-write"),
        (format!("postgres://{SERVING}:can?ary{PASSWORD}@localhost/x"), Some(ca), "parameters"),
        (format!("{SERVING} {PASSWORD}"), Some(ca), "postgres://"),
        ("postgres://localhost/x".to_owned(), Some(ca), "user"),
        (with_password.replace("postgres://", "https://"), Some(ca), "postgres://"),
    ];
    for (text, roots, wanted) in rows {
        let url = secret(text.clone());
        let refused = refusal(tls(&url, roots, None)).await;
        let (shown, drawn) = (refused.to_string(), format!("{refused:?}"));
        assert!(shown.contains(wanted), "{text}: {shown}");
        for part in [PASSWORD, "canary-wrong-password", "ary", &text] {
            let told = shown.contains(part) || drawn.contains(part);
            assert!(!told || part == "ary" && !text.contains("can?ary"), "{text}: {drawn}");
        }
    }
    let url = secret(with_password);
    let danger = Setup { url: &url, password: None, roots: None, connections: 2, plaintext_danger: true };
    let refused = refusal(danger).await.to_string();
    assert!(refused.contains("28000"), "this server takes no plaintext: {refused}");
}

fn tls<'a>(url: &'a Secret, roots: Option<&'a [u8]>, password: Option<&'a Secret>) -> Setup<'a> {
    Setup { url, password, roots, connections: 3, plaintext_danger: false }
}

/// A store that reaches the server through something that can hold and cut.
async fn behind(server: &'static Server, database: &Database) -> (Postgres, Between) {
    let between = Between::before(server.port());
    let url = secret(database.tls_url(&[between.port]));
    let password = secret(PASSWORD);
    let roots = Some(server.ca_pem().as_bytes());
    let setup =
        Setup { url: &url, password: Some(&password), roots, connections: 3, plaintext_danger: false };
    (Postgres::open(setup, Handle::current()).await.unwrap(), between)
}

#[tokio::test]
async fn a_server_that_hangs_hangs_no_call() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let (store, between) = behind(server, &database).await;
    let (ours, id) = (customer("acme"), SecretId::random());
    store.put_secret(row(&ours, id, 1, "one"), Expected::Absent).await.unwrap();
    between.hold(true);
    let most = Duration::from_millis(2500);
    let begun = Instant::now();
    let read = store.secret(&ours, id).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(begun.elapsed() < most, "{:?}", begun.elapsed());
    // More than there are sessions.
    let begun = Instant::now();
    let store = Arc::new(store);
    let calls: Vec<_> = (0..9)
        .map(|_| {
            let (store, ours) = (store.clone(), ours.clone());
            tokio::spawn(async move { store.secret(&ours, id).await })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    let write = store.put_secret(row(&ours, id, 2, "two"), Expected::Head("head 1".into())).await;
    assert!(matches!(write, Err(StoreError::Unavailable(_))), "it was never begun: {write:?}");
    assert!(begun.elapsed() < 2 * most, "{:?}", begun.elapsed());
    becomes(&store, Feed::Gone, Duration::from_secs(4)).await;
    let mut feed = store.changes();
    between.hold(false);
    between.cut();
    becomes(&store, Feed::Live, Duration::from_secs(4)).await;
    assert_eq!(told(&mut feed).await, Change::Everything);
    assert_eq!(store.secret(&ours, id).await.unwrap(), Some(row(&ours, id, 1, "one")));
    store.put_secret(row(&ours, id, 2, "two"), Expected::Head("head 1".into())).await.unwrap();
}

#[tokio::test]
async fn a_feed_that_was_cut_says_so_and_forgets_everything_when_it_is_back() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let (one, between) = behind(server, &database).await;
    let other = open(&database).await;
    let mut feed = one.changes();
    for _ in 0..3 {
        between.refuse(true);
        between.cut();
        becomes(&one, Feed::Gone, Duration::from_secs(3)).await;
        let id = SecretId::random();
        other.put_secret(row(&customer("acme"), id, 1, "unheard"), Expected::Absent).await.unwrap();
        between.refuse(false);
        becomes(&one, Feed::Live, Duration::from_secs(3)).await;
        assert_eq!(told(&mut feed).await, Change::Everything, "before it is live again");
        let id = SecretId::random();
        other.put_secret(row(&customer("acme"), id, 1, "heard"), Expected::Absent).await.unwrap();
        assert_eq!(told(&mut feed).await, Change::Secret(customer("acme"), id));
    }
}

#[tokio::test]
async fn a_feed_that_hears_nothing_is_deaf_while_the_store_answers() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let store = open(&database).await;
    let mut feed = store.changes();
    // Ends the session that listens, over and over, as an operator might.
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'NOTIFY%' AND pid <> pg_backend_pid()";
    let mut deaf = false;
    for _ in 0..40 {
        database.sql_as("postgres", kill);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let stands = *store.feed().borrow();
        assert_ne!(stands, Feed::Gone, "the store answers");
        deaf |= stands == Feed::Deaf;
        assert_eq!(store.meta("m").await.unwrap(), None);
    }
    assert!(deaf, "it was never told");
    becomes(&store, Feed::Live, Duration::from_secs(4)).await;
    assert_eq!(told(&mut feed).await, Change::Everything);
}

#[tokio::test]
async fn a_write_whose_end_nobody_knows_is_told_as_that_and_heard_when_it_was_done() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let (store, between) = behind(server, &database).await;
    let (ours, id) = (customer("acme"), SecretId::random());
    // Nothing comes back from the COMMIT: a deferred trigger makes it slow enough to be caught in it.
    database.sql_as(OWNER, "CREATE FUNCTION relay.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON relay.secrets DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION relay.slow()");
    let mut feed = store.changes();
    let store = Arc::new(store);
    let (writing, row) = (store.clone(), row(&ours, id, 1, "one"));
    let written = row.clone();
    let write = tokio::spawn(async move { writing.put_secret(written, Expected::Absent).await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    between.cut();
    let ended = write.await.unwrap();
    assert!(matches!(ended, Err(StoreError::Unknown(_))), "{ended:?}");
    assert!(ended.unwrap_err().to_string().contains("unknown"));
    assert_eq!(feed.try_recv(), Ok(Change::Secret(ours.clone(), id)), "whoever caches forgets it");
    // It is done or not, and nothing tried it again: once it stands, it stands once.
    let begun = Instant::now();
    while store.secret(&ours, id).await.ok().flatten().is_none() && begun.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if let Some(stored) = store.secret(&ours, id).await.unwrap() {
        assert_eq!(stored, row);
        assert_eq!(store.upkeep().generation().await.unwrap(), 1, "it was written once");
    } else {
        assert_eq!(store.upkeep().generation().await.unwrap(), 0, "it was not written");
    }
}

#[tokio::test]
async fn a_write_that_lost_its_caller_is_still_ended_and_told() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let store = open(&database).await;
    let mut feed = store.changes();
    let (ours, id) = (customer("acme"), SecretId::random());
    let mut write = store.put_secret(row(&ours, id, 1, "one"), Expected::Absent);
    // Begun, then dropped.
    assert!(timeout(Duration::from_micros(1), &mut write).await.is_err());
    drop(write);
    assert_eq!(told(&mut feed).await, Change::Secret(ours.clone(), id));
    assert!(store.secret(&ours, id).await.unwrap().is_some());
}

#[tokio::test]
async fn the_host_that_takes_writes_is_found_among_several() {
    let Some(server) = server().await else { return };
    let database = server.database();
    let (dead, hanging) = (Between::before(server.port()), Between::before(server.port()));
    dead.refuse(true);
    hanging.hold(true);
    let password = secret(PASSWORD);
    for ports in [[dead.port, server.port()], [hanging.port, server.port()], [server.port(), dead.port]] {
        let url = secret(database.tls_url(&ports));
        let roots = Some(server.ca_pem().as_bytes());
        let setup =
            Setup { url: &url, password: Some(&password), roots, connections: 2, plaintext_danger: false };
        let store = Postgres::open(setup, Handle::current()).await.unwrap();
        store.put_meta("m", "1".into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_was_killed_is_found_again_with_all_that_was_acknowledged() {
    if server().await.is_none() {
        return;
    }
    let mut own = aside(Server::start).await;
    let database = own.database();
    let store = open(&database).await;
    let ours = customer("acme");
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for _ in 0..20 {
            let id = SecretId::random();
            store.put_secret(row(&ours, id, 1, long(3000)), Expected::Absent).await.unwrap();
            acknowledged.push(id);
        }
        own = aside(move || {
            own.kill();
            own
        })
        .await;
        let lost = store.put_meta("m", Bytes::from("1")).await;
        assert!(matches!(lost, Err(StoreError::Unavailable(_))), "round {round}: {lost:?}");
        becomes(&store, Feed::Gone, Duration::from_secs(4)).await;
        own = aside(move || {
            own.run();
            own
        })
        .await;
        becomes(&store, Feed::Live, Duration::from_secs(4)).await;
        store.put_meta("m", Bytes::from("2")).await.unwrap();
        for id in &acknowledged {
            assert!(store.secret(&ours, *id).await.unwrap().is_some(), "round {round}: {id} is lost");
        }
    }
}

/// The variable by which a child of the test below is told what to write to.
const CHILD: &str = "RELAY_TEST_POSTGRES_CHILD";

#[test]
#[allow(clippy::disallowed_methods, reason = "the child is told what it is by its environment")]
fn a_writer_killed_at_random_moments_loses_nothing_that_it_acknowledged() {
    if let Ok(url) = std::env::var(CHILD) {
        write_to_until_killed(&Engine::Postgres(url));
    }
    let Some(server) = shared() else { return };
    let url = server.database().url();
    let rounds = 3;
    let acknowledged = kill_writers_of(rounds, &Engine::Postgres(url.clone()), &|| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let name = "store::postgres::a_writer_killed_at_random_moments_loses_nothing_that_it_acknowledged";
        child.args(["--exact", "--nocapture", name]).env(CHILD, &url);
        child
    });
    assert!(acknowledged > 0, "nothing was written");
}
