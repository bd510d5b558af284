//! Step 7: the only place where plaintext enters a request.
//!
//! A new outbound head is built from nothing: what is not named as dropped is copied, then the credential
//! is put in, and nothing is removed after it. What must never enter: the caller's token, a `Relay-*`
//! field, a field that a vendor could read as an injected one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use http_body::Body;
use zeroize::Zeroizing;

use crate::config::Placement;
use crate::config::template::{Part, Template};
use crate::envelope::check_value;
use crate::model::FieldName;
use crate::net::body::Outgoing;
use crate::refusal::{Code, Refusal};
use crate::secret::Secret;
use crate::stage::authenticate::{Token, is_slot, without_tokens};
use crate::stage::coding;
use crate::stage::record::Opened;
use crate::stage::route::Route;
use crate::stage::unseal::Credential;

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Proof that the credential is in the request, and only there.
pub struct Armed {
    request: Request<Outgoing>,
    planted: Planted,
}

/// What was put in: the scrubber looks for it in the answer.
pub struct Planted {
    credential: Credential,
    rendered: Vec<Secret>,
}

impl Armed {
    /// Gives both up, for [`super::send`].
    pub fn into_parts(self) -> (Request<Outgoing>, Planted) {
        (self.request, self.planted)
    }
}

impl Planted {
    /// The secret fields' values.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.credential.secrets()
    }

    /// The values as they stand in the request, where they differ from the fields: Basic's pair.
    pub fn rendered(&self) -> impl Iterator<Item = &Secret> {
        self.rendered.iter()
    }
}

/// Builds the vendor's request.
///
/// # Errors
/// `credential_unusable` if a template's field is missing or a value cannot stand in a header.
pub fn inject(
    opened: &Opened,
    credential: Credential,
    head: &Parts,
    mut body: Outgoing,
) -> Result<Armed, Refusal> {
    let grant = opened.grant();
    let route = grant.route();
    let mut headers = copied(&head.headers, route, grant.token());
    if body.is_end_stream() && wants_length(head) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if !body.is_end_stream() && expects_continue(head) {
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        body.on_demand();
    }
    if grant.is_websocket() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    let mut rendered = Vec::new();
    for placement in &route.placements {
        let (value, pair) = render(&placement.value, &credential)?;
        headers.insert(placement.header.clone(), value);
        rendered.extend(pair);
    }
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = grant.target().clone();
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Ok(Armed { request, planted: Planted { credential, rendered } })
}

/// The head of a call of relay's own, with the credential in it and nothing of an app's.
///
/// # Errors
/// As [`inject`].
pub fn own_head(route: &Route, credential: &Credential) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::with_capacity(route.placements.len() + 2);
    for placement in &route.placements {
        headers.insert(placement.header.clone(), render(&placement.value, credential)?.0);
    }
    Ok(headers)
}

/// Whether no body at all must be said: many servers answer 411 to a POST without a length (RFC 9110
/// section 8.6).
fn wants_length(head: &Parts) -> bool {
    matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
        || head.headers.contains_key(header::CONTENT_LENGTH)
        || head.headers.contains_key(header::TRANSFER_ENCODING)
}

/// Whether the app waits to be asked for its body (RFC 9110 section 10.1.1). The door has refused every other
/// expectation.
pub fn expects_continue(head: &Parts) -> bool {
    head.version >= Version::HTTP_11 && head.headers.contains_key(header::EXPECT)
}

