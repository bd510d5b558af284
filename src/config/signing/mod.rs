//! `sign` and `client_certificate`: credentials that never travel, because what they prove is computed.
//!
//! A signature is described by data, not by code: which pieces of the request are joined, how they are hashed, which
//! headers or parameters carry what. The named recipes are in `recipes`; `stage::sign` carries them out. What
//! must never enter: a credential's value.

mod recipes;

use std::borrow::Cow;

use http::HeaderName;
use http::header::AUTHORIZATION;

use crate::model::FieldName;

pub use recipes::{named, names};

/// The date of an AWS signature.
pub const X_AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
/// The session token of temporary AWS credentials; also where an AWS SDK carries the caller's token.
pub const X_AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// How requests are signed.
#[derive(Debug, Clone)]
pub enum Signing {
    /// AWS Signature Version 4.
    Aws(AwsSigning),
    /// An HMAC over parts of the request.
    Hmac(HmacSigning),
}

/// `sign = { with = "aws_sigv4", ... }`
#[derive(Debug, Clone)]
pub struct AwsSigning {
    /// The region of the credential scope; never the one that the app's SDK wrote.
    pub region: Region,
    /// The service of the credential scope: `s3`, `dynamodb`.
    pub service: String,
    /// The field that holds the access key's id.
    pub access_key: FieldName,
    /// The field that holds the secret access key.
    pub secret_key: FieldName,
    /// The field that holds the session token of temporary credentials.
    pub session_token: Option<FieldName>,
}

/// A region: the integration's, or each secret's own.
#[derive(Debug, Clone)]
pub enum Region {
    /// As configured.
    Fixed(String),
    /// The value of a field that is not secret.
    Field(FieldName),
}

/// `sign = { with = "<recipe>", ... }`
#[derive(Debug, Clone)]
pub struct HmacSigning {
    /// What is signed, and where the signature goes.
    pub recipe: Recipe,
    /// The field that holds the HMAC's key.
    pub secret: FieldName,
    /// The field that holds the key's public name.
    pub key: Option<FieldName>,
    /// The field that holds a passphrase beside it.
    pub passphrase: Option<FieldName>,
}

/// An HMAC over parts of the request, and what the request then carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The hash of the HMAC.
    pub algorithm: Algorithm,
    /// How the secret's text becomes the HMAC's key.
    pub secret: Encoding,
    /// What stands before the secret when people copy it, and is no part of it.
    pub secret_prefix: &'static str,
    /// What is signed, in order.
    pub message: Vec<Piece>,
    /// What stands between two pieces of the message.
    pub joiner: Cow<'static, str>,
    /// How the signature is written.
    pub output: Encoding,
    /// How the time is written.
    pub time: TimeForm,
    /// What the request carries, in order.
    pub sets: Vec<Set>,
}

/// One header or query parameter that a signed request carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Where.
    pub place: SetPlace,
    /// What it holds.
    pub value: Vec<Piece>,
}

/// Where a piece of a signature goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetPlace {
    /// A header.
    Header(HeaderName),
    /// A query parameter.
    Query(&'static str),
}

/// The hash of an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// How bytes are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are; for a secret alone.
    Text,
    /// Base64 with padding (RFC 4648 section 4).
    Base64,
    /// Hexadecimal, in lower case where it is written.
    Hex,
}

/// How the time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeForm {
    /// Whole seconds since 1970.
    Seconds,
    /// Milliseconds since 1970.
    Millis,
    /// `2020-12-08T09:08:57.715Z`.
    Iso,
    /// Whole seconds since 1970, so many ahead: until when the request is valid.
    Ahead(u64),
}

/// A piece of what is signed, or of what is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Text(Cow<'static, str>),
    /// `POST`
    Method,
    /// The path as the vendor gets it, still encoded.
    Path,
    /// The same with `?` and the query, if there is one.
    PathAndQuery,
    /// The query without its question mark; empty if there is none.
    Query,
    /// The body; empty if there is none.
    Body,
    /// The time, written once for the whole request.
    Time,
    /// 32 random hexadecimal digits, the same ones in the whole request.
    Nonce,
    /// The key's public name.
    Key,
    /// The passphrase.
    Passphrase,
    /// The passphrase under the same HMAC, written like the signature.
    SignedPassphrase,
    /// The signature; only in what is set.
    Signature,
}

impl Signing {
    /// Every field of the secret that it uses.
    pub fn fields(&self) -> Vec<&FieldName> {
        match self {
            Self::Aws(aws) => {
                let region = match &aws.region {
                    Region::Field(name) => Some(name),
                    Region::Fixed(_) => None,
                };
                let keys = [&aws.access_key, &aws.secret_key];
                keys.into_iter().chain(&aws.session_token).chain(region).collect()
            }
            Self::Hmac(hmac) => [&hmac.secret].into_iter().chain(&hmac.key).chain(&hmac.passphrase).collect(),
        }
    }

    /// Every header that it writes. What the app wrote there does not go on, and its token may stand there.
    pub fn headers(&self) -> Vec<HeaderName> {
        match self {
            Self::Aws(_) => vec![AUTHORIZATION, X_AMZ_DATE, X_AMZ_SECURITY_TOKEN],
            Self::Hmac(hmac) => hmac.recipe.headers().cloned().collect(),
        }
    }

    /// Whether the body must be there whole for any request that has one, whatever its head says.
    pub fn reads_every_body(&self) -> bool {
        match self {
            Self::Aws(_) => false,
            // Parameters that it sets may stand in a form, too, and would be signed with it.
            Self::Hmac(hmac) => {
                hmac.recipe.message.contains(&Piece::Body) || hmac.recipe.parameters().next().is_some()
            }
        }
    }
}

impl Recipe {
    /// The headers that it writes.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.sets.iter().filter_map(|set| match &set.place {
            SetPlace::Header(name) => Some(name),
            SetPlace::Query(_) => None,
        })
    }

    /// The query parameters that it writes.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.sets.iter().filter_map(|set| match &set.place {
            SetPlace::Query(name) => Some(*name),
            SetPlace::Header(_) => None,
        })
    }

    /// Whether `piece` is anywhere in it.
    pub fn uses(&self, piece: &Piece) -> bool {
        self.message.contains(piece) || self.sets.iter().any(|set| set.value.contains(piece))
    }
}

/// `client_certificate`: the fields that hold it.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate and those that lead to its authority, PEM.
    pub certificate: FieldName,
    /// Its private key, PEM.
    pub key: FieldName,
}
