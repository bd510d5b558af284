//! A vendor over real TLS that answers exactly the bytes a test wants, and remembers what it was sent.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

pub type Out<'a> = StreamOwned<ServerConnection, &'a TcpStream>;

/// One request as the vendor got it.
#[derive(Debug, Clone)]
pub struct Received {
    /// Which connection, from 0.
    pub connection: usize,
    /// The head as it came, without the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// `GET /path`
    pub fn line(&self) -> &str {
        self.head.split(" HTTP/").next().unwrap()
    }

    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap()
    }
}

pub struct Vendor {
    pub port: u16,
    pub ca_pem: String,
    pub received: Arc<Mutex<Vec<Received>>>,
    pub connections: Arc<AtomicUsize>,
}

impl Vendor {
    /// A vendor that reads whole requests and answers each as `script` writes.
    pub fn start(script: impl Fn(&Received, &mut Out<'_>) + Send + Sync + 'static) -> Self {
        Self::serving(&[], move |number, tls, kept| serve(number, tls, &script, kept))
    }

    /// A vendor that reads heads alone; `script` has the connection, the head, and what came with it.
    pub fn by_hand(script: impl Fn(&Received, &mut Out<'_>) + Send + Sync + 'static) -> Self {
        Self::by_hand_offering(&[], script)
    }

    /// The same, and it prefers these protocols in this order.
    pub fn by_hand_offering(
        alpn: &[&str],
        script: impl Fn(&Received, &mut Out<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self::serving(alpn, move |number, tls, kept| {
            let mut buffer = Vec::new();
            while let Some(mut request) = read_head(number, tls, &mut buffer) {
                request.body = std::mem::take(&mut buffer);
                kept.lock().unwrap().push(request.clone());
                script(&request, tls);
            }
        })
    }

    fn serving(
        alpn: &[&str],
        each: impl Fn(usize, &mut Out<'_>, &Mutex<Vec<Received>>) + Send + Sync + 'static,
    ) -> Self {
        let (config, ca_pem) = identity(&["localhost", "127.0.0.1", "*.shop.localhost"]);
        let mut config = ServerConfig::clone(&config);
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::listening(config, ca_pem, each)
    }

    /// A vendor with this configuration that reads whole requests; each connection's number is told once it ends.
    pub fn with(
        config: ServerConfig,
        ca_pem: String,
        script: impl Fn(&Received, &mut Out<'_>) + Send + Sync + 'static,
    ) -> (Self, mpsc::Receiver<usize>) {
        let (told, ended) = mpsc::channel();
        let told = Mutex::new(told);
        let vendor = Self::listening(config, ca_pem, move |number, tls, kept| {
            serve(number, tls, &script, kept);
            let _ = told.lock().unwrap().send(number);
        });
        (vendor, ended)
    }

    fn listening(
        config: ServerConfig,
        ca_pem: String,
        each: impl Fn(usize, &mut Out<'_>, &Mutex<Vec<Received>>) + Send + Sync + 'static,
    ) -> Self {
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let (each, kept, count) = (Arc::new(each), received.clone(), connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (each, kept, config) = (each.clone(), kept.clone(), config.clone());
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), &stream);
                    each(number, &mut tls, &kept);
                });
            }
        });
        Self { port, ca_pem, received, connections }
    }

    pub fn requests(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub fn last(&self) -> Received {
        self.requests().pop().expect("the vendor got a request")
    }
}

fn serve(
    number: usize,
    tls: &mut Out<'_>,
    script: &(impl Fn(&Received, &mut Out<'_>) + ?Sized),
    kept: &Mutex<Vec<Received>>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = read(number, tls, &mut buffer) {
        kept.lock().unwrap().push(request.clone());
        script(&request, tls);
        let _ = tls.flush();
        if tls.sock.take_error().ok().flatten().is_some() {
            return;
        }
    }
}

fn read_head(connection: usize, tls: &mut Out<'_>, buffer: &mut Vec<u8>) -> Option<Received> {
    let end = loop {
        if let Some(at) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            break at;
        }
        more(tls, buffer)?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    Some(Received { connection, head, body: Vec::new() })
}

fn read(connection: usize, tls: &mut Out<'_>, buffer: &mut Vec<u8>) -> Option<Received> {
    let mut request = read_head(connection, tls, buffer)?;
    if let Some(length) = request.header("content-length").and_then(|l| l.parse::<usize>().ok()) {
        while buffer.len() < length {
            more(tls, buffer)?;
        }
        request.body = buffer.drain(..length).collect();
    } else if request.header("transfer-encoding").is_some() {
        loop {
            let at = loop {
                if let Some(at) = memchr::memmem::find(buffer, b"\r\n") {
                    break at;
                }
                more(tls, buffer)?;
            };
            let line: Vec<u8> = buffer.drain(..at + 2).collect();
            let length = usize::from_str_radix(std::str::from_utf8(&line[..at]).ok()?, 16).ok()?;
            while buffer.len() < length + 2 {
                more(tls, buffer)?;
            }
            request.body.extend(buffer.drain(..length));
            buffer.drain(..2);
            if length == 0 {
                break;
            }
        }
    }
    Some(request)
}

/// Reads what comes next; `None` at the end.
pub fn more(tls: &mut Out<'_>, buffer: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 16 * 1024];
    match tls.read(&mut piece) {
        Ok(n) if n > 0 => {
            buffer.extend_from_slice(&piece[..n]);
            Some(())
        }
        _ => None,
    }
}

/// A whole answer with its Content-Length.
pub fn answer(out: &mut Out<'_>, status: u16, headers: &[(&str, &str)], body: &[u8]) {
    let mut text = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    raw(out, text.as_bytes());
    raw(out, body);
}

/// A whole answer to this request: without content if that is HEAD.
pub fn answer_to(request: &Received, out: &mut Out<'_>, body: &[u8]) {
    let content = if request.line().starts_with("HEAD ") { &[][..] } else { body };
    raw(out, format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes());
    raw(out, content);
}

/// Exactly these bytes, now.
pub fn raw(out: &mut Out<'_>, bytes: &[u8]) {
    let _ = out.write_all(bytes);
    let _ = out.flush();
}

/// A certificate for `names` by a CA of its own: the server's configuration and the CA's PEM.
pub fn identity(names: &[&str]) -> (Arc<ServerConfig>, String) {
    identity_demanding(names, None)
}

/// The same, for a server that demands a certificate of the authority in `clients`.
pub fn identity_demanding(names: &[&str], clients: Option<&str>) -> (Arc<ServerConfig>, String) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = builder
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    (Arc::new(config), ca_pem)
}
