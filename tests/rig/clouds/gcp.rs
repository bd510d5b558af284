//! Google Cloud KMS over REST, as far as relay and its tests use it.
//!
//! Real AES-256-GCM with associated data, versions with states, checksums of everything both ways. Errors
//! are worded as Google words them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Value, json};

use super::{Asked, Cloud, Fake, Told, Trouble};

/// Where the fake's keys are.
pub const RING: &str = "projects/relay/locations/global/keyRings/tests";
/// One of its keys; there is another beside it, named `other`.
pub const KEY: &str = "projects/relay/locations/global/keyRings/tests/cryptoKeys/relay";
pub const OTHER_KEY: &str = "projects/relay/locations/global/keyRings/tests/cryptoKeys/other";

/// An answer that is damaged on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lie {
    #[default]
    None,
    /// The ciphertext's checksum is another's.
    CiphertextSum,
    /// The ciphertext's checksum is left away.
    NoCiphertextSum,
    /// It does not say that it looked at the plaintext's checksum.
    PlaintextUnverified,
    /// It does not say that it looked at the associated data's.
    AssociatedUnverified,
    /// The plaintext's checksum is another's.
    PlaintextSum,
    /// The plaintext's checksum is left away.
    NoPlaintextSum,
    /// What came in was damaged: Google finds that its own sum is another.
    Received,
    /// Another key says that it wrapped it.
    OtherKey,
    /// The answer is elsewhere.
    Redirect,
    /// The answer is no JSON.
    Garbage,
}

/// The fake's own state, for tests that reach into it.
#[derive(Default)]
pub struct Google {
    keys: Mutex<BTreeMap<String, Key>>,
    lie: Mutex<Lie>,
    /// How often a new version is looked at before it can be used, as in an HSM.
    pending: Mutex<u32>,
    /// Whether a change of the primary version has not reached every place of Google's yet.
    lagging: Mutex<bool>,
}

struct Key {
    versions: Vec<Version>,
    primary: usize,
    /// The version that was primary before, which wraps while the change is under way.
    before: usize,
}

struct Version {
    cipher: Aes256Gcm,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Enabled = 1,
    Disabled = 2,
    DestroyScheduled = 4,
    PendingGeneration = 5,
}

const STATES: [(State, &str); 4] = [
    (State::Enabled, "ENABLED"),
    (State::Disabled, "DISABLED"),
    (State::DestroyScheduled, "DESTROY_SCHEDULED"),
    (State::PendingGeneration, "PENDING_GENERATION"),
];

/// A fake with [`KEY`] and [`OTHER_KEY`], one version each.
pub fn start() -> (Fake, Arc<Google>) {
    let google = Arc::new(Google::default());
    for name in [KEY, OTHER_KEY] {
        let key = Key { versions: vec![Version::new(State::Enabled)], primary: 1, before: 1 };
        google.keys.lock().unwrap().insert(name.to_owned(), key);
    }
    (Fake::start(Arc::clone(&google), None), google)
}

impl Google {
    pub fn lie(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
    }

    /// The next new versions take this many looks until they can be used.
    pub fn slow_versions(&self, looks: u32) {
        *self.pending.lock().unwrap() = looks;
    }

    /// Whether a changed primary version is told, and not used yet.
    pub fn lag(&self, lagging: bool) {
        *self.lagging.lock().unwrap() = lagging;
    }

    /// Disables or enables a version of [`KEY`], counted from 1.
    pub fn enable(&self, version: usize, enabled: bool) {
        let state = if enabled { State::Enabled } else { State::Disabled };
        self.keys.lock().unwrap().get_mut(KEY).unwrap().versions[version - 1].state = state;
    }
}

impl Cloud for Arc<Google> {
    fn operation(&self, asked: &Asked) -> String {
        match (asked.method.as_str(), verb(asked)) {
            (_, (_, verb)) if !verb.is_empty() => verb.to_owned(),
            ("GET", (name, _)) if name.contains("/cryptoKeyVersions/") => "getVersion".to_owned(),
            ("GET", _) => "get".to_owned(),
            ("PATCH", _) => "patch".to_owned(),
            _ => "createVersion".to_owned(),
        }
    }

