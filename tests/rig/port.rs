//! Ports that are let go and taken again.
//!
//! What must never enter: port 0 of the system, which draws from where outgoing connections get theirs, so that one
//! of them can have the port by the time it is wanted again.

use std::net::TcpListener;

/// A listener on loopback, below the ports that Linux gives to outgoing connections.
pub fn listener() -> TcpListener {
    loop {
        let port = 16_000 + (uuid::Uuid::new_v4().as_fields().1 % 16_000);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
}
