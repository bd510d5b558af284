//! References: inside, elsewhere, or dropped.

use http::StatusCode;
use relay::model::Origin;
use relay::stage::scrub::links::{Address, LinkRefused, Why, any, rewrite};

use super::heads::head;

const FOUND: StatusCode = StatusCode::FOUND;

fn address<'a>(origin: &'a Origin, base_path: &'a str, target: &'a str, own: &'a [String]) -> Address<'a> {
    Address {
        app_base: "http://127.0.0.1:8480".to_owned(),
        prefix: "/slack".to_owned(),
        origin,
        base_path,
        target,
        own,
    }
}

/// The Location that a client would see, or why there is none.
fn location(text: &str, base_path: &str, target: &str) -> Result<String, Why> {
    let origin = Origin::parse("https://vendor.example").unwrap();
    let own =
        ["127.0.0.1:8480".to_owned(), "relay.internal:8480".to_owned(), "connect.saas.example".to_owned()];
    let mut map = head(&[("location", text)]);
    match rewrite(&mut map, FOUND, &address(&origin, base_path, target, &own)) {
        Ok(dropped) => {
            assert!(dropped.is_empty());
            let value = map["location"].as_bytes();
            Ok(String::from_utf8_lossy(value).into_owned())
        }
        Err(LinkRefused(why)) => Err(why),
    }
}

#[test]
fn a_name_of_relays_is_relays_at_any_port() {
    let origin = Origin::parse("https://vendor.example").unwrap();
    let own =
        ["github.relay.internal:*".to_owned(), "vendor.example:*".to_owned(), "0.0.0.0:8480".to_owned()];
    let judged = |text: &str| {
        let mut map = head(&[("location", text)]);
        rewrite(&mut map, FOUND, &address(&origin, "", "/v1", &own)).err().map(|LinkRefused(why)| why)
    };
    let rows = [
        ("https://github.relay.internal/x", Some(Why::Own), "another integration's name"),
        ("http://GitHub.relay.internal.:8480/x", Some(Why::Own), "written otherwise, at a port"),
        ("https://gitlab.relay.internal/x", None, "a name of nobody's"),
        ("https://vendor.example/x", None, "the vendor's name, which is this integration's too: kept inside"),
        ("https://vendor.example:8443/x", Some(Why::Own), "the same at another port"),
        ("http://127.0.0.9:8480/x", Some(Why::Own), "a listener on every address, by a loopback one"),
        ("http://[::ffff:127.0.0.1]:8480/x", Some(Why::Own), "the same, mapped"),
        ("http://192.0.2.7:8480/x", None, "an address that is not this host's"),
    ];
    for (text, wanted, mistake) in rows {
        assert_eq!(judged(text), wanted, "{mistake}");
    }
}

#[test]
fn a_reference_inside_comes_back_to_relay() {
    let rows = [
        ("https://vendor.example/api/x", "/slack/x", "absolute"),
        ("https://vendor.example/api/x?a=b#c", "/slack/x?a=b#c", "query and fragment are lost"),
        (
            "https://vendor.example/api/x?a=../b&c=..",
            "/slack/x?a=../b&c=..",
            "dots in a query are no segments",
        ),
        ("https://vendor.example/api", "/slack", "the base path itself"),
        ("https://vendor.example/api?x", "/slack?x", "the base path itself with a query"),
        ("https://vendor.example/api/", "/slack/", "the base path with a slash"),
        ("https://vendor.example:443/api/x", "/slack/x", "the default port, written out"),
        ("https://vendor.example:/api/x", "/slack/x", "an empty port"),
        ("HTTPS://VENDOR.Example/api/x", "/slack/x", "scheme and host in upper case"),
        ("//vendor.example/api/x", "/slack/x", "relative to the scheme"),
        ("/api/x", "/slack/x", "relative to the host: a client would go to another integration"),
        ("x", "/slack/v1/x", "relative to the folder"),
        ("x/y?z", "/slack/v1/x/y?z", "relative to the folder, deeper"),
        ("?page=2", "/slack/v1/list?page=2", "a query alone"),
        ("#top", "/slack/v1/list?page=1#top", "a fragment alone keeps the query"),
        ("", "/slack/v1/list?page=1", "nothing at all means the same again"),
        ("/api/a%2Fb/%7Ec", "/slack/a%2Fb/%7Ec", "escapes stay as written"),
        ("/api/a...b/..c/d..", "/slack/a...b/..c/d..", "dots inside of a segment"),
        ("/api/x:y@z", "/slack/x:y@z", "colon and at in a path"),
        ("/api/x//y", "/slack/x//y", "an empty segment further in"),
        (" /api/x\t", "/slack/x", "white space around it"),
    ];
    for (text, wanted, mistake) in rows {
        let wanted = format!("http://127.0.0.1:8480{wanted}");
        assert_eq!(location(text, "/api", "/api/v1/list?page=1"), Ok(wanted), "{text}: {mistake}");
    }
    let bare = location("https://vendor.example?x", "", "/a");
    assert_eq!(bare, Ok("http://127.0.0.1:8480/slack/?x".to_owned()), "no path means the root");
}

