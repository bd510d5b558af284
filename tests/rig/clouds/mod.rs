//! The clouds' key services, as fakes that speak their protocols on loopback.
//!
//! One file per cloud; what all of them do alike stands here: accept, count, and go wrong when told to.
//! Each is checked against that cloud's official Python SDK (`tests/kms/run`), so that none is made to fit
//! relay's own client. They serve tests in this process, and others by `tests/fakes`.

pub mod aws;
pub mod azure;
pub mod gcp;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// What a key service is told to do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trouble {
    #[default]
    None,
    /// Connections are taken, and nothing is ever answered.
    BlackHole,
    /// Nobody listens.
    Refuse,
    /// "Slow down", as the cloud says it.
    Throttled,
    /// An internal error, as the cloud says it.
    Broken,
    /// The key is disabled.
    Disabled,
    /// The caller has no right to use the key.
    Denied,
}

const TROUBLES: &[(&str, Trouble)] = &[
    ("none", Trouble::None),
    ("black_hole", Trouble::BlackHole),
    ("refuse", Trouble::Refuse),
    ("throttled", Trouble::Throttled),
    ("broken", Trouble::Broken),
    ("disabled", Trouble::Disabled),
    ("denied", Trouble::Denied),
];

/// One request, whole.
pub struct Asked {
    pub method: Method,
    /// The path as it came, without the query.
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The answer to it.
pub struct Told {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

/// One cloud's protocol.
pub trait Cloud: Send + Sync + 'static {
    /// What the request asks for, in the cloud's own words: calls are counted by it.
    fn operation(&self, asked: &Asked) -> String;

