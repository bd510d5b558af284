use std::io::{Read, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relay::refusal::Code;

use crate::refusals::refused;
use crate::rig::client::Client;
use crate::rig::vendor::{Vendor, answer, more, raw};
use crate::rig::{Rig, Settings};

const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

fn begin(rig: &Rig, method: &str, id: &str, more: &str) -> Client {
    let mut client = rig.client();
    let token = rig.token("acme");
    client.send(&format!(
        "{method} /vendor/{id}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{more}\r\n"
    ));
    client
}

/// Reads until what came holds `wanted`; false if the connection ended first.
fn wait_for(client: &mut Client, seen: &mut Vec<u8>, wanted: &str) -> bool {
    loop {
        seen.extend(client.taken());
        if memchr::memmem::find(seen, wanted.as_bytes()).is_some() {
            return true;
        }
        if !client.more() {
            return false;
        }
    }
}

fn impatient(timeout: &str, vendor: Vendor) -> Rig {
    let integration = format!(
        "inject = [{{ header = \"authorization\", value = \"Bearer {{token}}\" }}]\ntimeout = {{ {timeout} }}\n"
    );
    Rig::before(Settings { integration, ..Settings::default() }, vendor)
}

fn outcome(rig: &Rig) -> serde_json::Value {
    let records = rig.audit_until(|records| records.iter().any(|r| r["kind"] == "outcome"));
    records.into_iter().find(|r| r["kind"] == "outcome").unwrap()
}

// How fast is the drill's to measure (`tests/drill sse`); here an event that waits for the next one never
// arrives, because the vendor sends the next only when the app has this one.
#[test]
fn every_event_arrives_before_the_next_is_sent() {
    let (had, has) = mpsc::channel::<()>();
    let has = Mutex::new(has);
    let rig = Rig::answering(move |_, out| {
        raw(out, CHUNKED);
        let has = has.lock().unwrap();
        for number in 0..40 {
            raw(out, &chunk(&format!("data: event-{number}-of-a-stream\n\n")));
            if has.recv_timeout(Duration::from_secs(10)).is_err() {
                return;
            }
        }
        raw(out, b"0\r\n\r\n");
    });
    let id = rig.secret("acme");
    let mut client = begin(&rig, "GET", &id, "");
    let mut seen = Vec::new();
    for number in 0..40 {
        assert!(wait_for(&mut client, &mut seen, &format!("event-{number}-")), "event {number}");
        had.send(()).unwrap();
    }
    assert!(wait_for(&mut client, &mut seen, "0\r\n\r\n"));
}

#[test]
fn an_event_that_ends_in_token_characters_waits_for_a_delimiter_and_not_for_a_timer() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let rig = Rig::answering(move |_, out| {
        raw(out, CHUNKED);
        raw(out, &chunk("data: held-back"));
        gone.lock().unwrap().recv().unwrap();
        raw(out, &chunk("\n\n"));
        raw(out, b"0\r\n\r\n");
    });
    let id = rig.secret("acme");
    let mut client = begin(&rig, "GET", &id, "");
    let mut seen = Vec::new();
    assert!(wait_for(&mut client, &mut seen, "data: "));
    client.stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    assert!(!wait_for(&mut client, &mut seen, "held-back"), "what may be a beginning was let go by a timer");
    client.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    go.send(()).unwrap();
    assert!(wait_for(&mut client, &mut seen, "0\r\n\r\n"));
    assert!(String::from_utf8_lossy(&seen).contains("held-back\n\n"));
}

#[test]
fn both_directions_stream_at_once() {
    let rig = Rig::before(
        Settings::default(),
        Vendor::by_hand(|request, out| {
            let mut came = request.body.clone();
            raw(out, CHUNKED);
            let mut answered = 0;
            while memchr::memmem::find(&came, b"0\r\n\r\n").is_none() {
                while came.iter().filter(|b| **b == b'?').count() > answered {
                    raw(out, &chunk(&format!("echo {answered}.\n")));
                    answered += 1;
                }
                if more(out, &mut came).is_none() {
                    return;
                }
            }
            raw(out, b"0\r\n\r\n");
        }),
    );
    let id = rig.secret("acme");
    let mut client = begin(&rig, "POST", &id, "transfer-encoding: chunked\r\n");
    let mut seen = Vec::new();
    for number in 0..10 {
        client.send_bytes(&chunk(&format!("question {number}?\n")));
        assert!(
            wait_for(&mut client, &mut seen, &format!("echo {number}.")),
            "the answer to question {number}"
        );
    }
    client.send("0\r\n\r\n");
    assert!(wait_for(&mut client, &mut seen, "0\r\n\r\n"));
    let outcome = outcome(&rig);
    assert_eq!((&outcome["bytes_in"], &outcome["bytes_out"]), (&120.into(), &80.into()));
}

