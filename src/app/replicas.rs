//! What the store keeps of each replica's audit: that there is one, and its newest anchor.
//!
//! Whoever can write a replica's file cannot write here, so a cut, and a file that is gone, stay visible.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::admin::replicas;
use crate::audit::Anchor;
use crate::audit::replica::{NAMELESS_ANCHOR, REPLICAS};
use crate::store::{Store, StoreError};

/// Replicas start at the same time, and one at a time gets its name in.
const TRIES: usize = 100;

/// Adds this replica to those that the store knows.
pub(super) async fn note(store: &Arc<dyn Store>, replica: &str) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        let (before, mut names) = replicas(&**store).await?;
        if names.iter().any(|name| name == replica) {
            return Ok(());
        }
        names.push(replica.to_owned());
        let names = serde_json::to_vec(&names).map_err(|error| StoreError::Damaged(error.to_string()))?;
        match store.swap_meta(REPLICAS, before, Bytes::from(names)).await {
            Err(StoreError::Conflict) => {}
            done => return done,
        }
    }
    Err(StoreError::Conflict)
}

/// The only replica that the store knows. Of a store that one process opens it is this one, whatever the machine is
/// called: so an audit that is gone is missed on another machine too.
pub(super) async fn alone(store: &Arc<dyn Store>) -> Result<Option<String>, StoreError> {
    Ok(<[String; 1]>::try_from(known(&**store).await?).ok().map(|[name]| name))
}

/// All that the store knows.
pub(super) async fn known(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    Ok(replicas(store).await?.1)
}

/// The newest anchor of an earlier relay that had no name, in a store that knows no replica yet: of another one's
/// audit it says nothing.
pub(super) async fn nameless(store: &Arc<dyn Store>) -> Result<Option<Anchor>, StoreError> {
    if !known(&**store).await?.is_empty() {
        return Ok(None);
    }
    let line = store.meta(NAMELESS_ANCHOR).await?;
    Ok(line.and_then(|line| Anchor::parse(&line)))
}

/// Keeps each anchor at `place`, and tells when another process keeps its own there too.
pub(super) fn keeper(
    store: Arc<dyn Store>,
    place: String,
    newest: Option<&Anchor>,
    control: Handle,
) -> Box<dyn Fn(Anchor) + Send> {
    let stands = Mutex::new(newest.map(|anchor| Bytes::copy_from_slice(anchor.as_bytes())));
    Box::new(move |anchor| {
        let line = Bytes::copy_from_slice(anchor.as_bytes());
        let mut stands = stands.lock().unwrap_or_else(PoisonError::into_inner);
        let swapped = control.block_on(store.swap_meta(&place, stands.clone(), line.clone()));
        let kept = match swapped {
            Err(StoreError::Conflict) => {
                tracing::error!(
                    place,
                    "the newest anchor in the store is not the one that was put there: does another process run as \
                     this replica? Give each a name of its own with [audit] replica"
                );
                control.block_on(store.put_meta(&place, line.clone()))
            }
            done => done,
        };
        match kept {
            Ok(()) => *stands = Some(line),
            Err(error) => {
                tracing::warn!(%error, "the newest audit anchor could not be kept in the store");
            }
        }
    })
}
