//! Azure Key Vault and the token endpoint of Entra ID, as far as relay and its tests use them.
//!
//! One TLS listener is both: the vault as `relay.vault.localhost`, the tokens' place as `localhost`. Real
//! RSA-OAEP-256 with 3072-bit keys, versions that can be disabled, and the challenge that a vault begins
//! with. Errors are worded as Azure words them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use super::{Asked, Cloud, Fake, Told, Trouble};

pub const HOST: &str = "relay.vault.localhost";
/// One of the vault's keys; there is another beside it.
pub const KEY: &str = "relay";
pub const OTHER_KEY: &str = "other";
pub const TENANT: &str = "11111111-1111-1111-1111-111111111111";
pub const CLIENT: &str = "22222222-2222-2222-2222-222222222222";
pub const CLIENT_SECRET: &str = "the-fake-client-secret";
/// What a pod's projected token says; the fake compares it and checks no signature.
pub const FEDERATED: &str = "the-fake-projected-token";

const SIZE: KeySize = KeySize::Rsa3072;
const MODULUS: usize = 384;

/// The fake's own state, for tests that reach into it.
pub struct Vault {
    keys: Mutex<BTreeMap<String, Vec<Version>>>,
    tokens: Mutex<BTreeSet<String>>,
    /// Whom the challenge wants a token for.
    resource: Mutex<String>,
    /// Whether the answers name another version than the one that did the work.
    other_version: Mutex<bool>,
    redirect: Mutex<bool>,
}

struct Version {
    id: String,
    private: PrivateDecryptingKey,
    enabled: bool,
}

/// A fake with [`KEY`] and [`OTHER_KEY`], one version each, and the PEM of its authority.
pub fn start() -> (Fake, Arc<Vault>, String) {
    let keys = [KEY, OTHER_KEY].map(|name| (name.to_owned(), vec![Version::new()]));
    let vault = Arc::new(Vault {
        keys: Mutex::new(keys.into()),
        tokens: Mutex::default(),
        resource: Mutex::new("https://vault.localhost".to_owned()),
        other_version: Mutex::default(),
        redirect: Mutex::default(),
    });
    let (tls, ca_pem) = identity();
    (Fake::start(Arc::clone(&vault), Some(tls)), vault, ca_pem)
}

impl Vault {
    /// The challenge wants a token for this resource from now on.
    pub fn challenge_for(&self, resource: &str) {
        *self.resource.lock().unwrap() = resource.to_owned();
    }

    pub fn name_other_version(&self, other: bool) {
        *self.other_version.lock().unwrap() = other;
    }

    pub fn redirect(&self, redirect: bool) {
        *self.redirect.lock().unwrap() = redirect;
    }

    /// Disables or enables a version of [`KEY`], counted from 1.
    pub fn enable(&self, version: usize, enabled: bool) {
        self.keys.lock().unwrap().get_mut(KEY).unwrap()[version - 1].enabled = enabled;
    }

    /// Takes [`KEY`] away.
    pub fn delete(&self) {
        self.keys.lock().unwrap().remove(KEY);
    }
}

impl Version {
    fn new() -> Self {
        let mut id = [0; 16];
        rand::fill(&mut id).unwrap();
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id, private: PrivateDecryptingKey::generate(SIZE).unwrap(), enabled: true }
    }
}

