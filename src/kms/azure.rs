//! An RSA key in Azure Key Vault, by Microsoft's own client: RSA-OAEP with SHA-256.
//!
//! RSA-OAEP has no associated data, and wrapping is open to whoever has the public key. What binds a data
//! key to its customer is relay's own envelope (`wrapped`): who can write to the store and wrap may plant a
//! data key of his own, and can neither read nor move anyone else's. A wrapped key opens under its own
//! version only, which stands before it; vault and key are always the configured ones. No redirect is
//! followed, no proxy variable is read. Microsoft's client keeps a token until five minutes before its end:
//! one that Entra ID took back earlier is a denial until then, or until a restart. What must never enter: a
//! token over plain HTTP, a retry of Microsoft's own (it would outlast the request that waits).

mod way;

use std::path::Path;
use std::sync::Arc;

use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, RetryOptions, StatusCode, Transport};
use azure_identity as identity;
use azure_security_keyvault_keys::models::{EncryptionAlgorithm, KeyOperationParameters, KeyOperationResult};
use azure_security_keyvault_keys::{KeyClient, KeyClientOptions};

use super::cloud::{Fault, is_version, once, one_line, parted, told, twice, with_version};
use super::{Call, KeyContext, Kms, KmsError};
use crate::net::tls::Roots;
use crate::secret::Secret;
use way::Way;

/// Which key, and how it is reached.
pub struct Reach<'a> {
    /// `https://NAME.vault.azure.net`
    pub vault: &'a str,
    /// The key's name.
    pub key: &'a str,
    /// Trust roots instead of the built-in ones, for the vault and for where tokens come from.
    pub roots: Option<&'a [u8]>,
    /// Where tokens come from, if not from Azure's public cloud: `https://login.microsoftonline.us`.
    pub authority: Option<&'a str>,
}

/// How relay proves itself to Azure.
#[derive(Clone, Copy)]
pub enum Login<'a> {
    /// A client secret.
    Secret {
        /// The tenant's id.
        tenant: &'a str,
        /// The application's id.
        client: &'a str,
        /// Its secret.
        secret: &'a Secret,
    },
    /// The token that Kubernetes keeps in a file for the workload.
    Workload {
        /// The tenant's id.
        tenant: &'a str,
        /// The application's id.
        client: &'a str,
        /// The token's file.
        file: &'a Path,
    },
    /// The machine's managed identity: this user-assigned one, or the system's.
    Managed(Option<&'a str>),
}

/// One RSA key in Azure Key Vault.
pub struct Azure {
    client: KeyClient,
    vault: String,
    name: String,
}

impl Azure {
    /// The key, and the way to it. No call is made yet.
    ///
    /// # Errors
    /// [`KmsError::Unavailable`] for trust roots or credentials that cannot be used.
    pub fn new(reach: &Reach<'_>, login: Login<'_>) -> Result<Self, KmsError> {
        let roots = reach.roots.map_or(Roots::BuiltIn, Roots::Pem);
        let way = Way::new(roots)
            .map_err(|error| KmsError::Unavailable(format!("ca_file cannot be used: {error}")))?;
        let options = || {
            let cloud = reach.authority.map(|authority| {
                let mut custom = CustomConfiguration::default();
                custom.authority_host = authority.to_owned();
                Arc::new(custom.into())
            });
            let transport = Some(Transport::new(Arc::new(way.clone())));
            ClientOptions { retry: RetryOptions::none(), transport, cloud, ..ClientOptions::default() }
        };
        let unusable = |error: azure_core::Error| {
            KmsError::Unavailable(format!("Azure's client cannot be built: {}", told(&error)))
        };
        let credential = credential(login, options()).map_err(unusable)?;
        let options = KeyClientOptions { client_options: options(), ..KeyClientOptions::default() };
        let client = KeyClient::new(reach.vault, credential, Some(options)).map_err(unusable)?;
        Ok(Self { client, vault: reach.vault.to_owned(), name: reach.key.to_owned() })
    }

    async fn wrapped(&self, key: &Secret) -> Result<Vec<u8>, Fault> {
        let call = self.client.wrap_key(
            &self.name,
            operands(key.expose()).try_into().map_err(|error| fault(&error, false))?,
            None,
        );
        let answer =
            call.await.and_then(|answer| answer.into_model()).map_err(|error| fault(&error, false))?;
        let (version, wrapped) = self.read(&answer)?;
        with_version(version, wrapped).ok_or_else(no_answer)
    }

    async fn unwrapped(&self, version: &str, wrapped: &[u8]) -> Result<Secret, Fault> {
        let call = self.client.unwrap_key(
            &self.name,
            version,
            operands(wrapped).try_into().map_err(|error| fault(&error, true))?,
            None,
        );
        let mut answer = match call.await.and_then(|answer| answer.into_model()) {
            Ok(answer) => answer,
            Err(error) if error.http_status() == Some(StatusCode::NotFound) => {
                return Err(self.not_found(&error).await);
            }
            Err(error) => return Err(fault(&error, true)),
        };
        if self.read(&answer)?.0 != version {
            return Err(no_answer());
        }
        answer.result.take().map(Secret::new).ok_or_else(no_answer)
    }

    /// No such version, which whoever writes to the store may have named; or the key is gone as a whole.
    async fn not_found(&self, error: &azure_core::Error) -> Fault {
        match self.client.get_key(&self.name, None).await {
            Err(gone) if gone.http_status() == Some(StatusCode::NotFound) => fault(&gone, false),
            _ => Fault::last(KmsError::Broken(told(error))),
        }
    }

