//! CPU per request beside nginx, in one run.
//!
//! nginx sets one header and nothing else; relay does all that it does. Both answer 1 KiB over HTTP/1.1
//! from a vendor over TLS 1.3, connections kept alive on both sides. The proxy has the first core to
//! itself, load and vendor share the second; rounds alternate, so that what else the machine does hits both.

use crate::figure::{Figure, Plan};
use crate::load::{Loaded, h2load};
use crate::nginx::{Nginx, NginxVendor};
use crate::process::Process;
use crate::sample::median;
use crate::stage::{Stage, integration};
use crate::strace;

const PROXY_CPU: &str = "0";
const OTHER_CPU: &str = "1";
const CONNECTIONS: &str = "32";

pub fn run(plan: &Plan) -> Figure {
    let (rounds, seconds) = (plan.size(3, 5), plan.size(2, 10));
    let vendor = NginxVendor::start(OTHER_CPU, &one_kib());
    let credential = "sk-drill-0123456789abcdef0123456789";
    let nginx = Nginx::proxy(PROXY_CPU, vendor.nginx.address, &vendor.ca, &format!("Bearer {credential}"));
    let upstream = format!("https://localhost:{}", vendor.nginx.address.port());
    let mut stage = Stage::set(&plan.relay, "workers = 1", &integration("vendor", &upstream, &vendor.ca));
    stage.through = ["taskset", "-c", PROXY_CPU].map(str::to_owned).to_vec();
    stage.start();
    let secret = stage.secret("acme", "vendor", credential);
    let bearer = format!("Bearer {}", stage.token("acme"));
    let relay_headers = [("authorization", bearer.as_str()), ("relay-secret", secret.as_str())];
    let relay_url = format!("http://{}/vendor/hello", stage.app);
    let nginx_url = format!("http://{}/hello", nginx.address);

    let load_relay = |seconds: u64| load(seconds, &relay_url, &relay_headers);
    let load_nginx = |seconds: u64| load(seconds, &nginx_url, &[]);
    load_relay(1);
    load_nginx(1);
    let (mut relay_round, mut nginx_round) = (Rounds::default(), Rounds::default());
    for round in 0..rounds {
        plan.say(&format!("round {} of {rounds}", round + 1));
        relay_round.add(stage.relay(), || load_relay(seconds));
        nginx_round.add(&nginx.process, || load_nginx(seconds));
    }
    let (relay_us, nginx_us) = (median(&mut relay_round.cpu_us), median(&mut nginx_round.cpu_us));
    plan.say("counting system calls");
    let calls =
        [strace::count(stage.relay(), || load_relay(1)), strace::count(&nginx.process, || load_nginx(1))];
    calls.iter().flatten().for_each(|(table, _)| plan.say(&format!("\n{table}")));
    let calls = calls.map(|counted| counted.map_or("unknown".to_owned(), |(_, calls)| format!("{calls:.1}")));
    let result = format!(
        "relay_us={relay_us:.1} nginx_us={nginx_us:.1} ratio={:.2} relay_rps={:.0} nginx_rps={:.0} relay_calls={} nginx_calls={} errors={}",
        relay_us / nginx_us,
        median(&mut relay_round.per_second),
        median(&mut nginx_round.per_second),
        calls[0],
        calls[1],
        relay_round.errors + nginx_round.errors
    );
    let kept = relay_round.errors + nginx_round.errors == 0 && relay_us.is_finite() && nginx_us.is_finite();
    Figure { n: relay_round.requests + nginx_round.requests, result, kept }
}

#[derive(Default)]
struct Rounds {
    /// CPU time of the proxy's process per request, microseconds.
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
    requests: u64,
    errors: u64,
}

impl Rounds {
    fn add(&mut self, proxy: &Process, load: impl FnOnce() -> Loaded) {
        let before = proxy.cpu_us();
        let loaded = load();
        let spent = proxy.cpu_us() - before;
        self.cpu_us.push(spent as f64 / loaded.succeeded as f64);
        self.per_second.push(loaded.per_second);
        self.requests += loaded.succeeded;
        self.errors += loaded.errors;
    }
}

fn load(seconds: u64, url: &str, headers: &[(&str, &str)]) -> Loaded {
    let seconds = seconds.to_string();
    h2load(&["taskset", "-c", OTHER_CPU], &["-c", CONNECTIONS, "-D", &seconds], url, headers)
}

/// JSON, as vendors answer.
fn one_kib() -> String {
    let item = r#"{"id":"T00000001","name":"an item of a list","done":false},"#;
    let items = item.repeat(1024 / item.len());
    let text = format!("[{}{{}}]", &items);
    format!("{text}{}", " ".repeat(1024 - text.len()))
}