#[test]
fn another_origin_is_left_as_it_is() {
    for (text, mistake) in [
        ("https://other.example/api/x", "another host"),
        ("https://OTHER.example:443/../x", "another host is not tidied up"),
        ("https://vendor.example.evil.example/api/x", "the vendor's name as a prefix"),
        ("https://evilvendor.example/api/x", "the vendor's name as a suffix"),
        ("https://vendor.example:8443/api/x", "another port"),
        ("http://vendor.example/api/x", "another scheme"),
        ("//other.example/x", "another host, the same scheme"),
        ("https://user:pw@other.example/x", "user information for another host"),
        ("https://other.example/a b?c=\\", "odd bytes behind another host"),
        ("https://other.example/\u{e9}", "non-ASCII behind another host"),
        ("https://other.example/?u=https://vendor.example/api", "the vendor in another's query"),
        ("mailto:a@vendor.example", "no web address"),
        ("myapp://callback/../x", "an app's own scheme"),
    ] {
        assert_eq!(location(text, "/api", "/api/x"), Ok(text.to_owned()), "{mistake}");
    }
}

#[test]
fn what_would_lead_past_relay_or_means_two_things_is_dropped() {
    use Why::{DotSegment, Outside, Own, Unclear};
    for (text, why, mistake) in [
        ("https://vendor.example/login", Outside, "the vendor, outside of the base path"),
        ("https://vendor.example/", Outside, "the vendor's root"),
        ("https://vendor.example", Outside, "the vendor without a path"),
        ("https://vendor.example/apix", Outside, "the base path cut inside of a segment"),
        ("https://vendor.example/API/x", Outside, "paths have a case"),
        ("https://vendor.example/%61pi/x", Outside, "the base path in escapes"),
        ("/github/user", Outside, "another integration's prefix"),
        ("//vendor.example/x", Outside, "relative to the scheme, outside"),
        ("https://vendor.example/api/../x", DotSegment, "out by two dots"),
        ("https://vendor.example/api/./x", DotSegment, "one dot"),
        ("https://vendor.example/api/%2e%2E/x", DotSegment, "dots in escapes"),
        ("https://vendor.example/api/.%2e/x", DotSegment, "one dot in an escape"),
        ("https://vendor.example/api/%252e%252e/x", DotSegment, "dots escaped twice"),
        ("https://vendor.example/api/a%2f..%2fx", DotSegment, "dots between escaped slashes"),
        ("https://vendor.example/api/x/..", DotSegment, "dots at the end"),
        ("../x", DotSegment, "relative, up"),
        ("./x", DotSegment, "relative, here"),
        ("https://vendor.example/api\\..\\x", Unclear, "a backslash in the path"),
        ("https://vendor.example/api/%5c../x", Unclear, "an escaped backslash"),
        ("https://vendor.example/api/%00", Unclear, "an escaped NUL"),
        ("/\\other.example/x", Unclear, "slash backslash is a host to browsers"),
        ("\\\\other.example/x", Unclear, "two backslashes"),
        ("https://other.example\\@vendor.example/api", Unclear, "a backslash before the host's end"),
        ("https://vendor.example\\@other.example/api", Unclear, "the same the other way round"),
        ("https://user@vendor.example/api/x", Unclear, "user information for the vendor"),
        ("https://a@b@other.example/x", Unclear, "two ats"),
        ("https://vendor.example./api/x", Unclear, "the vendor's name with a dot"),
        ("https://vendor.example../api/x", Unclear, "two dots"),
        ("https:/vendor.example/api/x", Unclear, "one slash"),
        ("https:vendor.example/api/x", Unclear, "no slash"),
        ("https:///vendor.example/api/x", Unclear, "three slashes"),
        ("///vendor.example/api/x", Unclear, "three slashes without a scheme"),
        ("https://", Unclear, "no host"),
        ("https://vendor.example:x/api", Unclear, "a port that is none"),
        ("https://vendor.example:99999/api", Unclear, "a port out of range"),
        ("https://%76endor.example/api/x", Unclear, "an escape in the host"),
        ("https://v\u{e9}ndor.example/api/x", Unclear, "a host that is not ASCII"),
        ("https://vendor\u{3002}example/api/x", Unclear, "a dot that only IDNA knows"),
        ("https://vendor.example/api/a b", Unclear, "a space"),
        ("https://vendor.example/ap\ti/x", Unclear, "a tab, which browsers skip"),
        ("ht\ttps://other.example/x", Unclear, "a tab in the scheme"),
        ("/api/\u{e9}", Unclear, "not ASCII"),
        ("/api//github/x", Unclear, "slashes that collapse behind the prefix"),
        ("/api/<x>", Unclear, "a byte that the parsers write differently"),
        ("http://127.0.0.1:8480/github/x", Own, "relay's listener"),
        ("//127.0.0.1:8480/github/x", Own, "relay's listener, any scheme"),
        ("http://2130706433:8480/github/x", Own, "relay's listener as a number"),
        ("http://0x7f.1:8480/github/x", Own, "relay's listener in hexadecimal"),
        ("http://localhost:8480/github/x", Own, "relay's listener by the loopback's name"),
        ("http://[::1]:8480/github/x", Own, "relay's listener by IPv6"),
        ("http://RELAY.internal:8480/x", Own, "the request's authority"),
        ("http://relay.internal.:8480/x", Own, "the request's authority with a dot"),
        ("http://a:b@relay.internal:8480/x", Own, "with user information"),
        ("https://connect.saas.example/x", Own, "the public URL's, default port"),
    ] {
        assert_eq!(location(text, "/api", "/api/v1/list"), Err(why), "{text}: {mistake}");
    }
}

