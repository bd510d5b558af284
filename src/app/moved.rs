//! A store that came of an import: not served before all of it is there, and told to the audit once.
//!
//! What must never enter: the import itself.

use super::{StartError, failed, note, replicas};
use crate::audit::Chain;
use crate::clock;
use crate::store::moving::{IMPORT, Imported};
use crate::store::{Store, StoreError};

/// Refuses a store whose import has not ended. Asked when the store-wide keys stand in it: an import into a store
/// that has some is refused in its turn, so of the two that begin at once at most one goes on.
pub(super) async fn refuse_half(store: &dyn Store) -> Result<(), StartError> {
    match Imported::of(store).await.map_err(failed("[store]"))? {
        Some(import) if !import.ended => {
            let why = format!(
                "an import of the export {} was begun in it and has not ended. Go on with `relay store import \
                 FILE --resume`, or begin again with an empty store",
                import.id
            );
            Err(StartError { what: "[store]", why })
        }
        _ => Ok(()),
    }
}

/// What to say where no anchor is at hand of an audit that an imported store had: by its own count of writes nobody
/// can tell then whether the export was the newest, and what a replica adds would soon make it look so. It is asked
/// until the audit knows of the import.
pub(super) async fn unproven(store: &dyn Store, has_anchor: bool) -> Result<Option<String>, StoreError> {
    let Some(import) = Imported::of(store).await?.filter(|import| !import.noted && !has_anchor) else {
        return Ok(None);
    };
    let names = replicas::known(store).await?;
    Ok((!names.is_empty()).then(|| {
        format!(
            "it came of an export of {}, whose relays ({}) had an audit, and the file here has nothing of it: without \
             it nobody can tell an older export from the newest. Start first the relay that has its audit, or start \
             with `relay run --accept-older-store`",
            clock::rfc3339(import.made_at),
            names.join(", ")
        )
    }))
}

/// Tells the audit of an import that it does not know of yet.
pub(super) async fn tell(store: &dyn Store, chain: &Chain) -> Result<(), StartError> {
    let Some(mut import) = Imported::of(store).await.map_err(failed("[store]"))?.filter(|one| !one.noted)
    else {
        return Ok(());
    };
    let stands = import.stored();
    let told = format!(
        "store.import: export {} of {}, by {}: customers {}, secrets {}, generation {}",
        import.id,
        clock::rfc3339(import.made_at),
        import.by.escape_debug(),
        import.customers,
        import.secrets,
        import.generation
    );
    note(chain, &told).await.map_err(failed("[audit]"))?;
    import.noted = true;
    match store.swap_meta(IMPORT, Some(stands), import.stored()).await {
        // Another replica told it meanwhile.
        Ok(()) | Err(StoreError::Conflict) => Ok(()),
        Err(error) => Err(failed("[store]")(error)),
    }
}
