//! What relay keeps and needs: the KMS keys, the store, the audit, the space for both.
//!
//! The store of a stopped relay is opened as relay opens it, which takes its lock for a moment; that of a running
//! one is that one's alone.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::anchors::{TAIL, WHOLE, newest_anchor};
use super::around::Around;
use super::finding::Findings;
use super::held::Keys;
use super::{Here, held};
use crate::app::providers::{AUDIT_KEY, open_keyring, open_store};
use crate::audit::replica::{anchor_name, host_name};
use crate::audit::several::{Found, Trust, find, verify_files};
use crate::audit::{Anchor, PublicKey, Signer};
use crate::clock;
use crate::config::{Config, StoreChoice};
use crate::kms::KmsError;
use crate::kms::keyring::Keyring;
use crate::model::{Customer, DataKeyId};
use crate::store::moving::Imported;
use crate::store::{Feed, Store};

/// How long the KMS may take.
const CALL: Duration = Duration::from_secs(15);
/// Free space below which it is told, and below which writes will soon fail.
const LITTLE: u64 = 1 << 30;
const LEAST: u64 = 64 << 20;

/// Makes a data key and opens it again.
pub(super) async fn keys(config: &Config, findings: &mut Findings) -> Option<Keyring> {
    let check = "keys";
    let ring = match timeout(CALL, open_keyring(&config.keys, &Handle::current())).await {
        Ok(Ok(ring)) => ring,
        Ok(Err(error)) => {
            findings.fail(check, error.to_string(), "see [keys] in relay.toml");
            return None;
        }
        Err(_) => {
            findings.fail(
                check,
                "the KMS does not answer",
                "see whether its address can be reached from here",
            );
            return None;
        }
    };
    try_keys(&ring, findings).await;
    Some(ring)
}

async fn try_keys(ring: &Keyring, findings: &mut Findings) {
    let check = "keys";
    let (customer, id) = (Customer::store_wide("doctor"), DataKeyId::random());
    let began = Instant::now();
    let tried = timeout(CALL, async {
        let (key, wrapped) = ring.generate(&customer, id).await?;
        let opened = ring.unwrap(&customer, id, &wrapped).await?;
        let by = ring.wrapped_by(&wrapped)?;
        let newest = match ring.current() {
            Some(kms) => kms.newest().await?,
            None => None,
        };
        Ok::<_, KmsError>((key.equals(opened.expose()), by, newest))
    });
    match tried.await {
        Ok(Ok((true, by, newest))) => {
            let took = began.elapsed().as_millis();
            let version = by.version.map(|version| format!(", version {version}")).unwrap_or_default();
            let found = format!(
                "{} {}{version}: a data key was made and opened in {took} ms; earlier keys named: {}",
                by.provider,
                by.key,
                ring.keys().len().saturating_sub(1)
            );
            match newest.filter(|newest| !version.is_empty() && !version.ends_with(&format!(" {newest}"))) {
                None => findings.ok(check, found),
                Some(newest) => {
                    let found = format!("{found}; the KMS has version {newest} by now");
                    findings.warn(check, found, "see what the KMS wraps with");
                }
            }
        }
        Ok(Ok((false, ..))) => {
            findings.fail(check, "the KMS opens another key than it made", "see what answers at its address");
        }
        Ok(Err(error)) => {
            let fix = match &error {
                KmsError::Unavailable(_) => {
                    "see whether its address can be reached from here, and with which identity"
                }
                KmsError::Denied(_) => {
                    "enable the key, and let relay's identity make and open data keys with it"
                }
                KmsError::Broken(_) => "see whether [keys] names the key that relay has used before",
            };
            findings.fail(check, error.to_string(), fix);
        }
        Err(_) => {
            findings.fail(check, "the KMS does not answer in time", "see whether it can be reached from here")
        }
    }
}

/// Whether the store can be opened, or the running relay has it.
pub(super) async fn store(
    config: &Config,
    here: &Here,
    control: &Handle,
    findings: &mut Findings,
) -> Option<Arc<dyn Store>> {
    let check = "store";
    let path = match &config.store {
        StoreChoice::Sled { path } => path,
        StoreChoice::Postgres(_) => return shared_store(config, control, findings).await,
        StoreChoice::Memory => return None,
    };
    let shown = path.display();
    let Ok(found) = std::fs::metadata(path) else {
        findings.ok(check, format!("{shown} is not there yet: relay makes it at its first start"));
        return None;
    };
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let found = format!("{shown} is open to other users (mode {mode:o})");
        findings.fail(check, found, format!("chmod -R go= {shown}"));
        return None;
    }
    if let Here::Runs(target) = here {
        match target.call(Method::GET, "/v1/audit/anchor", None).await {
            Ok(_) => findings.ok(check, format!("{shown} answers, by the running relay")),
            Err(failure) => findings.fail(check, failure.to_string(), "see the running relay's log"),
        }
        return None;
    }
    match open_store(&config.store, control).await {
        Ok(store) => match Imported::of(&*store).await {
            Ok(import) if is_half(import.as_ref(), findings) => None,
            Ok(_) => {
                findings.ok(check, format!("{shown} opens and answers"));
                Some(store)
            }
            Err(error) => {
                findings.fail(check, format!("{shown}: {error}"), "put a backup in its place");
                None
            }
        },
        Err(error) => {
            findings.fail(check, error.to_string(), "see what it says");
            None
        }
    }
}

