use crate::refusals::refused;
use crate::rig::client::Answer;
use crate::rig::vendor::{self, Vendor, raw};
use crate::rig::{Rig, Settings};
use relay::refusal::Code;

/// A rig whose vendor answers each request with exactly `bytes`; `{PORT}` stands for its own.
fn answering(bytes: &'static str, integration: &str) -> Rig {
    let settings = Settings {
        integration: format!(
            "inject = [{{ header = \"authorization\", value = \"Bearer {{token}}\" }}]\n{integration}"
        ),
        ..Settings::default()
    };
    Rig::with(settings, move |request, out| {
        let host = request.header("host").unwrap();
        raw(out, bytes.replace("{VENDOR}", host).as_bytes());
    })
}

fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
}

#[test]
fn a_vendors_answer_passes_unchanged_but_for_the_listed_edits() {
    let rig = answering(
        "HTTP/1.1 299 Reason with a secret meaning\r\nServer: theirs\r\nX-Many: one\r\nX-Many: two, three\r\nX-Many: \r\n\
         X-Request-Id: r-1\r\nWarning: 299 - \"old\"\r\nETag: \"a\"\r\nRetry-After: 7\r\nWWW-Authenticate: Bearer\r\nVary: a\r\nVary: b\r\n\
         Relay-Error: token_invalid\r\nRelay-Request-Id: forged\r\nRelay-Anything: 1\r\nProxy-Status: relay; error=x\r\n\
         Alt-Svc: h3=\":443\"\r\nStrict-Transport-Security: max-age=9\r\nClear-Site-Data: \"*\"\r\nSet-Cookie: a=b\r\nSet-Cookie2: c=d\r\n\
         Proxy-Authenticate: Basic\r\nKeep-Alive: timeout=9\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\n\
         Content-Length: 5\r\nContent-Type: text/plain; charset=x\r\n\r\nhello",
        "",
    );
    let id = rig.secret("acme");
    let mut client = rig.client();
    let auth = format!("Bearer {}", rig.token("acme"));
    let answer = client.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"");
    assert_eq!((answer.status, answer.text().as_str()), (299, "hello"));
    let shown = String::from_utf8_lossy(&rig.shown.lock().unwrap()).into_owned();
    assert!(!shown.contains("secret meaning"), "the reason phrase is not passed");
    assert_eq!(all(&answer, "x-many"), ["one", "two, three", ""], "in order");
    assert_eq!(all(&answer, "vary"), ["a", "b"]);
    for (name, value) in [
        ("server", "theirs"),
        ("x-request-id", "r-1"),
        ("warning", "299 - \"old\""),
        ("etag", "\"a\""),
        ("retry-after", "7"),
        ("www-authenticate", "Bearer"),
        ("content-type", "text/plain; charset=x"),
        ("content-length", "5"),
    ] {
        assert_eq!(all(&answer, name), [value], "{name}");
    }
    for name in [
        "relay-error",
        "relay-anything",
        "proxy-status",
        "alt-svc",
        "strict-transport-security",
        "clear-site-data",
        "set-cookie",
        "set-cookie2",
        "proxy-authenticate",
        "keep-alive",
        "x-hop",
        "upgrade",
    ] {
        assert!(all(&answer, name).is_empty(), "{name} passed");
    }
    let ids = all(&answer, "relay-request-id");
    assert!(ids.len() == 1 && ids[0] != "forged", "{ids:?}");
    let records = rig.audit_until(|records| records.iter().any(|r| r["kind"] == "outcome"));
    assert!(
        records.iter().any(|r| r["request_id"] == ids[0] && r["kind"] == "outcome"),
        "the audit's own id"
    );
}

#[test]
fn cookies_pass_only_where_an_integration_wants_them() {
    let bytes = "HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Secure\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n";
    for (integration, wanted) in [("", vec![]), ("cookies = true\n", vec!["a=b; Secure", "c=d"])] {
        let rig = answering(bytes, integration);
        let id = rig.secret("acme");
        let answer = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
        assert_eq!(all(&answer, "set-cookie"), wanted, "{integration}");
    }
}