type Refused = (u16, &'static str, String);

impl Cloud for Arc<Vault> {
    fn operation(&self, asked: &Asked) -> String {
        if asked.path.ends_with("/oauth2/v2.0/token") {
            return "token".to_owned();
        }
        // Without a token it is the question which token is wanted.
        if asked.header("authorization").is_empty() {
            return "challenge".to_owned();
        }
        match (&asked.method, asked.path.rsplit('/').next().unwrap()) {
            (&Method::GET, _) => "get".to_owned(),
            (&Method::PATCH, _) => "patch".to_owned(),
            (_, verb) => verb.to_owned(),
        }
    }

    fn answer(&self, asked: &Asked, trouble: Trouble) -> Told {
        if asked.path.ends_with("/oauth2/v2.0/token") {
            return self.token(asked, trouble);
        }
        if *self.redirect.lock().unwrap() {
            let headers = vec![("location", "https://localhost:1/elsewhere".to_owned())];
            return Told { status: 307, headers, body: Vec::new() };
        }
        let token = asked.header("authorization").strip_prefix("Bearer ").unwrap_or_default().to_owned();
        if !self.tokens.lock().unwrap().contains(&token) {
            return self.challenge(asked, !token.is_empty());
        }
        let refused = match trouble {
            Trouble::Throttled => Some((429, "Throttled", "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached".to_owned())),
            Trouble::Broken => Some((500, "InternalServerError", "An internal error occurred.".to_owned())),
            Trouble::Denied => Some((403, "Forbidden", "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role definitions were changed recently, please observe propagation time.".to_owned())),
            Trouble::Disabled => Some((403, "Forbidden", "Operation unwrapKey is not allowed on a disabled key.".to_owned())),
            _ => None,
        };
        let answer = match refused {
            Some(refused) => Err(refused),
            None => self.decide(asked),
        };
        match answer {
            Ok(body) => told(200, &body),
            Err((status, code, message)) => {
                let mut error = json!({ "error": { "code": code, "message": message } });
                if message.contains("disabled key") {
                    error["error"]["innererror"] = json!({ "code": "KeyDisabled" });
                }
                told(status, &error)
            }
        }
    }
}

fn told(status: u16, body: &Value) -> Told {
    let headers = vec![("content-type", "application/json; charset=utf-8".to_owned())];
    Told { status, headers, body: body.to_string().into_bytes() }
}

impl Vault {
    fn challenge(&self, asked: &Asked, wrong: bool) -> Told {
        let resource = self.resource.lock().unwrap().clone();
        let port = asked.header("host").rsplit(':').next().unwrap_or("443").to_owned();
        let error = if wrong { "error=\"invalid_token\", " } else { "" };
        let challenge = format!(
            "Bearer {error}authorization=\"https://localhost:{port}/{TENANT}\", resource=\"{resource}\""
        );
        let body = json!({ "error": { "code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token." } });
        let mut answer = told(401, &body);
        answer.headers.push(("www-authenticate", challenge));
        answer
    }

    fn token(&self, asked: &Asked, trouble: Trouble) -> Told {
        let form: BTreeMap<String, String> = url::form_urlencoded::parse(&asked.body).into_owned().collect();
        let has = |name: &str, value: &str| form.get(name).is_some_and(|given| given == value);
        let proven = has("client_secret", CLIENT_SECRET)
            || (has("client_assertion", FEDERATED)
                && has("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"));
        let scope = format!("{}/.default", self.resource.lock().unwrap());
        let mine = asked.path == format!("/{TENANT}/oauth2/v2.0/token");
        if trouble == Trouble::Broken {
            return told(
                503,
                &json!({ "error": "temporarily_unavailable", "error_description": "AADSTS90033: A transient error has occurred. Please try again.", "error_codes": [90033] }),
            );
        }
        if !(mine && proven && has("client_id", CLIENT) && has("grant_type", "client_credentials")) {
            return told(
                401,
                &json!({ "error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided.", "error_codes": [7_000_215] }),
            );
        }
        if !has("scope", &scope) {
            return told(
                400,
                &json!({ "error": "invalid_scope", "error_description": "AADSTS70011: The provided request must include a 'scope' input parameter.", "error_codes": [70011] }),
            );
        }
        let mut token = [0; 24];
        rand::fill(&mut token).unwrap();
        let token = URL_SAFE_NO_PAD.encode(token);
        self.tokens.lock().unwrap().insert(token.clone());
        told(
            200,
            &json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": token }),
        )
    }

    /// `/keys/NAME`, `/keys/NAME/VERSION`, `/keys/NAME/VERSION/VERB` (the version may be empty), `/keys/NAME/VERB`
    fn decide(&self, asked: &Asked) -> Result<Value, Refused> {
        let bad = |message: &str| (400, "BadParameter", message.to_owned());
        if !asked.query.contains("api-version=") {
            return Err(bad("Api version must be specified."));
        }
        let parts: Vec<&str> = asked.path.strip_prefix("/keys/").unwrap_or_default().split('/').collect();
        let name = parts[0];
        let host = asked.header("host");
        let body: Value = match asked.body.len() {
            0 => json!({}),
            _ => serde_json::from_slice(&asked.body).map_err(|_| bad("The request body is no JSON."))?,
        };
        // A key of 3072 bits takes its time, which nobody else should wait for.
        let made = matches!(parts[1..], ["rotate" | "create"]).then(Version::new);
        let mut keys = self.keys.lock().unwrap();
        let Some(versions) = keys.get_mut(name) else {
            let message = format!("A key with (name/id) {name} was not found in this key vault.");
            return Err((404, "KeyNotFound", message));
        };
        match (&asked.method, &parts[1..]) {
            (&Method::POST, ["rotate" | "create"]) => {
                versions.extend(made);
                Ok(shown(host, name, versions.last().unwrap()))
            }
            (&Method::GET, [] | [_]) => {
                let version = chosen(versions, parts.get(1).copied().unwrap_or_default(), name)?;
                Ok(shown(host, name, version))
            }
            (&Method::PATCH, [version]) => {
                let id = chosen(versions, version, name)?.id.clone();
                let version = versions.iter_mut().find(|other| other.id == id).unwrap();
                if let Some(enabled) = body["attributes"]["enabled"].as_bool() {
                    version.enabled = enabled;
                }
                Ok(shown(host, name, version))
            }
            (&Method::POST, [version, verb @ ("wrapkey" | "unwrapkey")]) => {
                let version = chosen(versions, version, name)?;
                let value = operate(version, verb, &body)?;
                let other = *self.other_version.lock().unwrap();
                let id = if other { "0".repeat(32) } else { version.id.clone() };
                Ok(json!({ "kid": format!("https://{host}/keys/{name}/{id}"), "value": value }))
            }
            _ => Err(bad("Method POST does not allow operation.")),
        }
    }
}

fn chosen<'v>(versions: &'v [Version], id: &str, name: &str) -> Result<&'v Version, Refused> {
    let found = if id.is_empty() { versions.last() } else { versions.iter().find(|other| other.id == id) };
    found.ok_or_else(|| {
        let message = format!("A key with (name/id) {name}/{id} was not found in this key vault.");
        (404, "KeyNotFound", message)
    })
}

