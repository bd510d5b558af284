//! The warm requests that `tests/bench/budget` has valgrind count the instructions of.
//!
//! It builds one worker as `relay run` does, with its store, keys and audit in memory, warms every cache and
//! one connection, and then calls the pipeline COUNT times for a 1 KiB GET. What is counted is what runs
//! under [`counted_poll`]: the pipeline and the answer's body until its end, drops included, and with them the
//! connection to the vendor, which the request itself drives. Not counted: the door's connection, TLS, the
//! vendor, and the threads of the audit. The line to the vendor is a loopback socket in plaintext, of which
//! only the system calls' entry counts. What must never enter: a shortcut that `relay run` does not take.
#![allow(
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body::Body;
use relay::audit::{Durability, Log, MemorySink, Setup, Signer};
use relay::cli::token::{self, LocalIssuer, Order, mint};
use relay::clock;
use relay::config::{self, Config, Files, Integration};
use relay::jwks::{Algorithm, Generation, IssuerKeys, KeySet};
use relay::kms::cached::DataKeys;
use relay::kms::keyring::Keyring;
use relay::kms::local::Local;
use relay::lifecycle::{self, Lifecycle};
use relay::metrics::Metrics;
use relay::model::{Customer, FieldName, IntegrationName, Policy, SecretId};
use relay::net::pool::{Pool, PoolLimits, Upstream, UpstreamSettings};
use relay::net::resolve::Resolver;
use relay::net::tls::{Roots, client_config};
use relay::net::vet::Egress;
use relay::pipeline::{Current, Entrance, Outgoing, Shared, Worker, serve};
use relay::seal::{NewSecret, SealTarget, Sealer};
use relay::secret::Secret;
use relay::stage::authenticate::{IssuerRules, TokenRules, Verdicts};
use relay::stage::authorize::leases::Leases;
use relay::stage::authorize::records::{Bounds, Records};
use relay::stage::limits::{InFlight, Share};
use relay::stage::record::{Budget, Ledger};
use relay::stage::route::{Route, Routes};
use relay::stage::scrub::Surroundings;
use relay::store::Store;
use relay::store::memory::Memory;
use tokio::runtime::{Builder, Handle};
use tokio::task::LocalSet;

const WARM_UP: usize = 256;
const CREDENTIAL: &str = "sk-budget-0123456789abcdef0123456789abcdef";
const ISSUER: &str = "https://auth.saas.example";
const AUDIENCE: &str = "relay";

fn main() {
    let count = std::env::args().nth(1).and_then(|count| count.parse::<usize>().ok());
    let Some(count) = count else {
        eprintln!("budget: called by tests/bench/budget, as `budget COUNT`");
        return;
    };
    let control = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let worker = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&worker, run(count, control.handle().clone()));
}

async fn run(count: usize, control: Handle) {
    let issuer = LocalIssuer::generate("budget").unwrap();
    let config = configuration(vendor());
    let customer = Customer::parse("acme").unwrap();
    let (worker, id, _audit) = worker(&config, &issuer, &customer, control).await;
    let app = App::of(id, &bearer(&issuer, &customer));
    for _ in 0..WARM_UP {
        assert_eq!(exchange(&worker, app.head()).await, (StatusCode::OK, BODY));
        settle().await;
    }
    assert_eq!(worker.pool.idle(), 1, "one connection serves every request");
    for _ in 0..count {
        let head = app.head();
        let mut request: Pin<Box<dyn Future<Output = Taken>>> = Box::pin(exchange(&worker, head));
        let taken = poll_fn(|context| counted_poll(request.as_mut(), context)).await;
        assert_eq!(taken, (StatusCode::OK, BODY));
        settle().await;
    }
}

type Taken = (StatusCode, usize);

/// Valgrind counts while this runs; it is told so by this name.
#[inline(never)]
fn counted_poll(
    request: Pin<&mut (dyn Future<Output = Taken> + '_)>,
    context: &mut Context<'_>,
) -> Poll<Taken> {
    request.poll(context)
}

/// One request as hyper's server drives it: a body that is at its end is not asked for the end.
async fn exchange(worker: &Worker, head: Parts) -> Taken {
    let answer = serve(worker, &Entrance::default(), head, Outgoing::empty()).await;
    let status = answer.status();
    let mut body = answer.into_body();
    let mut length = 0;
    while !body.is_end_stream() {
        match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            Some(frame) => length += frame.unwrap().into_data().unwrap().len(),
            None => break,
        }
    }
    (status, length)
}

/// Until the audit has the last request's outcome and the connection rests: each request meets the same.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// A request as a vendor's SDK sends it, its fields sharing one buffer as hyper's parser leaves them.
struct App {
    target: Bytes,
    fields: Vec<(HeaderName, Bytes)>,
}