/// Whether PostgreSQL can be reached as relay reaches it, with the schema that it needs. A relay that runs is in
/// nobody's way there.
async fn shared_store(config: &Config, control: &Handle, findings: &mut Findings) -> Option<Arc<dyn Store>> {
    let check = "store";
    let store = match open_store(&config.store, control).await {
        Ok(store) => store,
        Err(error) => {
            findings.fail(check, error.to_string(), "see what it says");
            return None;
        }
    };
    let began = Instant::now();
    match Imported::of(&*store).await {
        Ok(import) if is_half(import.as_ref(), findings) => return None,
        Ok(_) => {}
        Err(error) => {
            findings.fail(check, format!("PostgreSQL: {error}"), "see what it says");
            return None;
        }
    }
    let found =
        format!("PostgreSQL answers in {} ms, and its schema is the one needed", began.elapsed().as_millis());
    if *store.feed().borrow() == Feed::Live {
        findings.ok(check, format!("{found}; changes are heard"));
    } else {
        let found = format!("{found}; its notifications do not arrive");
        findings.warn(check, found, "connect without a pooler, or with one that keeps sessions");
    }
    Some(store)
}

/// Whether not all of an import is there, which is told: relay does not serve such a store.
fn is_half(import: Option<&Imported>, findings: &mut Findings) -> bool {
    let half = import.is_some_and(|import| !import.ended);
    if half {
        let fix = "relay store import FILE --resume, or begin again with an empty store";
        findings.fail("store", "an import was begun in it and has not ended", fix);
    }
    half
}

/// What the audit is checked with.
type Known = (Option<PublicKey>, Option<Anchor>);

/// Whether the audit can be written and is what relay wrote.
pub(super) async fn audit(
    config: &Config,
    here: &Here,
    (store, keys): (Option<&dyn Store>, Option<&Keys>),
    (around, findings): (&mut Around, &mut Findings),
) {
    let check = "audit";
    let Some(path) = &config.audit.path else { return };
    let shown = path.display();
    // Before the file is opened: a relay that still writes must not look as if its file had been cut.
    let trust = match (here, store, keys) {
        (Here::Runs(target), ..) => by_relay(target).await,
        (_, Some(store), Some(keys)) => by_store(store, keys, &replica(config, path)).await,
        _ => Ok((None, None)),
    };
    let (key, newest) = match trust {
        Ok(trust) => trust,
        Err(why) => return findings.fail(check, why, "see keys and store above"),
    };
    around.anchored = newest.as_ref().and_then(|anchor| clock::parse_rfc3339(anchor.time()));
    if !path.exists() {
        return match &newest {
            None => {
                findings.ok(check, format!("{shown} is not there yet: relay makes it at its first start"))
            }
            Some(anchor) => {
                let found =
                    format!("{shown} is not there, and the store knows its anchor of {}", anchor.time());
                findings.fail(check, found, "put the file back, or keep the fact");
            }
        };
    }
    // Opened as relay does, without a byte written.
    let file = match OpenOptions::new().read(true).append(true).open(path) {
        Ok(file) => file,
        Err(error) => {
            let fix = "let the user that runs relay write it; what cannot be recorded is refused";
            return findings.fail(check, format!("{shown} cannot be written: {error}"), fix);
        }
    };
    let size = file.metadata().map(|data| data.len()).unwrap_or_default();
    let files = find(std::slice::from_ref(path), false).unwrap_or_default();
    let all: u64 = files.iter().map(|file| file.size).sum();
    if let (Some(store), Some(key)) = (store, key) {
        held::age(store, path, key, findings).await;
    }
    // Where nothing says which key it is, its own first anchor does: then only one hand wrote the whole.
    let own = || newest_anchor(File::open(path).ok()?, 0).ok().flatten().map(|anchor| anchor.key());
    let judged = match key.or_else(|| if all <= WHOLE { own() } else { None }) {
        Some(key) if all <= WHOLE => whole(files, key, newest),
        key => tail(file, size, key, newest.as_ref()),
    };
    match judged {
        Ok(words) => findings.ok(check, format!("{shown} can be written; {words}")),
        Err(words) => {
            findings.fail(check, format!("{shown}: {words}"), "run `relay audit verify` and keep a copy")
        }
    }
}

