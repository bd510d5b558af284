//! What went wrong, as the caller may know it; and the one map from it to status and code.
//!
//! A [`Refusal`] is the cause in the caller's words plus, apart from it, the cause for the operator.
//! The match in `Code::row` has no `_` arm: a new failure does not compile until someone decides its
//! status. What must never enter: a value of a secret, a request, a response.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

macro_rules! codes {
    ($($variant:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// One stable code per cause (DESIGN section 5). Permanent faults are 4xx, because SDKs retry 5xx.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Status, code and title of each cause: the only such map.
            const fn row(self) -> (StatusCode, &'static str, &'static str) {
                match self {
                    $(Self::$variant => (StatusCode::$status, $text, $title),)*
                }
            }
        }
    };
}

codes! {
    RequestMalformed = "request_malformed", BAD_REQUEST, "The request cannot be read or used as it is";
    PathRefused = "path_refused", BAD_REQUEST, "The path is not one that relay forwards";
    TokenAmbiguous = "token_ambiguous", BAD_REQUEST, "The request carries two different caller tokens";
    SecretMissing = "secret_missing", BAD_REQUEST, "The request names no secret";
    SecretAmbiguous = "secret_ambiguous", BAD_REQUEST, "More than one secret could be meant";
    RequestUnsignable = "request_unsignable", BAD_REQUEST, "The request cannot be signed for the vendor";
    TokenMissing = "token_missing", UNAUTHORIZED, "The request carries no caller token";
    TokenInvalid = "token_invalid", UNAUTHORIZED, "The caller token is not valid";
    TokenExpired = "token_expired", UNAUTHORIZED, "The caller token has expired";
    TokenNotYetValid = "token_not_yet_valid", UNAUTHORIZED, "The caller token is not valid yet";
    TokenIssuer = "token_issuer", UNAUTHORIZED, "The caller token is from another issuer";
    TokenAudience = "token_audience", UNAUTHORIZED, "The caller token is for another audience";
    TokenCustomer = "token_customer", UNAUTHORIZED, "The caller token names no customer";
    ScopeDenied = "scope_denied", FORBIDDEN, "The caller token's scope does not allow this";
    RequestDenied = "request_denied", FORBIDDEN, "This method and path are not allowed here";
    EgressDenied = "egress_denied", FORBIDDEN, "The vendor's address is one that relay does not call";
    IntegrationUnknown = "integration_unknown", NOT_FOUND, "There is no such integration";
    SecretNotFound = "secret_not_found", NOT_FOUND, "There is no such secret";
    SecretDisabled = "secret_disabled", GONE, "The secret is disabled";
    SecretExpired = "secret_expired", GONE, "The secret has expired";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is larger than can be taken here";
    CredentialUnusable = "credential_unusable", FAILED_DEPENDENCY, "The stored credential cannot be used";
    ReconnectRequired = "reconnect_required", FAILED_DEPENDENCY, "The customer must connect this account again";
    KeysDenied = "keys_denied", FAILED_DEPENDENCY, "The key service denies the use of the key";
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    TooBusy = "too_busy", TOO_MANY_REQUESTS, "Too many requests at once";
    HeadTooLarge = "head_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The request head is too large";
    VendorUnreachable = "vendor_unreachable", BAD_GATEWAY, "The vendor cannot be reached";
    VendorTls = "vendor_tls", BAD_GATEWAY, "The vendor's TLS is not acceptable";
    VendorBroken = "vendor_broken", BAD_GATEWAY, "The vendor broke the connection or sent no valid answer";
    ResponseRefused = "response_refused", BAD_GATEWAY, "The vendor's answer cannot be passed on safely";
    IssuerUnavailable = "issuer_unavailable", SERVICE_UNAVAILABLE, "The keys of the caller token's issuer are not available";
    KeysUnavailable = "keys_unavailable", SERVICE_UNAVAILABLE, "The key service is not available";
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "The store is not available";
    AuditUnavailable = "audit_unavailable", SERVICE_UNAVAILABLE, "The audit cannot be written";
    Draining = "draining", SERVICE_UNAVAILABLE, "relay is shutting down";
    VendorTimeout = "vendor_timeout", GATEWAY_TIMEOUT, "The vendor did not answer in time";
}

impl Code {
    /// The HTTP status that it is answered with.
    pub const fn status(self) -> StatusCode {
        self.row().0
    }

    /// The stable word: `secret_not_found`.
    pub const fn as_str(self) -> &'static str {
        self.row().1
    }

    /// One sentence for people, the same each time.
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    /// Whether trying the same request again later can help.
    pub const fn passes(self) -> bool {
        matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }
}

/// An answer that relay itself authors instead of the vendor's.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: Code,
    detail: Cow<'static, str>,
    cause: Option<String>,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal with the sentence that helps the caller. `detail` may quote configuration and the
    /// caller's own identifiers, never a value of a secret.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = code.passes().then_some(Duration::from_secs(1));
        Self { code, detail: detail.into(), cause: None, retry_after }
    }

    /// Adds the cause for the operator's log; the caller never sees it.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Sets when the caller may try again; rounded up to whole seconds on the wire.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The stable code.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The sentence for the caller.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The cause for the operator, if there is more to say.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Retry-After, where a later try can help.
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code, code.title())
    }
}
