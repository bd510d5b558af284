//! A real PostgreSQL: one server for a test binary, or one of a test's own to kill; a database for each test.
//!
//! Found where Debian puts it, or on the PATH. It listens on a Unix socket, where everyone is trusted, and on
//! 127.0.0.1, where TLS and passwords are wanted. A shell that holds the server ends it when this process ends,
//! however that comes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use relay::secret::Secret;
use relay::store::postgres::{Setup, migrate};
use tempfile::TempDir;

use super::certificates::Certificates;

/// The role that owns the schema, and the one that serves.
pub const OWNER: &str = "relay_owner";
pub const SERVING: &str = "relay_serving";
/// Their password on 127.0.0.1.
pub const PASSWORD: &str = "rig-password-of-postgres";

/// How everyone else's settings are told in `postgresql.conf`'s way.
const SETTINGS: &str = "max_connections = 400\nshared_buffers = 64MB\nssl = on\nlogging_collector = off\n";

/// A running PostgreSQL.
pub struct Server {
    folder: TempDir,
    port: u16,
    certificates: Certificates,
    holder: Option<Child>,
}

/// One database in it, with the newest schema.
pub struct Database {
    pub name: String,
    folder: PathBuf,
    port: u16,
}

/// The server that all tests of this process share; `None`, said loudly, where PostgreSQL is not installed and may
/// be missing.
pub fn shared() -> Option<&'static Server> {
    static SHARED: OnceLock<Option<Server>> = OnceLock::new();
    SHARED
        .get_or_init(|| {
            if bin().is_none() {
                let needed = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
                assert!(
                    !needed("CI") && !needed("RELAY_TEST_POSTGRES"),
                    "PostgreSQL is not installed: tests/run installs it, or apt-get install postgresql"
                );
                println!("!! NOT RUN over postgres: PostgreSQL is not installed (tests/run installs it)");
                return None;
            }
            Some(Server::start())
        })
        .as_ref()
}

/// Where its programs are.
pub fn bin() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.pop().or_else(|| std::env::split_paths(&path).find(|folder| folder.join("initdb").exists()))
}

/// One of its programs. PostgreSQL refuses to run as root, so root runs it as the user postgres.
pub fn program(name: &str) -> Command {
    let path = bin().expect("PostgreSQL is installed").join(name);
    if !rustix::process::getuid().is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
    command.current_dir("/");
    command
}

impl Server {
    /// One of this test's own.
    pub fn start() -> Self {
        Self::with("")
    }

    /// The same, with further lines of `postgresql.conf`.
    pub fn with(settings: &str) -> Self {
        Self::made(Self::in_folder(), settings)
    }

    /// The same on a disk, for figures: what it commits and what it reads has to wait for one.
    pub fn on_disk(settings: &str) -> Self {
        // Not the temporary folder: that of a drill lets nobody in but its owner, who may not be PostgreSQL's user.
        let folder = tempfile::Builder::new().prefix("relay-pg").tempdir_in("/var/tmp").unwrap();
        Self::made(Self::within(folder), settings)
    }

