//! Where relay listens, and the certificate that it shows there.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where relay listens: `127.0.0.1:8480`, `tls:127.0.0.1:8443` or `unix:/run/relay/relay.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Whether it speaks TLS.
        tls: bool,
    },
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl Listen {
    /// TCP without TLS.
    pub const fn plain(address: SocketAddr) -> Self {
        Self::Tcp { address, tls: false }
    }

    /// The TCP address, if it is one.
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { address, .. } => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether it speaks TLS.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, tls: false } => write!(f, "{address}"),
            Self::Tcp { address, tls: true } => write!(f, "tls:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[server.tls]`: read at start, and again when a file changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate and what it was issued by, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authorities of which clients must present a certificate, PEM; `None` asks for none.
    pub client_ca: Option<PathBuf>,
}
