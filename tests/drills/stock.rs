//! Secrets by the hundred thousand, sealed and stored as relay does.
//!
//! By relay's own write path, many at once: the store syncs once for all writers that wait, so a million
//! acknowledged secrets cost some thousand syncs.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay::cli::token::{Order, Signer, mint};
use relay::config::{self, Config, KmsKey, StoreChoice};
use relay::kms::cached::DataKeys;
use relay::kms::keyring::Keyring;
use relay::kms::local::Local;
use relay::model::{Customer, FieldName, IntegrationName, Policy, SecretId};
use relay::seal::{NewSecret, SealTarget, Sealer};
use relay::secret::Secret;
use relay::store::sled::Sled;
use tokio::runtime::{Handle, Runtime};

use crate::stage::Stage;

/// How many secrets one customer has.
pub const EACH: u64 = 10;
/// Writers that share a sync.
const AT_ONCE: usize = 256;

/// What was stored: [`EACH`] secrets of every customer from 0 on.
pub struct Stock {
    ids: Vec<SecretId>,
}

impl Stock {
    /// Fills the store of a stage that does not run, for its integration `vendor`.
    pub fn lay(stage: &Stage, customers: u64) -> Self {
        let runtime = Runtime::new().unwrap();
        let sealer = Arc::new(runtime.block_on(sealer(&configuration(stage), runtime.handle())));
        let none = SecretId::from_bytes([0; 16]);
        let ids = Arc::new(Mutex::new(vec![none; (customers * EACH) as usize]));
        let next = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (sealer, ids, next) = (sealer.clone(), ids.clone(), next.clone());
                runtime.spawn(async move {
                    loop {
                        let customer = next.fetch_add(1, Ordering::Relaxed);
                        if customer >= customers {
                            return;
                        }
                        for place in 0..EACH {
                            let id = sealer.add(secret(customer, place)).await.unwrap().id;
                            ids.lock().unwrap()[(customer * EACH + place) as usize] = id;
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            runtime.block_on(writer).unwrap();
        }
        drop(sealer);
        runtime.shutdown_timeout(Duration::from_secs(60));
        let ids = std::mem::take(&mut *ids.lock().unwrap());
        assert!(ids.iter().all(|id| *id != none), "a secret was not written");
        Self { ids }
    }

    /// The UUID of a customer's secret.
    pub fn id(&self, customer: u64, place: u64) -> String {
        self.ids[(customer * EACH + place) as usize].to_string()
    }
}

/// A customer's secret, as the vendor wants to be given it.
pub fn credential(customer: u64, place: u64) -> String {
    format!("sk-scale-0123456789abcdef-{customer:07}-{place:02}")
}

/// A token for each of the customers, in order.
pub fn tokens(stage: &Stage, customers: impl Iterator<Item = u64>) -> Vec<String> {
    let callers = configuration(stage).callers.remove(0);
    let key = Secret::new(std::fs::read(stage.folder.path().join("issuer.key")).unwrap());
    let signer = Signer {
        key: &key,
        kid: None,
        issuer: &callers.issuer,
        audience: &callers.audience,
        customer_claim: callers.customer.as_str(),
        secret_claim: callers.secret.as_str(),
    };
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    customers
        .map(|number| {
            let customer = name(number);
            let ttl = Duration::from_secs(3600);
            mint(&signer, &Order { customer: &customer, secret: None, scope: None, ttl }, now).unwrap()
        })
        .collect()
}

/// Where the stage's relay keeps its records.
pub fn folder(stage: &Stage) -> std::path::PathBuf {
    match configuration(stage).store {
        StoreChoice::Sled { path } => path,
        StoreChoice::Postgres(_) | StoreChoice::Memory => {
            panic!("relay init chooses another store by now")
        }
    }
}

fn name(customer: u64) -> Customer {
    Customer::parse(&format!("customer-{customer:07}")).unwrap()
}

fn secret(customer: u64, place: u64) -> NewSecret {
    let value = Secret::new(credential(customer, place).into_bytes());
    NewSecret {
        customer: name(customer),
        integration: IntegrationName::parse("vendor").unwrap(),
        label: format!("Secret {place} of customer {customer}"),
        fields: vec![(FieldName::parse("token").unwrap(), value)],
        expires_at: None,
        policy: Policy::default(),
        idempotency: None,
    }
}

fn configuration(stage: &Stage) -> Config {
    let loaded = config::load(&stage.config(), &[]);
    loaded.map(|loaded| loaded.config).unwrap_or_else(|report| panic!("{}", report.render(false)))
}

async fn sealer(config: &Config, handle: &Handle) -> Sealer {
    let (StoreChoice::Sled { path }, KmsKey::Local { file }) = (&config.store, &config.keys.current) else {
        panic!("relay init chooses another store or another KMS by now");
    };
    let opened = |path: &Path| Sled::open(path, handle.clone()).unwrap_or_else(|error| panic!("{error}"));
    let kms = Arc::new(Local::load(file).unwrap());
    let keys = Arc::new(DataKeys::new(Keyring::of(kms), AT_ONCE as u64 * 2, handle.clone()));
    let targets = config.integrations.iter().map(SealTarget::from).collect();
    Sealer::open(Arc::new(opened(path)), keys, targets).await.unwrap()
}
