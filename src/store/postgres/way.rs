//! The way to PostgreSQL: where it may be, as whom, over which TLS; and sessions opened there.
//!
//! Each host of the URL is tried by itself with its own time limit, so that one that hangs hides no other, and
//! only one that takes writes is used. TLS is verified whatever the URL says. What must never enter: a query
//! for a record.

use std::collections::HashMap;
use std::future::poll_fn;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, SimpleQueryMessage, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::fault::{Fault, words};
use super::{OpenError, Setup};
use crate::net::tls::{self, Roots};
use crate::secret::Secret;

/// How long one host may take to open a session.
const PLACE_WITHIN: Duration = Duration::from_secs(1);
/// After this long without an answer to what was sent, a connection is given up by the kernel.
const SILENT_FOR: Duration = Duration::from_secs(5);
/// What the URL may say beside hosts, user, password and database.
const PARAMETERS: [&str; 5] =
    ["application_name", "channel_binding", "options", "sslmode", "target_session_attrs"];
/// Each session's own limits, so that nothing of it outlives the caller for long. The way in which it commits is
/// held fast at what it is: a reload of the server's configuration would change it under acknowledged writes.
const SETTINGS: &str = "SET statement_timeout = '1500ms'; SET lock_timeout = '1500ms'; \
    SET idle_in_transaction_session_timeout = '5s'; SET client_min_messages = 'warning'; \
    SET search_path = pg_catalog; SET default_transaction_isolation = 'read committed'; \
    SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), false), \
    current_setting('fsync', true)";

/// Where PostgreSQL may be.
pub(super) struct Way {
    places: Vec<Place>,
    tls: MakeRustlsConnect,
    /// The place that is tried first: where it was last.
    first: AtomicUsize,
}

struct Place {
    shown: String,
    config: Config,
}

/// One session.
pub(super) struct Session {
    /// The driver's handle.
    pub(super) client: Client,
    statements: HashMap<&'static str, Statement>,
    doubts: Arc<AtomicU64>,
    carried: AbortHandle,
}

/// Who hears what PostgreSQL says unasked.
pub(super) type Hearer = Box<dyn FnMut(AsyncMessage) + Send>;

impl Way {
    pub(super) fn of(setup: &Setup<'_>) -> Result<Self, OpenError> {
        let roots = setup.roots.map_or(Roots::BuiltIn, Roots::Pem);
        let tls = tls::client_config(roots).map_err(|error| OpenError::Tls(error.to_string()))?;
        let mut tls = Arc::unwrap_or_clone(tls);
        // PostgreSQL 17 and later refuse a client that offers other protocols.
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
        let places = places(setup)?;
        Ok(Self { places, tls: MakeRustlsConnect::new(tls), first: AtomicUsize::new(0) })
    }

    /// A session at the first place that gives one.
    pub(super) async fn open(&self) -> Result<Session, Fault> {
        let doubts = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&doubts);
        let hearer = move |message| {
            // During a COMMIT a warning says that it is not as durable as was asked for: the wait for the
            // standby was cancelled.
            if let AsyncMessage::Notice(notice) = message
                && notice.parsed_severity() == Some(Severity::Warning)
            {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        };
        self.open_with(Box::new(hearer), doubts).await
    }

    /// The same, with somebody who hears.
    pub(super) async fn open_heard(&self, hearer: Hearer) -> Result<Session, Fault> {
        self.open_with(hearer, Arc::default()).await
    }

    async fn open_with(&self, hearer: Hearer, doubts: Arc<AtomicU64>) -> Result<Session, Fault> {
        let (client, connection) = self.connect().await?;
        let session =
            Session { client, statements: HashMap::new(), doubts, carried: carry(connection, hearer) };
        match session.settle().await {
            Ok(()) => Ok(session),
            Err(fault) => {
                session.cut();
                Err(fault)
            }
        }
    }

    async fn connect(&self) -> Result<(Client, Carried), Fault> {
        let from = self.first.load(Ordering::Relaxed);
        let mut last = Fault::Late("no host is configured");
        for turn in 0..self.places.len() {
            let at = (from + turn) % self.places.len();
            let Some(place) = self.places.get(at) else { continue };
            // Before it is tried: whoever is cut off in the middle begins elsewhere the next time.
            self.first.store((at + 1) % self.places.len(), Ordering::Relaxed);
            match timeout(PLACE_WITHIN, place.config.connect(self.tls.clone())).await {
                Ok(Ok((client, connection))) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok((client, connection));
                }
                Ok(Err(error)) => last = Fault::Place { shown: place.shown.clone(), why: words(&error) },
                Err(_) => {
                    let why = "no answer within a second".to_owned();
                    last = Fault::Place { shown: place.shown.clone(), why };
                }
            }
        }
        Err(last)
    }
}

type Carried = Connection<Socket, <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream>;

/// Carries the session's bytes until the client is dropped or the connection ends.
fn carry(mut connection: Carried, mut hearer: Hearer) -> AbortHandle {
    let carrying = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            hearer(message);
        }
    });
    carrying.abort_handle()
}