    async fn current(&self) -> Result<Option<String>, Fault> {
        let answer = self.client.get_key(&self.name, None).await.and_then(|answer| answer.into_model());
        let key = answer.map_err(|error| fault(&error, false))?.key.unwrap_or_default();
        let version = key.kid.as_deref().and_then(|kid| self.version_in(kid));
        version.map(|version| Some(version.to_owned())).ok_or_else(no_answer)
    }

    /// The version that answered, and its answer.
    fn read<'r>(&self, answer: &'r KeyOperationResult) -> Result<(&'r str, &'r [u8]), Fault> {
        let version = answer.kid.as_deref().and_then(|kid| self.version_in(kid));
        version.zip(answer.result.as_deref()).ok_or_else(no_answer)
    }

    /// The version in `https://VAULT/keys/NAME/VERSION`, if that is this key. The host is what TLS verified;
    /// names have no case there.
    fn version_in<'k>(&self, kid: &'k str) -> Option<&'k str> {
        let (key, version) = kid.rsplit_once('/')?;
        let (vault, name) = key.rsplit_once('/')?;
        let is_this = vault.ends_with("/keys") && name.eq_ignore_ascii_case(&self.name);
        (is_this && is_version(version)).then_some(version)
    }
}

impl Kms for Azure {
    fn provider(&self) -> &'static str {
        "azure"
    }

    fn key(&self) -> String {
        format!("{}/keys/{}", self.vault, self.name)
    }

    fn wrap<'a>(&'a self, _context: KeyContext<'a>, key: &'a Secret) -> Call<'a, Vec<u8>> {
        Box::pin(twice(move || self.wrapped(key)))
    }

    fn unwrap<'a>(&'a self, _context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret> {
        Box::pin(async move {
            let (version, wrapped) = parted(wrapped)?;
            twice(|| self.unwrapped(version, wrapped)).await
        })
    }

    fn version(&self, wrapped: &[u8]) -> Option<String> {
        parted(wrapped).ok().map(|(version, _)| version.to_owned())
    }

    fn newest(&self) -> Call<'_, Option<String>> {
        Box::pin(twice(|| self.current()))
    }

    /// A version of the same kind and size, current at once. Never tried again: two would be made.
    fn new_version(&self) -> Call<'_, ()> {
        Box::pin(once(async {
            let made = self.client.rotate_key(&self.name, None).await;
            made.map(drop).map_err(|error| fault(&error, false))
        }))
    }
}

fn credential(login: Login<'_>, options: ClientOptions) -> azure_core::Result<Arc<dyn TokenCredential>> {
    Ok(match login {
        Login::Secret { tenant, client, secret } => {
            let secret = String::from_utf8_lossy(secret.expose()).into_owned();
            let options = identity::ClientSecretCredentialOptions { client_options: options };
            identity::ClientSecretCredential::new(tenant, client.to_owned(), secret.into(), Some(options))?
        }
        Login::Workload { tenant, client, file } => {
            let options = identity::WorkloadIdentityCredentialOptions {
                credential_options: identity::ClientAssertionCredentialOptions { client_options: options },
                client_id: Some(client.to_owned()),
                tenant_id: Some(tenant.to_owned()),
                token_file_path: Some(file.to_owned()),
            };
            identity::WorkloadIdentityCredential::new(Some(options))?
        }
        Login::Managed(client) => {
            let options = identity::ManagedIdentityCredentialOptions {
                user_assigned_id: client.map(|client| identity::UserAssignedId::ClientId(client.to_owned())),
                client_options: options,
            };
            identity::ManagedIdentityCredential::new(Some(options))?
        }
    })
}

fn operands(value: &[u8]) -> KeyOperationParameters {
    KeyOperationParameters {
        algorithm: Some(EncryptionAlgorithm::RsaOaep256),
        value: Some(value.to_vec()),
        ..KeyOperationParameters::default()
    }
}

fn no_answer() -> Fault {
    let text = "the answer is not for the key and version that was asked";
    Fault::last(KmsError::Unavailable(text.to_owned()))
}

/// `opening`: the request carried a wrapped key, which is what a bad request then is.
fn fault(error: &azure_core::Error, opening: bool) -> Fault {
    let text = told(error);
    match error.kind() {
        ErrorKind::HttpResponse { status, error_code, .. } => {
            let code = error_code.as_deref().map(one_line).unwrap_or_default();
            by_status(*status, opening, format!("{} {code}: {text}", u16::from(*status)))
        }
        ErrorKind::Connection | ErrorKind::Io => Fault::passing(text),
        ErrorKind::DataConversion => Fault::last(KmsError::Unavailable(text)),
        ErrorKind::Credential => refused_token(error, text),
        // Among them a challenge that names another host than the vault's, whose token would be another's.
        ErrorKind::Other => Fault::last(KmsError::Denied(text)),
    }
}

fn by_status(status: StatusCode, opening: bool, text: String) -> Fault {
    match u16::from(status) {
        400 if opening => Fault::last(KmsError::Broken(text)),
        // A disabled key is a 403, a deleted one a 404.
        400 | 401 | 403 | 404 => Fault::last(KmsError::Denied(text)),
        500 | 502 | 503 | 504 => Fault::passing(text),
        _ => Fault::last(KmsError::Unavailable(text)),
    }
}

/// No token was had. Who refused it stands beneath, or nobody could be asked.
fn refused_token(error: &azure_core::Error, text: String) -> Fault {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<azure_core::Error>() {
            match error.kind() {
                ErrorKind::HttpResponse { status, .. } => return by_status(*status, false, text),
                ErrorKind::Connection | ErrorKind::Io => return Fault::passing(text),
                ErrorKind::DataConversion => return Fault::last(KmsError::Unavailable(text)),
                ErrorKind::Credential | ErrorKind::Other => {}
            }
        }
        cause = error.source();
    }
    Fault::last(KmsError::Denied(text))
}
