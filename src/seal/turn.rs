//! Work that one relay of all that use a store does at a time: renewing a secret's token, a job.
//!
//! A turn is a lease of the store's, renewed for as long as its holder works, and free again by itself when that one
//! dies. What must never enter: work that would be wrong if two did it after all; a holder that stood still for
//! longer than its turn lasts learns it late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::Sealer;
use crate::store::{Store, StoreError};

/// A turn that was had; it ends with its drop.
pub struct Turn {
    held: Arc<Held>,
    keeping: Option<JoinHandle<()>>,
    control: Handle,
}

struct Held {
    store: Arc<dyn Store>,
    name: String,
    holder: Uuid,
    lasts: Duration,
    is_lost: AtomicBool,
}

impl Sealer {
    /// The turn of that name, unless another relay has it. It lasts this long where it is not renewed any more. To be
    /// called on the control runtime.
    ///
    /// # Errors
    /// The store's own.
    pub async fn turn(&self, name: String, lasts: Duration) -> Result<Option<Turn>, StoreError> {
        let (store, holder) = (self.store.clone(), Uuid::new_v4());
        let held = Arc::new(Held { store, name, holder, lasts, is_lost: AtomicBool::new(false) });
        // A task of its own: whoever is stopped while the store is asked leaves a turn that ends with its drop here.
        let taking = Handle::current().spawn(async move {
            let begun = Instant::now();
            if !held.take().await? {
                return Ok(None);
            }
            let control = Handle::current();
            let keeping = Some(control.spawn(keep(held.clone(), begun)));
            Ok(Some(Turn { held, keeping, control }))
        });
        taking.await.unwrap_or_else(|_| Err(StoreError::Unavailable("its task was stopped".into())))
    }
}

impl Turn {
    /// Whether another relay may have it by now.
    pub fn is_lost(&self) -> bool {
        self.held.is_lost.load(Ordering::Acquire)
    }

    /// Ends it, and waits until the store knows.
    pub async fn end(mut self) {
        // Goes on where its caller is stopped.
        let _ = self.control.spawn(give_back(self.held.clone(), self.keeping.take())).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.keeping.is_some() {
            // Without a runtime, at relay's end, it is free when it has lasted.
            self.control.spawn(give_back(self.held.clone(), self.keeping.take()));
        }
    }
}

impl Held {
    async fn take(&self) -> Result<bool, StoreError> {
        self.store.lease(&self.name, self.holder, self.lasts).await
    }
}

/// Renews it three times in its length.
async fn keep(held: Arc<Held>, begun: Instant) {
    let mut sure_until = begun + held.lasts;
    loop {
        sleep(held.lasts / 3).await;
        let asked = Instant::now();
        match timeout(held.lasts / 3, held.take()).await {
            Ok(Ok(true)) => sure_until = asked + held.lasts,
            Ok(Ok(false)) => break,
            Ok(Err(_)) | Err(_) if Instant::now() < sure_until => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    held.is_lost.store(true, Ordering::Release);
}

async fn give_back(held: Arc<Held>, keeping: Option<JoinHandle<()>>) {
    if let Some(keeping) = keeping {
        keeping.abort();
        // A renewal under way would take it again.
        let _ = keeping.await;
    }
    // What the store does not hear ends by itself.
    let _ = held.store.release(&held.name, held.holder).await;
}
