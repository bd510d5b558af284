use std::io::{Read, Write};

use super::*;

/// How a GET of `target` that hyper's client would not send is answered: by `:status` and a body, or by
/// which frame.
fn asked(rig: &Rig, target: &[u8]) -> Result<(u8, String), &'static str> {
    asked_as(rig, b"http", target)
}

fn asked_as(rig: &Rig, scheme: &[u8], target: &[u8]) -> Result<(u8, String), &'static str> {
    let bearer = format!("Bearer {}", rig.token("acme"));
    let fields = [
        // :method GET
        vec![0x82],
        field(6, scheme),
        field(1, b"relay.test"),
        field(4, target),
        field(23, bearer.as_bytes()),
    ]
    .concat();
    let mut stream = std::net::TcpStream::connect(rig.app()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let opening =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, b""), frame(1, 5, 1, &fields)];
    stream.write_all(&opening.concat()).unwrap();
    let (mut status, mut body) = (0, Vec::new());
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).unwrap();
        match (head[3], head[8]) {
            (0, 1) => body.extend(payload),
            (1, 1) => status = payload[0],
            (3, 1) => return Err("RST_STREAM"),
            (7, 0) => return Err("GOAWAY"),
            _ => continue,
        }
        rig.shown.lock().unwrap().extend_from_slice(&body);
        if head[4] & 1 == 1 {
            return Ok((status, String::from_utf8(body).unwrap()));
        }
    }
}

// Static indices of `:status` (RFC 7541 appendix A): 200 and 400.
const OK: u8 = 0x88;
const BAD_REQUEST: u8 = 0x8c;

#[test]
fn what_the_gate_refuses_in_a_target_is_refused_over_http2() {
    let rig =
        Rig::with(settings(""), |request, out| vendor::answer(out, 200, &[], request.target().as_bytes()));
    let id = rig.secret("acme");
    let path = |rest: &[u8]| [format!("/vendor/{id}").as_bytes(), rest].concat();
    assert_eq!(asked(&rig, &path(b"/x?a=b")), Ok((OK, "/base/x?a=b".to_owned())), "the control");
    let sent = rig.vendor.requests().len();
    for (target, mistake) in [
        (path("/caf\u{e9}".as_bytes()), "path_refused"),
        (path("/x?q=\u{e9}".as_bytes()), "path_refused"),
        (format!("?/vendor/{id}/x").into_bytes(), "path_refused"),
        (b"?".to_vec(), "path_refused"),
        (b"*".to_vec(), "request_malformed"),
    ] {
        let came = asked(&rig, &target);
        let shown = target.escape_ascii();
        assert!(matches!(&came, Ok((BAD_REQUEST, body)) if body.contains(mistake)), "{shown}: {came:?}");
    }
    for (scheme, taken) in [("https", true), ("ftp", false), ("httpx", false)] {
        let came = asked_as(&rig, scheme.as_bytes(), &path(b"/x"));
        let by = if taken { OK } else { BAD_REQUEST };
        assert!(matches!(&came, Ok((status, _)) if *status == by), "{scheme}: {came:?}");
    }
    let sent = sent + 1;
    // What no http::Uri can hold is a malformed request, whose stream is reset (RFC 9113 section 8.1.1); what is
    // no text at all ends the connection.
    let malformed = [
        (Vec::new(), "nothing"),
        (path(b"/a b"), "a space"),
        (path(b"/a\0b"), "NUL"),
        (path(b"/a\rb"), "CR"),
        (path(b"/a\nb"), "LF"),
        (path(b"/a\x7fb"), "DEL"),
        (path(b"/a<b"), "a byte of no path"),
        (path(b"/a?<b"), "a byte of no query"),
        (format!("vendor/{id}/x").into_bytes(), "no slash"),
        (format!("http://relay.test/vendor/{id}/x").into_bytes(), "a URL"),
        (b"**".to_vec(), "two asterisks"),
    ];
    for (target, mistake) in malformed {
        assert_eq!(asked(&rig, &target), Err("RST_STREAM"), "{mistake}");
    }
    assert_eq!(asked(&rig, &path(b"/a\xffb")), Err("GOAWAY"), "no UTF-8");
    assert_eq!(rig.vendor.requests().len(), sent, "nothing of it reached the vendor");
}
