//! An issuer of tokens with a JWKS server of its own, which answers over TLS as it is told.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use relay::cli::token::LocalIssuer;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::vendor::{self, Vendor};

/// How the server answers `/jwks`.
#[derive(Clone)]
pub enum Says {
    /// 200 with this text and these fields.
    Text(String, Vec<(&'static str, &'static str)>),
    /// This status, and a Location to a good document.
    Status(u16),
    /// Nothing until [`Issuer::release`], then this document.
    Waits(String),
}

pub struct Issuer {
    pub server: Vendor,
    pub keys: LocalIssuer,
    /// How often `/jwks` was asked for.
    pub asked: Arc<AtomicUsize>,
    says: Arc<Mutex<Says>>,
    metadata: Arc<Mutex<Value>>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    folder: TempDir,
}

impl Issuer {
    /// Answers with its one key, named `kid`.
    pub fn new(kid: &str) -> Self {
        let keys = LocalIssuer::generate(kid).unwrap();
        let says = Arc::new(Mutex::new(Says::Text(keys.jwks.clone(), Vec::new())));
        let (asked, metadata) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Value::Null)));
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (told, count, known, held) = (says.clone(), asked.clone(), metadata.clone(), gate.clone());
        let good = keys.jwks.clone();
        let server = Vendor::start(move |request, out| {
            if request.target() == "/.well-known/openid-configuration" {
                let text = known.lock().unwrap().to_string();
                return vendor::answer(out, 200, &[("content-type", "application/json")], text.as_bytes());
            }
            if request.target() == "/elsewhere" {
                return vendor::answer(out, 200, &[], good.as_bytes());
            }
            count.fetch_add(1, Ordering::SeqCst);
            let answer = told.lock().unwrap().clone();
            match answer {
                Says::Text(text, fields) => vendor::answer(out, 200, &fields, text.as_bytes()),
                Says::Status(status) => {
                    vendor::answer(out, status, &[("location", "/elsewhere")], b"{}");
                }
                Says::Waits(text) => {
                    let (open, opened) = &*held;
                    let open = open.lock().unwrap();
                    let _open = opened.wait_timeout_while(open, Duration::from_secs(20), |open| !*open);
                    vendor::answer(out, 200, &[], text.as_bytes());
                }
            }
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &server.ca_pem).unwrap();
        Self { server, keys, asked, says, metadata, gate, folder }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.server.port)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// `[callers]` that read this issuer's `/jwks`.
    pub fn callers(&self, issuer: &str) -> String {
        self.section(issuer, &format!("jwks = \"{}\"", self.url("/jwks")))
    }

    /// `[callers]` with this line for where the keys are.
    pub fn section(&self, issuer: &str, keys: &str) -> String {
        format!(
            "{keys}\nca_file = \"{}\"\nissuer = \"{issuer}\"\naudience = \"relay\"\n\
             algorithms = [\"ES256\"]\ncustomer = \"customer_id\"\n",
            self.path("ca.pem").display()
        )
    }

    pub fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    pub fn publishes(&self, document: &str) {
        self.says(Says::Text(document.to_owned(), Vec::new()));
    }

    /// What its metadata says of itself.
    pub fn calls_itself(&self, issuer: &str, jwks_uri: &str) {
        *self.metadata.lock().unwrap() = json!({ "issuer": issuer, "jwks_uri": jwks_uri });
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Lets an answer that waits go.
    pub fn release(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

/// One document with the keys of several.
pub fn together(issuers: &[&LocalIssuer]) -> String {
    let keys = issuers.iter().flat_map(|issuer| {
        let document: Value = serde_json::from_str(&issuer.jwks).unwrap();
        document["keys"].as_array().unwrap().clone()
    });
    json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
}

/// A token by `keys` that says `claims`, with `kid` in its header.
pub fn signed(keys: &LocalIssuer, kid: &str, claims: &Value) -> String {
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = Some(kid.to_owned());
    let key = jsonwebtoken::EncodingKey::from_ec_pem(keys.key.expose()).unwrap();
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

/// Claims that are good for an hour; each call's differ, so no verdict is remembered.
pub fn claims(issuer: &str, customer: &str) -> Value {
    let jti = uuid::Uuid::new_v4().to_string();
    let exp = relay::clock::unix_seconds() + 3600;
    json!({ "iss": issuer, "aud": "relay", "customer_id": customer, "exp": exp, "jti": jti })
}
