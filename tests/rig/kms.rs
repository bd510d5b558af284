//! A KMS that does what it is told: answers, is silent, fails, denies everyone or one customer.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay::kms::local::Local;
use relay::kms::{Call, KeyContext, Kms, KmsError};
use relay::secret::Secret;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Takes the call and never answers.
    Silent,
    /// Answers that it cannot.
    Fails,
    Denies,
}

pub struct Told {
    inner: Local,
    name: &'static str,
    mood: Mutex<Mood>,
    denied: Mutex<HashSet<String>>,
    latency: Mutex<Duration>,
    unwraps: AtomicUsize,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Told {
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            inner: Local::ephemeral(),
            name,
            mood: Mutex::new(Mood::Well),
            denied: Mutex::default(),
            latency: Mutex::default(),
            unwraps: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    pub fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Denies what belongs to this customer, and nothing else.
    pub fn deny(&self, customer: &str) {
        self.denied.lock().unwrap().insert(customer.to_owned());
    }

    /// Denies nobody for what belongs to whom.
    pub fn denied_none(&self) {
        self.denied.lock().unwrap().clear();
    }

    pub fn take(&self, latency: Duration) {
        *self.latency.lock().unwrap() = latency;
    }

    /// Calls to unwrap so far.
    pub fn unwraps(&self) -> usize {
        self.unwraps.load(SeqCst)
    }

    /// The most calls that were under way at once.
    pub fn most(&self) -> usize {
        self.most.load(SeqCst)
    }

    async fn answer(&self, customer: &str) -> Result<(), KmsError> {
        let _under_way = UnderWay::begin(self);
        let latency = *self.latency.lock().unwrap();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if self.denied.lock().unwrap().contains(customer) {
            return Err(KmsError::Denied("a policy on this context".to_owned()));
        }
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => Ok(()),
            Mood::Silent => std::future::pending().await,
            Mood::Fails => Err(KmsError::Unavailable("told to fail".to_owned())),
            Mood::Denies => Err(KmsError::Denied("the key is disabled".to_owned())),
        }
    }
}

struct UnderWay<'a>(&'a Told);

impl<'a> UnderWay<'a> {
    fn begin(told: &'a Told) -> Self {
        let now = told.under_way.fetch_add(1, SeqCst) + 1;
        told.most.fetch_max(now, SeqCst);
        Self(told)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
    }
}

impl Kms for Told {
    fn provider(&self) -> &'static str {
        "told"
    }

    fn key(&self) -> String {
        self.name.to_owned()
    }

    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> Call<'a, Vec<u8>> {
        Box::pin(async move {
            self.answer(context.customer.as_str()).await?;
            self.inner.wrap(context, key).await
        })
    }

    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret> {
        Box::pin(async move {
            self.unwraps.fetch_add(1, SeqCst);
            self.answer(context.customer.as_str()).await?;
            self.inner.unwrap(context, wrapped).await
        })
    }

    fn new_version(&self) -> Call<'_, ()> {
        self.inner.new_version()
    }
}
