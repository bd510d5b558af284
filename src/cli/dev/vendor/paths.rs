//! Which path of the built-in vendor does what.
//!
//! Each misbehaviour has a path of its own, so that a curl line shows what relay makes of it. What must
//! never enter: behaviour that depends on anything but the request.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, LINK, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::feed::{self, Body};
use super::{Desk, Seen, bulk, echo, sdk};
use crate::clock;

const PAGES: u64 = 3;

/// Answers one request, after telling who watches that it came.
pub(super) async fn answer(desk: &Desk, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    (desk.seen)(Seen {
        method: head.method.to_string(),
        path: desk.accepted.without(head.uri.path()),
        authorization: echo::authorization(desk, &head.headers),
        your_token_reached_me: echo::token_reached(&head),
    });
    let query = head.uri.query().unwrap_or_default();
    let path = head.uri.path();
    if let Some(status) = path.strip_prefix("/fail/") {
        return fail(status);
    }
    match path {
        "/sse" => sse(query),
        "/pages" => pages(desk, &head),
        "/redirect" => redirect("/hello"),
        "/redirect/away" => redirect("https://elsewhere.example/hello"),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(number(query, "ms", 1_000))).await;
            echo::answer(desk, &head, body).await
        }
        "/drop" => drop_off(),
        "/bytes" => bulk::bytes(number(query, "n", 1_024)),
        "/count" => bulk::count(body).await,
        "/echo" => bulk::duplex(&head.headers, body),
        _ => match sdk::Call::of(&head.method, path) {
            Some(call) => sdk::answer(desk, call, &head, body).await,
            None => echo::answer(desk, &head, body).await,
        },
    }
}

fn sse(query: &str) -> Response<Body> {
    let of = number(query, "n", 5);
    let mut event = 0;
    feed::events(Duration::from_millis(number(query, "ms", 200)), move || {
        event += 1;
        let data = json!({ "event": event, "of": of, "sent_unix_ms": clock::unix_millis() });
        (event <= of).then(|| format!("id: {event}\ndata: {data}\n\n"))
    })
}

/// Three pages that name each other by absolute URLs (RFC 8288), as most paging APIs do.
fn pages(desk: &Desk, head: &Parts) -> Response<Body> {
    let page = number(head.uri.query().unwrap_or_default(), "page", 1).clamp(1, PAGES);
    let items: Vec<u64> = (1..=3).map(|item| (page - 1) * 3 + item).collect();
    let mut response = feed::json(StatusCode::OK, &json!({ "page": page, "of": PAGES, "items": items }));
    let own = format!("https://{}{}", authority(desk, &head.headers), head.uri.path());
    let mut links = vec![format!("<{own}?page=1>; rel=\"first\"")];
    if page > 1 {
        links.push(format!("<{own}?page={}>; rel=\"prev\"", page - 1));
    }
    if page < PAGES {
        links.push(format!("<{own}?page={}>; rel=\"next\"", page + 1));
    }
    if let Ok(value) = HeaderValue::from_str(&links.join(", ")) {
        response.headers_mut().insert(LINK, value);
    }
    response
}

/// What the request calls this server, else its address.
fn authority<'a>(desk: &'a Desk, headers: &'a HeaderMap) -> &'a str {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok());
    host.filter(|host| host.parse::<http::uri::Authority>().is_ok()).unwrap_or(&desk.authority)
}

fn redirect(to: &'static str) -> Response<Body> {
    let mut response = feed::json(StatusCode::FOUND, &json!({ "redirect": to }));
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    response
}

/// Fails as told. 429 and 503 say when to come again, as vendors do.
fn fail(status: &str) -> Response<Body> {
    let told = status.parse::<u16>().ok().filter(|status| (200..600).contains(status));
    let Some(status) = told.and_then(|status| StatusCode::from_u16(status).ok()) else {
        let words = json!({ "error": "ask for /fail/STATUS with a status from 200 to 599" });
        return feed::json(StatusCode::BAD_REQUEST, &words);
    };
    let words = format!("asked to answer {}", status.as_u16());
    let mut response = feed::json(status, &json!({ "error": words }));
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        *response.body_mut() = feed::zeros(0);
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Promises 64 KiB, sends some, and closes the connection.
fn drop_off() -> Response<Body> {
    let start = Bytes::from_static(b"this answer breaks off in its mid");
    let mut response = feed::flowing(StatusCode::OK, "text/plain", feed::breaking(start));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("65536"));
    response
}

/// The number that a query gives to `name`, else `otherwise`.
fn number(query: &str, name: &str, otherwise: u64) -> u64 {
    let given = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    given.and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}