#[test]
fn an_upload_reaches_the_vendor_while_the_app_still_sends() {
    let (told, hears) = mpsc::channel::<usize>();
    let told = Mutex::new(told);
    let rig = Rig::before(
        Settings::default(),
        Vendor::by_hand(move |request, out| {
            let mut came = request.body.clone();
            while came.len() < 64 * 1024 && more(out, &mut came).is_some() {}
            told.lock().unwrap().send(came.len()).unwrap();
            while came.len() < 128 * 1024 && more(out, &mut came).is_some() {}
            answer(out, 200, &[], b"ok");
        }),
    );
    let id = rig.secret("acme");
    let mut client = begin(&rig, "PUT", &id, "content-length: 131072\r\n");
    client.send_bytes(&[b'x'; 64 * 1024]);
    assert_eq!(
        hears.recv_timeout(Duration::from_secs(10)),
        Ok(64 * 1024),
        "half has arrived, half is not yet sent"
    );
    client.send_bytes(&[b'x'; 64 * 1024]);
    assert_eq!(client.answer("PUT").status, 200);
}

#[test]
fn a_slow_reader_holds_the_vendor_back() {
    let wrote = Arc::new(Mutex::new(0_usize));
    let count = wrote.clone();
    const WHOLE: usize = 64 * 1024 * 1024;
    let rig = Rig::answering(move |_, out| {
        raw(out, format!("HTTP/1.1 200 OK\r\ncontent-length: {WHOLE}\r\n\r\n").as_bytes());
        let piece = vec![b' '; 64 * 1024];
        for _ in 0..WHOLE / piece.len() {
            if out.write_all(&piece).is_err() {
                return;
            }
            *count.lock().unwrap() += piece.len();
        }
    });
    let id = rig.secret("acme");
    let mut client = begin(&rig, "GET", &id, "");
    assert_eq!(client.head().0, 200);
    let mut before = usize::MAX;
    // It stands still once the kernel's buffers on both sides are full.
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(50));
        let now = *wrote.lock().unwrap();
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    let stuck = *wrote.lock().unwrap();
    assert!(stuck < WHOLE / 2, "the vendor could write {stuck} bytes to an app that reads nothing");
    let mut read = client.taken().len();
    while read < WHOLE && client.more() {
        read += client.taken().len();
    }
    assert_eq!(read, WHOLE, "and all of it comes once the app reads");
}

#[test]
fn who_comes_behind_an_upload_that_outlived_its_answers_head_is_answered_at_once() {
    const UPLOAD: usize = 300_000;
    let rig = Rig::before(
        Settings::default(),
        Vendor::by_hand(|request, out| {
            if request.line().starts_with("GET") {
                return answer(out, 200, &[], b"whole");
            }
            raw(out, CHUNKED);
            raw(out, &chunk("early"));
            let mut upload = request.body.clone();
            while upload.len() < UPLOAD {
                if more(out, &mut upload).is_none() {
                    return;
                }
            }
            raw(out, &chunk("late"));
            raw(out, b"0\r\n\r\n");
        }),
    );
    let id = rig.secret("acme");
    for turn in ["first", "second"] {
        let mut client = begin(&rig, "POST", &id, &format!("content-length: {UPLOAD}\r\n"));
        assert_eq!(client.head().0, 200, "{turn}: the head comes before the upload");
        client.send_bytes(&vec![b'a'; UPLOAD]);
        assert!(wait_for(&mut client, &mut Vec::new(), "late"), "{turn}: the answer goes on");
        // Were the next one to wait for a connection that nobody drives, the client would give up first.
        assert_eq!(begin(&rig, "GET", &id, "").answer("GET").status, 200, "{turn}");
    }
}

