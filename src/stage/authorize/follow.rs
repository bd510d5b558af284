//! What the store tells of its changes, and of how well it can tell them, taken into what is at hand.
//!
//! Two tasks on the control runtime. One forgets what changed and never waits for the store, so that no revocation
//! waits behind a slow answer. The other compares data keys at hand with the store's. What must never enter: a
//! hold on the store that outlives everybody else's; its end is the feed's.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::records::{ANSWERED_WITHIN, Inner};
use crate::kms::cached::DataKeys;
use crate::model::Customer;
use crate::store::{Change, Feed, Store};

/// Between two tries to compare all keys with a store that does not answer.
const COMPARED_AGAIN: Duration = Duration::from_secs(1);

/// Whose data keys are to be compared; `None` is everybody's.
pub(super) type Compared = mpsc::UnboundedSender<Option<Customer>>;

/// Forgets what changed, until the store is gone.
pub(super) async fn follow(
    inner: Arc<Inner>,
    mut changes: broadcast::Receiver<Change>,
    mut feed: watch::Receiver<Feed>,
) {
    let mut is_told = true;
    loop {
        let change = tokio::select! {
            biased;
            stands = feed.changed(), if is_told => {
                match stands {
                    Ok(()) => {
                        let stands = *feed.borrow_and_update();
                        inner.proof.stands(stands);
                        if stands == Feed::Live {
                            inner.doubt_all();
                            inner.tell(None);
                        }
                    }
                    // It stands as it last stood.
                    Err(_) => is_told = false,
                }
                continue;
            }
            change = changes.recv() => change,
        };
        match change {
            Ok(Change::Secret(customer, id)) => {
                let key = (customer, id);
                inner.forget(&key);
                inner.tell(Some(key));
            }
            Ok(Change::DataKeys(customer)) => {
                inner.forget_keys(&customer);
                inner.compare(Some(customer));
            }
            Ok(Change::Everything) => {
                inner.doubt_all();
                inner.compare(None);
                inner.tell(None);
            }
            Err(RecvError::Lagged(_)) => {
                inner.forget_all();
                inner.compare(None);
                inner.tell(None);
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Compares data keys at hand with the store's, in the order in which they changed.
pub(super) async fn compare(
    store: Weak<dyn Store>,
    held: Arc<DataKeys>,
    mut asked: mpsc::UnboundedReceiver<Option<Customer>>,
) {
    while let Some(whose) = asked.recv().await {
        match whose {
            Some(customer) => {
                if !compare_one(&store, &held, &customer).await {
                    held.forget_customer(&customer);
                }
            }
            None => {
                for customer in held.owners() {
                    while !compare_one(&store, &held, &customer).await {
                        if store.strong_count() == 0 {
                            return;
                        }
                        sleep(COMPARED_AGAIN).await;
                    }
                }
            }
        }
    }
}

/// A customer's keys at hand are those that the store has, as it has them; whether it said so of each.
async fn compare_one(store: &Weak<dyn Store>, held: &DataKeys, customer: &Customer) -> bool {
    let ids = held.held_of(customer);
    if ids.is_empty() {
        return true;
    }
    let Some(store) = store.upgrade() else { return false };
    for id in ids {
        match timeout(ANSWERED_WITHIN, store.data_key(customer, id)).await {
            Ok(Ok(wrapped)) => held.stands_as(customer, id, wrapped.as_deref()),
            Ok(Err(_)) | Err(_) => return false,
        }
    }
    true
}
