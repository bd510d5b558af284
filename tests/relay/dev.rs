//! `relay dev`, its built-in vendor, `relay env` and `relay token`.
#![allow(clippy::indexing_slicing)]

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay::cli::dev::screen::{Answered, Look, Screen};
use relay::cli::dev::state::{DevRelay, Whereabouts};
use relay::cli::dev::vendor::{DEMO_CREDENTIAL, Seen, Vendor, serve_vendor};
use relay::cli::dev::{self, Launch, Observer, Running, Seed};
use relay::cli::exit::{Exit, Failure};
use relay::cli::token::{self, LocalIssuer, Order, Signer, TokenError};
use relay::cli::{dev::Args, env};
use relay::config::Config;
use relay::model::{Customer, SecretId};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A TLS connection that trusts the vendor's CA alone.
async fn dial(addr: SocketAddr, ca_pem: &str) -> Box<dyn Wire> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    Box::new(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
}

struct Answer {
    head: String,
    body: Vec<u8>,
    /// Whether TLS was closed as it should be.
    clean: bool,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The body with its chunks put together.
    fn unchunked(&self) -> String {
        if self.field("transfer-encoding").is_none() {
            return String::from_utf8(self.body.clone()).unwrap();
        }
        let mut text = String::new();
        let mut rest = std::str::from_utf8(&self.body).unwrap();
        while let Some((size, behind)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            text.push_str(&behind[..size]);
            rest = behind[size..].trim_start_matches("\r\n");
        }
        text
    }
}

/// One request on its own connection, written as given but for Host and Connection.
async fn ask(addr: SocketAddr, ca_pem: &str, line: &str, fields: &str, body: &[u8]) -> Answer {
    let mut wire = dial(addr, ca_pem).await;
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let head = format!("{line} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{length}{fields}\r\n");
    wire.write_all(head.as_bytes()).await.unwrap();
    wire.write_all(body).await.unwrap();
    wire.flush().await.unwrap();
    let mut all = Vec::new();
    let clean = wire.read_to_end(&mut all).await.is_ok();
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    Answer { head: String::from_utf8(all[..end].to_vec()).unwrap(), body: all[end + 4..].to_vec(), clean }
}

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

/// A writer that can be read while it is written.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    async fn wait_for(&self, word: &str) -> String {
        let found = async {
            while !self.text().contains(word) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("nothing was printed");
        self.text()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Stands where the relay will: two ports, and the observer handed out.
struct Stub {
    app: TcpListener,
    admin: TcpListener,
}

struct StubLaunch(oneshot::Sender<(Config, Observer)>);

impl Launch for StubLaunch {
    type Relay = Stub;

    async fn start(self, config: Config, observer: Observer) -> Result<Stub, String> {
        let listen = |addr| TcpListener::bind(addr);
        let app = listen(config.server.listen).await.map_err(|e| e.to_string())?;
        let admin = listen(config.server.admin_listen).await.map_err(|e| e.to_string())?;
        self.0.send((config, observer)).map_err(|_| "nobody waits".to_owned())?;
        Ok(Stub { app, admin })
    }
}

impl Running for Stub {
    fn app(&self) -> SocketAddr {
        self.app.local_addr().unwrap()
    }

    fn admin(&self) -> SocketAddr {
        self.admin.local_addr().unwrap()
    }

    async fn seed(&self, seed: Seed) -> Result<SecretId, String> {
        assert_eq!((seed.customer.as_str(), seed.integration.as_str()), ("acme", "demo"));
        assert!(seed.fields[0].value.equals(DEMO_CREDENTIAL.as_bytes()));
        Ok(SecretId::random())
    }

    async fn stop(self) {}
}

fn args(listen: SocketAddr) -> Args {
    Args { listen, admin_listen: LOOPBACK, vendor_only: false, ca_out: None, credential_file: None }
}

const PLAIN: Look = Look { width: 100, colour: false };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dev_relay_can_be_found_while_it_runs_and_not_after() {
    let dir = tempfile::tempdir().unwrap();
    let place = Whereabouts::at(dir.path().join("relay"));
    let none = env::run(&place, env::Shape::Shell, &mut Vec::new()).unwrap_err();
    assert_eq!(none.exit, Exit::Unreachable, "{none}");

    let (started, starting) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let printed = Shared::default();
    let (mut out, there) = (printed.clone(), place.clone());
    let running = tokio::spawn(async move {
        let until = async { drop(stopped.await) };
        dev::run(&args(LOOPBACK), &there, PLAIN, &mut out, StubLaunch(started), until).await
    });
    let (config, observer) = starting.await.unwrap();
    let banner = printed.wait_for("also instead").await;
    assert!(banner.contains("  eval \"$(relay env)\"\n"));
    let curl = "curl \"$RELAY_URL/demo/$RELAY_SECRET/hello\" -H \"Authorization: Bearer $RELAY_TOKEN\"\n";
    assert!(banner.contains(curl), "{banner}");

    let file = std::fs::metadata(place.file()).unwrap();
    let folder = std::fs::metadata(place.file().parent().unwrap()).unwrap();
    assert_eq!((file.mode() & 0o777, folder.mode() & 0o777), (0o600, 0o700));

    let mut exports = Vec::new();
    env::run(&place, env::Shape::Shell, &mut exports).unwrap();
    let script =
        format!("{}printf '%s\\n' \"$RELAY_URL\" \"$RELAY_SECRET\" \"$RELAY_TOKEN\"", text(&exports));
    let shell = std::process::Command::new("sh").arg("-c").arg(script).env_clear().output().unwrap();
    let words: Vec<String> = text(&shell.stdout).lines().map(str::to_owned).collect();
    let found = DevRelay::running(&place).unwrap();
    assert_eq!(words, [found.url.as_str(), &found.secret, &found.token]);
    assert!(!text(&exports).contains("PRIVATE") && !text(&exports).contains(&found.admin_token));
    let mut object = Vec::new();
    env::run(&place, env::Shape::Json, &mut object).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&object).unwrap()["token"], found.token.as_str());

    let claims = token::inspect(&found.token, relay::clock::unix_seconds()).unwrap().claims;
    assert_eq!(
        (&claims["customer_id"], &claims["iss"]),
        (&"acme".into(), &config.callers.issuer.as_str().into())
    );

    the_calls_are_printed_side_by_side(&config, &observer, &found, &printed).await;
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    assert!(!place.file().exists(), "dev.json must go with its relay");
}

