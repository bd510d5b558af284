//! One question per KMS key that answers for all of its data keys.
//!
//! A record that the KMS key opened before is unwrapped again: every 30 s while it works, every 2 s while it
//! does not, at once when an answer raised a doubt. A denial counts only if a second record, of another
//! customer, is denied too. What must never enter: an outage taken for a denial.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::flight::Shared;
use super::standing::{KmsKey, Record, Standing};
use crate::kms::KmsError;

/// How often a KMS key that works is asked: with the call's own time, a denial shows within 60 s.
const EVERY: Duration = Duration::from_secs(30);
/// How often one that does not work is asked: recovery shows within 5 s.
const AGAIN: Duration = Duration::from_secs(2);
/// Doubts that come faster than this are looked into together.
const DOUBTS: Duration = Duration::from_millis(250);
/// A denial that lasts is no mistake: what is still at hand of its data keys is wiped.
const WIPED_AFTER: Duration = Duration::from_secs(60);

/// What one probe came to.
enum Found {
    /// There is nothing to ask with.
    Nothing,
    Works,
    Unavailable(String),
    Denied(String),
    /// One record is denied and the other gave no answer.
    Undecided,
}

pub(super) async fn watch(shared: Weak<Shared>, place: usize) {
    let Some(key) = shared.upgrade().and_then(|shared| shared.kms_keys.get(place).cloned()) else { return };
    let (mut soon, mut asked) = (false, Instant::now());
    loop {
        if soon || key.standing() != Standing::Works {
            sleep_until(asked + AGAIN).await;
        } else {
            tokio::select! {
                () = sleep(EVERY) => {}
                () = key.doubted.notified() => {}
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        asked = Instant::now();
        soon = settle(&shared, &key).await;
        drop(shared);
        sleep(DOUBTS).await;
    }
}

/// Asks, and notes what was found; whether it must be asked again soon.
async fn settle(shared: &Arc<Shared>, key: &Arc<KmsKey>) -> bool {
    match ask(shared, key).await {
        Found::Nothing | Found::Works => key.becomes(Standing::Works, ""),
        // What is denied stays denied until the KMS says otherwise.
        Found::Unavailable(_) if key.standing() == Standing::Denied => {}
        Found::Unavailable(why) => key.becomes(Standing::Unavailable, &why),
        Found::Denied(why) => {
            key.becomes(Standing::Denied, &why);
            if key.stands_for() >= WIPED_AFTER {
                shared.drop_all(|held| Arc::ptr_eq(&held.by, key));
            }
        }
        Found::Undecided => return true,
    }
    false
}

async fn ask(shared: &Arc<Shared>, key: &Arc<KmsKey>) -> Found {
    let mut denied: Option<(Record, String)> = None;
    for record in key.records(shared.ages.hard) {
        let about = (&record.customer, record.id);
        match shared.ask(key, about, &record.wrapped).await {
            Ok(_) => {
                if let Some((alone, _)) = denied {
                    // A policy on that customer: it alone is denied.
                    key.unlearn(|other| *other == alone);
                    shared.forget(&alone.customer, |id| id == alone.id);
                }
                return Found::Works;
            }
            Err(KmsError::Denied(why)) => denied = Some((record, why)),
            Err(KmsError::Unavailable(why)) if denied.is_none() => return Found::Unavailable(why),
            Err(KmsError::Unavailable(_)) => return Found::Undecided,
            // It says no more of the KMS key than that it answers.
            Err(KmsError::Broken(_)) => key.unlearn(|other| *other == record),
        }
    }
    denied.map_or(Found::Nothing, |(_, why)| Found::Denied(why))
}
