//! A vendor's URLs in JSON lead back through relay, and nothing else of the JSON changes.

use crate::fuzz_corpus::targets::json::through;
use crate::rig::{Rig, Settings, vendor};

const SETTING: &str =
    "rewrite = [\"json\"]\ninject = [{ header = \"authorization\", value = \"Bearer {token}\" }]";

fn whole(text: &str) -> String {
    String::from_utf8(through(vec![text.as_bytes().to_vec()])).unwrap()
}

/// The vendor of these tests is `https://api.vendor.example/base`; relay is `http://relay.test:8480/vendor`.
const REWRITTEN: &[(&str, &str, &str)] = &[
    (
        r#"{"a":"https://api.vendor.example/base/x?page=2&a=b#f"}"#,
        r#"{"a":"http://relay.test:8480/vendor/x?page=2&a=b#f"}"#,
        "a value",
    ),
    (r#"["https://api.vendor.example/base/x"]"#, r#"["http://relay.test:8480/vendor/x"]"#, "in a list"),
    (r#""https://api.vendor.example/base/x""#, r#""http://relay.test:8480/vendor/x""#, "the whole text"),
    (
        r#" [ 1.5e400 , "https://api.vendor.example/base" ] "#,
        r#" [ 1.5e400 , "http://relay.test:8480/vendor" ] "#,
        "the base itself, behind a big number",
    ),
    (
        r#"{"a":"https:\/\/api.vendor.example\/base\/x"}"#,
        r#"{"a":"http:\/\/relay.test:8480\/vendor\/x"}"#,
        "escaped slashes stay escaped",
    ),
    (
        r#"{"a":"https://api.vendor.example/base/x?a=1\u0026page=2"}"#,
        r#"{"a":"http://relay.test:8480/vendor/x?a=1\u0026page=2"}"#,
        "other escapes stay as they are",
    ),
    (
        r#"{"a":"https://api.vendor.example/base/repos/{owner}{/name}{?a,b}"}"#,
        r#"{"a":"http://relay.test:8480/vendor/repos/{owner}{/name}{?a,b}"}"#,
        "a URI template",
    ),
    (
        r#"{"a":"https://api.vendor.example/base{/name}"}"#,
        r#"{"a":"http://relay.test:8480/vendor{/name}"}"#,
        "a template directly behind the base",
    ),
    (
        r#"{"a":"HTTPS://API.Vendor.Example:443/base/x"}"#,
        r#"{"a":"http://relay.test:8480/vendor/x"}"#,
        "another spelling of the origin",
    ),
    (
        r#"{"a":"https://api.vendor.example/base/x?t=[redacted by relay]**&p=2"}"#,
        r#"{"a":"http://relay.test:8480/vendor/x?t=[redacted by relay]**&p=2"}"#,
        "a query that the scrubber was in",
    ),
    (
        r#"{"a":"https://api.vendor.example/base/ü/x"}"#,
        r#"{"a":"http://relay.test:8480/vendor/ü/x"}"#,
        "letters that clients escape",
    ),
    (
        "{\"a\":1}\n{\"a\":\"https://api.vendor.example/base/x\"}\n",
        "{\"a\":1}\n{\"a\":\"http://relay.test:8480/vendor/x\"}\n",
        "line by line",
    ),
    (
        r#"{"k":{"k":[[],{},"https://api.vendor.example/base/1",{"https://api.vendor.example/base/2":"https://api.vendor.example/base/3"}]}}"#,
        r#"{"k":{"k":[[],{},"http://relay.test:8480/vendor/1",{"https://api.vendor.example/base/2":"http://relay.test:8480/vendor/3"}]}}"#,
        "nested, and a key that is a URL",
    ),
];

const UNTOUCHED: &[(&str, &str)] = &[
    (r#"{"a":"see https://api.vendor.example/base/x"}"#, "a text that contains a URL"),
    (r#"{"a":"https://api.vendor.example/base/x and more/.."}"#, "a text that begins like one and climbs"),
    (r#"{"https://api.vendor.example/base/x":1}"#, "a key"),
    (r#"{"a":"https://other.example/base/x"}"#, "another origin"),
    (r#"{"a":"http://api.vendor.example/base/x"}"#, "another scheme"),
    (r#"{"a":"https://api.vendor.example:8443/base/x"}"#, "another port"),
    (r#"{"a":"https://api.vendor.example.evil.test/base/x"}"#, "a longer name"),
    (r#"{"a":"https://api.vendor.example{x}/base/x"}"#, "a template inside the name"),
    (r#"{"a":"https://api.vendor.example@evil.test/base/x"}"#, "a user that looks like the vendor"),
    (r#"{"a":"https://user@api.vendor.example/base/x"}"#, "a user"),
    (r#"{"a":"https://api.vendor.example\\@evil.test/base/x"}"#, "a backslash"),
    (r#"{"a":"https://api.vendor.example/basement/x"}"#, "a longer base path"),
    (r#"{"a":"https://api.vendor.example/base{x}/y"}"#, "a template inside the base path"),
    (r#"{"a":"https://api.vendor.example/other"}"#, "outside of the base path"),
    (r#"{"a":"https://api.vendor.example/base/../other"}"#, "dot segments"),
    (r#"{"a":"https://api.vendor.example/base/%2e%2e/other"}"#, "dot segments, encoded"),
    (r#"{"a":"https://api.vendor.example/base/\u002e\u002e/other"}"#, "dot segments, escaped"),
    (r#"{"a":"https://api.vendor.example/base/{x}/../other"}"#, "dot segments behind a template"),
    (
        r#"{"a":"https://api.vendor.example/base/{x}../other"}"#,
        "dot segments once a template is filled with nothing",
    ),
    (r#"{"a":"https://api.vendor.example/base/%2{x}e./other"}"#, "the same, encoded"),
    (
        r#"{"a":"https://api.vendor.example/base{/x}ment"}"#,
        "a longer base path once a template is filled with nothing",
    ),
    (r#"{"a":"https://api.vendor.example/base{/x}{y}"}"#, "a template that may be one"),
    (r#"{"a":"https://api.vendor.example/base//x"}"#, "two slashes, which relay would collapse"),
    (r#"{"a":"https://api.vendor.example/base/\ud83d\ude00"}"#, "a surrogate pair"),
    (r#"{"a":"/base/x"}"#, "a path alone"),
    (r#"{"a":"//api.vendor.example/base/x"}"#, "no scheme"),
    (r#"{"a":"http://127.0.0.1:8480/other/x"}"#, "relay itself"),
    (r#"{"a" "https://api.vendor.example/base/x"}"#, "no JSON before it"),
    (r#"{"a":1}} "https://api.vendor.example/base/x""#, "a bracket too many before it"),
    (r#"["https://api.vendor.example/base/x"#, "a string that never ends"),
    (r#"<html>"https://api.vendor.example/base/x""#, "no JSON at all"),
    ("", "nothing"),
];

#[test]
fn a_string_value_that_is_a_url_below_the_base_path_leads_to_relay() {
    for (before, after, what) in REWRITTEN {
        assert_eq!(whole(before), *after, "{what}");
    }
}

#[test]
fn everything_else_passes_byte_for_byte() {
    for (text, what) in UNTOUCHED {
        assert_eq!(whole(text), *text, "{what}");
    }
}

#[test]
fn the_pieces_change_nothing_wherever_the_text_is_cut() {
    let rows = REWRITTEN.iter().map(|row| row.0).chain(UNTOUCHED.iter().map(|row| row.0));
    for text in rows {
        let wanted = whole(text);
        let bytes = text.as_bytes();
        for at in 0..=bytes.len() {
            let cut = through(vec![bytes[..at].to_vec(), bytes[at..].to_vec()]);
            assert_eq!(String::from_utf8_lossy(&cut), wanted, "{text} cut at {at}");
        }
        let single = through(bytes.iter().map(|byte| vec![*byte]).collect());
        assert_eq!(String::from_utf8_lossy(&single), wanted, "{text} byte by byte");
    }
}

#[test]
fn what_is_held_is_one_string_of_limited_length() {
    use relay::stage::scrub::json::LONGEST;
    let url = |length: usize| {
        let front = "\"https://api.vendor.example/base/";
        format!("[{front}{}\"]", "a".repeat(length - front.len() - 1))
    };
    assert!(whole(&url(LONGEST)).contains("relay.test"), "the longest is rewritten");
    let longer = url(LONGEST + 1);
    assert_eq!(whole(&longer), longer, "one byte more is not");
    for pieces in [1, 7, 1000, 5000] {
        let cut: Vec<Vec<u8>> = longer.as_bytes().chunks(pieces).map(<[u8]>::to_vec).collect();
        assert_eq!(through(cut), longer.as_bytes(), "in pieces of {pieces}");
    }
}

#[test]
fn brackets_by_the_hundred_thousand_are_read_without_a_stack_of_calls() {
    use relay::stage::scrub::json::DEEPEST;
    let nested = |depth: usize| {
        format!("{}\"https://api.vendor.example/base/x\"{}", "[".repeat(depth), "]".repeat(depth))
    };
    assert!(whole(&nested(DEEPEST)).contains("relay.test"));
    let deeper = nested(DEEPEST + 1);
    assert_eq!(whole(&deeper), deeper, "what is deeper passes unread");
    let more = nested(1_000_000);
    assert_eq!(whole(&more), more);
}

fn before(head: &'static [(&'static str, &'static str)], status: u16) -> Rig {
    let settings = Settings { integration: SETTING.to_owned(), ..Settings::default() };
    Rig::with(settings, move |received, out| {
        let host = received.header("host").unwrap();
        let body =
            format!(r#"{{"next":"https://{host}/base/things?page=2","other":"https://{host}/elsewhere"}}"#);
        if received.line().starts_with("HEAD") || status == 304 {
            vendor::raw(
                out,
                format!("HTTP/1.1 {status} X\r\ncontent-length: 70\r\n{}\r\n", lines(head)).as_bytes(),
            );
        } else {
            vendor::answer(out, status, head, body.as_bytes());
        }
    })
}

fn lines(head: &[(&str, &str)]) -> String {
    head.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

const JSON: &[(&str, &str)] = &[
    ("content-type", "application/vnd.github+json; charset=utf-8"),
    ("etag", "\"1\""),
    ("digest", "sha-256=x"),
    ("repr-digest", "sha-256=:x:"),
    ("content-md5", "x"),
];

#[test]
fn the_head_no_longer_vouches_for_the_vendors_bytes() {
    let rig = before(JSON, 200);
    let secret = rig.secret("acme");
    let answer = rig.get(&format!("/vendor/{secret}/things"), &rig.token("acme"));
    let next = answer.json()["next"].as_str().unwrap().to_owned();
    assert_eq!(
        next,
        format!("http://relay.test/vendor/{secret}/things?page=2"),
        "this request's address form"
    );
    assert!(answer.json()["other"].as_str().unwrap().ends_with("/elsewhere"));
    assert_eq!(answer.header("etag"), Some("W/\"1\""));
    for gone in ["content-length", "digest", "repr-digest", "content-md5"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    assert!(!answer.cut);
    let again = rig.get(next.strip_prefix("http://relay.test").unwrap(), &rig.token("acme"));
    assert_eq!(again.status, 200);
    let asked: Vec<String> =
        rig.vendor.received.lock().unwrap().iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(asked, ["/base/things", "/base/things?page=2"]);
}

#[test]
fn what_has_no_whole_json_body_keeps_its_head() {
    let html: &[(&str, &str)] = &[("content-type", "text/html"), ("etag", "\"1\"")];
    let utf16: &[(&str, &str)] = &[("content-type", "application/json; charset=utf-16"), ("etag", "\"1\"")];
    for (head, status, method) in
        [(html, 200, "GET"), (utf16, 200, "GET"), (JSON, 304, "GET"), (JSON, 200, "HEAD")]
    {
        let rig = before(head, status);
        let secret = rig.secret("acme");
        let bearer = format!("Bearer {}", rig.token("acme"));
        let answer =
            rig.client().request(method, &format!("/vendor/{secret}/x"), &[("authorization", &bearer)], b"");
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("etag"), Some("\"1\""), "{method} {status} {head:?}");
        assert!(!answer.text().contains("relay.test"));
    }
}

#[test]
fn without_the_setting_json_is_not_read() {
    let rig = Rig::answering(|_, out| {
        vendor::answer(out, 200, JSON, br#"{"next":"https://localhost/base/x"}"#);
    });
    let secret = rig.secret("acme");
    let answer = rig.get(&format!("/vendor/{secret}/x"), &rig.token("acme"));
    assert_eq!(answer.header("etag"), Some("\"1\""));
    assert_eq!(answer.header("digest"), Some("sha-256=x"));
}

#[test]
fn the_credential_is_gone_from_a_url_before_it_is_rewritten() {
    let settings = Settings { integration: SETTING.to_owned(), ..Settings::default() };
    let rig = Rig::with(settings, |received, out| {
        let (host, given) = (received.header("host").unwrap(), received.header("authorization").unwrap());
        let given = given.strip_prefix("Bearer ").unwrap();
        let body = format!(r#"{{"next":"https://{host}/base/x?access_token={given}&page=2"}}"#);
        vendor::answer(out, 200, &[("content-type", "application/json")], body.as_bytes());
    });
    let secret = rig.secret("acme");
    let answer = rig.get(&format!("/vendor/{secret}/x"), &rig.token("acme"));
    let next = answer.json()["next"].as_str().unwrap().to_owned();
    assert!(next.starts_with("http://relay.test/vendor/"), "{next}");
    assert!(next.contains("redacted by relay") && next.ends_with("&page=2"), "{next}");
}

#[test]
fn an_app_that_reaches_relay_by_an_ipv6_address_stays_behind_it_too() {
    let settings = Settings { integration: SETTING.to_owned(), ..Settings::default() };
    let rig = Rig::with(settings, |request, out| {
        let port = request.header("host").unwrap().rsplit_once(':').unwrap().1.to_owned();
        let body = format!("{{\"next\":\"https://localhost:{port}/base/page\"}}");
        vendor::answer(out, 200, &[("content-type", "application/json")], body.as_bytes());
    });
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let mut client = rig.client();
    client.send(&format!(
        "GET /vendor/{id}/x HTTP/1.1\r\nhost: [::1]:8480\r\nauthorization: Bearer {token}\r\n\r\n"
    ));
    assert_eq!(client.answer("GET").text(), format!("{{\"next\":\"http://[::1]:8480/vendor/{id}/page\"}}"));
}