#[test]
fn only_a_redirect_needs_its_location() {
    let origin = Origin::parse("https://vendor.example").unwrap();
    let mut map = head(&[("location", "/login"), ("content-location", "/login"), ("x", "y")]);
    let dropped = rewrite(&mut map, StatusCode::CREATED, &address(&origin, "/api", "/api/x", &[])).unwrap();
    assert_eq!(dropped.len(), 2);
    assert_eq!(map.len(), 1);

    let mut twice = head(&[("location", "/api/a"), ("location", "/api/b")]);
    let refused = rewrite(&mut twice, FOUND, &address(&origin, "/api", "/api/x", &[]));
    assert_eq!(refused, Err(LinkRefused(Why::Unclear)), "two Locations");
    assert!(!any(&head(&[("x", "y")])));
    assert!(any(&head(&[("refresh", "1")])));
}

#[test]
fn the_reference_form_of_the_request_is_kept() {
    let origin = Origin::parse("https://[2001:db8::1]:8443").unwrap();
    let mut address = address(&origin, "", "/x", &[]);
    address.prefix = "/slack/6f1d2c3b-0000-4000-8000-000000000001".to_owned();
    let mut map = head(&[("location", "https://[2001:DB8:0::1]:8443/next")]);
    rewrite(&mut map, FOUND, &address).unwrap();
    assert_eq!(map["location"], "http://127.0.0.1:8480/slack/6f1d2c3b-0000-4000-8000-000000000001/next");
}

