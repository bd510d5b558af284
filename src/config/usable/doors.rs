//! Listeners and host names against each other: every door leads to one place.
//!
//! Two integrations behind one address or one name would make the app's request mean two things. Nothing is
//! bound here.

use super::super::written::{Given, Table, Written};
use super::super::{Listen, Server};
use super::server::{needs_certificate, overlap};

/// What is taken so far.
pub(super) struct Doors {
    listens: Vec<(String, Listen)>,
    hosts: Vec<(String, String)>,
    tls: bool,
}

impl Doors {
    /// Those of `[server]`.
    pub(super) fn of(server: &Server) -> Self {
        let admin = Listen::plain(server.admin_listen);
        let listens = [("[server] listen", server.listen.clone()), ("[server] admin_listen", admin)]
            .map(|(a, b)| (a.to_owned(), b));
        Self { listens: listens.into(), hosts: Vec::new(), tls: server.tls.is_some() }
    }

    /// Takes an integration's own listener, unless another has it or its TLS has no certificate.
    pub(super) fn listen(
        &mut self,
        written: &mut Written<'_>,
        table: &Table<'_>,
        given: Option<Given<Listen>>,
    ) -> Option<Listen> {
        let given = given?;
        needs_certificate(written, &given, self.tls);
        if let Some((other, _)) = self.listens.iter().find(|(_, other)| overlap(&given.value, other)) {
            let message = format!("{} listen is the same address as {other}", table.shown);
            written.findings.error(&given.place, message, "give it a port of its own");
        }
        self.listens.push((format!("{} listen", table.shown), given.value.clone()));
        Some(given.value)
    }

    /// Takes an integration's own host name, unless another has it.
    pub(super) fn host(
        &mut self,
        written: &mut Written<'_>,
        table: &Table<'_>,
        given: Option<Given<String>>,
    ) -> Option<String> {
        let given = given?;
        if let Some((_, other)) = self.hosts.iter().find(|(taken, _)| *taken == given.value) {
            let message = format!("{} host is also that of {other}", table.shown);
            written.findings.error(&given.place, message, "give it a name of its own");
        }
        self.hosts.push((given.value.clone(), table.shown.clone()));
        Some(given.value)
    }
}
