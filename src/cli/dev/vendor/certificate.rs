//! The built-in vendor's certificate: a CA and a leaf that live as long as the process.
//!
//! The CA's key is dropped as soon as the leaf is signed, so that nobody can make another certificate
//! that a dev relay trusts. What must never enter: a key from disk, a name but this machine's loopback.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What the vendor serves with, and what must be trusted to reach it.
pub(super) struct Identity {
    /// TLS 1.2 and 1.3, ALPN http/1.1.
    pub(super) tls: Arc<rustls::ServerConfig>,
    /// The CA's certificate, PEM.
    pub(super) ca_pem: String,
}

/// A fresh CA and a leaf for `localhost`, 127.0.0.1 and ::1.
pub(super) fn fresh() -> Result<Identity, Box<dyn std::error::Error + Send + Sync>> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority.distinguished_name.push(DnType::CommonName, "relay dev, made at start");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let mut leaf = CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(str::to_owned))?;
    leaf.distinguished_name.push(DnType::CommonName, "the built-in vendor");
    let pair = KeyPair::generate()?;
    let certificate = leaf.signed_by(&pair, &authority)?;

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity { tls: Arc::new(tls), ca_pem: authority.pem() })
}
