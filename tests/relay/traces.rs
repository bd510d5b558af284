use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use relay::config::{self, Files};
use relay::net::otlp::Collector;
use relay::net::spans::{QUEUE, Side, Span, Tracer};
use relay::net::tls::{Roots, client_config};
use serde_json::Value;

use crate::rig::client::Answer;
use crate::rig::vendor::{self, Vendor};
use crate::rig::{Rig, Settings};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that answers with this status, once it may.
#[derive(Clone)]
struct Mood {
    status: Arc<AtomicU16>,
    hangs: Arc<(Mutex<bool>, Condvar)>,
    asked: Arc<AtomicBool>,
}

impl Mood {
    fn good() -> Self {
        Self { status: Arc::new(AtomicU16::new(200)), hangs: Arc::default(), asked: Arc::default() }
    }

    fn hang(&self, hangs: bool) {
        *self.hangs.0.lock().unwrap() = hangs;
        self.hangs.1.notify_all();
    }

    fn collector(&self) -> Vendor {
        let mood = self.clone();
        Vendor::start(move |_, out| {
            mood.asked.store(true, Ordering::SeqCst);
            let hangs = mood.hangs.0.lock().unwrap();
            drop(mood.hangs.1.wait_while(hangs, |hangs| *hangs).unwrap());
            vendor::answer(out, mood.status.load(Ordering::SeqCst), &[], b"{\"partialSuccess\":{}}");
        })
    }
}

/// A relay that traces to this collector.
fn traced(collector: &Vendor, lines: &str) -> Rig {
    let vendor = Vendor::start(|request, out| match request.target() {
        "/base/broken" => vendor::raw(out, b"nothing that is HTTP\r\n\r\n"),
        "/base/500" => vendor::answer(out, 500, &[], b"no"),
        _ => vendor::answer_to(request, out, b"ok"),
    });
    traced_before(Settings::default(), vendor, collector, lines)
}

fn traced_before(settings: Settings, vendor: Vendor, collector: &Vendor, lines: &str) -> Rig {
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), &collector.ca_pem).unwrap();
    let more = format!(
        "[traces]\nendpoint = \"https://localhost:{}/v1/traces\"\nca_file = \"{}\"\n{lines}\n",
        collector.port,
        roots.path().display()
    );
    Rig::before(Settings { more, workers: 1, ..settings }, vendor)
}

fn get(rig: &Rig, path: &str, headers: &[(&str, &str)]) -> Answer {
    let token = format!("Bearer {}", rig.token("acme-the-customer"));
    let mut all = vec![("authorization", token.as_str())];
    all.extend(headers);
    rig.client().request("GET", path, &all, b"")
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every span that the collector was given.
fn spans(collector: &Vendor) -> Vec<Value> {
    let mut spans = Vec::new();
    for request in collector.requests() {
        assert_eq!(
            (request.target(), request.header("content-type")),
            ("/v1/traces", Some("application/json"))
        );
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let resource = &body["resourceSpans"][0];
        assert_eq!(attribute(&resource["resource"], "service.name").unwrap()["stringValue"], "relay");
        spans.extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
    }
    spans
}

fn attribute<'s>(of: &'s Value, key: &str) -> Option<&'s Value> {
    let all = of["attributes"].as_array().unwrap();
    all.iter().find(|attribute| attribute["key"] == key).map(|attribute| &attribute["value"])
}

fn text(span: &Value, key: &str) -> String {
    attribute(span, key).map_or("", |value| value["stringValue"].as_str().unwrap()).to_owned()
}

fn status(span: &Value) -> String {
    attribute(span, "http.response.status_code").map_or("", |v| v["intValue"].as_str().unwrap()).to_owned()
}

fn of_kind(spans: &[Value], kind: u64) -> Vec<Value> {
    spans.iter().filter(|span| span["kind"] == kind).cloned().collect()
}

