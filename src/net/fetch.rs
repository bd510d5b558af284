//! Control-plane calls: the command line to the admin API, relay to issuers for their keys. Never the data path.
//!
//! One request, one connection, one answer of a bounded size. The address was configured by the operator, so
//! it is not vetted, but for [`call`], which goes to a vendor by its [`Upstream`]; no redirect is followed and no proxy variable read, so nobody else can change it. What
//! must never enter: a customer's request or credential, an address out of either.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector};
use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tower::Service;
use zeroize::Zeroizing;

use super::dial::{Dial, DialError};
use super::resolve::Resolver;
use super::tls::{Roots, client_config};
use super::upstream::{ConnectError, Upstream, is_of_tls};

/// `url` as it may be called, if it may: `https://`, or `http://` on this machine, without a user or a fragment.
pub fn operators_address(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let loopback = match url.host()? {
        url::Host::Domain(name) => name == "localhost",
        url::Host::Ipv4(ip) => ip.is_loopback(),
        url::Host::Ipv6(ip) => ip.is_loopback(),
    };
    let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let scheme = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    (bare && scheme).then(|| url.into())
}

/// One call.
pub struct FetchRequest {
    /// The method.
    pub method: Method,
    /// `http://` or `https://`, with a host.
    pub url: String,
    /// Header fields; `Host` is set here.
    pub headers: HeaderMap,
    /// The body, wiped once it is sent.
    pub body: Vec<u8>,
    /// The longest body of an answer that is taken, in bytes.
    pub limit: usize,
    /// From the first lookup to the answer's last byte.
    pub timeout: Duration,
    /// Trust roots for `https://`; the built-in ones if `None`.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Its answer, whatever the status.
pub struct Fetched {
    /// The status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body, at most `limit` bytes.
    pub body: Vec<u8>,
}

// Either side may carry a secret: an admin token in a field, a credential on its way to be sealed.
impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fetched({}, {} bytes)", self.status, self.body.len())
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL is not one that can be called.
    #[error("the URL is not usable: {0}")]
    Url(&'static str),
    /// Nobody took the connection.
    #[error("{0}")]
    Unreachable(String),
    /// The certificate was refused, or the trust roots are not usable.
    #[error("{0}")]
    Tls(String),
    /// There was no whole answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The answer's body is longer than this many bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// The connection broke, or the answer was not HTTP.
    #[error("{0}")]
    Broken(String),
}

/// Makes one call.
///
/// # Errors
/// [`FetchError`], each kind of failure apart.
pub async fn fetch(request: FetchRequest) -> Result<Fetched, FetchError> {
    let allowed = request.timeout;
    timeout(allowed, fetched(request)).await.unwrap_or(Err(FetchError::Timeout(allowed)))
}

/// Makes one call whose answer may be of any length: a good one's body is given to `take` as it comes, any
/// other's is in the answer. `timeout` is how long nothing may come.
///
/// # Errors
/// [`FetchError`], each kind of failure apart; broken, if `take` fails.
pub async fn fetch_into(
    request: FetchRequest,
    take: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
) -> Result<Fetched, FetchError> {
    let (allowed, limit) = (request.timeout, request.limit);
    let late = |_| FetchError::Timeout(allowed);
    let Begun { head, mut body, task } = timeout(allowed, begun(request)).await.map_err(late)??;
    if !head.status.is_success() {
        let body = timeout(allowed, read(body, limit)).await.map_err(late)??;
        return Ok(Fetched { status: head.status, headers: head.headers, body });
    }
    while let Some(frame) = timeout(allowed, body.frame()).await.map_err(late)? {
        let frame = frame.map_err(|e| FetchError::Broken(e.to_string()))?;
        if let Some(data) = frame.data_ref() {
            take(data).map_err(|e| FetchError::Broken(e.to_string()))?;
        }
    }
    drop(task);
    Ok(Fetched { status: head.status, headers: head.headers, body: Vec::new() })
}

/// Why a vendor gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There was no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There was one, and no answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Makes one call of relay's own to a vendor: resolved, vetted, dialled and verified as every request to it.
/// The URL is the upstream's origin and a path; `tls` is not looked at.
///
/// # Errors
/// [`CallError`], each kind of failure apart.
pub async fn call(upstream: &Upstream, request: FetchRequest) -> Result<Fetched, CallError> {
    let url: Uri = request.url.parse().map_err(|_| FetchError::Url("it is not a URL"))?;
    if url.authority().map(|to| to.as_str()) != Some(upstream.origin().authority().as_str()) {
        return Err(FetchError::Url("it is another origin's").into());
    }
    let allowed = request.timeout;
    // Boxed: dialling needs much room.
    let called = Box::pin(async {
        let (stream, _) = upstream.dial_http1().await?;
        Ok(exchange(stream, &url, request).await?)
    });
    timeout(allowed, called).await.unwrap_or(Err(FetchError::Timeout(allowed).into()))
}

async fn fetched(request: FetchRequest) -> Result<Fetched, FetchError> {
    let limit = request.limit;
    begun(request).await?.whole(limit).await
}

async fn begun(request: FetchRequest) -> Result<Begun, FetchError> {
    let url: Uri = request.url.parse().map_err(|_| FetchError::Url("it is not a URL"))?;
    let resolver = Arc::new(Resolver::new(Handle::current()));
    let mut dial = Dial::unvetted(resolver, request.timeout);
    match url.scheme_str() {
        Some("http") => {
            let stream = dial.call(url.clone()).await;
            let stream = stream.map_err(|e| FetchError::Unreachable(e.to_string()))?;
            begin(stream, &url, request).await
        }
        Some("https") => {
            let tls = match &request.tls {
                Some(tls) => Arc::clone(tls),
                None => client_config(Roots::BuiltIn).map_err(|e| FetchError::Tls(e.to_string()))?,
            };
            let names = Arc::new(DefaultServerNameResolver::default());
            let stream = HttpsConnector::new(dial, tls, true, names).call(url.clone()).await;
            let stream = stream.map_err(|e| because(e.as_ref()))?;
            begin(stream, &url, request).await
        }
        _ => Err(FetchError::Url("it begins with neither http:// nor https://")),
    }
}

fn because(cause: &(dyn std::error::Error + 'static)) -> FetchError {
    let tls = !cause.is::<DialError>() && is_of_tls(cause);
    if tls { FetchError::Tls(cause.to_string()) } else { FetchError::Unreachable(cause.to_string()) }
}

async fn exchange<S>(stream: S, url: &Uri, request: FetchRequest) -> Result<Fetched, FetchError>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let limit = request.limit;
    begin(stream, url, request).await?.whole(limit).await
}

/// An answer whose body is still to come.
struct Begun {
    head: http::response::Parts,
    body: Incoming,
    task: Ended,
}

impl Begun {
    async fn whole(self, limit: usize) -> Result<Fetched, FetchError> {
        let Self { head, body, task } = self;
        let body = read(body, limit).await;
        drop(task);
        Ok(Fetched { status: head.status, headers: head.headers, body: body? })
    }
}

async fn begin<S>(stream: S, url: &Uri, request: FetchRequest) -> Result<Begun, FetchError>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let broken = |e: hyper::Error| FetchError::Broken(e.to_string());
    let outgoing = outgoing(url, request)?;
    let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
    let task = Ended(tokio::spawn(async move { drop(connection.await) }));
    let (head, body) = sender.send_request(outgoing).await.map_err(broken)?.into_parts();
    Ok(Begun { head, body, task })
}

fn outgoing(url: &Uri, request: FetchRequest) -> Result<Request<Full<Bytes>>, FetchError> {
    let authority = url.authority().ok_or(FetchError::Url("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err(FetchError::Url("it holds a user name"));
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| FetchError::Url("its host is wrong"))?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let body = Full::new(Bytes::from_owner(Zeroizing::new(request.body)));
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = request.method;
    *outgoing.uri_mut() = path.parse().map_err(|_| FetchError::Url("its path is wrong"))?;
    *outgoing.headers_mut() = request.headers;
    outgoing.headers_mut().insert(HOST, host);
    Ok(outgoing)
}

async fn read(mut body: Incoming, limit: usize) -> Result<Vec<u8>, FetchError> {
    // Room for most answers at once: a vector that grows leaves copies of a secret behind.
    let mut bytes = Vec::with_capacity(limit.min(16 * 1024));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| FetchError::Broken(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(FetchError::TooLarge(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Ends the connection's task with the call, also when the call is given up.
struct Ended(tokio::task::JoinHandle<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}
