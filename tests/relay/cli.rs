//! Temp folders, the real binary, a real TLS vendor.

/// The catalogue, and what holds in the end.
mod catalog;
/// `relay doctor`.
mod doctor;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::rig::canary::Canary;
use crate::rig::client::{Answer, Client};
use crate::rig::vendor::{self, Vendor};

/// Keys, customers, integrations and versions.
mod keys;
/// The store as a whole: exported, imported, restored.
mod moving;
/// Signals, and what a supervisor is told.
mod service;
/// The audit on standard output.
mod stdout;

/// A folder made by `relay init --local-issuer`, with an integration at a real vendor.
struct Home {
    folder: TempDir,
    vendor: Vendor,
    canary: Canary,
    app: SocketAddr,
    running: Option<Child>,
    /// Everything any command printed, the running relay's log included.
    shown: Arc<Mutex<Vec<u8>>>,
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The binary, without this process's environment.
fn binary(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.current_dir(folder).env_clear().env("HOME", folder).env("XDG_RUNTIME_DIR", folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(mut command: Command, stdin: Option<&[u8]>) -> Output {
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    if let Some(bytes) = stdin {
        // A command that refuses before it reads has closed the pipe.
        let _ = child.stdin.take().unwrap().write_all(bytes);
    }
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("relay-cli").tempdir().unwrap();
        let vendor = Vendor::start(|request, out| {
            vendor::answer(out, 200, &[], format!("echo {}\n", request.head).as_bytes());
        });
        let canary = Canary::fresh();
        let mut home = Self { folder, vendor, canary, app: free(), running: None, shown: Arc::default() };
        let made = home.relay(&["init", "--local-issuer"], None);
        assert_eq!(made.status.code(), Some(0), "{}", err(&made));
        home.configure();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts free ports and the vendor into the file that init wrote.
    fn configure(&mut self) {
        let text = std::fs::read_to_string(self.path("relay.toml")).unwrap();
        let (general, _) = text.split_once("[integrations.github]").unwrap();
        let general = general.replace("127.0.0.1:8480", &self.app.to_string());
        let general = general.replace("127.0.0.1:8481", &free().to_string());
        std::fs::write(self.path("ca.pem"), &self.vendor.ca_pem).unwrap();
        let integrations = format!(
            "[integrations.github]\nupstream = \"https://localhost:{0}/api\"\nca_file = \"ca.pem\"\nprivate_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\n\
             inject = [{{ header = \"authorization\", value = \"Bearer {{token}}\" }}]\n\n\
             [integrations.pair]\nupstream = \"https://localhost:{0}/pair\"\nca_file = \"ca.pem\"\nprivate_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\n\
             inject = [{{ header = \"authorization\", value = \"basic(user, password)\" }}]\n\
             fields = {{ user = {{ label = \"User\", secret = false }}, password = {{ label = \"Password\", secret = true }} }}\n",
            self.vendor.port
        );
        std::fs::write(self.path("relay.toml"), general + &integrations).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = binary(self.folder.path());
        command.args(args);
        command
    }

    fn relay(&self, args: &[&str], stdin: Option<&[u8]>) -> Output {
        self.keep(finish(self.command(args), stdin))
    }

    fn keep(&self, output: Output) -> Output {
        let mut shown = self.shown.lock().unwrap();
        shown.extend_from_slice(&output.stdout);
        shown.extend_from_slice(&output.stderr);
        drop(shown);
        output
    }

    /// What a command that must succeed said.
    fn ok(&self, args: &[&str], stdin: Option<&[u8]>) -> String {
        let output = self.relay(args, stdin);
        assert_eq!(output.status.code(), Some(0), "relay {args:?}: {}{}", out(&output), err(&output));
        out(&output)
    }

    /// Starts `relay run` with its log at TRACE and waits until it runs.
    fn run(&mut self) {
        self.run_as(&["run"]);
    }

    fn run_as(&mut self, words: &[&str]) {
        let mut command = self.command(words);
        command.env("RELAY_LOG", "trace").stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (said, hears) = std::sync::mpsc::channel();
        let (log, shown) = (child.stderr.take().unwrap(), self.shown.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                shown.lock().unwrap().extend_from_slice(line.as_bytes());
                if line.contains("relay runs") {
                    let _ = said.send(line);
                }
            }
        });
        let line = hears.recv_timeout(Duration::from_secs(20)).expect("relay runs");
        let line: Value = serde_json::from_str(&line).expect("a log line is JSON where nobody watches");
        assert_eq!(line["app"], self.app.to_string(), "the log tells the address");
        self.running = Some(child);
    }

    /// SIGTERM, and the exit code.
    fn terminate(&mut self) -> Option<i32> {
        let mut child = self.running.take().unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        let until = Instant::now() + Duration::from_secs(40);
        while Instant::now() < until {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    }

    fn kill(&mut self) {
        let mut child = self.running.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn add(&self, customer: &str) -> String {
        let value = format!("{}\n", self.canary.text());
        let id = self.ok(
            &["secret", "add", "--customer", customer, "--integration", "github"],
            Some(value.as_bytes()),
        );
        id.trim_end().to_owned()
    }

    fn token(&self, customer: &str) -> String {
        self.ok(&["token", "mint", "--customer", customer], None).trim_end().to_owned()
    }

    fn get(&self, path: &str, token: &str) -> Answer {
        let mut client = Client::connect(self.app, self.shown.clone());
        client.request("GET", path, &[("authorization", &format!("Bearer {token}"))], b"")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            let found =
                self.canary.hunt("what was printed, logged and answered", &self.shown.lock().unwrap());
            assert!(found.is_empty(), "the canary credential was found: {found:#?}");
            for entry in
                std::fs::read_dir(self.folder.path()).unwrap().flatten().filter(|e| e.path().is_file())
            {
                let found = self
                    .canary
                    .hunt(&entry.path().display().to_string(), &std::fs::read(entry.path()).unwrap());
                assert!(found.is_empty(), "{found:#?}");
            }
        }
    }
}

#[test]
fn from_an_empty_folder_to_a_vendors_answer_and_back() {
    let mut home = Home::new();
    assert!(home.ok(&["check"], None).contains("valid"), "what init wrote is valid");
    home.run();
    assert_eq!(home.ok(&["health"], None).lines().filter(|line| line.ends_with(" ok")).count(), 6);
    assert_eq!(home.ok(&["health", "--alive"], None), "");

    let printed = home.ok(
        &["secret", "add", "--customer", "acme", "--integration", "github", "--label", "Acme bot"],
        Some(format!("{}\n", home.canary.text()).as_bytes()),
    );
    let id = printed.trim_end().to_owned();
    assert_eq!((printed.len(), id.len()), (37, 36), "the UUID alone: {printed:?}");
    let token = home.token("acme");
    assert_eq!(token.split('.').count(), 3);
    let path = format!("/github/{id}/user");
    let answer = home.get(&path, &token);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        home.vendor.last().all("authorization"),
        [format!("Bearer {}", home.canary.text())],
        "one newline is dropped"
    );
    assert_eq!(home.vendor.last().target(), "/api/user");
    assert!(!answer.text().contains(home.canary.text()), "the vendor echoed it");
    assert_eq!(home.get(&path, &home.token("globex")).code(), "secret_not_found");

    let list = home.ok(&["secret", "list", "--customer", "acme"], None);
    assert!(list.contains(&id) && list.contains("Acme bot") && list.lines().count() == 1, "{list}");
    let show: Value =
        serde_json::from_str(&home.ok(&["--format", "json", "secret", "show", &id], None)).unwrap();
    assert_eq!(
        (&show["customer"], &show["version"], &show["state"]),
        (&"acme".into(), &1.into(), &"active".into())
    );

    let second = home.canary.text().to_uppercase();
    home.ok(&["secret", "rotate", &id], Some(second.as_bytes()));
    assert_eq!(home.get(&path, &token).status, 200);
    assert_eq!(
        home.vendor.last().all("authorization"),
        [format!("Bearer {second}")],
        "the new value serves at once"
    );
    assert_eq!(home.ok(&["key", "purge"], None), "1 data key left memory\n");
    assert_eq!(home.ok(&["key", "purge"], None), "0 data keys left memory\n");
    home.ok(&["secret", "disable", &id], None);
    assert_eq!(home.get(&path, &token).code(), "secret_disabled");
    home.ok(&["secret", "enable", &id], None);
    assert_eq!(home.get(&path, &token).status, 200);
    home.ok(&["secret", "rm", &id, "--yes"], None);
    assert_eq!(home.get(&path, &token).code(), "secret_not_found");
    assert_eq!(home.relay(&["secret", "show", &id], None).status.code(), Some(5));

    let tail = home.ok(&["--format", "json", "audit", "tail", "-n", "500"], None);
    let records: Vec<Value> = tail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
    assert_eq!((count("intent"), count("outcome"), count("refused")), (3, 3, 3));
    assert!(count("admin") >= 5, "{tail}");
    let verdict: Value =
        serde_json::from_str(&home.ok(&["--format", "json", "audit", "verify"], None)).unwrap();
    assert_eq!((&verdict["good"], &verdict["unfinished"]), (&true.into(), &0.into()), "{verdict}");
    let key = home.ok(&["audit", "key"], None).trim_end().to_owned();

    assert_eq!(home.terminate(), Some(0), "SIGTERM ends it cleanly");
    let text = std::fs::read_to_string(home.path("audit.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["kind"], "anchor", "sealed to the end: {last}");
    assert!(text.contains("\"note\":\"stop\""));
    let verdict = home.ok(&["audit", "verify", "audit.jsonl", "--key", &key], None);
    assert!(verdict.contains("good: ") && verdict.contains("; 0 records behind that"), "{verdict}");
    let altered = text.replacen("\"customer\":\"acme\"", "\"customer\":\"acmf\"", 1);
    std::fs::write(home.path("altered.jsonl"), altered).unwrap();
    assert_eq!(home.relay(&["audit", "verify", "altered.jsonl", "--key", &key], None).status.code(), Some(1));
    assert_eq!(home.relay(&["health"], None).status.code(), Some(4), "nobody answers any more");
    assert_eq!(home.relay(&["health", "--alive"], None).status.code(), Some(4));
}

#[test]
fn an_operator_needs_the_admin_token_alone_and_not_what_relay_itself_needs() {
    let mut home = Home::new();
    home.run();
    let token = std::fs::read(home.path("admin.token")).unwrap();
    for file in ["relay.key", "jwks.json"] {
        std::fs::rename(home.path(file), home.path("elsewhere")).unwrap();
        home.ok(&["secret", "list", "--customer", "acme"], None);
        std::fs::rename(home.path("elsewhere"), home.path(file)).unwrap();
    }
    std::fs::remove_file(home.path("admin.token")).unwrap();
    let refused = home.relay(&["secret", "list", "--customer", "acme"], None);
    assert_eq!(refused.status.code(), Some(3), "{}", err(&refused));
    assert!(err(&refused).contains("[admin] token"), "{}", err(&refused));
    std::fs::write(home.path("admin.token"), token).unwrap();
}

#[test]
fn a_bare_value_is_the_only_fields_whatever_its_name() {
    let mut home = Home::new();
    let text = std::fs::read_to_string(home.path("relay.toml")).unwrap();
    let keyed = text
        .replace("{token}", "{key}")
        .replace("[integrations.github]", "[integrations.github]\nfields = { key = {} }");
    assert_ne!(text, keyed);
    std::fs::write(home.path("relay.toml"), keyed).unwrap();
    home.run();
    let id = home.add("acme");
    let token = home.token("acme");
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
}

#[test]
fn a_value_comes_by_stdin_file_or_variable_and_only_one_newline_goes() {
    let mut home = Home::new();
    home.run();
    let canary = home.canary.text().to_owned();
    let add = ["secret", "add", "--customer", "acme", "--integration", "github"];
    let with = |more: &[&str]| [&add, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{canary}\n")).unwrap();
    let from_file = with(&["--from-file", file.path().to_str().unwrap()]);
    let rows: [(Vec<String>, Option<String>, &str, &str); 7] = [
        (with(&[]), Some(canary.clone()), "", "no newline"),
        (with(&[]), Some(format!("{canary}\n")), "", "one newline"),
        (with(&[]), Some(format!("{canary}\r\n")), "", "a newline of another system"),
        (with(&[]), Some(format!("{{\"token\": \"{canary}\"}}\n")), "", "a JSON object"),
        (
            with(&["--field", "token"]),
            Some(format!("{{\"{canary}\": 1}}")),
            "{}",
            "a value that begins like one",
        ),
        (from_file, None, "", "a file"),
        (with(&["--from-env", "THE_VALUE"]), None, "", "a variable"),
    ];
    let token = home.token("acme");
    for (args, stdin, shape, mistake) in rows {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = home.command(&args);
        command.env("THE_VALUE", &canary);
        let output = home.keep(finish(command, stdin.as_deref().map(str::as_bytes)));
        assert_eq!(output.status.code(), Some(0), "{mistake}: {}", err(&output));
        let id = out(&output);
        assert_eq!(home.get(&format!("/github/{}/x", id.trim_end()), &token).status, 200, "{mistake}");
        let wanted = if shape.is_empty() { canary.clone() } else { format!("{{\"{canary}\": 1}}") };
        assert_eq!(home.vendor.last().all("authorization"), [format!("Bearer {wanted}")], "{mistake}");
    }
    let pair = format!("{{\"user\": \"bot\", \"password\": \"{canary}\"}}");
    let id =
        home.ok(&["secret", "add", "--customer", "acme", "--integration", "pair"], Some(pair.as_bytes()));
    assert_eq!(home.get(&format!("/pair/{}/x", id.trim_end()), &token).status, 200, "several fields");
    let refused = [
        (with(&[]), format!("{canary}\n\n"), 1, "a second newline stays, and is refused"),
        (with(&[]), format!("{{\"token\": [\"{canary}\"]}}"), 2, "JSON that is no object of texts"),
        (with(&[]), String::new(), 1, "nothing"),
        (with(&["--from-env", "NOT_SET"]), String::new(), 2, "a variable that is not set"),
        (with(&["--from-file", "no-such-file"]), String::new(), 2, "a file that is not there"),
        (with(&[&canary]), canary.clone(), 2, "a value in argv"),
        (with(&["--from-env", &canary]), String::new(), 2, "a value for a variable's name"),
        (with(&["--token", "abcdefgh"]), canary.clone(), 2, "a flag for it"),
        (with(&["--value", "abcdefgh"]), canary.clone(), 2, "another"),
    ];
    for (args, stdin, code, mistake) in refused {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = finish(home.command(&args), Some(stdin.as_bytes()));
        assert_eq!(output.status.code(), Some(code), "{mistake}: {}{}", out(&output), err(&output));
        assert!(output.stdout.is_empty(), "{mistake}: stdout is data");
        assert!(!err(&output).contains(&canary), "{mistake}: {}", err(&output));
    }
}

#[test]
fn each_exit_code_says_how_it_ended() {
    let mut home = Home::new();
    home.run();
    let id = home.add("acme");
    std::fs::write(home.path("broken.toml"), "[server]\nlisten = 7\nlissen = \"x\"\n").unwrap();
    let unknown = "00000000-0000-4000-8000-000000000000";
    let admin = std::fs::read_to_string(home.path("admin.token")).unwrap().trim().to_owned();
    let config = std::fs::read_to_string(home.path("relay.toml")).unwrap();
    let address = config.split("admin_listen = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let wrong = "w".repeat(43);
    let (set, nobody) =
        ([("RELAY_ADDR", address.as_str()), ("RELAY_ADMIN_TOKEN", &admin)], free().to_string());
    let rows: [(&[&str], &[(&str, &str)], i32, &str); 22] = [
        (&["secret", "show", &id], &[], 0, "found"),
        (&["secret", "show", &id], &set, 0, "found by variables"),
        (&["--help"], &[], 0, "help"),
        (&["--version"], &[], 0, "the version"),
        (&["check"], &[], 0, "a valid configuration"),
        (&["run"], &[], 1, "the ports are taken"),
        (&["init"], &[], 1, "files that are there"),
        (&["audit", "verify", "no-such-file"], &[], 1, "a file that is not there"),
        (&[], &[], 2, "nothing asked"),
        (&["sekret"], &[], 2, "no such command"),
        (&["secret", "show", "nonsense"], &[], 2, "no UUID"),
        (&["secret", "show", &id], &[("RELAY_ADDR", &address)], 2, "half of what belongs together"),
        (&["secret", "rm", &id], &[], 2, "nobody can be asked"),
        (&["token", "mint", "--customer", ""], &[], 2, "no customer"),
        (&["check", "broken.toml"], &[], 3, "an invalid configuration"),
        (&["run", "--config", "broken.toml"], &[], 3, "an invalid configuration, to run"),
        (
            &["secret", "show", &id, "--config", "broken.toml"],
            &[],
            3,
            "an invalid configuration, to find relay",
        ),
        (&["health"], &[("RELAY_ADDR", &nobody), ("RELAY_ADMIN_TOKEN", &admin)], 4, "nobody listens"),
        (&["secret", "show", unknown], &[], 5, "an unknown UUID"),
        (&["secret", "rotate", unknown, "--from-env", "RELAY_ADDR"], &set, 5, "an unknown UUID, to rotate"),
        (&["secret", "rm", unknown, "--yes"], &[], 5, "an unknown UUID, to delete"),
        (
            &["secret", "show", &id],
            &[("RELAY_ADDR", &address), ("RELAY_ADMIN_TOKEN", &wrong)],
            5,
            "a wrong admin token",
        ),
    ];
    for (args, environment, code, mistake) in rows {
        let mut command = home.command(args);
        command.envs(environment.iter().copied());
        let output = home.keep(finish(command, None));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{mistake}: relay {args:?}: {}{}",
            out(&output),
            err(&output)
        );
        assert_eq!(
            output.stderr.is_empty(),
            code == 0,
            "{mistake}: a failure is told on stderr: {}",
            err(&output)
        );
        assert!(!err(&output).contains(&admin), "{mistake}");
    }
}

#[test]
fn json_is_for_programs_everywhere() {
    let mut home = Home::new();
    home.run();
    let id = home.add("acme");
    let token = home.token("acme");
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
    let rows: [(&[&str], Option<&[u8]>); 11] = [
        (&["check"], None),
        (&["health"], None),
        (&["secret", "list", "--customer", "acme"], None),
        (&["secret", "list", "--customer", "nobody"], None),
        (&["secret", "show", &id], None),
        (&["secret", "disable", &id], None),
        (&["secret", "enable", &id], None),
        (&["secret", "rotate", &id], Some(b"another-value-of-it")),
        (&["key", "purge"], None),
        (&["token", "mint", "--customer", "acme"], None),
        (&["token", "inspect"], Some(token.as_bytes())),
    ];
    for (args, stdin) in rows {
        let printed = home.ok(&[&["--format", "json"], args].concat(), stdin);
        assert!(serde_json::from_str::<Value>(&printed).is_ok(), "relay {args:?}: {printed}");
    }
    let verdict = home.ok(&["--format", "json", "audit", "verify"], None);
    assert!(serde_json::from_str::<Value>(&verdict).is_ok(), "{verdict}");
    let tail = home.ok(&["--format", "json", "audit", "tail"], None);
    assert!(tail.lines().count() > 3 && tail.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    let output = home.relay(&["--format", "json", "check", "no-such.toml"], None);
    assert_eq!(output.status.code(), Some(3));
    assert!(serde_json::from_str::<Value>(&out(&output)).is_ok(), "{}", out(&output));
}

#[test]
fn init_overwrites_nothing_and_leaves_keys_that_nobody_else_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    for name in ["relay.key", "admin.token", "issuer.key"] {
        let mode = std::fs::metadata(home.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    let before: Vec<Vec<u8>> = ["relay.toml", "relay.key", "admin.token", "issuer.key", "jwks.json"]
        .map(|name| std::fs::read(home.path(name)).unwrap())
        .into();
    for args in [&["init"][..], &["init", "--local-issuer"]] {
        let output = home.relay(args, None);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            err(&output).contains("relay.toml") && err(&output).contains("never overwritten"),
            "{}",
            err(&output)
        );
    }
    let after: Vec<Vec<u8>> = ["relay.toml", "relay.key", "admin.token", "issuer.key", "jwks.json"]
        .map(|name| std::fs::read(home.path(name)).unwrap())
        .into();
    assert!(before == after);
}

#[test]
fn a_relay_that_was_killed_serves_what_it_acknowledged() {
    let mut home = Home::new();
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        home.run();
        acknowledged.push(home.add("acme"));
        let token = home.token("acme");
        for id in &acknowledged {
            let answer = home.get(&format!("/github/{id}/x"), &token);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(home.vendor.last().all("authorization"), [format!("Bearer {}", home.canary.text())]);
        }
        let verdict: Value =
            serde_json::from_str(&home.ok(&["--format", "json", "audit", "verify"], None)).unwrap();
        assert_eq!(verdict["good"], true, "{verdict}");
        home.kill();
    }
}

#[test]
fn a_second_relay_a_taken_port_and_a_wrong_key_are_told_with_the_way_out() {
    let mut home = Home::new();
    home.run();
    home.add("acme");
    let toml = std::fs::read_to_string(home.path("relay.toml")).unwrap();
    let taken = home.relay(&["run"], None);
    assert_eq!(taken.status.code(), Some(1));
    assert!(
        err(&taken).contains(&home.app.to_string()) && err(&taken).contains("change the address"),
        "{}",
        err(&taken)
    );
    std::fs::write(
        home.path("second.toml"),
        toml.replace(&home.app.to_string(), "127.0.0.1:0")
            .replace("admin_listen = \"127.0.0.1", "admin_listen = \"127.0.0.2"),
    )
    .unwrap();
    let locked = home.relay(&["run", "--config", "second.toml"], None);
    assert_eq!(locked.status.code(), Some(1), "{}", err(&locked));
    assert!(err(&locked).contains("[store] path"), "{}", err(&locked));
    assert_eq!(home.terminate(), Some(0));
    std::fs::remove_file(home.path("relay.key")).unwrap();
    let missing = home.relay(&["run"], None);
    assert!(matches!(missing.status.code(), Some(1 | 3)), "{}", err(&missing));
    assert!(err(&missing).contains("relay.key"), "{}", err(&missing));
    relay::kms::local::Local::create(&home.path("relay.key")).map(|_| ()).unwrap();
    let wrong = home.relay(&["run"], None);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(err(&wrong).contains("[keys]"), "{}", err(&wrong));
}

#[test]
fn the_local_issuer_mints_by_its_own_rules_also_among_others() {
    let mut home = Home::new();
    let text = std::fs::read_to_string(home.path("relay.toml")).unwrap();
    let (before, after) = text.split_once("[callers]").unwrap();
    let (own, rest) = after.split_once("[keys]").unwrap();
    let own = own.replace("\"customer_id\"", "\"/org/customer_id\"");
    let other = own.replace("urn:relay:local-issuer", "https://other.example");
    let several =
        format!("{before}[[callers]]{other}\n[[callers]]{own}customer_prefix = \"local/\"\n\n[keys]{rest}");
    std::fs::write(home.path("relay.toml"), several).unwrap();
    home.run();
    let id = home.add("local/acme");
    let token = home.token("local/acme");
    assert_eq!(home.get(&format!("/github/{id}/x"), &token).status, 200);
    let claims = home.relay(&["token", "inspect", "--format", "json"], Some(token.as_bytes()));
    let claims: Value = serde_json::from_str(&out(&claims)).unwrap();
    assert_eq!(claims["claims"]["org"]["customer_id"], "acme", "the issuer knows no prefix");
    let refused = home.relay(&["token", "mint", "--customer", "acme"], None);
    assert_eq!(refused.status.code(), Some(2));
    assert!(err(&refused).contains("customers of this issuer begin with \"local/\""), "{}", err(&refused));
}

#[test]
fn a_secrets_own_limits_are_given_changed_and_lifted() {
    let mut home = Home::new();
    home.run();
    let canary = home.canary.text().to_owned();
    let words = [
        "secret",
        "add",
        "--customer",
        "acme",
        "--integration",
        "github",
        "--allow",
        "GET /user",
        "--rate",
        "5",
    ];
    let id = home.ok(&words, Some(canary.as_bytes())).trim_end().to_owned();
    let shown = || home.ok(&["secret", "show", &id], None);
    assert!(shown().contains(r#"{"allow":["GET /user"],"rate":5}"#), "{}", shown());
    let words = ["secret", "policy", &id, "--deny", "* /a/**", "--deny", "* /b/**", "--concurrency", "2"];
    let told = home.ok(&words, None);
    assert!(told.contains(r#"{"concurrency":2,"deny":["* /a/**","* /b/**"]}"#), "{told}");
    home.ok(&["secret", "policy", &id, "--clear"], None);
    assert!(!shown().contains("policy"), "{}", shown());
    for (words, exit, mistake) in [
        (vec!["secret", "policy", id.as_str()], 2, "nothing said"),
        (vec!["secret", "policy", id.as_str(), "--clear", "--rate", "1"], 2, "both said"),
        (vec!["secret", "policy", id.as_str(), "--rate", "0"], 1, "no request at all"),
        (vec!["secret", "policy", id.as_str(), "--allow", "get /x"], 1, "a rule that is none"),
    ] {
        let output = home.relay(&words, None);
        assert_eq!(output.status.code(), Some(exit), "{mistake}: {}", err(&output));
    }
}