    fn made(mut server: Self, settings: &str) -> Self {
        let data = server.data();
        done(
            program("initdb")
                .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "-N", "-D"])
                .arg(&data),
        );
        server.configure(settings);
        server.run();
        server.sql("postgres", &format!("CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE {SERVING} LOGIN PASSWORD '{PASSWORD}'"));
        server.sql("postgres", &format!("CREATE DATABASE migrated OWNER {OWNER}"));
        let template = server.named("migrated");
        template.migrate();
        server
    }

    /// A folder for one, without anything in it yet.
    pub fn in_folder() -> Self {
        // In memory if there is room: a kill of PostgreSQL loses nothing of it, and this is no test of disks.
        let shm = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("relay-pg");
        Self::within(builder.tempdir_in(shm).or_else(|_| builder.tempdir()).unwrap())
    }

    fn within(folder: TempDir) -> Self {
        let certificates = Certificates::new();
        let port = super::port::listener().local_addr().unwrap().port();
        let server = Self { folder, port, certificates, holder: None };
        for file in ["server.pem", "server.key"] {
            std::fs::copy(server.certificates.path(file), server.folder.path().join(file)).unwrap();
        }
        let key = server.folder.path().join("server.key");
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        if rustix::process::getuid().is_root() {
            done(Command::new("chown").args(["-R", "postgres:postgres"]).arg(server.folder.path()));
        }
        server
    }

    /// Writes its configuration.
    pub fn configure(&self, settings: &str) {
        let folder = self.folder.path().display();
        let conf = format!(
            "{SETTINGS}listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{folder}'\n\
             ssl_cert_file = '{folder}/server.pem'\nssl_key_file = '{folder}/server.key'\n{settings}\n",
            self.port
        );
        std::fs::write(self.data().join("relay.conf"), conf).unwrap();
        let hba =
            "local all all trust\nlocal replication all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(self.data().join("pg_hba.conf"), hba).unwrap();
        let conf = self.data().join("postgresql.conf");
        let before = std::fs::read_to_string(&conf).unwrap();
        if !before.contains("include 'relay.conf'") {
            std::fs::write(&conf, format!("{before}\ninclude 'relay.conf'\n")).unwrap();
        }
    }

    /// Runs it, and waits until it answers.
    pub fn run(&mut self) {
        let _ = std::fs::remove_dir(self.folder.path().join("keep"));
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut shown = program("postgres");
        shown.arg("-D").arg(self.data());
        // The pipe ends with this process: then the server ends too, and nothing of it stays.
        let script = r#"folder=$1; shift; "$@" & server=$!; cat > /dev/null; kill -QUIT $server 2> /dev/null
            wait $server; [ -d "$folder/keep" ] || rm -rf "$folder""#;
        let holder = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(self.folder.path())
            .arg(shown.get_program())
            .args(shown.get_args())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.holder = Some(holder);
        let begun = Instant::now();
        while !self.answers() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL does not start: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The folder of its Unix socket.
    pub fn socket(&self) -> &Path {
        self.folder.path()
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The authority of its certificate, for `localhost`.
    pub fn ca_pem(&self) -> &str {
        self.certificates.ca_pem()
    }

    /// Whether it takes connections.
    pub fn answers(&self) -> bool {
        let mut ready = program("pg_isready");
        ready.arg("-q").arg("-h").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
        ready.status().unwrap().success()
    }

    /// The process that all of its others are children of.
    pub fn pid(&self) -> Option<rustix::process::Pid> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        rustix::process::Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
    }

    /// kill -9, of all its processes as they see it gone; its files stay.
    pub fn kill(&mut self) {
        std::fs::create_dir_all(self.folder.path().join("keep")).unwrap();
        let pid = self.pid().expect("it runs");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        self.let_go();
        // Its children end by themselves; until then they hold its memory.
        std::thread::sleep(Duration::from_millis(100));
    }

    /// In an orderly way, with `mode` smart, fast or immediate; its files stay.
    pub fn stop(&mut self, mode: &str) {
        std::fs::create_dir_all(self.folder.path().join("keep")).unwrap();
        done(program("pg_ctl").args(["stop", "-w", "-m", mode, "-D"]).arg(self.data()));
        self.let_go();
    }

    fn let_go(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            drop(holder.stdin.take());
            holder.wait().unwrap();
        }
    }

    /// A standby of this one that runs.
    pub fn standby(&self) -> Self {
        let mut standby = Self::in_folder();
        standby.become_standby_of(self);
        standby
    }

    /// Begins anew as a standby of `primary`, whatever it was before. It does not run.
    pub fn become_standby_of(&mut self, primary: &Self) {
        let _ = std::fs::remove_dir_all(self.data());
        let port = primary.port.to_string();
        let mut copy = program("pg_basebackup");
        copy.args(["-U", "postgres", "-p", &port, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-h"]);
        done(copy.arg(primary.folder.path()).arg("-D").arg(self.data()));
        self.configure("");
        self.run();
        let begun = Instant::now();
        while primary.sql("postgres", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
            != "1"
        {
            assert!(begun.elapsed() < Duration::from_secs(30), "the standby does not stream");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        done(program("pg_ctl").args(["promote", "-w", "-D"]).arg(self.data()));
    }

    /// Changes a setting of the running server.
    pub fn set(&self, name: &str, value: &str) {
        self.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// As the superuser; what it answers.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.named(database).sql_as("postgres", sql)
    }

    /// A new database with the newest schema.
    pub fn database(&self) -> Database {
        let name = self.fresh();
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE migrated OWNER {OWNER}"));
        // The rights within it came with the template.
        self.named(&name)
    }

    /// A new database without any schema.
    pub fn empty_database(&self) -> Database {
        let name = self.fresh();
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {OWNER}"));
        self.named(&name)
    }

    /// A database by its name.
    pub fn named(&self, name: &str) -> Database {
        Database { name: name.to_owned(), folder: self.folder.path().to_owned(), port: self.port }
    }

    fn fresh(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("relay{}_{}", std::process::id(), NEXT.fetch_add(1, SeqCst))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(self.folder.path().join("keep"));
        self.let_go();
    }
}

impl Database {
    /// The URL by which relay serves: the Unix socket.
    pub fn url(&self) -> String {
        self.url_as(SERVING)
    }

    pub fn url_as(&self, role: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://{role}@{folder}:{}/{}", self.port, self.name)
    }

    /// The URL over TLS, at `ports` on localhost.
    pub fn tls_url(&self, ports: &[u16]) -> String {
        let hosts: Vec<String> = ports.iter().map(|port| format!("localhost:{port}")).collect();
        format!("postgres://{SERVING}@{}/{}", hosts.join(","), self.name)
    }

    /// The schema, and the serving role's rights.
    pub fn migrate(&self) {
        let url = Secret::new(self.url_as(OWNER).into_bytes());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(migrate(setup(&url), Some(SERVING))).unwrap();
    }

    /// As `role` over the Unix socket; what it answers.
    pub fn sql_as(&self, role: &str, sql: &str) -> String {
        let (done, said, complained) = self.try_sql_as(role, sql);
        assert!(done, "{sql}: {complained}");
        said
    }

    /// Whether it is done, what it answers, what it complains of.
    pub fn try_sql_as(&self, role: &str, sql: &str) -> (bool, String, String) {
        let ended = program("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", role, "-d", &self.name, "-c", sql])
            .arg("-h")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string()])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (ended.status.success(), text(&ended.stdout), text(&ended.stderr))
    }
}