async fn the_calls_are_printed_side_by_side(config: &Config, seen: &Observer, dev: &DevRelay, out: &Shared) {
    let integration = &config.integrations[0];
    let addr = dev.vendor.strip_prefix("https://").unwrap().parse().unwrap();
    let fields = format!("authorization: Bearer {DEMO_CREDENTIAL}\r\n");
    ask(addr, integration.ca_pem.as_ref().unwrap(), "GET /hello", &fields, b"").await;
    let answered = |path: &str, status, body: &[u8]| Answered {
        request_id: "01890000-0000-7000-8000-000000000000".to_owned(),
        method: "GET".to_owned(),
        path: format!("/demo/{}{path}", dev.secret),
        status,
        body: body.to_vec(),
        relay: Duration::from_micros(310),
    };
    seen(answered("/hello", 200, b"{\"i_was_given\":\"Bearer **********************\"}\x1b[2J"));
    seen(answered("/other", 404, b"{}"));
    let said = out.wait_for("/other").await;
    let row = said.lines().find(|line| line.contains("  authorization: Bearer")).unwrap();
    assert!(row.contains(DEMO_CREDENTIAL) && row.contains(" | "), "{row}");
    assert!(said.contains("GET /hello -> 200  relay 0.3 ms") && said.contains("i_was_given"), "{said}");
    assert!(said.contains("\\u{1b}[2J") && !said.contains('\u{1b}'), "an answer must not steer the terminal");
    assert!(said.contains("nothing: relay answered by itself"), "{said}");
}

#[test]
fn a_narrow_terminal_gets_one_side_under_the_other_and_colours_only_if_wanted() {
    let seen = Seen {
        method: "GET".to_owned(),
        path: "/hello".to_owned(),
        authorization: Some(format!("Bearer {DEMO_CREDENTIAL}")),
        your_token_reached_me: false,
    };
    let answered = Answered {
        request_id: "id".to_owned(),
        method: "GET".to_owned(),
        path: "/demo/x/hello".to_owned(),
        status: 200,
        body: [b"a long answer ".repeat(20), "\u{e9}".as_bytes()[..1].to_vec()].concat(),
        relay: Duration::ZERO,
    };
    for (width, beside) in [(40, false), (79, false), (80, true), (200, true)] {
        let mut screen = Screen::new(Look { width, colour: false });
        screen.vendor_got(seen.clone());
        let said = screen.app_got(&answered);
        assert_eq!(said.contains(" | "), beside, "{width}");
        assert!(said.contains(DEMO_CREDENTIAL) && said.contains("a long answer"), "{said}");
        assert!(said.lines().skip(1).all(|line| line.chars().count() <= width), "{width}: {said}");
    }
    assert_eq!(Look::of(Some(60), false), Look { width: 60, colour: true });
    assert!(!Look::of(Some(60), true).colour, "NO_COLOR");
    assert!(!Look::of(None, false).colour, "a file or a pipe");
    assert!(Screen::new(Look { width: 80, colour: true }).app_got(&answered).contains("\u{1b}[32m200\u{1b}[0m"));
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let dir = tempfile::tempdir().unwrap();
    let place = Whereabouts::at(dir.path().join("relay"));
    for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "[::ffff:192.0.2.1]:0"] {
        let (started, _starting) = oneshot::channel();
        let args = args(address.parse().unwrap());
        let refused = dev::run(&args, &place, PLAIN, &mut Vec::new(), StubLaunch(started), async {}).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.exit, Exit::Usage, "{address}");
        assert!(refused.words.contains("loopback only"), "{refused}");
    }
    assert!(!place.file().exists());
}

