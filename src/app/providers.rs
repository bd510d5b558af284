//! Which provider stands behind each trait: keys, store, audit.
//!
//! With `corridor` the only file that names concrete ones.

use std::path::Path;
#[cfg(feature = "postgres")]
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::generation::Generation;
use super::{StartError, failed, moved, note, replicas};
use crate::audit::{Anchor, Log, Setup, Signer, Sink, replica};
#[cfg(feature = "azure")]
use crate::config::AzureLogin;
#[cfg(feature = "postgres")]
use crate::config::PostgresChoice;
use crate::config::{Config, Keys, KmsKey, StoreChoice, TransitLogin};
use crate::kms::Kms;
#[cfg(feature = "aws")]
use crate::kms::aws::{Aws, AwsSetup};
#[cfg(feature = "azure")]
use crate::kms::azure::{self, Azure};
use crate::kms::cached::{Called, DataKeys, Settings};
#[cfg(feature = "gcp")]
use crate::kms::gcp::Gcp;
use crate::kms::keyring::Keyring;
use crate::kms::local::Local;
use crate::kms::transit::{Transit, TransitLogin as Login, TransitSetup};
use crate::metrics::Metrics;
use crate::seal::{SealTarget, Sealer, store_wide};
use crate::store::Store;
use crate::store::memory::Memory;
#[cfg(feature = "postgres")]
use crate::store::postgres::{Postgres, Setup as PostgresSetup};
use crate::store::sled::Sled;

pub(crate) use crate::seal::AUDIT_KEY;

/// The KMS keys as configured: the one that wraps and those before it.
pub(crate) async fn open_keyring(keys: &Keys, control: &Handle) -> Result<Keyring, StartError> {
    let current = open_kms(&keys.current, control).await?;
    let mut previous = Vec::new();
    for key in &keys.previous {
        previous.push(open_kms(key, control).await?);
    }
    Ok(Keyring::new(current, previous, keys.shown))
}

#[cfg_attr(not(feature = "gcp"), allow(unused_variables, reason = "Google's client alone keeps a task"))]
async fn open_kms(key: &KmsKey, control: &Handle) -> Result<Arc<dyn Kms>, StartError> {
    Ok(match key {
        KmsKey::Local { file } => Arc::new(Local::load(file).map_err(failed("[keys] file"))?),
        KmsKey::Ephemeral => Arc::new(Local::ephemeral()),
        #[cfg(feature = "aws")]
        KmsKey::Aws { key, region, endpoint } => {
            let setup =
                AwsSetup { key, region: region.as_deref(), endpoint: endpoint.as_deref(), credentials: None };
            Arc::new(Aws::open(setup).await.map_err(failed("[keys]"))?)
        }
        #[cfg(not(feature = "aws"))]
        KmsKey::Aws { .. } => return Err(not_built_in("aws")),
        #[cfg(feature = "gcp")]
        KmsKey::Gcp { key, endpoint } => {
            let (key, endpoint) = (key.clone(), endpoint.clone());
            // Google's client keeps a task that renews its token on the runtime that built it.
            let connecting = control.spawn(async move { Gcp::connect(&key, endpoint.as_deref()).await });
            let connected = connecting.await.map_err(failed("[keys] provider"))?;
            Arc::new(connected.map_err(failed("[keys] provider"))?)
        }
        #[cfg(not(feature = "gcp"))]
        KmsKey::Gcp { .. } => return Err(not_built_in("gcp")),
        #[cfg(feature = "azure")]
        KmsKey::Azure { vault, key, ca_file, login, authority } => {
            let roots = ca_file.as_deref().map(trust_roots).transpose()?;
            let (roots, authority) = (roots.as_deref(), authority.as_deref());
            let reach = azure::Reach { vault, key, roots, authority };
            let opened = Azure::new(&reach, azure_login(login));
            Arc::new(opened.map_err(failed("[keys] provider"))?)
        }
        #[cfg(not(feature = "azure"))]
        KmsKey::Azure { .. } => return Err(not_built_in("azure")),
        KmsKey::Transit { address, mount, key, login, namespace, ca_file } => {
            let ca_pem = ca_file.as_deref().map(trust_roots).transpose()?;
            let login = match login {
                TransitLogin::Token(token) => Login::Token(token),
                TransitLogin::AppRole { mount, role_id, secret_id } => {
                    Login::AppRole { mount, role_id, secret_id }
                }
            };
            let (namespace, ca_pem) = (namespace.as_deref(), ca_pem.as_deref());
            let setup = TransitSetup { address, mount, key, namespace, login, ca_pem };
            Arc::new(Transit::open(&setup).map_err(failed("[keys]"))?)
        }
    })
}