impl App {
    fn of(id: SecretId, bearer: &str) -> Self {
        let fields = [
            ("host", "relay.internal:8480"),
            ("user-agent", "OpenAI/Python 1.99.0"),
            ("accept", "application/json"),
            ("accept-encoding", "gzip, deflate"),
            ("connection", "keep-alive"),
            ("authorization", bearer),
            ("x-stainless-lang", "python"),
            ("x-stainless-package-version", "1.99.0"),
        ];
        let buffer = Bytes::from(fields.iter().map(|(_, value)| *value).collect::<String>());
        let mut at = 0;
        let fields = fields.map(|(name, value)| {
            at += value.len();
            (HeaderName::from_static(name), buffer.slice(at - value.len()..at))
        });
        Self { target: format!("/vendor/{id}/v1/models?limit=20").into(), fields: fields.to_vec() }
    }

    fn head(&self) -> Parts {
        let uri = Uri::from_maybe_shared(self.target.clone()).unwrap();
        let mut head = Request::get(uri).body(()).unwrap().into_parts().0;
        for (name, value) in &self.fields {
            head.headers.append(name.clone(), HeaderValue::from_maybe_shared(value.clone()).unwrap());
        }
        head
    }
}

const BODY: usize = 1024;

/// Answers each request on its one connection, in one write, if it carries the credential and no token.
fn vendor() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let line = "{\"id\":\"model-0001\",\"object\":\"model\",\"created\":1700000000},\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\ncontent-type: application/json\r\n\
         content-length: {BODY}\r\nconnection: keep-alive\r\ncache-control: no-store\r\n\
         x-request-id: req_0123456789abcdef\r\nserver: vendor\r\n\r\n{}",
        &line.repeat(BODY)[..BODY]
    );
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        while let Some(head) = request(&stream) {
            let sealed_in = format!("\r\nauthorization: Bearer {CREDENTIAL}\r\n");
            let refused = &b"HTTP/1.1 500 Wrong\r\ncontent-length: 0\r\n\r\n"[..];
            let right = head.contains(&sealed_in) && head.starts_with("GET /v1/models?limit=20 ");
            (&stream).write_all(if right { answer.as_bytes() } else { refused }).unwrap();
        }
    });
    address
}

fn request(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(n) => head.extend_from_slice(&piece[..n]),
        }
    }
    String::from_utf8(head).ok()
}

fn bearer(issuer: &LocalIssuer, customer: &Customer) -> String {
    let signer = token::Signer {
        key: &issuer.key,
        kid: Some(&issuer.kid),
        issuer: ISSUER,
        audience: AUDIENCE,
        customer_claim: "customer_id",
        secret_claim: "secret",
    };
    let order = Order { customer, secret: None, scope: None, ttl: Duration::from_secs(3600) };
    format!("Bearer {}", mint(&signer, &order, clock::unix_seconds()).unwrap())
}

