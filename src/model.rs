//! The words: identifiers that every other room is said in.
//!
//! Each is checked when it is made and cannot be made otherwise, so no later room checks again.
//! No behaviour lives here, and nothing secret: every type here may be printed.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Moment;

/// A word that does not have the shape it must have. Says what was wanted, never what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Whose credential it is: 1 to 128 bytes without control bytes, compared bytewise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Customer(Arc<str>);

impl Customer {
    /// Checks `text`: 1 to 128 bytes, no control characters.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
            return Err(Malformed("a customer is 1 to 128 bytes without control characters"));
        }
        Ok(Self(text.into()))
    }

    /// What stands in a customer's place in the context of a store-wide key. It is longer than any customer
    /// can be, so it equals none, and is plain text, so every provider takes it as encryption context.
    pub fn store_wide(name: &str) -> Self {
        Self(format!("{:-<160}", format!("relay store-wide key {name} ")).into())
    }

    /// The customer as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an integration: `[a-z0-9_]{1,40}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IntegrationName(Arc<str>);

impl IntegrationName {
    /// Checks `text` against `[a-z0-9_]{1,40}`.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if !is_word(text) {
            return Err(Malformed("an integration's name is 1 to 40 of a-z, 0-9 and _"));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Found by its text in a map.
impl Borrow<str> for IntegrationName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The name of one field of a secret: `[a-z0-9_]{1,40}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(Arc<str>);

impl FieldName {
    /// Checks `text` against `[a-z0-9_]{1,40}`.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if !is_word(text) {
            return Err(Malformed("a field's name is 1 to 40 of a-z, 0-9 and _"));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_word(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The UUID that names a secret. Only the 36-character hyphenated form is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretId(Uuid);

impl SecretId {
    /// A fresh random id (UUIDv4).
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id with these bytes, as stored.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Reads the 36-character hyphenated form, in either case.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let wanted = Malformed("a secret is named by a 36-character hyphenated UUID");
        if text.len() != 36 {
            return Err(wanted);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| wanted)
    }

    /// The 16 bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The hyphenated form.
    pub fn text(&self) -> [u8; 36] {
        hyphenated(self.0)
    }
}

/// The id of one data key: a UUIDv7 (RFC 9562 section 5.7), so that it tells the key's age. A wrapped key is
/// bound to its id, so that whoever writes to the store cannot make an old key look young.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataKeyId(Uuid);

impl DataKeyId {
    /// A fresh id.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }

    /// When it was made, in milliseconds since 1970; `None` for an id of an earlier relay, which does not tell.
    pub fn made_at(&self) -> Option<u64> {
        let (seconds, nanos) = self.0.get_timestamp().filter(|_| self.0.get_version_num() == 7)?.to_unix();
        Some(seconds.saturating_mul(1000).saturating_add(u64::from(nanos) / 1_000_000))
    }

    /// The id with these bytes, as stored.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

/// One request's id, a UUIDv7 (RFC 9562 section 5.7): sorts by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A fresh id, from the wall clock and the randomness of the cryptographic library.
    pub fn fresh() -> Self {
        Self::at(Moment::now())
    }

    /// A fresh id of something that began at `moment`.
    pub fn at(moment: Moment) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(moment.unix_millis(), &drawn()).into_uuid())
    }

    /// The hyphenated form.
    pub fn text(&self) -> [u8; 36] {
        hyphenated(self.0)
    }
}

fn hyphenated(id: Uuid) -> [u8; 36] {
    let mut text = [0; 36];
    id.hyphenated().encode_lower(&mut text);
    text
}

/// Ten random bytes. Drawn for 64 ids at once, because a draw costs more than all else about an id; they are
/// seen in every answer, so nothing rests on their being secret. Should randomness ever fail, the id
/// still tells the time.
fn drawn() -> [u8; 10] {
    thread_local! {
        static STOCK: RefCell<Vec<[u8; 10]>> = const { RefCell::new(Vec::new()) };
    }
    STOCK.with_borrow_mut(|stock| {
        if stock.is_empty() {
            stock.resize(64, [0; 10]);
            let _ = aws_lc_rs::rand::fill(stock.as_flattened_mut());
        }
        stock.pop().unwrap_or_default()
    })
}

/// Where a credential may go: scheme, host and port (RFC 6454), spelled one way only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin {
    secure: bool,
    host: Arc<str>,
    port: u16,
}

impl Origin {
    /// Reads `https://host[:port]` or `http://host[:port]`; the host must already be lower case.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let wanted = Malformed("an origin is https://host or https://host:port, in lower case");
        let (secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(wanted),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                if !port.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(wanted);
                }
                (host, port.parse().map_err(|_| wanted)?)
            }
            _ => (rest, if secure { 443 } else { 80 }),
        };
        Self::new(secure, host, port)
    }

    /// An origin from its parts. `host` is a lower-case name, an IPv4 address, or a bracketed IPv6 one.
    pub fn new(secure: bool, host: &str, port: u16) -> Result<Self, Malformed> {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        let inside = |b: u8| b.is_ascii_hexdigit() || b":.".contains(&b);
        let shaped = if bracketed {
            host.len() > 4 && host.bytes().skip(1).take(host.len() - 2).all(inside)
        } else {
            !host.is_empty() && host.len() <= 253 && host.bytes().all(plain)
        };
        if !shaped || port == 0 {
            return Err(Malformed("an origin is https://host or https://host:port, in lower case"));
        }
        Ok(Self { secure, host: host.into(), port })
    }

    /// Whether the scheme is https.
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, also where it is the scheme's default.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `host` or `host:port`, as the Host field wants it (RFC 9110 section 7.2).
    pub fn authority(&self) -> String {
        if self.port == self.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    const fn default_port(&self) -> u16 {
        if self.secure { 443 } else { 80 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        if self.port == self.default_port() {
            write!(f, "{scheme}://{}", self.host)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Whether a secret may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It may.
    Active,
    /// An operator stopped its use; it may be enabled again.
    Disabled,
}

/// What is known of one field of a secret, beside its value. Bound into the ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldSpec {
    /// The field's name, as templates use it.
    pub name: FieldName,
    /// Whether the value is scrubbed from everything the vendor sends back.
    pub secret: bool,
}

/// A secret's own limits. They narrow what its integration allows and never widen it. Rules are as in
/// relay.toml: `GET /users/*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What is allowed; `None` is whatever the integration allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// What is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Requests per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Requests at once where it was at rest; as many as `rate` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Requests under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

impl Policy {
    /// Whether it narrows nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The most members of an object read as [`Members`].
const MOST_MEMBERS: usize = 100;

/// The members of a JSON object, each standing once: which of two is meant is not guessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members<K, V>(pub Vec<(K, V)>);

impl<'de, K: Deserialize<'de> + PartialEq, V: Deserialize<'de>> Deserialize<'de> for Members<K, V> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Each<K, V>(std::marker::PhantomData<(K, V)>);
        impl<'de, K: Deserialize<'de> + PartialEq, V: Deserialize<'de>> serde::de::Visitor<'de> for Each<K, V> {
            type Value = Members<K, V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(K, V)> = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    // Each is compared with all before it: without a limit that would be work for a caller
                    // to give.
                    if members.len() == MOST_MEMBERS {
                        return Err(serde::de::Error::custom("there are too many members"));
                    }
                    if members.iter().any(|(other, _)| *other == name) {
                        return Err(serde::de::Error::custom("a member stands twice"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Each(std::marker::PhantomData))
    }
}

macro_rules! text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
text!(Customer, IntegrationName, FieldName, SecretId, DataKeyId, RequestId);

macro_rules! through_string {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.to_string()
            }
        }
    )*};
}
through_string!(Customer, IntegrationName, FieldName, Origin);
