//! relay.toml: what was written becomes what is usable, or every error at once.
//!
//! `written` reads what people typed, `usable` makes of it a [`Config`], which is what the other rooms
//! take, and a [`Report`] says all that is wrong with it. Nothing below this room sees TOML or the
//! environment. What must never enter: a secret written literally, a setting that is ignored, a default
//! that weakens.

pub mod audit;
mod callers;
mod defaults;
mod document;
pub mod effective;
mod entry;
mod environment;
mod fetched;
mod keys;
mod kms;
mod listen;
pub mod pattern;
pub mod placement;
pub mod renewal;
mod report;
pub mod rule;
pub mod signing;
mod store;
mod suggest;
pub mod template;
mod told;
pub mod traces;
pub mod upstream;
mod usable;
mod written;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::{FieldSpec, IntegrationName, Origin};
use crate::secret::Secret;

pub use audit::Audit;
pub use callers::{Algorithm, CallerKeys, Callers, Claim, JwksAddress, JwksToken};
pub use effective::Setting;
pub use keys::known as known_keys;
pub use kms::{AzureLogin, Keys, KmsKey, TransitLogin};
pub use listen::{Listen, ServerTls};
pub use placement::{Placement, Where};
pub use report::{Finding, Report, Severity};
pub use store::{PostgresChoice, StoreChoice, store_file};
pub use suggest::nearest;
pub use told::Told;

use pattern::Pattern;
use report::{Findings, Place};
use rule::Rule;
use signing::{ClientCertificate, Signing};
use upstream::UpstreamTemplate;
use written::Written;

/// Whether what the text points to must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// relay is about to run: a missing file or variable is an error.
    Required,
    /// Only the text is judged: a missing file or variable is a warning.
    Optional,
}

/// A configuration that may be used, and what is worth a look in it.
pub struct Loaded {
    /// What was told.
    pub config: Config,
    /// Warnings only.
    pub warnings: Report,
}

/// Reads and judges the file at `path`, with everything it points to. `environment` is the process's.
pub fn load(path: &Path, environment: &[(String, String)]) -> Result<Loaded, Report> {
    let (config, report) = examine_file(path, environment, Files::Required);
    match config {
        Some(config) => Ok(Loaded { config, warnings: report }),
        None => Err(report),
    }
}

/// Judges `text`, which people know as `name`; relative paths in it start at `folder`.
pub fn parse(
    text: &str,
    name: &str,
    folder: &Path,
    environment: &[(String, String)],
    files: Files,
) -> Result<Config, Report> {
    let (config, report) = examine(text, name, folder, environment, files);
    config.ok_or(report)
}

/// As [`examine`], for the file at `path`; one that is missing, empty, unreadable or no text is an error.
pub fn examine_file(path: &Path, environment: &[(String, String)], files: Files) -> (Option<Config>, Report) {
    let name = path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new("."));
    match read(path) {
        Ok(text) => examine(&text, &name, folder, environment, files),
        Err(wrong) => (None, unread(&name, wrong)),
    }
}

/// Judges `text` and reports everything found, warnings too. There is no configuration if there is an
/// error, nor, under [`Files::Optional`], if a value that is no secret could not be had. A secret that
/// could not be had is then random bytes that nobody knows.
pub fn examine(
    text: &str,
    name: &str,
    folder: &Path,
    environment: &[(String, String)],
    files: Files,
) -> (Option<Config>, Report) {
    let (config, report, _) = judge(text, name, folder, environment, files, false);
    (config, report)
}

/// As [`examine_file`], but for what holds in the end instead of the configuration: nothing if there is an
/// error.
pub fn effective_file(path: &Path, environment: &[(String, String)]) -> (Vec<Setting>, Report) {
    let name = path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new("."));
    match read(path) {
        Ok(text) => effective(&text, &name, folder, environment),
        Err(wrong) => (Vec::new(), unread(&name, wrong)),
    }
}

/// As [`effective_file`], for `text`.
pub fn effective(
    text: &str,
    name: &str,
    folder: &Path,
    environment: &[(String, String)],
) -> (Vec<Setting>, Report) {
    let (_, report, settings) = judge(text, name, folder, environment, Files::Optional, true);
    (settings, report)
}

