//! The proxies, and the proof that each does its work.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::nginx::Nginx;
use crate::plan::{PROXY_CPU, Plan};
use crate::process::Process;
use crate::rig::client::Client;
use crate::stage::{Stage, free_ports, integration};
use crate::vendor::{CREDENTIAL, Vendor};
use crate::wrk::{Request, load};
use crate::{envoy, haproxy};

pub const CUSTOMER: &str = "acme";

/// The vendor, everyone who calls it, and the tokens of one local issuer.
pub struct Field {
    pub vendor: Vendor,
    /// As shown, in the order of the tables; relay is the first.
    pub contenders: Vec<Contender>,
}

pub struct Contender {
    pub name: &'static str,
    pub address: SocketAddr,
    /// What stands before the vendor's path.
    prefix: &'static str,
    /// What an app has to send to this one.
    pub headers: Vec<(String, String)>,
    kept: Kept,
}

enum Kept {
    Relay(Box<Stage>),
    Nginx(Nginx),
    Other(Process, TempDir),
}

impl Field {
    /// Starts what the cases of `plan` need.
    pub fn set(plan: &Plan) -> Self {
        plan.say("starting the vendor and the contenders");
        let vendor = Vendor::start();
        let (relay, token) = Contender::relay(&plan.relay, &vendor, "written");
        let wrong = wrong_token(plan);
        relay.prove(Some(&wrong));
        prove_failures_count(&relay, &wrong);
        let mut contenders = vec![relay];
        if plan.cases.iter().any(|case| !["many", "synced", "before"].contains(&case.as_str())) {
            let folder = contenders[0].stage().folder.path().to_owned();
            contenders.extend(others(plan, &vendor, &folder, &token));
        }
        for other in &contenders[1..] {
            other.prove((!other.headers.is_empty()).then_some(&wrong));
        }
        Self { vendor, contenders }
    }

    pub fn relay(&self) -> &Contender {
        &self.contenders[0]
    }
}

/// All but relay. `folder` has the issuer's files.
fn others(plan: &Plan, vendor: &Vendor, folder: &Path, token: &str) -> Vec<Contender> {
    let caller = vec![bearer(token)];
    let nginx = Nginx::proxy(PROXY_CPU, vendor.address(), &vendor.ca, &Vendor::bearer());
    let alone = |name, headers: Vec<_>, (process, address, files)| Contender {
        name,
        address,
        prefix: "",
        headers,
        kept: Kept::Other(process, files),
    };
    vec![
        alone("bare hyper proxy", Vec::new(), bare(plan, vendor)),
        Contender {
            name: "nginx",
            address: nginx.address,
            prefix: "",
            headers: Vec::new(),
            kept: Kept::Nginx(nginx),
        },
        alone("HAProxy", Vec::new(), haproxy::start(vendor, None)),
        alone("HAProxy, ES256", caller.clone(), haproxy::start(vendor, Some(folder))),
        alone("Envoy", Vec::new(), envoy::start(&plan.envoy, vendor, None)),
        alone("Envoy, ES256 cached", caller, envoy::start(&plan.envoy, vendor, Some(folder))),
    ]
}

impl Contender {
    /// `relay run` on disk with one secret; and its customer's token.
    pub fn relay(program: &Path, vendor: &Vendor, durability: &str) -> (Self, String) {
        let upstream = format!("https://localhost:{}", vendor.address().port());
        let mut stage = Stage::set(program, "workers = 1", &integration("vendor", &upstream, &vendor.ca));
        let text = std::fs::read_to_string(stage.config()).unwrap();
        let parts = text.split_once("durability = \"written\"").expect("relay init writes the durability");
        std::fs::write(stage.config(), format!("{}durability = \"{durability}\"{}", parts.0, parts.1))
            .unwrap();
        stage.through = ["taskset", "-c", PROXY_CPU].map(str::to_owned).to_vec();
        stage.start();
        let secret = stage.secret(CUSTOMER, "vendor", CREDENTIAL);
        let token = long_token(&stage, CUSTOMER);
        let headers = vec![bearer(&token), ("relay-secret".to_owned(), secret)];
        let relay = Self {
            name: "relay",
            address: stage.app,
            prefix: "/vendor",
            headers,
            kept: Kept::Relay(Box::new(stage)),
        };
        (relay, token)
    }

