use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use relay::refusal::Code;

use crate::refusals::refused;
use crate::rig::client::Answer;
use crate::rig::vendor::{self, Vendor, raw};
use crate::rig::{Rig, Settings};

/// One worker, so that every request meets the same pool.
fn alone(vendor: Vendor, integration: &str) -> Rig {
    let integration =
        format!("inject = [{{ header = \"authorization\", value = \"Bearer {{token}}\" }}]\n{integration}");
    Rig::before(Settings { integration, workers: 1, ..Settings::default() }, vendor)
}

fn call(rig: &Rig, customer: &str, id: &str, method: &str, body: &[u8]) -> Answer {
    let auth = format!("Bearer {}", rig.token(customer));
    let length = if body.is_empty() { "0" } else { "" };
    let mut headers = vec![("authorization", auth.as_str())];
    if method == "POST" && !length.is_empty() {
        headers.push(("content-length", length));
    }
    rig.client().request(method, &format!("/vendor/{id}/x"), &headers, body)
}

#[test]
fn a_connection_that_carried_a_body_serves_its_own_customer_alone() {
    let rows: [(&str, &str, &[u8], bool, &str); 6] = [
        ("", "GET", b"", true, "body-less requests share"),
        ("", "POST", b"", true, "a POST without a body is body-less"),
        ("", "POST", b"x", false, "a body"),
        ("", "GET", b"x", false, "a body on a GET"),
        ("isolate = \"customer\"\n", "GET", b"", false, "isolation"),
        ("isolate = \"customer\"\n", "POST", b"x", false, "isolation and a body"),
    ];
    for (integration, method, body, others, mistake) in rows {
        let rig = alone(Vendor::start(|_, out| vendor::answer(out, 200, &[], b"ok")), integration);
        let (acme, globex) = (rig.secret("acme"), rig.secret("globex"));
        assert_eq!(call(&rig, "acme", &acme, method, body).status, 200);
        let first = rig.vendor.last().connection;
        assert_eq!(call(&rig, "acme", &acme, "GET", b"").status, 200);
        assert_eq!(rig.vendor.last().connection, first, "{mistake}: the same customer");
        assert_eq!(call(&rig, "globex", &globex, "GET", b"").status, 200);
        assert_eq!(rig.vendor.last().connection == first, others, "{mistake}: another customer");
    }
}

