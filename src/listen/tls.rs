//! TLS on the app's side: the certificate, who may present one, and both anew when their files change.
//!
//! A file that is broken while it is replaced keeps the last good certificate. What must never enter: a
//! version under 1.2, early data (RFC 8446 section 8), a key in a log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The files, PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate and what it was issued by.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of which clients must present a certificate; `None` asks for none.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS, in words that name the file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// TLS settings that follow their files.
pub struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read, or that does not hold what it should; a key of another certificate.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(load(&files)?);
        Ok(Self { files, current })
    }

    /// The settings for the next connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes changed files over, for as long as the settings are used elsewhere.
    pub async fn follow(self: Arc<Self>) {
        let mut seen = self.files.changed();
        while Arc::strong_count(&self) > 1 {
            tokio::time::sleep(LOOK).await;
            let now = self.files.changed();
            if now == seen {
                continue;
            }
            match load(&self.files) {
                Ok(fresh) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                    tracing::info!("the certificate of [server.tls] was read again");
                }
                Err(error) => tracing::error!(%error, "the last good certificate stays in use"),
            }
            seen = now;
        }
    }
}

impl TlsFiles {
    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca)
    }

    fn changed(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        self.all().map(stamp).collect()
    }
}

fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| TlsError(format!("{}: no private key in PEM: {error}", files.key.display())))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| TlsError(format!("the TLS library offers no usable version: {error}")))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| {
                    TlsError(format!("{}: not a usable authority: {error}", path.display()))
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = verifier.map_err(|error| TlsError(format!("{}: {error}", path.display())))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        TlsError(format!("{certificate} and {key} do not go together: {error}"))
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let broken = |error: &dyn std::fmt::Display| TlsError(format!("{}: {error}", path.display()));
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| broken(&error))?.collect();
    let found = found.map_err(|error| broken(&error))?;
    if found.is_empty() {
        return Err(broken(&"there is no certificate in PEM"));
    }
    Ok(found)
}
