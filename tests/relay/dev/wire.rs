//! A raw client over TLS, and a writer that can be watched.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A TLS connection that trusts the vendor's CA alone.
pub(super) async fn dial(addr: SocketAddr, ca_pem: &str) -> Box<dyn Wire> {
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

pub(super) struct Answer {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// Whether TLS was closed as it should be.
    pub(super) clean: bool,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The body with its chunks put together.
    pub(super) fn unchunked(&self) -> String {
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
pub(super) async fn ask(addr: SocketAddr, ca_pem: &str, line: &str, fields: &str, body: &[u8]) -> Answer {
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

/// A writer that can be read while it is written.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub(super) async fn wait_for(&self, word: &str) -> String {
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

pub(super) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
