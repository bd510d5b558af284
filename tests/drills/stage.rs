//! `relay run` over a folder of its own, and the built-in vendor, as processes.
//!
//! The folder is made by `relay init --local-issuer`, secrets and tokens by the command line, as a user
//! would. All of it goes when the stage does.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Process, output};
use crate::rig::client::{Answer, Client};
use crate::rig::port;

pub struct Stage {
    pub folder: TempDir,
    pub app: SocketAddr,
    pub admin: SocketAddr,
    /// Every byte that clients and operators got.
    pub shown: Arc<Mutex<Vec<u8>>>,
    binary: PathBuf,
    relay: Option<Process>,
    /// What `relay run` is started by: `taskset -c 0`, or nothing.
    pub through: Vec<String>,
    pub log_level: String,
    /// Variables that relay is started with, beside its own.
    pub environment: Vec<(String, String)>,
    /// Words behind `relay run`, for its first start.
    pub first_words: Vec<String>,
}

impl Stage {
    /// A folder for `binary` with these integrations; [`Stage::start`] starts it. `server` holds lines for
    /// `[server]`.
    pub fn set(binary: &Path, server: &str, integrations: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("relay-drill").tempdir().unwrap();
        let [app, admin] = free_ports();
        let mut init = Command::new(binary);
        let made = output(init.args(["init", "--local-issuer", "--dir"]).arg(folder.path()));
        assert!(made.status.success(), "relay init: {}", String::from_utf8_lossy(&made.stderr));
        let file = folder.path().join("relay.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let (kept, _) = text.split_once("[integrations.").expect("an example integration");
        let kept = kept
            .replace("127.0.0.1:8480", &app.to_string())
            .replace("127.0.0.1:8481", &admin.to_string())
            .replace("[server]\n", &format!("[server]\n{server}\n"));
        assert!(kept.contains(&app.to_string()), "relay init writes another address by now");
        std::fs::write(&file, format!("{kept}\n{integrations}")).unwrap();
        Self {
            folder,
            app,
            admin,
            shown: Arc::default(),
            binary: binary.to_owned(),
            relay: None,
            through: Vec::new(),
            log_level: "warn".to_owned(),
            environment: Vec::new(),
            first_words: Vec::new(),
        }
    }

    /// Starts `relay run` and waits until it is ready.
    pub fn start(&mut self) {
        self.launch_until(Self::is_ready);
    }

    /// Starts `relay run` and waits until it answers operators, ready or not.
    pub fn launch(&mut self) {
        self.launch_until(|stage| stage.readiness().is_some());
    }

    fn launch_until(&mut self, there: impl Fn(&Self) -> bool) {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let binary = self.binary.display().to_string();
        let words: Vec<String> = self.through.iter().cloned().chain([binary]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["run", "--config"]).arg(self.config());
        command.args(std::mem::take(&mut self.first_words));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("RELAY_LOG", &self.log_level).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut relay = Process::start(&mut command);
        let begun = Instant::now();
        while !there(self) {
            let said = || std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(!relay.has_ended(), "relay does not start: {}", said());
            assert!(begun.elapsed() < Duration::from_secs(30), "relay is not ready: {}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.relay = Some(relay);
    }

    /// Puts these lines into `[keys]` in the place of what stands there. The relay of a stage that runs is
    /// none the wiser.
    pub fn keep_keys_by(&self, lines: &str) {
        self.put_section("keys", lines);
    }

    /// The same for `[store]`.
    pub fn keep_in(&self, lines: &str) {
        self.put_section("store", lines);
    }

    fn put_section(&self, name: &str, lines: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let head = format!("[{name}]\n");
        let (before, section) = text.split_once(&head).expect("a section of that name");
        let (_, after) = section.split_once("\n[").expect("a section behind it");
        std::fs::write(self.config(), format!("{before}{head}{lines}\n[{after}")).unwrap();
    }

    /// Takes over another stage's keys, issuer and admin token: a second relay for the same callers, operators and
    /// store, called `name`.
    pub fn beside(&mut self, other: &Self, name: &str) {
        for file in ["relay.key", "issuer.key", "jwks.json", "admin.token"] {
            std::fs::copy(other.folder.path().join(file), self.folder.path().join(file)).unwrap();
        }
        self.environment.push(("RELAY__AUDIT__REPLICA".to_owned(), name.to_owned()));
    }

    /// Puts another text into relay.toml in the place of one that stands there once.
    pub fn rewrite(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        assert_eq!(text.matches(from).count(), 1, "relay init writes no {from} by now");
        std::fs::write(self.config(), text.replace(from, to)).unwrap();
    }

    pub fn relay(&self) -> &Process {
        self.relay.as_ref().expect("relay runs")
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        self.relay.take().expect("relay runs").stop();
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.relay.as_mut().expect("relay runs").has_ended()
    }

    /// kill -9
    pub fn kill(&mut self) {
        self.relay.take().expect("relay runs").kill();
    }

    /// The `relay` that is driven.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("relay.toml")
    }

    /// What relay says on stderr.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("relay.log")
    }

    pub fn audit(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    pub fn admin_token(&self) -> String {
        let token = std::fs::read_to_string(self.folder.path().join("admin.token")).unwrap();
        token.trim_end().to_owned()
    }

    /// A client whose bytes are kept.
    pub fn client(&self) -> Client {
        Client::connect(self.app, self.shown.clone())
    }

    /// One call to the admin API.
    pub fn call(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let mut client = Client::connect(self.admin, self.shown.clone());
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        client.request(method, path, &headers, body.as_bytes())
    }

    /// `relay WORDS... --config relay.toml`, to be started.
    pub fn prepared(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--config").arg(self.config());
        command
    }

    /// `relay WORDS... --config relay.toml`, with `input` on stdin.
    pub fn command(&self, words: &[&str], input: &str) -> Output {
        let mut command = self.prepared(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Process::start(&mut command);
        // A relay that is gone lets the command end without reading.
        let _ = child.0.stdin.take().unwrap().write_all(input.as_bytes());
        let (mut out, mut err) = (child.0.stdout.take().unwrap(), child.0.stderr.take().unwrap());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        std::io::copy(&mut out, &mut stdout).unwrap();
        std::io::copy(&mut err, &mut stderr).unwrap();
        let mut shown = self.shown.lock().unwrap();
        shown.extend_from_slice(&stdout);
        shown.extend_from_slice(&stderr);
        Output { status: child.0.wait().unwrap(), stdout, stderr }
    }

    /// Seals a credential by `relay secret add`; its UUID.
    pub fn secret(&self, customer: &str, integration: &str, credential: &str) -> String {
        let words = ["secret", "add", "--customer", customer, "--integration", integration];
        self.said(&words, credential)
    }

    /// A token for `customer` that lives an hour.
    pub fn token(&self, customer: &str) -> String {
        self.said(&["token", "mint", "--customer", customer], "")
    }

    fn said(&self, words: &[&str], input: &str) -> String {
        let done = self.command(words, input);
        assert!(done.status.success(), "relay {words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
    }

    fn is_ready(&self) -> bool {
        self.readiness() == Some(200)
    }

    /// What `/readyz` says, once somebody does.
    fn readiness(&self) -> Option<u16> {
        if std::net::TcpStream::connect(self.admin).is_err() {
            return None;
        }
        let mut client = Client::connect(self.admin, Arc::default());
        Some(client.request("GET", "/readyz", &[], b"").status).filter(|status| *status != 0)
    }
}

/// An integration named `name` that injects a bearer token and trusts `ca`.
pub fn integration(name: &str, upstream: &str, ca: &Path) -> String {
    format!(
        "[integrations.{name}]\nupstream = \"{upstream}\"\nca_file = \"{}\"\n\
         private_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\n\
         inject = [{{ header = \"authorization\", value = \"Bearer {{token}}\" }}]\n\n",
        ca.display()
    )
}

/// The built-in vendor as a process of its own.
pub struct BuiltIn {
    pub origin: String,
    pub ca: PathBuf,
    _process: Process,
    _folder: TempDir,
}

impl BuiltIn {
    pub fn start(binary: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("relay-drill-vendor").tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let mut command = Command::new(binary);
        command.args(["dev", "--vendor-only", "--listen", "127.0.0.1:0", "--ca-out"]).arg(&ca);
        let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let mut origin = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut origin).unwrap();
        let origin = origin.trim_end().to_owned();
        assert!(origin.starts_with("https://"), "the built-in vendor does not start");
        Self { origin, ca, _process: process, _folder: folder }
    }
}

/// Ports that nobody listens on now.
pub fn free_ports<const N: usize>() -> [SocketAddr; N] {
    // All are held before any is let go, so that they differ.
    let held = [(); N].map(|()| port::listener());
    held.map(|listener| listener.local_addr().unwrap())
}
