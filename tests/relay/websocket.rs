//! Handshakes, refusals and ends; messages are in `messages`.

use std::io::Write;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::rig::client::{Answer, Client};
use crate::rig::vendor::{Out, Received, Vendor, answer, more, raw};
use crate::rig::websocket::{ACCEPT, Frame, KEY, frame, masked, take};
use crate::rig::{Rig, Settings};

/// What is in the messages, and what of it reaches the app.
mod messages;

const BEARER: &str =
    "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\nwebsocket = true\n";

/// An app that has opened a WebSocket.
struct App {
    client: Client,
    buffer: Vec<u8>,
}

impl App {
    fn open(rig: &Rig, id: &str) -> Self {
        let (app, answer) = Self::ask(rig, id, &format!("authorization: Bearer {}\r\n", rig.token("acme")));
        assert_eq!(answer.status, 101, "{:?}", answer.headers);
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
        app.unwrap()
    }

    fn ask(rig: &Rig, id: &str, more: &str) -> (Option<Self>, Answer) {
        let mut client = rig.client();
        client.send(&format!(
            "GET /vendor/{id}/live HTTP/1.1\r\nhost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n{more}\r\n"
        ));
        Self::answered(client)
    }

    fn answered(mut client: Client) -> (Option<Self>, Answer) {
        let (status, headers) = client.head();
        let mut answer = Answer { status, headers, body: Vec::new(), cut: false };
        if status != 101 {
            while client.more() {}
            answer.body = client.taken();
            return (None, answer);
        }
        let buffer = client.taken();
        (Some(Self { client, buffer }), answer)
    }

    fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.client.send_bytes(&masked(true, opcode, payload));
    }

    /// The next frame; `None` if the connection ends first.
    fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take(&mut self.buffer) {
                return Some(frame);
            }
            if !self.client.more() {
                return None;
            }
            self.buffer.extend(self.client.taken());
        }
    }

    /// The next message, with its first opcode and the number of its frames; control frames are passed over.
    fn message(&mut self) -> (u8, Vec<u8>, usize) {
        let (mut opcode, mut whole, mut frames) = (0, Vec::new(), 0);
        loop {
            let next = self.next().expect("the WebSocket ended before the message");
            if next.opcode >= 8 {
                continue;
            }
            assert_eq!(next.opcode == 0, frames > 0, "a continuation where one belongs");
            if frames == 0 {
                opcode = next.opcode;
            }
            whole.extend(next.payload);
            frames += 1;
            if next.fin {
                return (opcode, whole, frames);
            }
        }
    }

    /// The Close that comes, and then the end; `None` if the end comes alone.
    fn end(&mut self) -> Option<(u16, String)> {
        let mut close = None;
        while let Some(next) = self.next() {
            if next.opcode == 8 {
                let code = u16::from_be_bytes([next.payload[0], next.payload[1]]);
                close = Some((code, String::from_utf8_lossy(&next.payload[2..]).into_owned()));
            }
        }
        close
    }
}

fn accept(request: &Received, out: &mut Out<'_>, more: &str) {
    assert_eq!(request.header("sec-websocket-key"), Some(KEY));
    raw(
        out,
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n{more}\r\n"
        )
        .as_bytes(),
    );
}

/// The next frame from the app; `None` at the end.
fn from_app(out: &mut Out<'_>, buffer: &mut Vec<u8>) -> Option<Frame> {
    loop {
        if let Some(frame) = take(buffer) {
            return Some(frame);
        }
        more(out, buffer)?;
    }
}

fn settings() -> Settings {
    Settings { integration: BEARER.to_owned(), ..Settings::default() }
}

