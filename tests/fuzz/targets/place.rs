//! An integration to aim at, the rules for its callers, and a token that they take.

use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use relay::clock::Moment;
use relay::config::{Claim, OnReflect, Placement, Where, template::Template};
use relay::jwks::{Algorithm, Generation, IssuerKeys, KeySet};
use relay::metrics::Metrics;
use relay::model::{IntegrationName, Origin};
use relay::net::pool::Upstream;
use relay::net::resolve::Resolver;
use relay::net::tls::{Roots, client_config};
use relay::net::upstream::UpstreamSettings;
use relay::net::vet::Egress;
use relay::secret::Secret;
use relay::stage::authenticate::{IssuerRules, Token, TokenRules, Verdicts, authenticate};
use relay::stage::limits::Share;
use relay::stage::route::{Entrance, Route, Routes, Slot, route};

pub const NAME: &str = "vendor";
pub const BASE: &str = "/base";
pub const VENDOR: &str = "https://api.vendor.example";
pub const KEY: &[u8] = b"a key that only the fuzz targets know, of 32 bytes or more";
pub const LEEWAY: u64 = 30;

/// The integration at [`VENDOR`] below [`BASE`], with two placements.
pub static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
    let origin = Origin::parse(VENDOR).unwrap();
    let upstream = Upstream::new(UpstreamSettings {
        origin: origin.clone(),
        tls: client_config(Roots::BuiltIn).unwrap(),
        http2: false,
        resolver: Arc::new(Resolver::scripted(|_| Vec::new())),
        egress: Egress::new(Vec::new(), Arc::from([])),
        plaintext: false,
        connect: Duration::from_secs(1),
        first_byte: Duration::from_secs(1),
        idle: Duration::from_secs(1),
        isolate_customers: false,
    });
    let placement = |header: &'static str, value: &str| Placement {
        at: Where::Header(HeaderName::from_static(header)),
        value: Template::parse(value).unwrap(),
    };
    Routes::new([Route {
        name: IntegrationName::parse(NAME).unwrap(),
        origin_text: origin.to_string(),
        host: HeaderValue::try_from(origin.authority()).unwrap(),
        origin,
        own_host: None,
        base_path: BASE.to_owned(),
        placements: vec![placement("authorization", "Bearer {token}"), placement("x-api-key", "{token}")],
        slots: vec![Slot::Header(HeaderName::from_static("x-api-key"))],
        collects: None,
        signing: None,
        written: vec![HeaderName::from_static("authorization"), HeaderName::from_static("x-api-key")],
        client_certificate: None,
        fields: Vec::new(),
        allow: Vec::new(),
        deny: Vec::new(),
        upstream: Arc::new(upstream),
        cookies: false,
        ranges: false,
        websocket: false,
        rewrite_json: false,
        default_secret: false,
        on_reflect: OnReflect::Redact,
        metrics: Metrics::new().integration(NAME),
        share: Arc::new(Share::new(0, None, None, None)),
        hosts: None,
        renewing: None,
    }])
});

pub fn the_route() -> &'static Arc<Route> {
    ROUTES.iter().next().unwrap()
}

pub fn rules() -> TokenRules {
    let issuer = "https://auth.saas.example";
    let rules = IssuerRules {
        keys: IssuerKeys::fixed(issuer, KeySet::hs256(&Secret::new(KEY.to_vec())).unwrap()),
        algorithms: vec![Algorithm::HS256],
        issuer: issuer.to_owned(),
        audience: "relay".to_owned(),
        customer_claim: Claim::named("customer_id"),
        customer_prefix: String::new(),
        secret_claim: Claim::named("secret"),
        secrets_claim: Claim::named("secrets"),
        max_lifetime: Duration::from_secs(24 * 3600),
        leeway: Duration::from_secs(LEEWAY),
    };
    TokenRules::new(vec![rules], Generation::default(), 0)
}

/// What `future` gives without waiting: keys that never change are never waited for.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

/// `header.claims.signature`, signed as an issuer would.
pub fn signed(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// A token that the rules take, and its text.
pub fn a_token() -> (Token, String) {
    let exp = relay::clock::unix_seconds() + 3600;
    let claims =
        format!(r#"{{"iss":"https://auth.saas.example","aud":"relay","customer_id":"acme","exp":{exp}}}"#);
    let text = signed(br#"{"alg":"HS256"}"#, claims.as_bytes());
    let head = Request::get("/vendor/x").body(()).unwrap().into_parts().0;
    let mut headers = HeaderMap::new();
    headers.insert("relay-authorization", HeaderValue::try_from(format!("Bearer {text}")).unwrap());
    let matched = route(&ROUTES, &Entrance::default(), &head).unwrap();
    let caller =
        at_once(authenticate(&rules(), &Verdicts::new(4), matched, &headers, Moment::now())).unwrap();
    let (_, identity, token) = caller.into_parts();
    drop::<Rc<_>>(identity);
    (token, text)
}

thread_local! {
    /// [`a_token`], made once.
    pub static TOKEN: (Token, String) = a_token();
}
