//! How relay frames what it sends to a vendor, and how long a connection lasts behind it.

use crate::rig::vendor::{Vendor, answer, raw};
use crate::rig::{Rig, Settings};

fn before(vendor: Vendor) -> Rig {
    Rig::before(Settings { workers: 1, ..Settings::default() }, vendor)
}

/// An app's method, head and body; how the vendor must find the body framed, and the body itself.
const SENT: [(&str, &str, &str, &[&str], &str, &str); 11] = [
    ("no body grows one", "GET", "", &[], "", ""),
    ("a POST of nothing has no length", "POST", "content-length: 0\r\n", &[], "content-length: 0", ""),
    ("chunks of nothing are chunks", "POST", "transfer-encoding: chunked\r\n", &["0\r\n\r\n"], "?", ""),
    ("a GET's empty chunks go on", "GET", "transfer-encoding: chunked\r\n", &["0\r\n\r\n"], "?", ""),
    ("a length is lost", "PUT", "content-length: 5\r\n", &["hello"], "content-length: 5", "hello"),
    (
        "a length in pieces ends early",
        "PUT",
        "content-length: 5\r\n",
        &["he", "llo"],
        "content-length: 5",
        "hello",
    ),
    ("a GET's body is dropped", "GET", "content-length: 5\r\n", &["hello"], "content-length: 5", "hello"),
    (
        "a GET's chunks are dropped",
        "GET",
        "transfer-encoding: chunked\r\n",
        &["5\r\nhello\r\n", "0\r\n\r\n"],
        "transfer-encoding: chunked",
        "hello",
    ),
    (
        "chunks are framed wrongly",
        "POST",
        "transfer-encoding: chunked\r\n",
        &["5\r\nhello\r\n", "1\r\n \r\n", "5;x=y\r\nthere\r\n0\r\n\r\n"],
        "transfer-encoding: chunked",
        "hello there",
    ),
    (
        "trailers go on",
        "POST",
        "transfer-encoding: chunked\r\n",
        &["5\r\nhello\r\n0\r\nx-trailer: y\r\n\r\n"],
        "transfer-encoding: chunked",
        "hello",
    ),
    ("a DELETE's body is dropped", "DELETE", "content-length: 2\r\n", &["{}"], "content-length: 2", "{}"),
];

#[test]
fn a_vendor_reads_the_body_that_the_app_sent_and_the_next_request_behind_it() {
    let rig = before(Vendor::start(|_, out| answer(out, 200, &[], b"ok")));
    let id = rig.secret("acme");
    let token = rig.token("acme");
    for (mistake, method, fields, pieces, framed, body) in SENT {
        let mut client = rig.client();
        client.send(&format!(
            "{method} /vendor/{id}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{fields}\r\n"
        ));
        for piece in pieces {
            std::thread::sleep(std::time::Duration::from_millis(20));
            client.send(piece);
        }
        assert_eq!(client.answer(method).status, 200, "{mistake}");
        let read = rig.vendor.last();
        assert_eq!(String::from_utf8_lossy(&read.body), body, "{mistake}");
        let framing: Vec<&str> = read
            .head
            .lines()
            .filter(|line| line.starts_with("content-length") || line.starts_with("transfer-encoding"))
            .collect();
        if framed != "?" {
            assert_eq!(framing.join(", "), framed, "{mistake}");
        }
        assert!(!read.head.contains("x-trailer"), "{mistake}");
    }
    // Had one of them been framed wrongly, the vendor would have closed or misread what came behind it.
    assert_eq!(rig.vendor.requests().len(), SENT.len());
    assert_eq!(rig.vendor.last().connection, 0, "one connection carried all of them");
}

#[test]
fn a_connection_lasts_as_long_as_its_answer_says() {
    const ROWS: [(&str, &str, bool); 7] = [
        ("HTTP/1.1 ends by itself", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        ("close is not heard", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", false),
        ("Close in a list", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x, Close\r\n\r\n", false),
        (
            "a second field",
            "HTTP/1.1 200 OK\r\nconnection: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            false,
        ),
        ("HTTP/1.0 lasts by itself", "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", false),
        (
            "keep-alive is not heard",
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: Keep-Alive\r\n\r\n",
            true,
        ),
        (
            "an interim answer's close",
            "HTTP/1.1 103 Early\r\nconnection: close\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            true,
        ),
    ];
    let rig = before(Vendor::start(|request, out| {
        let row: Option<usize> = request.target().rsplit('/').next().unwrap().parse().ok();
        raw(out, ROWS[row.unwrap_or(0)].1.as_bytes());
    }));
    let id = rig.secret("acme");
    for (row, (mistake, _, lasts)) in ROWS.iter().enumerate() {
        let ask = |path: &str| {
            assert_eq!(rig.get(&format!("/vendor/{id}/{path}"), &rig.token("acme")).status, 200, "{mistake}");
            rig.vendor.last().connection
        };
        let (first, second) = (ask(&row.to_string()), ask("next"));
        assert_eq!(first == second, *lasts, "{mistake}");
    }
}

#[test]
fn an_answers_interim_ones_and_head_are_bounded() {
    let rig = before(Vendor::start(|request, out| {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n";
        let text = match request.target().rsplit('/').next().unwrap() {
            "interim16" => "HTTP/1.1 103 Early\r\n\r\n".repeat(16) + ok + "\r\n",
            "interim17" => "HTTP/1.1 103 Early\r\n\r\n".repeat(17) + ok + "\r\n",
            "head31k" => format!("{ok}x: {}\r\n\r\n", "y".repeat(31 * 1024)),
            "head33k" => format!("{ok}x: {}\r\n\r\n", "y".repeat(33 * 1024)),
            "fields100" => format!("{ok}{}\r\n", "x: y\r\n".repeat(99)),
            "fields101" => format!("{ok}{}\r\n", "x: y\r\n".repeat(100)),
            _ => ok.to_owned() + "\r\n",
        };
        raw(out, text.as_bytes());
    }));
    let id = rig.secret("acme");
    for (path, passes) in [
        ("interim16", true),
        ("interim17", false),
        ("head31k", true),
        ("head33k", false),
        ("fields100", true),
        ("fields101", false),
    ] {
        let answer = rig.get(&format!("/vendor/{id}/{path}"), &rig.token("acme"));
        assert_eq!(answer.code(), if passes { "" } else { "vendor_broken" }, "{path}");
    }
}
