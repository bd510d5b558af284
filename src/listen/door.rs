//! One listener: bound, accepting, handing over.
//!
//! What must never enter: what is said on a connection.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::stream::Raw;
use super::tls::Tls;
use super::{Accepted, Draining, Phase, Queues};
use crate::metrics::Metrics;
use crate::pipeline::Entrance;

/// How long a closing door takes in what waits before it.
const LAST_ACCEPTS: Duration = Duration::from_millis(50);

/// Where a door is.
#[derive(Debug, Clone)]
pub enum Place {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// A bound listener, and what it says about its connections.
pub struct Door {
    listener: Listener,
    tls: Option<Arc<Tls>>,
    entrance: Arc<Entrance>,
    /// A Unix socket's file.
    file: Option<SocketFile>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Removed with its door.
struct SocketFile(PathBuf);

impl Door {
    /// Binds `place`. With `tls` its connections speak TLS. Whoever may open a Unix socket is a matter of its
    /// folder: the socket itself is open to owner and group.
    ///
    /// # Errors
    /// What the kernel says, in words that name the place.
    pub async fn bind(place: &Place, tls: Option<Arc<Tls>>, entrance: Entrance) -> io::Result<Self> {
        let (listener, file) = match place {
            Place::Tcp(address) => (Listener::Tcp(bind(*address).await?), None),
            Place::Unix(path) => (Listener::Unix(bind_unix(path)?), Some(SocketFile(path.clone()))),
        };
        Ok(Self { listener, tls, entrance: Arc::new(entrance), file })
    }

    /// Where it is bound: with the port that the kernel chose, if it was 0.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn place(&self) -> io::Result<Place> {
        match (&self.listener, &self.file) {
            (_, Some(SocketFile(path))) => Ok(Place::Unix(path.clone())),
            (Listener::Tcp(listener), None) => listener.local_addr().map(Place::Tcp),
            (Listener::Unix(_), None) => Err(io::Error::other("a Unix socket without a path")),
        }
    }

    /// Accepts until relay parts, as long as there are `places`, and hands out in turn. What waits in the kernel's
    /// queue then is served, too: closing would reset it.
    pub async fn accept(
        self,
        queues: Arc<Queues>,
        places: Arc<Semaphore>,
        metrics: Arc<Metrics>,
        draining: Arc<Draining>,
    ) {
        let hand_out = |raw, tls, place| {
            metrics.connections().inc();
            queues.hand_out(Accepted { raw, tls, entrance: self.entrance.clone(), _place: place })
        };
        loop {
            // The place is taken first: at the limit new connections wait in the kernel's queue.
            let place = tokio::select! {
                place = places.clone().acquire_owned() => place,
                () = draining.reaches(Phase::Parting) => break,
            };
            let Ok(place) = place else { return };
            let accepted = tokio::select! {
                accepted = self.next() => accepted,
                () = draining.reaches(Phase::Parting) => break,
            };
            let raw = match accepted {
                Ok(raw) => raw,
                Err(error) => {
                    // Out of descriptors or a client that went away: the next may do better.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            if !hand_out(raw, self.current_tls(), Some(place)) {
                return;
            }
        }
        let tls = self.current_tls();
        // From here on a Unix socket is not found any more, so that nobody comes between the last and the end.
        drop(self.file);
        let until = Instant::now() + LAST_ACCEPTS;
        let waiting = self.listener.into_waiting();
        while let Some(raw) = waiting.as_ref().ok().and_then(Waiting::next) {
            if !hand_out(raw, tls.clone(), places.clone().try_acquire_owned().ok()) || Instant::now() >= until
            {
                return;
            }
        }
    }

    fn current_tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.as_ref().map(|tls| tls.current())
    }

    async fn next(&self) -> io::Result<Raw> {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                stream.into_std().map(Raw::Tcp)
            }
            Listener::Unix(listener) => listener.accept().await?.0.into_std().map(Raw::Unix),
        }
    }
}

impl Listener {
    /// Without the runtime, whose own view of what waits may be older than the kernel's.
    fn into_waiting(self) -> io::Result<Waiting> {
        Ok(match self {
            Self::Tcp(listener) => Waiting::Tcp(listener.into_std()?),
            Self::Unix(listener) => Waiting::Unix(listener.into_std()?),
        })
    }
}

/// What waits in the kernel's queue of a listener.
enum Waiting {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Waiting {
    /// The next one, if there is one.
    fn next(&self) -> Option<Raw> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().ok()?;
                let _ = stream.set_nodelay(true);
                stream.set_nonblocking(true).ok()?;
                Some(Raw::Tcp(stream))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().ok()?;
                stream.set_nonblocking(true).ok()?;
                Some(Raw::Unix(stream))
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds a TCP address, with the address in the error.
///
/// # Errors
/// What the kernel says, in words that name the address.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::AddrInUse => "another process listens there: stop it or change the address",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a right that this user does not have",
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => "see the error",
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error} ({mend})"))
    })
}

/// A socket that nobody listens on any more, left by a relay that was killed, makes room.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
    };
    let socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).map_err(named)?;
    }
    let listener = UnixListener::bind(path).map_err(named)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o660)).map_err(named)?;
    Ok(listener)
}
