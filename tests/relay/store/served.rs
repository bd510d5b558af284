//! A whole relay over PostgreSQL: added, used, started again, while its server is away, by the real binary.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use relay::refusal::Code;

use crate::refusals::refused;
use tempfile::TempDir;

use crate::rig::postgres::{Between, Database, OWNER, PASSWORD, SERVING, Server, program, shared};
use crate::rig::{Rig, Settings, vendor};

/// `[store]` over TLS at `port`, with the password and the authority in files beside relay.toml.
fn section(database: &Database, port: u16) -> String {
    let url = database.tls_url(&[port]);
    format!(
        "engine = \"postgres\"\nurl = \"{url}\"\npassword = \"file:store.password\"\nca_file = \"store.pem\"\nconnections = 4"
    )
}

/// A relay over a database of its own, and the folder of the files that it reads at every start.
fn rig(server: &Server, database: &Database, port: u16) -> (Rig, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (password, ca) = (folder.path().join("password"), folder.path().join("ca.pem"));
    write_private(&password, PASSWORD);
    std::fs::write(&ca, server.ca_pem()).unwrap();
    let store = section(database, port)
        .replace("file:store.password", &format!("file:{}", password.display()))
        .replace("store.pem", &ca.display().to_string());
    let rig = Rig::with(Settings { store, ..Settings::default() }, |request, out| {
        vendor::answer_to(request, out, b"ok");
    });
    (rig, folder)
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::File::options();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

#[test]
fn a_relay_over_postgresql_serves_what_was_added_before_its_restart_and_keeps_no_plaintext() {
    let Some(server) = shared() else { return };
    let database = server.database();
    let (mut rig, _files) = rig(server, &database, server.port());
    let (id, off) = (rig.secret("acme"), rig.secret("acme"));
    let token = rig.token("acme");
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{off}/disable"), None).status, 200);
    for _ in 0..2 {
        assert_eq!(rig.get(&format!("/vendor/{id}/x"), &token).status, 200);
        assert!(rig.vendor.last().head.contains(rig.canary.text()));
        refused(&rig.get(&format!("/vendor/{off}/x"), &token), Code::SecretDisabled);
        refused(&rig.get(&format!("/vendor/{id}/x"), &rig.token("globex")), Code::SecretNotFound);
        rig.stop();
        rig.start();
    }
    let dumped = program("pg_dump")
        .args(["-U", "postgres", "-d", &database.name, "-p", &server.port().to_string(), "-h"])
        .arg(server.socket())
        .output()
        .unwrap();
    let dump = String::from_utf8_lossy(&dumped.stdout);
    assert!(dump.contains(&id), "the dump has the secret: {}", String::from_utf8_lossy(&dumped.stderr));
    assert_eq!(rig.canary.hunt("the database", &dumped.stdout), Vec::<String>::new());
    // bytea is dumped as hexadecimal digits; the hunt knows those too.
    let log = String::from_utf8(crate::rig::logs::captured()).unwrap_or_default();
    assert!(!log.contains(PASSWORD), "the password is in the log");
}

#[test]
fn while_postgresql_is_away_cold_requests_are_refused_in_time_and_it_heals_by_itself() {
    let Some(server) = shared() else { return };
    let database = server.database();
    let between = Between::before(server.port());
    let (rig, _files) = rig(server, &database, between.port);
    let (warm, cold) = (rig.secret("acme"), rig.secret("globex"));
    let (token, other) = (rig.token("acme"), rig.token("globex"));
    assert_eq!(rig.get(&format!("/vendor/{warm}/x"), &token).status, 200);
    between.hold(true);
    let begun = Instant::now();
    refused(&rig.get(&format!("/vendor/{cold}/x"), &other), Code::StoreUnavailable);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    between.hold(false);
    between.refuse(true);
    between.cut();
    let written = rig.admin("POST", &format!("/v1/secrets/{warm}/disable"), None);
    refused(&written, Code::StoreUnavailable);
    between.refuse(false);
    let begun = Instant::now();
    while rig.get(&format!("/vendor/{cold}/x"), &other).status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not heal");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{warm}/disable"), None).status, 200);
    refused(&rig.get(&format!("/vendor/{warm}/x"), &token), Code::SecretDisabled);
}

