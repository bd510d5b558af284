//! The rig: a real relay on port 0, a real TLS vendor, a fresh canary credential, and the hunt for it.
//!
//! Every test and drill that drives relay goes through here. When a [`Rig`] is dropped, everything that
//! relay showed to anyone but the vendor is searched for the canary: logs at TRACE, audit, metrics, admin
//! answers, store files, and every byte that a client got.
#![allow(dead_code, clippy::disallowed_methods)]

pub mod canary;
pub mod certificates;
pub mod client;
pub mod clouds;
pub mod issuer;
pub mod kms;
pub mod logs;
pub mod oauth;
pub mod packing;
#[cfg(feature = "postgres")]
pub mod pair;
pub mod port;
pub mod postgres;
pub mod spellings;
pub mod vendor;
pub mod vendor_http2;
pub mod way;
pub mod websocket;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay::app::{Options, Running, start_with};
use relay::audit::Durability;
use relay::cli::token::{LocalIssuer, Order, Signer, mint};
use relay::config::{self, Config, Files};
use relay::model::{Customer, SecretId};
use relay::secret::Secret;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use canary::Canary;
use client::{Answer, Client};
use vendor::{Received, Vendor};

pub const ISSUER: &str = "https://auth.saas.example";
pub const AUDIENCE: &str = "relay";
pub const ADMIN_TOKEN: &str = "rig-admin-token-0123456789abcdef0123456789";

/// A running relay with everything round it.
pub struct Rig {
    pub folder: TempDir,
    pub canary: Canary,
    pub vendor: Vendor,
    pub issuer: LocalIssuer,
    /// Everything that clients and operators were shown.
    pub shown: Arc<Mutex<Vec<u8>>>,
    relay: Option<Running>,
    runtime: Option<Runtime>,
    settings: Settings,
    hunted: bool,
}

/// What a test may want different.
pub struct Settings {
    /// Lines for `[integrations.vendor]`, beside upstream, ca_file and private_cidrs.
    pub integration: String,
    /// Further sections.
    pub more: String,
    /// Lines for `[server]`.
    pub server: String,
    /// Where it listens.
    pub listen: String,
    /// Threads that carry requests; with one, every request meets the same pool.
    pub workers: usize,
    pub callers: String,
    /// Lines for `[keys]`, beside provider and file.
    pub keys: String,
    /// The lines of `[store]`, if it is not sled in the rig's folder.
    pub store: String,
    pub audit: PathBuf,
    /// Lines for `[audit]`, beside path and durability.
    pub audit_more: String,
    pub durability: Durability,
    pub upstream: Option<String>,
    pub trust_vendor: bool,
    pub options: Box<dyn Fn() -> Options>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            integration: "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]".to_owned(),
            more: String::new(),
            server: String::new(),
            listen: "127.0.0.1:0".to_owned(),
            workers: 2,
            callers: String::new(),
            keys: String::new(),
            store: String::new(),
            audit: PathBuf::new(),
            audit_more: String::new(),
            durability: Durability::Written,
            upstream: None,
            trust_vendor: true,
            options: Box::new(Options::default),
        }
    }
}

impl Settings {
    /// `[callers]`, or the whole of `[[callers]]` if that is what is set.
    fn callers_section(&self) -> String {
        match self.callers.as_str() {
            "" => format!("[callers]\n{}", callers()),
            several if several.starts_with("[[callers]]") => several.to_owned(),
            one => format!("[callers]\n{one}"),
        }
    }
}

impl Rig {
    /// A relay before a vendor that answers 200 `ok` to everything.
    pub fn plain() -> Self {
        Self::answering(|request, out| vendor::answer_to(request, out, b"ok"))
    }

