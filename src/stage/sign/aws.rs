//! AWS Signature Version 4: the app's SDK has signed with a dummy key, and it is signed anew with the real one.
//!
//! The SDK's hash of the body is kept, or what it wrote instead of one, so that a body streams past unread; only
//! where it wrote none is the collected body hashed. Its date, its scope and its session token are not looked at.

use aws_lc_rs::digest::{SHA256, digest};
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Request};
use zeroize::Zeroizing;

use super::canonical::{Canonical, Scope, X_AMZ_CONTENT_SHA256, hex};
use super::{body, field, header_value, unusable};
use crate::clock::{Moment, rfc3339};
use crate::config::signing::{AwsSigning, Region, X_AMZ_DATE, X_AMZ_SECURITY_TOKEN};
use crate::model::FieldName;
use crate::net::body::Outgoing;
use crate::refusal::Refusal;
use crate::stage::unseal::Credential;

pub(super) fn sign(
    aws: &AwsSigning,
    credential: &Credential,
    request: &mut Request<Outgoing>,
    at: Moment,
) -> Result<(), Refusal> {
    let access_key = access_key(credential, &aws.access_key)?;
    let secret_key = field(credential, &aws.secret_key)?;
    let time = amz_date(at);
    let payload = payload(request, aws)?;
    let headers = request.headers_mut();
    headers
        .insert(X_AMZ_DATE, HeaderValue::try_from(&time).map_err(|_| unusable(&aws.secret_key, "no date"))?);
    if let Some(name) = &aws.session_token
        && credential.value(name).is_some()
    {
        let token = Zeroizing::new(field(credential, name)?.to_vec());
        headers.insert(X_AMZ_SECURITY_TOKEN, header_value(token)?);
    }
    let scope = Scope { time: &time, region: region(credential, &aws.region)?, service: &aws.service };
    let canonical = Canonical {
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        headers: request.headers(),
        payload: &payload,
    };
    let (signature, names) = canonical.sign(scope, secret_key);
    let scope = scope.text();
    let parts: [&[u8]; 8] = [
        b"AWS4-HMAC-SHA256 Credential=",
        access_key,
        b"/",
        scope.as_bytes(),
        b", SignedHeaders=",
        names.as_bytes(),
        b", Signature=",
        signature.as_bytes(),
    ];
    let mut text = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| text.extend_from_slice(part));
    request.headers_mut().insert(AUTHORIZATION, header_value(text)?);
    Ok(())
}

/// The body's hash as the head says it, else by the body itself; S3 wants it said.
fn payload(request: &mut Request<Outgoing>, aws: &AwsSigning) -> Result<String, Refusal> {
    if let Some(told) = told(request.headers()) {
        return Ok(told);
    }
    let hash = hex(digest(&SHA256, body(request)?).as_ref());
    if aws.service.starts_with("s3")
        && let Ok(value) = HeaderValue::try_from(&hash)
    {
        request.headers_mut().insert(X_AMZ_CONTENT_SHA256, value);
    }
    Ok(hash)
}

fn told(headers: &HeaderMap) -> Option<String> {
    headers.get(X_AMZ_CONTENT_SHA256)?.to_str().ok().map(str::to_owned)
}

/// A key's id is written into a list with these separators.
fn access_key<'a>(credential: &'a Credential, name: &FieldName) -> Result<&'a [u8], Refusal> {
    let key = field(credential, name)?;
    if key.iter().any(|byte| b"/,= ".contains(byte)) {
        return Err(unusable(
            name,
            "the id of an access key has no slash, comma, equals sign or space in it",
        ));
    }
    Ok(key)
}

fn region<'a>(credential: &'a Credential, region: &'a Region) -> Result<&'a str, Refusal> {
    let name = match region {
        Region::Fixed(region) => return Ok(region),
        Region::Field(name) => name,
    };
    let value = field(credential, name)?;
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let text = std::str::from_utf8(value).ok().filter(|_| value.iter().all(plain));
    text.ok_or_else(|| unusable(name, "a region is lower-case letters, digits and -"))
}

/// `20150830T123600Z`
fn amz_date(at: Moment) -> String {
    rfc3339(at.unix_seconds()).chars().filter(|c| !matches!(c, '-' | ':')).collect()
}