fn dropped(rig: &Rig) -> u64 {
    let text = rig.running().metrics().render();
    let line = text.lines().find_map(|line| line.strip_prefix("relay_trace_spans_dropped_total "));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[test]
fn each_request_is_a_span_of_the_app_and_one_of_the_vendor_beneath_it() {
    let collector = Mood::good().collector();
    let mut rig = traced(&collector, "sample = 1");
    let id = rig.secret("acme-the-customer");
    let canary = rig.canary.text().to_owned();
    assert_eq!(get(&rig, &format!("/vendor/{id}/a-raw-path?q={canary}"), &[]).status, 200);
    assert_eq!(get(&rig, &format!("/vendor/{id}/500"), &[]).status, 500);
    let refused = get(&rig, &format!("/vendor/{id}/broken"), &[]);
    assert_eq!(refused.code(), "vendor_broken");
    let mut client = rig.client();
    assert_eq!(client.request("GET", "/made-up-by-a-caller/x", &[], b"").code(), "token_missing");
    rig.stop();

    let spans = spans(&collector);
    let (servers, clients) = (of_kind(&spans, 2), of_kind(&spans, 3));
    assert_eq!((servers.len(), clients.len(), spans.len()), (4, 3, 7), "{spans:#?}");
    let ids: BTreeSet<&str> = spans.iter().map(|span| span["spanId"].as_str().unwrap()).collect();
    assert!(ids.len() == 7 && ids.iter().all(|id| id.len() == 16), "{ids:?}");
    for client in &clients {
        let parent = servers.iter().find(|server| server["spanId"] == client["parentSpanId"]).unwrap();
        assert_eq!(parent["traceId"], client["traceId"]);
        assert_eq!(text(parent, "relay.request_id"), text(client, "relay.request_id"));
        let nanos = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
        let (began, ended) = (nanos(client, "startTimeUnixNano"), nanos(client, "endTimeUnixNano"));
        assert!(nanos(parent, "startTimeUnixNano") <= began && began < ended);
        assert_eq!(
            (text(client, "server.address"), text(client, "url.scheme")),
            ("localhost".into(), "https".into())
        );
    }
    let of = |code: &str| servers.iter().find(|server| status(server) == code).unwrap();
    for server in &servers {
        assert_eq!(server["parentSpanId"], "");
        assert_eq!(text(server, "http.request.method"), "GET");
    }
    let good = of("200");
    assert_eq!((text(good, "http.route"), text(good, "url.scheme")), ("/vendor".into(), "http".into()));
    assert_eq!((&good["name"], &good["status"]), (&"GET /vendor".into(), &serde_json::json!({})));
    assert_eq!((text(of("500"), "error.type"), &of("500")["status"]["code"]), (String::new(), &2.into()));
    assert_eq!(text(of("502"), "error.type"), "vendor_broken");
    assert_eq!(text(of("502"), "relay.request_id"), refused.header("relay-request-id").unwrap());
    assert_eq!(text(of("401"), "error.type"), "token_missing");
    let of_vendor = |code: &str| clients.iter().find(|client| status(client) == code).unwrap();
    assert_eq!(text(of_vendor("500"), "error.type"), "500");
    assert_eq!(text(of_vendor(""), "error.type"), "vendor_broken");
    for request in collector.requests() {
        let found = rig.canary.hunt("what the collector got", &request.body);
        assert!(found.is_empty(), "{found:?}");
        let body = String::from_utf8(request.body).unwrap();
        for word in ["acme-the-customer", "a-raw-path", "made-up-by-a-caller", &id] {
            assert!(!body.contains(word), "{word}: {body}");
        }
    }
}

#[test]
fn a_host_that_is_a_customers_own_is_in_no_span() {
    let collector = Mood::good().collector();
    let vendor = Vendor::start(|request, out| vendor::answer_to(request, out, b"ok"));
    let settings = Settings {
        upstream: Some(format!("https://{{shop}}.shop.localhost:{}/base", vendor.port)),
        integration: "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n\
            [integrations.vendor.fields]\ntoken = { label = \"Token\" }\n\
            shop = { label = \"Shop\", secret = false, match = \"[a-z0-9-]{2,40}\" }\n"
            .to_owned(),
        ..Settings::default()
    };
    let mut rig = traced_before(settings, vendor, &collector, "sample = 1");
    let canary = rig.canary.text().to_owned();
    let fields = [("token", canary.as_str()), ("shop", "only-acmes-shop")];
    let id = rig.secret_with("acme-the-customer", "vendor", &fields);
    assert_eq!(get(&rig, &format!("/vendor/{id}/x"), &[]).status, 200);
    assert_eq!(rig.vendor.last().header("host").map(|host| host.starts_with("only-acmes-shop.")), Some(true));
    rig.stop();
    let client = of_kind(&spans(&collector), 3).remove(0);
    assert_eq!((attribute(&client, "server.address"), text(&client, "url.scheme")), (None, "https".into()));
    for request in collector.requests() {
        assert!(!String::from_utf8(request.body).unwrap().contains("only-acmes-shop"));
    }
}

#[test]
fn the_apps_trace_is_gone_on_with_and_its_own_decision_is_kept() {
    for sample in ["0", "1"] {
        let collector = Mood::good().collector();
        let mut rig = traced(&collector, &format!("sample = {sample}"));
        let id = rig.secret("acme-the-customer");
        let path = format!("/vendor/{id}/x");
        let sampled = format!("00-{TRACE}-{PARENT}-01");
        let unsampled = format!("00-{TRACE}-{PARENT}-00");
        let given = [("traceparent", sampled.as_str()), ("tracestate", "a=1,b=2")];
        assert_eq!(get(&rig, &path, &given).status, 200);
        assert_eq!(rig.vendor.last().all("traceparent"), [&sampled], "the vendor gets the app's own");
        assert_eq!(rig.vendor.last().all("tracestate"), ["a=1,b=2"]);
        assert_eq!(get(&rig, &path, &[("traceparent", &unsampled)]).status, 200);
        assert_eq!(get(&rig, &path, &[("traceparent", "00-nonsense"), ("tracestate", "c=3")]).status, 200);
        assert_eq!(get(&rig, &path, &[]).status, 200);
        assert_eq!(rig.vendor.last().header("traceparent"), None, "nothing is invented toward the vendor");
        rig.stop();
        let spans = spans(&collector);
        let servers = of_kind(&spans, 2);
        assert_eq!(servers.len(), if sample == "0" { 1 } else { 3 }, "{sample}: {spans:#?}");
        let going_on: Vec<_> = servers.iter().filter(|server| server["parentSpanId"] == PARENT).collect();
        assert_eq!(going_on.len(), 1, "{sample}: the one that was not sampled is in no trace");
        assert_eq!((&going_on[0]["traceId"], &going_on[0]["traceState"]), (&TRACE.into(), &"a=1,b=2".into()));
        for own in servers.iter().filter(|server| server["parentSpanId"] == "") {
            assert!(own["traceId"] != TRACE && own["traceState"] == "", "{own:#?}");
        }
    }
}

#[test]
fn the_vendor_is_told_relays_part_only_where_that_is_configured() {
    let collector = Mood::good().collector();
    let mut rig = traced(&collector, "sample = 0\npropagate = true");
    let id = rig.secret("acme-the-customer");
    let path = format!("/vendor/{id}/x");
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    assert_eq!(get(&rig, &path, &[("traceparent", &unsampled)]).status, 200);
    assert_eq!(rig.vendor.last().all("traceparent"), [&unsampled], "not traced: as it came");
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let given = [("traceparent", sampled.as_str()), ("tracestate", "a=1")];
    assert_eq!(get(&rig, &path, &given).status, 200);
    let told = rig.vendor.last();
    rig.stop();
    let client = of_kind(&spans(&collector), 3).remove(0);
    let wanted = format!("00-{TRACE}-{}-01", client["spanId"].as_str().unwrap());
    assert_eq!((told.all("traceparent"), told.all("tracestate")), (vec![wanted.as_str()], vec!["a=1"]));
}

#[test]
fn a_collector_that_is_down_or_hangs_costs_spans_and_no_request() {
    let mood = Mood::good();
    let collector = mood.collector();
    let rig = traced(&collector, "sample = 1");
    let id = rig.secret("acme-the-customer");
    let path = format!("/vendor/{id}/x");
    assert_eq!(dropped(&rig), 0);
    mood.status.store(503, Ordering::SeqCst);
    assert_eq!(get(&rig, &path, &[]).status, 200);
    until("both spans are counted as dropped", || dropped(&rig) == 2);
    mood.status.store(200, Ordering::SeqCst);
    mood.hang(true);
    mood.asked.store(false, Ordering::SeqCst);
    assert_eq!(get(&rig, &path, &[]).status, 200);
    until("the collector is asked", || mood.asked.load(Ordering::SeqCst));
    for _ in 0..20 {
        assert_eq!(get(&rig, &path, &[]).status, 200, "while the collector hangs");
    }
    assert_eq!(collector.requests().len(), 2, "it hangs");
    mood.hang(false);
    until("the rest has come", || of_kind(&spans(&collector), 2).len() == 22);
    assert_eq!(dropped(&rig), 2);
}

#[test]
fn a_collector_is_told_securely_and_its_own_credential_stands_in_no_file() {
    let toml = |lines: &str| {
        let text = Rig::plain().toml().replace("[admin]", &format!("[traces]\n{lines}\n[admin]"));
        let judged = config::parse(&text, "relay.toml", Path::new("."), &[], Files::Optional);
        judged.err().map(|report| report.to_string()).unwrap_or_default()
    };
    let clear = toml("endpoint = \"http://collector.example/v1/traces\"");
    assert!(clear.contains("[traces] endpoint is no https address"), "{clear}");
    let literal =
        toml("endpoint = \"https://collector.example/v1/traces\"\nheaders = { authorization = \"hunter2\" }");
    assert!(literal.contains("authorization is a secret") && !literal.contains("hunter2"), "{literal}");
    let unknown = toml("endpont = \"https://collector.example/v1/traces\"");
    assert!(unknown.contains("did you mean \"endpoint\""), "{unknown}");
}

#[test]
fn the_queue_of_a_collector_that_hangs_has_a_bound() {
    let mood = Mood::good();
    mood.hang(true);
    let vendor = mood.collector();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let collector = Collector {
        url: format!("https://localhost:{}/v1/traces", vendor.port),
        headers: http::HeaderMap::new(),
        tls: Some(client_config(Roots::Pem(vendor.ca_pem.as_bytes())).unwrap()),
        instance: "here".to_owned(),
    };
    let counted = Counter::default();
    let (tracer, carrier) = Tracer::open(collector, (1.0, false), counted.clone(), runtime.handle());
    let span = Span {
        trace: 1,
        id: 1,
        parent: None,
        state: String::new(),
        side: Side::Server,
        name: "GET".to_owned(),
        began: 1,
        ended: 2,
        attributes: Vec::new(),
        failed: false,
    };
    tracer.leave(span.clone());
    until("the collector is asked", || mood.asked.load(Ordering::SeqCst));
    for _ in 0..QUEUE + 100 {
        tracer.leave(span.clone());
    }
    assert_eq!(counted.get(), 100, "one is under way, the queue is full, the rest is dropped");
    mood.hang(false);
    until("what waited has come", || spans(&vendor).len() == QUEUE + 1);
    runtime.block_on(carrier.stop());
    assert_eq!(counted.get(), 100);
}