fn trust_roots(file: &Path) -> Result<Vec<u8>, StartError> {
    let why = |error| format!("{}: {error}", file.display());
    std::fs::read(file).map_err(|error| StartError { what: "[keys] ca_file", why: why(error) })
}

#[cfg(feature = "azure")]
fn azure_login(login: &AzureLogin) -> azure::Login<'_> {
    match login {
        AzureLogin::Secret { tenant, client, secret } => azure::Login::Secret { tenant, client, secret },
        AzureLogin::Workload { tenant, client, file } => azure::Login::Workload { tenant, client, file },
        AzureLogin::Managed(client) => azure::Login::Managed(client.as_deref()),
    }
}

#[cfg(not(all(feature = "aws", feature = "azure", feature = "gcp")))]
fn not_built_in(provider: &str) -> StartError {
    let why =
        format!("this relay was built without {provider}: build it with --features {provider}, or full");
    StartError { what: "[keys] provider", why }
}

#[cfg(feature = "postgres")]
async fn open_postgres(choice: &PostgresChoice, control: &Handle) -> Result<Arc<dyn Store>, StartError> {
    let roots = postgres_roots(choice)?;
    let opened = Postgres::open(postgres_setup(choice, roots.as_deref()), control.clone()).await;
    Ok(Arc::new(opened.map_err(failed("[store]"))?))
}

#[cfg(feature = "postgres")]
pub(crate) fn postgres_roots(choice: &PostgresChoice) -> Result<Option<Vec<u8>>, StartError> {
    let read = |file: &PathBuf| {
        let why = |error| format!("{}: {error}", file.display());
        std::fs::read(file).map_err(|error| StartError { what: "[store] ca_file", why: why(error) })
    };
    choice.ca_file.as_ref().map(read).transpose()
}

#[cfg(feature = "postgres")]
pub(crate) fn postgres_setup<'a>(choice: &'a PostgresChoice, roots: Option<&'a [u8]>) -> PostgresSetup<'a> {
    PostgresSetup {
        url: &choice.url,
        password: choice.password.as_ref(),
        roots,
        connections: choice.connections,
        plaintext_danger: choice.plaintext_danger,
    }
}

pub(crate) async fn open_store(choice: &StoreChoice, control: &Handle) -> Result<Arc<dyn Store>, StartError> {
    match choice {
        StoreChoice::Memory => Ok(Arc::new(Memory::new())),
        StoreChoice::Sled { path } => {
            let (path, handle) = (path.clone(), control.clone());
            let opening = control.spawn_blocking(move || Sled::open(&path, handle));
            let opened = opening.await.map_err(failed("[store] path"))?;
            Ok(Arc::new(opened.map_err(failed("[store] path"))?))
        }
        #[cfg(feature = "postgres")]
        StoreChoice::Postgres(choice) => open_postgres(choice, control).await,
        #[cfg(not(feature = "postgres"))]
        StoreChoice::Postgres(_) => {
            let why = "this relay was built without postgres: build it with --features postgres, or full";
            Err(StartError { what: "[store] engine", why: why.to_owned() })
        }
    }
}

