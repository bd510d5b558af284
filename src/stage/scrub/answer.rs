//! The stage itself: one vendor's answer, its head before its streaming body.
//!
//! The order on a head is the one that the room's `//!` gives. What must never enter: an edit that is not
//! listed there.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{HOST, HeaderMap, TRAILER};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode};

use crate::config::OnReflect;
use crate::refusal::Refusal;
use crate::reply;
use crate::secret::Secret;
use crate::stage::authorize::Grant;
use crate::stage::record::{Opened, Trail};
use crate::stage::route::Matched;
use crate::stage::send::Answer;

use super::forms::Forms;
use super::links::Address;
use super::passed::{self, Passed, Terms};
use super::{coding, handshake, head as fields, json, links};

/// How the app addresses relay: what references are rewritten to, and what they must not point at.
pub struct Surroundings {
    /// The address given in configuration, without a slash at its end.
    pub public_url: Option<String>,
    /// relay's own authorities: listeners, the public URL's, and as `host:*` the integrations' host names.
    pub own: Arc<[String]>,
}

/// Step 9: the vendor's answer as the app may have it. The body is still streaming.
///
/// # Errors
/// `response_refused` for an answer that cannot be read or that redirects out of the integration.
pub async fn scrub(
    surroundings: &Surroundings,
    opened: Opened,
    trail: &Rc<Trail>,
    asked: &Parts,
    answer: Answer,
) -> Result<Response<Box<Passed>>, Refusal> {
    let route = opened.grant().route();
    let (head, body) = answer.response.into_parts();
    let mut headers = head.headers;
    // Without a body there is nothing that could not be read: the fields only tell of a GET's.
    let bodiless = asked.method == Method::HEAD || matches!(head.status.as_u16(), 101 | 204 | 304);
    let switches = handshake::is_one(head.status, &asked.headers, &headers)?;
    let mut packing = None;
    if !bodiless {
        packing = coding::readable(&headers, &asked.headers, route.reads_plain(&asked.headers))?;
        if !route.asks_part(&asked.headers) {
            coding::whole_only(head.status, &headers)?;
        }
    }
    let announced = fields::announced(&headers, asked);
    fields::strip(&mut headers, route.cookies);
    if let Some(names) = announced {
        headers.insert(TRAILER, names);
    }
    let planted = answer.planted;
    if !planted.echoes().is_empty() && links::any(&headers) {
        surroundings.address(opened.grant(), asked, |address| {
            links::restore(&mut headers, planted.echoes(), address);
        });
    }
    let forms = forms(planted.secrets().map(Secret::expose), planted.rendered().map(Secret::expose));
    if fields::scrub_head(&mut headers, &forms) {
        passed::tell(trail, route.on_reflect);
        if route.on_reflect == OnReflect::Block {
            return Err(passed::holds_credential());
        }
    }
    if links::any(&headers) {
        rewrite(&mut headers, head.status, surroundings, &opened, trail, asked)?;
    }
    if switches {
        handshake::complete(&mut headers);
    }
    let inside = (route.rewrite_json && json::applies(&asked.method, head.status, &headers)).then(|| {
        json::edit_head(&mut headers);
        inside(surroundings, &opened, asked)
    });
    let terms = Terms { packing, forms, inside };
    let mut passed = Passed::new(body, terms, &headers, trail, opened)?;
    if !bodiless {
        passed.read_ahead(&mut headers).await?;
    }
    reply::mark(&mut headers, trail.request_id());
    trail.relayed(head.status.as_u16());
    // Boxed: it is handed on through every layer up to the connection.
    let mut response = Response::new(Box::new(passed));
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// References stay inside relay.
fn rewrite(
    headers: &mut HeaderMap,
    status: StatusCode,
    surroundings: &Surroundings,
    opened: &Opened,
    trail: &Trail,
    asked: &Parts,
) -> Result<(), Refusal> {
    let dropped =
        surroundings.address(opened.grant(), asked, |address| links::rewrite(headers, status, address));
    for dropped in dropped? {
        tracing::debug!(request_id = %trail.request_id(), field = %dropped.field, why = %dropped.why, "a reference was dropped");
    }
    Ok(())
}

impl Surroundings {
    /// What references in a head are judged against, for as long as `judge` takes.
    fn address<T>(&self, grant: &Grant, asked: &Parts, judge: impl FnOnce(&Address<'_>) -> T) -> T {
        let matched = grant.matched();
        let (base_path, target) = (matched.base_path(), known_target(grant));
        let own: Cow<'_, [String]> = match (&self.public_url, asked.headers.get(HOST)) {
            // Where it is not what references are rewritten to, the app's own way to relay still counts.
            (Some(_), Some(host)) => {
                let host = host.to_str().unwrap_or_default().to_owned();
                Cow::Owned(self.own.iter().cloned().chain([host]).collect())
            }
            _ => Cow::Borrowed(&self.own),
        };
        judge(&Address {
            app_base: self.app_base(asked, matched),
            prefix: matched.prefix(),
            origin: &grant.route().origin,
            base_path: &base_path,
            target: &target,
            own: &own,
        })
    }

    /// How the app reached relay with this request, without a slash at its end.
    fn app_base(&self, asked: &Parts, matched: &Matched) -> String {
        let host = asked.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        match &self.public_url {
            // It is the address of the common listener.
            Some(url) if matched.is_by_path() => url.clone(),
            _ => format!("{}://{host}", if matched.is_secure() { "https" } else { "http" }),
        }
    }
}

/// The vendor's path and query as the app knows them: with what it wrote where a credential stands.
fn known_target(grant: &Grant) -> Cow<'_, str> {
    let (matched, route) = (grant.matched(), grant.route());
    if matched.slot().is_empty() && route.parameters().next().is_none() {
        return Cow::Borrowed(grant.target().path_and_query().map_or("/", PathAndQuery::as_str));
    }
    let path = format!("{}{}", matched.base_path(), matched.rest());
    let path = if path.is_empty() { "/".to_owned() } else { path };
    Cow::Owned(matched.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}")))
}

fn inside(surroundings: &Surroundings, opened: &Opened, asked: &Parts) -> json::Inside {
    let grant = opened.grant();
    json::Inside {
        app_base: surroundings.app_base(asked, grant.matched()),
        prefix: grant.matched().prefix(),
        route: grant.route().clone(),
        base_path: grant.matched().base_path().into_owned(),
        target: known_target(grant).into_owned(),
        own: surroundings.own.clone(),
    }
}

#[cfg(not(feature = "leak_for_tests_danger"))]
fn forms<'a>(secrets: impl Iterator<Item = &'a [u8]>, rendered: impl Iterator<Item = &'a [u8]>) -> Forms {
    Forms::of(secrets, rendered)
}

/// The positive control of the canary hunt: nothing is looked for, so everything leaks.
#[cfg(feature = "leak_for_tests_danger")]
fn forms<'a>(_: impl Iterator<Item = &'a [u8]>, _: impl Iterator<Item = &'a [u8]>) -> Forms {
    Forms::of([], [])
}
