//! The only hand that writes an answer relay itself authored.
//!
//! A [`Refusal`] becomes RFC 9457 members plus the ones that vendors' SDKs read, under the headers that
//! mark it as relay's own: `Relay-Error`, `Relay-Request-Id`, `Proxy-Status` (RFC 9209). A vendor's
//! answer never passes here, and none of these headers stands on one.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use serde::Serialize;

use crate::model::RequestId;
use crate::net::body::Outgoing;
use crate::refusal::Refusal;

const RELAY_ERROR: HeaderName = HeaderName::from_static("relay-error");
const RELAY_REQUEST_ID: HeaderName = HeaderName::from_static("relay-request-id");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const DRAINED_BYTES: usize = 256 * 1024;
const DRAINED_FOR: Duration = Duration::from_secs(1);
/// Added before whole seconds are taken: Retry-After rounds up.
const ALMOST_A_SECOND: Duration = Duration::from_millis(999);
const PROBLEM_JSON: &str = "application/problem+json";

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: String,
    code: &'a str,
    message: &'a str,
    error: Inner<'a>,
    request_id: RequestId,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    r#type: &'a str,
    code: &'a str,
}

/// The answer to a request that relay refuses. `asked` is the request's head, for its `Accept` alone.
pub fn refuse(refusal: &Refusal, request_id: RequestId, asked: &HeaderMap) -> Response<Full<Bytes>> {
    let code = refusal.code();
    let problem = Problem {
        r#type: format!("urn:relay:refusal:{}", code.as_str()),
        title: code.title(),
        status: code.status().as_u16(),
        detail: refusal.detail(),
        instance: format!("urn:uuid:{request_id}"),
        code: code.as_str(),
        message: refusal.detail(),
        error: Inner { message: refusal.detail(), r#type: "relay_refusal", code: code.as_str() },
        request_id,
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(asked)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(RELAY_ERROR, HeaderValue::from_static(code.as_str()));
    mark(headers, request_id);
    if let Ok(status) = HeaderValue::try_from(format!("relay; error={}", proxy_error(refusal))) {
        headers.insert(PROXY_STATUS, status);
    }
    if let Some(wait) = refusal.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.saturating_add(ALMOST_A_SECOND).as_secs().max(1)));
    }
    response
}

/// Marks an answer with the id under which the audit and the log know it.
pub fn mark(headers: &mut HeaderMap, request_id: RequestId) {
    if let Ok(id) = HeaderValue::from_bytes(&request_id.text()) {
        headers.insert(RELAY_REQUEST_ID, id);
    }
}

/// Reads on what is left of a refused request's body, at most 256 KiB and one second, so that a client
/// that is still writing sees the answer instead of a reset. Then the connection closes.
pub async fn drain(mut body: Outgoing) {
    let reading = async {
        let mut left = DRAINED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // Over time or over size is the same to the client: the connection closes.
    let _ = tokio::time::timeout(DRAINED_FOR, reading).await;
}

/// `application/json`, because SDKs read the message only there, unless the caller names the other.
fn content_type(asked: &HeaderMap) -> &'static str {
    let names = |value: &HeaderValue| value.to_str().is_ok_and(|v| v.contains(PROBLEM_JSON));
    if asked.get_all(ACCEPT).iter().any(names) { PROBLEM_JSON } else { "application/json" }
}

/// The nearest error type of RFC 9209 section 2.3.
fn proxy_error(refusal: &Refusal) -> &'static str {
    use crate::refusal::Code;
    match refusal.code() {
        Code::VendorUnreachable => "destination_unavailable",
        Code::VendorTls => "tls_certificate_error",
        Code::VendorBroken | Code::ResponseRefused => "http_protocol_error",
        Code::VendorTimeout => "http_response_timeout",
        Code::EgressDenied => "destination_ip_prohibited",
        Code::IssuerUnavailable
        | Code::KeysUnavailable
        | Code::StoreUnavailable
        | Code::AuditUnavailable
        | Code::Draining => "proxy_internal_response",
        _ => "http_request_denied",
    }
}
