//! What relay does while something that it depends on does not work, cell by cell of the table in code.
//!
//! A real relay is put into every state; each thing that can be asked of it is asked, and what it does is
//! compared with `relay::dependency`. Then the cause is taken away, and within five seconds all is well.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use relay::app::Options;
use relay::audit::{Durability, Member, MemorySink, Sink};
use relay::dependency::{Answer, Asked, Dependency, State};
use relay::jwks::Times;
use relay::kms::Kms;
use relay::model::{Customer, DataKeyId, SecretId};
use relay::refusal::Code;
use relay::stage::authorize::records::Bounds;
use relay::store::memory::Memory;
use relay::store::{Call, Change, Expected, Feed, SecretRow, Store, StoreError, Upkeep};
use tokio::sync::{broadcast, watch};

use crate::rig::client::{self, Client};
use crate::rig::issuer::{Issuer, Says};
use crate::rig::kms::{Mood, Told};
use crate::rig::port;
use crate::rig::vendor::{self, Vendor};
use crate::rig::{ADMIN_TOKEN, ISSUER, Rig, Settings};

/// How soon after its cause is gone a state must be over.
const RECOVERY: Duration = Duration::from_secs(5);

/// States that no relay of today can be in, with the reason: none.
const NOT_PRODUCED: [(State, &str); 0] = [];

/// What the doubles are told.
struct Switches {
    store_fails: AtomicBool,
    store_full: AtomicBool,
    feed: watch::Sender<Feed>,
    audit_fails: AtomicBool,
    audit_hangs: AtomicBool,
    audit_sink_down: AtomicBool,
    clock_ahead: AtomicU64,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            store_fails: AtomicBool::default(),
            store_full: AtomicBool::default(),
            feed: watch::Sender::new(Feed::Live),
            audit_fails: AtomicBool::default(),
            audit_hangs: AtomicBool::default(),
            audit_sink_down: AtomicBool::default(),
            clock_ahead: AtomicU64::default(),
        }
    }
}

impl Switches {
    fn wall(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now + Duration::from_secs(self.clock_ahead.load(SeqCst))
    }
}

/// A relay before a vendor, and everything that can be taken away from it.
struct Scene {
    rig: Rig,
    switches: Arc<Switches>,
    kms: Arc<Told>,
    earlier: Arc<Told>,
    bridge: Bridge,
    /// Whose keys are fetched, where the state is about that.
    issuer: Option<Issuer>,
    /// A secret whose record and data key are at hand, and its customer's token.
    warm: (String, String),
    /// Secrets of customers of whom nothing is at hand.
    cold: Vec<(String, String, String)>,
    /// A secret to delete.
    spare: String,
}

