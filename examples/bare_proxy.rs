//! The least that a proxy on hyper is: the measuring stick of `tests/bench/run`.
//!
//!     bare_proxy 127.0.0.1:8000 https://localhost:8443 ca.pem "Bearer a-credential"
//!
//! It takes HTTP/1.1, sets one header, sends the request on over TLS by hyper-util's pooled client, and
//! streams both bodies. It checks no caller, keeps no record, hides nothing: not for use.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mimalloc::MiMalloc;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpListener;

/// As relay's, so that the two differ in what they do and not in how they allocate.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;
type Answer = Response<Either<Incoming, Empty<Bytes>>>;

/// Idle connections kept; more than any benchmark opens.
const IDLE: usize = 256;

struct Vendor {
    client: Client<HttpsConnector<HttpConnector>, Incoming>,
    authority: Authority,
    host: HeaderValue,
    authorization: HeaderValue,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, ca, authorization] = arguments.as_slice() else {
        return Err("bare_proxy LISTEN https://HOST:PORT CA_FILE AUTHORIZATION".into());
    };
    let upstream: Uri = upstream.parse()?;
    let authority = upstream.authority().ok_or("the upstream has no authority")?.clone();
    let vendor = Arc::new(Vendor {
        client: client(ca)?,
        host: HeaderValue::from_str(authority.as_str())?,
        authority,
        authorization: HeaderValue::from_str(authorization)?,
    });
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let vendor = vendor.clone();
        let service = service_fn(move |request| {
            let vendor = vendor.clone();
            async move { Ok::<_, Infallible>(vendor.answer(request).await) }
        });
        let served =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A connection that breaks concerns its own client alone.
        tokio::spawn(async move { drop(served.await) });
    }
}

impl Vendor {
    async fn answer(&self, mut request: Request<Incoming>) -> Answer {
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let target =
            Uri::builder().scheme(Scheme::HTTPS).authority(self.authority.clone()).path_and_query(path);
        let Ok(target) = target.build() else { return refused(StatusCode::BAD_REQUEST) };
        *request.uri_mut() = target;
        let headers = request.headers_mut();
        headers.remove(CONNECTION);
        headers.insert(HOST, self.host.clone());
        headers.insert(AUTHORIZATION, self.authorization.clone());
        match self.client.request(request).await {
            Ok(answer) => answer.map(Either::Left),
            Err(_) => refused(StatusCode::BAD_GATEWAY),
        }
    }
}

fn refused(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Right(Empty::new()));
    *answer.status_mut() = status;
    answer
}

fn client(ca: &str) -> Result<Client<HttpsConnector<HttpConnector>, Incoming>, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let https =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(600))
        .pool_max_idle_per_host(IDLE)
        .build(https))
}
