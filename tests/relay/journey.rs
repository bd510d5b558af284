use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use relay::model::SecretId;
use relay::refusal::Code;

use crate::refusals::refused;
use crate::rig::vendor::{self, Received, Vendor, raw};
use crate::rig::{Rig, Settings};

/// Asserts that nothing of the caller's token and none of relay's own words went to the vendor.
fn nothing_of_relays(got: &Received, token: &str, id: &str) {
    let head = got.head.to_lowercase();
    let pair = STANDARD.encode(format!("user:{token}")).to_lowercase();
    for (text, what) in [
        (token.to_lowercase(), "the caller's token"),
        (pair, "the caller's token as Basic's pair"),
        (id.to_lowercase(), "the secret's UUID"),
        ("relay-".to_owned(), "a field of relay's own"),
    ] {
        assert!(!head.contains(&text), "{what} went to the vendor: {}", got.head);
    }
}

#[test]
fn a_secret_is_named_by_field_by_path_or_by_claim() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let theirs = SecretId::random().to_string();
    let (plain, pinned) = (rig.token("acme"), rig.token_with("acme", Some(&id), None));
    let compact = theirs.replace('-', "");
    let rows = [
        (
            format!("/vendor/{theirs}/x"),
            Some(&id),
            &plain,
            format!("/base/{theirs}/x"),
            "a vendor's own UUID",
        ),
        (format!("/vendor/{theirs}"), Some(&id), &plain, format!("/base/{theirs}"), "nothing but a UUID"),
        (format!("/vendor/{id}/x"), None, &plain, "/base/x".to_owned(), "in the path"),
        (format!("/vendor/{}/x", id.to_uppercase()), None, &plain, "/base/x".to_owned(), "in upper case"),
        (format!("/vendor/{id}/{theirs}/x"), None, &plain, format!("/base/{theirs}/x"), "a second UUID"),
        (
            format!("/vendor//{id}/x"),
            None,
            &plain,
            "/base/x".to_owned(),
            "a base URL with a slash at its end",
        ),
        ("/vendor/x".to_owned(), None, &pinned, "/base/x".to_owned(), "by claim"),
        (
            format!("/vendor/{compact}/x"),
            None,
            &pinned,
            format!("/base/{compact}/x"),
            "32 digits are no UUID",
        ),
        (format!("/vendor/x/{theirs}"), None, &pinned, format!("/base/x/{theirs}"), "a UUID further on"),
        ("/vendor/x".to_owned(), Some(&id), &pinned, "/base/x".to_owned(), "claim and field agree"),
        (format!("/vendor/{id}/x"), None, &pinned, "/base/x".to_owned(), "claim and path agree"),
    ];
    for (path, field, token, wanted, mistake) in rows {
        let auth = format!("Bearer {token}");
        let mut headers = vec![("authorization", auth.as_str())];
        headers.extend(field.map(|id| ("relay-secret", id.as_str())));
        let answer = rig.client().request("GET", &path, &headers, b"");
        assert_eq!(answer.status, 200, "{mistake}: {}", answer.text());
        let got = rig.vendor.last();
        assert_eq!(got.target(), wanted, "{mistake}");
        assert_eq!(got.all("authorization"), [format!("Bearer {}", rig.canary.text())], "{mistake}");
        nothing_of_relays(&got, token, &id);
    }
}

