/// What the gate passes, hyper frames identically.
mod gate;
/// What an app sends reaches the vendor framed as one request, and the connection lasts as its answer says.
mod requests;
/// What a vendor frames badly is a visible failure, and its connection is not used again.
mod vendors;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use relay::refusal::Code;

use crate::corpus::{Caller, Outcome, rows};
use crate::refusals::refused;
use crate::rig::vendor;
use crate::rig::{Rig, Settings};

fn caller(rig: &Rig) -> Caller {
    Caller { path: format!("/vendor/{}", rig.secret("acme")), token: rig.token("acme") }
}

/// What the vendor got since this was last asked.
fn received(rig: &Rig) -> Vec<Outcome> {
    let received: Vec<_> = rig.vendor.received.lock().unwrap().drain(..).collect();
    assert!(received.iter().all(|request| request.header("upgrade").is_none()));
    received.into_iter().map(|r| Outcome::Passed(r.line().replacen("/base", "", 1), r.body)).collect()
}

/// Sends one row's bytes behind `before`, checks each answer, and that the vendor got what passed and no more.
fn check(rig: &Rig, mistake: &str, before: &[Outcome], bytes: &[u8], expected: &[Outcome]) {
    let expected = [before, expected].concat();
    let mut client = rig.client();
    client.send_bytes(bytes);
    for outcome in &expected {
        match outcome {
            Outcome::Passed(line, _) => {
                let answer = client.answer(line.split(' ').next().unwrap());
                assert_eq!(answer.status, 200, "{mistake}: {}", answer.text());
            }
            Outcome::Refused(code) => {
                let answer = client.answer("GET");
                assert_eq!(answer.code(), *code, "{mistake}: {} {}", answer.status, answer.text());
                refused(&answer, *Code::ALL.iter().find(|known| known.as_str() == *code).unwrap());
                assert_eq!(answer.header("connection"), Some("close"), "{mistake}");
                assert!(client.is_closed(), "{mistake}: the connection stays open");
            }
        }
    }
    let passed: Vec<Outcome> =
        expected.into_iter().filter(|outcome| matches!(outcome, Outcome::Passed(..))).collect();
    assert_eq!(received(rig), passed, "{mistake}");
}

#[test]
fn each_request_of_the_corpus_is_passed_or_refused_by_relay_itself() {
    let rig = Rig::plain();
    let caller = caller(&rig);
    let (mut malformed, mut good, mut mistakes) = (0, 0, BTreeSet::new());
    for row in rows(&caller) {
        check(&rig, &row.mistake, &[], &row.bytes, &row.expected);
        if row.expected.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))) {
            malformed += 1;
        } else {
            good += 1;
        }
        assert!(mistakes.insert(row.mistake.clone()), "{} twice", row.mistake);
    }
    assert!(malformed >= 300 && good >= 40, "{malformed} malformed, {good} good");
}

#[test]
fn a_malformed_request_behind_a_good_one_is_refused_in_its_turn() {
    let rig = Rig::plain();
    let caller = caller(&rig);
    let before = format!(
        "POST {}/before HTTP/1.1\r\nhost: relay.test\r\nauthorization: Bearer {}\r\ncontent-length: 3\r\n\r\nabc",
        caller.path, caller.token
    );
    let first = [Outcome::Passed("POST /before".to_owned(), b"abc".to_vec())];
    for row in rows(&caller) {
        check(&rig, &row.mistake, &first, &[before.as_bytes(), &row.bytes].concat(), &row.expected);
    }
}

#[test]
fn a_refusal_for_framing_is_counted_and_leaves_nothing_in_the_audit() {
    let rig = Rig::plain();
    let mut client = rig.client();
    client.send("GET / HTTP/1.1\n\n");
    refused(&client.answer("GET"), Code::RequestMalformed);
    let metrics = rig.running().metrics().render();
    assert!(metrics.contains("relay_denied_total{reason=\"request_malformed\"} 1"), "{metrics}");
    assert!(rig.audit().iter().all(|record| record["kind"] != "refused"), "{:?}", rig.audit());
}

#[test]
fn a_fault_in_the_middle_of_a_body_never_completes_the_request() {
    let rig = Rig::plain();
    let caller = caller(&rig);
    let head = format!(
        "POST {}/x HTTP/1.1\r\nhost: relay.test\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        caller.path, caller.token
    );
    for fault in ["zz\r\n", "5\n", "5\r\nhello\n", "5\r\nhelloo", "0\n", "0\r\n\n", "0\r\n x\r\n"] {
        let mut client = rig.client();
        client.send(&format!("{head}5\r\nhello\r\n"));
        std::thread::sleep(Duration::from_millis(30));
        client.send(fault);
        refused(&client.answer("POST"), Code::RequestMalformed);
        assert!(client.is_closed(), "{fault:?}");
    }
    assert_eq!(received(&rig), []);
    let outcomes = rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == 7);
    assert!(outcomes.iter().filter(|r| r["kind"] == "outcome").all(|r| r["code"] == "request_malformed"));
}