async fn by_relay(target: &crate::cli::target::Target) -> Result<Known, String> {
    let call = async |path: &str, name: &str| {
        let answer = target.call(Method::GET, path, None).await.map_err(|failure| failure.to_string())?;
        Ok::<_, String>(answer.get(name).and_then(Value::as_str).map(str::to_owned))
    };
    let key = call("/v1/audit/key", "public_key").await?;
    let newest = call("/v1/audit/anchor", "anchor").await?;
    let key = key.as_deref().and_then(PublicKey::parse);
    Ok((key, newest.and_then(|line| Anchor::parse(line.as_bytes()))))
}

/// Which replica this file is of, as relay takes it at its start.
fn replica(config: &Config, path: &Path) -> String {
    let size = std::fs::metadata(path).map(|data| data.len()).unwrap_or_default();
    let newest = File::open(path).and_then(|file| newest_anchor(file, size.saturating_sub(TAIL)));
    let written = newest.ok().flatten().and_then(|anchor| anchor.replica().map(str::to_owned));
    config.audit.replica.clone().or(written).unwrap_or_else(host_name)
}

async fn by_store(store: &dyn Store, keys: &Keys, replica: &str) -> Result<Known, String> {
    let meta = async |name: &str| store.meta(name).await.map_err(|error| error.to_string());
    let Some(wrapped) = meta(AUDIT_KEY).await? else { return Ok((None, None)) };
    let opened = keys.data.named(AUDIT_KEY, Some(&wrapped)).await;
    let (seed, _) = opened.map_err(|error| format!("the store's signing key: {error}"))?;
    let signer = Signer::from_seed(&seed).map_err(|error| error.to_string())?;
    let newest = meta(&anchor_name(replica)).await?;
    Ok((Some(signer.public_key()), newest.and_then(|line| Anchor::parse(&line))))
}

fn whole(files: Vec<Found>, key: PublicKey, newest: Option<Anchor>) -> Result<String, String> {
    let trust = Trust { key, newest: newest.into_iter().collect(), whole: false, part: false };
    let verdicts =
        verify_files(files, &trust, &mut |file| Box::new(file)).map_err(|error| error.to_string())?;
    let problems: Vec<_> = verdicts.iter().flat_map(|verdict| &verdict.problems).collect();
    if let Some(problem) = problems.first() {
        return Err(format!("problems: {}, the first: {problem}", problems.len()));
    }
    let records: u64 = verdicts.iter().map(|verdict| verdict.records).sum();
    let sealed = verdicts.iter().find_map(|verdict| verdict.newest_anchor.as_deref()).unwrap_or("never");
    Ok(format!("{records} records verified, sealed until {sealed}"))
}

/// Of a large file only the end: its newest anchor is relay's, and not older than the one that is known.
fn tail(file: File, size: u64, key: Option<PublicKey>, newest: Option<&Anchor>) -> Result<String, String> {
    let found = newest_anchor(file, size.saturating_sub(TAIL)).map_err(|error| error.to_string())?;
    let found = found.ok_or("there is no anchor in its last 4 MiB")?;
    if key.is_some_and(|key| !found.is_signed_by(key)) {
        return Err("its newest anchor is not signed with the store's key".to_owned());
    }
    if newest.is_some_and(|newest| found.seq() < newest.seq()) {
        return Err("it was cut: the store knows a newer anchor".to_owned());
    }
    Ok(format!("sealed until {}; too large to be verified whole here", found.time()))
}

/// Whether there is space for the store and the audit.
pub(super) fn disk(config: &Config, findings: &mut Findings) {
    let store = match &config.store {
        StoreChoice::Sled { path } => Some(path.as_path()),
        StoreChoice::Postgres(_) | StoreChoice::Memory => None,
    };
    for (what, path) in [("store", store), ("audit", config.audit.path.as_deref())] {
        let Some(path) = path else { continue };
        let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
        let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
        let check = "disk";
        let disk = match rustix::fs::statvfs(there) {
            Ok(disk) => disk,
            Err(error) => {
                findings.fail(check, format!("{}: {error}", there.display()), "mount it");
                continue;
            }
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let percent = disk.f_bavail.saturating_mul(100) / disk.f_blocks.max(1);
        let found = format!("{} MiB ({percent} %) free for the {what}, {}", free >> 20, path.display());
        let fix = "free some space, or move it";
        match free {
            0..LEAST => findings.fail(check, found, fix),
            LEAST..LITTLE => findings.warn(check, found, fix),
            _ => findings.ok(check, found),
        }
    }
}