fn dev_relay(url: String, pid: u32) -> DevRelay {
    let issuer = LocalIssuer::generate("relay-dev-test").unwrap();
    DevRelay {
        admin: url.clone(),
        url,
        admin_token: "admin".to_owned(),
        customer: "acme".to_owned(),
        secret: SecretId::random().to_string(),
        token: "a.b.c".to_owned(),
        vendor: "https://127.0.0.1:1".to_owned(),
        pid,
        issuer: "relay-dev".to_owned(),
        audience: "relay".to_owned(),
        kid: issuer.kid.clone(),
        issuer_key: String::from_utf8(issuer.key.expose().to_vec()).unwrap(),
    }
}

fn failure<T>(result: Result<T, Failure>) -> Failure {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(failure) => failure,
    }
}

#[test]
fn a_folder_that_others_can_enter_is_neither_read_nor_written() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let relay = dev_relay(format!("http://{}", port.local_addr().unwrap()), std::process::id());

    let open = dir.path().join("open");
    let place = Whereabouts::at(open.clone());
    drop(relay.publish(&place).unwrap());
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(failure(relay.publish(&place)).words.contains("entered by others"));
    std::fs::write(place.file(), "{}").unwrap();
    assert!(failure(DevRelay::running(&place)).words.contains("entered by others"));

    let real = dir.path().join("real");
    let published = relay.publish(&Whereabouts::at(real.clone())).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert!(failure(DevRelay::running(&Whereabouts::at(link))).words.contains("no folder"));
    drop(published);
}

#[test]
fn a_dev_json_whose_relay_is_gone_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    let place = Whereabouts::at(dir.path().join("relay"));
    let port = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let alive = format!("http://{}", port.local_addr().unwrap());
    let gone = {
        let closed = std::net::TcpListener::bind(LOOPBACK).unwrap();
        format!("http://{}", closed.local_addr().unwrap())
    };
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let own = std::process::id();
    let rows = [
        (gone, own, "its port is closed"),
        (alive.clone(), ended.id(), "its process is gone and a stranger has the port"),
        ("http://192.0.2.1:80".to_owned(), own, "its address is not this machine's"),
    ];
    for (url, pid, mistake) in rows {
        let published = dev_relay(url, pid).publish(&place).unwrap();
        assert_eq!(failure(DevRelay::running(&place)).exit, Exit::Unreachable, "{mistake}");
        drop(published);
    }
    // Process 1 runs and is not this one: a second dev relay must not take its place.
    let first = dev_relay(alive.clone(), 1).publish(&place).unwrap();
    assert!(failure(dev_relay(alive, own).publish(&place)).words.contains("runs already"));
    drop(first);
    assert!(!place.file().exists());
}

#[test]
fn what_a_shell_could_take_for_more_than_a_word_is_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let place = Whereabouts::at(dir.path().join("relay"));
    let port = std::net::TcpListener::bind(LOOPBACK).unwrap();
    for token in ["a.b.c; rm -rf x", "$(id)", "a\nb", "'", ""] {
        let mut relay = dev_relay(format!("http://{}", port.local_addr().unwrap()), std::process::id());
        relay.token = token.to_owned();
        let published = relay.publish(&place).unwrap();
        let mut out = Vec::new();
        let refused = env::run(&place, env::Shape::Shell, &mut out).unwrap_err();
        assert_eq!((refused.exit, out.len()), (Exit::Failed, 0), "{token:?}");
        drop(published);
    }
}