#[test]
fn the_schema_is_made_by_the_command_that_a_relay_without_it_names() {
    let Some(server) = shared() else { return };
    let database = server.empty_database();
    let folder = tempfile::tempdir().unwrap();
    let relay = |args: &[&str], url: &str| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
        command.current_dir(folder.path()).env_clear().env("RELAY_STORE_URL", url).args(args);
        command.output().unwrap()
    };
    let serving = database.url();
    assert!(relay(&["init", "--local-issuer"], &serving).status.success());
    let toml = folder.path().join("relay.toml");
    let text = std::fs::read_to_string(&toml).unwrap();
    let (before, _) = text.split_once("[store]").unwrap();
    let (_, behind) = text.split_once("[audit]").unwrap();
    let before = before.replace("127.0.0.1:8480", "127.0.0.1:0").replace("127.0.0.1:8481", "127.0.0.1:0");
    let store = "[store]\nengine = \"postgres\"\nurl = \"env:RELAY_STORE_URL\"\n\n[audit]";
    std::fs::write(&toml, format!("{before}{store}{behind}")).unwrap();

    let refused = relay(&["run"], &serving);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("relay store migrate --config relay.toml"), "{said}");
    let looked = relay(&["doctor"], &serving);
    let said = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert!(said.contains("relay store migrate"), "{said}");

    let owner = database.url_as(OWNER);
    // The owner's machine need not have what serving needs.
    let (key, away) = (folder.path().join("relay.key"), folder.path().join("relay.key.away"));
    std::fs::rename(&key, &away).unwrap();
    let migrate = |role: &str, url: &str| relay(&["store", "migrate", "--serving-role", role], url);
    let failed = migrate("not_there", &owner);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(failed.status.code() == Some(1) && said.contains("CREATE ROLE"), "{said}");
    let made = migrate(SERVING, &owner);
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success() && said.contains("the schema was made: version 1"), "{said}");
    assert!(said.contains(SERVING), "{said}");
    let again = migrate(SERVING, &owner);
    assert!(String::from_utf8_lossy(&again.stdout).contains("is up to date"));
    let by_serving = relay(&["store", "migrate"], &serving);
    assert_eq!(by_serving.status.code(), Some(1), "a serving role migrated");
    std::fs::rename(&away, &key).unwrap();
    let looked = relay(&["doctor"], &serving);
    let said = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert!(said.contains("PostgreSQL answers") && said.contains("changes are heard"), "{said}");
}

#[test]
fn two_relays_on_one_store_serve_each_others_secrets_and_revoke_for_each_other() {
    let Some(server) = shared() else { return };
    let database = server.database();
    let (one, _files) = rig(server, &database, server.port());
    // The same keys and issuer: the same deployment.
    let mut second = one.config();
    second.audit.path = Some(one.folder.path().join("second.jsonl"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Its audit is its own, and new.
    let options = relay::app::Options { accept_older_store: true, ..Default::default() };
    let other = relay::app::start_with(second, options, runtime.handle().clone());
    let other = runtime.block_on(other).unwrap();
    let id = one.secret("acme");
    let token = one.token("acme");
    let ask = || {
        let mut client = crate::rig::client::Client::connect(other.app.address().unwrap(), one.shown.clone());
        let bearer = format!("Bearer {token}");
        client.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &bearer)], b"")
    };
    assert_eq!(ask().status, 200, "added on one, used on the other");
    assert_eq!(one.admin("POST", &format!("/v1/secrets/{id}/disable"), None).status, 200);
    let begun = Instant::now();
    while ask().status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(1), "it is used a second after it was disabled");
    }
    refused(&ask(), Code::SecretDisabled);
    runtime.block_on(other.stop());
    runtime.shutdown_timeout(Duration::from_secs(2));
}
