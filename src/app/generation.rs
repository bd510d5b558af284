//! How many writes the store has seen, for the audit's anchors: a store that has seen fewer than an anchor of any
//! relay's says is an older copy. Each relay looks at its own anchors; what others write only makes the number grow.
//!
//! An anchor carries a number that was durable in the store when it was read, so a store is never behind its own
//! anchors, whatever crashed when. It is read every few seconds: writes of the last seconds before a crash, and
//! of the last minute in which no anchor was made, are the ones whose loss is not found.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::audit::{self, Anchor, PublicKey, Sink};
use crate::store::{Store, StoreError};

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(5);

/// The number that the next anchor carries.
#[derive(Clone)]
pub(super) struct Generation {
    store: Arc<dyn Store>,
    shown: Arc<AtomicU64>,
}

impl Generation {
    /// As the store tells it now.
    pub(super) async fn of(store: &Arc<dyn Store>) -> Result<Self, StoreError> {
        let shown = Arc::new(AtomicU64::new(store.upkeep().generation().await?));
        Ok(Self { store: store.clone(), shown })
    }

    /// For the audit.
    pub(super) fn shown(&self) -> Arc<AtomicU64> {
        self.shown.clone()
    }

    /// Reads it anew. A store that does not answer leaves the number that was durable before; one that was put back
    /// to an older copy beside this relay does, too, so that the next start refuses it.
    pub(super) async fn read(&self) {
        let Ok(now) = self.store.upkeep().generation().await else { return };
        let before = self.shown.fetch_max(now, Ordering::Relaxed);
        if now < before {
            tracing::error!(
                now,
                before,
                "the store has seen fewer writes than it had: an older copy was put in its place, and what was \
                 disabled, removed or rotated since may be usable again"
            );
        }
    }

    /// Reads it for as long as the task lives.
    pub(super) async fn follow(self) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.read().await;
        }
    }

    /// Whether the audit has an anchor, signed with this store's own key; and what to say where the newest saw more
    /// writes than the store has, or where there is none although the store `knows` one.
    pub(super) fn behind(
        &self,
        sink: &mut dyn Sink,
        key: PublicKey,
        knows: Option<&Anchor>,
    ) -> Result<(bool, Option<String>), audit::AuditError> {
        let newest = audit::newest_anchor(sink)?.filter(|anchor| anchor.is_signed_by(key));
        if let (None, Some(known)) = (&newest, knows) {
            let why = format!(
                "the store has an audit with an anchor of {}, and the file here has none of it: without it nobody can \
                 tell an older copy of the store from the newest. Put the audit back, or start with \
                 `relay run --accept-older-store`",
                known.time()
            );
            return Ok((false, Some(why)));
        }
        let has = self.shown.load(Ordering::Relaxed);
        let has_anchor = newest.is_some();
        let behind = newest.filter(|anchor| anchor.generation() > has).map(|anchor| {
            format!(
                "the store has seen {has} writes, and its own audit says that at {} it had seen {}: it is an older \
                 copy. What was disabled, removed or rotated since may be usable again. Put the newer store back, \
                 or start with `relay run --accept-older-store`",
                anchor.time(),
                anchor.generation()
            )
        });
        Ok((has_anchor, behind))
    }
}
