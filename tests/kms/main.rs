//! The providers of KMS keys against the key services themselves: moto's server for AWS, a real OpenBao.
//!
//! `tests/kms/run` starts them and says by the environment where they are; without it every test here fails.
//! The suite is the one of `tests/relay/kms`.
#![allow(missing_docs, unreachable_pub, clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::panic, clippy::indexing_slicing, clippy::too_many_lines, clippy::redundant_clone)]
#![allow(clippy::type_complexity)]

/// What every provider does.
#[path = "../relay/kms/conformance.rs"]
mod conformance;
/// AWS KMS as moto has it.
mod moto;
/// The transit engine of OpenBao.
mod openbao;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use relay::net::fetch::{FetchRequest, fetch};
use rustls::ClientConfig;
use serde_json::Value;

/// What `tests/kms/run` says by the environment.
fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/kms/run starts the key services"))
}

/// One call to a key service's own API, as its operator.
async fn operate(
    method: Method,
    url: String,
    headers: &[(&str, &str)],
    body: &Value,
    tls: Option<Arc<ClientConfig>>,
) -> (u16, Value) {
    let mut fields = HeaderMap::new();
    for (name, value) in headers {
        fields.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let (limit, timeout) = (1 << 20, Duration::from_secs(20));
    let answer =
        fetch(FetchRequest { method, url, headers: fields, body, limit, timeout, tls }).await.unwrap();
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_default())
}
