//! AWS KMS, as far as relay and its tests use it: one region, two keys, real AES-GCM.
//!
//! Where moto differs from AWS this does not: a disabled key refuses, a blob of another key is an
//! `IncorrectKeyException`, and answers say which key material was used. Signatures are asked for, not checked.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Asked, Cloud, Fake, Told, Trouble};

pub const REGION: &str = "us-east-1";
pub const KEY: &str = "arn:aws:kms:us-east-1:000000000000:key/11111111-1111-4111-8111-111111111111";
pub const OTHER_KEY: &str = "arn:aws:kms:us-east-1:000000000000:key/22222222-2222-4222-8222-222222222222";

/// A fake of AWS KMS that serves until it is dropped.
pub struct AwsKms {
    pub fake: Fake,
    says: Arc<Mutex<Option<Failure>>>,
    contexts: Arc<Mutex<Vec<Value>>>,
}

impl AwsKms {
    pub fn start() -> Self {
        let (says, contexts) = (Arc::default(), Arc::default());
        let keys = [KEY, OTHER_KEY].map(|arn| (arn.to_owned(), Key::new()));
        let region = Region {
            keys: Mutex::new(keys.into()),
            says: Arc::clone(&says),
            contexts: Arc::clone(&contexts),
        };
        Self { fake: Fake::start(region, None), says, contexts }
    }

    /// From now on every call fails with this status and code; `None` ends it.
    pub fn say(&self, failure: Option<(u16, &str)>) {
        let failure = failure.map(|(status, code)| Failure(status, code.to_owned(), "as told".to_owned()));
        *self.says.lock().unwrap() = failure;
    }

    /// The encryption contexts of all calls so far.
    pub fn contexts(&self) -> Vec<Value> {
        self.contexts.lock().unwrap().clone()
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.fake.address)
    }
}

impl Deref for AwsKms {
    type Target = Fake;

    fn deref(&self) -> &Fake {
        &self.fake
    }
}

struct Region {
    keys: Mutex<BTreeMap<String, Key>>,
    says: Arc<Mutex<Option<Failure>>>,
    contexts: Arc<Mutex<Vec<Value>>>,
}

/// A KMS key: its materials, the newest last, and what stands in the way of its use.
struct Key {
    materials: Vec<(String, [u8; 32])>,
    state: &'static str,
}

/// Status, code, message.
#[derive(Clone)]
struct Failure(u16, String, String);

type Answer = Result<Value, Failure>;

fn failure(code: &str, message: impl Into<String>) -> Failure {
    Failure(400, code.to_owned(), message.into())
}

impl Key {
    fn new() -> Self {
        let mut key = Self { materials: Vec::new(), state: "Enabled" };
        key.rotate();
        key
    }

    fn rotate(&mut self) {
        let (mut id, mut material) = ([0; 32], [0; 32]);
        rand::fill(&mut id).unwrap();
        rand::fill(&mut material).unwrap();
        self.materials.push((id.iter().map(|byte| format!("{byte:02x}")).collect(), material));
    }

    fn usable(&self, arn: &str) -> Result<(), Failure> {
        match self.state {
            "Enabled" => Ok(()),
            "Disabled" => Err(failure("DisabledException", format!("{arn} is disabled."))),
            _ => Err(failure("KMSInvalidStateException", format!("{arn} is pending deletion."))),
        }
    }
}

impl Cloud for Region {
    fn operation(&self, asked: &Asked) -> String {
        asked.header("x-amz-target").trim_start_matches("TrentService.").to_owned()
    }

    fn answer(&self, asked: &Asked, trouble: Trouble) -> Told {
        let said = self.says.lock().unwrap().clone();
        let answer = match said {
            Some(failure) => Err(failure),
            None => self.called(asked, trouble),
        };
        let headers = vec![("content-type", "application/x-amz-json-1.1".to_owned())];
        match answer {
            Ok(answer) => Told { status: 200, headers, body: answer.to_string().into_bytes() },
            Err(Failure(status, code, message)) => {
                let body = json!({ "__type": code, "message": message }).to_string().into_bytes();
                Told { status, headers, body }
            }
        }
    }
}