#[test]
fn an_answer_that_nobody_asked_for_reaches_nobody() {
    const LATE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nstolen answer";
    let (told, hears) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let rig = alone(
        Vendor::start(move |request, out| {
            match request.target() {
                "/base/with" => raw(out, &[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", LATE].concat()),
                "/base/after" => {
                    vendor::answer(out, 200, &[], b"ok");
                    std::thread::sleep(Duration::from_millis(60));
                    raw(out, LATE);
                }
                "/base/none" => raw(out, &[b"HTTP/1.1 204 No Content\r\n\r\n".as_slice(), LATE].concat()),
                _ => vendor::answer(out, 200, &[], b"ok"),
            }
            let _ = told.lock().unwrap().send(());
        }),
        "",
    );
    let (acme, globex) = (rig.secret("acme"), rig.secret("globex"));
    for path in ["with", "after", "none"] {
        for round in 0..10 {
            let own = rig.get(&format!("/vendor/{acme}/{path}"), &rig.token("acme"));
            // What came with an answer breaks it; what comes later cannot.
            let broken = if path == "after" { "" } else { "vendor_broken" };
            assert_eq!((own.code(), own.text().contains("stolen")), (broken, false), "{path}, round {round}");
            hears.recv().unwrap();
            let answer = rig.get(&format!("/vendor/{globex}/x"), &rig.token("globex"));
            hears
                .recv_timeout(Duration::from_secs(5))
                .unwrap_or_else(|_| panic!("{path} {round}: never asked the vendor"));
            assert_eq!(answer.text(), "ok", "{path}, round {round}");
        }
    }
}

/// A vendor that closes each connection instead of answering its second request.
fn second_never_answered(orderly: bool) -> Vendor {
    let answered: Arc<Mutex<Vec<usize>>> = Arc::default();
    Vendor::start(move |request, out| {
        let mut answered = answered.lock().unwrap();
        if answered.contains(&request.connection) {
            if orderly {
                out.conn.send_close_notify();
                let _ = std::io::Write::flush(out);
            }
            let _ = out.sock.shutdown(std::net::Shutdown::Both);
        } else {
            answered.push(request.connection);
            vendor::answer_to(request, out, b"ok");
        }
    })
}

#[test]
fn a_get_that_met_a_closing_connection_is_sent_again_with_its_own_intent() {
    for (orderly, method) in [(true, "GET"), (false, "GET"), (true, "HEAD")] {
        let rig = alone(second_never_answered(orderly), "");
        let id = rig.secret("acme");
        assert_eq!(call(&rig, "acme", &id, "GET", b"").status, 200);
        let answer = call(&rig, "acme", &id, method, b"");
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        assert_eq!(rig.vendor.requests().len(), 3, "{method}: once more and no oftener");
        let records = rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == 3);
        let last = records.iter().rfind(|r| r["kind"] == "outcome").unwrap();
        let own: Vec<&str> = records
            .iter()
            .filter(|r| r["request_id"] == last["request_id"])
            .map(|r| r["kind"].as_str().unwrap())
            .collect();
        assert_eq!(own, ["intent", "outcome", "intent", "outcome"], "{method}");
        let first =
            records.iter().find(|r| r["request_id"] == last["request_id"] && r["kind"] == "outcome").unwrap();
        assert!(first["note"].as_str().unwrap().contains("sent again"), "{first}");
        assert!(
            first.get("status").is_none() && last["status"] == 200 && last.get("note").is_none(),
            "{last}"
        );
    }
}

#[test]
fn what_may_have_had_an_effect_is_not_sent_again() {
    let rows: [(&str, &[u8], &str); 5] = [
        ("POST", b"x", "a POST"),
        ("POST", b"", "a POST without a body"),
        ("DELETE", b"", "a DELETE"),
        ("PUT", b"x", "a PUT"),
        ("GET", b"x", "a GET with a body"),
    ];
    for (method, body, mistake) in rows {
        let rig = alone(second_never_answered(false), "");
        let id = rig.secret("acme");
        assert_eq!(call(&rig, "acme", &id, "GET", b"").status, 200);
        refused(&call(&rig, "acme", &id, method, body), Code::VendorBroken);
        assert_eq!(rig.vendor.requests().len(), 2, "{mistake}");
        let records = rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == 2);
        assert_eq!(records.iter().filter(|r| r["kind"] == "intent").count(), 2, "{mistake}");
    }
}

#[test]
fn a_fresh_connection_that_breaks_is_no_reason_to_send_again() {
    let rig = alone(
        Vendor::start(|_, out| {
            let _ = out.sock.shutdown(std::net::Shutdown::Both);
        }),
        "",
    );
    let id = rig.secret("acme");
    refused(&call(&rig, "acme", &id, "GET", b""), Code::VendorBroken);
    assert_eq!(rig.vendor.requests().len(), 1);
}

#[test]
fn a_vendor_that_closes_idle_connections_is_not_noticed() {
    let (answers, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, counts) = (answers.clone(), closed.clone());
    let rig = alone(
        Vendor::start(move |_, out| {
            count.fetch_add(1, SeqCst);
            vendor::answer(out, 200, &[], b"ok");
            out.conn.send_close_notify();
            let _ = std::io::Write::flush(out);
            let _ = out.sock.shutdown(std::net::Shutdown::Both);
            counts.fetch_add(1, SeqCst);
        }),
        "",
    );
    let id = rig.secret("acme");
    for round in 0..30 {
        let (method, body): (&str, &[u8]) = if round % 2 == 0 { ("POST", b"x") } else { ("GET", b"") };
        // A POST on its way to a connection that is closed meanwhile is lost, and rightly told of.
        while closed.load(SeqCst) < usize::try_from(round).unwrap() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(round % 4 * 10));
        assert_eq!(call(&rig, "acme", &id, method, body).status, 200, "round {round}");
    }
    assert_eq!(answers.load(SeqCst), 30);
}

#[test]
fn a_connection_that_the_vendor_means_to_close_is_not_reused() {
    for (bytes, mistake) in [
        ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", "connection: close"),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.0"),
    ] {
        let rig = alone(Vendor::start(move |_, out| raw(out, bytes.as_bytes())), "");
        let id = rig.secret("acme");
        for _ in 0..3 {
            assert_eq!(call(&rig, "acme", &id, "GET", b"").text(), "ok", "{mistake}");
        }
        let mut connections: Vec<usize> = rig.vendor.requests().iter().map(|r| r.connection).collect();
        connections.dedup();
        assert_eq!(connections.len(), 3, "{mistake}");
    }
}
