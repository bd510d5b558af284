//! Names to addresses: absolute names only, by the system's configuration, off the workers' threads.
//!
//! hickory asks the servers of /etc/resolv.conf after /etc/hosts, and spawns tasks of its own, so every
//! lookup runs on the control runtime. No search list is ever applied: `api.example` must not become
//! `api.example.corp.internal`. What must never enter: a judgement about the answers; that is `vet`'s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::runtime::Handle;

/// More answers than any vendor has; the rest is not looked at, nor dialled.
const MOST_ANSWERS: usize = 32;

/// Turns a host into its addresses.
pub struct Resolver(Source);

type Answers = dyn Fn(&str) -> Vec<IpAddr> + Send + Sync;

enum Source {
    System { handle: Handle, built: Box<OnceLock<TokioResolver>> },
    Scripted(Box<Answers>),
}

/// A host that has no address, in the operator's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} does not resolve: {cause}")]
pub struct Unresolved {
    host: String,
    cause: String,
}

impl Resolver {
    /// A resolver by the system's configuration, which is read at the first use. Lookups run on `handle`.
    pub fn new(handle: Handle) -> Self {
        Self(Source::System { handle, built: Box::default() })
    }

    /// A resolver that asks this one server over UDP and knows no /etc/hosts. For drills.
    ///
    /// # Errors
    /// Says why there can be none.
    pub fn asking(handle: Handle, server: SocketAddr) -> Result<Self, String> {
        let mut connection = ConnectionConfig::udp();
        connection.port = server.port();
        let server = NameServerConfig::new(server.ip(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let built = OnceLock::from(finished(builder).map_err(|error| error.to_string())?);
        Ok(Self(Source::System { handle, built: Box::new(built) }))
    }

    /// A resolver that asks `answers` for every name, each time anew. For tests and `relay dev`.
    pub fn scripted(answers: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Self {
        Self(Source::Scripted(Box::new(answers)))
    }

    /// The addresses of `host`: a name, an IPv4 address or a bracketed IPv6 one. IPv4 comes first.
    ///
    /// # Errors
    /// [`Unresolved`] when there is none, or the system's configuration cannot be read.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unresolved> {
        let unresolved = |cause: String| Unresolved { host: host.to_owned(), cause };
        if let Some(ip) = literal(host) {
            return Ok(vec![ip]);
        }
        // `127.1` and `2130706433` are addresses to some libraries and names to others: neither here.
        if host.rsplit('.').next().is_none_or(|label| label.is_empty() || is_number(label)) {
            return Err(unresolved("it is neither a name nor an address".to_owned()));
        }
        let found = match &self.0 {
            Source::Scripted(answers) => answers(host),
            // RFC 6761 section 6.3: never asked of a server.
            Source::System { .. } if host == "localhost" || host.ends_with(".localhost") => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            Source::System { handle, built } => ask(handle, built, host).await.map_err(unresolved)?,
        };
        if found.is_empty() {
            return Err(unresolved("the answer holds no address".to_owned()));
        }
        Ok(found)
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

fn is_number(label: &str) -> bool {
    label.bytes().all(|b| b.is_ascii_digit()) || label.starts_with("0x")
}

async fn ask(handle: &Handle, built: &OnceLock<TokioResolver>, host: &str) -> Result<Vec<IpAddr>, String> {
    let name = Name::from_ascii(format!("{host}.")).map_err(|e| e.to_string())?;
    let resolver = match built.get() {
        Some(resolver) => resolver.clone(),
        None => {
            let fresh = system()?;
            built.get_or_init(|| fresh).clone()
        }
    };
    let lookup = handle.spawn(async move { resolver.lookup_ip(name).await });
    let answer = lookup.await.map_err(|_| "the lookup was cut off".to_owned())?;
    Ok(answer.map_err(|e| e.to_string())?.iter().take(MOST_ANSWERS).collect())
}

/// A failure is not kept: the next use reads the configuration again.
fn system() -> Result<TokioResolver, String> {
    let unusable =
        |e: &dyn std::fmt::Display| format!("the system's resolver configuration is unusable: {e}");
    let builder = TokioResolver::builder_tokio().map_err(|e| unusable(&e))?;
    finished(builder).map_err(|e| unusable(&e))
}

fn finished(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, NetError> {
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build()
}