/// The fields that go on, and relay's own beside them; no credential yet.
pub(super) fn copied(from: &HeaderMap, route: &Route, token: &Token) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(from.len() + route.placements.len() + 3);
    let named = connection_options(from);
    for (name, value) in from {
        let stays_behind = is_dropped(name)
            || named.iter().any(|named| named.eq_ignore_ascii_case(name.as_str().as_bytes()))
            || is_slot(name, &route.placements)
            || route.placements.iter().any(|placement| is_twin(name, placement))
            || token.stands_in(value.as_bytes());
        if !stays_behind {
            headers.append(name.clone(), value.clone());
        }
    }
    if from.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        && let Some(protocols) = without_tokens(from)
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
    }
    headers.insert(header::HOST, route.host.clone());
    // What cannot be read cannot be scrubbed.
    headers.insert(header::ACCEPT_ENCODING, coding::asked(from, route.reads_plain(from)));
    if coding::is_grpc(from) {
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if route.ranges {
        for name in [header::RANGE, header::IF_RANGE] {
            for value in from.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 relay"));
    headers
}

/// The names that `Connection` lists are hop-by-hop too (RFC 9110 section 7.6.1), whatever they are.
fn connection_options(from: &HeaderMap) -> Vec<&[u8]> {
    let values = from.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).collect()
}

/// Fields that never go on: hop-by-hop (RFC 9110 section 7.6.1), framing and `Host` (relay's own),
/// relay's control fields, cookies, what tells of the app's network, and what names another target.
fn is_dropped(name: &HeaderName) -> bool {
    let name = name.as_str();
    // A gateway that folds `_` into `-` would read `content_length` as the field that stays behind.
    let folded = name.contains('_').then(|| name.replace('_', "-"));
    let name = folded.as_deref().unwrap_or(name);
    let prefixes = ["relay-", "x-forwarded-", "proxy-"];
    let names = [
        "accept-encoding",
        "connection",
        "content-length",
        "cookie",
        "cookie2",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "if-range",
        "keep-alive",
        // A part of an answer could hold a part of a reflected credential.
        "range",
        // Frames that are compressed cannot be scrubbed.
        "sec-websocket-extensions",
        // Copied without the tokens in it.
        "sec-websocket-protocol",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-original-url",
        "x-rewrite-url",
    ];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) || names.contains(&name)
}

/// `X_Api_Key` beside an injected `X-Api-Key`: gateways that fold `_` and `-` see two.
fn is_twin(name: &HeaderName, placement: &Placement) -> bool {
    let folded = |b: u8| if b == b'_' { b'-' } else { b };
    let (a, b) = (name.as_str(), placement.header.as_str());
    a.len() == b.len() && a.bytes().map(folded).eq(b.bytes().map(folded))
}

/// The header's value, and Basic's pair as it stands in it.
fn render(template: &Template, credential: &Credential) -> Result<(HeaderValue, Option<Secret>), Refusal> {
    match template {
        Template::Text(parts) => {
            let mut text = Zeroizing::new(Vec::with_capacity(text_length(parts, credential)));
            for part in parts {
                match part {
                    Part::Literal(literal) => text.extend_from_slice(literal.as_bytes()),
                    Part::Field(name) => text.extend_from_slice(usable(credential, name)?),
                }
            }
            Ok((header_value(text)?, None))
        }
        Template::Basic { user, password } => {
            let (user, password) = (usable(credential, user)?, usable(credential, password)?);
            if user.contains(&b':') {
                return Err(Refusal::new(
                    Code::CredentialUnusable,
                    "Basic's user name holds a colon (RFC 7617 section 2).",
                ));
            }
            let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + password.len() + 1));
            pair.extend_from_slice(user);
            pair.push(b':');
            pair.extend_from_slice(password);
            let mut encoded = Zeroizing::new(vec![0; pair.len().div_ceil(3) * 4]);
            let length = STANDARD
                .encode_slice(pair.as_slice(), &mut encoded)
                .map_err(|_| Refusal::from(Code::CredentialUnusable))?;
            encoded.truncate(length);
            let mut text = Zeroizing::new(Vec::with_capacity(6 + length));
            text.extend_from_slice(b"Basic ");
            text.extend_from_slice(&encoded);
            Ok((header_value(text)?, Some(Secret::new(std::mem::take(&mut *encoded)))))
        }
    }
}

/// The exact length, so that the buffer never grows and leaves a copy behind.
fn text_length(parts: &[Part], credential: &Credential) -> usize {
    let length = |part: &Part| match part {
        Part::Literal(literal) => literal.len(),
        Part::Field(name) => credential.value(name).map_or(0, Secret::len),
    };
    parts.iter().map(length).sum()
}

/// A field's value, checked again: the store may have been written by an older relay.
fn usable<'a>(credential: &'a Credential, name: &FieldName) -> Result<&'a [u8], Refusal> {
    let Some(value) = credential.value(name) else {
        let detail =
            format!("The stored credential has no field {:?}: add a version that has it.", name.as_str());
        return Err(Refusal::new(Code::CredentialUnusable, detail));
    };
    check_value(value.expose()).map_err(|why| {
        let detail = format!("The stored credential's field {:?} cannot stand in a header.", name.as_str());
        Refusal::new(Code::CredentialUnusable, detail).because(why.to_string())
    })?;
    Ok(value.expose())
}

fn header_value(text: Zeroizing<Vec<u8>>) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(text))).map_err(|_| {
        Refusal::new(Code::CredentialUnusable, "The stored credential cannot stand in a header.")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Bytes that the header map may share and that are wiped when the last share goes.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