    /// The process that is measured.
    pub fn process(&self) -> &Process {
        match &self.kept {
            Kept::Relay(stage) => stage.relay(),
            Kept::Nginx(nginx) => &nginx.process,
            Kept::Other(process, _) => process,
        }
    }

    pub fn stage(&self) -> &Stage {
        match &self.kept {
            Kept::Relay(stage) => stage,
            Kept::Nginx(_) | Kept::Other(..) => panic!("{} is not relay", self.name),
        }
    }

    pub fn request(&self, method: &'static str, path: &str, body: usize) -> Request {
        Request { method, path: format!("{}{path}", self.prefix), headers: self.headers.clone(), body }
    }

    /// Every answer is the vendor's own, which it gives only for the credential; whoever checks tokens
    /// refuses those that are wrong.
    fn prove(&self, wrong: Option<&String>) {
        let ask = |path: &str, headers: &[(String, String)], body: &[u8]| {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let mut client = Client::connect(self.address, Arc::default());
            let method = if body.is_empty() { "GET" } else { "POST" };
            client.request(method, &format!("{}{path}", self.prefix), &headers, body)
        };
        for (path, sent, length) in
            [("/1k", 0, 1024), ("/64k", 0, 64 * 1024), ("/10m", 0, 10 << 20), ("/sink", 16 * 1024, 1024)]
        {
            let answer = ask(path, &self.headers, &vec![b'a'; sent]);
            let whole = answer.status == 200 && answer.body.len() == length && !answer.cut;
            assert!(whole, "{}: {path} is answered {} {}", self.name, answer.status, answer.body.len());
        }
        let Some(wrong) = wrong else { return };
        let mut tampered = self.headers[0].1.clone();
        let last = if tampered.ends_with("AAAA") { "BBBB" } else { "AAAA" };
        tampered.replace_range(tampered.len() - 4.., last);
        for value in [format!("Bearer {wrong}"), tampered, "Bearer x".to_owned()] {
            let mut headers = self.headers.clone();
            headers[0].1 = value;
            let status = ask("/1k", &headers, b"").status;
            assert!(matches!(status, 401 | 403), "{}: a wrong token is answered {status}", self.name);
        }
    }
}

/// A load that is refused is all failures.
fn prove_failures_count(relay: &Contender, wrong: &str) {
    let mut request = relay.request("GET", "/1k", 0);
    request.headers[0] = bearer(wrong);
    let loaded = load(relay.address, &[request], 0, 4, 1);
    assert!(loaded.requests > 0 && loaded.failed == loaded.requests, "wrk counts refusals as answers");
}

pub fn bearer(token: &str) -> (String, String) {
    ("authorization".to_owned(), format!("Bearer {token}"))
}

/// One that outlives the benchmark.
pub fn long_token(stage: &Stage, customer: &str) -> String {
    let done = stage.command(&["token", "mint", "--ttl", "6h", "--customer", customer], "");
    assert!(done.status.success(), "relay token mint: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
}

/// Whole and for the right customer, but of another issuer.
fn wrong_token(plan: &Plan) -> String {
    Stage::set(&plan.relay, "", "").token(CUSTOMER)
}

fn bare(plan: &Plan, vendor: &Vendor) -> (Process, SocketAddr, TempDir) {
    let [address] = free_ports();
    let files = TempDir::new().unwrap();
    let upstream = format!("https://localhost:{}", vendor.address().port());
    let mut command = Command::new("taskset");
    command.args(["-c", PROXY_CPU]).arg(&plan.bare).arg(address.to_string()).arg(upstream);
    let process = listening(command.arg(&vendor.ca).arg(Vendor::bearer()), address, &files);
    (process, address, files)
}

/// Starts it and waits until it listens. What it says goes into a file of `files`.
pub fn listening(command: &mut Command, address: SocketAddr, files: &TempDir) -> Process {
    let said = files.path().join("said");
    let log = File::create(&said).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut process = Process::start(command);
    let (begun, log) = (Instant::now(), || std::fs::read_to_string(&said).unwrap_or_default());
    while TcpStream::connect(address).is_err() {
        assert!(!process.has_ended(), "{command:?} does not start: {}", log());
        assert!(begun.elapsed() < Duration::from_secs(20), "{command:?} does not listen: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    process
}
