//! Who may use the admin API, how its bodies are read, and how it says no.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::Admin;
use crate::kms::KmsError;
use crate::model::{RequestId, SecretId};
use crate::refusal::{Code, Refusal};
use crate::reply;
use crate::seal::SealError;
use crate::store::StoreError;

/// The largest body: 64 KiB a field, escaped, and a few of them.
const LARGEST_BODY: usize = 1024 * 1024;

/// Wrong tokens: 10 a second, then 429. The right one always passes, so that guessing locks nobody out.
pub struct Failures(DefaultDirectRateLimiter);

impl Default for Failures {
    fn default() -> Self {
        const TEN: std::num::NonZeroU32 = std::num::NonZeroU32::MIN.saturating_add(9);
        Self(RateLimiter::direct(Quota::per_second(TEN)))
    }
}

/// An admin answer that is an error, as a refusal.
pub(super) struct Denied(Refusal);

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let request_id = RequestId::fresh();
        let cause = self.0.cause().unwrap_or_default();
        tracing::warn!(%request_id, code = self.0.code().as_str(), cause, "an admin request was refused");
        reply::refuse(&self.0, request_id, &HeaderMap::new()).map(Body::new).into_response()
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<SealError> for Denied {
    fn from(error: SealError) -> Self {
        Self(error.into())
    }
}

/// Lets only the admin token pass.
pub(super) async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let token = given.and_then(|value| value.split_at_checked(7));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer ")).map(|(_, token)| token);
    if token.is_some_and(|token| admin.now().token.equals(token)) {
        return next.run(request).await;
    }
    let refusal = if admin.failures.0.check().is_err() {
        Refusal::new(Code::RateLimited, "Too many wrong admin tokens.")
    } else if token.is_none() {
        Refusal::new(Code::TokenMissing, "The admin API wants `Authorization: Bearer <admin token>`.")
    } else {
        Refusal::new(Code::TokenInvalid, "This is not the admin token.")
    };
    Denied(refusal).into_response()
}

/// What there is not.
pub(super) async fn unknown() -> Denied {
    Denied(Refusal::new(Code::RequestMalformed, "The admin API has no such endpoint, or not by this method."))
}

/// Reads the id in a request's path.
pub(super) fn parsed(id: &str) -> Result<SecretId, Refusal> {
    SecretId::parse(id).map_err(|why| Refusal::new(Code::RequestMalformed, why.to_string()))
}

/// Reads a JSON body into `T`. The bytes are wiped: they may hold values.
pub(super) async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let mut limited = Limited::new(body, LARGEST_BODY);
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST_BODY));
    while let Some(frame) = limited.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Refusal::new(Code::BodyTooLarge, "An admin request has at most 1 MiB.")
            } else {
                Refusal::new(Code::RequestMalformed, "The body could not be read.")
            }
        })?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
    }
    // serde's own message may quote a value: only where it went wrong is told.
    serde_json::from_slice(&bytes).map_err(|error| {
        let detail = format!(
            "The body is not the JSON that is expected (line {}, column {}).",
            error.line(),
            error.column()
        );
        Refusal::new(Code::RequestMalformed, detail)
    })
}

impl From<SealError> for Refusal {
    fn from(error: SealError) -> Self {
        let cause = error.to_string();
        match error {
            SealError::NotFound => Self::new(Code::SecretNotFound, "There is no such secret."),
            SealError::UnknownIntegration => {
                Self::new(Code::IntegrationUnknown, "relay.toml has no such integration.")
            }
            SealError::Invalid { field, why } => {
                Self::new(Code::RequestMalformed, format!("{field}: {why}."))
            }
            SealError::IdempotencyReused => Self::new(Code::RequestMalformed, format!("{cause}.")),
            SealError::Conflict => Self::new(Code::StoreUnavailable, format!("{cause}.")),
            SealError::Keys(KmsError::Unavailable(_)) => Self::from(Code::KeysUnavailable).because(cause),
            SealError::Keys(KmsError::Denied(_)) => Self::from(Code::KeysDenied).because(cause),
            SealError::Keys(KmsError::Broken(_)) | SealError::Unusable(_) => {
                Self::from(Code::CredentialUnusable).because(cause)
            }
            SealError::Store(StoreError::Full) => {
                Self::new(Code::StoreUnavailable, "The store's disk is full; nothing was written.")
                    .because(cause)
            }
            SealError::Store(StoreError::Unknown(_)) => {
                let detail = "Whether it was written is unknown: the store was lost meanwhile. Look before trying again.";
                Self::new(Code::StoreUnavailable, detail).because(cause)
            }
            SealError::Audit(error) => error.into(),
            SealError::Store(_) => Self::from(Code::StoreUnavailable).because(cause),
        }
    }
}