    /// A relay before a vendor that answers as `script` writes.
    pub fn answering(script: impl Fn(&Received, &mut vendor::Out<'_>) + Send + Sync + 'static) -> Self {
        Self::with(Settings::default(), script)
    }

    pub fn with(
        settings: Settings,
        script: impl Fn(&Received, &mut vendor::Out<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self::before(settings, Vendor::start(script))
    }

    pub fn before(settings: Settings, vendor: Vendor) -> Self {
        logs::capture();
        let folder = tempfile::Builder::new().prefix("relay-rig").tempdir().unwrap();
        let issuer = LocalIssuer::generate("rig").unwrap();
        std::fs::write(folder.path().join("jwks.json"), &issuer.jwks).unwrap();
        std::fs::write(folder.path().join("ca.pem"), &vendor.ca_pem).unwrap();
        write_private(&folder.path().join("admin.token"), ADMIN_TOKEN);
        relay::kms::local::Local::create(&folder.path().join("relay.key")).map(|_| ()).unwrap();
        let mut rig = Self {
            folder,
            canary: Canary::fresh(),
            vendor,
            issuer,
            shown: Arc::default(),
            relay: None,
            runtime: None,
            settings,
            hunted: false,
        };
        rig.start();
        rig
    }

    /// The relay.toml that this rig runs.
    pub fn toml(&self) -> String {
        let s = &self.settings;
        let audit = if s.audit.as_os_str().is_empty() { Path::new("audit.jsonl") } else { &s.audit };
        let durability = if s.durability == Durability::Synced { "synced" } else { "written" };
        let upstream =
            s.upstream.clone().unwrap_or_else(|| format!("https://localhost:{}/base", self.vendor.port));
        let ca = if s.trust_vendor { "ca_file = \"ca.pem\"\n" } else { "" };
        format!(
            "[server]\nlisten = \"{}\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = {}\ngrace = \"2s\"\n{}\n\
             {}\n[keys]\nprovider = \"local\"\nfile = \"relay.key\"\n{}\n\
             [store]\n{}\n\n\
             [audit]\npath = \"{}\"\ndurability = \"{durability}\"\n{}\n[admin]\ntoken = \"file:admin.token\"\n\n\
             [integrations.vendor]\nupstream = \"{upstream}\"\nprivate_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\n{ca}{}\n\n{}\n",
            s.listen,
            s.workers,
            s.server,
            s.callers_section(),
            s.keys,
            if s.store.is_empty() { "engine = \"sled\"\npath = \"relay.db\"" } else { &s.store },
            audit.display(),
            s.audit_more,
            s.integration,
            s.more.replace("{PORT}", &self.vendor.port.to_string()),
        )
    }

    pub fn config(&self) -> Config {
        match config::parse(&self.toml(), "relay.toml", self.folder.path(), &[], Files::Required) {
            Ok(config) => config,
            Err(report) => panic!("the rig's own relay.toml: {}", report.render(false)),
        }
    }

    /// Starts (again) over the same folder.
    pub fn start(&mut self) {
        let (config, options) = (self.config(), (self.settings.options)());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let relay = runtime.block_on(start_with(config, options, runtime.handle().clone()));
        self.relay = Some(relay.unwrap_or_else(|error| panic!("relay does not start: {error}")));
        self.runtime = Some(runtime);
    }

    /// Starts again over the same folder, differently configured.
    pub fn restart_with(&mut self, change: impl FnOnce(&mut Settings)) {
        self.stop();
        change(&mut self.settings);
        self.start();
    }

    /// Stops in an orderly way.
    pub fn stop(&mut self) {
        if let (Some(relay), Some(runtime)) = (self.relay.take(), self.runtime.take()) {
            self.shown.lock().unwrap().extend_from_slice(relay.metrics().render().as_bytes());
            runtime.block_on(relay.stop());
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }

    /// What a restart reads anew.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    pub fn running(&self) -> &Running {
        self.relay.as_ref().expect("the relay runs")
    }

    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the relay runs")
    }

    pub fn app(&self) -> SocketAddr {
        self.running().app.address().unwrap()
    }

    /// A client whose bytes are hunted.
    pub fn client(&self) -> Client {
        Client::connect(self.app(), self.shown.clone())
    }

    /// Adds the canary as `customer`'s secret of the integration `vendor`.
    pub fn secret(&self, customer: &str) -> String {
        let canary = self.canary.text().to_owned();
        self.secret_with(customer, "vendor", &[("token", &canary)])
    }

    pub fn secret_with(&self, customer: &str, integration: &str, fields: &[(&str, &str)]) -> String {
        let fields: BTreeMap<&str, &str> = fields.iter().copied().collect();
        let body = serde_json::json!({ "customer": customer, "integration": integration, "fields": fields });
        let answer = self.admin("POST", "/v1/secrets", Some(&body.to_string()));
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// One call to the admin API.
    pub fn admin(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let mut client = Client::connect(self.running().admin, self.shown.clone());
        let body = body.unwrap_or_default();
        client.send(&format!(
            "{method} {path} HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {ADMIN_TOKEN}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.answer(method)
    }

    /// A token for `customer` that lives an hour.
    pub fn token(&self, customer: &str) -> String {
        self.token_with(customer, None, None)
    }

    pub fn token_with(&self, customer: &str, secret: Option<&str>, scope: Option<&str>) -> String {
        let signer = Signer {
            key: &self.issuer.key,
            kid: Some(&self.issuer.kid),
            issuer: ISSUER,
            audience: AUDIENCE,
            customer_claim: "customer_id",
            secret_claim: "secret",
        };
        let customer = Customer::parse(customer).unwrap();
        let secret = secret.map(|id| SecretId::parse(id).unwrap());
        let order = Order { customer: &customer, secret, scope, ttl: Duration::from_secs(3600) };
        mint(&signer, &order, relay::clock::unix_seconds()).unwrap()
    }

    /// `GET` through relay with the token in Authorization.
    pub fn get(&self, path: &str, token: &str) -> Answer {
        self.client().request("GET", path, &[("authorization", &format!("Bearer {token}"))], b"")
    }

    /// The audit's records so far, parsed.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.audit_path()).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until the audit holds what `wanted` looks for.
    pub fn audit_until(&self, wanted: impl Fn(&[serde_json::Value]) -> bool) -> Vec<serde_json::Value> {
        for _ in 0..500 {
            let records = self.audit();
            if wanted(&records) {
                return records;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the audit never held what was waited for: {:#?}", self.audit());
    }

    pub fn audit_path(&self) -> PathBuf {
        if self.settings.audit.as_os_str().is_empty() {
            self.folder.path().join("audit.jsonl")
        } else {
            self.settings.audit.clone()
        }
    }

    /// Everywhere that the canary was found, after stopping; empty is good.
    pub fn hunt(&mut self) -> Vec<String> {
        self.hunted = true;
        let before = self.running().metrics().render();
        self.shown.lock().unwrap().extend_from_slice(before.as_bytes());
        self.stop();
        let mut found =
            self.canary.hunt("what clients and operators were shown", &self.shown.lock().unwrap());
        found.extend(self.canary.hunt("the logs", &logs::captured()));
        for file in files(self.folder.path()) {
            found.extend(
                self.canary.hunt(&file.display().to_string(), &std::fs::read(&file).unwrap_or_default()),
            );
        }
        found
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.hunted || std::thread::panicking() || self.relay.is_none() {
            return;
        }
        let found = self.hunt();
        assert!(found.is_empty(), "the canary credential was found: {found:#?}");
    }
}

pub fn callers() -> String {
    format!(
        "jwks = \"file:jwks.json\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\nalgorithms = [\"ES256\"]\ncustomer = \"customer_id\"\n"
    )
}

pub fn write_private(path: &Path, text: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

/// A value that relay may own.
pub fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}
