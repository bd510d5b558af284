//! A vendor that speaks HTTP/2 over TLS, by ALPN, and remembers what it was sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::vendor::{Received, Vendor, identity};

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers one request; `Received` has its head only, the body is in the request.
pub trait Script: Fn(Request<Incoming>) -> Answering + Send + Sync + 'static {}
impl<S: Fn(Request<Incoming>) -> Answering + Send + Sync + 'static> Script for S {}
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// A vendor that chooses HTTP/2.
pub fn start(script: impl Script) -> Vendor {
    let (config, ca_pem) = identity(&["localhost", "*.shop.localhost"]);
    start_with((*config).clone(), ca_pem, script)
}

/// The same, with this configuration.
pub fn start_with(mut config: rustls::ServerConfig, ca_pem: String, script: impl Script) -> Vendor {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let received: Arc<Mutex<Vec<Received>>> = Arc::default();
    let connections = Arc::new(AtomicUsize::new(0));
    let (kept, count, script) = (received.clone(), connections.clone(), Arc::new(script));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((tcp, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, kept, script) = (acceptor.clone(), kept.clone(), script.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        kept.lock().unwrap().push(noted(number, &request));
                        let answering = script(request);
                        async move { Ok::<_, Infallible>(answering.await) }
                    });
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
    });
    Vendor { port, ca_pem, received, connections }
}

fn noted(connection: usize, request: &Request<Incoming>) -> Received {
    let mut head = format!("{} {} HTTP/2", request.method(), request.uri());
    for (name, value) in request.headers() {
        head.push_str(&format!("\r\n{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    }
    Received { connection, head, body: Vec::new() }
}

/// A whole body.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body written by hand.
pub fn streamed() -> (mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (pieces, waiting) = mpsc::unbounded_channel();
    (pieces, ByHand(waiting).boxed_unsync())
}

struct ByHand(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl hyper::body::Body for ByHand {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}
