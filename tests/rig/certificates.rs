//! Certificates for relay's own listeners, and for apps that must show one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// An authority, and the files of one certificate by it.
pub struct Certificates {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Certificates {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &ca_pem).unwrap();
        let made = Self { folder, issuer: Issuer::new(params, key), ca_pem };
        made.renew("localhost");
        made
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Writes `server.pem` and `server.key` for `name`.
    pub fn renew(&self, name: &str) {
        let (chain, key) = self.issue(name, ExtendedKeyUsagePurpose::ServerAuth);
        std::fs::write(self.path("server.key"), key).unwrap();
        std::fs::write(self.path("server.pem"), chain).unwrap();
    }

    /// A certificate for `name`, and its key: PEM.
    pub fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The authority's own certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The lines of `[server.tls]`.
    pub fn section(&self) -> String {
        let shown = |path: &Path| path.display().to_string();
        format!(
            "[server.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
            shown(&self.path("server.pem")),
            shown(&self.path("server.key"))
        )
    }

    /// An app that trusts this authority, offers `alpn`, and shows a certificate of it if it is told to.
    pub fn client(&self, alpn: &[&str], shows: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if shows {
            let (chain, key) = self.issue("app", ExtendedKeyUsagePurpose::ClientAuth);
            let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap()
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
