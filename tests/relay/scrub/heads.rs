//! Heads: what is removed, what is overwritten, what is refused.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use relay::stage::coding::{Coding, asked};
use relay::stage::scrub::coding::{Unacceptable, readable, whole_only};
use relay::stage::scrub::forms::Forms;
use relay::stage::scrub::head::{scrub_head, strip};

const TOKEN: &[u8] = b"sk-live-0123456789abcdef";

pub(super) fn head(fields: &[(&str, &str)]) -> HeaderMap {
    let mut head = HeaderMap::new();
    for (name, value) in fields {
        head.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    head
}

#[test]
fn fields_that_are_not_the_apps_are_removed() {
    let rows = [
        ("connection", "keep-alive", "hop-by-hop"),
        ("x-secret-hop", "1", "named by the first Connection"),
        ("x-other-hop", "1", "named by the second Connection, in another case, among others"),
        ("keep-alive", "timeout=5", "hop-by-hop"),
        ("proxy-connection", "close", "hop-by-hop in practice"),
        ("te", "trailers", "hop-by-hop"),
        ("trailer", "expires", "hop-by-hop"),
        ("transfer-encoding", "chunked", "framing is relay's own"),
        ("upgrade", "h2c", "hop-by-hop"),
        ("proxy-authenticate", "Basic", "would make a client send proxy credentials"),
        ("proxy-authorization", "Basic x", "hop-by-hop"),
        ("proxy-authentication-info", "x", "hop-by-hop"),
        ("relay-error", "secret_not_found", "a vendor that speaks as relay"),
        ("relay-anything", "x", "any Relay- field"),
        ("proxy-status", "vendor; error=x", "a vendor that speaks as a proxy"),
        ("alt-svc", "h3=\":443\"", "leads the client past relay"),
        ("strict-transport-security", "max-age=1", "binds relay's host name"),
        ("clear-site-data", "\"*\"", "clears the app's data"),
        ("set-cookie", "a=b", "the app's client would keep it for relay's host"),
        ("set-cookie2", "a=b", "the same in its old form"),
    ];
    let mut all: Vec<(&str, &str)> = rows.iter().map(|(name, value, _)| (*name, *value)).collect();
    all.extend([
        ("connection", "x-secret-hop"),
        ("connection", "close , X-Other-Hop,"),
        ("content-type", "text/plain"),
        ("etag", "\"1\""),
        ("www-authenticate", "Bearer"),
        ("x-relay-error", "stays"),
    ]);
    let mut map = head(&all);
    strip(&mut map, false);
    for (name, _, mistake) in rows {
        assert!(!map.contains_key(name), "{name} stayed: {mistake}");
    }
    let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-type", "etag", "www-authenticate", "x-relay-error"]);
}

#[test]
fn cookies_pass_only_where_they_are_switched_on() {
    let mut map = head(&[("set-cookie", "a=b"), ("set-cookie", "c=d"), ("alt-svc", "clear")]);
    strip(&mut map, true);
    assert_eq!(map.get_all("set-cookie").iter().count(), 2);
    assert!(!map.contains_key("alt-svc"));
}

#[test]
fn the_credential_is_overwritten_in_every_value_and_its_name_is_dropped() {
    let forms = Forms::of([TOKEN], []);
    let token = std::str::from_utf8(TOKEN).unwrap();
    let long = format!("a={token}; b={token}{token}");
    let mut map = head(&[
        ("x-echo", token),
        ("x-echo", &long),
        ("x-clean", "sk-live-0123456789abcdeX"),
        ("x-sk-live-0123456789ABCDEF-y", "its name holds the credential"),
    ]);
    assert!(scrub_head(&mut map, &forms));
    let values: Vec<&str> = map.get_all("x-echo").iter().map(|v| v.to_str().unwrap()).collect();
    let wanted = format!("a=[redacted by relay]*****; b=[redacted by relay]{}", "*".repeat(29));
    assert_eq!(values, ["[redacted by relay]*****", wanted.as_str()]);
    assert_eq!(values[1].len(), long.len());
    assert_eq!(map["x-clean"], "sk-live-0123456789abcdeX");
    assert_eq!(map.keys_len(), 2);
}

#[test]
fn a_clean_head_is_left_as_it_is() {
    let mut map = head(&[("x-echo", "nothing here"), ("date", "Tue, 15 Nov 1994 08:12:31 GMT")]);
    let before = map.clone();
    assert!(!scrub_head(&mut map, &Forms::of([TOKEN], [])));
    assert_eq!(map, before);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let coding = Err(Unacceptable::ContentCoding);
    let transfer = Err(Unacceptable::TransferCoding);
    let asked = head(&[("accept-encoding", "gzip, br;q=0, zstd;q=0.5"), ("accept-encoding", "deflate")]);
    let rows = [
        (vec![], Ok(None), "no coding"),
        (vec![("content-encoding", "")], Ok(None), "an empty field"),
        (vec![("content-encoding", "Identity, identity")], Ok(None), "identity in any case, twice"),
        (vec![("content-encoding", "GZip")], Ok(Some(Coding::Gzip)), "asked for, in any case"),
        (vec![("content-encoding", "x-gzip")], Ok(Some(Coding::Gzip)), "by its old name"),
        (vec![("content-encoding", "zstd")], Ok(Some(Coding::Zstd)), "asked for with a weight"),
        (vec![("content-encoding", "deflate")], Ok(Some(Coding::Deflate)), "asked for in a second field"),
        (vec![("content-encoding", "br")], coding, "excluded by its weight"),
        (vec![("content-encoding", "gzip, gzip")], coding, "one on the other"),
        (vec![("content-encoding", "identity, gzip")], coding, "compressed behind identity"),
        (vec![("content-encoding", "identity"), ("content-encoding", "zstd")], coding, "in a second field"),
        (vec![("content-encoding", "made-up")], coding, "an unknown coding"),
        (vec![("transfer-encoding", "chunked")], Ok(None), "chunked is taken off by hyper"),
        (vec![("transfer-encoding", "gzip, chunked")], transfer, "compressed below the chunks"),
    ];
    for (fields, wanted, mistake) in rows {
        assert_eq!(readable(&head(&fields), &asked, false), wanted, "{mistake}");
    }
    let gzip = head(&[("content-encoding", "gzip")]);
    for (asked, ranges, mistake) in [
        (head(&[]), false, "nothing was asked for"),
        (head(&[("accept-encoding", "*")]), false, "anything is not asked for"),
        (head(&[("accept-encoding", "gzip"), ("range", "bytes=0-1")]), true, "a part was asked for"),
        (head(&[("accept-encoding", "gzip"), ("content-type", "application/grpc")]), false, "gRPC"),
    ] {
        assert_eq!(readable(&gzip, &asked, ranges), coding, "{mistake}");
    }
}

#[test]
fn the_vendor_is_asked_for_what_the_app_accepts_and_relay_can_read() {
    let rows: [(&[(&str, &str)], bool, &str, &str); 12] = [
        (&[], false, "identity", "nothing"),
        (&[("accept-encoding", "gzip")], false, "gzip", "one"),
        (&[("accept-encoding", "gzip, deflate, br, zstd")], false, "gzip, deflate, br, zstd", "a browser"),
        (
            &[("accept-encoding", "br;q=1.0, gzip;q=0.5, *;q=0")],
            false,
            "br;q=1.0, gzip;q=0.5",
            "weights stay",
        ),
        (&[("accept-encoding", "compress, GZIP")], false, "GZIP", "one that relay cannot read"),
        (&[("accept-encoding", "compress")], false, "identity", "only such"),
        (&[("accept-encoding", "*")], false, "identity", "anything"),
        (&[("accept-encoding", "gzip;q=0, identity")], false, "identity", "not compressed"),
        (&[("accept-encoding", "gzip;q=0.0")], false, "identity", "excluded"),
        (&[("accept-encoding", "gzip"), ("accept-encoding", "br")], false, "gzip, br", "two fields"),
        (&[("accept-encoding", "gzip"), ("range", "bytes=0-1")], true, "identity", "a part"),
        (
            &[("accept-encoding", "gzip"), ("content-type", "application/grpc+proto")],
            false,
            "identity",
            "gRPC",
        ),
    ];
    for (fields, ranges, wanted, mistake) in rows {
        assert_eq!(asked(&head(fields), ranges), wanted, "{mistake}");
    }
}

#[test]
fn a_part_of_what_was_asked_for_whole_is_refused() {
    let part = Err(Unacceptable::Partial);
    let rows = [
        (200, vec![("content-type", "text/plain")], Ok(()), "whole"),
        (206, vec![], part, "partial by its status"),
        (200, vec![("content-range", "bytes 0-1/9")], part, "partial by its range"),
        (200, vec![("content-type", "Multipart/ByteRanges; boundary=x")], part, "partial by its type"),
    ];
    for (status, fields, wanted, mistake) in rows {
        assert_eq!(whole_only(StatusCode::from_u16(status).unwrap(), &head(&fields)), wanted, "{mistake}");
    }
}
