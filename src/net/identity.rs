//! What relay shows a vendor that demands a certificate, and whose connections those are.
//!
//! An identity is used for one handshake and then wiped; its connection stays, marked with a badge, serves
//! the one version of the one secret that it was made with, and ends with it. No TLS session is kept, so none
//! is resumed with another's identity or behind a revocation. What must never enter: a key that outlives its
//! handshake, a name or a path of a request.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use zeroize::Zeroizing;

use crate::model::{Malformed, SecretId};

/// A certificate chain with its private key, for one handshake. The library wipes the key when it is dropped.
pub struct Identity(CertifiedKey);

impl Identity {
    /// Reads both from PEM: the leaf first, then what leads to its authority; the key as PKCS#8, PKCS#1 or SEC1,
    /// unencrypted.
    ///
    /// # Errors
    /// Says what is wrong, without any of it.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Malformed> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|_| Malformed("the certificate is not valid PEM"))?;
        if chain.is_empty() {
            return Err(Malformed("the certificate holds no PEM block CERTIFICATE"));
        }
        let key = private_key(key)?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Self(pair))
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(Malformed("the key is not the certificate's")),
            Err(_) => Err(Malformed("the certificate cannot be read")),
        }
    }

    /// The same settings, showing this identity; whoever holds the second part takes it back.
    pub(super) fn shown_by(self, config: &ClientConfig) -> (ClientConfig, Arc<Once>) {
        let once = Arc::new(Once(Mutex::new(Some(Arc::new(self.0)))));
        let mut config = config.clone();
        config.client_auth_cert_resolver = once.clone();
        config.resumption = Resumption::disabled();
        (config, once)
    }
}

/// The first private key of a PEM text. Decoded here, because the library's reader leaves copies behind.
fn private_key(pem: &[u8]) -> Result<Arc<dyn rustls::sign::SigningKey>, Malformed> {
    let wanted = Malformed("the key holds no PEM block PRIVATE KEY");
    let text = std::str::from_utf8(pem).map_err(|_| wanted)?;
    if text.contains("ENCRYPTED") {
        return Err(Malformed("the key is encrypted: decrypt it first, relay seals it"));
    }
    let labels = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
    let found = labels.iter().find_map(|label| Some((*label, block(text, label)?)));
    let (label, base64) = found.ok_or(wanted)?;
    let mut packed = Zeroizing::new(Vec::with_capacity(base64.len()));
    packed.extend(base64.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; packed.len()]);
    let length = STANDARD
        .decode_slice(packed.as_slice(), &mut der)
        .map_err(|_| Malformed("the key is not valid PEM"))?;
    let der = der.get(..length).unwrap_or_default();
    let der = match label {
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der)),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der)),
        _ => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)),
    };
    any_supported_type(&der).map_err(|_| Malformed("the key is of a kind that relay cannot sign with"))
}

/// What stands between the two lines of a PEM block.
fn block<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let (_, behind) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    Some(behind.split_once(&format!("-----END {label}-----"))?.0)
}

/// Gives the identity to one handshake, and then has none.
pub(super) struct Once(Mutex<Option<Arc<CertifiedKey>>>);

impl Once {
    /// Takes it back, where the vendor did not ask for it.
    pub(super) fn clear(&self) {
        drop(self.taken());
    }

    fn taken(&self) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ResolvesClientCert for Once {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.taken()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

/// Whose identity: one version of one secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Whose {
    /// The secret.
    pub secret: SecretId,
    /// Its version.
    pub version: u32,
}

/// What the connections of one identity to one upstream have in common.
pub(super) struct Badge {
    /// The place where they stand in the pool.
    pub(super) place: u64,
    revoked: Cell<bool>,
}

impl Badge {
    /// Whether the secret has changed since: what carries it serves nobody any more.
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.get()
    }
}

/// One worker's badges.
#[derive(Default)]
pub(super) struct Badges(HashMap<(u64, Whose), Rc<Badge>>);

impl Badges {
    /// The badge of this identity at this upstream, if there is a connection with it.
    pub(super) fn find(&self, upstream: u64, whose: Whose) -> Option<Rc<Badge>> {
        self.0.get(&(upstream, whose)).cloned()
    }

    /// The same, made if need be.
    pub(super) fn of(&mut self, upstream: u64, whose: Whose) -> Rc<Badge> {
        let fresh = || Rc::new(Badge { place: fresh_id(), revoked: Cell::new(false) });
        self.0.entry((upstream, whose)).or_insert_with(fresh).clone()
    }

    /// Revokes the badges of a secret, or all; their places.
    pub(super) fn revoke(&mut self, secret: Option<SecretId>) -> Vec<u64> {
        let mut places = Vec::new();
        self.0.retain(|(_, whose), badge| {
            let stays = secret.is_some_and(|secret| secret != whose.secret);
            if !stays {
                badge.revoked.set(true);
                places.push(badge.place);
            }
            stays
        });
        places
    }

    /// Drops the badges that no connection carries.
    pub(super) fn sweep(&mut self) {
        self.0.retain(|_, badge| Rc::strong_count(badge) > 1);
    }
}

/// A number that no other place in a pool has.
pub(super) fn fresh_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
