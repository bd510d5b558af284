use std::sync::Mutex;

use relay::refusal::Code;

use crate::refusals::refused;
use crate::rig::vendor::{self, Vendor, raw};
use crate::rig::{Rig, Settings};

/// Answers to a GET, and to a HEAD, that are no whole well-formed answer.
const BROKEN: [(&str, &str); 41] = [
    (
        "two answers",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    ),
    ("surplus bytes", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!"),
    ("a surplus line end", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\r\n"),
    ("content where none is announced", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nok"),
    ("content behind 204", "HTTP/1.1 204 No Content\r\n\r\nok"),
    ("content behind 304", "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok"),
    ("surplus behind chunks", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n!"),
    ("a length on 204", "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n"),
    ("chunks on 204", "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n"),
    ("an unasked 101", "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
    ("two equal lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"),
    ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
    ("a list of lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok"),
    ("a signed length", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"),
    ("a length in hexadecimal", "HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nok"),
    ("an empty length", "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nok"),
    (
        "a length beside chunked",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked beside a length",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked twice",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a coding before chunked", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("another coding", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok"),
    ("chunks by HTTP/1.0", "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a folded line", "HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 0\r\n\r\n"),
    ("a folded line by a tab", "HTTP/1.1 200 OK\r\nx: y\r\n\tz\r\ncontent-length: 0\r\n\r\n"),
    ("LF behind a field", "HTTP/1.1 200 OK\r\nx: y\ncontent-length: 0\r\n\r\n"),
    ("LF behind the status line", "HTTP/1.1 200 OK\ncontent-length: 0\r\n\r\n"),
    ("LF everywhere", "HTTP/1.1 200 OK\ncontent-length: 0\n\n"),
    ("CR inside a value", "HTTP/1.1 200 OK\r\nx: y\rz: y\r\ncontent-length: 0\r\n\r\n"),
    ("a space before the colon", "HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n"),
    ("a field without a name", "HTTP/1.1 200 OK\r\n: x\r\ncontent-length: 0\r\n\r\n"),
    ("a field without a colon", "HTTP/1.1 200 OK\r\nx\r\ncontent-length: 0\r\n\r\n"),
    ("a NUL in a value", "HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 0\r\n\r\n"),
    ("an empty line before the answer", "\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ("HTTP/2.0", "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ("HTTP/0.9", "ok"),
    ("http in small letters", "http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ("a status of two digits", "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n"),
    ("a status of four digits", "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n"),
    ("two spaces before the status", "HTTP/1.1  200 OK\r\ncontent-length: 0\r\n\r\n"),
    (
        "a bad chunk in the first read",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
    ),
    ("a request", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
];

/// Parts of one answer, each in a read of its own: the last one breaks it, or is missing.
const CUT: [(&str, &[&str]); 15] = [
    (
        "surplus with the last bytes",
        &["HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf", "halfHTTP/1.1 200 OK\r\n"],
    ),
    ("one byte too many", &["HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf", "halfx"]),
    ("fewer bytes than announced", &["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "half"]),
    (
        "chunks without an end",
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "4\r\nhalf\r\n"],
    ),
    (
        "an end without its last line",
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "0\r\n"],
    ),
    (
        "surplus behind the last chunk",
        &[
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ],
    ),
    ("a size that is none", &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "x\r\n"]),
    (
        "a size with a sign",
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "+4\r\nhalf\r\n0\r\n\r\n"],
    ),
    (
        "a size with a space",
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "4 \r\nhalf\r\n0\r\n\r\n"],
    ),
    (
        "a size beyond 64 bits",
        &[
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "10000000000000004\r\nhalf\r\n0\r\n\r\n",
        ],
    ),
    (
        "a chunk longer than its size",
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "4\r\nhalff\r\n0\r\n\r\n"],
    ),
    (
        "LF behind a size",
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "4\nhalf\r\n0\r\n\r\n"],
    ),
    (
        "LF for the last line",
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "0\r\n\n"],
    ),
    (
        "a folded trailer",
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "0\r\nx: y\r\n z\r\n\r\n"],
    ),
    (
        "a length in a trailer",
        &[
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "0\r\ncontent-length: 4\r\n\r\n",
        ],
    ),
];

/// A relay with one worker, so that a connection that was kept would be used again.
fn before(vendor: Vendor) -> Rig {
    Rig::before(Settings { workers: 1, ..Settings::default() }, vendor)
}

/// The next request must be on a connection of its own.
fn is_fresh_afterwards(rig: &Rig, id: &str, mistake: &str) {
    let broken = rig.vendor.last().connection;
    assert_eq!(rig.get(&format!("/vendor/{id}/good"), &rig.token("acme")).text(), "good", "{mistake}");
    assert_ne!(rig.vendor.last().connection, broken, "{mistake}: the connection was used again");
}

#[test]
fn an_answer_that_is_framed_badly_is_a_502() {
    let rig = before(Vendor::start(|request, out| {
        let row: Option<usize> = request.target().rsplit('/').next().unwrap().parse().ok();
        match row {
            Some(row) => raw(out, BROKEN[row].1.as_bytes()),
            None => vendor::answer(out, 200, &[], b"good"),
        }
    }));
    let id = rig.secret("acme");
    for (row, (mistake, _)) in BROKEN.iter().enumerate() {
        let answer = rig.get(&format!("/vendor/{id}/{row}"), &rig.token("acme"));
        assert_eq!(answer.code(), "vendor_broken", "{mistake}: {} {}", answer.status, answer.text());
        refused(&answer, Code::VendorBroken);
        is_fresh_afterwards(&rig, &id, mistake);
    }
}

#[test]
fn content_behind_the_head_that_a_head_request_asked_for_is_a_502() {
    let rig = before(Vendor::start(|request, out| match request.target() {
        "/base/good" => vendor::answer(out, 200, &[], b"good"),
        "/base/fine" => raw(out, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        _ => raw(out, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    }));
    let id = rig.secret("acme");
    let auth = format!("Bearer {}", rig.token("acme"));
    let head = |path: &str| {
        rig.client().request("HEAD", &format!("/vendor/{id}/{path}"), &[("authorization", &auth)], b"")
    };
    assert_eq!(head("fine").header("content-length"), Some("2"));
    assert_eq!(head("more").code(), "vendor_broken");
    is_fresh_afterwards(&rig, &id, "content behind HEAD");
}

#[test]
fn an_answer_that_goes_wrong_behind_its_head_never_ends_cleanly() {
    // The second part goes out when the app has the first one.
    let (told, hears) = std::sync::mpsc::channel::<()>();
    let hears = Mutex::new(hears);
    let rig = before(Vendor::start(move |request, out| {
        let row: Option<usize> = request.target().rsplit('/').next().unwrap().parse().ok();
        let Some(row) = row else { return vendor::answer(out, 200, &[], b"good") };
        let [first, second] = CUT[row].1 else { unreachable!() };
        raw(out, first.as_bytes());
        hears.lock().unwrap().recv().unwrap();
        raw(out, second.as_bytes());
        if ["fewer", "chunks without", "an end without"].iter().any(|start| CUT[row].0.starts_with(start)) {
            out.conn.send_close_notify();
            raw(out, b"");
            let _ = out.sock.shutdown(std::net::Shutdown::Both);
        }
    }));
    let id = rig.secret("acme");
    for (row, (mistake, _)) in CUT.iter().enumerate() {
        let mut client = rig.client();
        client.send(&format!(
            "GET /vendor/{id}/{row} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n",
            rig.token("acme")
        ));
        let (status, fields) = client.head();
        assert_eq!(status, 200, "{mistake}");
        told.send(()).unwrap();
        while client.more() {}
        let rest = client.taken();
        let chunked = fields.iter().any(|(name, _)| name == "transfer-encoding");
        let ends = if chunked {
            rest.ends_with(b"0\r\n\r\n")
        } else {
            rest.len() >= 8 && !mistake.starts_with("fewer")
        };
        assert!(!ends, "{mistake}: {}", rest.escape_ascii());
        is_fresh_afterwards(&rig, &id, mistake);
    }
}

#[test]
fn surplus_behind_an_answer_that_fills_the_buffer_is_found() {
    // Of any size round the sizes that buffers have.
    let rig = before(Vendor::start(|request, out| {
        let Ok(size) = request.target().rsplit('/').next().unwrap().parse::<usize>() else {
            return vendor::answer(out, 200, &[], b"good");
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
        raw(out, &[head.as_bytes(), &vec![b'x'; size], b"!"].concat());
    }));
    let id = rig.secret("acme");
    for buffer in [4096_usize, 8192, 16384, 32768, 36864] {
        for size in (buffer - 60..buffer).chain([buffer]) {
            let answer = rig.get(&format!("/vendor/{id}/{size}"), &rig.token("acme"));
            assert!(answer.status == 502 || answer.cut, "{size} bytes and one more: {}", answer.status);
        }
    }
    is_fresh_afterwards(&rig, &id, "surplus");
}

#[test]
fn answers_of_every_kind_pass_and_their_connection_is_used_again() {
    const GOOD: [&str; 8] = [
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood",
        "HTTP/1.1 200\r\nContent-Length: 4\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n2;a=b\r\ngo\r\n2\r\nod\r\n0\r\nx: y\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\n",
        "HTTP/1.1 999 Odd \u{e9}\r\nx: \u{e9}\r\ncontent-length: 0\r\n\r\n",
    ];
    let rig = before(Vendor::start(|request, out| {
        let row: usize = request.target().rsplit('/').next().unwrap().parse().unwrap();
        raw(out, GOOD[row].as_bytes());
    }));
    let id = rig.secret("acme");
    for _ in 0..3 {
        for row in 0..GOOD.len() {
            let answer = rig.get(&format!("/vendor/{id}/{row}"), &rig.token("acme"));
            assert_eq!(answer.code(), "", "{row}: {}", answer.text());
            assert_eq!(answer.text(), if answer.status == 200 { "good" } else { "" }, "{row}");
        }
    }
    let used: Vec<usize> = rig.vendor.requests().iter().map(|request| request.connection).collect();
    assert!(used.iter().all(|connection| *connection == 0), "one connection for all: {used:?}");
}
