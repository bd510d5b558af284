//! Step 7: the only place where plaintext enters a request.
//!
//! A new outbound head is built from nothing: what is not named as dropped is copied, then the credential
//! is put in, and nothing is removed after it. What must never enter: the caller's token, a `Relay-*`
//! field, a field that a vendor could read as an injected one.

mod content;
mod own;
mod render;
mod target;

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use http_body::Body;
use zeroize::Zeroizing;

use crate::clock::Moment;
use crate::config::FieldSetting;
use crate::config::Where;
use crate::config::template::Template;
use crate::model::FieldName;
use crate::net::body::Outgoing;
use crate::refusal::{Code, Refusal};
use crate::secret::Secret;
use crate::stage::authenticate::{Token, without_tokens};
use crate::stage::authorize::Grant;
use crate::stage::coding;
use crate::stage::record::{Opened, TRACEPARENT};
use crate::stage::route::Route;
use crate::stage::sign::sign;
use crate::stage::unseal::Credential;
use crate::stage::wiped::header_value;

use content::Content;
use render::{Rendered, joined, render};
use target::Target;

pub use own::own_request;
pub use target::Echo;

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Fields that tell a hash of the app's body (RFC 9530, RFC 3230, RFC 1864): the vendor gets another body where the
/// credential stands in it.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Proof that the credential is in the request, and only there.
pub struct Armed {
    request: Request<Outgoing>,
    planted: Planted,
    /// The app's own body, if the credential stands in the request's.
    unarmed: Option<Box<Outgoing>>,
}

/// What was put in: the scrubber looks for it in the answer.
pub struct Planted {
    credential: Credential,
    rendered: Vec<Secret>,
    echoes: Vec<Echo>,
}

impl Armed {
    /// Gives all up, for [`super::send`]: last the body for another try, if that is not the request's.
    pub fn into_parts(self) -> (Request<Outgoing>, Planted, Option<Box<Outgoing>>) {
        (self.request, self.planted, self.unarmed)
    }
}

impl Planted {
    /// The secret fields' values.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.credential.secrets()
    }

    /// The pieces of the target that hold the credential.
    pub fn echoes(&self) -> &[Echo] {
        &self.echoes
    }

    /// The values as they stand in the request, where they differ from the fields: Basic's pair, an escaped one.
    pub fn rendered(&self) -> impl Iterator<Item = &Secret> {
        self.rendered.iter()
    }
}

/// Builds the vendor's request.
///
/// # Errors
/// `credential_unusable` if a template's field is missing or a value cannot stand in its place.
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
    // One that was collected has been asked for already.
    if body.collected().is_none() && !body.is_end_stream() && expects_continue(head) {
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        body.on_demand();
    }
    if grant.is_websocket() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    if let Some(traceparent) = opened.traceparent() {
        headers.insert(TRACEPARENT, traceparent.clone());
    }
    let planting = plant(grant, &credential, &mut headers, &body)?;
    let (body, unarmed) = planting.content.finish(body);
    if unarmed.is_some() {
        for digest in DIGESTS {
            headers.remove(digest);
        }
    }
    let (target, echoes) = planting.target.finish(grant)?;
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = target;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    if let Some(signing) = &route.signing {
        sign(signing, &credential, &mut request, Moment::now())?;
    }
    let planted = Planted { credential, rendered: planting.rendered, echoes };
    Ok(Armed { request, planted, unarmed: unarmed.map(Box::new) })
}

/// What goes elsewhere than into a header, as far as it has come.
#[derive(Default)]
struct Planting {
    target: Target,
    content: Content,
    rendered: Vec<Secret>,
}

impl Planting {
    /// Keeps a form for the scrubber, unless it is made of fields that may stand in an answer.
    fn keep(&mut self, form: Option<Secret>, template: &Template, credential: &Credential) {
        if let Some(form) = form
            && template.fields().into_iter().any(|name| credential.is_secret(name))
        {
            self.rendered.push(form);
        }
    }
}

/// Puts the credential into every place that configuration names.
fn plant(
    grant: &Grant,
    credential: &Credential,
    headers: &mut HeaderMap,
    body: &Outgoing,
) -> Result<Planting, Refusal> {
    let mut planting = Planting::default();
    let mut cookies = Vec::new();
    for placement in &grant.route().placements {
        if let Where::Path(_) = &placement.at {
            planting.rendered.extend(planting.target.segments(grant, &placement.value, credential)?);
            continue;
        }
        let Rendered { text, encoded } = match render(&placement.value, credential) {
            // Asked only here, so that a secret that has all of its fields does not pay for it.
            Err(_) if is_left_out(&placement.value, credential, grant.route()) => continue,
            rendered => rendered?,
        };
        planting.keep(encoded, &placement.value, credential);
        let escaped = match &placement.at {
            Where::Header(name) => {
                headers.insert(name.clone(), header_value(text)?);
                continue;
            }
            Where::Cookie(name) => {
                cookies.push(cookie(name, &text)?);
                continue;
            }
            Where::Query(name) => planting.target.parameter(grant, name, &text),
            Where::Json(pointer) => planting.content.member(body, pointer, &text)?,
            Where::Form(name) => planting.content.field(body, name, &text)?,
            Where::Path(_) => None,
        };
        planting.keep(escaped, &placement.value, credential);
    }
    if !cookies.is_empty() {
        headers.insert(header::COOKIE, cookies_together(&cookies)?);
    }
    Ok(planting)
}

/// The `Cookie` field of these pairs (RFC 6265 section 4.2.1).
fn cookies_together(pairs: &[Zeroizing<Vec<u8>>]) -> Result<HeaderValue, Refusal> {
    let pieces: Vec<&[u8]> = pairs.iter().flat_map(|pair| [&b"; "[..], pair.as_slice()]).skip(1).collect();
    header_value(joined(&pieces))
}

/// `name=value`, if the value is one that a cookie takes as it stands (RFC 6265 section 4.1.1).
fn cookie(name: &str, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let stands = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
    if !value.iter().all(stands) {
        return Err(Refusal::new(
            Code::CredentialUnusable,
            "The stored credential cannot stand in a cookie: it holds a space, quote, comma, semicolon or backslash.",
        ));
    }
    Ok(joined(&[name.as_bytes(), b"=", value]))
}

/// Whether a placement waits for an optional field that this secret does not have.
fn is_left_out(template: &Template, credential: &Credential, route: &Route) -> bool {
    let absent = |name: &FieldName| {
        let optional = |field: &FieldSetting| field.optional && field.spec.name == *name;
        route.fields.iter().any(optional) && credential.value(name).is_none()
    };
    template.fields().into_iter().any(absent)
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
            || *name == header::AUTHORIZATION
            || route.written.iter().any(|written| is_twin(name, written))
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
fn is_twin(name: &HeaderName, injected: &HeaderName) -> bool {
    let folded = |b: u8| if b == b'_' { b'-' } else { b };
    let (a, b) = (name.as_str(), injected.as_str());
    a.len() == b.len() && a.bytes().map(folded).eq(b.bytes().map(folded))
}