fn rig(script: impl Fn(&Received, &mut Out<'_>) + Send + Sync + 'static) -> Rig {
    Rig::before(settings(), Vendor::by_hand(script))
}

/// A vendor that accepts, does `then`, and then sends every message back until a Close, which it answers.
fn echoing(then: impl Fn(&Received, &mut Out<'_>) + Send + Sync + 'static) -> Rig {
    rig(move |request, out| {
        accept(request, out, "");
        then(request, out);
        let mut buffer = request.body.clone();
        while let Some(came) = from_app(out, &mut buffer) {
            raw(out, &frame(came.fin, if came.opcode == 9 { 10 } else { came.opcode }, &came.payload));
            if came.opcode == 8 {
                let _ = out.sock.shutdown(std::net::Shutdown::Write);
                break;
            }
        }
    })
}

fn outcome(rig: &Rig) -> serde_json::Value {
    let records = rig.audit_until(|records| records.iter().any(|r| r["kind"] == "outcome"));
    records.into_iter().find(|r| r["kind"] == "outcome").unwrap()
}

#[test]
fn messages_pass_both_ways_and_the_whole_is_one_request_in_the_audit() {
    let rig = echoing(|_, _| {});
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    let head = rig.vendor.last();
    assert_eq!(head.line(), "GET /base/live");
    assert_eq!(head.header("authorization"), Some(format!("Bearer {}", rig.canary.text()).as_str()));
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.header("sec-websocket-extensions"), None, "frames must not be compressed");
    for (opcode, text) in [(1, "hello"), (2, "\u{0}\u{1}binary"), (1, "")] {
        app.send(opcode, text.as_bytes());
        assert_eq!(app.message(), (opcode, text.as_bytes().to_vec(), 1));
    }
    app.send(9, b"are you there");
    assert_eq!(app.next(), Some(Frame { fin: true, opcode: 10, payload: b"are you there".to_vec() }));
    assert_eq!(rig.running().metrics().in_flight().get(), 1);
    app.send(8, &[3, 232]);
    assert_eq!(app.end(), Some((1000, String::new())));
    let outcome = outcome(&rig);
    assert_eq!((&outcome["status"], &outcome["note"]), (&101.into(), &serde_json::Value::Null));
    assert_eq!(
        (&outcome["bytes_in"], &outcome["bytes_out"]),
        (&(11 + 14 + 6 + 19 + 8).into(), &(7 + 10 + 2 + 15 + 4).into())
    );
    assert_eq!(rig.running().metrics().in_flight().get(), 0);
}

#[test]
fn a_websocket_is_off_until_the_integration_says_otherwise() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let (_, answer) =
        App::ask(&rig, &id, &format!("authorization: Bearer {}\r\nconnection: close\r\n", rig.token("acme")));
    assert_eq!((answer.status, answer.code()), (403, "request_denied"));
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn other_upgrades_and_half_handshakes_are_refused() {
    let rig = echoing(|_, _| {});
    let id = rig.secret("acme");
    let token = rig.token("acme");
    let whole =
        format!("Connection: Upgrade, close\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n");
    let rows = [
        ("GET", "Connection: Upgrade, close\r\nUpgrade: h2c\r\n".to_owned(), "request_denied"),
        ("GET", format!("{whole}Upgrade: websocket, h2c\r\n"), "request_denied"),
        ("GET", format!("{whole}Upgrade: websocket\r\nUpgrade: websocket\r\n"), "request_denied"),
        ("POST", format!("{whole}Upgrade: websocket\r\n"), "request_malformed"),
        ("GET", format!("{whole}Upgrade: websocket\r\nContent-Length: 2\r\n"), "request_malformed"),
        ("GET", whole.replace("Upgrade, close", "close") + "Upgrade: websocket\r\n", "request_malformed"),
        ("GET", whole.replace(KEY, "c2hvcnQ=") + "Upgrade: websocket\r\n", "request_malformed"),
        ("GET", whole.replace("13", "8") + "Upgrade: websocket\r\n", "request_malformed"),
        ("GET", format!("{whole}Sec-WebSocket-Key: {KEY}\r\nUpgrade: websocket\r\n"), "request_malformed"),
    ];
    for (method, fields, code) in rows {
        let mut client = rig.client();
        client.send(&format!(
            "{method} /vendor/{id}/live HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{fields}\r\n"
        ));
        let answer = client.answer(method);
        assert_eq!(answer.code(), code, "{fields}");
    }
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn a_token_among_the_subprotocols_authenticates_and_stays_behind() {
    let rig = rig(|request, out| accept(request, out, "Sec-WebSocket-Protocol: realtime\r\n"));
    let id = rig.secret("acme");
    let token = rig.token("acme");
    for list in [
        format!("Sec-WebSocket-Protocol: realtime, {token}, openai-beta.realtime-v1\r\n"),
        format!(
            "Sec-WebSocket-Protocol: realtime\r\nSec-WebSocket-Protocol: openai-insecure-api-key.{token}, openai-beta.realtime-v1\r\n"
        ),
    ] {
        let (app, answer) = App::ask(&rig, &id, &list);
        assert!(app.is_some(), "{}", answer.text());
        assert_eq!(answer.header("sec-websocket-protocol"), Some("realtime"));
        let head = rig.vendor.last();
        assert_eq!(head.all("sec-websocket-protocol"), ["realtime, openai-beta.realtime-v1"]);
        assert!(!head.head.contains(&token[..40]));
    }
    let other = rig.token_with("acme", Some(&id), None);
    let both = format!("Authorization: Bearer {other}\r\nSec-WebSocket-Protocol: a, {token}\r\n");
    assert_eq!(App::ask(&rig, &id, &format!("{both}Connection: close\r\n")).1.code(), "token_ambiguous");
    // With relay's own field nothing else is read, and all is stripped.
    let own =
        format!("Relay-Authorization: Bearer {token}\r\nSec-WebSocket-Protocol: wamp.2.json, {other}\r\n");
    assert!(App::ask(&rig, &id, &own).0.is_some());
    assert_eq!(rig.vendor.last().all("sec-websocket-protocol"), ["wamp.2.json"]);
}

#[test]
fn a_vendor_that_switches_wrongly_is_not_followed() {
    let rows = [
        format!("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {KEY}\r\n"),
        "Upgrade: websocket\r\nConnection: Upgrade\r\n".to_owned(),
        format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Accept: {KEY}\r\n"
        ),
        format!("Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"),
        format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        ),
    ];
    for row in rows {
        let head = row.clone();
        let rig = rig(move |_, out| {
            raw(out, format!("HTTP/1.1 101 Switching Protocols\r\n{head}\r\nwhatever").as_bytes());
        });
        let id = rig.secret("acme");
        let fields = format!("authorization: Bearer {}\r\nconnection: close\r\n", rig.token("acme"));
        let (_, answer) = App::ask(&rig, &id, &fields);
        assert_eq!((answer.status, answer.code()), (502, "vendor_broken"), "{row}");
    }
    // Nor one that switches unasked, where WebSocket is allowed.
    let rig = rig(|_, out| {
        raw(out, format!("HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n").as_bytes());
    });
    let id = rig.secret("acme");
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")).code(), "vendor_broken");
}