    fn answer(&self, asked: &Asked, trouble: Trouble) -> Told {
        let (name, verb) = verb(asked);
        let key = name.split("/cryptoKeyVersions").next().unwrap();
        let refused = match trouble {
            Trouble::Throttled => Some((429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Cryptographic requests' and limit 'Cryptographic requests per minute' of service 'cloudkms.googleapis.com'.".to_owned())),
            Trouble::Broken => Some((500, "INTERNAL", "Internal error encountered.".to_owned())),
            Trouble::Denied => Some((403, "PERMISSION_DENIED", format!("Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied on resource '{key}' (or it may not exist)."))),
            Trouble::Disabled => Some((400, "FAILED_PRECONDITION", format!("{key}/cryptoKeyVersions/1 is not enabled, current state is: DISABLED."))),
            _ => None,
        };
        let lie = *self.lie.lock().unwrap();
        if lie == Lie::Redirect {
            let headers = vec![("location", format!("/elsewhere{}", asked.path))];
            return Told { status: 307, headers, body: Vec::new() };
        }
        if lie == Lie::Garbage {
            return Told { status: 200, headers: Vec::new(), body: b"<html>no KMS</html>".to_vec() };
        }
        let answer = match refused {
            Some(refused) => Err(refused),
            None => self.decide(asked, name, key, verb, lie),
        };
        let (status, mut body) = match answer {
            Ok(body) => (200, body),
            Err((status, word, message)) => {
                (status, json!({ "error": { "code": status, "message": message, "status": word } }))
            }
        };
        if asked.query.contains("enum-encoding=int") {
            numbered(&mut body);
        }
        let headers = vec![("content-type", "application/json; charset=UTF-8".to_owned())];
        Told { status, headers, body: body.to_string().into_bytes() }
    }
}

type Refused = (u16, &'static str, String);

fn invalid(message: impl Into<String>) -> Refused {
    (400, "INVALID_ARGUMENT", message.into())
}

impl Google {
    fn decide(
        &self,
        asked: &Asked,
        name: &str,
        key_name: &str,
        verb: &str,
        lie: Lie,
    ) -> Result<Value, Refused> {
        let mut keys = self.keys.lock().unwrap();
        let Some(key) = keys.get_mut(key_name) else {
            return Err((404, "NOT_FOUND", format!("CryptoKey {key_name} not found.")));
        };
        let body: Value = match asked.body.len() {
            0 => json!({}),
            _ => {
                serde_json::from_slice(&asked.body).map_err(|_| invalid("Invalid JSON payload received."))?
            }
        };
        let version = name.rsplit_once("/cryptoKeyVersions/").map(|(_, version)| version);
        match (&asked.method, verb, version) {
            (&Method::POST, "encrypt", _) => {
                let primary = if *self.lagging.lock().unwrap() { key.before } else { key.primary };
                let number = version.map_or(Ok(primary), |_| key.numbered(key_name, version))?;
                encrypt(key, key_name, number, &body, lie)
            }
            (&Method::POST, "decrypt", None) => decrypt(key, key_name, &body, lie),
            (&Method::GET, "", None) => Ok(key.shown(key_name)),
            (&Method::GET, "", Some(_)) => {
                let number = key.numbered(key_name, version)?;
                let mut pending = self.pending.lock().unwrap();
                let state = &mut key.versions[number - 1].state;
                if *state == State::PendingGeneration {
                    *pending = pending.saturating_sub(1);
                    if *pending == 0 {
                        *state = State::Enabled;
                    }
                }
                Ok(key.version_shown(key_name, number))
            }
            (&Method::POST, "", None) if name.ends_with("/cryptoKeyVersions") => {
                let slow = *self.pending.lock().unwrap() > 0;
                key.versions.push(Version::new(if slow { State::PendingGeneration } else { State::Enabled }));
                Ok(key.version_shown(key_name, key.versions.len()))
            }
            (&Method::POST, "updatePrimaryVersion", None) => {
                let number = key.numbered(key_name, body["cryptoKeyVersionId"].as_str())?;
                key.usable(key_name, number)?;
                key.before = std::mem::replace(&mut key.primary, number);
                Ok(key.shown(key_name))
            }
            (&Method::PATCH, "", Some(_)) => {
                let number = key.numbered(key_name, version)?;
                let asked = &body["state"];
                let wanted = STATES.iter().find(|(state, word)| asked == word || *asked == *state as u8);
                key.versions[number - 1].state =
                    wanted.ok_or_else(|| invalid("Invalid value at 'state'."))?.0;
                Ok(key.version_shown(key_name, number))
            }
            (&Method::POST, "destroy", Some(_)) => {
                let number = key.numbered(key_name, version)?;
                key.versions[number - 1].state = State::DestroyScheduled;
                Ok(key.version_shown(key_name, number))
            }
            _ => Err((404, "NOT_FOUND", "Method not found.".to_owned())),
        }
    }
}

impl Key {
    fn shown(&self, name: &str) -> Value {
        json!({
            "name": name,
            "purpose": "ENCRYPT_DECRYPT",
            "primary": self.version_shown(name, self.primary),
            "createTime": "2026-01-01T00:00:00Z",
        })
    }

    fn version_shown(&self, name: &str, number: usize) -> Value {
        let state = self.versions[number - 1].state;
        let word = STATES.iter().find(|(other, _)| *other == state).unwrap().1;
        json!({
            "name": format!("{name}/cryptoKeyVersions/{number}"),
            "state": word,
            "protectionLevel": "SOFTWARE",
            "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            "createTime": "2026-01-01T00:00:00Z",
        })
    }

    fn numbered(&self, name: &str, version: Option<&str>) -> Result<usize, Refused> {
        let number = version.and_then(|version| version.parse().ok()).unwrap_or_default();
        if !(1..=self.versions.len()).contains(&number) {
            let message = format!("{name}/cryptoKeyVersions/{} not found.", version.unwrap_or_default());
            return Err((404, "NOT_FOUND", message));
        }
        Ok(number)
    }

    fn usable(&self, name: &str, number: usize) -> Result<&Version, Refused> {
        let version = &self.versions[number - 1];
        if version.state == State::Enabled {
            return Ok(version);
        }
        let word = STATES.iter().find(|(state, _)| *state == version.state).unwrap().1;
        let message = format!("{name}/cryptoKeyVersions/{number} is not enabled, current state is: {word}.");
        Err((400, "FAILED_PRECONDITION", message))
    }
}

impl Version {
    fn new(state: State) -> Self {
        let mut key = [0; 32];
        rand::fill(&mut key).unwrap();
        Self { cipher: Aes256Gcm::new(&key.into()), state }
    }
}

/// What Google's ciphertext looks like inside is Google's affair: version, nonce, sealed.
fn encrypt(key: &Key, name: &str, number: usize, body: &Value, lie: Lie) -> Result<Value, Refused> {
    let used = key.usable(name, number)?;
    let (plaintext, plaintext_seen) = field(body, "plaintext", "plaintextCrc32c", lie)?;
    let (aad, aad_seen) =
        field(body, "additionalAuthenticatedData", "additionalAuthenticatedDataCrc32c", Lie::None)?;
    let mut nonce = [0; 12];
    rand::fill(&mut nonce).unwrap();
    let sealed = used.cipher.encrypt(&nonce.into(), Payload { msg: &plaintext, aad: &aad }).unwrap();
    let ciphertext = [&[u8::try_from(number).unwrap()], &nonce[..], &sealed].concat();
    let named = if lie == Lie::OtherKey { OTHER_KEY } else { name };
    let mut answer = json!({
        "name": format!("{named}/cryptoKeyVersions/{number}"),
        "ciphertext": STANDARD.encode(&ciphertext),
        "ciphertextCrc32c": sum(&ciphertext).to_string(),
        "verifiedPlaintextCrc32c": plaintext_seen,
        "verifiedAdditionalAuthenticatedDataCrc32c": aad_seen,
        "protectionLevel": "SOFTWARE",
    });
    match lie {
        Lie::CiphertextSum => answer["ciphertextCrc32c"] = json!((sum(&ciphertext) ^ 1).to_string()),
        Lie::NoCiphertextSum => drop(answer.as_object_mut().unwrap().remove("ciphertextCrc32c")),
        Lie::PlaintextUnverified => answer["verifiedPlaintextCrc32c"] = json!(false),
        Lie::AssociatedUnverified => answer["verifiedAdditionalAuthenticatedDataCrc32c"] = json!(false),
        _ => {}
    }
    Ok(answer)
}

fn decrypt(key: &Key, name: &str, body: &Value, lie: Lie) -> Result<Value, Refused> {
    let (ciphertext, _) = field(body, "ciphertext", "ciphertextCrc32c", lie)?;
    let (aad, _) =
        field(body, "additionalAuthenticatedData", "additionalAuthenticatedDataCrc32c", Lie::None)?;
    let wrong = || invalid("Decryption failed: verify that 'name' refers to the correct CryptoKey.");
    let (number, rest) = ciphertext.split_first().ok_or_else(wrong)?;
    let number = usize::from(*number);
    if !(1..=key.versions.len()).contains(&number) {
        return Err(wrong());
    }
    let used = key.usable(name, number)?;
    let (nonce, sealed) = rest.split_first_chunk::<12>().ok_or_else(wrong)?;
    let plaintext =
        used.cipher.decrypt(nonce.into(), Payload { msg: sealed, aad: &aad }).map_err(|_| wrong())?;
    let mut answer = json!({
        "plaintext": STANDARD.encode(&plaintext),
        "plaintextCrc32c": sum(&plaintext).to_string(),
        "usedPrimary": number == key.primary,
        "protectionLevel": "SOFTWARE",
    });
    match lie {
        Lie::PlaintextSum => answer["plaintextCrc32c"] = json!((sum(&plaintext) ^ 1).to_string()),
        Lie::NoPlaintextSum => drop(answer.as_object_mut().unwrap().remove("plaintextCrc32c")),
        _ => {}
    }
    Ok(answer)
}

/// A field's bytes, and whether there was a checksum to look at, which was true.
fn field(body: &Value, name: &str, sum_name: &str, lie: Lie) -> Result<(Vec<u8>, bool), Refused> {
    let text = body[name].as_str().unwrap_or_default();
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| invalid(format!("Invalid value at '{name}' (TYPE_BYTES), Base64 decoding failed.")))?;
    let given = match &body[sum_name] {
        Value::Null => return Ok((bytes, false)),
        // int64 is a text in JSON, and a number is taken too.
        Value::String(text) => text.parse().unwrap_or(-1),
        other => other.as_i64().unwrap_or(-1),
    };
    if given != i64::from(sum(&bytes)) || lie == Lie::Received {
        let snake = snake(name);
        return Err(invalid(format!(
            "The checksum in field {snake}_crc32c did not match the data in field {snake}."
        )));
    }
    Ok((bytes, true))
}

fn snake(camel: &str) -> String {
    camel
        .chars()
        .flat_map(|c| {
            let under = c.is_ascii_uppercase().then_some('_');
            under.into_iter().chain(std::iter::once(c.to_ascii_lowercase()))
        })
        .collect()
}

/// `/v1/{name}:{verb}`
fn verb(asked: &Asked) -> (&str, &str) {
    let path = asked.path.strip_prefix("/v1/").unwrap_or_default();
    path.split_once(':').unwrap_or((path, ""))
}

/// Enumerations as numbers, for a client that asks for `enum-encoding=int`.
fn numbered(value: &mut Value) {
    let words = [("SOFTWARE", 1), ("ENCRYPT_DECRYPT", 1), ("GOOGLE_SYMMETRIC_ENCRYPTION", 1)];
    match value {
        Value::String(text) => {
            let state = STATES.iter().find(|(_, word)| word == text).map(|(state, _)| *state as u64);
            let other = words.iter().find(|(word, _)| word == text).map(|(_, number)| *number);
            if let Some(number) = state.or(other) {
                *value = json!(number);
            }
        }
        Value::Object(members) => {
            members.iter_mut().filter(|(name, _)| *name != "error").for_each(|(_, value)| numbered(value));
        }
        _ => {}
    }
}

/// CRC32C by a table: another way than relay's own, so that they agree by being right.
fn sum(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|index| {
        let mut entry = u32::try_from(index).unwrap();
        for _ in 0..8 {
            entry = if entry & 1 == 1 { (entry >> 1) ^ 0x82f6_3b78 } else { entry >> 1 };
        }
        entry
    });
    let fold = |crc: u32, byte: &u8| table[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(u32::MAX, fold)
}
