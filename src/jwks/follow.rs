//! When a key set is read: at start, when its age says so, when a request names a key it does not have.
//!
//! One task per issuer on the control runtime, so that there is never more than one call under way. A set that
//! was read replaces the one before, so a removed key dies with the next reading, 10 minutes at most after its
//! removal; a failure leaves the last good set, for 24 hours. A file is looked at every few seconds and never
//! grows stale.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};

use super::current::{Generation, IssuerKeys};
use super::set::{Algorithm, JwksError, KeySet, LARGEST_DOCUMENT};
use super::source::{Address, Source};
use super::times::Times;

/// Between two tries while there is no set at all: relay is of no use until one succeeds.
const LONGEST_RETRY: Duration = Duration::from_secs(4);

/// What became of one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Another set than before, of so many keys.
    Changed(usize),
    /// The same set.
    Unchanged,
    /// Nothing could be read, or what was read cannot be used.
    Failed,
    /// The set is too old to be believed, or the issuer has taken all keys back.
    Emptied,
}

/// Told of every reading, for the operator's numbers.
pub type Told = Box<dyn Fn(News) + Send + Sync>;

/// Follows the keys of the issuer `name` at `source` for as long as they are used. A file is read before this
/// returns.
///
/// # Errors
/// A file that is not there or holds no usable set. An address is allowed to come later.
pub fn follow(
    name: &str,
    source: Source,
    algorithms: Vec<Algorithm>,
    (generation, times): (Generation, Times),
    told: Told,
    control: &Handle,
) -> Result<Arc<IssuerKeys>, String> {
    let wake = Arc::new(Notify::new());
    match source {
        Source::File(path) => {
            let keys = Arc::new(IssuerKeys::new(name, generation, None, times));
            let seen = changed(&path);
            let set = read(&path, &algorithms).map_err(|(why, _)| why)?;
            told(News::Changed(set.len()));
            keys.take(set);
            let follower =
                Follower { name: name.to_owned(), keys: Arc::downgrade(&keys), algorithms, times, told };
            control.spawn(async move { follower.file(&path, seen).await });
            Ok(keys)
        }
        Source::Address(address) => {
            let keys = Arc::new(IssuerKeys::new(name, generation, Some(wake.clone()), times));
            let follower =
                Follower { name: name.to_owned(), keys: Arc::downgrade(&keys), algorithms, times, told };
            // Before anybody can ask, so that the first requests wait for this reading.
            keys.begin();
            control.spawn(async move { follower.address(&address, &wake).await });
            Ok(keys)
        }
    }
}

struct Follower {
    name: String,
    keys: Weak<IssuerKeys>,
    algorithms: Vec<Algorithm>,
    times: Times,
    told: Told,
}

impl Follower {
    async fn address(&self, address: &Address, wake: &Notify) {
        let mut retry = self.times.first_retry;
        loop {
            let Some(keys) = self.keys.upgrade() else { return };
            let began = Instant::now();
            keys.begin();
            let loaded = address.load(self.times.call).await.map_err(|error| error.to_string());
            let max_age = loaded.as_ref().ok().and_then(|loaded| loaded.max_age);
            let set = match loaded {
                Ok(loaded) => KeySet::parse(&loaded.document, &self.algorithms).map_err(|error| said(&error)),
                Err(why) => Err((why, false)),
            };
            let good = self.took(&keys, set);
            keys.end();
            let mut next = if good {
                retry = self.times.first_retry;
                began + max_age.unwrap_or(self.times.age).clamp(self.times.least_age, self.times.most_age)
            } else if keys.current().is_some() {
                began + self.times.floor
            } else {
                let pause = retry;
                retry = (retry * 2).min(LONGEST_RETRY);
                Instant::now() + pause
            };
            if let Some(expires) = keys.expires(self.times.stale).filter(|_| !good) {
                if expires <= Instant::now() {
                    tracing::error!(
                        issuer = self.name,
                        "the issuer's keys could not be read for too long: its tokens are refused"
                    );
                    keys.expire();
                    (self.told)(News::Emptied);
                }
                next = next.min(expires.max(Instant::now() + self.times.first_retry));
            }
            drop(keys);
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = wake.notified() => {}
            }
        }
    }

    async fn file(&self, path: &Path, mut seen: Option<(SystemTime, u64)>) {
        loop {
            sleep(self.times.look).await;
            let Some(keys) = self.keys.upgrade() else { return };
            let now = changed(path);
            if now != seen {
                seen = now;
                self.took(&keys, read(path, &self.algorithms));
            }
        }
    }

    /// Takes over what was read, or says why not; whether it was good.
    fn took(&self, keys: &IssuerKeys, set: Result<KeySet, (String, bool)>) -> bool {
        let issuer = self.name.as_str();
        match set {
            Ok(set) => {
                let (count, kids) = (set.len(), set.kids().collect::<Vec<_>>().join(" "));
                let news = if keys.take(set) { News::Changed(count) } else { News::Unchanged };
                if news != News::Unchanged {
                    tracing::info!(issuer, kids, "the issuer's keys were read");
                }
                (self.told)(news);
                true
            }
            Err((why, emptied)) => {
                if keys.failed(why.clone()) {
                    let serves = if keys.current().is_some() {
                        "the last good ones serve on"
                    } else {
                        "there are none yet, and its tokens are refused until there are"
                    };
                    tracing::warn!(issuer, why, "the issuer's keys cannot be read; {serves}");
                }
                (self.told)(News::Failed);
                if emptied && keys.emptied() {
                    tracing::error!(issuer, "the issuer has taken all its keys back: its tokens are refused");
                    (self.told)(News::Emptied);
                }
                false
            }
        }
    }
}

/// The words for it, and whether the document says that there is no key any more.
fn said(error: &JwksError) -> (String, bool) {
    let emptied = *error == JwksError::NoUsableKey;
    (error.to_string(), emptied)
}

fn read(path: &Path, algorithms: &[Algorithm]) -> Result<KeySet, (String, bool)> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| (format!("{}: {error}", path.display()), false);
    let mut document = String::new();
    let most = u64::try_from(LARGEST_DOCUMENT).unwrap_or(u64::MAX);
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(most + 1).read_to_string(&mut document).map_err(failed)?;
    KeySet::parse(&document, algorithms).map_err(|error| said(&error))
}

/// What tells that a file was exchanged.
fn changed(path: &Path) -> Option<(SystemTime, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}