#[test]
fn answers_without_a_body_have_none_and_the_connection_goes_on() {
    let rows = [
        ("GET", "HTTP/1.1 204 No Content\r\netag: \"a\"\r\n\r\n", 204, None, "204"),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 99\r\n\r\n",
            304,
            None,
            "304 with a length",
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\netag: \"a\"\r\ncontent-length: 0\r\n\r\n",
            200,
            Some("0"),
            "a length of 0",
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\netag: \"a\"\r\ncontent-length: 1234\r\n\r\n", 200, Some("1234"), "HEAD"),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\netag: \"a\"\r\ntransfer-encoding: chunked\r\n\r\n",
            200,
            None,
            "HEAD, chunked",
        ),
        (
            "GET",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 204 No\r\netag: \"a\"\r\n\r\n",
            204,
            None,
            "interim answers",
        ),
    ];
    for (method, bytes, status, length, mistake) in rows {
        let rig = answering(bytes, "");
        let id = rig.secret("acme");
        let auth = format!("Bearer {}", rig.token("acme"));
        let mut client = rig.client();
        for _ in 0..2 {
            let answer = client.request(method, &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"");
            assert_eq!((answer.status, answer.header("etag")), (status, Some("\"a\"")), "{mistake}");
            assert!(answer.body.is_empty() && !answer.cut, "{mistake}");
            if let Some(length) = length {
                assert_eq!(answer.header("content-length"), Some(length), "{mistake}");
            }
        }
        let records = rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == 2);
        for outcome in records.iter().filter(|r| r["kind"] == "outcome") {
            assert_eq!((&outcome["status"], &outcome["bytes_out"]), (&status.into(), &0.into()), "{mistake}");
            assert!(outcome.get("note").is_none(), "{mistake}: {outcome}");
        }
    }
}

#[test]
fn trailers_carry_nothing_that_a_head_may_not() {
    let rig = answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, relay-error, set-cookie, location\r\n\r\n\
         5\r\nhello\r\n0\r\nx-sum: 1\r\nrelay-error: token_invalid\r\nset-cookie: a=b\r\nlocation: https://evil.test/\r\n\r\n",
        "",
    );
    let id = rig.secret("acme");
    let auth = format!("Bearer {}", rig.token("acme"));
    let mut client = rig.client();
    let headers = [("authorization", auth.as_str()), ("te", "trailers")];
    let answer = client.request("GET", &format!("/vendor/{id}/x"), &headers, b"");
    assert_eq!((answer.text().as_str(), answer.cut), ("hello", false));
    assert_eq!(
        client.request("GET", &format!("/vendor/{id}/x"), &headers, b"").text(),
        "hello",
        "well framed"
    );
    let shown = String::from_utf8_lossy(&rig.shown.lock().unwrap()).to_lowercase();
    for word in ["relay-error", "set-cookie", "location"] {
        assert!(!shown.contains(word), "{word} in {shown}");
    }
}

#[test]
fn trailers_reach_an_http1_app_that_reads_them_if_they_were_announced() {
    let vendor = Vendor::start(|request, out| {
        let credential = request.header("authorization").unwrap().split_once(' ').unwrap().1;
        let announced =
            if request.target().ends_with("unannounced") { "x-other" } else { "X-Sum, ,x-echo , Location" };
        let text = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: {announced}\r\nConnection: keep-alive, trailer\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: 15\r\nx-echo: {credential}\r\nlocation: https://evil.test/\r\nx-hidden: 1\r\n\r\n"
        );
        raw(out, text.as_bytes());
    });
    let rig = Rig::before(Settings::default(), vendor);
    let id = rig.secret("acme");
    let auth = format!("Bearer {}", rig.token("acme"));
    for (path, te, passes, mistake) in [
        ("x", "gzip;q=0.5, Trailers", true, "the control"),
        ("x", "gzip", false, "the app does not read trailers"),
        ("unannounced", "trailers", false, "the vendor announced others"),
    ] {
        rig.shown.lock().unwrap().clear();
        let mut client = rig.client();
        let headers = [("authorization", auth.as_str()), ("te", te)];
        let answer = client.request("GET", &format!("/vendor/{id}/{path}"), &headers, b"");
        assert_eq!((answer.text().as_str(), answer.cut), ("hello", false), "{mistake}");
        let shown = String::from_utf8_lossy(&rig.shown.lock().unwrap()).to_lowercase();
        let (_, behind) = shown.split_once("0\r\n").unwrap();
        assert_eq!(behind.contains("x-sum: 15\r\n"), passes, "{mistake}: {shown}");
        assert_eq!(behind.contains("x-echo: [redacted by relay]"), passes, "{mistake}: {shown}");
        assert_eq!(answer.header("trailer") == Some("x-sum, x-echo"), passes, "{mistake}: {shown}");
        assert!(!shown.contains("x-hidden") && !shown.contains("evil.test"), "{mistake}: {shown}");
        let again = client.request("GET", &format!("/vendor/{id}/{path}"), &headers, b"");
        assert_eq!((again.status, again.text().as_str()), (200, "hello"), "{mistake}: well framed");
    }
}