impl Scene {
    /// With all that `state` needs to be entered.
    fn set(state: State) -> Self {
        // What wrapped the data keys is no longer the KMS key that wraps.
        let by_earlier = state.of() == Dependency::EarlierKms;
        let issuer = (state.of() == Dependency::Issuers).then(|| Issuer::new("published first"));
        let moment = Duration::from_millis(150);
        let day = Duration::from_secs(24 * 3600);
        let key_times = Times {
            age: moment,
            least_age: moment,
            floor: moment,
            first_retry: moment,
            stale: if state == State::IssuerKeysMissing { 5 * moment } else { day },
            ..Times::default()
        };
        // A minute, where that is what is waited for.
        let gone =
            if state == State::StoreLost { Duration::from_millis(700) } else { Bounds::default().gone };
        let bounds = Bounds { gone, ..Bounds::default() };
        let switches: Arc<Switches> = Arc::default();
        let (kms, earlier) = (Told::new("current"), Told::new("earlier"));
        let store: Arc<Memory> = Arc::default();
        let first = Arc::new(AtomicBool::new(true));
        let options = {
            let (switches, kms, earlier, first) =
                (switches.clone(), kms.clone(), earlier.clone(), first.clone());
            move || {
                let wall = switches.clone();
                let before = earlier.clone() as Arc<dyn Kms>;
                let alone = by_earlier && first.load(SeqCst);
                Options {
                    kms: Some(if alone { before.clone() } else { kms.clone() }),
                    earlier_kms: if by_earlier && !alone { vec![before] } else { Vec::new() },
                    store: Some(Arc::new(Shelf { inner: store.clone(), switches: switches.clone() })),
                    sink: Some(Box::new(Disk { inner: MemorySink::default(), switches: switches.clone() })),
                    key_times,
                    bounds,
                    wall_clock: Some(Arc::new(move || wall.wall())),
                    ..Options::default()
                }
            }
        };
        let vendor = Vendor::start(|request, out| {
            if request.target().ends_with("/slow") {
                std::thread::sleep(Duration::from_millis(1500));
            }
            vendor::answer(out, 200, &[], b"ok");
        });
        let bridge = Bridge::to(vendor.port);
        let upstream = Some(format!("https://localhost:{}/base", bridge.port));
        let callers = issuer.as_ref().map(|issuer| issuer.callers(ISSUER)).unwrap_or_default();
        let settings = Settings { options: Box::new(options), upstream, callers, ..Settings::default() };
        let mut rig = Rig::before(settings, vendor);
        if let Some(issuer) = &issuer {
            issuer.publishes(&rig.issuer.jwks);
        }
        let warm = (rig.secret("warm"), rig.token("warm"));
        let spare = rig.secret("warm");
        let cold = (0..8).map(|n| {
            let customer = format!("cold-{n}");
            (customer.clone(), rig.secret(&customer), rig.token(&customer))
        });
        let cold = cold.collect();
        // Nothing is at hand after a restart but what is used again.
        rig.stop();
        first.store(false, SeqCst);
        rig.start();
        let scene = Self { rig, switches, kms, earlier, bridge, issuer, warm, cold, spare };
        scene.until_health_says(Dependency::Issuers, "ok");
        assert_eq!(scene.ask(Asked::UseWarm), Answer::Served, "it works before anything goes wrong");
        assert_eq!(scene.ask(Asked::Readiness), Answer::Ready);
        scene
    }

    fn enter(&self, state: State) {
        match state {
            State::StoreFails => self.switches.store_fails.store(true, SeqCst),
            State::StoreFull => self.switches.store_full.store(true, SeqCst),
            State::StoreLost => {
                self.switches.store_fails.store(true, SeqCst);
                self.switches.feed.send_replace(Feed::Gone);
            }
            State::FeedLost => drop(self.switches.feed.send_replace(Feed::Deaf)),
            State::AuditFails => self.switches.audit_fails.store(true, SeqCst),
            State::AuditHangs => self.switches.audit_hangs.store(true, SeqCst),
            State::AuditSinkDown => self.switches.audit_sink_down.store(true, SeqCst),
            State::KmsUnavailable => self.kms.be(Mood::Fails),
            State::KmsDenied => self.kms.be(Mood::Denies),
            State::EarlierKmsUnavailable => self.earlier.be(Mood::Fails),
            State::EarlierKmsDenied => self.earlier.be(Mood::Denies),
            State::ClockJumped => self.switches.clock_ahead.store(3600, SeqCst),
            State::VendorDown => self.bridge.close(),
            State::IssuerKeysStale | State::IssuerKeysMissing => {
                self.issuer.as_ref().unwrap().says(Says::Status(500));
            }
            State::Draining => panic!("{state:?} is not entered by a switch"),
        }
        // An audit that nobody writes to and a KMS that nobody asks are not found out at once.
        match state.of() {
            Dependency::Audit => drop(self.ask(Asked::UseWarm)),
            Dependency::Kms | Dependency::EarlierKms => drop(self.ask(Asked::UseCold)),
            _ => {}
        }
    }