#[test]
fn a_claim_pins_the_secret() {
    let rig = Rig::plain();
    let (id, other) = (rig.secret("acme"), rig.secret("acme"));
    let auth = format!("Bearer {}", rig.token_with("acme", Some(&id), None));
    for (path, field, mistake) in [
        ("/vendor/x".to_owned(), Some(&other), "a field that names another"),
        (format!("/vendor/{other}/x"), None, "a path that names another"),
        (format!("/vendor/{id}/x"), Some(&other), "a field that names another, and a path that does not"),
    ] {
        let mut headers = vec![("authorization", auth.as_str())];
        headers.extend(field.map(|id| ("relay-secret", id.as_str())));
        let answer = rig.client().request("GET", &path, &headers, b"");
        assert_eq!(answer.code(), Code::SecretAmbiguous.as_str(), "{mistake}");
    }
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn path_and_query_go_out_byte_for_byte() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let token = rig.token("acme");
    let auth = format!("Bearer {token}");
    let same = [
        ("/a%2Fb/c", "an encoded slash"),
        ("/a%20b+c", "a space and a plus"),
        ("/a//b///c", "double slashes inside"),
        ("/a/", "a slash at the end"),
        ("/a?", "an empty query"),
        ("", "nothing at all"),
        ("/", "one slash"),
        ("?q=1", "a query on nothing"),
        ("/a?b=1&a=2&b=3&c", "the order of parameters"),
        ("/a?x=%2F%2f&y=a+b%20c&z=%zz", "escapes in a query, in either case, and a broken one"),
        ("/a?u=/../..//x", "dots in a query"),
        ("/%c3%A9/%7Eme/~me", "escapes in either case"),
        ("/a;v=1/b,c/@d:e/!$&'()*=", "every mark that needs no escape"),
        ("/a?b?c", "two question marks"),
    ];
    let collapsed = [
        ("//a", "/a", "two"),
        ("////a//b", "/a//b", "four, and two further on"),
        ("//", "/", "nothing else"),
    ];
    let rows = same.into_iter().map(|(path, mistake)| (path, path, mistake)).chain(collapsed);
    for (path, wanted, mistake) in rows {
        for field in [true, false] {
            let mut headers = vec![("authorization", auth.as_str())];
            let mut prefix = "/vendor".to_owned();
            if field {
                headers.push(("relay-secret", &id));
            } else {
                prefix = format!("/vendor/{id}");
            }
            let answer = rig.client().request("GET", &format!("{prefix}{path}"), &headers, b"");
            assert_eq!(answer.status, 200, "{mistake}: {}", answer.text());
            assert_eq!(rig.vendor.last().target(), format!("/base{wanted}"), "{mistake}, by field: {field}");
        }
    }
}

#[test]
fn an_upstream_without_a_path_gets_at_least_a_slash() {
    let vendor = Vendor::start(|_, out| vendor::answer(out, 200, &[], b"ok"));
    let upstream = Some(format!("https://localhost:{}", vendor.port));
    let rig = Rig::before(Settings { upstream, ..Settings::default() }, vendor);
    let id = rig.secret("acme");
    for (path, wanted) in [("", "/"), ("/", "/"), ("?a=b", "/?a=b"), ("/x", "/x"), ("//x", "/x")] {
        assert_eq!(rig.get(&format!("/vendor/{id}{path}"), &rig.token("acme")).status, 200, "{path}");
        assert_eq!(rig.vendor.last().target(), wanted, "{path}");
    }
}