#[test]
fn a_vendor_that_does_not_switch_answers_as_always() {
    let (tell, told) = mpsc::channel::<String>();
    let told = Mutex::new(told);
    let rig = rig(move |_, out| {
        let canary = told.lock().unwrap().recv().unwrap();
        answer(out, 403, &[("x-echo", &canary)], format!("your key {canary} may not").as_bytes());
    });
    let id = rig.secret("acme");
    for _ in 0..2 {
        tell.send(rig.canary.text().to_owned()).unwrap();
        let mut client = rig.client();
        client.send(&format!(
            "GET /vendor/{id}/live HTTP/1.1\r\nhost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nauthorization: Bearer {}\r\n\r\n",
            rig.token("acme")
        ));
        let answer = client.answer("GET");
        assert_eq!((answer.status, answer.cut), (403, false));
        assert!(answer.text().starts_with("your key [redacted by relay]"), "{}", answer.text());
    }
    let connections: Vec<usize> = rig.vendor.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections, [0, 1], "a connection that could have switched is not used again");
}

#[test]
fn a_websocket_in_which_nothing_moves_is_ended() {
    let settings =
        Settings { integration: format!("{BEARER}timeout = {{ idle = \"400ms\" }}\n"), ..settings() };
    let (ended, end) = mpsc::channel();
    let ended = Mutex::new(ended);
    let vendor = Vendor::by_hand(move |request, out| {
        accept(request, out, "");
        let mut buffer = Vec::new();
        while more(out, &mut buffer).is_some() {}
        ended.lock().unwrap().send(()).unwrap();
    });
    let rig = Rig::before(settings, vendor);
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    let began = Instant::now();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(200));
        app.send(1, b"still here");
    }
    assert_eq!(app.end().map(|(code, _)| code), Some(1001));
    assert!(began.elapsed() >= Duration::from_millis(1150), "what moved kept it open: {:?}", began.elapsed());
    end.recv_timeout(Duration::from_secs(2)).expect("the vendor's connection ends");
    assert!(outcome(&rig)["note"].as_str().unwrap().contains("nothing moved"));
}

#[test]
fn an_app_or_a_vendor_that_goes_away_ends_the_other() {
    let (ended, end) = mpsc::channel();
    let ended = Mutex::new(ended);
    let rig = rig(move |request, out| {
        accept(request, out, "");
        let mut buffer = Vec::new();
        while more(out, &mut buffer).is_some() {}
        ended.lock().unwrap().send(()).unwrap();
    });
    let id = rig.secret("acme");
    drop(App::open(&rig, &id));
    end.recv_timeout(Duration::from_secs(2)).expect("the vendor's connection ends with the app's");
    assert_eq!(outcome(&rig)["note"], "the app went away");

    let rig = self::rig(|request, out| {
        accept(request, out, "");
        raw(out, &frame(true, 1, b"the last word"));
        let _ = out.sock.shutdown(std::net::Shutdown::Both);
    });
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    assert_eq!(app.message().1, b"the last word");
    assert_eq!(app.end(), None, "an end without a Close is seen as one");
    assert!(outcome(&rig)["note"].as_str().unwrap().starts_with("cut: the vendor"));
}