    /// The answer. `trouble` is one of those that a protocol has words for: throttled, broken, disabled,
    /// denied; or none.
    fn answer(&self, asked: &Asked, trouble: Trouble) -> Told;
}

/// A fake key service that serves until it is dropped.
pub struct Fake {
    pub address: SocketAddr,
    /// Where other processes read and set what goes wrong: `http://{control}/control`.
    pub control: SocketAddr,
    orders: Arc<Orders>,
    runtime: Option<Runtime>,
}

struct Orders {
    now: watch::Sender<(Trouble, Duration)>,
    calls: Mutex<BTreeMap<String, u64>>,
    /// Calls that are being answered, and the most that ever were at once.
    at_once: Mutex<(u64, u64)>,
}

impl Fake {
    /// Serves `cloud` on a free port of loopback, over TLS if it is given.
    pub fn start(cloud: impl Cloud, tls: Option<Arc<ServerConfig>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fake-kms")
            .enable_all()
            .build()
            .unwrap();
        let orders = Arc::new(Orders {
            now: watch::channel(Default::default()).0,
            calls: Mutex::default(),
            at_once: Mutex::default(),
        });
        // Bound from outside of any runtime: whoever starts a fake may stand inside one.
        let [listener, control] = [(); 2].map(|()| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let (address, control_at) = (listener.local_addr().unwrap(), control.local_addr().unwrap());
        let _guard = runtime.enter();
        let listener = TcpListener::from_std(listener).unwrap();
        let control = TcpListener::from_std(control).unwrap();
        runtime.spawn(listen(listener, Arc::new(cloud), tls.map(TlsAcceptor::from), Arc::clone(&orders)));
        runtime.spawn(take_orders(control, Arc::clone(&orders)));
        drop(_guard);
        Self { address, control: control_at, orders, runtime: Some(runtime) }
    }

    /// From now on this goes wrong. Connections that a black hole holds are closed when it ends.
    pub fn trouble(&self, trouble: Trouble) {
        self.orders.now.send_modify(|now| now.0 = trouble);
        // Refusing begins when the listener is gone, which is its own task's work.
        let wanted = trouble != Trouble::Refuse;
        for _ in 0..500 {
            if std::net::TcpStream::connect(self.address).is_ok() == wanted {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the fake does not do as it is told: {trouble:?}");
    }

    /// From now on every answer takes this long.
    pub fn latency(&self, latency: Duration) {
        self.orders.now.send_modify(|now| now.1 = latency);
    }

    /// How often this operation was asked for, answered or not.
    pub fn calls(&self, operation: &str) -> u64 {
        self.orders.calls.lock().unwrap().get(operation).copied().unwrap_or_default()
    }

    /// Requests in all.
    pub fn all_calls(&self) -> u64 {
        self.orders.calls.lock().unwrap().values().sum()
    }

    /// The most calls that were ever answered at once.
    pub fn most_at_once(&self) -> u64 {
        self.orders.at_once.lock().unwrap().1
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn listen<C: Cloud>(first: TcpListener, cloud: Arc<C>, tls: Option<TlsAcceptor>, orders: Arc<Orders>) {
    let address = first.local_addr().unwrap();
    let mut listener = Some(first);
    let mut now = orders.now.subscribe();
    loop {
        let trouble = now.borrow_and_update().0;
        if trouble == Trouble::Refuse {
            listener = None;
            drop(now.changed().await);
            continue;
        }
        let Some(open) = &listener else {
            // Somebody else's connection may have the port for a moment.
            listener = TcpListener::bind(address).await.ok();
            if listener.is_none() {
                sleep(Duration::from_millis(20)).await;
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => if let Ok((stream, _)) = accepted {
                tokio::spawn(take(stream, Arc::clone(&cloud), tls.clone(), Arc::clone(&orders)));
            },
            _ = now.changed() => {}
        }
    }
}

async fn take<C: Cloud>(stream: TcpStream, cloud: Arc<C>, tls: Option<TlsAcceptor>, orders: Arc<Orders>) {
    let _ = stream.set_nodelay(true);
    let mut refused = orders.now.subscribe();
    tokio::select! {
        () = hold_or_serve(stream, cloud, tls, orders) => {}
        _ = refused.wait_for(|now| now.0 == Trouble::Refuse) => {}
    }
}

/// In a black hole not even a TLS handshake is answered.
async fn hold_or_serve<C: Cloud>(
    stream: TcpStream,
    cloud: Arc<C>,
    tls: Option<TlsAcceptor>,
    orders: Arc<Orders>,
) {
    if orders.now.borrow().0 == Trouble::BlackHole {
        drop(orders.now.subscribe().wait_for(|now| now.0 != Trouble::BlackHole).await);
        return;
    }
    let Some(tls) = tls else { return serve(stream, cloud, orders).await };
    if let Ok(stream) = tls.accept(stream).await {
        serve(stream, cloud, orders).await;
    }
}

async fn serve<C: Cloud>(stream: impl AsyncRead + AsyncWrite + Unpin, cloud: Arc<C>, orders: Arc<Orders>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (cloud, orders) = (Arc::clone(&cloud), Arc::clone(&orders));
        async move {
            let asked = whole(request).await.map_err(std::io::Error::other)?;
            let (trouble, latency) = *orders.now.borrow();
            // A connection's own task may see a request before it hears that it is to end: nobody is asked then.
            if trouble == Trouble::Refuse {
                return Err(std::io::Error::other("nobody is there"));
            }
            *orders.calls.lock().unwrap().entry(cloud.operation(&asked)).or_default() += 1;
            let _here = Here::come(&orders);
            if trouble == Trouble::BlackHole {
                let _ = orders.now.subscribe().wait_for(|now| now.0 != Trouble::BlackHole).await;
                return Err(std::io::Error::other("a black hole answers nothing"));
            }
            if !latency.is_zero() {
                sleep(latency).await;
            }
            let told = cloud.answer(&asked, trouble);
            let mut response = Response::builder().status(told.status);
            for (name, value) in told.headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(Bytes::from(told.body))).unwrap())
        }
    });
    let builder = &mut hyper::server::conn::http1::Builder::new();
    drop(builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await);
}

/// One call that is being answered.
struct Here<'o>(&'o Orders);

impl<'o> Here<'o> {
    fn come(orders: &'o Orders) -> Self {
        let mut at_once = orders.at_once.lock().unwrap();
        at_once.0 += 1;
        at_once.1 = at_once.1.max(at_once.0);
        Self(orders)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.at_once.lock().unwrap().0 -= 1;
    }
}

async fn whole(request: Request<Incoming>) -> Result<Asked, hyper::Error> {
    let (head, body) = request.into_parts();
    Ok(Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    })
}

/// `GET /control` tells what goes wrong and what was asked; `POST /control?trouble=throttled&latency_ms=50`
/// changes it first.
async fn take_orders(listener: TcpListener, orders: Arc<Orders>) {
    while let Ok((stream, _)) = listener.accept().await {
        let orders = Arc::clone(&orders);
        let service = service_fn(move |request: Request<Incoming>| {
            let (status, body) = order(&request, &orders);
            let answer = Response::builder().status(status).header("content-type", "application/json");
            async move { Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(body))).unwrap()) }
        });
        let serving =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { drop(serving.await) });
    }
}

fn order(request: &Request<Incoming>, orders: &Orders) -> (u16, String) {
    if request.uri().path() != "/control" {
        return (404, "{}".to_owned());
    }
    let (mut trouble, mut latency) = *orders.now.borrow();
    if request.method() == Method::POST {
        for (name, value) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
        {
            match (&*name, TROUBLES.iter().find(|(word, _)| *word == value), value.parse()) {
                ("trouble", Some((_, named)), _) => trouble = *named,
                ("latency_ms", _, Ok(millis)) => latency = Duration::from_millis(millis),
                _ => return (400, format!("{{\"error\":\"{name} is not understood\"}}")),
            }
        }
        orders.now.send_replace((trouble, latency));
    }
    let word = TROUBLES.iter().find(|(_, other)| *other == trouble).map_or("", |(word, _)| *word);
    let calls = orders.calls.lock().unwrap().clone();
    let told =
        serde_json::json!({ "trouble": word, "latency_ms": latency.as_millis() as u64, "calls": calls });
    (200, told.to_string())
}
