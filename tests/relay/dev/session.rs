//! A dev relay from its banner to its end, with a stand-in where the relay is.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use relay::cli::dev::screen::{Answered, Look, Screen};
use relay::cli::dev::state::{DevRelay, Whereabouts};
use relay::cli::dev::vendor::{DEMO_CREDENTIAL, Seen};
use relay::cli::dev::{self, Args, Launch, Observer, Running, Seed};
use relay::cli::env;
use relay::cli::exit::Exit;
use relay::cli::token;
use relay::config::Config;
use relay::model::SecretId;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::wire::{LOOPBACK, Shared, ask, text};

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
        let app = listen(config.server.listen.address().unwrap()).await.map_err(|e| e.to_string())?;
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
    Args {
        listen,
        admin_listen: LOOPBACK,
        vendor_only: false,
        ca_out: None,
        credential_file: None,
        called: None,
    }
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
        (&"acme".into(), &config.callers[0].issuer.as_str().into())
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
        took: Duration::from_micros(310),
    };
    seen(answered("/hello", 200, b"{\"i_was_given\":\"Bearer **********************\"}\x1b[2J"));
    seen(answered("/other", 404, b"{}"));
    let said = out.wait_for("/other").await;
    let row = said.lines().find(|line| line.contains("  authorization: Bearer")).unwrap();
    assert!(row.contains(DEMO_CREDENTIAL) && row.contains(" | "), "{row}");
    assert!(said.contains("GET /hello -> 200  in 0.3 ms") && said.contains("i_was_given"), "{said}");
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
        took: Duration::ZERO,
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
    assert!(
        Screen::new(Look { width: 80, colour: true }).app_got(&answered).contains("\u{1b}[32m200\u{1b}[0m")
    );
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
