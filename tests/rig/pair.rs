//! Two relays over one store, each with its own ports, its own audit and its own way to the store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::app::{Options, Running, start_with};
use relay::config::{self, Files};
use relay::stage::authorize::records::Bounds;
use relay::store::Store;
use relay::store::memory::Memory;

use super::client::{Answer, Client};
use super::vendor::Vendor;
use super::way::Way;
use super::{ADMIN_TOKEN, Rig, Settings};

pub struct Pair {
    /// The first; the canary is hunted in all that either showed.
    pub rig: Rig,
    second: Option<Running>,
    /// The first's and the second's way to the store.
    pub ways: [Arc<Way>; 2],
    bounds: Bounds,
}

impl Pair {
    /// Each over its own end of one store.
    pub fn over(stores: [Arc<dyn Store>; 2], settings: Settings, vendor: Vendor, bounds: Bounds) -> Self {
        let ways = stores.map(Way::to);
        let first = ways[0].clone();
        let options = move || Options { store: Some(first.clone()), bounds, ..Options::default() };
        let rig = Rig::before(Settings { options: Box::new(options), ..settings }, vendor);
        let mut pair = Self { rig, second: None, ways, bounds };
        pair.start_second();
        pair
    }

    pub fn start_second(&mut self) {
        let toml = self
            .rig
            .toml()
            .replace("path = \"audit.jsonl\"", "path = \"audit-b.jsonl\"\nreplica = \"second\"");
        assert!(toml.contains("audit-b.jsonl"));
        let config = config::parse(&toml, "relay.toml", self.rig.folder.path(), &[], Files::Required);
        let config = config.unwrap_or_else(|report| panic!("{}", report.render(false)));
        let options =
            Options { store: Some(self.ways[1].clone()), bounds: self.bounds, ..Options::default() };
        let runtime = self.rig.runtime();
        let started = runtime.block_on(start_with(config, options, runtime.handle().clone()));
        self.second =
            Some(started.unwrap_or_else(|error| panic!("the second relay does not start: {error}")));
    }

    pub fn stop_second(&mut self) {
        if let Some(second) = self.second.take() {
            self.rig.shown.lock().unwrap().extend_from_slice(second.metrics().render().as_bytes());
            self.rig.runtime().block_on(second.stop());
        }
    }

    pub fn second(&self) -> &Running {
        self.second.as_ref().expect("the second relay runs")
    }

    /// Where an app talks to the first, or to the second.
    pub fn app(&self, which: usize) -> SocketAddr {
        match which {
            0 => self.rig.app(),
            _ => self.second().app.address().unwrap(),
        }
    }

    pub fn client(&self, which: usize) -> Client {
        Client::connect(self.app(which), self.rig.shown.clone())
    }

    /// What the one relay answers to the use of a secret of acme's.
    pub fn ask(&self, which: usize, id: &str) -> Answer {
        self.ask_as(which, id, "acme")
    }

    pub fn ask_as(&self, which: usize, id: &str, customer: &str) -> Answer {
        let bearer = format!("Bearer {}", self.rig.token(customer));
        self.client(which).request("GET", &format!("/vendor/{id}/x"), &[("authorization", &bearer)], b"")
    }

    /// How long it takes until the relay answers so.
    pub fn until(&self, which: usize, id: &str, wanted: (u16, &str), most: Duration) -> Duration {
        let begun = Instant::now();
        loop {
            let answer = self.ask(which, id);
            if (answer.status, answer.code()) == wanted {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < most,
                "after {most:?} relay {which} still says {} {} instead of {wanted:?}",
                answer.status,
                answer.code()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// One call to the admin API of the first, or of the second.
    pub fn admin(&self, which: usize, method: &str, path: &str, body: &str) -> Answer {
        if which == 0 {
            return self.rig.admin(method, path, Some(body));
        }
        let mut client = Client::connect(self.second().admin, self.rig.shown.clone());
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        client.request(method, path, &headers, body.as_bytes())
    }
}

/// Both ends of a new store, in memory and, where there is one, in PostgreSQL.
pub fn stores() -> Vec<[Arc<dyn Store>; 2]> {
    let memory: Arc<dyn Store> = Arc::new(Memory::new());
    let mut all = vec![[memory.clone(), memory]];
    #[cfg(feature = "postgres")]
    if let Some(server) = super::postgres::shared() {
        let database = server.database();
        all.push([opened(&database), opened(&database)]);
    }
    all
}

/// As a relay opens it, on a runtime that outlives every test.
#[cfg(feature = "postgres")]
fn opened(database: &super::postgres::Database) -> Arc<dyn Store> {
    use relay::store::postgres::Postgres;
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    });
    let url = relay::secret::Secret::new(database.url().into_bytes());
    let open = Postgres::open(super::postgres::setup(&url), runtime.handle().clone());
    Arc::new(runtime.block_on(open).unwrap())
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop_second();
        }
    }
}