#[test]
fn references_come_back_in_the_address_form_of_the_request() {
    let bytes = "HTTP/1.1 201 Created\r\nLocation: https://{VENDOR}/base/made?x=1#y\r\nContent-Location: /base/made\r\n\
                 Link: <https://{VENDOR}/base/list?page=2>; rel=\"next\", <https://other.test/>; rel=\"help\", </elsewhere>; rel=\"up\"\r\n\
                 Refresh: 5; url=next\r\nContent-Length: 0\r\n\r\n";
    for public_url in [false, true] {
        let vendor = Vendor::start(move |request, out| {
            raw(out, bytes.replace("{VENDOR}", request.header("host").unwrap()).as_bytes());
        });
        let server = if public_url { "public_url = \"https://relay.internal:9443\"\n" } else { "" };
        let rig = Rig::before(Settings { server: server.to_owned(), ..Settings::default() }, vendor);
        let id = rig.secret("acme");
        let upper = id.to_uppercase();
        let (plain, pinned) = (rig.token("acme"), rig.token_with("acme", Some(&id), None));
        let base = if public_url { "https://relay.internal:9443" } else { "http://relay.test" };
        for (path, field, token, prefix) in [
            ("/vendor/list/a".to_owned(), true, &plain, "/vendor".to_owned()),
            (format!("/vendor/{id}/list/a"), false, &plain, format!("/vendor/{id}")),
            (format!("/vendor/{upper}/list/a"), false, &plain, format!("/vendor/{upper}")),
            ("/vendor/list/a".to_owned(), false, &pinned, "/vendor".to_owned()),
        ] {
            let auth = format!("Bearer {token}");
            let mut headers = vec![("authorization", auth.as_str())];
            if field {
                headers.push(("relay-secret", &id));
            }
            let answer = rig.client().request("POST", &path, &headers, b"x");
            let at = |rest: &str| format!("{base}{prefix}{rest}");
            assert_eq!(answer.header("location"), Some(at("/made?x=1#y").as_str()), "{path}");
            assert_eq!(answer.header("content-location"), Some(at("/made").as_str()), "{path}");
            let link = format!("<{}>; rel=\"next\", <https://other.test/>; rel=\"help\"", at("/list?page=2"));
            assert_eq!(answer.header("link"), Some(link.as_str()), "what leads out of the base path is gone");
            assert_eq!(
                answer.header("refresh"),
                Some(format!("5; url={}", at("/list/next")).as_str()),
                "{path}"
            );
            if !public_url {
                // A client that follows arrives below the same base path, with the same secret.
                let next = answer.header("link").unwrap().split(['<', '>']).nth(1).unwrap();
                let next = next.strip_prefix(base).unwrap().to_owned();
                assert_eq!(rig.client().request("GET", &next, &headers, b"").status, 201, "{next}");
                assert_eq!(rig.vendor.last().target(), "/base/list?page=2");
            }
        }
    }
}

#[test]
fn every_way_to_relay_is_relays_also_those_that_the_app_did_not_take() {
    let other = "[integrations.other]\nupstream = \"https://localhost:{PORT}/other\"\nhost = \"other.internal\"\n\
        inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";
    let server = "public_url = \"https://relay.internal:9443\"\n";
    let settings = Settings { more: other.to_owned(), server: server.to_owned(), ..Settings::default() };
    let rig = Rig::with(settings, |request, out| {
        let location = request.header("x-to").unwrap();
        vendor::answer(out, 307, &[("location", location)], b"moved");
    });
    let (id, auth) = (rig.secret("acme"), format!("Bearer {}", rig.token("acme")));
    let port = rig.app().port();
    for (location, passes, mistake) in [
        ("http://relay.test/other/x".to_owned(), false, "by the authority that the app used"),
        ("https://relay.internal:9443/other/x".to_owned(), false, "by the public address"),
        (format!("http://other.internal:{port}/x"), false, "by another integration's name"),
        ("https://other.internal/x".to_owned(), false, "by that name at another port"),
        ("https://other.test/x".to_owned(), true, "the control"),
    ] {
        let headers = [("authorization", auth.as_str()), ("x-to", location.as_str())];
        let answer = rig.client().request("POST", &format!("/vendor/{id}/x"), &headers, b"x");
        assert_eq!(answer.status == 307, passes, "{mistake}: {}", answer.text());
        assert_eq!(answer.header("location").is_some(), passes, "{mistake}");
    }
}