fn configuration(vendor: SocketAddr) -> Config {
    let text = format!(
        "[callers]\njwks = \"file:jwks.json\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
         algorithms = [\"ES256\"]\ncustomer = \"customer_id\"\n\
         [keys]\nprovider = \"local\"\nfile = \"relay.key\"\n\
         [store]\nengine = \"sled\"\npath = \"relay.db\"\n[audit]\npath = \"audit.jsonl\"\n\
         [admin]\ntoken = \"env:ADMIN_TOKEN\"\n\
         [integrations.vendor]\nupstream = \"http://{vendor}\"\nplaintext_danger = true\n\
         private_cidrs = [\"127.0.0.0/8\"]\n\
         inject = [{{ header = \"authorization\", value = \"Bearer {{token}}\" }}]\n"
    );
    let environment = [("ADMIN_TOKEN".to_owned(), "an admin token of at least 32 bytes".to_owned())];
    config::parse(&text, "budget", Path::new("."), &environment, Files::Optional)
        .unwrap_or_else(|report| panic!("{}", report.render(false)))
}

/// A worker with one sealed secret of `customer`, wired as `app` does it.
async fn worker(
    config: &Config,
    issuer: &LocalIssuer,
    customer: &Customer,
    control: Handle,
) -> (Worker, SecretId, Log) {
    let limits = &config.server.limits;
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let keys =
        Arc::new(DataKeys::new(Keyring::of(Arc::new(Local::ephemeral())), limits.data_keys, control.clone()));
    let integration = &config.integrations[0];
    let targets = vec![SealTarget::from(integration)];
    let sealer = Sealer::open(store.clone(), keys.clone(), targets).await.unwrap();
    let sealed = sealer.add(new_secret(customer)).await.unwrap();
    let metrics = Arc::new(Metrics::new());
    let log = audit();
    let parts = lifecycle::Parts {
        sealer: Arc::new(sealer),
        chain: log.chain(),
        metrics: metrics.clone(),
        control: control.clone(),
    };
    let shared = Shared {
        lifecycle: Arc::new(Lifecycle::new([], parts)),
        routes: Routes::new([route(integration, &metrics, &control)]),
        token_rules: Arc::new(token_rules(config, issuer)),
        records: Records::new(store, keys.clone(), (limits.record_cache_bytes, Bounds::default()), &control),
        keys,
        in_flight: InFlight::new(limits.in_flight_per_customer),
        room: relay::stage::gather::Room::default(),
        surroundings: Surroundings {
            public_url: None,
            own: Arc::from(["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]),
        },
    };
    let worker = Worker {
        leases: Leases::new(shared.records.clone()),
        current: Current::of(tokio::sync::watch::channel(Arc::new(shared)).1),
        verdicts: Verdicts::new(10_000),
        pool: Pool::new(PoolLimits {
            idle_per_origin: limits.idle_per_origin,
            idle_timeout: limits.idle_timeout,
        }),
        ledger: Rc::new(Ledger {
            chain: log.chain(),
            metrics,
            refusals: Arc::new(Budget::default()),
            traces: None,
        }),
    };
    (worker, sealed.id, log)
}

fn new_secret(customer: &Customer) -> NewSecret {
    NewSecret {
        customer: customer.clone(),
        integration: IntegrationName::parse("vendor").unwrap(),
        label: "acme's key".to_owned(),
        fields: vec![(FieldName::parse("token").unwrap(), Secret::new(CREDENTIAL.as_bytes().to_vec()))],
        expires_at: None,
        policy: Policy::default(),
        idempotency: None,
    }
}

fn audit() -> Log {
    let setup = Setup {
        replica: "here".to_owned(),
        durability: Durability::Written,
        signer: Signer::from_seed(&Secret::new(vec![7; 32])).unwrap(),
        newest: None,
        generation: Arc::new(AtomicU64::new(0)),
        on_anchor: Box::new(drop),
    };
    Log::open(Box::new(MemorySink::default()), setup).unwrap()
}

fn token_rules(config: &Config, issuer: &LocalIssuer) -> TokenRules {
    let callers = &config.callers[0];
    let algorithms = vec![Algorithm::ES256];
    let rules = IssuerRules {
        keys: IssuerKeys::fixed(&callers.issuer, KeySet::parse(&issuer.jwks, &algorithms).unwrap()),
        algorithms,
        issuer: callers.issuer.clone(),
        audience: callers.audience.clone(),
        customer_claim: callers.customer.clone(),
        customer_prefix: String::new(),
        secret_claim: callers.secret.clone(),
        secrets_claim: callers.secrets.clone(),
        max_lifetime: callers.max_lifetime,
        leeway: callers.leeway,
    };
    TokenRules::new(vec![rules], Generation::default(), 0)
}

fn route(integration: &Integration, metrics: &Metrics, control: &Handle) -> Route {
    let upstream = Upstream::new(UpstreamSettings {
        origin: integration.origin.clone(),
        tls: client_config(Roots::BuiltIn).unwrap(),
        http2: false,
        resolver: Arc::new(Resolver::new(control.clone())),
        egress: Egress::new(integration.private_cidrs.clone(), Arc::new([])),
        plaintext: integration.plaintext_danger,
        connect: integration.timeout.connect,
        first_byte: integration.timeout.first_byte,
        idle: integration.timeout.idle,
        isolate_customers: integration.isolate_customers,
    });
    Route {
        name: integration.name.clone(),
        origin: integration.origin.clone(),
        origin_text: integration.origin.to_string(),
        host: HeaderValue::try_from(integration.origin.authority()).unwrap(),
        own_host: None,
        base_path: integration.base_path.clone(),
        placements: integration.inject.clone(),
        slots: Vec::new(),
        collects: None,
        signing: None,
        written: integration.inject.iter().filter_map(config::Placement::header).cloned().collect(),
        client_certificate: None,
        fields: integration.fields.clone(),
        allow: integration.allow.clone(),
        deny: integration.deny.clone(),
        upstream: Arc::new(upstream),
        cookies: integration.cookies,
        ranges: integration.ranges,
        websocket: integration.websocket,
        rewrite_json: integration.rewrite_json,
        default_secret: integration.default_secret,
        on_reflect: integration.on_reflect,
        metrics: metrics.integration(integration.name.as_str()),
        share: Arc::new(Share::new(0, None, None, None)),
        hosts: None,
        renewing: None,
    }
}