impl Session {
    /// `sql`, prepared once.
    pub(super) async fn statement(&mut self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(prepared) = self.statements.get(sql) {
            return Ok(prepared.clone());
        }
        let prepared = self.client.prepare(sql).await?;
        self.statements.insert(sql, prepared.clone());
        Ok(prepared)
    }

    /// How often it was warned.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::SeqCst)
    }

    /// Closes it whatever is under way. What was begun is not undone by relay but by PostgreSQL, which sees it go.
    pub(super) fn cut(self) {
        self.carried.abort();
    }

    async fn settle(&self) -> Result<(), Fault> {
        let answers = timeout(PLACE_WITHIN, self.client.simple_query(SETTINGS)).await;
        let answers = answers.map_err(|_| Fault::Late("a session was not settled within a second"))??;
        let told = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some((row.get(0), row.get(1))),
            _ => None,
        });
        let Some((Some(commits), fsync)) = told else {
            return Err(Fault::Careless("how PostgreSQL commits cannot be read".to_owned()));
        };
        if fsync == Some("off") {
            let why = "PostgreSQL runs with fsync = off and would lose acknowledged writes in a power cut: set it to on";
            return Err(Fault::Careless(why.to_owned()));
        }
        if !matches!(commits, "on" | "remote_apply") {
            let why = format!(
                "PostgreSQL's synchronous_commit is {commits} and would lose acknowledged writes: set it to on for relay's role"
            );
            return Err(Fault::Careless(why));
        }
        Ok(())
    }
}

/// What is wrong with a URL. None of its words is quoted: any may be a piece of the password.
fn wrong(why: &'static str) -> OpenError {
    OpenError::Url(why)
}

fn places(setup: &Setup<'_>) -> Result<Vec<Place>, OpenError> {
    let form = "it must be postgres://USER@HOST:5432/DATABASE, several hosts as HOST:5432,HOST:5432";
    let url = std::str::from_utf8(setup.url.expose()).map_err(|_| wrong(form))?.trim();
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong(form));
    }
    let url = without_sslmode(url, setup.plaintext_danger)?;
    let read = Config::from_str(&url).map_err(|_| wrong(form))?;
    let asked = read.get_target_session_attrs();
    if !matches!(asked, TargetSessionAttrs::Any | TargetSessionAttrs::ReadWrite) {
        return Err(wrong("relay writes: target_session_attrs can only be read-write"));
    }
    let (hosts, ports) = (read.get_hosts(), read.get_ports());
    if hosts.is_empty() || !(ports.len() <= 1 || ports.len() == hosts.len()) {
        return Err(wrong(form));
    }
    let place = |(at, host): (usize, &Host)| {
        let port = ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432);
        place(&read, setup, host, port)
    };
    hosts.iter().enumerate().map(place).collect()
}

fn place(read: &Config, setup: &Setup<'_>, host: &Host, port: u16) -> Result<Place, OpenError> {
    let mut config = Config::new();
    let shown = match host {
        Host::Tcp(name) => {
            config.host(name);
            // Verified like every TLS of relay's, which no setting turns off.
            config.ssl_mode(if setup.plaintext_danger { SslMode::Disable } else { SslMode::Require });
            format!("{name}:{port}")
        }
        Host::Unix(folder) => {
            config.host_path(folder).ssl_mode(SslMode::Disable);
            format!("{}:{port}", folder.display())
        }
    };
    config.port(port).target_session_attrs(TargetSessionAttrs::ReadWrite);
    config.user(read.get_user().ok_or_else(|| wrong("it names no user"))?);
    config.dbname(read.get_dbname().ok_or_else(|| wrong("it names no database"))?);
    if let Some(password) = setup.password.map(Secret::expose).or(read.get_password()) {
        config.password(password);
    }
    if let Some(options) = read.get_options() {
        config.options(options);
    }
    config.application_name(read.get_application_name().unwrap_or("relay"));
    config.channel_binding(read.get_channel_binding());
    config.connect_timeout(PLACE_WITHIN).tcp_user_timeout(SILENT_FOR);
    config.keepalives_idle(SILENT_FOR).keepalives_interval(Duration::from_secs(1)).keepalives_retries(3);
    Ok(Place { shown, config })
}

/// The URL without what libpq calls sslmode: relay always verifies, and the driver knows fewer words for it.
fn without_sslmode(url: &str, plaintext_danger: bool) -> Result<String, OpenError> {
    let Some((rest, query)) = url.split_once('?') else { return Ok(url.to_owned()) };
    let mut kept = Vec::new();
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (name, value) {
            ("sslmode", "disable" | "allow") if !plaintext_danger => {
                return Err(wrong("its sslmode asks for no TLS: that is [store] plaintext_danger = true"));
            }
            ("sslmode", _) => {}
            _ if PARAMETERS.contains(&name) => kept.push(parameter),
            _ => {
                let why = "of parameters relay takes application_name, channel_binding, options, sslmode and target_session_attrs alone; escape a ? in the password as %3F";
                return Err(wrong(why));
            }
        }
    }
    Ok(if kept.is_empty() { rest.to_owned() } else { format!("{rest}?{}", kept.join("&")) })
}