    fn leave(&self) {
        for switch in [
            &self.switches.store_fails,
            &self.switches.store_full,
            &self.switches.audit_fails,
            &self.switches.audit_hangs,
            &self.switches.audit_sink_down,
        ] {
            switch.store(false, SeqCst);
        }
        self.switches.clock_ahead.store(0, SeqCst);
        self.switches.feed.send_replace(Feed::Live);
        self.kms.be(Mood::Well);
        self.earlier.be(Mood::Well);
        self.bridge.open();
        if let Some(issuer) = &self.issuer {
            issuer.publishes(&self.rig.issuer.jwks);
        }
    }

    fn ask(&self, asked: Asked) -> Answer {
        let fields = [("token", self.rig.canary.text())];
        let add = |customer: &str| {
            let fields: std::collections::BTreeMap<_, _> = fields.into_iter().collect();
            let body = serde_json::json!({ "customer": customer, "integration": "vendor", "fields": fields });
            seen(&self.rig.admin("POST", "/v1/secrets", Some(&body.to_string())))
        };
        match asked {
            Asked::UseWarm => seen(&self.rig.get(&format!("/vendor/{}/x", self.warm.0), &self.warm.1)),
            Asked::UseCold => {
                let (_, id, token) = &self.cold[0];
                seen(&self.rig.get(&format!("/vendor/{id}/x"), token))
            }
            Asked::AddWarm => add("warm"),
            Asked::AddCold => add(&self.cold[1].0),
            Asked::Revoke => seen(&self.rig.admin("DELETE", &format!("/v1/secrets/{}", self.spare), None)),
            Asked::Readiness => readiness(&self.rig.admin("GET", "/readyz", None)),
        }
    }

