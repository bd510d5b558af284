//! A vendor's address is resolved, vetted and dialled; nothing else is. A connection carries one request at a
//! time and is lent again only when nothing of the last exchange can be left on it.
//!
//! The vendors here run in threads of their own and write raw bytes, so that a test can hold its worker still
//! while bytes arrive.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use relay::model::{Customer, Origin};
use relay::net::body::{BodyError, Outgoing, VendorBody};
use relay::net::fetch::{FetchError, FetchRequest, fetch};
use relay::net::line::{Line, SendError};
use relay::net::pool::{ConnectError, Pool, PoolLimits, Upstream, UpstreamSettings};
use relay::net::resolve::Resolver;
use relay::net::tls::{Roots, client_config};
use relay::net::vet::Egress;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

// ---- the vendor

trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}
type Raw = Box<dyn Wire>;

struct Vendor {
    address: SocketAddr,
    accepts: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<String>>>,
    certificate: Certificate,
    _stop: oneshot::Sender<()>,
}

#[derive(Clone)]
struct Certificate {
    ca_pem: String,
    server: Option<Arc<rustls::ServerConfig>>,
}

impl Certificate {
    fn plaintext() -> Self {
        Self { ca_pem: String::new(), server: None }
    }

    fn of(name: &str) -> Self {
        Self::until(name, 2124)
    }

    fn until(name: &str, year: i32) -> Self {
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        leaf.not_before = rcgen::date_time_ymd(2000, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        Self { ca_pem, server: Some(Arc::new(server)) }
    }
}

impl Vendor {
    /// A vendor that runs `script` on each connection, numbered from 0, in a thread of its own.
    fn start<F, Fut>(certificate: Certificate, script: F) -> Self
    where
        F: Fn(usize, Raw, Arc<Mutex<Vec<String>>>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        Self::at("127.0.0.1:0", certificate, script)
    }