/// How a test reaches it, by the Unix socket.
pub fn setup(url: &Secret) -> Setup<'_> {
    Setup { url, password: None, roots: None, connections: 6, plaintext_danger: false }
}

fn done(command: &mut Command) {
    let ended = command.output().unwrap();
    assert!(
        ended.status.success(),
        "{command:?}: {} {}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}

/// What stands between relay and PostgreSQL: it carries bytes, holds them back, or cuts.
pub struct Between {
    pub port: u16,
    held: Arc<AtomicBool>,
    cut: Arc<AtomicU32>,
    refusing: Arc<AtomicBool>,
}

impl Between {
    /// Before the server's own port.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = Self {
            port: listener.local_addr().unwrap().port(),
            held: Arc::default(),
            cut: Arc::default(),
            refusing: Arc::default(),
        };
        let (held, cut, refusing) = (between.held.clone(), between.cut.clone(), between.refusing.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if refusing.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let born = cut.load(SeqCst);
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (held, cut) = (held.clone(), cut.clone());
                    std::thread::spawn(move || carry(from, to, &held, || cut.load(SeqCst) != born));
                }
            }
        });
        between
    }

    /// From now on nothing arrives, either way, and nobody is told.
    pub fn hold(&self, held: bool) {
        self.held.store(held, SeqCst);
    }

    /// Ends every connection there is.
    pub fn cut(&self) {
        self.cut.fetch_add(1, SeqCst);
    }

    /// Ends whatever is opened from now on at once.
    pub fn refuse(&self, refusing: bool) {
        self.refusing.store(refusing, SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, held: &AtomicBool, is_cut: impl Fn() -> bool) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut piece = [0; 16 << 10];
    while !is_cut() {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(_) => break,
        };
        while held.load(SeqCst) && !is_cut() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_cut() || to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
