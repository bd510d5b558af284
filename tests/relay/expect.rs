use std::time::{Duration, Instant};

use crate::rig::client::Client;
use crate::rig::vendor::{Out, Received, Vendor, more, raw};
use crate::rig::{Rig, Settings};

fn rig(script: impl Fn(&Received, &mut Out<'_>) + Send + Sync + 'static) -> Rig {
    Rig::before(Settings { workers: 1, ..Settings::default() }, Vendor::by_hand(script))
}

fn begin(rig: &Rig, id: &str, fields: &str) -> Client {
    let mut client = rig.client();
    let token = rig.token("acme");
    client.send(&format!(
        "PUT /vendor/{id}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{fields}\r\n"
    ));
    client
}

fn body(request: &Received, out: &mut Out<'_>, length: usize) -> Vec<u8> {
    let mut came = request.body.clone();
    while came.len() < length && more(out, &mut came).is_some() {}
    came
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const WAITS: &str = "content-length: 5\r\nexpect: 100-continue\r\n";

fn outcome(rig: &Rig) -> serde_json::Value {
    let records = rig.audit_until(|records| records.iter().any(|r| r["kind"] == "outcome"));
    records.into_iter().find(|r| r["kind"] == "outcome").unwrap()
}

#[test]
fn the_apps_hundred_follows_the_vendors() {
    let rig = rig(|request, out| {
        assert_eq!(request.header("expect"), Some("100-continue"));
        assert_eq!(request.body, b"", "nothing of the body came unasked");
        std::thread::sleep(Duration::from_millis(300));
        raw(out, b"HTTP/1.1 102 Processing\r\nx-a: b\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </s>\r\n\r\n");
        raw(out, b"HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(body(request, out, 5), b"hello");
        raw(out, b"HTTP/1.1 102 Processing\r\n\r\n");
        raw(out, OK);
    });
    let id = rig.secret("acme");
    let began = Instant::now();
    let mut client = begin(&rig, &id, WAITS);
    let (status, fields) = client.head();
    assert_eq!((status, fields.len()), (100, 0), "other interim answers are not passed");
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(290), "the 100 came before the vendor's");
    assert!(waited < Duration::from_millis(950), "the vendor's 100 is not seen: {waited:?}");
    client.send("hello");
    assert_eq!(client.answer("PUT").text(), "ok");
    // The connection is as good as before.
    client.send("GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.answer("GET").status, 401);
}

#[test]
fn a_vendor_that_never_says_a_hundred_is_waited_for_a_second() {
    let rig = rig(|request, out| {
        assert_eq!(body(request, out, 5), b"hello");
        raw(out, OK);
    });
    let id = rig.secret("acme");
    let began = Instant::now();
    let mut client = begin(&rig, &id, "content-length: 5\r\nExpect: 100-Continue\r\n");
    assert_eq!(client.head().0, 100);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(950) && waited < Duration::from_secs(3), "{waited:?}");
    client.send("hello");
    assert_eq!(client.answer("PUT").text(), "ok");
}

#[test]
fn an_app_that_does_not_wait_loses_nothing() {
    let rig = rig(|request, out| {
        raw(out, b"HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(body(request, out, 5), b"hello");
        raw(out, OK);
    });
    let id = rig.secret("acme");
    let mut client = begin(&rig, &id, WAITS);
    client.send("hello");
    let (status, _) = client.head();
    if status == 100 {
        assert_eq!(client.answer("PUT").text(), "ok");
    } else {
        assert_eq!(status, 200, "RFC 9110 lets the 100 fall away once the body has begun");
    }
}

#[test]
fn a_vendor_that_refuses_is_heard_without_a_hundred_and_gets_no_body() {
    for status in [401, 413, 417] {
        let rig = rig(move |request, out| {
            raw(out, format!("HTTP/1.1 {status} No\r\ncontent-length: 2\r\n\r\nno").as_bytes());
            let came = body(request, out, 1);
            assert_eq!(came, b"", "a body that was not asked for");
        });
        let id = rig.secret("acme");
        let began = Instant::now();
        let mut client = begin(&rig, &id, WAITS);
        let answer = client.answer("PUT");
        assert_eq!((answer.status, answer.text().as_str(), answer.cut), (status, "no", false));
        assert!(client.is_closed(), "{status}: what follows could be a body or a request");
        assert!(began.elapsed() < Duration::from_millis(900), "nobody waited for the second to pass");
        assert_eq!(outcome(&rig)["bytes_in"], 0);
        // The next request has a connection of its own.
        let again = begin(&rig, &id, "content-length: 0\r\n").answer("PUT");
        assert_eq!(again.status, status);
        let connections: Vec<usize> = rig.vendor.requests().iter().map(|r| r.connection).collect();
        assert_eq!(connections, [0, 1]);
    }
}

#[test]
fn a_refusal_of_relay_itself_says_no_hundred() {
    let rig = rig(|_, out| raw(out, OK));
    let mut client = rig.client();
    client.send("PUT /vendor/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n");
    let answer = client.answer("PUT");
    assert_eq!((answer.status, answer.code()), (401, "token_missing"));
    assert!(client.is_closed());
    let mut client = rig.client();
    client.send("PUT /vendor/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: miracles\r\n\r\n");
    let answer = client.answer("PUT");
    assert_eq!((answer.status, answer.code()), (400, "request_malformed"));
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn an_expectation_without_a_body_is_dropped() {
    let rig = rig(|request, out| {
        assert_eq!(request.header("expect"), None);
        raw(out, OK);
    });
    let id = rig.secret("acme");
    let mut client = begin(&rig, &id, "content-length: 0\r\nexpect: 100-continue\r\n");
    assert_eq!(client.answer("PUT").text(), "ok");
}
