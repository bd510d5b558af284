//! The built-in vendor does what its paths say, and shows no credential but the seeded one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use relay::cli::dev::vendor::{DEMO_CREDENTIAL, Seen, Vendor, serve_vendor};
use relay::cli::exit::Exit;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::wire::{Answer, LOOPBACK, Shared, ask, dial};

async fn vendor() -> Vendor {
    Vendor::start(LOOPBACK, |_| {}).await.unwrap()
}

async fn get(vendor: &Vendor, path: &str) -> Answer {
    ask(vendor.addr, &vendor.ca_pem, &format!("GET {path}"), "", b"").await
}

#[tokio::test]
async fn the_echo_shows_the_seeded_constant_and_masks_every_other_credential() {
    let vendor = vendor().await;
    let canary = "canary-7f3a91d2c4e85b60-secret";
    let rows = [
        (format!("authorization: Bearer {DEMO_CREDENTIAL}\r\n"), format!("Bearer {DEMO_CREDENTIAL}")),
        (format!("authorization: Bearer {canary}\r\n"), "Bearer [canary-7 + 22]".to_owned()),
        ("authorization: Basic dTpw\r\n".to_owned(), "Basic [4]".to_owned()),
    ];
    for (fields, wanted) in rows {
        let answer =
            ask(vendor.addr, &vendor.ca_pem, "GET /hello?api_key=hunter2-hunter2", &fields, b"").await;
        let said = answer.json();
        assert_eq!(said["i_was_given"], wanted.as_str());
        assert_eq!(said["headers"]["authorization"], wanted.as_str());
        assert_eq!((&said["method"], &said["path"]), (&"GET".into(), &"/hello".into()));
        assert_eq!(said["query"], "api_key=[15]");
        assert!(!String::from_utf8_lossy(&answer.body).contains(canary));
    }
    let answer =
        ask(vendor.addr, &vendor.ca_pem, "POST /any/path", "x-api-key: abc\r\n", &[b'x'; 5000]).await;
    let said = answer.json();
    assert_eq!(said["body"].as_str().unwrap().len(), 4096, "the start of a body is enough");
    assert_eq!(said["body_bytes"], 5000);
    assert_eq!(said["headers"]["x-api-key"], "[3]");
    assert_eq!(said["i_was_given"], Value::Null);
}

#[tokio::test]
async fn the_echo_and_the_watcher_say_whether_a_token_came_through() {
    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let watcher = Arc::clone(&seen);
    let vendor = Vendor::start(LOOPBACK, move |one| watcher.lock().unwrap().push(one)).await.unwrap();
    let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
    let rows = [
        ("GET /a".to_owned(), String::new(), false, "nothing of the app's"),
        ("GET /a".to_owned(), "x-version: 10.20.30\r\n".to_owned(), false, "a version is no token"),
        ("GET /a".to_owned(), format!("authorization: Bearer {jwt}\r\n"), true, "the token where it stood"),
        ("GET /a".to_owned(), format!("x-api-key: {jwt}\r\n"), true, "the token in another slot"),
        ("GET /a".to_owned(), "relay-secret: x\r\n".to_owned(), true, "a field for relay alone"),
        (format!("GET /a?key={jwt}"), String::new(), true, "the token in the query"),
    ];
    for (line, fields, wanted, mistake) in rows {
        let said = ask(vendor.addr, &vendor.ca_pem, &line, &fields, b"").await.json();
        assert_eq!(said["your_token_reached_me"], wanted, "{mistake}");
        let last = seen.lock().unwrap().last().cloned().unwrap();
        assert_eq!(last.your_token_reached_me, wanted, "{mistake}");
        assert!(!format!("{last:?}").contains(jwt), "{mistake}");
    }
}