    /// What health says of a dependency.
    fn health(&self, dependency: Dependency) -> String {
        let answer = self.rig.admin("GET", "/readyz", None).json();
        let checks = answer["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == dependency.as_str());
        let check = check.unwrap_or_else(|| panic!("health does not name {}", dependency.as_str()));
        assert_eq!(check["ok"] == true, check["state"] == "ok", "{check}");
        assert!(check["since"].as_str().unwrap().ends_with('Z'), "{check}");
        check["state"].as_str().unwrap().to_owned()
    }

    fn until_health_says(&self, dependency: Dependency, word: &str) {
        let begun = Instant::now();
        while self.health(dependency) != word {
            assert!(begun.elapsed() < RECOVERY, "health never says {word} of {dependency:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A relay's or the admin API's answer in the words of the table.
fn seen(answer: &client::Answer) -> Answer {
    match answer.code() {
        "" if (200..300).contains(&answer.status) => Answer::Served,
        "" => panic!("{} without a code: {}", answer.status, answer.text()),
        word => {
            let code = Code::ALL.iter().find(|code| code.as_str() == word).unwrap();
            assert_eq!(answer.status, code.status().as_u16());
            assert_eq!(answer.header("retry-after").is_some(), code.passes(), "{word}");
            Answer::Refused(*code)
        }
    }
}

fn readiness(answer: &client::Answer) -> Answer {
    let said = answer.json();
    match (answer.status, said["ready"] == true, said["degraded"] == true) {
        (200, true, false) => Answer::Ready,
        (200, true, true) => Answer::Degraded,
        (503, false, true) => Answer::NotReady,
        other => panic!("{other:?}: {said}"),
    }
}

/// Every cell of a state, but a refusal of a cold use must also come within two seconds.
fn compare(scene: &Scene, state: State, cells: &mut BTreeSet<(State, Asked)>) {
    // What relay does goes before what makes something warm or takes it away.
    for asked in Asked::ALL {
        let begun = Instant::now();
        let did = scene.ask(asked);
        assert_eq!(did, state.answer(asked), "{state:?} x {asked:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{state:?} x {asked:?}: {:?}", begun.elapsed());
        assert!(cells.insert((state, asked)), "{state:?} x {asked:?} was compared twice");
    }
}

#[test]
fn every_cell_of_the_table_is_what_relay_does() {
    let mut cells = BTreeSet::new();
    for state in State::ALL {
        if NOT_PRODUCED.iter().any(|(other, _)| *other == state) {
            continue;
        }
        if state == State::Draining {
            drains(&mut cells);
            continue;
        }
        let scene = Scene::set(state);
        scene.enter(state);
        if state != State::VendorDown {
            scene.until_health_says(state.of(), state.as_str());
            metrics_say(&scene, state, 1);
        }
        compare(&scene, state, &mut cells);
        scene.leave();
        let left = Instant::now();
        while !(scene.ask(Asked::Readiness) == Answer::Ready
            && scene.ask(Asked::UseWarm) == Answer::Served
            && scene.ask(Asked::UseCold) == Answer::Served
            && scene.ask(Asked::AddCold) == Answer::Served)
        {
            assert!(left.elapsed() < RECOVERY, "{state:?} is not over {:?} after its cause", left.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        if state != State::VendorDown {
            metrics_say(&scene, state, 0);
        }
    }
    // What was not compared is what the list says, with a reason, and nothing else.
    for state in State::ALL {
        for asked in Asked::ALL {
            let listed = NOT_PRODUCED.iter().any(|(other, why)| *other == state && why.len() > 20);
            assert!(cells.contains(&(state, asked)) != listed, "{state:?} x {asked:?}");
        }
    }
    assert_eq!(cells.len(), (State::ALL.len() - NOT_PRODUCED.len()) * Asked::ALL.len());
}

fn metrics_say(scene: &Scene, state: State, value: u8) {
    let name = state.of().as_str();
    let line =
        format!("relay_dependency_state{{dependency=\"{name}\",state=\"{}\"}} {value}\n", state.as_str());
    let text = scene.rig.admin("GET", "/metrics", None).text();
    assert!(text.contains(&line), "no {line} in {text}");
    if state.of() == Dependency::Kms {
        let line = format!(
            "relay_kms_state{{provider=\"told\",place=\"0\",state=\"{}\"}} {value}\n",
            state.as_str()
        );
        assert!(text.contains(&line), "no {line} in {text}");
    }
}

/// The row of a relay that shuts down: a slow answer holds it while it is asked.
fn drains(cells: &mut BTreeSet<(State, Asked)>) {
    let mut scene = Scene::set(State::Draining);
    let shown = scene.rig.shown.clone();
    let admin = scene.rig.running().admin;
    let get = |id: &str, token: &str, path: &str| {
        format!("GET /vendor/{id}/{path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n")
    };
    let (warm, cold) = (scene.warm.clone(), scene.cold[0].clone());
    let mut clients = [(); 3].map(|()| scene.rig.client());
    for client in &mut clients {
        client.send(&get(&warm.0, &warm.1, "x"));
        assert_eq!(client.answer("GET").status, 200);
    }
    let [mut slow, mut one, mut two] = clients;
    slow.send(&get(&warm.0, &warm.1, "slow"));
    let begun = Instant::now();
    while scene.rig.vendor.requests().last().is_none_or(|last| !last.target().ends_with("/slow")) {
        assert!(begun.elapsed() < RECOVERY);
        std::thread::sleep(Duration::from_millis(5));
    }
    let call = |method: &str, path: &str, body: &str| {
        let mut client = Client::connect(admin, shown.clone());
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        client.request(method, path, &[("authorization", &bearer)], body.as_bytes())
    };
    let add = |customer: &str| {
        let value = scene.rig.canary.text();
        serde_json::json!({ "customer": customer, "integration": "vendor", "fields": { "token": value } })
            .to_string()
    };
    let (add_warm, add_cold) = (add("warm"), add("cold-1"));
    let spare = format!("/v1/secrets/{}", scene.spare);
    std::thread::scope(|threads| {
        let asker = threads.spawn(|| {
            let begun = Instant::now();
            while readiness(&call("GET", "/readyz", "")) != Answer::NotReady {
                assert!(begun.elapsed() < Duration::from_secs(1), "a relay that stops says that it is ready");
                std::thread::sleep(Duration::from_millis(5));
            }
            one.send(&get(&warm.0, &warm.1, "x"));
            two.send(&get(&cold.1, &cold.2, "x"));
            let did = [
                (Asked::UseWarm, seen(&one.answer("GET"))),
                (Asked::UseCold, seen(&two.answer("GET"))),
                (Asked::AddWarm, seen(&call("POST", "/v1/secrets", &add_warm))),
                (Asked::AddCold, seen(&call("POST", "/v1/secrets", &add_cold))),
                (Asked::Revoke, seen(&call("DELETE", &spare, ""))),
                (Asked::Readiness, readiness(&call("GET", "/readyz", ""))),
            ];
            assert_eq!(slow.answer("GET").status, 200, "what was under way was cut");
            did
        });
        scene.rig.stop();
        for (asked, did) in asker.join().unwrap() {
            assert_eq!(did, State::Draining.answer(asked), "draining x {asked:?}");
            assert!(cells.insert((State::Draining, asked)));
        }
    });
    let begun = Instant::now();
    scene.rig.start();
    assert_eq!(scene.ask(Asked::Readiness), Answer::Ready);
    assert_eq!(scene.ask(Asked::UseCold), Answer::Served);
    assert!(begun.elapsed() < RECOVERY);
}

#[test]
fn the_table_says_of_every_state_what_health_can_say() {
    for state in State::ALL {
        for asked in Asked::ALL {
            let readiness =
                matches!(state.answer(asked), Answer::Ready | Answer::Degraded | Answer::NotReady);
            assert_eq!(readiness, asked == Asked::Readiness, "{state:?} x {asked:?}");
        }
        assert_ne!(state.as_str(), "ok");
        let same =
            State::ALL.iter().filter(|other| (other.of(), other.as_str()) == (state.of(), state.as_str()));
        assert_eq!(same.count(), 1, "two states of {:?} are called {}", state.of(), state.as_str());
    }
    let names: BTreeSet<&str> = Dependency::ALL.iter().map(|dependency| dependency.as_str()).collect();
    assert_eq!(names.len(), Dependency::ALL.len());
}

#[test]
fn the_table_that_users_read_is_the_one_in_code() {
    let readme = include_str!("../../README.md");
    let cell = |answer: Answer| match answer {
        Answer::Served => "served".to_owned(),
        Answer::Refused(code) => format!("`{}`", code.as_str()),
        Answer::Ready => "ready".to_owned(),
        Answer::Degraded => "degraded".to_owned(),
        Answer::NotReady => "not ready".to_owned(),
    };
    for state in State::ALL {
        let name = match state {
            State::StoreFails => "the store fails, or is being opened again",
            State::StoreLost => "several relays use the store, and it failed for 60 s",
            State::StoreFull => "the store's disk is full",
            State::FeedLost => "the store answers, but does not tell of changes",
            State::AuditFails => "the audit cannot be written",
            State::AuditHangs => "the audit takes over 250 ms for a write",
            State::AuditSinkDown => "of several sinks of the audit one is down",
            State::KmsUnavailable => "the KMS gives no answer",
            State::KmsDenied => "the KMS denies its key",
            State::EarlierKmsUnavailable => "a KMS key in `previous` gives no answer",
            State::EarlierKmsDenied => "a KMS key in `previous` is denied",
            State::IssuerKeysStale => "an issuer's keys cannot be read, older ones are in use",
            State::IssuerKeysMissing => "there are no keys of an issuer, or none read for 24 h",
            State::ClockJumped => "the clock jumped by over a minute",
            State::VendorDown => "the vendor is down",
            State::Draining => "relay is shutting down",
        };
        let cells: Vec<String> = Asked::ALL.into_iter().map(|asked| cell(state.answer(asked))).collect();
        let row = format!("| {name} | {} |\n", cells.join(" | "));
        assert!(readme.contains(&row), "README.md has not the row {row}");
    }
}

#[test]
fn a_purge_by_the_operator_is_recorded_and_the_next_use_asks_the_kms() {
    let scene = Scene::set(State::Draining);
    let before = scene.kms.unwraps();
    assert_eq!(scene.ask(Asked::UseWarm), Answer::Served);
    assert_eq!(scene.kms.unwraps(), before);
    let answer = scene.rig.admin("POST", "/v1/keys/purge", None);
    assert_eq!((answer.status, &answer.json()["dropped"]), (200, &serde_json::json!(1)), "{}", answer.text());
    assert_eq!(scene.ask(Asked::UseWarm), Answer::Served);
    assert_eq!(scene.kms.unwraps(), before + 1, "a purged data key was served without asking");
    // With the KMS denying, a purge leaves nothing that could be used for a moment longer.
    scene.kms.be(Mood::Denies);
    assert_eq!(scene.rig.admin("POST", "/v1/keys/purge", None).status, 200);
    assert_eq!(scene.ask(Asked::UseWarm), Answer::Refused(Code::KeysDenied));
    let mut client = Client::connect(scene.rig.running().admin, scene.rig.shown.clone());
    assert_eq!(client.request("POST", "/v1/keys/purge", &[], b"").code(), "token_missing");
}

/// A way to the vendor that can be taken away, on a port that stays.
struct Bridge {
    port: u16,
    vendor: u16,
    listening: Arc<AtomicBool>,
    through: Arc<Mutex<Vec<TcpStream>>>,
}

impl Bridge {
    fn to(vendor: u16) -> Self {
        let listener = port::listener();
        let port = listener.local_addr().unwrap().port();
        let bridge = Self { port, vendor, listening: Arc::default(), through: Arc::default() };
        bridge.listen(listener);
        bridge
    }

    fn listen(&self, listener: TcpListener) {
        self.listening.store(true, SeqCst);
        let (listening, through, vendor) = (self.listening.clone(), self.through.clone(), self.vendor);
        std::thread::spawn(move || {
            for app in listener.incoming().flatten() {
                if !listening.load(SeqCst) {
                    return;
                }
                let there = TcpStream::connect(("127.0.0.1", vendor)).unwrap();
                through.lock().unwrap().extend([app.try_clone().unwrap(), there.try_clone().unwrap()]);
                pump(app.try_clone().unwrap(), there.try_clone().unwrap());
                pump(there, app);
            }
        });
    }

    fn close(&self) {
        if self.listening.swap(false, SeqCst) {
            // Wakes the listener, which then goes.
            drop(TcpStream::connect(("127.0.0.1", self.port)));
            for stream in self.through.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            let begun = Instant::now();
            while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                assert!(begun.elapsed() < RECOVERY, "the bridge does not close");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn open(&self) {
        if !self.listening.load(SeqCst) {
            let address = SocketAddr::from(([127, 0, 0, 1], self.port));
            self.listen(TcpListener::bind(address).unwrap());
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let mut piece = [0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            if to.write_all(&piece[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// A sink that can be told to fail, or to hang.
struct Disk {
    inner: MemorySink,
    switches: Arc<Switches>,
}

impl Sink for Disk {
    fn append(&mut self, bytes: &[u8], durability: Durability) -> std::io::Result<()> {
        while self.switches.audit_hangs.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.switches.audit_fails.load(SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.inner.append(bytes, durability)
    }

    fn members(&self) -> Vec<Arc<dyn Member>> {
        vec![Arc::new(Second(self.switches.clone()))]
    }
}

/// Another sink beside it.
struct Second(Arc<Switches>);

impl Member for Second {
    fn name(&self) -> &'static str {
        "second"
    }
    fn fault(&self) -> Option<String> {
        self.0.audit_sink_down.load(SeqCst).then(|| "told to be down".to_owned())
    }
    fn lost(&self) -> u64 {
        0
    }
}

/// A store that outlives its relay and can be told to fail, or that it is full.
struct Shelf {
    inner: Arc<Memory>,
    switches: Arc<Switches>,
}

impl Shelf {
    fn unless_it_fails<'a, T: 'a + Send>(&self, call: Call<'a, T>) -> Call<'a, T> {
        if self.switches.store_fails.load(SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable("told to fail".to_owned())) });
        }
        call
    }

    fn if_there_is_room<'a, T: 'a + Send>(&self, call: Call<'a, T>) -> Call<'a, T> {
        if self.switches.store_full.load(SeqCst) {
            return Box::pin(async { Err(StoreError::Full) });
        }
        self.unless_it_fails(call)
    }
}

impl Store for Shelf {
    fn secret<'a>(&'a self, c: &'a Customer, id: SecretId) -> Call<'a, Option<SecretRow>> {
        self.unless_it_fails(self.inner.secret(c, id))
    }
    fn secrets<'a>(&'a self, c: &'a Customer, after: Option<SecretId>, n: usize) -> Call<'a, Vec<SecretRow>> {
        self.unless_it_fails(self.inner.secrets(c, after, n))
    }
    fn owner(&self, id: SecretId) -> Call<'_, Option<Customer>> {
        self.unless_it_fails(self.inner.owner(id))
    }
    fn put_secret(&self, row: SecretRow, expected: Expected) -> Call<'_, ()> {
        self.if_there_is_room(self.inner.put_secret(row, expected))
    }
    fn remove_secret<'a>(&'a self, c: &'a Customer, id: SecretId) -> Call<'a, bool> {
        self.unless_it_fails(self.inner.remove_secret(c, id))
    }
    fn data_key<'a>(&'a self, c: &'a Customer, id: DataKeyId) -> Call<'a, Option<Bytes>> {
        self.unless_it_fails(self.inner.data_key(c, id))
    }
    fn active_data_key<'a>(&'a self, c: &'a Customer) -> Call<'a, Option<(DataKeyId, Bytes)>> {
        self.unless_it_fails(self.inner.active_data_key(c))
    }
    fn add_data_key<'a>(&'a self, c: &'a Customer, id: DataKeyId, w: Bytes) -> Call<'a, ()> {
        self.if_there_is_room(self.inner.add_data_key(c, id, w))
    }
    fn meta<'a>(&'a self, name: &'a str) -> Call<'a, Option<Bytes>> {
        self.unless_it_fails(self.inner.meta(name))
    }
    fn swap_meta<'a>(&'a self, name: &'a str, expected: Option<Bytes>, value: Bytes) -> Call<'a, ()> {
        self.if_there_is_room(self.inner.swap_meta(name, expected, value))
    }
    fn lease<'a>(&'a self, name: &'a str, holder: uuid::Uuid, ttl: Duration) -> Call<'a, bool> {
        self.unless_it_fails(self.inner.lease(name, holder, ttl))
    }
    fn release<'a>(&'a self, name: &'a str, holder: uuid::Uuid) -> Call<'a, ()> {
        self.unless_it_fails(self.inner.release(name, holder))
    }
    fn put_meta<'a>(&'a self, name: &'a str, value: Bytes) -> Call<'a, ()> {
        self.if_there_is_room(self.inner.put_meta(name, value))
    }
    fn has_room(&self) -> Call<'_, bool> {
        let full = self.switches.store_full.load(SeqCst);
        self.unless_it_fails(Box::pin(async move { Ok(!full) }))
    }
    fn upkeep(&self) -> &dyn Upkeep {
        self.inner.upkeep()
    }
    fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.changes()
    }
    fn feed(&self) -> watch::Receiver<Feed> {
        self.switches.feed.subscribe()
    }
}
