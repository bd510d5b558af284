//! A request's target: what goes to the vendor stays below the base path, byte for byte as it came, and what
//! is denied stays denied however it is written.
//!
//! Input: `target \n rule \n host`.

use http::{Method, Request, Uri};
use relay::config::rule::Rule;
use relay::stage::probe;
use relay::stage::route::{Entrance, route};
use url::Url;

use super::place::{BASE, ROUTES, TOKEN, VENDOR, the_route};

pub fn run(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let rule = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let host = lines.next().unwrap_or(b"relay.test");
    let Ok(uri) = Uri::try_from(target) else { return };
    let Ok(request) = Request::get(uri.clone()).header("host", host).body(()) else { return };
    let Ok(matched) = route(&ROUTES, &Entrance::default(), &request.into_parts().0) else { return };
    assert!(matched.asked_for().chars().count() <= 40);
    let path = uri.path();
    assert!(
        path.starts_with(&matched.prefix()) || matched.prefix().contains('/'),
        "the prefix is the path's"
    );
    assert!(path.ends_with(matched.rest()), "the rest is the path's own end");
    assert_eq!(matched.query(), uri.query());
    let rest = matched.rest().to_owned();
    if matched.route().is_none() {
        return;
    }
    TOKEN.with(|(token, text)| {
        let Ok(sent) = probe::target(the_route(), &matched, token) else { return };
        stays_inside(&sent, &rest, uri.query());
        assert!(!sent.to_string().contains(text.as_str()), "the caller's token is in the target");
        if let Some((rule, text)) = rule.and_then(|text| Some((Rule::parse(text).ok()?, text))) {
            denied_stays_denied(&rule, text, &rest);
        }
    });
}

fn stays_inside(sent: &Uri, rest: &str, query: Option<&str>) {
    assert!(sent.scheme().is_none() && sent.authority().is_none(), "the origin is never the app's");
    assert_eq!(sent.path(), format!("{BASE}{rest}"), "the path goes out as it came");
    assert_eq!(sent.query(), query);
    let below = |path: &str| path == BASE || path.starts_with(&format!("{BASE}/"));
    assert!(below(sent.path()));
    let mut written = sent.path().to_owned();
    for _ in 0..3 {
        assert!(!written.contains('\\') && !written.bytes().any(|b| b.is_ascii_control()), "{written:?}");
        let read = Url::parse(&format!("{VENDOR}{written}")).expect("a URL");
        assert!(below(read.path()), "a browser reads {} for {written}", read.path());
        let segments = |text: &str| text.split('/').count();
        assert_eq!(segments(read.path()), segments(written.split(['?', '#']).next().unwrap()), "{written}");
        written = percent_decoded(&written);
        if written.contains(['?', '#']) {
            // What stands behind is a query to whoever decodes that far.
            written.truncate(written.find(['?', '#']).unwrap());
        }
    }
}

/// What is denied as plain text is denied however it is escaped, up to twice over, and with one slash more.
///
/// Only text without escapes says what a rule means: `*` and a letter may also cover the half of an escape.
fn denied_stays_denied(rule: &Rule, text: &str, rest: &str) {
    assert!(
        rule.denies(&Method::GET, rest) || !rule.matches(&Method::GET, rest),
        "what a rule covers it denies"
    );
    let twice = |text: &str| percent_decoded(&percent_decoded(text));
    let whole = twice(rest);
    // A slash or a semicolon in a segment is a byte like others to whoever decodes segment by segment.
    let names =
        rest.split('/').filter_map(|segment| segment.split(';').next()).filter(|name| !name.is_empty());
    let apart: String = names.map(|name| format!("/{}", twice(name).replace(['/', ';'], "\x01"))).collect();
    let denied = |plain: &str| !plain.contains('%') && !plain.is_empty() && rule.denies(&Method::GET, plain);
    if !denied(&whole) && !denied(&apart) {
        return;
    }
    assert!(rule.denies(&Method::GET, rest), "{whole} or {apart} is denied, {rest} is not");
    for (at, byte) in rest.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_alphanumeric()) {
        if rest.get(at.saturating_sub(2)..at).unwrap_or_default().contains('%') {
            continue;
        }
        let escaped = format!("{}%{byte:02X}{}", &rest[..at], &rest[at + 1..]);
        assert!(rule.denies(&Method::GET, &escaped), "{rest} is denied, {escaped} is not");
    }
    // An empty segment may be what `*` stood for, also one with parameters alone; then one more of them is
    // another path. Where a rule has parameters itself, `*` may stand for a part of others.
    let names_all =
        |plain: &str| !plain.split('/').skip(1).any(|name| name.is_empty() || name.starts_with(';'));
    if text.contains([';', '%']) || !(denied(&apart) || names_all(&whole)) {
        return;
    }
    let doubled = rest.replacen('/', "//", 1);
    assert!(rule.denies(&Method::GET, &doubled), "{rest} is denied, {doubled} is not");
}

/// A decoder of this file's own.
fn percent_decoded(text: &str) -> String {
    let (mut out, bytes) = (Vec::new(), text.as_bytes());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = escaped.filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
        match escaped.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