#[test]
fn a_revocation_ends_a_websocket() {
    for read in [true, false] {
        let (ended, end) = mpsc::channel();
        let ended = Mutex::new(ended);
        let rig = rig(move |request, out| {
            accept(request, out, "");
            if read {
                let mut buffer = Vec::new();
                while more(out, &mut buffer).is_some() {}
            } else {
                // An app that reads nothing: every buffer on the way is full.
                while out.write_all(&frame(true, 2, &[7; 10_000])).is_ok() {}
            }
            ended.lock().unwrap().send(()).unwrap();
        });
        let id = rig.secret("acme");
        let mut app = App::open(&rig, &id);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/disable"), None).status, 200);
        let at = Instant::now();
        end.recv_timeout(Duration::from_secs(1)).expect("the vendor's connection ends");
        assert_eq!(app.end(), None, "no clean end");
        assert!(at.elapsed() < Duration::from_secs(1));
        assert_eq!(outcome(&rig)["note"], "cut: the secret was disabled");
    }
}

#[test]
fn a_relay_that_shuts_down_says_goodbye() {
    let mut rig = echoing(|_, _| {});
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    app.send(1, b"before");
    assert_eq!(app.message().1, b"before");
    let shown = Arc::clone(&rig.shown);
    let reader = std::thread::spawn(move || {
        let _shown = shown;
        app.end()
    });
    rig.stop();
    assert_eq!(reader.join().unwrap().map(|(code, _)| code), Some(1001));
    assert_eq!(outcome(&rig)["note"], "cut: relay is shutting down");
}

#[test]
fn what_comes_right_behind_either_handshake_is_not_lost() {
    let rig = rig(|request, out| {
        let mut head = format!(
            "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        )
        .into_bytes();
        head.extend(frame(true, 1, b"early vendor"));
        raw(out, &head);
        let mut buffer = request.body.clone();
        let came = from_app(out, &mut buffer).unwrap();
        raw(out, &frame(true, 1, &came.payload));
    });
    let id = rig.secret("acme");
    let mut client = rig.client();
    let mut bytes = format!(
        "GET /vendor/{id}/live HTTP/1.1\r\nhost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nauthorization: Bearer {}\r\n\r\n",
        rig.token("acme")
    )
    .into_bytes();
    bytes.extend(masked(true, 1, b"early app"));
    client.send_bytes(&bytes);
    let mut app = App::answered(client).0.unwrap();
    assert_eq!(app.message().1, b"early vendor");
    assert_eq!(app.message().1, b"early app");
}

#[test]
fn the_handshakes_answer_is_scrubbed() {
    let (tell, told) = mpsc::channel::<String>();
    let told = Mutex::new(told);
    let rig = rig(move |request, out| {
        let canary = told.lock().unwrap().recv().unwrap();
        accept(
            request,
            out,
            &format!("X-You-Are: {canary}\r\nX-Coded: {}\r\nSet-Cookie: a=b\r\n", STANDARD.encode(&canary)),
        );
        let mut sink = Vec::new();
        while more(out, &mut sink).is_some() {}
    });
    let id = rig.secret("acme");
    tell.send(rig.canary.text().to_owned()).unwrap();
    let (app, answer) = App::ask(&rig, &id, &format!("authorization: Bearer {}\r\n", rig.token("acme")));
    assert!(answer.header("x-you-are").unwrap().starts_with("[redacted"));
    assert_eq!(answer.header("set-cookie"), None);
    drop(app);
    assert_eq!(outcome(&rig)["reflected"], true);
}

#[test]
fn a_vendor_that_prefers_http2_is_asked_over_http1() {
    let vendor = Vendor::by_hand_offering(&["h2", "http/1.1"], |request, out| {
        if request.header("upgrade").is_some() {
            accept(request, out, "");
        }
    });
    let rig = Rig::before(Settings { integration: format!("{BEARER}http2 = true\n"), ..settings() }, vendor);
    let id = rig.secret("acme");
    drop(App::open(&rig, &id));
    assert_eq!(rig.vendor.last().line(), "GET /base/live");
    // The same vendor is spoken to in HTTP/2 otherwise.
    let _ = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
    assert!(rig.vendor.last().head.starts_with("PRI * HTTP/2.0"), "{}", rig.vendor.last().head);
}