#[test]
fn a_redirect_out_of_the_integration_is_refused_and_others_are_told_from_it() {
    let rows = [
        ("/other/x", Some(Code::ResponseRefused), "beside the base path"),
        ("../x", Some(Code::ResponseRefused), "above it"),
        ("https://{VENDOR}/based/x", Some(Code::ResponseRefused), "a path that only begins the same"),
        ("https://{VENDOR}/base/%2e%2e/x", Some(Code::ResponseRefused), "an encoded dot segment"),
        ("//{VENDOR}/x", Some(Code::ResponseRefused), "without a scheme"),
        ("http://relay.test/other/x", Some(Code::ResponseRefused), "relay itself"),
        ("http://{RELAY}/other/x", Some(Code::ResponseRefused), "relay's listener"),
        ("http://localhost:{RELAYPORT}/x", Some(Code::ResponseRefused), "relay's listener by another name"),
        ("https:///evil", Some(Code::ResponseRefused), "an empty authority"),
        ("/\\evil.test/x", Some(Code::ResponseRefused), "a backslash"),
        ("https://other.test/login", None, "another origin, untouched"),
        ("https://{VENDOR}/base/y", None, "inside"),
    ];
    let asked = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let shared = asked.clone();
    let rig = Rig::answering(move |request, out| {
        let location = shared.lock().unwrap().replace("{VENDOR}", request.header("host").unwrap());
        vendor::answer(out, 302, &[("location", &location)], b"moved");
    });
    let id = rig.secret("acme");
    for (location, refusal, mistake) in rows {
        let relay = rig.app();
        let location =
            location.replace("{RELAYPORT}", &relay.port().to_string()).replace("{RELAY}", &relay.to_string());
        asked.lock().unwrap().clone_from(&location);
        let answer = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
        match refusal {
            Some(code) => {
                assert_eq!(answer.code(), code.as_str(), "{mistake}: {:?}", answer.headers);
                refused(&answer, code);
                assert_eq!(answer.header("location"), None, "{mistake}");
            }
            None => {
                assert_eq!((answer.status, answer.text().as_str()), (302, "moved"), "{mistake}");
                let inside = location.contains("{VENDOR}");
                let wanted = if inside { format!("http://relay.test/vendor/{id}/y") } else { location };
                assert_eq!(answer.header("location"), Some(wanted.as_str()), "{mistake}");
                assert_eq!(answer.header("relay-error"), None, "{mistake}");
            }
        }
    }
}

#[test]
fn only_relays_own_answers_carry_relay_error() {
    let rig = answering(
        "HTTP/1.1 502 Bad\r\nrelay-error: vendor_broken\r\nRELAY-ERROR: x\r\ncontent-length: 2\r\n\r\nno",
        "",
    );
    let id = rig.secret("acme");
    let answer = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
    assert_eq!(
        (answer.status, answer.code(), answer.text().as_str()),
        (502, "", "no"),
        "the vendor's own 502"
    );
    let answer = rig.get(&format!("/vendor/{id}/x"), "nonsense");
    refused(&answer, Code::TokenMissing);
}

#[test]
fn an_answer_with_a_length_and_chunks_has_two_ends_and_is_refused() {
    for (length, mistake) in [("2", "a length that is too short"), ("50", "one that is too long")] {
        let rig = Rig::answering(move |_, out| {
            raw(out, format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").as_bytes());
        });
        let id = rig.secret("acme");
        let answer = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
        assert_eq!(answer.code(), Code::VendorBroken.as_str(), "{mistake}: {answer:?}");
    }
}

#[test]
fn an_old_client_gets_an_answer_that_it_can_read() {
    let rig = answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "");
    let id = rig.secret("acme");
    let mut client = rig.client();
    client.send(&format!(
        "GET /vendor/{id}/x HTTP/1.0\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n",
        rig.token("acme")
    ));
    let answer = client.answer("GET");
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.header("transfer-encoding")),
        (200, "hello", None)
    );
}

#[test]
fn a_refused_upload_gets_its_answer_and_is_not_read_for_ever() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let head = format!("POST /vendor/{id}/x HTTP/1.1\r\nhost: a\r\n");
    let mut client = rig.client();
    client.send(&format!("{head}content-length: 200000\r\n\r\n"));
    client.send_bytes(&[b'x'; 200_000]);
    refused(&client.answer("POST"), Code::TokenMissing);

    let mut client = rig.client();
    client.send(&format!("{head}content-length: 1000000000\r\n\r\n"));
    client.stream.set_write_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let mut sent = 0;
    let piece = [b'x'; 64 * 1024];
    while sent < 1_000_000_000 && std::io::Write::write_all(&mut client.stream, &piece).is_ok() {
        sent += piece.len();
    }
    assert!(sent < 100_000_000, "relay took {sent} bytes of a body that it had refused");

    let mut client = rig.client();
    client.send(&format!("{head}content-length: 1000\r\n\r\nx"));
    refused(&client.answer("POST"), Code::TokenMissing);
    let started = std::time::Instant::now();
    assert!(
        client.is_closed() && started.elapsed() < std::time::Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    assert!(rig.vendor.requests().is_empty());
}