impl Region {
    fn called(&self, asked: &Asked, trouble: Trouble) -> Answer {
        let operation = self.operation(asked);
        let authorization = asked.header("authorization");
        if !authorization.starts_with("AWS4-HMAC-SHA256 ") {
            let message = "Missing Authentication Token";
            return Err(failure("MissingAuthenticationTokenException", message));
        }
        if !authorization.contains(&format!("/{REGION}/kms/aws4_request")) {
            let message = "Credential should be scoped to a valid region.";
            return Err(failure("InvalidSignatureException", message));
        }
        match trouble {
            Trouble::Throttled => {
                let message = "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.";
                return Err(failure("ThrottlingException", message));
            }
            Trouble::Broken => return Err(Failure(500, "KMSInternalException".to_owned(), String::new())),
            Trouble::Disabled => return Err(failure("DisabledException", format!("{KEY} is disabled."))),
            Trouble::Denied => {
                let message = format!(
                    "User: arn:aws:iam::000000000000:user/relay is not authorized to perform: kms:{operation} on resource: {KEY}"
                );
                return Err(failure("AccessDeniedException", message));
            }
            Trouble::None | Trouble::BlackHole | Trouble::Refuse => {}
        }
        let input: Value = serde_json::from_slice(&asked.body)
            .map_err(|e| failure("SerializationException", e.to_string()))?;
        for field in ["EncryptionContext", "SourceEncryptionContext", "DestinationEncryptionContext"] {
            self.contexts.lock().unwrap().extend(input.get(field).cloned());
        }
        let keys = &mut *self.keys.lock().unwrap();
        match operation.as_str() {
            "GenerateDataKey" => generate(keys, &input),
            "Encrypt" => encrypt(keys, &input),
            "Decrypt" => decrypt(keys, &input),
            "ReEncrypt" => re_encrypt(keys, &input),
            "DescribeKey" => describe(keys, &input),
            "RotateKeyOnDemand" => administer(keys, &input, Key::rotate),
            "EnableKey" => administer(keys, &input, |key| key.state = "Enabled"),
            "DisableKey" => administer(keys, &input, |key| key.state = "Disabled"),
            "ScheduleKeyDeletion" => administer(keys, &input, |key| key.state = "PendingDeletion"),
            "CancelKeyDeletion" => administer(keys, &input, |key| key.state = "Disabled"),
            other => Err(failure("UnknownOperationException", other)),
        }
    }
}

type Keys = BTreeMap<String, Key>;

fn arn(keys: &Keys, input: &Value, field: &str) -> Result<String, Failure> {
    let name = input[field].as_str().unwrap_or_default();
    let found = keys.keys().find(|arn| *arn == name || arn.ends_with(&format!(":key/{name}")));
    found.cloned().ok_or_else(|| failure("NotFoundException", format!("Key '{name}' does not exist")))
}

fn context(input: &Value, field: &str) -> Result<String, Failure> {
    let given: BTreeMap<String, String> = match &input[field] {
        Value::Null => BTreeMap::new(),
        given => serde_json::from_value(given.clone())
            .map_err(|e| failure("SerializationException", e.to_string()))?,
    };
    Ok(serde_json::to_string(&given).unwrap())
}

fn bytes(input: &Value, field: &str, most: usize) -> Result<Vec<u8>, Failure> {
    let text = input[field].as_str().unwrap_or_default();
    let bytes = STANDARD.decode(text).map_err(|e| failure("SerializationException", e.to_string()))?;
    if bytes.is_empty() || bytes.len() > most {
        let message = format!(
            "1 validation error detected: Value at '{field}' failed to satisfy constraint: Member must have length less than or equal to {most}"
        );
        return Err(failure("ValidationException", message));
    }
    Ok(bytes)
}

fn cipher(material: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, material).unwrap())
}

/// `ARN behind its length (u8) | which material | nonce | ciphertext and tag`
fn seal(keys: &Keys, arn: &str, context: &str, plaintext: &[u8]) -> Result<(Value, String), Failure> {
    let key = &keys[arn];
    key.usable(arn)?;
    let (id, material) = key.materials.last().unwrap();
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).unwrap();
    let mut sealed = plaintext.to_vec();
    let unique = Nonce::assume_unique_for_key(nonce);
    cipher(material).seal_in_place_append_tag(unique, Aad::from(context.as_bytes()), &mut sealed).unwrap();
    let mut blob = vec![arn.len() as u8];
    blob.extend_from_slice(arn.as_bytes());
    blob.push(key.materials.len() as u8 - 1);
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(&sealed);
    Ok((json!(STANDARD.encode(blob)), id.clone()))
}