#[test]
fn an_answer_that_breaks_off_never_looks_whole() {
    let rows = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome of it ", "in a body with a length"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\nsome of it \r\n", "between two chunks"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\nsome of it ", "inside a chunk"),
        ("HTTP/1.1 200 OK\r\n\r\nsome of it ", "in a body until the connection's end, cut without a goodbye"),
    ];
    for (bytes, mistake) in rows {
        let rig = Rig::answering(move |_, out| {
            raw(out, bytes.as_bytes());
            let _ = out.sock.shutdown(std::net::Shutdown::Both);
        });
        let id = rig.secret("acme");
        let mut client = begin(&rig, "GET", &id, "");
        let answer = client.answer("GET");
        assert_eq!(answer.status, 200, "{mistake}");
        let framed = answer.header("content-length").or(answer.header("transfer-encoding")).is_some();
        assert!(framed && answer.cut, "{mistake}: {answer:?}");
        let outcome = outcome(&rig);
        assert!(
            outcome["note"].as_str().is_some_and(|note| note.starts_with("cut: ")),
            "{mistake}: {outcome}"
        );
        assert_eq!(outcome["status"], 200, "{mistake}");
    }
}

#[test]
fn an_app_that_goes_away_ends_the_vendors_work_and_is_recorded() {
    let (told, hears) = mpsc::channel::<bool>();
    let told = Mutex::new(told);
    let rig = Rig::answering(move |_, out| {
        raw(out, CHUNKED);
        raw(out, &chunk("data: first\n\n"));
        let mut byte = [0];
        let ended = matches!(out.read(&mut byte), Ok(0) | Err(_));
        told.lock().unwrap().send(ended).unwrap();
    });
    let id = rig.secret("acme");
    let mut client = begin(&rig, "GET", &id, "");
    assert!(wait_for(&mut client, &mut Vec::new(), "first"));
    drop(client);
    assert_eq!(hears.recv_timeout(Duration::from_secs(10)), Ok(true), "the vendor's connection is closed");
    let outcome = outcome(&rig);
    assert_eq!((&outcome["status"], &outcome["note"]), (&200.into(), &"the app went away".into()));
}

#[test]
fn an_app_that_goes_away_before_the_answer_is_recorded_too() {
    let (told, hears) = mpsc::channel::<bool>();
    let told = Mutex::new(told);
    let rig = Rig::answering(move |_, out| {
        let mut byte = [0];
        let ended = matches!(out.read(&mut byte), Ok(0) | Err(_));
        told.lock().unwrap().send(ended).unwrap();
    });
    let id = rig.secret("acme");
    let client = begin(&rig, "GET", &id, "");
    // Earlier there is only an intent, and a vendor that is still being dialled.
    while rig.vendor.requests().is_empty() {
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(client);
    assert_eq!(hears.recv_timeout(Duration::from_secs(10)), Ok(true));
    assert_eq!(outcome(&rig)["note"], "the app went away");
}

#[test]
fn an_upload_that_breaks_off_is_never_a_whole_one_to_the_vendor() {
    let (told, hears) = mpsc::channel::<Vec<u8>>();
    let told = Mutex::new(told);
    let rig = Rig::before(
        Settings::default(),
        Vendor::by_hand(move |request, out| {
            let mut came = request.body.clone();
            while more(out, &mut came).is_some() {}
            told.lock().unwrap().send(came).unwrap();
        }),
    );
    let id = rig.secret("acme");
    for (head, part, mistake) in [
        ("content-length: 10\r\n", "12345", "a length"),
        ("transfer-encoding: chunked\r\n", "5\r\n12345\r\n", "chunks"),
    ] {
        let mut client = begin(&rig, "POST", &id, head);
        client.send(part);
        std::thread::sleep(Duration::from_millis(100));
        drop(client);
        let came = hears.recv_timeout(Duration::from_secs(10)).unwrap();
        let came = String::from_utf8_lossy(&came);
        assert!(came.contains("12345") && !came.contains("0\r\n\r\n"), "{mistake}: {came}");
    }
}

#[test]
fn silence_ends_by_the_idle_time_either_way() {
    let (told, hears) = mpsc::channel::<bool>();
    let told = Mutex::new(told);
    let rig = impatient(
        "idle = \"300ms\"",
        Vendor::by_hand(move |request, out| {
            if request.line().starts_with("GET") {
                raw(out, CHUNKED);
                raw(out, &chunk("data: first\n\n"));
            }
            let mut came = Vec::new();
            while more(out, &mut came).is_some() {}
            told.lock().unwrap().send(true).unwrap();
        }),
    );
    let id = rig.secret("acme");
    let started = Instant::now();
    let answer = begin(&rig, "GET", &id, "").answer("GET");
    assert!(answer.cut && answer.text() == "data: first\n\n", "the vendor's silence: {answer:?}");
    assert!(hears.recv_timeout(Duration::from_secs(5)).is_ok(), "and its connection is closed");
    let mut client = begin(&rig, "POST", &id, "content-length: 10\r\n");
    client.send("12345");
    let answer = client.answer("POST");
    refused(&answer, Code::RequestMalformed);
    assert!(hears.recv_timeout(Duration::from_secs(5)).is_ok(), "the app's silence closes the vendor's too");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let records = rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == 2);
    let outcomes: Vec<_> = records.iter().filter(|r| r["kind"] == "outcome").collect();
    assert!(outcomes[0]["note"].as_str().unwrap().contains("nothing for"), "{}", outcomes[0]);
    assert_eq!((&outcomes[1]["code"], &outcomes[1]["bytes_in"]), (&"request_malformed".into(), &5.into()));
}