#[test]
fn the_token_stands_where_the_credential_will_go() {
    let settings = Settings {
        integration: "inject = [{ header = \"x-api-key\", value = \"{token}\" }, { header = \"x-version\", value = \"7\" }]"
            .to_owned(),
        ..Settings::default()
    };
    let rig = Rig::with(settings, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let id = rig.secret("acme");
    let (token, foreign) = (rig.token("acme"), rig.token("globex"));
    let bearer = format!("Bearer {token}");
    let foreign_bearer = format!("Bearer {foreign}");
    let other = format!("token {token}");
    let pair = format!("Basic {}", STANDARD.encode(format!("user:{token}")));
    let rows: [(&[(&str, &str)], Result<(), Code>, &str); 12] = [
        (&[("x-api-key", &token)], Ok(()), "as the API key"),
        (&[("X-API-Key", &token)], Ok(()), "in any case"),
        (&[("authorization", &bearer)], Ok(()), "as a bearer token"),
        (&[("authorization", &other)], Ok(()), "behind GitHub's old scheme"),
        (&[("authorization", &pair)], Ok(()), "as Basic's password"),
        (&[("x-api-key", &token), ("authorization", &bearer)], Ok(()), "twice the same"),
        (&[("x-api-key", "sk-dummy"), ("authorization", &bearer)], Ok(()), "beside a dummy key"),
        (
            &[
                ("relay-authorization", &bearer),
                ("x-api-key", "sk-dummy"),
                ("authorization", &foreign_bearer),
            ],
            Ok(()),
            "with its own field no other is read, and all are stripped",
        ),
        (&[("x-api-key", &token), ("authorization", &foreign_bearer)], Err(Code::TokenAmbiguous), "two"),
        (&[("x-api-key", &token), ("x-api-key", &foreign)], Err(Code::TokenAmbiguous), "two in one slot"),
        (&[("x-version", &token)], Err(Code::TokenMissing), "a placement without a field is no slot"),
        (&[("relay-authorization", &token), ("x-api-key", &token)], Err(Code::TokenInvalid), "no scheme"),
    ];
    for (headers, wanted, mistake) in rows {
        let before = rig.vendor.requests().len();
        let answer = rig.client().request("GET", &format!("/vendor/{id}/x"), headers, b"");
        match wanted {
            Err(code) => {
                assert_eq!(answer.code(), code.as_str(), "{mistake}: {}", answer.text());
                assert_eq!(rig.vendor.requests().len(), before, "{mistake}");
            }
            Ok(()) => {
                assert_eq!(answer.status, 200, "{mistake}: {}", answer.text());
                let got = rig.vendor.last();
                assert_eq!(got.all("x-api-key"), [rig.canary.text()], "{mistake}");
                assert_eq!(got.all("x-version"), ["7"], "{mistake}");
                assert!(got.all("authorization").is_empty(), "{mistake}: {}", got.head);
                nothing_of_relays(&got, &token, &id);
                nothing_of_relays(&got, &foreign, &id);
            }
        }
    }
}

#[test]
fn basic_takes_the_token_as_its_password_and_sends_the_customers_pair() {
    let settings = Settings {
        integration: "inject = [{ header = \"authorization\", value = \"basic(user, password)\" }]\n\
                      fields = { user = { label = \"User\", secret = false }, password = { label = \"Password\", secret = true } }"
            .to_owned(),
        ..Settings::default()
    };
    let rig = Rig::with(settings, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let canary = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "vendor", &[("user", "acme-bot"), ("password", &canary)]);
    let token = rig.token("acme");
    for pair in [format!("anything:{token}"), format!("{token}:"), format!("{token}:{token}")] {
        let auth = format!("Basic {}", STANDARD.encode(&pair));
        let answer =
            rig.client().request("GET", &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let got = rig.vendor.last();
        let wanted = format!("Basic {}", STANDARD.encode(format!("acme-bot:{canary}")));
        assert_eq!(got.all("authorization"), [wanted]);
        nothing_of_relays(&got, &token, &id);
        assert!(!got.head.contains(&STANDARD.encode(&pair)));
    }
    let auth = format!("Basic {}", STANDARD.encode("user:sk-dummy"));
    let answer = rig.client().request("GET", &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"");
    refused(&answer, Code::TokenMissing);
}

#[test]
fn what_is_the_apps_or_the_ways_own_stays_behind_and_the_rest_goes_on() {
    let settings = Settings {
        integration: "inject = [{ header = \"x-api-key\", value = \"{token}\" }]".to_owned(),
        ..Settings::default()
    };
    let rig = Rig::with(settings, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let id = rig.secret("acme");
    let token = rig.token("acme");
    let auth = format!("Bearer {token}");
    let dropped = [
        ("Relay-Secret", id.as_str(), "relay's own"),
        ("Relay-Anything", "1", "a field of relay's that is not yet there"),
        ("Cookie", "session=1", "the app's cookies"),
        ("Cookie2", "$Version=1", "its older kind"),
        ("Forwarded", "for=10.1.2.3", "the app's network"),
        ("X-Forwarded-For", "10.1.2.3", "the app's network, as most write it"),
        ("X-Forwarded-Host", "internal.test", "the app's host"),
        ("X-Forwarded-Anything", "1", "whatever begins so"),
        ("Proxy-Authorization", "Basic eA==", "what is for a proxy"),
        ("Proxy-Connection", "keep-alive", "what is for a proxy and never was standard"),
        ("Proxy-Anything", "1", "whatever else is for a proxy"),
        ("X-Original-URL", "/admin", "another target"),
        ("X-Rewrite-URL", "/admin", "another target, otherwise"),
        ("Connection", "close, X-Hop , keep-alive,x-hop-too", "hop-by-hop"),
        ("X-Hop", "1", "named by Connection, in its own case"),
        ("X-Hop-Too", "1", "named by Connection, in another"),
        ("Keep-Alive", "timeout=5", "hop-by-hop"),
        ("TE", "trailers", "hop-by-hop"),
        ("Trailer", "x-checksum", "hop-by-hop"),
        ("Upgrade", "h2c", "an offer that need not be taken, which some clients always make"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__", "part of an upgrade"),
        ("X_Api_Key", "theirs", "a twin with underscores"),
        ("x-api_key", "theirs", "a twin with both"),
        ("X-API-KEY", "theirs", "the injected name itself"),
        ("Range", "bytes=0-3", "a part of an answer"),
        ("If-Range", "\"a\"", "its condition"),
        ("Expect", "100-continue", "an expectation of relay, not of the vendor"),
    ];
    let kept = [
        ("User-Agent", "saas/1.0"),
        ("Accept", "text/html"),
        ("Accept", "application/json;q=0.5"),
        ("X-Many", "one"),
        ("X-Many", "two, three"),
        ("X-Many", ""),
        ("Accept-Language", "de"),
        ("Idempotency-Key", "k-1"),
        ("If-None-Match", "\"a\""),
        ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("X-Api-Key-Id", "9"),
        ("X-Odd", "caf(e) \t tab"),
        ("Via", "1.1 their-proxy"),
    ];
    let mut headers = vec![("authorization", auth.as_str()), ("accept-encoding", "gzip, br")];
    headers.extend(dropped.iter().map(|(name, value, _)| (*name, *value)));
    headers.extend(kept);
    let answer = rig.client().request("GET", "/vendor/x", &headers, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let got = rig.vendor.last();
    for (name, value, mistake) in dropped {
        assert!(!got.all(name).contains(&value), "{name} ({mistake}) went on: {}", got.head);
    }
    let mut names: Vec<String> =
        got.head.split("\r\n").skip(1).map(|line| line.split(':').next().unwrap().to_lowercase()).collect();
    names.sort();
    names.dedup();
    let mut wanted: Vec<String> = kept.iter().map(|(name, _)| name.to_lowercase()).collect();
    wanted.extend(["host", "x-api-key", "accept-encoding"].map(str::to_owned));
    wanted.sort();
    wanted.dedup();
    assert_eq!(names, wanted, "these fields and no others");
    for (name, _) in kept {
        let mut values: Vec<&str> = kept.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
        if name == "Via" {
            values.push("1.1 relay");
        }
        assert_eq!(got.all(name), values, "{name}, in order");
    }
    assert_eq!(got.all("x-api-key"), [rig.canary.text()]);
    assert_eq!(got.all("host"), [format!("localhost:{}", rig.vendor.port)]);
    assert_eq!(got.all("accept-encoding"), ["identity"]);
    nothing_of_relays(&got, &token, &id);
}

#[test]
fn a_connection_field_cannot_take_away_what_relay_put_in() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let auth = format!("Bearer {}", rig.token("acme"));
    let headers =
        [("authorization", auth.as_str()), ("connection", "authorization, host, via, accept-encoding")];
    assert_eq!(rig.client().request("GET", &format!("/vendor/{id}/x"), &headers, b"").status, 200);
    let got = rig.vendor.last();
    assert_eq!(got.all("authorization"), [format!("Bearer {}", rig.canary.text())]);
    assert_eq!((got.all("via"), got.all("accept-encoding")), (vec!["1.1 relay"], vec!["identity"]));
    assert_eq!(got.all("host").len(), 1);
}

#[test]
fn every_framing_of_a_request_reaches_the_vendor_as_relays_own() {
    let rig = Rig::answering(|request, out| match request.line() {
        "HEAD /base/x" => raw(out, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        _ => vendor::answer(out, 200, &[], b"ok"),
    });
    let id = rig.secret("acme");
    let auth = format!("host: a\r\nauthorization: Bearer {}\r\n", rig.token("acme"));
    let rows: [(&str, &str, &str, &str, &str); 9] = [
        ("POST", "content-length: 5\r\n\r\nhello", "hello", "content-length: 5", "a length"),
        (
            "POST",
            "transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            "hello",
            "transfer-encoding: chunked",
            "chunks",
        ),
        (
            "POST",
            "trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\nauthorization: x\r\n\r\n",
            "hello",
            "transfer-encoding: chunked",
            "chunks and trailers",
        ),
        ("POST", "content-length: 0\r\n\r\n", "", "content-length: 0", "an empty body"),
        ("PUT", "\r\n", "", "content-length: 0", "no body at all, where one is expected"),
        (
            "PATCH",
            "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "",
            "transfer-encoding: chunked",
            "no chunks",
        ),
        ("DELETE", "content-length: 2\r\n\r\n{}", "{}", "content-length: 2", "a body where few expect one"),
        ("GET", "content-length: 2\r\n\r\n{}", "{}", "content-length: 2", "a body on a GET"),
        ("GET", "\r\n", "", "", "no body"),
    ];
    for (number, (method, rest, body, framing, mistake)) in rows.into_iter().enumerate() {
        let mut client = rig.client();
        client.send(&format!("{method} /vendor/{id}/x HTTP/1.1\r\n{auth}{rest}"));
        let answer = client.answer(method);
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{mistake}");
        let requests = rig.vendor.requests();
        assert_eq!(requests.len(), number + 1, "{mistake}: one request is one request");
        let got = requests.last().unwrap();
        assert_eq!(String::from_utf8_lossy(&got.body), body, "{mistake}");
        let lines = got
            .head
            .split("\r\n")
            .filter(|line| line.starts_with("content-length") || line.starts_with("transfer-encoding"));
        let lines: Vec<&str> = lines.collect();
        assert!(lines.len() <= 1, "{mistake}: {lines:?}");
        if !framing.is_empty() {
            assert_eq!(lines, [framing], "{mistake}");
        }
    }
    let mut client = rig.client();
    client.send(&format!(
        "HEAD /vendor/{id}/x HTTP/1.1\r\n{auth}\r\nGET /vendor/{id}/y HTTP/1.1\r\n{auth}\r\n"
    ));
    let head = client.answer("HEAD");
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    assert_eq!(client.answer("GET").text(), "ok", "the next answer on the connection is the next answer");
}

#[test]
fn an_app_that_waits_for_100_continue_gets_it() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let auth = format!("authorization: Bearer {}", rig.token("acme"));
    let mut client = rig.client();
    client.send(&format!(
        "POST /vendor/{id}/x HTTP/1.1\r\nhost: a\r\n{auth}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    ));
    assert_eq!(client.head().0, 100);
    client.send("hello");
    assert_eq!(client.answer("POST").status, 200);
    let got = rig.vendor.last();
    assert_eq!((got.body.as_slice(), got.header("expect")), (b"hello".as_slice(), None));

    let mut client = rig.client();
    client.send(&format!(
        "POST /vendor/{id}/x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    ));
    refused(&client.answer("POST"), Code::TokenMissing);
}

#[test]
fn paths_that_could_be_read_in_two_ways_never_leave() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let auth = format!("authorization: Bearer {}\r\n", rig.token("acme"));
    let rows: [(&[u8], &str); 16] = [
        (b"/a/../b", "a dot segment"),
        (b"/..", "nothing but one"),
        (b"/a/./b", "a single dot"),
        (b"/a/%2E%2e/b", "encoded"),
        (b"/a/%252e%252e/b", "encoded twice"),
        (b"/a/..%2fb", "behind an encoded slash"),
        (b"/a/..;x=y/b", "with a parameter"),
        (b"/a\\b", "a backslash"),
        (b"/a%5Cb", "an encoded one"),
        (b"/a%255cb", "one encoded twice"),
        (b"/a%00b", "NUL"),
        (b"/a%0d%0aHost:%20x", "a line break"),
        (b"/a%", "a % alone"),
        (b"/caf\xc3\xa9", "bytes beyond ASCII"),
        (b"/a\x7fb", "DEL"),
        (b"/a\tb", "a tab"),
    ];
    for (path, mistake) in rows {
        for prefix in [format!("/vendor/{id}"), "/vendor".to_owned()] {
            let mut client = rig.client();
            client.send(&format!("GET {prefix}"));
            client.send_bytes(path);
            client.send(&format!(" HTTP/1.1\r\nhost: a\r\nrelay-secret: {id}\r\n{auth}\r\n"));
            let answer = client.answer("GET");
            assert_eq!(answer.status, 400, "{mistake}: {} {}", answer.status, answer.text());
        }
    }
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn a_token_that_was_believed_ends_all_the_same() {
    let callers = format!("{}leeway = \"0s\"\n", crate::rig::callers());
    let rig =
        Rig::with(Settings { callers, ..Settings::default() }, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let id = rig.secret("acme");
    let claims = serde_json::json!({ "iss": crate::rig::ISSUER, "aud": crate::rig::AUDIENCE,
        "exp": relay::clock::unix_seconds() + 2, "customer_id": "acme" });
    let token = crate::refusals::signed(&rig, &claims);
    let auth = format!("Bearer {token}");
    let mut client = rig.client();
    let path = format!("/vendor/{id}/x");
    // On one connection, so by one worker: the second is answered from its memory.
    for _ in 0..2 {
        assert_eq!(client.request("GET", &path, &[("authorization", &auth)], b"").status, 200);
    }
    let until = std::time::Instant::now() + std::time::Duration::from_secs(4);
    let answer = loop {
        let answer = client.request("GET", &path, &[("authorization", &auth)], b"");
        if answer.status != 200 || std::time::Instant::now() > until {
            break answer;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    refused(&answer, Code::TokenExpired);
}