/// The plaintext, the key's ARN and the material's id.
fn open(
    keys: &Keys,
    named: Option<&str>,
    context: &str,
    blob: &[u8],
) -> Result<(Vec<u8>, String, String), Failure> {
    let garbled = || failure("InvalidCiphertextException", "");
    let (len, rest) = blob.split_first().ok_or_else(garbled)?;
    let (arn, rest) = rest.split_at_checked((*len).into()).ok_or_else(garbled)?;
    let arn = std::str::from_utf8(arn).map_err(|_| garbled())?;
    let key = keys.get(arn).ok_or_else(garbled)?;
    if named.is_some_and(|named| named != arn) {
        let message = "The key ID in the request does not identify a CMK that can perform this operation.";
        return Err(failure("IncorrectKeyException", message));
    }
    key.usable(arn)?;
    let (at, rest) = rest.split_first().ok_or_else(garbled)?;
    let (id, material) = key.materials.get(usize::from(*at)).ok_or_else(garbled)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(garbled)?;
    let mut buffer = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = cipher(material).open_in_place(nonce, Aad::from(context.as_bytes()), &mut buffer);
    Ok((opened.map_err(|_| garbled())?.to_vec(), arn.to_owned(), id.clone()))
}

fn generate(keys: &Keys, input: &Value) -> Answer {
    let arn = arn(keys, input, "KeyId")?;
    let len = match (input["KeySpec"].as_str(), input["NumberOfBytes"].as_u64()) {
        (Some("AES_256"), None) => 32,
        (Some("AES_128"), None) => 16,
        (None, Some(bytes @ 1..=1024)) => bytes as usize,
        _ => {
            return Err(failure("ValidationException", "Please specify either number of bytes or key spec."));
        }
    };
    let mut key = vec![0; len];
    rand::fill(&mut key).unwrap();
    let (blob, material) = seal(keys, &arn, &context(input, "EncryptionContext")?, &key)?;
    Ok(json!({
        "CiphertextBlob": blob, "Plaintext": STANDARD.encode(&key), "KeyId": arn, "KeyMaterialId": material,
    }))
}

fn encrypt(keys: &Keys, input: &Value) -> Answer {
    let arn = arn(keys, input, "KeyId")?;
    let plaintext = bytes(input, "Plaintext", 4096)?;
    let (blob, _) = seal(keys, &arn, &context(input, "EncryptionContext")?, &plaintext)?;
    Ok(json!({ "CiphertextBlob": blob, "KeyId": arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT" }))
}

fn decrypt(keys: &Keys, input: &Value) -> Answer {
    let blob = bytes(input, "CiphertextBlob", 6144)?;
    let named = (!input["KeyId"].is_null()).then(|| arn(keys, input, "KeyId")).transpose()?;
    let context = context(input, "EncryptionContext")?;
    let (plaintext, arn, material) = open(keys, named.as_deref(), &context, &blob)?;
    Ok(json!({
        "KeyId": arn, "Plaintext": STANDARD.encode(plaintext), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "KeyMaterialId": material,
    }))
}

fn re_encrypt(keys: &Keys, input: &Value) -> Answer {
    let blob = bytes(input, "CiphertextBlob", 6144)?;
    let target = arn(keys, input, "DestinationKeyId")?;
    let named = (!input["SourceKeyId"].is_null()).then(|| arn(keys, input, "SourceKeyId")).transpose()?;
    let source = context(input, "SourceEncryptionContext")?;
    let (plaintext, arn, from) = open(keys, named.as_deref(), &source, &blob)?;
    let (blob, to) = seal(keys, &target, &context(input, "DestinationEncryptionContext")?, &plaintext)?;
    Ok(json!({
        "CiphertextBlob": blob, "SourceKeyId": arn, "KeyId": target,
        "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT", "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "SourceKeyMaterialId": from, "DestinationKeyMaterialId": to,
    }))
}

fn describe(keys: &Keys, input: &Value) -> Answer {
    let arn = arn(keys, input, "KeyId")?;
    let key = &keys[&arn];
    let material = key.materials.last().unwrap().0.clone();
    Ok(json!({ "KeyMetadata": {
        "AWSAccountId": "000000000000", "Arn": arn, "KeyId": arn.rsplit('/').next(), "CreationDate": 1.7e9,
        "Enabled": key.state == "Enabled", "KeyState": key.state, "KeyUsage": "ENCRYPT_DECRYPT",
        "KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "Origin": "AWS_KMS",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "KeyManager": "CUSTOMER", "MultiRegion": false,
        "CurrentKeyMaterialId": material,
    }}))
}

fn administer(keys: &mut Keys, input: &Value, change: impl Fn(&mut Key)) -> Answer {
    let arn = arn(keys, input, "KeyId")?;
    change(keys.get_mut(&arn).unwrap());
    Ok(json!({ "KeyId": arn }))
}
