//! Whether what the store holds can be opened by the KMS keys that are configured, and whether the store is the
//! newest copy of itself: what `relay run` would find out, or a request.
//!
//! Beside a running relay it is that one's word against the files as they are now, which it reads again only at its
//! next start.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use http::Method;
use serde_json::Value;
use tokio::runtime::Handle;

use super::Here;
use super::anchors::{TAIL, WHOLE, newest_anchor};
use super::finding::Findings;
use crate::audit::PublicKey;
use crate::kms::Kms;
use crate::kms::cached::DataKeys;
use crate::kms::keyring::Keyring;
use crate::seal;
use crate::store::Store;

const CHECK: &str = "keys";
const PUT_BACK: &str =
    "put that key back: a line of the key file below the first, or an entry of previous in [keys]";

/// The KMS keys as configured.
pub(super) struct Keys {
    kms: Vec<Arc<dyn Kms>>,
    pub(super) data: DataKeys,
}

impl Keys {
    pub(super) fn of(ring: Keyring, control: &Handle) -> Self {
        Self { kms: ring.keys().to_vec(), data: DataKeys::new(ring, 1, control.clone()) }
    }

    fn open(&self, provider: &str, key: &str) -> bool {
        self.kms.iter().any(|kms| kms.provider() == provider && kms.answers_to(key))
    }
}

/// Whether each KMS key that anything is wrapped by is at hand. If one is not, nothing else is tried with them.
pub(super) async fn keys_in_use(
    here: &Here,
    (store, keys): (Option<&dyn Store>, Option<&Keys>),
    findings: &mut Findings,
) -> bool {
    let Some(keys) = keys else { return false };
    match (here, store) {
        (Here::Runs(target), _) => match target.call(Method::GET, "/v1/keys", None).await {
            Ok(told) => by_relay(&told, keys, findings),
            Err(failure) => findings.fail(CHECK, failure.to_string(), "see the running relay's log"),
        },
        (_, Some(store)) => match seal::inventory(store, &keys.data).await {
            Ok(found) if found.unknown > 0 => {
                let found =
                    format!("no configured KMS key wrapped {} of the store's data keys", found.unknown);
                findings.fail(CHECK, found, PUT_BACK);
                return false;
            }
            Ok(found) => {
                let held: u64 = found.keys.iter().map(|key| key.data_keys + key.store_keys).sum();
                findings.ok(CHECK, format!("each of the store's {held} data keys is under one of them"));
            }
            Err(error) => findings.fail("store", error.to_string(), "put a backup in its place"),
        },
        _ => {}
    }
    true
}

fn by_relay(told: &Value, keys: &Keys, findings: &mut Findings) {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let count = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut good = true;
    for used in told.get("keys").and_then(Value::as_array).into_iter().flatten() {
        let (provider, key) = (text(used, "provider"), text(used, "key"));
        let held = count(used, "data_keys") + count(used, "store_keys");
        if held > 0 && !keys.open(&provider, &key) {
            let found = format!(
                "the running relay has {held} data keys under {provider} {key}, which is no longer configured: none \
                 of them opens after its next start"
            );
            findings.fail(CHECK, found, PUT_BACK);
            good = false;
        }
        let wraps = used.get("wraps_now").and_then(Value::as_bool) == Some(true);
        let first = keys.kms.first().is_some_and(|kms| kms.provider() == provider && kms.key() == key);
        if wraps && !first {
            let found =
                format!("the running relay wraps with {provider} {key}, and another key is configured first");
            findings.warn(CHECK, found, "restart it to take the new one, then run `relay key rotate`");
            good = false;
        }
    }
    let unknown = count(told, "unknown");
    if unknown > 0 {
        let found = format!("the running relay cannot open {unknown} of its data keys");
        findings.fail(CHECK, found, PUT_BACK);
    } else if good {
        findings.ok(CHECK, "they are those of the running relay, and open all that it has");
    }
}

/// Whether the audit's newest anchor saw more writes than the store has: `relay run` refuses such a store.
pub(super) async fn age(store: &dyn Store, audit: &Path, key: PublicKey, findings: &mut Findings) {
    let Ok(has) = store.upkeep().generation().await else { return };
    let newest = File::open(audit).and_then(|file| {
        let size = file.metadata()?.len();
        newest_anchor(file, if size <= WHOLE { 0 } else { size.saturating_sub(TAIL) })
    });
    // A file that cannot be read is told of with the audit.
    let newest = newest.ok().flatten().filter(|anchor| anchor.is_signed_by(key));
    if let Some(anchor) = newest.filter(|anchor| anchor.generation() > has) {
        let found = format!(
            "it is an older copy: it has seen {has} writes, and its audit says that at {} it had seen {}",
            anchor.time(),
            anchor.generation()
        );
        let fix = "put the newer store back, or start once with `relay run --accept-older-store`";
        findings.fail("store", found, fix);
    }
}
