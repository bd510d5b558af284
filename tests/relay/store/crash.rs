//! A process that writes is killed at random moments; what it said it had written must be there.
//!
//! Depends on nothing else of the tests, so that a drill can run it too, with more rounds.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relay::model::{Customer, SecretId};
use relay::store::sled::Sled;
use relay::store::{Expected, SecretRow, Store};
use tempfile::TempDir;

/// Starts the command that `writer` makes for a folder, kills it at a random moment, `rounds` times over
/// the same store, and fails unless everything it said it had written is there afterwards. The command
/// must end in [`write_until_killed`]. Returns how many acknowledgements were checked.
pub(crate) fn kill_writers(rounds: u32, writer: &dyn Fn(&Path) -> Command) -> usize {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("db");
    kill_writers_of(rounds, &Engine::Sled(path.clone()), &|| writer(&path))
}

/// The same over a store of any engine.
pub(crate) fn kill_writers_of(rounds: u32, engine: &Engine, writer: &dyn Fn() -> Command) -> usize {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut said = Said::default();
    for round in 0..rounds {
        let mut child = writer().stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ack ") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "round {round}: the writer ended by itself");
        }
        let reader = std::thread::spawn(move || {
            let mut all = line.into_bytes();
            lines.read_to_end(&mut all).unwrap();
            all
        });
        let [moment, ..] = SecretId::random().as_bytes().to_owned();
        std::thread::sleep(Duration::from_millis(50 + 2 * u64::from(moment)));
        child.kill().unwrap();
        child.wait().unwrap();
        said.hear(&reader.join().unwrap());
        let store = engine.open(&runtime);
        runtime.block_on(said.check(&*store, round));
    }
    said.acknowledged
}

/// What is written to.
pub(crate) enum Engine {
    /// The folder.
    Sled(PathBuf),
    /// The URL.
    #[cfg(feature = "postgres")]
    Postgres(String),
}

impl Engine {
    fn open(&self, runtime: &tokio::runtime::Runtime) -> Arc<dyn Store> {
        let handle = runtime.handle().clone();
        match self {
            Self::Sled(path) => Arc::new(Sled::open(path, handle).unwrap()),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => {
                use relay::store::postgres::{Postgres, Setup};
                let url = relay::secret::Secret::new(url.clone().into_bytes());
                let setup =
                    Setup { url: &url, password: None, roots: None, connections: 4, plaintext_danger: false };
                Arc::new(runtime.block_on(Postgres::open(setup, handle)).unwrap())
            }
        }
    }
}

#[derive(Default)]
struct Said {
    acknowledged: usize,
    /// The version last acknowledged, and 0 for a removal.
    versions: HashMap<SecretId, u32>,
    /// Removals begun: the secret may be gone without an acknowledgement.
    leaving: Vec<SecretId>,
}

impl Said {
    fn hear(&mut self, output: &[u8]) {
        // The last line counts only if it is whole.
        let whole = output.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        for line in whole.map(|line| std::str::from_utf8(line).unwrap().trim_end()) {
            // The test harness prints the test's name in front of the first line.
            let Some(at) = line.find("ack ").or_else(|| line.find("try ")) else { continue };
            let mut words = line.split_at(at).1.split(' ');
            let mut word = || words.next().unwrap();
            let (kind, id, version) = (word(), SecretId::parse(word()).unwrap(), word().parse().unwrap());
            if kind == "try" {
                self.leaving.push(id);
            } else {
                self.acknowledged += 1;
                self.versions.insert(id, version);
            }
        }
    }

    async fn check(&self, store: &dyn Store, round: u32) {
        let ours = Customer::parse("acme").unwrap();
        for (id, version) in &self.versions {
            let stored = store.secret(&ours, *id).await.unwrap();
            let owner = store.owner(*id).await.unwrap();
            assert_eq!(stored.is_some(), owner.is_some(), "round {round}: {id} is half there");
            match (stored, *version) {
                (None, 0) => {}
                (None, _) => assert!(self.leaving.contains(id), "round {round}: {id} is lost"),
                (Some(_), 0) => panic!("round {round}: {id} was removed and is back"),
                (Some(stored), version) => {
                    // The write behind the last acknowledged one may have reached the disk as well.
                    assert!((version..=version + 1).contains(&stored.version), "round {round}: {id}");
                    assert!(stored.sealed == sealed(*id, stored.version), "round {round}: {id} is torn");
                }
            }
        }
    }
}

fn sealed(id: SecretId, version: u32) -> Bytes {
    let [salt, ..] = *id.as_bytes();
    let size = if salt < 32 { 20_000 } else { 300 };
    let fill = salt ^ u8::try_from(version % 256).unwrap();
    Bytes::from(vec![fill; size + usize::try_from(version).unwrap()])
}

/// Writes to the store in `path` from four tasks without end: adds, changes and removes secrets, and
/// prints `ack ID VERSION` after each acknowledgement (version 0 for a removal), `try ID 0` before one.
pub(crate) fn write_until_killed(path: &Path) -> ! {
    write_to_until_killed(&Engine::Sled(path.to_owned()))
}

/// The same to a store of any engine.
pub(crate) fn write_to_until_killed(engine: &Engine) -> ! {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = engine.open(&runtime);
    let writers: Vec<_> = (0..4).map(|_| runtime.spawn(write_for_ever(store.clone()))).collect();
    for writer in writers {
        runtime.block_on(writer).unwrap();
    }
    unreachable!("the writers never end")
}

async fn write_for_ever(store: Arc<dyn Store>) {
    let ours = Customer::parse("acme").unwrap();
    let say = |word: &str, id: SecretId, version: u32| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word} {id} {version}").unwrap();
        out.flush().unwrap();
    };
    for turn in 0u32.. {
        let id = SecretId::random();
        let mut expected = Expected::Absent;
        for version in 1..3 {
            let head = Bytes::from(format!("head {version}"));
            let (customer, sealed) = (ours.clone(), sealed(id, version));
            let row = SecretRow { customer, id, version, head: head.clone(), sealed, tokens: None };
            store.put_secret(row, expected).await.unwrap();
            say("ack", id, version);
            expected = Expected::Head(head);
        }
        if turn % 4 == 0 {
            say("try", id, 0);
            store.remove_secret(&ours, id).await.unwrap();
            say("ack", id, 0);
        }
    }
}
