//! `[keys]` as it may be used: the KMS key that wraps data keys, and those before it.
//!
//! What must never enter: a client, a call.

use std::path::PathBuf;
use std::time::Duration;

use crate::kms::Shown;
use crate::kms::cached::{Ages, Pace};
use crate::secret::Secret;

/// `[keys]`
pub struct Keys {
    /// The KMS key that wraps.
    pub current: KmsKey,
    /// KMS keys that still unwrap what they wrapped.
    pub previous: Vec<KmsKey>,
    /// What a provider is told of a customer (`context`).
    pub shown: Shown,
    /// When a customer gets a new data key by itself; `None` is never.
    pub data_key_max_age: Option<Duration>,
    /// How long an unwrapped data key is served (`refresh_after`, `serve_at_most`).
    pub ages: Ages,
    /// How fast each KMS key is called (`calls_per_second`).
    pub pace: Pace,
}

/// One KMS key and how it is reached.
pub enum KmsKey {
    /// A local key file, 0600.
    Local {
        /// The file.
        file: PathBuf,
    },
    /// A random key that is gone on exit (`relay dev`, tests).
    Ephemeral,
    /// AWS KMS, with the credentials of AWS's own chain.
    Aws {
        /// The key's ARN or id, never an alias.
        key: String,
        /// The region, if the ARN does not say it and the environment should not.
        region: Option<String>,
        /// Another address than AWS's own.
        endpoint: Option<String>,
    },
    /// Google Cloud KMS, with application default credentials.
    Gcp {
        /// `projects/P/locations/L/keyRings/R/cryptoKeys/K`
        key: String,
        /// Another address than Google's own.
        endpoint: Option<String>,
    },
    /// Azure Key Vault, with the credentials of the workload, the managed identity or the environment.
    Azure {
        /// `https://NAME.vault.azure.net`
        vault: String,
        /// The key's name.
        key: String,
        /// Trust roots instead of the built-in ones.
        ca_file: Option<PathBuf>,
        /// How relay proves itself, by the variables that Azure's own libraries read.
        login: AzureLogin,
        /// Where tokens come from, if not from the public cloud (`AZURE_AUTHORITY_HOST`).
        authority: Option<String>,
    },
    /// The transit engine of OpenBao or HashiCorp Vault.
    Transit {
        /// `https://bao.internal:8200`
        address: String,
        /// Where the engine is mounted: `transit`.
        mount: String,
        /// The key's name.
        key: String,
        /// How relay logs in.
        login: TransitLogin,
        /// The namespace, where there are some.
        namespace: Option<String>,
        /// Trust roots instead of the built-in ones.
        ca_file: Option<PathBuf>,
    },
}

/// How relay proves itself to Azure.
pub enum AzureLogin {
    /// `AZURE_CLIENT_SECRET`, with `AZURE_TENANT_ID` and `AZURE_CLIENT_ID`.
    Secret {
        /// The tenant's id.
        tenant: String,
        /// The application's id.
        client: String,
        /// Its secret.
        secret: Secret,
    },
    /// `AZURE_FEDERATED_TOKEN_FILE`, which the workload identity webhook sets with the other two.
    Workload {
        /// The tenant's id.
        tenant: String,
        /// The application's id.
        client: String,
        /// The token's file.
        file: PathBuf,
    },
    /// Neither: the managed identity, which `AZURE_CLIENT_ID` may choose.
    Managed(Option<String>),
}

/// How relay logs in at OpenBao or Vault.
pub enum TransitLogin {
    /// A token, renewed while it can be.
    Token(Secret),
    /// AppRole, logged in again when its token ends.
    AppRole {
        /// Where it is mounted: `approle`.
        mount: String,
        /// The role's id.
        role_id: String,
        /// The role's secret.
        secret_id: Secret,
    },
}

impl Keys {
    /// One KMS key and nothing else set.
    pub const fn of(current: KmsKey) -> Self {
        Self {
            current,
            previous: Vec::new(),
            shown: Shown::Name,
            data_key_max_age: None,
            ages: Ages::DEFAULT,
            pace: Pace::DEFAULT,
        }
    }
}