#[test]
fn the_folder_is_looked_for_in_the_order_that_is_promised() {
    let temporary = Path::new("/temporary");
    let find = |set: &[(&str, &str)]| {
        let lookup =
            |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(*value));
        Whereabouts::find(lookup, temporary).file()
    };
    let both = [("RELAY_DEV_DIR", "/mine"), ("XDG_RUNTIME_DIR", "/run/user/7")];
    assert_eq!(find(&both), Path::new("/mine/dev.json"));
    assert_eq!(find(&both[1..]), Path::new("/run/user/7/relay/dev.json"));
    assert_eq!(find(&[("RELAY_DEV_DIR", ""), both[1]]), Path::new("/run/user/7/relay/dev.json"));
    let fallback = find(&[]);
    assert!(fallback.starts_with(temporary) && fallback.to_string_lossy().contains("/relay-"));
}

#[test]
fn a_minted_token_verifies_says_what_was_ordered_and_is_shown_without_its_signature() {
    let issuer = LocalIssuer::generate("k1").unwrap();
    let customer = Customer::parse("acme").unwrap();
    let secret = SecretId::random();
    let signer = Signer {
        key: &issuer.key,
        kid: Some("k1"),
        issuer: "https://auth.saas.example",
        audience: "relay",
        customer_claim: "customer_id",
        secret_claim: "secret",
    };
    let ttl = Duration::from_secs(3600);
    let order = Order { customer: &customer, secret: Some(secret), scope: Some("relay:use:demo"), ttl };
    let now = relay::clock::unix_seconds();
    let minted = token::mint(&signer, &order, now).unwrap();

    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&issuer.jwks).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(keys.find("k1").unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.set_audience(&["relay"]);
    rules.set_issuer(&["https://auth.saas.example"]);
    let verified = jsonwebtoken::decode::<Value>(&minted, &key, &rules).unwrap().claims;
    assert_eq!((&verified["customer_id"], &verified["secret"]), (&"acme".into(), &secret.to_string().into()));
    assert_eq!(verified["exp"].as_u64().unwrap() - verified["iat"].as_u64().unwrap(), 3600);
    assert_eq!((&verified["nbf"], &verified["scope"]), (&now.into(), &"relay:use:demo".into()));
    assert!(verified["jti"].as_str().is_some());

    let signature = minted.rsplit('.').next().unwrap();
    let shown = token::inspect(&format!("Bearer {minted}\n"), now + 60).unwrap();
    assert!(
        shown.to_text().contains("not verified") && shown.to_text().contains("59m left"),
        "{}",
        shown.to_text()
    );
    assert_eq!(
        (&shown.to_json()["verified"], &shown.to_json()["expires_in_seconds"]),
        (&false.into(), &3540.into())
    );
    for output in [shown.to_text(), shown.to_json().to_string()] {
        assert!(!output.contains(signature) && output.contains("acme"));
    }
    let late = token::inspect(&minted, now + 3660).unwrap();
    assert!(late.to_text().contains("expired 1m ago") && late.to_json()["expired"] == true);
}

#[test]
fn what_cannot_be_minted_or_shown_is_refused() {
    let issuer = LocalIssuer::generate("k1").unwrap();
    let customer = Customer::parse("acme").unwrap();
    let mint = |key, customer_claim, secret_claim, ttl| {
        let signer = Signer { key, kid: None, issuer: "i", audience: "relay", customer_claim, secret_claim };
        let secret = Some(SecretId::random());
        let order = Order { customer: &customer, secret, scope: None, ttl: Duration::from_secs(ttl) };
        token::mint(&signer, &order, 1_000)
    };
    let no_key = relay::secret::Secret::new(b"not a key".to_vec());
    assert!(mint(&issuer.key, "sub", "secret", 1).is_ok());
    assert_eq!(mint(&no_key, "sub", "secret", 1), Err(TokenError::Key));
    assert_eq!(mint(&issuer.key, "sub", "secret", 0), Err(TokenError::Lifetime));
    for (customer_claim, secret_claim) in
        [("aud", "secret"), ("scope", "secret"), ("c", "c"), ("c", "exp"), ("", "s")]
    {
        assert!(matches!(mint(&issuer.key, customer_claim, secret_claim, 1), Err(TokenError::Claim(_))));
    }
    let long = "a".repeat(9_000);
    for text in ["", "abc", "a.b", "a.b.c.d", "!.!.!", "e30.bm8.x", "e30.W10.x", &long] {
        assert!(matches!(token::inspect(text, 0), Err(TokenError::NoToken(_))), "{text}");
    }
    // {"a":"ESC[2J U+202E"}: a token's text may not steer the terminal of who looks at it.
    let steering = token::inspect("e30.eyJhIjoiXHUwMDFiWzJK4oCuIn0.x", 0).unwrap().to_text();
    assert!(!steering.contains('\u{1b}') && !steering.contains('\u{202e}'), "{steering:?}");
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
