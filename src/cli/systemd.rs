//! What systemd is told of this process (`Type=notify-reload`, sd_notify(3)): ready, reloading, stopping, alive.
//!
//! By the socket that systemd names, and not at all where it names none. What must never enter: a value of a
//! setting; whether systemd listens must change nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::Context;

/// Who is told.
pub(super) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As systemd says in the environment.
    pub(super) fn of(context: &Context) -> Self {
        let place = context.variable("NOTIFY_SOCKET").and_then(|place| address(&place));
        let to = place.and_then(|place| Some((UnixDatagram::unbound().ok()?, place)));
        // A watchdog of another process, whose environment was handed down, is none of this one's.
        let own = context.variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let asked = context.variable("WATCHDOG_USEC").filter(|_| own);
        let watchdog = asked.and_then(|micros| micros.parse().ok()).map(Duration::from_micros);
        Self { to, watchdog: watchdog.filter(|period| !period.is_zero()) }
    }

    /// relay serves.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// relay reads its configuration again; `ready` follows, whatever comes of it.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading relay.toml again"));
    }

    /// relay stops.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=no new connections, what is under way may end");
    }

    /// How often it must be told that relay is alive, if it asks: twice in each period.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.to.as_ref().and(self.watchdog).map(|period| period / 2)
    }

    /// relay is alive.
    pub(super) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, state: &str) {
        let Some((socket, place)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), place) {
            tracing::debug!(%error, "systemd could not be told");
        }
    }
}

/// A path, or with `@` a name in the abstract namespace.
fn address(place: &str) -> Option<SocketAddr> {
    match place.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes()).ok(),
        None => SocketAddr::from_pathname(place).ok(),
    }
}