fn unread(name: &str, (message, fix): (String, &'static str)) -> Report {
    let mut findings = Findings::default();
    findings.error(&Place::File, message, fix);
    findings.report(name, "")
}

fn judge(
    text: &str,
    name: &str,
    folder: &Path,
    environment: &[(String, String)],
    files: Files,
    effective: bool,
) -> (Option<Config>, Report, Vec<Setting>) {
    let mut findings = Findings::on(text);
    let (mut document, torn) = document::parse(text, &mut findings);
    let names = document.get_ref().get("integrations").and_then(|table| table.get_ref().as_table());
    let names: Vec<&str> = names.into_iter().flatten().map(|(name, _)| name.get_ref().as_ref()).collect();
    let mut overrides = environment::Overrides::collect(environment, &names, &mut findings);
    let unsettled = entry::settle(document.get_mut(), &mut overrides, &mut findings);
    let settings = effective::settings(document.get_ref(), &overrides, &findings, name, text);
    let mut written =
        Written { findings, overrides, torn, unsettled, incomplete: false, folder, files, environment };
    let mut config = usable::config(&mut written, document.get_ref());
    if let Some(config) = &mut config {
        config.told = Told::of(text, &settings, folder);
    }
    let shown = effective && !written.findings.has_errors();
    let settings = if shown { settings } else { Vec::new() };
    (config, written.findings.report(name, text), settings)
}

fn read(path: &Path) -> Result<String, (String, &'static str)> {
    let begin = "give its place with --config, or write one with `relay init`";
    let unreadable = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => ("there is no such file".to_owned(), begin),
        std::io::ErrorKind::PermissionDenied => {
            ("this user is not allowed to read it".to_owned(), "run as its owner, or change its mode")
        }
        _ => (format!("it cannot be read: {error}"), begin),
    };
    let file = std::fs::File::open(path).map_err(|e| unreadable(&e))?;
    if file.metadata().map_err(|e| unreadable(&e))?.is_dir() {
        return Err(("it is a folder".to_owned(), "name the file in it"));
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(document::LARGEST).unwrap_or(u64::MAX);
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
    if bytes.len() > document::LARGEST {
        return Err((format!("it is larger than {most} bytes"), "name relay's own configuration"));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| ("it is not UTF-8 text".to_owned(), "save it as UTF-8"))?;
    if text.trim().is_empty() {
        return Err(("it is empty".to_owned(), "write one with `relay init`"));
    }
    Ok(text)
}

/// Everything relay was told, checked.
pub struct Config {
    /// Listeners and limits.
    pub server: Server,
    /// Who may call: one per issuer and audience, at least one.
    pub callers: Vec<Callers>,
    /// What wraps data keys.
    pub keys: Keys,
    /// Where sealed records stand.
    pub store: StoreChoice,
    /// How long a version of a secret is kept once another took its place (`[store] retain`).
    pub retain: Duration,
    /// Where the audit goes.
    pub audit: Audit,
    /// Where traces go, if requests are traced.
    pub traces: Option<traces::Traces>,
    /// The operators' access.
    pub admin: Admin,
    /// The third-party APIs, in the order of the file.
    pub integrations: Vec<Integration>,
    /// What was told, to be compared with a later reading.
    pub told: Told,
}

/// `[server]`
pub struct Server {
    /// Where the app talks to relay.
    pub listen: Listen,
    /// The certificate of the listeners that speak TLS.
    pub tls: Option<ServerTls>,
    /// Where operators do. Loopback unless changed.
    pub admin_listen: SocketAddr,
    /// How the app addresses relay, if not by the request's own authority: `https://relay.internal`.
    pub public_url: Option<String>,
    /// Worker threads, one runtime each; the machine's cores unless set.
    pub workers: usize,
    /// How long requests under way may go on once the listeners have closed.
    pub grace: Duration,
    /// How long the listeners stay open after SIGTERM, with readiness already gone.
    pub drain_delay: Duration,
    /// The named limits.
    pub limits: Limits,
}

/// `[server.limits]`
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request head: 32 KiB.
    pub head_bytes: usize,
    /// Fields of a request head: 100.
    pub head_fields: usize,
    /// From a connection's first wait to a whole head: 10 s.
    pub head_timeout: Duration,
    /// Open connections from apps: 10,000.
    pub connections: usize,
    /// Requests under way per customer: 1,000.
    pub in_flight_per_customer: usize,
    /// Bytes of sealed records held in memory: 64 MiB.
    pub record_cache_bytes: u64,
    /// Data keys held unwrapped: 10,000.
    pub data_keys: u64,
    /// Idle connections kept per worker and origin: 64.
    pub idle_per_origin: usize,
    /// How long an idle connection to a vendor is kept: 60 s.
    pub idle_timeout: Duration,
}

/// `[admin]`
pub struct Admin {
    /// The bearer token, at least 32 bytes.
    pub token: Secret,
}

