//! The one way a TLS client is configured: verified, TLS 1.2 or 1.3, its HTTP by ALPN, no key log, no early data.
//!
//! Every connection out takes its settings from here, so there is no place where verification could be
//! switched off. What must never enter: a verifier of our own, a key that is logged, data before the
//! handshake is done.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

/// Which authorities are trusted.
#[derive(Debug, Clone, Copy)]
pub enum Roots<'a> {
    /// The public ones that relay is built with.
    BuiltIn,
    /// Only those of this PEM bundle.
    Pem(&'a [u8]),
}

/// A set of trust roots that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// A client's settings with these trust roots. Sessions resumed with it stay in its own memory, so settings
/// that are not shared share no session.
///
/// # Errors
/// [`TlsError`] when the bundle holds no certificate, or one that is not a usable trust root.
pub fn client_config(roots: Roots<'_>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|e| TlsError(format!("the TLS library offers no usable version: {e}")))?;
    let mut config = builder.with_root_certificates(store(roots)?).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The same settings, with HTTP/2 offered beside HTTP/1.1 and preferred (RFC 7301).
pub(super) fn offering_http2(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

fn store(roots: Roots<'_>) -> Result<RootCertStore, TlsError> {
    let Roots::Pem(bundle) = roots else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|e| TlsError(format!("the bundle is not valid PEM: {e}")))?;
        let place = store.len() + 1;
        store.add(certificate).map_err(|e| {
            TlsError(format!("certificate {place} of the bundle is not a usable trust root: {e}"))
        })?;
    }
    if store.is_empty() {
        return Err(TlsError("the bundle holds no certificate".to_owned()));
    }
    Ok(store)
}