#[tokio::test]
async fn events_come_one_by_one_and_not_at_the_end() {
    let vendor = vendor().await;
    let mut wire = dial(vendor.addr, &vendor.ca_pem).await;
    // The second event is an hour away: that the first is here proves that it did not wait.
    wire.write_all(b"GET /sse?n=2&ms=3600000 HTTP/1.1\r\nhost: v\r\n\r\n").await.unwrap();
    let mut got = String::new();
    while !got.contains("\"event\":1") {
        let mut piece = [0; 1024];
        let count = wire.read(&mut piece).await.unwrap();
        assert_ne!(count, 0, "the stream ended before its first event");
        got.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    assert!(got.contains("content-type: text/event-stream"));
    let all = get(&vendor, "/sse?n=3&ms=0").await.unchunked();
    assert_eq!(all.matches("data: ").count(), 3);
    assert!(all.ends_with("\n\n"));
}

#[tokio::test]
async fn pages_name_each_other_by_absolute_links_until_the_last() {
    let vendor = vendor().await;
    let mut next = Some("/pages".to_owned());
    let mut items = Vec::new();
    while let Some(path) = next {
        let answer = get(&vendor, &path).await;
        items.extend(answer.json()["items"].as_array().unwrap().iter().map(|item| item.as_u64().unwrap()));
        let link = answer.field("link").unwrap().to_owned();
        next = link.split(", ").find(|one| one.ends_with("rel=\"next\"")).map(|one| {
            let url = one.trim_start_matches('<').split('>').next().unwrap();
            url.strip_prefix(&vendor.origin()).expect("a link leads back to the vendor").to_owned()
        });
    }
    assert_eq!(items, (1..=9).collect::<Vec<u64>>());
}

#[tokio::test]
async fn the_vendor_redirects_and_fails_as_told() {
    let vendor = vendor().await;
    let rows = [
        ("/redirect", 302, Some(("location", "/hello"))),
        ("/redirect/away", 302, Some(("location", "https://elsewhere.example/hello"))),
        ("/fail/503", 503, Some(("retry-after", "1"))),
        ("/fail/429", 429, Some(("retry-after", "1"))),
        ("/fail/418", 418, None),
        ("/fail/204", 204, None),
        ("/fail/100", 400, None),
        ("/fail/word", 400, None),
        ("/slow?ms=1", 200, None),
    ];
    for (path, status, field) in rows {
        let answer = get(&vendor, path).await;
        assert_eq!(answer.status(), status, "{path}");
        if let Some((name, value)) = field {
            assert_eq!(answer.field(name), Some(value), "{path}");
        }
    }
    let cut = get(&vendor, "/drop").await;
    assert_eq!(cut.field("content-length"), Some("65536"));
    assert!(cut.body.len() < 65536, "/drop must not keep its word");
    assert!(!cut.clean || cut.body.len() < 100);
}

#[tokio::test]
async fn much_data_goes_out_comes_in_and_comes_back() {
    let vendor = vendor().await;
    let bytes = get(&vendor, "/bytes?n=1000003").await;
    assert_eq!(bytes.field("content-length"), Some("1000003"));
    assert_eq!(bytes.body.len(), 1_000_003);
    assert_eq!(get(&vendor, "/bytes?n=0").await.body.len(), 0);

    let counted = ask(vendor.addr, &vendor.ca_pem, "POST /count", "", b"abc").await.json();
    assert_eq!(counted["bytes"], 3);
    // FIPS 180-4's own example.
    assert_eq!(counted["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");

    let mut wire = dial(vendor.addr, &vendor.ca_pem).await;
    wire.write_all(b"POST /echo HTTP/1.1\r\nhost: v\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let mut got = String::new();
    for word in ["first", "second"] {
        let chunk = format!("{:x}\r\n{word}\r\n", word.len());
        wire.write_all(chunk.as_bytes()).await.unwrap();
        // The body has not ended, and yet it comes back.
        while !got.contains(word) {
            let mut piece = [0; 1024];
            let count = wire.read(&mut piece).await.unwrap();
            assert_ne!(count, 0, "the echo ended before {word}");
            got.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
    }
}

#[tokio::test]
async fn the_sdk_calls_refuse_another_credential_in_their_vendors_words() {
    let vendor = vendor().await;
    let demo = format!("authorization: Bearer {DEMO_CREDENTIAL}\r\ncontent-type: application/json\r\n");
    let wrong = "authorization: Bearer sk-wrong\r\n";
    let chat = br#"{"model":"m","messages":[{"role":"user","content":"hello there"}]}"#;
    for (line, path, expected) in [
        ("GET /v1/models", "/error/code", "invalid_api_key"),
        ("POST /v1/chat/completions", "/error/code", "invalid_api_key"),
        ("POST /auth.test", "/error", "invalid_auth"),
        ("POST /api/chat.postMessage", "/error", "invalid_auth"),
    ] {
        let answer = ask(vendor.addr, &vendor.ca_pem, line, wrong, chat).await;
        assert_eq!(answer.status(), 401, "{line}");
        assert_eq!(answer.json().pointer(path), Some(&expected.into()), "{line}");
    }
    let models = ask(vendor.addr, &vendor.ca_pem, "GET /v1/models", &demo, b"").await;
    assert_eq!(models.json()["object"], "list");
    let answer = ask(vendor.addr, &vendor.ca_pem, "POST /v1/chat/completions", &demo, chat).await.json();
    let text = answer.pointer("/choices/0/message/content").and_then(Value::as_str).unwrap();
    assert!(text.contains("hello there") && text.contains(DEMO_CREDENTIAL), "{text}");

    let chat = br#"{"stream":true,"messages":[{"content":[{"type":"text","text":"in parts"}]}]}"#;
    let stream = ask(vendor.addr, &vendor.ca_pem, "POST /v1/chat/completions", &demo, chat).await.unchunked();
    assert!(stream.ends_with("data: [DONE]\n\n"));
    let pieces: String = stream
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|chunk| Some(chunk.pointer("/choices/0/delta/content")?.as_str()?.to_owned()))
        .collect();
    assert!(pieces.contains("in parts") && pieces.contains(DEMO_CREDENTIAL), "{pieces}");

    let auth = ask(vendor.addr, &vendor.ca_pem, "POST /api/auth.test", &demo, b"").await.json();
    assert_eq!(auth["ok"], true);
    let form = format!(
        "authorization: Bearer {DEMO_CREDENTIAL}\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    );
    let posted =
        ask(vendor.addr, &vendor.ca_pem, "POST /chat.postMessage", &form, b"channel=C1&text=hi+you").await;
    assert_eq!(posted.json()["message"]["text"], "hi you");
    let missing = ask(vendor.addr, &vendor.ca_pem, "POST /chat.postMessage", &demo, b"{}").await.json();
    assert_eq!((&missing["ok"], &missing["error"]), (&false.into(), &"channel_not_found".into()));
}

#[tokio::test]
async fn the_vendor_alone_takes_the_credential_of_a_file_and_never_shows_it() {
    let canary = "canary-5d1f0e9b8a7c6d4e-file";
    let dir = tempfile::tempdir().unwrap();
    let (file, ca) = (dir.path().join("credential"), dir.path().join("ca.pem"));
    std::fs::write(&file, format!("{canary}\n")).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let printed = Shared::default();
    let mut out = printed.clone();
    let (file_there, ca_there) = (file.clone(), ca.clone());
    let serving = tokio::spawn(async move {
        let until = async { drop(stopped.await) };
        serve_vendor(LOOPBACK, Some(&file_there), &ca_there, &mut out, until).await
    });
    let line = printed.wait_for("\n").await;
    let addr: SocketAddr = line.trim().strip_prefix("https://").unwrap().parse().unwrap();
    let ca_pem = std::fs::read_to_string(&ca).unwrap();

    let fields = format!("authorization: Bearer {canary}\r\n");
    let answer =
        ask(addr, &ca_pem, &format!("GET /bot{canary}/me?q={canary}"), &fields, canary.as_bytes()).await;
    assert_eq!(answer.status(), 200);
    assert!(!String::from_utf8_lossy(&answer.body).contains(canary));
    assert_eq!(ask(addr, &ca_pem, "GET /v1/models", &fields, b"").await.status(), 200);
    let demo = format!("authorization: Bearer {DEMO_CREDENTIAL}\r\n");
    assert_eq!(ask(addr, &ca_pem, "GET /v1/models", &demo, b"").await.status(), 401);
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(!printed.text().contains(canary));

    std::fs::write(&file, "two\nlines").unwrap();
    let refused = serve_vendor(LOOPBACK, Some(&file), &ca, &mut Vec::new(), async {}).await.unwrap_err();
    assert_eq!(refused.exit, Exit::Failed);
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = serve_vendor(everywhere, None, &ca, &mut Vec::new(), async {}).await.unwrap_err();
    assert!(refused.words.contains("loopback only"), "{refused}");
}