/// `[integrations.NAME]`
pub struct Integration {
    /// Its name.
    pub name: IntegrationName,
    /// Where the vendor is; [`Integration::nowhere`] where that is each customer's own.
    pub origin: Origin,
    /// The path below which everything stays: empty, or `/api` without a slash at its end.
    pub base_path: String,
    /// Where the vendor is for each customer, if `upstream` has fields in it.
    pub per_customer: Option<UpstreamTemplate>,
    /// A listener of its own.
    pub listen: Option<Listen>,
    /// A host name of its own on the common listener, in lower case and without a port.
    pub host: Option<String>,
    /// Whether HTTP/2 is offered to the vendor beside HTTP/1.1.
    pub http2: bool,
    /// The fields that a secret of it has.
    pub fields: Vec<FieldSetting>,
    /// Where they are put.
    pub inject: Vec<Placement>,
    /// What signs its requests.
    pub sign: Option<Signing>,
    /// What relay shows the vendor in the TLS handshake.
    pub client_certificate: Option<ClientCertificate>,
    /// What is allowed; empty means anything below the base path.
    pub allow: Vec<Rule>,
    /// What is not, whatever `allow` says.
    pub deny: Vec<Rule>,
    /// Trust roots instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// Trust roots given directly, PEM (`relay dev`, tests).
    pub ca_pem: Option<String>,
    /// The only private addresses it may be at.
    pub private_cidrs: Vec<IpNet>,
    /// Whether an `http://` upstream is accepted.
    pub plaintext_danger: bool,
    /// How long each step may take.
    pub timeout: Timeouts,
    /// Whether `Set-Cookie` passes to the app.
    pub cookies: bool,
    /// Whether `Range` passes to the vendor and partial answers to the app.
    pub ranges: bool,
    /// Whether a request may become a WebSocket.
    pub websocket: bool,
    /// Whether connections are never shared between customers.
    pub isolate_customers: bool,
    /// Whether URLs of the vendor's in JSON answers are rewritten to relay's (`rewrite = ["json"]`).
    pub rewrite_json: bool,
    /// What happens when the credential is found in an answer.
    pub on_reflect: OnReflect,
    /// Whether a request that names no secret is given the customer's only one (`default_secret = "only"`).
    pub default_secret: bool,
    /// The most bytes of a request's body that are collected, where a placement or a signature needs it: 1 MiB.
    pub body_limit: usize,
    /// Requests per customer and second; `None` is unlimited.
    pub rate: Option<u32>,
    /// Requests of a customer at once where it was at rest; as many as `rate` unless set.
    pub burst: Option<u32>,
    /// Requests of a customer under way; half of `in_flight_per_customer` unless set.
    pub concurrency: Option<usize>,
    /// How its access tokens are had, if it has any.
    pub renewal: Option<Arc<renewal::Renewal>>,
    /// How a credential is tried before it is sealed.
    pub verify: Option<renewal::Verify>,
}

impl Integration {
    /// A place that there is not (RFC 6761 section 6.4): no secret is ever sealed for it.
    pub fn nowhere() -> Option<Origin> {
        Origin::new(true, "each-customers-own.invalid", 443).ok()
    }
}

/// One field of an integration's secrets.
#[derive(Debug, Clone)]
pub struct FieldSetting {
    /// Its name, and whether it is secret.
    pub spec: FieldSpec,
    /// What to call it when asking a person.
    pub label: String,
    /// Where a person finds it: an `https://` address.
    pub help: Option<String>,
    /// What it looks like; never a whole one of a secret.
    pub example: Option<String>,
    /// Whether values under 8 bytes are taken, unscrubbed (`scrub = "off_danger"`).
    pub scrub_off_danger: bool,
    /// Whether a secret may be without it (`optional = true`); what it is used for is then left out.
    pub optional: bool,
    /// Whether it is PEM text that stands in no request, so that it may have line breaks.
    pub pem: bool,
    /// What a value must be, as a whole.
    pub pattern: Option<Pattern>,
}

impl FieldSetting {
    /// How to ask a person for it: `Bot token, such as xoxb-...; see https://...`
    pub fn asked(&self) -> String {
        let example = self.example.as_ref().map(|example| format!(", such as {example}"));
        let help = self.help.as_ref().map(|help| format!("; see {help}"));
        format!("{}{}{}", self.label, example.unwrap_or_default(), help.unwrap_or_default())
    }
}

/// `timeout = { connect, first_byte, idle }`
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Resolve, dial and TLS: 3 s.
    pub connect: Duration,
    /// From the request sent to the head of the answer: 30 s.
    pub first_byte: Duration,
    /// Between two pieces of a body, either way: 5 min.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(300),
        }
    }
}

/// `on_reflect`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReflect {
    /// Overwrite it, same length.
    Redact,
    /// Cut the answer visibly.
    Block,
    /// Overwrite it and log a warning.
    Alert,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 32 * 1024,
            head_fields: 100,
            head_timeout: Duration::from_secs(10),
            connections: 10_000,
            in_flight_per_customer: 1_000,
            record_cache_bytes: 64 * 1024 * 1024,
            data_keys: 10_000,
            idle_per_origin: 64,
            idle_timeout: Duration::from_secs(60),
        }
    }
}