fn operate(version: &Version, verb: &str, body: &Value) -> Result<String, Refused> {
    let bad = |message: &str| (400, "BadParameter", message.to_owned());
    if !version.enabled {
        let word = if verb == "wrapkey" { "wrapKey" } else { "unwrapKey" };
        return Err((403, "Forbidden", format!("Operation {word} is not allowed on a disabled key.")));
    }
    if body["alg"] != "RSA-OAEP-256" {
        return Err(bad("Property has invalid value: alg"));
    }
    let value = URL_SAFE_NO_PAD
        .decode(body["value"].as_str().unwrap_or_default())
        .map_err(|_| bad("Property has invalid value: value"))?;
    let mut out = vec![0; MODULUS];
    let private = version.private.clone();
    let written = if verb == "wrapkey" {
        OaepPublicEncryptingKey::new(private.public_key())
            .and_then(|key| key.encrypt(&OAEP_SHA256_MGF1SHA256, &value, &mut out, None).map(|out| out.len()))
    } else {
        OaepPrivateDecryptingKey::new(private)
            .and_then(|key| key.decrypt(&OAEP_SHA256_MGF1SHA256, &value, &mut out, None).map(|out| out.len()))
    };
    out.truncate(written.map_err(|_| bad("The parameter is incorrect."))?);
    Ok(URL_SAFE_NO_PAD.encode(out))
}

fn shown(host: &str, name: &str, version: &Version) -> Value {
    let public = version.private.public_key();
    let der: PublicKeyX509Der<'_> = public.as_der().unwrap();
    let der = der.as_ref();
    // SubjectPublicKeyInfo ends with the modulus and the exponent 65537, which is five bytes.
    let modulus = &der[der.len() - 5 - MODULUS..der.len() - 5];
    json!({
        "key": {
            "kid": format!("https://{host}/keys/{name}/{}", version.id),
            "kty": "RSA",
            "key_ops": ["wrapKey", "unwrapKey"],
            "n": URL_SAFE_NO_PAD.encode(modulus),
            "e": "AQAB",
        },
        "attributes": { "enabled": version.enabled, "created": 1_767_225_600, "updated": 1_767_225_600, "recoveryLevel": "Recoverable" },
    })
}

fn identity() -> (Arc<ServerConfig>, String) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // Python's TLS takes a certificate whose issuer has its own name for self-signed, and wants the
    // extensions that RFC 5280 asks of an authority.
    ca.distinguished_name.push(rcgen::DnType::CommonName, "the authority of the fake vault");
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec![HOST.to_owned(), "localhost".to_owned()];
    let mut leaf = rcgen::CertificateParams::new(names).unwrap();
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    (Arc::new(config), ca_pem)
}
