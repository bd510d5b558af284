//! What an answer of AWS means: later, no, or not this blob.
//!
//! The difference decides whether warm keys go on serving, so it is a table of AWS's own codes. A garbled
//! record must not read as "no": whoever writes to the store could stop every customer with one. What must
//! never enter: a message of relay's own making that could hold what was sent.

use std::error::Error;

use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::kms::KmsError;

/// The longest text of AWS's that is passed on.
const LONGEST: usize = 400;

#[derive(Clone, Copy)]
enum Class {
    Later,
    No(&'static str),
    NotThisBlob,
}

const KEY: &str = "look at the KMS key's state in AWS";
const RIGHTS: &str = "allow it in the key's policy or to relay's role; README.md lists the actions";
const LOGIN: &str = "look at the AWS credentials that relay was started with";
const NAME: &str = "look at key and region in [keys]";

/// AWS KMS's own codes, and those that every AWS service may answer ("Common Errors" of its API reference).
const CODES: &[(&str, Class)] = &[
    ("AccessDenied", Class::No(RIGHTS)),
    ("AccessDeniedException", Class::No(RIGHTS)),
    ("InvalidGrantTokenException", Class::No(RIGHTS)),
    ("NotAuthorized", Class::No(RIGHTS)),
    ("OptInRequired", Class::No(RIGHTS)),
    ("DisabledException", Class::No("enable the KMS key, or name another in [keys]")),
    ("KMSInvalidStateException", Class::No(KEY)),
    ("InvalidKeyUsageException", Class::No("name a symmetric key for encryption (SYMMETRIC_DEFAULT)")),
    ("UnsupportedOperationException", Class::No("name a symmetric key whose material AWS made")),
    ("LimitExceededException", Class::No("AWS allows no more of them on this key")),
    ("InvalidArnException", Class::No(NAME)),
    ("NotFoundException", Class::No(NAME)),
    ("IncompleteSignature", Class::No(LOGIN)),
    ("IncompleteSignatureException", Class::No(LOGIN)),
    ("InvalidClientTokenId", Class::No(LOGIN)),
    ("InvalidSignatureException", Class::No(LOGIN)),
    ("MissingAuthenticationToken", Class::No(LOGIN)),
    ("MissingAuthenticationTokenException", Class::No(LOGIN)),
    ("SignatureDoesNotMatch", Class::No(LOGIN)),
    ("UnrecognizedClientException", Class::No(LOGIN)),
    ("IncorrectKeyException", Class::NotThisBlob),
    ("InvalidCiphertextException", Class::NotThisBlob),
    ("ValidationError", Class::NotThisBlob),
    ("ValidationException", Class::NotThisBlob),
    // The credentials ended and the source of new ones is silent: an outage of that source, not a "no".
    ("ExpiredToken", Class::Later),
    ("ExpiredTokenException", Class::Later),
    ("RequestExpired", Class::Later),
    // "You can retry the request", says AWS of this one.
    ("KeyUnavailableException", Class::Later),
    ("ConflictException", Class::Later),
    ("DependencyTimeoutException", Class::Later),
    ("InternalError", Class::Later),
    ("InternalFailure", Class::Later),
    ("InternalServerError", Class::Later),
    ("KMSInternalException", Class::Later),
    ("RequestLimitExceeded", Class::Later),
    ("RequestThrottled", Class::Later),
    ("RequestThrottledException", Class::Later),
    ("RequestTimeout", Class::Later),
    ("RequestTimeoutException", Class::Later),
    ("ServiceUnavailable", Class::Later),
    ("ServiceUnavailableException", Class::Later),
    ("SlowDown", Class::Later),
    ("ThrottledException", Class::Later),
    ("Throttling", Class::Later),
    ("ThrottlingException", Class::Later),
    ("TooManyRequestsException", Class::Later),
];

/// The error of a call, in relay's words with AWS's own beside them.
pub(super) fn judged<E>(operation: &str, error: &SdkError<E, HttpResponse>) -> KmsError
where
    E: Error + ProvideErrorMetadata + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            answered(operation, status, answer.err().code(), answer.err().message().unwrap_or_default())
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            answered(operation, status, None, &causes(error))
        }
        SdkError::TimeoutError(_) => KmsError::Unavailable(format!(
            "{operation} had no answer in time, from AWS KMS or from where its credentials come"
        )),
        // No connection, no credentials to sign with, or a request that could not be made.
        _ => KmsError::Unavailable(format!("{operation} did not reach AWS KMS: {}", shown(&causes(error)))),
    }
}

fn answered(operation: &str, status: u16, code: Option<&str>, message: &str) -> KmsError {
    let class = match CODES.iter().find(|(known, _)| Some(*known) == code) {
        // Either clock is wrong, which is no word about rights.
        Some((_, Class::No(_))) if message.starts_with("Signature expired") => Class::Later,
        Some((_, Class::No(_))) if message.starts_with("Signature not yet current") => Class::Later,
        Some((_, class)) => *class,
        None if status >= 500 || status == 429 || status == 408 => Class::Later,
        // An answer that is neither an error of AWS's nor readable.
        None if code.is_none() => Class::Later,
        None => Class::No(KEY),
    };
    let code = code.map_or_else(|| format!("status {status}"), shown);
    let text = format!("AWS KMS answered {operation} with {code}: {}", shown(message));
    match class {
        Class::Later => KmsError::Unavailable(text),
        Class::No(mend) => KmsError::Denied(format!("{text}; {mend}")),
        Class::NotThisBlob => KmsError::Broken(text),
    }
}

/// The innermost words are the ones that say what happened.
fn causes(error: &dyn Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn shown(text: &str) -> String {
    text.chars().take(LONGEST).flat_map(char::escape_debug).collect()
}