#[test]
fn a_fault_in_a_body_behind_the_answers_head_breaks_the_connection() {
    let rig = Rig::before(
        Settings::default(),
        vendor::Vendor::by_hand(|_, out| {
            vendor::raw(out, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        }),
    );
    let caller = caller(&rig);
    let mut client = rig.client();
    client.send(&format!(
        "POST {}/x HTTP/1.1\r\nhost: relay.test\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        caller.path, caller.token
    ));
    assert_eq!(client.head().0, 200);
    client.send("zz\r\n");
    while client.more() {}
    assert!(client.taken().len() < 10, "the answer is cut");
}

#[test]
fn bytes_of_the_next_request_wait_for_the_answer() {
    let rig = Rig::answering(|request, out| {
        if request.target().ends_with("/slow") {
            std::thread::sleep(Duration::from_millis(300));
        }
        vendor::answer(out, 200, &[], request.target().as_bytes());
    });
    let caller = caller(&rig);
    let get = |path: &str| {
        format!(
            "GET {}{path} HTTP/1.1\r\nhost: relay.test\r\nauthorization: Bearer {}\r\n\r\n",
            caller.path, caller.token
        )
    };
    let mut client = rig.client();
    client.send(&format!("{}{}", get("/slow"), get("/quick")));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(received(&rig).len(), 1, "the second waits");
    assert_eq!(client.answer("GET").text(), "/base/slow");
    assert_eq!(client.answer("GET").text(), "/base/quick");
    // In pieces, across the end of the first answer.
    let both = format!("{}{}", get("/slow"), get("/quick"));
    let (first, rest) = both.split_at(both.len() - 40);
    client.send(first);
    std::thread::sleep(Duration::from_millis(500));
    client.send(rest);
    assert_eq!(client.answer("GET").text(), "/base/slow");
    assert_eq!(client.answer("GET").text(), "/base/quick");
}

#[test]
fn an_app_that_goes_away_ends_its_request_also_with_another_behind_it() {
    for behind in ["", "GET /later HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let rig = Rig::before(
            Settings::default(),
            vendor::Vendor::by_hand(|_, out| {
                // Waits for relay's goodbye or its reset.
                vendor::more(out, &mut Vec::new());
            }),
        );
        let caller = caller(&rig);
        let client = rig.client();
        let head = format!(
            "GET {}/x HTTP/1.1\r\nhost: relay.test\r\nauthorization: Bearer {}\r\n\r\n{behind}",
            caller.path, caller.token
        );
        (&client.stream).write_all(head.as_bytes()).unwrap();
        let begun = Instant::now();
        while rig.vendor.requests().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(5), "the vendor was asked");
            std::thread::sleep(Duration::from_millis(5));
        }
        client.stream.shutdown(Shutdown::Write).unwrap();
        rig.audit_until(|records| records.iter().any(|r| r["kind"] == "outcome"));
        assert!(begun.elapsed() < Duration::from_secs(5), "behind it {behind:?}");
    }
}

#[test]
fn a_head_that_does_not_end_in_time_is_cut() {
    let server = "[server.limits]\nhead_timeout = \"1s\"\n".to_owned();
    let rig =
        Rig::with(Settings { server, ..Settings::default() }, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let caller = caller(&rig);
    for first in [true, false] {
        let mut client = rig.client();
        if !first {
            client.send(&format!(
                "GET {}/x HTTP/1.1\r\nhost: relay.test\r\nauthorization: Bearer {}\r\n\r\n",
                caller.path, caller.token
            ));
            assert_eq!(client.answer("GET").status, 200);
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(8) && client.stream.write_all(b"X").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
        let cut = begun.elapsed();
        assert!((1..6).contains(&cut.as_secs()), "cut after {cut:?}, first {first}");
    }
}

#[test]
fn an_app_that_still_sends_sees_why_it_was_refused() {
    let rig = Rig::plain();
    let mut client = rig.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 200000\r\n\r\n");
    for _ in 0..20 {
        client.send_bytes(&[b'x'; 10_000]);
        std::thread::sleep(Duration::from_millis(2));
    }
    refused(&client.answer("POST"), Code::RequestMalformed);
}