    fn at<F, Fut>(address: &str, certificate: Certificate, script: F) -> Self
    where
        F: Fn(usize, Raw, Arc<Mutex<Vec<String>>>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (accepts, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (stop, stopped) = oneshot::channel();
        let (counted, notes, server) = (accepts.clone(), heard.clone(), certificate.server.clone());
        std::thread::spawn(move || {
            on_one_thread(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let serve = async {
                    loop {
                        let (tcp, _) = listener.accept().await.unwrap();
                        tcp.set_nodelay(true).unwrap();
                        let number = counted.fetch_add(1, Ordering::SeqCst);
                        let tls = server.clone().map(tokio_rustls::TlsAcceptor::from);
                        let raw: Raw = match tls {
                            None => Box::new(tcp),
                            Some(tls) => match tls.accept(tcp).await {
                                Ok(stream) => Box::new(stream),
                                Err(_) => continue,
                            },
                        };
                        tokio::task::spawn_local(script(number, raw, notes.clone()));
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        Self { address, accepts, heard, certificate, _stop: stop }
    }

    /// Answers every request with its connection's number.
    fn numbering() -> Self {
        Self::start(Certificate::of("vendor.test"), |number, mut raw, heard| async move {
            while let Some(request) = next_request(&mut raw).await {
                heard.lock().unwrap().push(request);
                say(&mut raw, &ok(&format!("connection {number}"))).await;
            }
        })
    }

    fn accepted(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn settings(&self) -> UpstreamSettings {
        let scheme = if self.certificate.server.is_some() { "https" } else { "http" };
        let roots = self.certificate.ca_pem.as_bytes();
        let roots = if roots.is_empty() { Roots::BuiltIn } else { Roots::Pem(roots) };
        let ip = self.address.ip();
        UpstreamSettings {
            origin: Origin::parse(&format!("{scheme}://vendor.test:{}", self.address.port())).unwrap(),
            tls: client_config(roots).unwrap(),
            http2: false,
            resolver: Arc::new(Resolver::scripted(move |_| vec![ip])),
            egress: egress(&["127.0.0.0/8"], &[]),
            plaintext: false,
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(5),
            idle: Duration::from_secs(5),
            isolate_customers: false,
        }
    }

    fn upstream(&self) -> Arc<Upstream> {
        Arc::new(Upstream::new(self.settings()))
    }
}

fn egress(cidrs: &[&str], own: &[SocketAddr]) -> Egress {
    Egress::new(cidrs.iter().map(|c| c.parse().unwrap()).collect(), own.into())
}

/// The head and, by Content-Length, the body of the next request; `None` at the end of the connection.
async fn next_request(raw: &mut Raw) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(raw.read_u8().await.ok()?);
    }
    let head = String::from_utf8(text).unwrap();
    let length =
        head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    raw.read_exact(&mut body).await.ok()?;
    Some(head + &String::from_utf8(body).unwrap())
}

async fn say(raw: &mut Raw, text: &str) {
    let _ = raw.write_all(text.as_bytes()).await;
    let _ = raw.flush().await;
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

// ---- the worker

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

fn on_worker<T>(work: impl Future<Output = T>) -> T {
    on_one_thread(async {
        tokio::time::timeout(Duration::from_secs(60), work).await.expect("the test hangs")
    })
}

fn pool() -> Pool {
    Pool::new(PoolLimits { idle_per_origin: 4, idle_timeout: Duration::from_secs(60) })
}

fn customer(name: &str) -> Customer {
    Customer::parse(name).unwrap()
}

fn get() -> Request<Outgoing> {
    Request::get("/x").header("host", "vendor.test").body(Outgoing::empty()).unwrap()
}

fn post(body: &'static str) -> Request<Outgoing> {
    let body = Outgoing::whole(Bytes::from_static(body.as_bytes()));
    Request::post("/x").header("host", "vendor.test").body(body).unwrap()
}

async fn text(answer: Response<VendorBody>) -> Result<String, BodyError> {
    let (mut body, mut bytes) = (answer.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(String::from_utf8(bytes).unwrap())
}

async fn line(pool: &Pool, upstream: &Arc<Upstream>, name: &str) -> Line {
    pool.line(upstream, &customer(name), false).await.unwrap()
}

async fn exchange(pool: &Pool, upstream: &Arc<Upstream>, name: &str, request: Request<Outgoing>) -> String {
    text(line(pool, upstream, name).await.send(request).await.unwrap()).await.unwrap()
}

async fn refusal(settings: UpstreamSettings) -> ConnectError {
    let upstream = Arc::new(Upstream::new(settings));
    match pool().line(&upstream, &customer("acme"), false).await {
        Ok(_) => panic!("a connection was made"),
        Err(error) => error,
    }
}

async fn failure(line: Line, request: Request<Outgoing>) -> SendError {
    match line.send(request).await {
        Ok(answer) => panic!("an answer came: {:?}", text(answer).await),
        Err(error) => error,
    }
}

// ---- addresses

#[test]
#[allow(clippy::too_many_lines)] // one row per class
fn every_kind_of_address_that_is_not_public_is_refused() {
    let rows = [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "shared address space"),
        ("100.127.255.255", "shared address space"),
        ("169.254.169.254", "link-local"),
        ("169.254.170.2", "link-local"),
        ("100.100.100.200", "cloud metadata"),
        ("168.63.129.16", "cloud metadata"),
        ("192.0.0.192", "cloud metadata"),
        ("192.0.0.8", "protocol assignments"),
        ("192.0.2.1", "documentation"),
        ("198.51.100.1", "documentation"),
        ("203.0.113.1", "documentation"),
        ("198.18.0.1", "benchmarking"),
        ("198.19.255.255", "benchmarking"),
        ("192.88.99.1", "6to4 relay"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("::ffff:169.254.169.254", "link-local"),
        ("::7f00:1", "loopback"),
        ("::808:808", "IPv4-compatible"),
        ("::ffff:0:7f00:1", "loopback"),
        ("::ffff:0:808:808", "reserved"),
        ("::ffff:100.64.0.1", "shared address space"),
        ("::ffff:192.0.0.192", "cloud metadata"),
        ("::ffff:255.255.255.255", "broadcast"),
        ("64:ff9b::a00:1", "private"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::c0a8:101", "private"),
        ("64:ff9b::e000:1", "multicast"),
        ("64:ff9b:1:2:3:4:a00:1", "private"),
        ("2606:4700::5efe:7f00:1", "loopback"),
        ("2606:4700::200:5efe:a00:1", "private"),
        ("2a00:1:2:3:0:5efe:a9fe:a9fe", "link-local"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("64:ff9b:1::808:808", "local-use NAT64"),
        ("64:ff9b:1::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("2002:a9fe:a9fe::", "link-local"),
        ("2002:808:808::1", "6to4"),
        ("2001:0:808:808::f7f7:f7f7", "Teredo"),
        ("2001:0:808:808::80ff:fffe", "loopback"),
        ("2002:a00:1::1", "private"),
        ("2001:0:7f00:1::f7f7:f7f7", "loopback"),
        ("2001:2::1", "benchmarking"),
        ("2001:20::1", "protocol assignments"),
        ("2001:10::1", "protocol assignments"),
        ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"),
        ("100::1", "discard"),
        ("fc00::1", "unique local"),
        ("fd12:3456::1", "unique local"),
        ("fd00:ec2::254", "cloud metadata"),
        ("fd20:ce::254", "cloud metadata"),
        ("fe80::1", "link-local"),
        ("febf::1", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("5f00::1", "reserved"),
        ("4000::1", "reserved"),
        ("64:ff9b:2::808:808", "reserved"),
        ("ff05::1:3", "multicast"),
    ];
    let egress = egress(&[], &[]);
    for (ip, class) in rows {
        let refused = egress.check(SocketAddr::new(ip.parse().unwrap(), 443)).err();
        assert_eq!(refused.map(|r| r.class), Some(class), "{ip}");
    }
    for ip in [
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "192.0.1.1",
        "2606:4700::1111",
        "2a00::1",
        "64:ff9b::808:808",
        "2606:4700::5efe:808:808",
    ] {
        assert_eq!(egress.check(SocketAddr::new(ip.parse().unwrap(), 443)), Ok(()), "{ip} is public");
    }
}

#[test]
fn private_cidrs_open_what_they_name_and_never_metadata_or_relay_itself() {
    let all =
        egress(&["0.0.0.0/0", "::/0"], &["0.0.0.0:8480".parse().unwrap(), "[::1]:8481".parse().unwrap()]);
    let opened = [
        "10.0.0.1:443",
        "127.0.0.1:443",
        "[::1]:443",
        "[::ffff:10.0.0.1]:443",
        "[fd12::1]:443",
        "[2002:a00:1::]:443",
    ];
    for address in opened {
        assert_eq!(all.check(address.parse().unwrap()), Ok(()), "{address}");
    }
    let shut = [
        ("169.254.169.254:80", "link-local"),
        ("[::ffff:169.254.169.254]:80", "link-local"),
        ("[fe80::1]:80", "link-local"),
        ("[64:ff9b::a9fe:a9fe]:80", "link-local"),
        ("[2002:a9fe:a9fe::]:80", "link-local"),
        ("0.0.0.0:80", "unspecified"),
        ("[fd00:ec2::254]:80", "cloud metadata"),
        ("[fd00:ec2::23]:80", "cloud metadata"),
        ("224.0.0.1:80", "multicast"),
        ("192.0.0.192:80", "cloud metadata"),
        ("[2606:4700::5efe:a9fe:a9fe]:80", "link-local"),
        ("[64:ff9b::7f00:1]:8480", "relay's own listener"),
        ("[2002:7f00:1::]:8480", "relay's own listener"),
        ("[::ffff:0:7f00:1]:8480", "relay's own listener"),
        ("127.0.0.1:8480", "relay's own listener"),
        ("[::1]:8480", "relay's own listener"),
        ("127.0.0.7:8480", "relay's own listener"),
        ("[::ffff:127.0.0.1]:8480", "relay's own listener"),
        ("127.0.0.1:8481", "relay's own listener"),
    ];
    for (address, class) in shut {
        assert_eq!(all.check(address.parse().unwrap()).err().map(|r| r.class), Some(class), "{address}");
    }
    let some = egress(&["10.0.0.0/8"], &["10.0.0.5:8480".parse().unwrap()]);
    assert!(some.check("10.0.0.5:8480".parse().unwrap()).is_err(), "the address it is bound to");
    assert!(some.check("10.0.0.6:8480".parse().unwrap()).is_ok(), "another host on the same port");
    assert!(some.check("[2002:a00:1::]:443".parse().unwrap()).is_err(), "6to4 is not in 10.0.0.0/8");
    assert!(some.check("192.168.0.1:443".parse().unwrap()).is_err());
    assert!(some.check_plaintext("10.0.0.6:80".parse().unwrap()).is_ok());
    assert!(some.check_plaintext("8.8.8.8:80".parse().unwrap()).is_err(), "http:// to a public address");
}

#[test]
fn a_host_is_a_name_or_an_address_and_nothing_between() {
    on_worker(async {
        let resolver = Resolver::new(tokio::runtime::Handle::current());
        let ips = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(resolver.addresses("192.0.2.7").await, Ok(ips(&["192.0.2.7"])));
        assert_eq!(resolver.addresses("[2001:db8::7]").await, Ok(ips(&["2001:db8::7"])));
        assert_eq!(resolver.addresses("localhost").await, Ok(ips(&["127.0.0.1", "::1"])));
        for odd in
            ["127.1", "2130706433", "0x7f.0x0.0x0.0x1", "10.0.0.300", "", "vendor.test.", "vendor.invalid"]
        {
            assert!(resolver.addresses(odd).await.is_err(), "{odd}");
        }
    });
}

#[test]
fn a_name_with_any_refused_address_is_not_dialled_at_all() {
    on_worker(async {
        let vendor = Vendor::numbering();
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let rows: [(&[&str], Vec<IpAddr>); 3] = [
            (&[], vec![loopback]),
            (&[], vec!["8.8.8.8".parse().unwrap(), loopback]),
            (&["127.0.0.0/8"], vec![loopback, "10.0.0.1".parse().unwrap()]),
        ];
        for (allowed, answers) in rows {
            let resolver = Arc::new(Resolver::scripted(move |_| answers.clone()));
            let refused =
                refusal(UpstreamSettings { resolver, egress: egress(allowed, &[]), ..vendor.settings() })
                    .await;
            assert!(matches!(refused, ConnectError::Egress(_)), "{refused:?}");
        }
        assert_eq!(vendor.accepted(), 0);
    });
}

#[test]
fn an_answer_that_changes_between_calls_never_leads_to_an_unvetted_address() {
    on_worker(async {
        let good = Vendor::numbering();
        let trap = Vendor::at(
            &format!("127.0.0.2:{}", good.address.port()),
            Certificate::plaintext(),
            |_, _, _| async {},
        );
        let calls = AtomicUsize::new(0);
        let resolver = Arc::new(Resolver::scripted(move |_| {
            let last = 1 + u8::from(calls.fetch_add(1, Ordering::SeqCst) % 2 == 1);
            vec![IpAddr::from([127, 0, 0, last])]
        }));
        let settings =
            UpstreamSettings { resolver, egress: egress(&["127.0.0.1/32"], &[]), ..good.settings() };
        let (pool, upstream, acme) = (pool(), Arc::new(Upstream::new(settings)), customer("acme"));
        for round in 0..60 {
            match pool.line(&upstream, &acme, true).await {
                Ok(line) => assert_eq!((round % 2, line.peer()), (0, good.address)),
                Err(error) => {
                    assert!(round % 2 == 1 && matches!(error, ConnectError::Egress(_)), "{error:?}")
                }
            }
        }
        assert_eq!((good.accepted(), trap.accepted()), (30, 0));
    });
}

#[test]
fn relays_own_listener_is_not_called_even_inside_a_private_cidr() {
    on_worker(async {
        let vendor = Vendor::numbering();
        let own = egress(&["0.0.0.0/0"], &[SocketAddr::from(([0, 0, 0, 0], vendor.address.port()))]);
        let refused = refusal(UpstreamSettings { egress: own, ..vendor.settings() }).await;
        assert!(
            matches!(&refused, ConnectError::Egress(text) if text.contains("own listener")),
            "{refused:?}"
        );
        assert_eq!(vendor.accepted(), 0);
    });
}

#[test]
fn plaintext_needs_its_setting_and_a_private_address() {
    on_worker(async {
        let vendor = Vendor::start(Certificate::plaintext(), |_, mut raw, _| async move {
            while next_request(&mut raw).await.is_some() {
                say(&mut raw, &ok("plain")).await;
            }
        });
        assert!(matches!(refusal(vendor.settings()).await, ConnectError::Unreachable(_)), "not allowed");
        assert_eq!(vendor.accepted(), 0);
        let upstream = Arc::new(Upstream::new(UpstreamSettings { plaintext: true, ..vendor.settings() }));
        assert_eq!(exchange(&pool(), &upstream, "acme", get()).await, "plain");
        let resolver = Arc::new(Resolver::scripted(|_| vec![IpAddr::from([8, 8, 8, 8])]));
        let public = refusal(UpstreamSettings { plaintext: true, resolver, ..vendor.settings() }).await;
        assert!(matches!(public, ConnectError::Egress(_)), "{public:?}");
    });
}

// ---- TLS

#[test]
fn a_certificate_that_does_not_prove_the_vendor_is_refused() {
    on_worker(async {
        let rows = [
            (
                "an unknown issuer",
                Certificate {
                    ca_pem: Certificate::of("vendor.test").ca_pem,
                    ..Certificate::of("vendor.test")
                },
            ),
            ("an expired certificate", Certificate::until("vendor.test", 2020)),
            ("another name", Certificate::of("other.test")),
        ];
        for (mistake, certificate) in rows {
            let vendor = Vendor::start(certificate, |_, _, _| async {});
            let refused = refusal(vendor.settings()).await;
            assert!(matches!(refused, ConnectError::Tls(_)), "{mistake}: {refused:?}");
            assert_eq!(vendor.heard(), Vec::<String>::new(), "{mistake}");
        }
        let plain =
            Vendor::start(
                Certificate::plaintext(),
                |_, mut raw, _| async move { say(&mut raw, &ok("")).await },
            );
        let origin = Origin::parse(&format!("https://vendor.test:{}", plain.address.port())).unwrap();
        let refused = refusal(UpstreamSettings { origin, ..plain.settings() }).await;
        assert!(matches!(refused, ConnectError::Tls(_)), "a vendor without TLS: {refused:?}");
    });
}

#[test]
fn trust_roots_that_cannot_be_used_are_an_error() {
    let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    for bundle in ["", "no certificate here", broken, "-----BEGIN CERTIFICATE-----\nMAA="] {
        assert!(client_config(Roots::Pem(bundle.as_bytes())).is_err(), "{bundle}");
    }
}

// ---- who gets which connection

#[test]
fn a_connection_is_used_again() {
    on_worker(async {
        let (vendor, pool) = (Vendor::numbering(), pool());
        let upstream = vendor.upstream();
        for _ in 0..5 {
            assert_eq!(exchange(&pool, &upstream, "acme", get()).await, "connection 0");
            assert_eq!(pool.idle(), 1);
        }
        assert_eq!(
            exchange(&pool, &upstream, "globex", get()).await,
            "connection 0",
            "no body has gone over it"
        );
        assert!(line(&pool, &upstream, "acme").await.is_reused());
        let fresh = pool.line(&upstream, &customer("acme"), true).await.unwrap();
        assert!(!fresh.is_reused(), "a fresh one was asked for");
        drop(fresh);
        assert_eq!((vendor.accepted(), pool.idle()), (2, 2), "a line that was not sent on comes back");
    });
}

#[test]
fn a_connection_that_carried_a_body_serves_only_that_customer() {
    on_worker(async {
        let (vendor, pool) = (Vendor::numbering(), pool());
        let upstream = vendor.upstream();
        assert_eq!(exchange(&pool, &upstream, "acme", post("a=1")).await, "connection 0");
        assert_eq!(exchange(&pool, &upstream, "globex", get()).await, "connection 1");
        assert_eq!(
            exchange(&pool, &upstream, "acme", get()).await,
            "connection 1",
            "the newest that may serve"
        );
        assert_eq!(exchange(&pool, &upstream, "globex", post("g=1")).await, "connection 1");
        assert_eq!(exchange(&pool, &upstream, "acme", get()).await, "connection 0", "its own again");
        assert_eq!(exchange(&pool, &upstream, "initech", get()).await, "connection 2");
        let first = vendor.heard().swap_remove(0);
        assert!(first.ends_with("\r\n\r\na=1"), "{first}");
    });
}

#[test]
fn isolated_customers_never_share_a_connection() {
    on_worker(async {
        let (vendor, pool) = (Vendor::numbering(), pool());
        let upstream =
            Arc::new(Upstream::new(UpstreamSettings { isolate_customers: true, ..vendor.settings() }));
        for (name, connection) in [("acme", 0), ("globex", 1), ("acme", 0), ("globex", 1)] {
            assert_eq!(
                exchange(&pool, &upstream, name, get()).await,
                format!("connection {connection}"),
                "{name}"
            );
        }
    });
}

#[test]
fn two_upstreams_of_one_origin_never_share_a_connection() {
    on_worker(async {
        let (vendor, pool) = (Vendor::numbering(), pool());
        let (one, two) = (vendor.upstream(), vendor.upstream());
        assert_eq!(exchange(&pool, &one, "acme", get()).await, "connection 0");
        assert_eq!(exchange(&pool, &two, "acme", get()).await, "connection 1");
    });
}

#[test]
fn idle_connections_are_few_and_do_not_grow_old() {
    on_worker(async {
        let vendor = Vendor::numbering();
        let (upstream, acme) = (vendor.upstream(), customer("acme"));
        let pool = Pool::new(PoolLimits { idle_per_origin: 2, idle_timeout: Duration::from_millis(300) });
        let mut lines = Vec::new();
        for _ in 0..4 {
            lines.push(pool.line(&upstream, &acme, true).await.unwrap());
        }
        drop(lines);
        assert_eq!(pool.idle(), 2);
        let start = Instant::now();
        while pool.idle() > 0 {
            assert!(
                start.elapsed() < Duration::from_millis(2300),
                "an idle connection outlived its time by 2 s"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

// ---- what is left on a connection

/// A vendor that answers once and, when told, does `after` and says so; its next connections answer "fresh".
fn sly<Fut>(after: impl Fn(Raw) -> Fut + Send + Clone + 'static) -> (Vendor, Arc<Notify>, mpsc::Receiver<()>)
where
    Fut: Future<Output = Option<Raw>> + 'static,
{
    let (done, told) = mpsc::channel();
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let vendor = Vendor::start(Certificate::of("vendor.test"), move |number, mut raw, heard| {
        let (after, done, wait) = (after.clone(), done.clone(), wait.clone());
        async move {
            next_request(&mut raw).await;
            say(&mut raw, &ok(if number == 0 { "first" } else { "fresh" })).await;
            if number > 0 {
                return;
            }
            wait.notified().await;
            let left = after(raw).await;
            done.send(()).unwrap();
            if let Some(mut raw) = left
                && let Some(second) = next_request(&mut raw).await
            {
                heard.lock().unwrap().push(second);
            }
        }
    });
    (vendor, go, told)
}

/// After the first answer the worker stands still until the vendor has done its deed, so that the event loop
/// has seen nothing of it; then the next request must find the connection unusable, unsent.
fn the_next_request_stays_unsent<Fut>(mistake: &str, after: impl Fn(Raw) -> Fut + Send + Clone + 'static)
where
    Fut: Future<Output = Option<Raw>> + 'static,
{
    on_worker(async {
        let ((vendor, go, told), pool) = (sly(after), pool());
        let upstream = vendor.upstream();
        assert_eq!(exchange(&pool, &upstream, "acme", get()).await, "first", "{mistake}");
        go.notify_one();
        told.recv().unwrap();
        let reused = line(&pool, &upstream, "acme").await;
        assert!(reused.is_reused(), "{mistake}: the event loop cannot know yet");
        let SendError::Unsent(request) = failure(reused, get()).await else {
            panic!("{mistake}: it was sent")
        };
        let fresh = pool.line(&upstream, &customer("acme"), true).await.unwrap();
        assert_eq!(text(fresh.send(*request).await.unwrap()).await.unwrap(), "fresh", "{mistake}");
        assert_eq!(vendor.heard(), Vec::<String>::new(), "{mistake}: the vendor heard a second request");
    });
}

#[test]
fn a_late_unasked_answer_is_not_handed_to_the_next_request() {
    the_next_request_stays_unsent("a second answer", |mut raw| async move {
        say(&mut raw, &ok("STALE")).await;
        Some(raw)
    });
    the_next_request_stays_unsent("one stray byte", |mut raw| async move {
        say(&mut raw, "\n").await;
        Some(raw)
    });
}

#[test]
fn a_connection_that_the_vendor_closed_is_noticed_before_it_is_written_to() {
    the_next_request_stays_unsent("closed", |mut raw| async move {
        let _ = raw.shutdown().await;
        None
    });
    the_next_request_stays_unsent("cut off without a goodbye", |raw| async move {
        drop(raw);
        None
    });
}

#[test]
fn a_surplus_that_the_event_loop_has_seen_ends_the_connection() {
    on_worker(async {
        for together in [true, false] {
            let vendor =
                Vendor::start(Certificate::of("vendor.test"), move |number, mut raw, _| async move {
                    next_request(&mut raw).await;
                    let answer = ok(&format!("connection {number}"));
                    if number > 0 {
                        say(&mut raw, &answer).await;
                    } else if together {
                        say(&mut raw, &(answer + &ok("STALE"))).await;
                    } else {
                        say(&mut raw, &answer).await;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        say(&mut raw, &ok("STALE")).await;
                    }
                    next_request(&mut raw).await;
                });
            let (pool, upstream) = (pool(), vendor.upstream());
            if together {
                // It came with the answer's end: no answer.
                let broken = failure(line(&pool, &upstream, "acme").await, get()).await;
                assert!(matches!(broken, SendError::Broken(_)), "{broken:?}");
            } else {
                assert_eq!(exchange(&pool, &upstream, "acme", get()).await, "connection 0");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert_eq!(
                exchange(&pool, &upstream, "acme", get()).await,
                "connection 1",
                "together: {together}"
            );
        }
    });
}

#[test]
fn a_reused_connection_closed_before_any_answer_is_told_apart() {
    on_worker(async {
        let closing = |answer: &'static str| {
            Vendor::start(Certificate::of("vendor.test"), move |_, mut raw, _| async move {
                next_request(&mut raw).await;
                say(&mut raw, &ok("first")).await;
                next_request(&mut raw).await;
                say(&mut raw, answer).await;
            })
        };
        let silent = closing("");
        let (pool, upstream) = (pool(), silent.upstream());
        assert_eq!(exchange(&pool, &upstream, "acme", get()).await, "first");
        let error = failure(line(&pool, &upstream, "acme").await, get()).await;
        assert!(matches!(error, SendError::ClosedEarly), "{error:?}");
        assert_eq!(exchange(&pool, &upstream, "acme", get()).await, "first");
        let error = failure(line(&pool, &upstream, "acme").await, post("a=1")).await;
        assert!(matches!(error, SendError::Broken(_)), "with a body: {error:?}");

        let half = closing("HTTP/1.1 200");
        let upstream = half.upstream();
        assert_eq!(exchange(&pool, &upstream, "acme", get()).await, "first");
        let error = failure(line(&pool, &upstream, "acme").await, get()).await;
        assert!(matches!(error, SendError::Broken(_)), "after half a head: {error:?}");

        let mute = Vendor::start(Certificate::of("vendor.test"), |_, mut raw, _| async move {
            next_request(&mut raw).await;
        });
        let error = failure(line(&pool, &mute.upstream(), "acme").await, get()).await;
        assert!(matches!(error, SendError::Broken(_)), "a fresh connection: {error:?}");
    });
}

#[test]
fn an_answer_that_is_not_read_to_its_end_closes_the_connection() {
    on_worker(async {
        let (ended, told) = mpsc::channel();
        let vendor = Vendor::start(Certificate::of("vendor.test"), move |_, mut raw, _| {
            let ended = ended.clone();
            async move {
                next_request(&mut raw).await;
                say(&mut raw, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
                ended.send(next_request(&mut raw).await).unwrap();
            }
        });
        let (pool, upstream) = (pool(), vendor.upstream());
        let answer = line(&pool, &upstream, "acme").await.send(get()).await.unwrap();
        drop(answer);
        while let Err(mpsc::TryRecvError::Empty) = told.try_recv() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(pool.idle(), 0);
    });
}

// ---- limits

#[test]
fn each_wait_has_its_limit() {
    on_worker(async {
        let short = Duration::from_millis(200);
        let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let vendor = Vendor::start(Certificate::of("vendor.test"), |number, mut raw, _| async move {
            next_request(&mut raw).await;
            if number == 1 {
                say(&mut raw, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
            }
            next_request(&mut raw).await;
        });
        let origin =
            Origin::parse(&format!("https://vendor.test:{}", deaf.local_addr().unwrap().port())).unwrap();
        let refused = refusal(UpstreamSettings { origin, connect: short, ..vendor.settings() }).await;
        assert!(matches!(refused, ConnectError::Timeout(_)), "no handshake: {refused:?}");

        let settings = UpstreamSettings { first_byte: short, idle: short, ..vendor.settings() };
        let (pool, upstream) = (pool(), Arc::new(Upstream::new(settings)));
        let start = Instant::now();
        let error = failure(line(&pool, &upstream, "acme").await, get()).await;
        assert!(matches!(error, SendError::Timeout(_)), "no head: {error:?}");
        assert!((200..2000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        let answer = line(&pool, &upstream, "acme").await.send(get()).await.unwrap();
        let error = text(answer).await.expect_err("half a body was taken for a whole one");
        assert!(matches!(error, BodyError::Idle(_)), "no more body: {error:?}");
        assert_eq!(pool.idle(), 0);
    });
}

#[test]
fn an_answer_that_is_not_one_is_refused() {
    on_worker(async {
        let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
        let rows = [
            (
                "a switch of protocols",
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_owned(),
            ),
            ("too many fields", format!("HTTP/1.1 200 OK\r\n{many}\r\n")),
            ("too long a head", format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(65 * 1024))),
            ("a folded line", "HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\ncontent-length: 0\r\n\r\n".to_owned()),
            ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned()),
            ("no HTTP", "hello\r\n\r\n".to_owned()),
        ];
        for (mistake, answer) in rows {
            let vendor = Vendor::start(Certificate::of("vendor.test"), move |_, mut raw, _| {
                let answer = answer.clone();
                async move {
                    next_request(&mut raw).await;
                    say(&mut raw, &answer).await;
                    next_request(&mut raw).await;
                }
            });
            let pool = pool();
            let error = failure(line(&pool, &vendor.upstream(), "acme").await, get()).await;
            assert!(matches!(error, SendError::Broken(_)), "{mistake}: {error:?}");
            assert_eq!(pool.idle(), 0, "{mistake}");
        }
    });
}

#[test]
fn interim_answers_are_skipped() {
    on_worker(async {
        let vendor = Vendor::start(Certificate::of("vendor.test"), |_, mut raw, _| async move {
            next_request(&mut raw).await;
            say(&mut raw, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
                .await;
            say(&mut raw, &ok("final")).await;
            next_request(&mut raw).await;
        });
        assert_eq!(exchange(&pool(), &vendor.upstream(), "acme", get()).await, "final");
    });
}

// ---- the app's body

/// Sends `text` as an app would, through a real server connection, on a line to `vendor`; the app's side of
/// the connection stays open. Returns what became of it and how many bytes of the body went out.
async fn forwarded(text: &str, pool: Rc<Pool>, upstream: Arc<Upstream>) -> (Result<(), SendError>, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (door, _) = listener.accept().await.unwrap();
    let (outcome, told) = oneshot::channel();
    let outcome = Rc::new(std::cell::Cell::new(Some(outcome)));
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (pool, upstream, outcome) = (pool.clone(), upstream.clone(), outcome.take());
        async move {
            let line = line(&pool, &upstream, "acme").await;
            let (head, incoming) = request.into_parts();
            let outgoing = Outgoing::streaming(incoming, http::Version::HTTP_11);
            let meter = outgoing.meter();
            let mut request = Request::post("/x").header("host", "vendor.test").body(outgoing).unwrap();
            if let Some(trailer) = head.headers.get("trailer") {
                request.headers_mut().insert("trailer", trailer.clone());
            }
            let result = match line.send(request).await {
                Ok(answer) => {
                    self::text(answer).await.map(drop).map_err(|e| SendError::Broken(e.to_string()))
                }
                Err(error) => Err(error),
            };
            let _ = outcome.unwrap().send((result, meter.bytes()));
            Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Empty::<Bytes>::new()))
        }
    });
    let io = hyper_util::rt::TokioIo::new(door);
    tokio::task::spawn_local(async move {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    });
    app.write_all(text.as_bytes()).await.unwrap();
    let told = told.await.unwrap();
    drop(app);
    told
}

#[test]
fn the_apps_body_is_streamed_counted_and_loses_its_trailers() {
    on_worker(async {
        let vendor = Vendor::start(Certificate::of("vendor.test"), |_, mut raw, heard| async move {
            let head = next_request(&mut raw).await.unwrap();
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") {
                body.push(raw.read_u8().await.unwrap());
            }
            heard.lock().unwrap().push(head + &String::from_utf8(body).unwrap());
            say(&mut raw, &ok("thanks")).await;
            next_request(&mut raw).await;
        });
        let request = "POST / HTTP/1.1\r\nhost: relay\r\ntransfer-encoding: chunked\r\ntrailer: x-late\r\n\r\n5\r\nhello\r\n0\r\nx-late: 1\r\n\r\n";
        let pool = Rc::new(pool());
        let (result, bytes) = forwarded(request, pool.clone(), vendor.upstream()).await;
        result.unwrap();
        assert_eq!((bytes, pool.idle()), (5, 1));
        let heard = vendor.heard().concat();
        assert!(heard.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{heard}");
    });
}

#[test]
fn an_answer_before_the_request_has_ended_closes_the_connection() {
    on_worker(async {
        let vendor = Vendor::start(Certificate::of("vendor.test"), |_, mut raw, _| async move {
            let mut byte = [0; 64];
            let _ = raw.read(&mut byte).await;
            say(&mut raw, &ok("enough")).await;
            while raw.read_u8().await.is_ok() {}
        });
        let pool = Rc::new(pool());
        let request = "POST / HTTP/1.1\r\nhost: relay\r\ncontent-length: 100\r\n\r\nhello";
        let (result, bytes) = forwarded(request, pool.clone(), vendor.upstream()).await;
        result.unwrap();
        assert_eq!((bytes, pool.idle()), (5, 0));
    });
}

#[test]
fn an_app_that_stops_sending_is_not_the_vendors_fault() {
    on_worker(async {
        let vendor = Vendor::start(Certificate::of("vendor.test"), |_, mut raw, _| async move {
            while raw.read_u8().await.is_ok() {}
        });
        let idle = Duration::from_millis(200);
        let upstream =
            Arc::new(Upstream::new(UpstreamSettings { idle, first_byte: idle / 4, ..vendor.settings() }));
        let request = "POST / HTTP/1.1\r\nhost: relay\r\ncontent-length: 100\r\n\r\nhello";
        let (result, bytes) = forwarded(request, Rc::new(pool()), upstream).await;
        assert!(matches!(result, Err(SendError::Upload(_))), "{result:?}");
        assert_eq!(bytes, 5);
    });
}

// ---- the control plane

fn call(url: String, tls: Option<Arc<rustls::ClientConfig>>) -> FetchRequest {
    let timeout = Duration::from_secs(5);
    FetchRequest {
        method: Method::POST,
        url,
        headers: HeaderMap::new(),
        body: b"{}".to_vec(),
        limit: 16,
        timeout,
        tls,
    }
}

#[test]
fn a_control_plane_call_tells_its_failures_apart() {
    on_worker(async {
        let vendor = |certificate, answer: &'static str| {
            Vendor::start(certificate, move |_, mut raw, heard| async move {
                let request = next_request(&mut raw).await;
                heard.lock().unwrap().extend(request);
                say(&mut raw, answer).await;
                next_request(&mut raw).await;
            })
        };
        let moved =
            "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 16\r\n\r\n0123456789abcdef";
        let url = |vendor: &Vendor, scheme: &str| format!("{scheme}://{}/v1?a=b", vendor.address);
        let plain = vendor(Certificate::plaintext(), moved);
        let answer = fetch(call(url(&plain, "http"), None)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (302, b"0123456789abcdef".as_slice()));
        let heard = plain.heard().concat();
        assert!(heard.starts_with("POST /v1?a=b HTTP/1.1\r\n") && heard.ends_with("\r\n\r\n{}"), "{heard}");
        assert_eq!(plain.accepted(), 1, "a redirect is not followed");

        let secure = vendor(Certificate::of("127.0.0.1"), moved);
        let roots = client_config(Roots::Pem(secure.certificate.ca_pem.as_bytes())).unwrap();
        assert_eq!(fetch(call(url(&secure, "https"), Some(roots))).await.unwrap().status, 302);
        let error = fetch(call(url(&secure, "https"), None)).await.unwrap_err();
        assert!(matches!(error, FetchError::Tls(_)), "{error:?}");

        let long = vendor(
            Certificate::plaintext(),
            "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n0123456789abcdefg",
        );
        assert_eq!(fetch(call(url(&long, "http"), None)).await.unwrap_err(), FetchError::TooLarge(16));
        let slow = vendor(Certificate::plaintext(), "");
        let short = Duration::from_millis(100);
        let error =
            fetch(FetchRequest { timeout: short, ..call(url(&slow, "http"), None) }).await.unwrap_err();
        assert_eq!(error, FetchError::Timeout(short));
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = fetch(call(format!("http://{gone}/"), None)).await.unwrap_err();
        assert!(matches!(error, FetchError::Unreachable(_)), "{error:?}");
        for odd in ["ftp://127.0.0.1/", "/v1", "http://user@127.0.0.1:1/"] {
            let error = fetch(call(odd.to_owned(), None)).await.unwrap_err();
            assert!(matches!(error, FetchError::Url(_) | FetchError::Unreachable(_)), "{odd}: {error:?}");
        }
    });
}