/// Link fields, what is left of them, how many links were dropped, the mistake.
const LINKS: &[(&[&str], &[&str], usize, &str)] = &[
    (
        &[
            "<https://vendor.example/api/x?page=2>; rel=\"next\", <https://vendor.example/api/x?page=9>; rel=\"last\"",
        ],
        &[
            "<http://127.0.0.1:8480/slack/x?page=2>; rel=\"next\", <http://127.0.0.1:8480/slack/x?page=9>; rel=\"last\"",
        ],
        0,
        "paging goes to the vendor with the token",
    ),
    (
        &["<?page=2>;rel=next;title=\"a, b\""],
        &["<http://127.0.0.1:8480/slack/x?page=2>;rel=next;title=\"a, b\""],
        0,
        "a comma in quotes",
    ),
    (&["</api/a,b>; rel=x"], &["<http://127.0.0.1:8480/slack/a,b>; rel=x"], 0, "a comma in the reference"),
    (
        &["</api/a>; title=\"q\\\", \"; rel=x , <b>"],
        &["<http://127.0.0.1:8480/slack/a>; title=\"q\\\", \"; rel=x, <http://127.0.0.1:8480/slack/b>"],
        0,
        "an escaped quote",
    ),
    (
        &["</login>; rel=a, </api/b>; rel=b"],
        &["<http://127.0.0.1:8480/slack/b>; rel=b"],
        1,
        "only the one outside goes",
    ),
    (
        &["</login>; rel=a", "</api/b>"],
        &["<http://127.0.0.1:8480/slack/b>"],
        1,
        "a field without links left goes",
    ),
    (&["</login>"], &[], 1, "the last field goes"),
    (
        &["<https://cdn.example/a> ;rel=preload,<https://cdn.example/b>"],
        &["<https://cdn.example/a> ;rel=preload,<https://cdn.example/b>"],
        0,
        "other origins byte for byte",
    ),
    (&["https://vendor.example/api/x; rel=next"], &[], 1, "no angle brackets"),
    (
        &["<https://cdn.example/a>; title=\"x,<https://vendor.example/api>\""],
        &[],
        1,
        "a link in quotes, that many clients would find",
    ),
    (&["<https://cdn.example/,<https://vendor.example/api/x>; rel=next"], &[], 1, "a link in a link"),
    (&["</api/a> rel=x"], &[], 1, "parameters without a semicolon"),
];

#[test]
fn links_are_rewritten_one_by_one() {
    let origin = Origin::parse("https://vendor.example").unwrap();
    for (given, wanted, dropped, mistake) in LINKS {
        let fields: Vec<(&str, &str)> = given.iter().map(|value| ("link", *value)).collect();
        let mut map = head(&fields);
        let report =
            rewrite(&mut map, StatusCode::OK, &address(&origin, "/api", "/api/x?page=1", &[])).unwrap();
        let left: Vec<&str> = map.get_all("link").iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(left, *wanted, "{mistake}");
        assert_eq!(report.len(), *dropped, "{mistake}");
    }
}

#[test]
fn refresh_is_a_reference_too() {
    let origin = Origin::parse("https://vendor.example").unwrap();
    for (given, wanted, mistake) in [
        ("5", Some("5"), "a delay alone"),
        ("5; url=/api/x", Some("5; url=http://127.0.0.1:8480/slack/x"), "plain"),
        ("0;URL='/api/x'", Some("0; url=http://127.0.0.1:8480/slack/x"), "quoted, upper case"),
        ("1, url = \"?a\"", Some("1; url=http://127.0.0.1:8480/slack/x?a"), "a comma, spaces"),
        ("5; url=https://other.example/x", Some("5; url=https://other.example/x"), "another origin"),
        ("5; url=/login", None, "outside"),
        ("5; /api/x", None, "without its name: clients differ"),
        ("url=/api/x", None, "without a delay"),
        ("5; url='/api/x", None, "an open quote"),
    ] {
        let mut map = head(&[("refresh", given)]);
        rewrite(&mut map, StatusCode::OK, &address(&origin, "/api", "/api/x", &[])).unwrap();
        assert_eq!(map.get("refresh").map(|v| v.to_str().unwrap()), wanted, "{mistake}");
    }
}
