use std::io::{Read, Write};
use std::sync::atomic::Ordering;

use super::*;
use crate::rig::logs;
use crate::rig::vendor::{Out, more, raw};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` (RFC 7541 appendix A).
const OK: &[u8] = &[0x88];

/// A vendor that answers the request on each stream by the frames that `script` makes for it.
fn by_frames(script: impl Fn(u8) -> Vec<u8> + Send + Sync + 'static) -> Vendor {
    Vendor::by_hand_offering(&["h2"], move |preface, out: &mut Out<'_>| {
        let mut buffer = preface.body.clone();
        let mut taken = "SM\r\n\r\n".len();
        raw(out, &frame(SETTINGS, 0, 0, b""));
        loop {
            let head = taken + 9;
            while buffer.len() < head {
                if more(out, &mut buffer).is_none() {
                    return;
                }
            }
            let length = usize::from(buffer[taken + 1]) << 8 | usize::from(buffer[taken + 2]);
            while buffer.len() < head + length {
                if more(out, &mut buffer).is_none() {
                    return;
                }
            }
            let (kind, flags, stream) = (buffer[taken + 3], buffer[taken + 4], buffer[taken + 8]);
            taken = head + length;
            match kind {
                SETTINGS if flags == 0 => raw(out, &frame(SETTINGS, 1, 0, b"")),
                HEADERS => raw(out, &script(stream)),
                _ => {}
            }
        }
    })
}

fn reset(stream: u8, code: u8) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, code])
}

fn goaway(last: u8, code: u8, words: &str) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[&[0, 0, 0, last, 0, 0, 0, code], words.as_bytes()].concat())
}

fn begun(stream: u8) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, OK), frame(DATA, 0, stream, b"{\"items\":[1,2,")].concat()
}

#[test]
fn a_reset_that_names_no_error_is_no_end_of_an_answer() {
    type Case = (fn(u8) -> Vec<u8>, bool, &'static str);
    let cases: [Case; 5] = [
        (|stream| [begun(stream), reset(stream, 0)].concat(), true, "a reset"),
        (
            |stream| [begun(stream), goaway(0, 0, "")].concat(),
            true,
            "the connection ends, and all that is on it",
        ),
        (|stream| [begun(stream), frame(DATA, END_STREAM, stream, b"3]}")].concat(), false, "the control"),
        (
            |stream| [begun(stream), frame(DATA, END_STREAM, stream, b"3]}"), reset(stream, 0)].concat(),
            false,
            "a reset behind the end",
        ),
        (
            |stream| {
                let failed = [OK, &[0, 11], b"grpc-status", &[1], b"7"].concat();
                [frame(HEADERS, END_HEADERS | END_STREAM, stream, &failed), reset(stream, 0)].concat()
            },
            false,
            "a head that says all",
        ),
    ];
    for (script, cut, mistake) in cases {
        let rig = Rig::before(settings(""), by_frames(script));
        let id = rig.secret("acme");
        let answer = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
        assert_eq!((answer.status, answer.cut), (200, cut), "{mistake}: {}", answer.text());
        rig.runtime().block_on(async {
            let mut sender = connect(rig.app()).await;
            let asked = sender.send_request(request(&rig, "GET", &format!("/vendor/{id}/x"), whole("")));
            let body = asked.await.unwrap().into_body().collect().await;
            assert_eq!(body.is_err(), cut, "{mistake}, to an app over HTTP/2");
        });
        let records = rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == 2);
        let noted = records.iter().filter(|r| r["kind"] == "outcome").all(|r| r["note"].is_string());
        assert_eq!(noted, cut, "{mistake}: {records:?}");
    }
}

#[test]
fn what_a_vendor_writes_into_its_goaway_is_not_repeated() {
    const WORDS: &str = "the-vendors-own-words-of-a-credential";
    logs::capture();
    for head in [false, true] {
        let vendor = by_frames(move |stream| {
            let before = if head { begun(stream) } else { Vec::new() };
            [before, goaway(0, 1, WORDS)].concat()
        });
        let rig = Rig::before(settings(""), vendor);
        let id = rig.secret("acme");
        let answer = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
        assert!(answer.code() == "vendor_broken" || answer.cut, "{}", answer.text());
        let records = rig.audit_until(|r| r.iter().any(|r| r["kind"] == "outcome"));
        let records = serde_json::to_string(&records).unwrap();
        assert!(!records.contains(WORDS), "{records}");
        assert_eq!(records.contains("PROTOCOL_ERROR"), head, "{records}");
    }
    let log = String::from_utf8_lossy(&logs::captured()).into_owned();
    assert!(log.contains("the other side ended the connection: PROTOCOL_ERROR"), "{log}");
    assert!(!log.contains(WORDS), "a vendor's words are in the log");
}

#[test]
fn a_vendor_that_looks_at_nothing_is_asked_twice_and_no_oftener() {
    type Script = fn(u8) -> Vec<u8>;
    let cases: [(Script, &str); 2] = [
        (|stream| reset(stream, 7), "it refuses each stream"),
        (|_| goaway(0, 0, ""), "it goes away each time"),
    ];
    for (script, mistake) in cases {
        let rig = Rig::before(settings(""), by_frames(script));
        let id = rig.secret("acme");
        let answer = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
        assert_eq!(answer.code(), "vendor_broken", "{mistake}");
        assert!(rig.vendor.connections.load(Ordering::SeqCst) <= 2, "{mistake}");
        let records = rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == 2);
        assert_eq!(records.iter().filter(|r| r["kind"] == "intent").count(), 2, "{mistake}: {records:?}");
    }
}

#[test]
fn an_upload_that_is_reset_without_an_error_is_never_a_whole_one_to_the_vendor() {
    for (code, whole) in [(Some(0), false), (Some(8), false), (None, true)] {
        let (told, hears) = mpsc::channel::<Vec<u8>>();
        let told = Mutex::new(told);
        let vendor = Vendor::by_hand(move |request, out| {
            let mut came = request.body.clone();
            while !came.ends_with(b"0\r\n\r\n") && more(out, &mut came).is_some() {}
            told.lock().unwrap().send(came).unwrap();
        });
        let rig = Rig::before(settings(""), vendor);
        let path = format!("/vendor/{}/x", rig.secret("acme"));
        let bearer = format!("Bearer {}", rig.token("acme"));
        // :method POST, :scheme http
        let fields = [
            vec![0x83, 0x86],
            field(1, b"relay.test"),
            field(4, path.as_bytes()),
            field(23, bearer.as_bytes()),
        ];
        let end = match code {
            Some(code) => reset(1, code),
            None => frame(DATA, END_STREAM, 1, b""),
        };
        let mut app = std::net::TcpStream::connect(rig.app()).unwrap();
        let opening = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(SETTINGS, 0, 0, b""),
            frame(HEADERS, END_HEADERS, 1, &fields.concat()),
            frame(DATA, 0, 1, b"part"),
        ];
        app.write_all(&opening.concat()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        app.write_all(&end).unwrap();
        let came = hears.recv_timeout(Duration::from_secs(20)).unwrap();
        let shown = String::from_utf8_lossy(&came);
        assert!(shown.contains("part"), "{code:?}: {shown}");
        assert_eq!(shown.ends_with("0\r\n\r\n"), whole, "{code:?}: {shown}");
        app.shutdown(std::net::Shutdown::Both).unwrap();
        let _ = app.read(&mut [0; 1]);
    }
}
