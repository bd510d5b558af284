//! The configuration of a dev relay, written in code.
//!
//! Everything is made at start and gone on exit: key, store, audit, issuer. What must never enter: a
//! setting that a person would miss in `relay run`, because dev must behave as the real thing does.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use http::header::AUTHORIZATION;
use ipnet::IpNet;

use super::vendor::Vendor;
use crate::cli::exit::Failure;
use crate::cli::token::LocalIssuer;
use crate::config::template::Template;
use crate::config::{
    Admin, Algorithm, Audit, CallerKeys, Callers, Claim, Config, FieldSetting, Integration, Keys, KmsKey,
    Limits, Listen, OnReflect, Placement, Server, StoreChoice, Timeouts, Told, Where,
};
use crate::model::{FieldName, FieldSpec, IntegrationName, Origin};
use crate::secret::Secret;

/// The one customer of the seeded secret and the minted token.
pub const CUSTOMER: &str = "acme";
/// The one integration.
pub const INTEGRATION: &str = "demo";
/// The field of its secrets.
pub const FIELD: &str = "token";
/// `iss` of its tokens.
pub const ISSUER: &str = "relay-dev";
/// `aud` of its tokens.
pub const AUDIENCE: &str = "relay";
/// The claim that names the customer.
pub const CUSTOMER_CLAIM: &str = "customer_id";
/// The claim that may name the secret.
pub const SECRET_CLAIM: &str = "secret";
/// Every dev issuer's key id begins with this, so that `relay run` can tell and refuse such a key.
pub const KID_PREFIX: &str = "relay-dev-";

/// What a dev relay is made with.
pub(super) struct Made {
    /// What relay is told.
    pub(super) config: Config,
    /// The admin token, for `dev.json`.
    pub(super) admin_token: String,
}

/// The configuration for these addresses, this issuer and this vendor.
pub(super) fn make(
    listen: SocketAddr,
    admin_listen: SocketAddr,
    issuer: &LocalIssuer,
    vendor: &Vendor,
) -> Result<Made, Failure> {
    let admin_token = random_hex::<32>()?;
    let config = Config {
        server: Server {
            listen: Listen::plain(listen),
            tls: None,
            admin_listen,
            public_url: None,
            workers: 1,
            grace: Duration::from_secs(2),
            drain_delay: Duration::ZERO,
            limits: Limits::default(),
        },
        callers: vec![Callers {
            keys: CallerKeys::Jwks(issuer.jwks.clone()),
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            algorithms: vec![Algorithm::Es256],
            customer: Claim::named(CUSTOMER_CLAIM),
            customer_prefix: String::new(),
            secret: Claim::named(SECRET_CLAIM),
            secrets: Claim::named("secrets"),
            max_lifetime: Duration::from_secs(24 * 60 * 60),
            leeway: Duration::from_secs(30),
        }],
        keys: Keys::of(KmsKey::Ephemeral),
        store: StoreChoice::Memory,
        retain: Duration::from_secs(30 * 24 * 3600),
        audit: Audit::default(),
        traces: None,
        admin: Admin { token: Secret::new(admin_token.clone().into_bytes()) },
        integrations: vec![demo(vendor).map_err(|cause| Failure::because("the demo integration", &cause))?],
        told: Told::default(),
    };
    Ok(Made { config, admin_token })
}

fn demo(vendor: &Vendor) -> Result<Integration, String> {
    let words = |wrong: crate::model::Malformed| wrong.to_string();
    let field = FieldName::parse(FIELD).map_err(words)?;
    Ok(Integration {
        name: IntegrationName::parse(INTEGRATION).map_err(words)?,
        origin: Origin::parse(&vendor.origin()).map_err(words)?,
        base_path: String::new(),
        per_customer: None,
        listen: None,
        host: None,
        http2: true,
        fields: vec![FieldSetting {
            spec: FieldSpec { name: field, secret: true },
            label: "API key".to_owned(),
            help: None,
            example: None,
            scrub_off_danger: false,
            optional: false,
            pem: false,
            pattern: None,
        }],
        inject: vec![Placement {
            at: Where::Header(AUTHORIZATION),
            value: Template::parse("Bearer {token}")?,
        }],
        sign: None,
        client_certificate: None,
        allow: Vec::new(),
        deny: Vec::new(),
        ca_file: None,
        ca_pem: Some(vendor.ca_pem.clone()),
        private_cidrs: vec![IpNet::from(vendor.addr.ip())],
        plaintext_danger: false,
        timeout: Timeouts::default(),
        cookies: false,
        ranges: false,
        websocket: false,
        rewrite_json: false,
        isolate_customers: false,
        on_reflect: OnReflect::Redact,
        rate: None,
        body_limit: 1024 * 1024,
        default_secret: false,
        burst: None,
        concurrency: None,
        renewal: None,
        verify: None,
    })
}

/// A key id for an issuer made now.
pub(super) fn fresh_kid() -> Result<String, Failure> {
    Ok(format!("{KID_PREFIX}{}", random_hex::<4>()?))
}

/// `N` random bytes in hexadecimal.
fn random_hex<const N: usize>() -> Result<String, Failure> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Failure::because("a dev relay cannot start", &"the system gives no randomness"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
