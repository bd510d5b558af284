//! Whether a request to an integration that signs can be signed, before anything is decrypted for it.
//!
//! What the app's SDK signed with its dummy key is thrown away and made anew, which is possible wherever the
//! signature stands in the head. A signature in the URL or in every chunk of the body is refused: the vendor
//! would refuse it, and later. What must never enter: a credential.

use http::request::Parts;
use http::{HeaderMap, HeaderName};

use crate::config::rule::decoded;
use crate::config::signing::Signing;
use crate::refusal::{Code, Refusal};

const X_AMZ_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// Parameters of a presigned URL, of version 4 and of version 2, in lower case.
const PRESIGNED: [&str; 8] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-signature",
    "x-amz-signedheaders",
    "x-amz-expires",
    "x-amz-date",
    "x-amz-security-token",
    "awsaccesskeyid",
];

/// Whether the body must be collected so that the request can be signed.
pub(super) fn needs_body(signing: &Signing, asked: &Parts, query: Option<&str>) -> Result<bool, Refusal> {
    match signing {
        Signing::Hmac(_) => Ok(signing.reads_every_body()),
        Signing::Aws(_) => {
            presigned(query.unwrap_or_default())?;
            payload(&asked.headers).map(|told| !told)
        }
    }
}

fn presigned(query: &str) -> Result<(), Refusal> {
    // Twice, as a path is: a gateway before the vendor may decode once more.
    let name =
        |pair: &str| decoded(&decoded(pair.split('=').next().unwrap_or_default())).to_ascii_lowercase();
    if query.split(['&', ';']).any(|pair| PRESIGNED.contains(&name(pair).as_str())) {
        return Err(Refusal::new(
            Code::RequestUnsignable,
            "This URL is presigned, with a key that relay does not have: send the request itself, and relay signs it.",
        ));
    }
    Ok(())
}

/// Whether the head says the body's hash, or what stands for it.
fn payload(headers: &HeaderMap) -> Result<bool, Refusal> {
    let mut values = headers.get_all(X_AMZ_CONTENT_SHA256).iter();
    let (first, second) = (values.next(), values.next());
    let Some(value) = first else { return Ok(false) };
    let text = value.to_str().unwrap_or_default();
    if second.is_some() {
        return Err(unsignable("x-amz-content-sha256 stands more than once."));
    }
    if matches!(text, "UNSIGNED-PAYLOAD" | "STREAMING-UNSIGNED-PAYLOAD-TRAILER") {
        return Ok(true);
    }
    if text.starts_with("STREAMING-") {
        return Err(unsignable(
            "The body's chunks are signed one by one, with a key that is not the vendor's: switch chunk signing off in \
             the SDK (botocore: `payload_signing_enabled` off; Java: `chunkedEncodingEnabled(false)`), or let it send \
             STREAMING-UNSIGNED-PAYLOAD-TRAILER, which most do when they reach relay by https.",
        ));
    }
    let hash = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !hash {
        return Err(unsignable(
            "x-amz-content-sha256 is neither a SHA-256 in lower-case hexadecimal nor UNSIGNED-PAYLOAD.",
        ));
    }
    Ok(true)
}

fn unsignable(why: &'static str) -> Refusal {
    Refusal::new(Code::RequestUnsignable, why)
}
