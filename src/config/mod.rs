//! relay.toml: what was written becomes what is usable, or every error at once.
//!
//! `written` is what people type (serde, unknown keys refused); [`Config`] is what the other rooms take.
//! Nothing below this room sees TOML or the environment. What must never enter: a secret written
//! literally, a setting that is ignored, a default that weakens.

pub mod rule;
pub mod template;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use crate::audit::Durability;
use crate::model::{FieldSpec, IntegrationName, Origin};
use crate::secret::Secret;

use rule::Rule;
use template::Template;

/// Everything relay was told, checked.
pub struct Config {
    /// Listeners and limits.
    pub server: Server,
    /// Who may call.
    pub callers: Callers,
    /// What wraps data keys.
    pub keys: Keys,
    /// Where sealed records stand.
    pub store: StoreChoice,
    /// Where the audit goes.
    pub audit: Audit,
    /// The operators' access.
    pub admin: Admin,
    /// The third-party APIs, in the order of the file.
    pub integrations: Vec<Integration>,
}

/// `[server]`
pub struct Server {
    /// Where the app talks to relay.
    pub listen: SocketAddr,
    /// Where operators do. Loopback unless changed.
    pub admin_listen: SocketAddr,
    /// How the app addresses relay, if not by the request's own authority: `https://relay.internal`.
    pub public_url: Option<String>,
    /// Worker threads, one runtime each; the machine's cores unless set.
    pub workers: usize,
    /// How long requests under way may go on after SIGTERM.
    pub grace: Duration,
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

/// `[callers]`
pub struct Callers {
    /// The issuer's keys: a JWKS document, or the one HS256 key.
    pub keys: CallerKeys,
    /// The required `iss`.
    pub issuer: String,
    /// The required `aud`.
    pub audience: String,
    /// The algorithms that a token may be signed with; the token has no say.
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the customer.
    pub customer: String,
    /// The claim that may name the secret.
    pub secret: String,
    /// The longest `exp - iat` (or `exp - now` without `iat`) accepted: 24 h.
    pub max_lifetime: Duration,
    /// Clock difference forgiven on `exp` and `nbf`: 30 s.
    pub leeway: Duration,
}

/// Where callers' keys come from.
pub enum CallerKeys {
    /// A JWKS file (RFC 7517), read at start.
    JwksFile(PathBuf),
    /// A JWKS document given directly (`relay dev`, tests).
    Jwks(String),
    /// One HS256 key of at least 32 bytes.
    Hs256(Secret),
}

/// A signature algorithm of RFC 7518 or RFC 8037 that relay accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA P-256.
    Es256,
    /// RSA PKCS#1 v1.5.
    Rs256,
    /// Ed25519.
    EdDsa,
    /// HMAC-SHA-256; only alone.
    Hs256,
}

/// `[keys]`
pub enum Keys {
    /// A local key file, 0600.
    Local {
        /// The file.
        file: PathBuf,
    },
    /// A random key that is gone on exit (`relay dev`, tests).
    Ephemeral,
}

/// `[store]`
pub enum StoreChoice {
    /// sled in this folder.
    Sled {
        /// The folder.
        path: PathBuf,
    },
    /// In memory, gone on exit (`relay dev`, tests).
    Memory,
}

/// `[audit]`
pub struct Audit {
    /// The file; `None` keeps it in memory (`relay dev`).
    pub path: Option<PathBuf>,
    /// When a record counts as written.
    pub durability: Durability,
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
    /// Where the vendor is.
    pub origin: Origin,
    /// The path below which everything stays: empty, or `/api` without a slash at its end.
    pub base_path: String,
    /// The fields that a secret of it has.
    pub fields: Vec<FieldSetting>,
    /// Where they are put.
    pub inject: Vec<Placement>,
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
    /// Whether connections are never shared between customers.
    pub isolate_customers: bool,
    /// What happens when the credential is found in an answer.
    pub on_reflect: OnReflect,
    /// Requests per customer and second, with a burst of as many; `None` is unlimited.
    pub rate: Option<u32>,
}

/// One field of an integration's secrets.
#[derive(Debug, Clone)]
pub struct FieldSetting {
    /// Its name, and whether it is secret.
    pub spec: FieldSpec,
    /// What to call it when asking a person.
    pub label: String,
    /// Whether values under 8 bytes are taken, unscrubbed (`scrub = "off_danger"`).
    pub scrub_off_danger: bool,
}

/// Where a credential goes: one header and how its value is built.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The header.
    pub header: HeaderName,
    /// Its value.
    pub value: Template,
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
