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
use http::response::Parts;
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
    let (allowed, limit) = (request.timeout, request.limit);
    let whole = async { opened(request).await?.whole(limit).await };
    timeout(allowed, whole).await.unwrap_or(Err(FetchError::Timeout(allowed)))
}

/// As [`fetch`], but each piece of a successful answer's body goes to `piece` as it comes, and none is kept: such a
/// body may have any length. The time holds for the answer's head, and for each piece.
///
/// # Errors
/// As [`fetch`]; what `piece` says, as [`FetchError::Broken`].
pub async fn fetch_pieces(
    request: FetchRequest,
    mut piece: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<Fetched, FetchError> {
    let (allowed, limit) = (request.timeout, request.limit);
    let late = || FetchError::Timeout(allowed);
    let mut answer = timeout(allowed, opened(request)).await.map_err(|_| late())??;
    if !answer.head.status.is_success() {
        return timeout(allowed, answer.whole(limit)).await.map_err(|_| late())?;
    }
    while let Some(frame) = timeout(allowed, answer.body.frame()).await.map_err(|_| late())? {
        let frame = frame.map_err(|error| FetchError::Broken(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            piece(&data).map_err(FetchError::Broken)?;
        }
    }
    Ok(Fetched { status: answer.head.status, headers: answer.head.headers, body: Vec::new() })
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
        let limit = request.limit;
        Ok(exchange(stream, &url, request).await?.whole(limit).await?)
    });
    timeout(allowed, called).await.unwrap_or(Err(FetchError::Timeout(allowed).into()))
}

async fn opened(request: FetchRequest) -> Result<Answer, FetchError> {
    let url: Uri = request.url.parse().map_err(|_| FetchError::Url("it is not a URL"))?;
    let resolver = Arc::new(Resolver::new(Handle::current()));
    let mut dial = Dial::unvetted(resolver, request.timeout);
    match url.scheme_str() {
        Some("http") => {
            let stream = dial.call(url.clone()).await;
            let stream = stream.map_err(|e| FetchError::Unreachable(e.to_string()))?;
            exchange(stream, &url, request).await
        }
        Some("https") => {
            let tls = match &request.tls {
                Some(tls) => Arc::clone(tls),
                None => client_config(Roots::BuiltIn).map_err(|e| FetchError::Tls(e.to_string()))?,
            };
            let names = Arc::new(DefaultServerNameResolver::default());
            let stream = HttpsConnector::new(dial, tls, true, names).call(url.clone()).await;
            let stream = stream.map_err(|e| because(e.as_ref()))?;
            exchange(stream, &url, request).await
        }
        _ => Err(FetchError::Url("it begins with neither http:// nor https://")),
    }
}

fn because(cause: &(dyn std::error::Error + 'static)) -> FetchError {
    let tls = !cause.is::<DialError>() && is_of_tls(cause);
    if tls { FetchError::Tls(cause.to_string()) } else { FetchError::Unreachable(cause.to_string()) }
}

/// An answer whose body is still on its way.
struct Answer {
    head: Parts,
    body: Incoming,
    _connection: Ended,
}

impl Answer {
    async fn whole(self, limit: usize) -> Result<Fetched, FetchError> {
        let body = read(self.body, limit).await?;
        Ok(Fetched { status: self.head.status, headers: self.head.headers, body })
    }
}

async fn exchange<S>(stream: S, url: &Uri, request: FetchRequest) -> Result<Answer, FetchError>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let broken = |e: hyper::Error| FetchError::Broken(e.to_string());
    let outgoing = outgoing(url, request)?;
    let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
    let connection = Ended(tokio::spawn(async move { drop(connection.await) }));
    let (head, body) = sender.send_request(outgoing).await.map_err(broken)?.into_parts();
    Ok(Answer { head, body, _connection: connection })
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