#[test]
fn a_stream_that_keeps_moving_outlives_every_timeout() {
    let rig = impatient(
        "first_byte = \"400ms\", idle = \"400ms\"",
        Vendor::start(|_, out| {
            raw(out, CHUNKED);
            for _ in 0..12 {
                std::thread::sleep(Duration::from_millis(100));
                raw(out, &chunk("data: x\n\n"));
            }
            raw(out, b"0\r\n\r\n");
        }),
    );
    let id = rig.secret("acme");
    let mut client = begin(&rig, "POST", &id, "transfer-encoding: chunked\r\n");
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(100));
        client.send_bytes(&chunk("slow"));
    }
    client.send("0\r\n\r\n");
    let answer = client.answer("POST");
    assert_eq!((answer.status, answer.body.len(), answer.cut), (200, 12 * 9, false));
    assert_eq!(rig.vendor.last().body.len(), 32);
}

#[test]
fn a_streaming_answer_counts_as_under_way_until_it_ends() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let settings = Settings {
        server: "[server.limits]\nin_flight_per_customer = 1\n".to_owned(),
        ..Settings::default()
    };
    let rig = Rig::with(settings, move |_, out| {
        raw(out, CHUNKED);
        raw(out, &chunk("data: first\n\n"));
        gone.lock().unwrap().recv().unwrap();
        raw(out, b"0\r\n\r\n");
    });
    let id = rig.secret("acme");
    let mut client = begin(&rig, "GET", &id, "");
    let mut seen = Vec::new();
    assert!(wait_for(&mut client, &mut seen, "first"));
    refused(&rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")), Code::TooBusy);
    go.send(()).unwrap();
    assert!(wait_for(&mut client, &mut seen, "0\r\n\r\n"));
    go.send(()).unwrap();
    assert_eq!(
        rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")).status,
        200,
        "its place is free again"
    );
}

#[test]
fn an_answer_that_comes_before_the_upload_has_ended_reaches_the_app() {
    let rig = Rig::before(
        Settings::default(),
        Vendor::by_hand(|request, out| {
            if request.line().starts_with("POST") {
                answer(out, 413, &[("connection", "close")], b"too much");
                let mut came = Vec::new();
                while more(out, &mut came).is_some() {}
            } else {
                answer(out, 200, &[], b"ok");
            }
        }),
    );
    let id = rig.secret("acme");
    let mut client = begin(&rig, "POST", &id, "content-length: 1000000\r\n");
    client.send_bytes(&[b'x'; 10_000]);
    let answer = client.answer("POST");
    assert_eq!((answer.status, answer.text().as_str()), (413, "too much"));
    drop(client);
    let other = begin(&rig, "GET", &id, "").answer("GET");
    assert_eq!(other.text(), "ok", "its connection serves nobody else");
    let requests = rig.vendor.requests();
    assert_ne!(requests[0].connection, requests[1].connection);
}

#[test]
fn to_an_http10_app_an_answer_that_breaks_off_is_a_reset_and_no_end() {
    let rig = Rig::before(
        Settings::default(),
        Vendor::by_hand(|request, out| {
            let broken = request.target().ends_with("broken");
            raw(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
            if !broken {
                raw(out, b"0\r\n\r\n");
            }
            std::thread::sleep(Duration::from_millis(50));
            let _ = out.sock.shutdown(std::net::Shutdown::Both);
        }),
    );
    let id = rig.secret("acme");
    for (path, whole) in [("whole", true), ("broken", false)] {
        let mut app = rig.client();
        let token = rig.token("acme");
        app.send(&format!(
            "GET /vendor/{id}/{path} HTTP/1.0\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
        ));
        let ended = app.stream.read_to_end(&mut Vec::new());
        assert_eq!(ended.is_ok(), whole, "{path}: {ended:?}");
    }
}