/// Opens the audit with the store's own signing key, and keeps each anchor in the store. Only an audit that is
/// kept in a file is missed when it is gone.
pub(super) async fn open_log(
    (mut sink, kept_in_file): (Box<dyn Sink>, bool),
    config: &Config,
    keys: &DataKeys,
    store: &Arc<dyn Store>,
    accept_older: bool,
    control: &Handle,
) -> Result<(Arc<Log>, Generation), StartError> {
    moved::refuse_half(&**store).await?;
    let seed = store_wide(&**store, keys, AUDIT_KEY).await.map_err(failed("[keys] and [store]"))?;
    let signer = Signer::from_seed(&seed).map_err(failed("[audit]"))?;
    let generation = Generation::of(store).await.map_err(failed("[store]"))?;
    let given = config.audit.replica.as_deref();
    let shared = matches!(config.store, StoreChoice::Postgres(_));
    let alone = if shared { None } else { replicas::alone(store).await.map_err(failed("[store]"))? };
    let named = replica::named(&mut *sink, given, alone, signer.public_key());
    let replica = named.map_err(failed("[audit] replica"))?;
    let place = replica::anchor_name(&replica);
    let standing = store.meta(&place).await.map_err(failed("[store]"))?;
    let standing = standing.and_then(|line| Anchor::parse(&line));
    let newest = match &standing {
        Some(anchor) => Some(anchor.clone()),
        None => replicas::nameless(store).await.map_err(failed("[store]"))?,
    };
    let known = newest.as_ref().filter(|anchor| kept_in_file && anchor.is_signed_by(signer.public_key()));
    // Before the log is opened: its first anchor would say that all is as it should be.
    let found = generation.behind(&mut *sink, signer.public_key(), known).map_err(failed("[audit] path"))?;
    let behind = match found {
        (has_anchor, None) => moved::unproven(&**store, has_anchor).await.map_err(failed("[store]"))?,
        (_, behind) => behind,
    };
    if let Some(why) = &behind {
        if !accept_older {
            return Err(StartError { what: "[store] path", why: why.clone() });
        }
        tracing::warn!(why, "an older store is accepted, as asked");
    }
    replicas::note(store, &replica).await.map_err(failed("[store]"))?;
    let on_anchor = replicas::keeper(store.clone(), place, standing.as_ref(), control.clone());
    let setup = Setup {
        replica,
        durability: config.audit.durability,
        signer,
        newest,
        generation: generation.shown(),
        on_anchor,
    };
    let log = Arc::new(Log::open(sink, setup).map_err(failed("[audit] path"))?);
    if let Some(why) = behind {
        note(&log.chain(), &format!("--accept-older-store: {why}")).await.map_err(failed("[audit] path"))?;
    }
    moved::tell(&**store, &log.chain()).await?;
    Ok((log, generation))
}

/// The data keys, the store, and the hand that writes to it.
pub(super) async fn open_records(
    ring: Option<Keyring>,
    store: Option<Arc<dyn Store>>,
    config: &Config,
    (metrics, control): (&Arc<Metrics>, &Handle),
) -> Result<(Arc<DataKeys>, Arc<dyn Store>, Arc<Sealer>), StartError> {
    let keys = data_keys(ring, config, (metrics, control)).await?;
    let store = match store {
        Some(store) => store,
        None => open_store(&config.store, control).await?,
    };
    let targets = config.integrations.iter().map(SealTarget::from).collect();
    let sealer = Sealer::open(store.clone(), keys.clone(), targets).await;
    Ok((keys, store, Arc::new(sealer.map_err(failed("[keys] and [store]"))?)))
}

async fn data_keys(
    given: Option<Keyring>,
    config: &Config,
    (metrics, control): (&Arc<Metrics>, &Handle),
) -> Result<Arc<DataKeys>, StartError> {
    let (keys, capacity) = (&config.keys, config.server.limits.data_keys);
    let ring = match given {
        Some(ring) => ring,
        None => open_keyring(keys, control).await?,
    };
    let metrics = metrics.clone();
    let counted = move |call: Called| metrics.kms_call(call.provider, call.operation, call.outcome);
    let settings = Settings { capacity, ages: keys.ages, pace: keys.pace, counted: Arc::new(counted) };
    Ok(Arc::new(DataKeys::with(ring, settings, control.clone())))
}
