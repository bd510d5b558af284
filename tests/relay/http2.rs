#![allow(clippy::disallowed_methods)]

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::rig::certificates::Certificates;
use crate::rig::client::Client;
use crate::rig::vendor::{self, Vendor};
use crate::rig::vendor_http2::{self, Body, streamed, whole};
use crate::rig::{Rig, Settings};

/// What stands in `:path`, byte for byte.
mod targets;
/// A vendor whose frames are written by hand.
mod vendors;

const BEARER: &str = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";

fn settings(integration: &str) -> Settings {
    Settings { integration: format!("{BEARER}{integration}"), workers: 1, ..Settings::default() }
}

/// A client that speaks HTTP/2 at once, without TLS.
async fn connect(address: std::net::SocketAddr) -> SendRequest<Body> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(rig: &Rig, method: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("http://relay.test{path}"))
        .header("authorization", format!("Bearer {}", rig.token("acme")))
        .body(body)
        .unwrap()
}

/// Status, fields, body, trailers; every byte of it is hunted.
async fn collected(rig: &Rig, answer: Response<Incoming>) -> (u16, HeaderMap, Bytes, Option<HeaderMap>) {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let bytes = body.to_bytes();
    let mut shown = rig.shown.lock().unwrap();
    shown.extend_from_slice(format!("{:?} {trailers:?}", head.headers).as_bytes());
    shown.extend_from_slice(&bytes);
    (head.status.as_u16(), head.headers, bytes, trailers)
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = (payload.len() as u32).to_be_bytes();
    [&[high, middle, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A literal field that is not indexed, by the index of its name (RFC 7541 section 6.2.2).
fn field(name: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = if name < 15 { vec![name] } else { vec![15, name - 15] };
    let mut length = value.len();
    if length < 127 {
        bytes.push(length as u8);
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push((length % 128) as u8 | 128);
            length /= 128;
        }
        bytes.push(length as u8);
    }
    [bytes, value.to_vec()].concat()
}

fn text(answer: impl Into<Bytes>) -> Response<Body> {
    Response::new(whole(answer))
}

#[test]
fn an_app_that_speaks_http2_is_served_many_requests_at_once() {
    let rig = Rig::with(settings(""), |request, out| {
        std::thread::sleep(Duration::from_millis(20));
        vendor::answer(out, 200, &[("connection", "keep-alive")], request.target().as_bytes());
    });
    let id = rig.secret("acme");
    rig.runtime().block_on(async {
        let sender = connect(rig.app()).await;
        let mut all = Vec::new();
        for number in 0..50 {
            let mut sender = sender.clone();
            let request = request(&rig, "GET", &format!("/vendor/{id}/x/{number}"), whole(""));
            all.push(tokio::spawn(async move { sender.send_request(request).await.unwrap() }));
        }
        for (number, answer) in all.into_iter().enumerate() {
            let (status, headers, body, _) = collected(&rig, answer.await.unwrap()).await;
            assert_eq!((status, body), (200, Bytes::from(format!("/base/x/{number}"))));
            assert!(headers.contains_key("relay-request-id"), "{headers:?}");
        }
    });
    assert!(
        rig.vendor.requests().iter().all(|request| request.header("host").unwrap().starts_with("localhost:"))
    );
}

#[test]
fn refusals_and_uploads_are_the_same_over_http2() {
    let rig = Rig::with(settings(""), |request, out| vendor::answer(out, 201, &[], &request.body));
    let id = rig.secret("acme");
    rig.runtime().block_on(async {
        let mut sender = connect(rig.app()).await;
        let upload = Bytes::from(vec![b'u'; 300_000]);
        let answer =
            sender.send_request(request(&rig, "POST", &format!("/vendor/{id}/x"), whole(upload.clone())));
        let (status, _, body, _) = collected(&rig, answer.await.unwrap()).await;
        assert_eq!((status, body), (201, upload));
        let mut bare = request(&rig, "GET", &format!("/vendor/{id}/x"), whole(""));
        bare.headers_mut().remove("authorization");
        let (status, headers, body, _) = collected(&rig, sender.send_request(bare).await.unwrap()).await;
        assert_eq!((status, headers["relay-error"].to_str().unwrap()), (401, "token_missing"));
        assert!(body.starts_with(b"{"), "{body:?}");
        let mut twice = request(&rig, "GET", &format!("/vendor/{id}/x"), whole(""));
        twice.headers_mut().insert("host", HeaderValue::from_static("another.test"));
        let (status, headers, _, _) = collected(&rig, sender.send_request(twice).await.unwrap()).await;
        assert_eq!((status, headers["relay-error"].to_str().unwrap()), (400, "path_refused"), "two hosts");
        let answer = sender.send_request(request(&rig, "GET", &format!("/vendor/{id}/again"), whole("")));
        assert_eq!(answer.await.unwrap().status(), 201, "a refusal does not end the others' connection");
    });
}

#[test]
fn over_tls_http2_is_negotiated() {
    let certificates = Certificates::new();
    let tls = Settings {
        server: format!("{}\n", certificates.section()),
        listen: "tls:127.0.0.1:0".to_owned(),
        ..settings("")
    };
    let rig = Rig::with(tls, |_, out| vendor::answer(out, 200, &[("location", "/base/next")], b"ok"));
    let id = rig.secret("acme");
    rig.runtime().block_on(async {
        let connector = TlsConnector::from(certificates.client(&["h2", "http/1.1"], false));
        let tcp = TcpStream::connect(rig.app()).await.unwrap();
        let tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request(&rig, "GET", &format!("/vendor/{id}/x"), whole("")));
        let (status, headers, _, _) = collected(&rig, answer.await.unwrap()).await;
        assert_eq!(status, 200);
        assert_eq!(headers["location"], format!("https://relay.test/vendor/{id}/next"));
    });
}

/// A vendor that tells what it was sent, over HTTP/2.
fn telling() -> Vendor {
    vendor_http2::start(|request| {
        Box::pin(async move {
            let told = format!("{} {:?}", request.uri(), request.headers().get("x-app"));
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            text([told.as_bytes(), b" ", &body].concat())
        })
    })
}

#[test]
fn a_vendor_that_speaks_http2_gets_many_customers_requests_on_one_connection() {
    let rig = Rig::before(settings(""), telling());
    let secrets = ["acme", "globex"].map(|customer| (customer, rig.secret(customer)));
    for round in 0..5 {
        for (customer, id) in &secrets {
            let token = rig.token(customer);
            let answer = rig.client().request(
                "POST",
                &format!("/vendor/{id}/x?q={round}"),
                &[("authorization", &format!("Bearer {token}")), ("x-app", "1")],
                b"hello",
            );
            let wanted = format!("https://localhost:{}/base/x?q={round} Some(\"1\") hello", rig.vendor.port);
            assert_eq!((answer.status, answer.text()), (200, wanted));
        }
    }
    assert_eq!(rig.vendor.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
    let canary = rig.canary.text().to_owned();
    for request in rig.vendor.requests() {
        assert_eq!(request.header("authorization"), Some(format!("Bearer {canary}").as_str()));
        assert!(request.header("host").is_none() && request.header("relay-secret").is_none());
    }
}

#[test]
fn isolation_holds_over_http2_and_http2_can_be_left_away() {
    let rig = Rig::before(settings("isolate = \"customer\"\n"), telling());
    for customer in ["acme", "globex", "acme", "globex"] {
        let id = rig.secret(customer);
        assert_eq!(rig.get(&format!("/vendor/{id}/x"), &rig.token(customer)).status, 200);
    }
    assert_eq!(rig.vendor.connections.load(std::sync::atomic::Ordering::SeqCst), 2, "one for each customer");
    let rig = Rig::with(settings("http2 = false\n"), |_, out| vendor::answer(out, 200, &[], b"ok"));
    let id = rig.secret("acme");
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")).status, 200);
    assert!(
        rig.vendor.last().head.ends_with("via: 1.1 relay") || rig.vendor.last().head.contains(" HTTP/1.1")
    );
}

#[test]
fn the_credential_is_overwritten_in_what_an_http2_vendor_sends_back_also_in_trailers() {
    let vendor = vendor_http2::start(|request| {
        Box::pin(async move {
            let given = request.headers()["authorization"].to_str().unwrap().to_owned();
            let (pieces, body) = streamed();
            let (front, back) = given.split_at(15);
            for piece in [front, back, " end"] {
                pieces.send(Frame::data(Bytes::copy_from_slice(piece.as_bytes()))).unwrap();
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-echo", HeaderValue::from_str(&given).unwrap());
            pieces.send(Frame::trailers(trailers)).unwrap();
            let mut answer = Response::new(body);
            answer.headers_mut().insert("x-echo", HeaderValue::from_str(&given).unwrap());
            answer
        })
    });
    let rig = Rig::before(settings(""), vendor);
    let id = rig.secret("acme");
    rig.runtime().block_on(async {
        let mut sender = connect(rig.app()).await;
        let answer = sender.send_request(request(&rig, "GET", &format!("/vendor/{id}/x"), whole("")));
        let (status, headers, body, trailers) = collected(&rig, answer.await.unwrap()).await;
        assert_eq!(status, 200);
        assert!(body.starts_with(b"Bearer [redacted") && body.ends_with(b" end"), "{body:?}");
        assert!(headers["x-echo"].to_str().unwrap().contains("[redacted"), "{headers:?}");
        assert!(trailers.unwrap()["x-echo"].to_str().unwrap().contains("[redacted"));
    });
}

#[test]
fn grpc_streams_both_ways_through_an_own_port_and_ends_with_its_trailers() {
    let vendor = vendor_http2::start(|request| {
        Box::pin(async move {
            assert_eq!(request.headers()["te"], "trailers");
            let (pieces, body) = streamed();
            tokio::spawn(async move {
                let mut incoming = request.into_body();
                // One answer per message, before the next is asked for.
                while let Some(Ok(frame)) = incoming.frame().await {
                    let Ok(message) = frame.into_data() else { break };
                    let _ = pieces.send(Frame::data(message));
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let _ = pieces.send(Frame::trailers(trailers));
            });
            let mut answer = Response::new(body);
            answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            answer
        })
    });
    let rig = Rig::before(settings("listen = \"127.0.0.1:0\"\n"), vendor);
    let id = rig.secret("acme");
    let port = rig.running().doors[0].1.address().unwrap();
    rig.runtime().block_on(async {
        let mut sender = connect(port).await;
        let (messages, body) = streamed();
        let mut call = request(&rig, "POST", "/pkg.Service/Method", body);
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        call.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        call.headers_mut().insert("relay-secret", HeaderValue::from_str(&id).unwrap());
        let answer = sender.send_request(call).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        for number in 0..20_u8 {
            let message = Bytes::from(vec![0, 0, 0, 0, 3, b'm', number, b' ']);
            messages.send(Frame::data(message.clone())).unwrap();
            let frame = timeout(Duration::from_secs(10), body.frame()).await.expect("the answer is not held");
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), message);
        }
        drop(messages);
        let last = timeout(Duration::from_secs(10), body.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
    });
    assert_eq!(
        rig.vendor.last().line(),
        format!("POST https://localhost:{}/base/pkg.Service/Method", rig.vendor.port)
    );
}

#[test]
fn an_app_that_resets_its_stream_ends_the_vendors() {
    let ended = Arc::new(tokio::sync::Notify::new());
    let told = ended.clone();
    let vendor = vendor_http2::start(move |_| {
        let told = told.clone();
        Box::pin(async move {
            let (pieces, body) = streamed();
            tokio::spawn(async move {
                while pieces.send(Frame::data(Bytes::from_static(b"tick "))).is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                told.notify_one();
            });
            Response::new(body)
        })
    });
    let rig = Rig::before(settings(""), vendor);
    let id = rig.secret("acme");
    rig.runtime().block_on(async {
        let mut sender = connect(rig.app()).await;
        let request = request(&rig, "GET", &format!("/vendor/{id}/x"), whole(""));
        let mut answer = sender.send_request(request).await.unwrap().into_body();
        assert!(answer.frame().await.is_some());
        drop(answer);
        timeout(Duration::from_secs(10), ended.notified()).await.expect("the vendor's stream ends too");
    });
    let records = rig.audit_until(|records| records.iter().any(|record| record["kind"] == "outcome"));
    assert!(records.iter().any(|record| record["kind"] == "outcome"));
}

async fn flood(address: std::net::SocketAddr, frame: &[u8], count: usize) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    for _ in 0..count {
        if stream.write_all(frame).await.is_err() {
            return true;
        }
    }
    let mut sink = vec![0; 64 * 1024];
    timeout(Duration::from_secs(5), async {
        loop {
            match stream.read(&mut sink).await {
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
        }
    })
    .await
    .unwrap_or(false)
}

#[test]
fn floods_of_frames_end_their_own_connection_and_no_others() {
    let rig = Rig::with(settings(""), |_, out| vendor::answer(out, 200, &[], b"ok"));
    let id = rig.secret("acme");
    let reset = [&b"\0\0\x05\x01\x05\0\0\0\x01\x82\x86\x84\x41\0"[..], b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08"]
        .concat();
    let rows: [(&str, &[u8]); 6] = [
        ("SETTINGS", b"\0\0\0\x04\0\0\0\0\0"),
        ("PING", b"\0\0\x08\x06\0\0\0\0\0abcdefgh"),
        ("WINDOW_UPDATE of nothing much", b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01"),
        ("frames of an unknown kind", b"\0\0\x01\xee\0\0\0\0\0x"),
        ("empty DATA on no stream", b"\0\0\0\0\0\0\0\0\x01"),
        ("a reset of one stream again and again", &reset),
    ];
    rig.runtime().block_on(async {
        for (name, frame) in rows {
            assert!(flood(rig.app(), frame, 20_000).await, "{name}: the connection stays open");
        }
    });
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")).status, 200);
}

#[test]
fn a_few_pings_are_answered() {
    let rig = Rig::with(settings(""), |_, out| vendor::answer(out, 200, &[], b"ok"));
    rig.runtime().block_on(async {
        let few =
            timeout(Duration::from_secs(20), flood(rig.app(), b"\0\0\x08\x06\0\0\0\0\0abcdefgh", 100)).await;
        assert_eq!(few, Ok(false), "a hundred pings are no flood");
    });
}

#[test]
fn what_only_begins_like_http2_is_answered_as_http1() {
    let rig = Rig::with(settings(""), |_, out| vendor::answer(out, 200, &[], b"ok"));
    let id = rig.secret("acme");
    let mut client: Client = rig.client();
    client.send("P");
    std::thread::sleep(Duration::from_millis(50));
    let token = rig.token("acme");
    client.send(&format!(
        "OST /vendor/{id}/x HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
    ));
    assert_eq!(client.answer("POST").status, 200);
}

#[test]
fn a_revocation_resets_its_own_streams_and_no_other() {
    let vendor = Vendor::by_hand(|_, out| {
        vendor::raw(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        while std::io::Write::write_all(out, b"7\r\nevent\n\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let rig = Rig::before(settings(""), vendor);
    let (revoked, other) = (rig.secret("acme"), rig.secret("acme"));
    rig.runtime().block_on(async {
        let mut sender = connect(rig.app()).await;
        let mut open = async |id: &str| {
            let request = request(&rig, "GET", &format!("/vendor/{id}/x"), whole(""));
            let mut body = sender.send_request(request).await.unwrap().into_body();
            assert!(body.frame().await.unwrap().is_ok());
            body
        };
        let (mut cut, mut stays) = (open(&revoked).await, open(&other).await);
        assert_eq!(rig.admin("POST", &format!("/v1/secrets/{revoked}/disable"), None).status, 200);
        let end = timeout(Duration::from_secs(1), async {
            loop {
                match cut.frame().await {
                    Some(Ok(_)) => {}
                    other => return other.map(|frame| frame.is_ok()),
                }
            }
        });
        assert_eq!(end.await.expect("it ends within a second"), Some(false), "a reset, no clean end");
        for _ in 0..20 {
            assert!(stays.frame().await.unwrap().is_ok(), "the other secret's stream goes on");
        }
    });
    let records = rig.audit_until(|records| records.iter().any(|r| r["kind"] == "outcome"));
    let outcome = records.iter().find(|r| r["kind"] == "outcome").unwrap();
    assert_eq!(
        (&outcome["secret"], &outcome["note"]),
        (&revoked.into(), &"cut: the secret was disabled".into())
    );
}

// hyper asks no body for which its app gives no window: the stream itself has to end.
#[test]
fn a_revocation_resets_a_stream_that_the_app_does_not_read_and_no_other() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    let vendor = Vendor::by_hand(move |request, out| {
        if request.target() == "/base/small" {
            return vendor::answer(out, 200, &[], b"ok");
        }
        vendor::raw(out, b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n");
        while std::io::Write::write_all(out, &[b' '; 16 * 1024]).is_ok() {}
        let _ = told.lock().unwrap().send(request.target().to_owned());
    });
    let rig = Rig::before(settings(""), vendor);
    let (revoked, other) = (rig.secret("acme"), rig.secret("acme"));
    rig.runtime().block_on(async {
        let io = TokioIo::new(TcpStream::connect(rig.app()).await.unwrap());
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(64 * 1024).initial_connection_window_size(4 * 1024 * 1024);
        let (mut sender, connection) = builder.handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut open = async |id: &str, path: &str| {
            let request = request(&rig, "GET", &format!("/vendor/{id}/{path}"), whole(""));
            sender.send_request(request).await.unwrap()
        };
        let (mut cut, mut stays) = (open(&revoked, "cut").await, open(&other, "stays").await);
        // Until every window and buffer on the way is full.
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(ended.try_recv().is_err());
        assert_eq!(rig.admin("POST", &format!("/v1/secrets/{revoked}/disable"), None).status, 200);
        let end = ended.recv_timeout(Duration::from_secs(1));
        assert_eq!(
            end.as_deref(),
            Ok("/base/cut"),
            "the vendor's answer ends although the app reads nothing"
        );
        let answer = open(&other, "small").await;
        assert_eq!(collected(&rig, answer).await.2, "ok", "the connection goes on");
        let mut came = 0;
        let end = loop {
            match cut.frame().await {
                Some(Ok(frame)) => came += frame.data_ref().map_or(0, Bytes::len),
                other => break other.map(|frame| frame.is_ok()),
            }
        };
        assert_eq!(end, Some(false), "a reset, no clean end");
        assert!(came <= 64 * 1024, "what waited in relay came behind the reset: {came}");
        let mut more = 0;
        while more < 1024 * 1024 {
            more += stays.frame().await.unwrap().unwrap().data_ref().map_or(0, Bytes::len);
        }
    });
    let of_it = |r: &&serde_json::Value| r["kind"] == "outcome" && r["secret"] == revoked.as_str();
    let records = rig.audit_until(|records| records.iter().any(|r| of_it(&r)));
    assert_eq!(records.iter().find(of_it).unwrap()["note"], "cut: the secret was disabled");
}
