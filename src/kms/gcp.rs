//! A key in Google Cloud KMS, by Google's own client.
//!
//! Customer and data key id are the associated data, so Google itself refuses a wrapped key that was moved.
//! Checksums go with everything that is sent and are asked for everything that comes back: a data key that
//! was damaged on its way and wrapped so would be lost with all it seals. The ciphertext does not say which
//! version wrapped it, so that stands before it, for the operator's eyes alone. Google's client reads
//! `HTTPS_PROXY` and the system's trust roots, and neither can be taken from it. What must never enter: a
//! retry of Google's own (a minute, ten tries), a redirect, Google's tracing, which prints plaintext.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use google_cloud_auth::credentials::anonymous;
use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::client_builder::internal::with_follow_redirects;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_kms_v1::Error;
use google_cloud_kms_v1::client::KeyManagementService;
use google_cloud_kms_v1::model::crypto_key_version::CryptoKeyVersionState;
use google_cloud_kms_v1::model::{CryptoKeyVersion, DecryptResponse, EncryptResponse};
use tokio::time::{Instant, sleep, timeout};

use super::cloud::{Fault, is_version, once, one_line, parted, told, twice, with_version};
use super::crc32c::crc32c;
use super::{Call, KeyContext, Kms, KmsError};
use crate::secret::Secret;

/// The first byte of associated data.
const CONTEXT: u8 = 1;
/// How long finding credentials may take at the start.
const START: Duration = Duration::from_secs(15);
/// For how long Google may go on wrapping under the version that was primary before, in its exceptional
/// cases "several hours" (its page on consistency). A record under a version that an operator then destroys
/// would be lost, so for this time relay names the new version itself.
const SETTLING: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a version that is still being made is looked at, and with what pause: HSMs take seconds.
const LOOKS: u32 = 20;
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// One key in Google Cloud KMS.
pub struct Gcp {
    client: KeyManagementService,
    /// `projects/P/locations/L/keyRings/R/cryptoKeys/K`
    key: String,
    /// The version that was made here last, and when.
    made: Mutex<Option<(String, Instant)>>,
}

impl Gcp {
    /// The key of this resource name, with application default credentials. An `endpoint` of `http://`
    /// is a fake on this machine, which is shown no credentials.
    ///
    /// # Errors
    /// [`KmsError::Unavailable`] when there are no credentials, or the client cannot be built.
    pub async fn connect(key: &str, endpoint: Option<&str>) -> Result<Self, KmsError> {
        let mut builder = KeyManagementService::builder().with_retry_policy(NeverRetry);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
            if endpoint.starts_with("http://") {
                builder = builder.with_credentials(anonymous::Builder::new().build());
            }
        }
        let building = with_follow_redirects(builder, false).build();
        let slow = |_| {
            KmsError::Unavailable("Google's metadata server did not say which credentials to use".to_owned())
        };
        let client = timeout(START, building).await.map_err(slow)?;
        let failed = |error| {
            KmsError::Unavailable(format!(
                "Google's client cannot be built (credentials by GOOGLE_APPLICATION_CREDENTIALS or the \
                 metadata server, trust roots by the system or SSL_CERT_FILE): {}",
                told(&error)
            ))
        };
        Ok(Self { client: client.map_err(failed)?, key: key.to_owned(), made: Mutex::default() })
    }

    /// The name to wrap under: the key's, which stands for its primary version, or a version's own.
    fn wraps(&self) -> String {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.take_if(|(_, when)| when.elapsed() > SETTLING);
        made.as_ref().map_or_else(|| self.key.clone(), |(version, _)| self.name_of(version))
    }

    fn name_of(&self, version: &str) -> String {
        format!("{}/cryptoKeyVersions/{version}", self.key)
    }

    fn set_made(&self, version: Option<String>) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = version.map(|v| (v, Instant::now()));
    }

    async fn encrypt(&self, context: KeyContext<'_>, key: &Secret) -> Result<Vec<u8>, Fault> {
        let name = self.wraps();
        match self.encrypt_under(&name, context, key).await {
            // Whoever disabled a version that is settling has another one in mind.
            Err(Fault { error: KmsError::Denied(_), .. }) if name != self.key => {
                self.set_made(None);
                self.encrypt_under(&self.key, context, key).await
            }
            outcome => outcome,
        }
    }

    async fn encrypt_under(
        &self,
        name: &str,
        context: KeyContext<'_>,
        key: &Secret,
    ) -> Result<Vec<u8>, Fault> {
        let associated = associated(context);
        let (key_sum, associated_sum) = (crc32c(key.expose()), crc32c(&associated));
        let call = self
            .client
            .encrypt()
            .set_name(name)
            .set_plaintext(key.expose().to_vec())
            .set_plaintext_crc32c(i64::from(key_sum))
            .set_additional_authenticated_data(associated)
            .set_additional_authenticated_data_crc32c(i64::from(associated_sum));
        self.wrapped(&call.send().await.map_err(|error| fault(&error, false))?)
    }

    fn wrapped(&self, answer: &EncryptResponse) -> Result<Vec<u8>, Fault> {
        let got_it = answer.verified_plaintext_crc32c && answer.verified_additional_authenticated_data_crc32c;
        if !got_it || answer.ciphertext_crc32c != Some(i64::from(crc32c(&answer.ciphertext))) {
            return Err(damaged());
        }
        let version = self.version_of(&answer.name).ok_or_else(other_key)?;
        with_version(version, &answer.ciphertext).ok_or_else(other_key)
    }

    async fn decrypt(&self, context: KeyContext<'_>, ciphertext: &[u8]) -> Result<Secret, Fault> {
        let associated = associated(context);
        let (ciphertext_sum, associated_sum) = (crc32c(ciphertext), crc32c(&associated));
        let call = self
            .client
            .decrypt()
            .set_name(&self.key)
            .set_ciphertext(ciphertext.to_vec())
            .set_ciphertext_crc32c(i64::from(ciphertext_sum))
            .set_additional_authenticated_data(associated)
            .set_additional_authenticated_data_crc32c(i64::from(associated_sum));
        opened(call.send().await.map_err(|error| fault(&error, true))?)
    }

    async fn primary(&self) -> Result<Option<String>, Fault> {
        let key = self.client.get_crypto_key().set_name(&self.key).send().await;
        let key = key.map_err(|error| fault(&error, false))?;
        Ok(key.primary.and_then(|version| self.version_of(&version.name).map(str::to_owned)))
    }

    /// A new version, once it can be used.
    async fn make(&self) -> Result<String, KmsError> {
        let call = self.client.create_crypto_key_version().set_parent(&self.key);
        let call = call.set_crypto_key_version(CryptoKeyVersion::new());
        let made = once(async { call.send().await.map_err(|error| fault(&error, false)) }).await?;
        let mut state = made.state;
        for _ in 0..LOOKS {
            if state != CryptoKeyVersionState::PendingGeneration {
                break;
            }
            sleep(LOOK_PAUSE).await;
            let look = || async {
                let version = self.client.get_crypto_key_version().set_name(&made.name).send().await;
                version.map_err(|error| fault(&error, false))
            };
            state = twice(look).await?.state;
        }
        if state != CryptoKeyVersionState::Enabled {
            return Err(KmsError::Unavailable(format!(
                "Google made {} and it is not usable yet: make it the primary version when it is",
                one_line(&made.name)
            )));
        }
        self.version_of(&made.name).map(str::to_owned).ok_or_else(|| other_key().error)
    }

    /// The number in a version's resource name, if it is one of this key.
    fn version_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let version = name.strip_prefix(&self.key)?.strip_prefix("/cryptoKeyVersions/")?;
        is_version(version).then_some(version)
    }
}

impl Kms for Gcp {
    fn provider(&self) -> &'static str {
        "gcp"
    }

    fn key(&self) -> String {
        self.key.clone()
    }

    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> Call<'a, Vec<u8>> {
        Box::pin(twice(move || self.encrypt(context, key)))
    }

    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret> {
        Box::pin(async move {
            let (_, ciphertext) = parted(wrapped)?;
            twice(|| self.decrypt(context, ciphertext)).await
        })
    }

    fn version(&self, wrapped: &[u8]) -> Option<String> {
        parted(wrapped).ok().map(|(version, _)| version.to_owned())
    }

    fn newest(&self) -> Call<'_, Option<String>> {
        Box::pin(twice(|| self.primary()))
    }

    /// Makes a version and, once it can be used, the primary one. Never tried again: two would be made.
    fn new_version(&self) -> Call<'_, ()> {
        Box::pin(async move {
            let version = self.make().await?;
            let turn = || async {
                let call = self.client.update_crypto_key_primary_version().set_name(&self.key);
                let turned = call.set_crypto_key_version_id(&version).send().await;
                turned.map(drop).map_err(|error| fault(&error, false))
            };
            twice(turn).await?;
            self.set_made(Some(version.clone()));
            Ok(())
        })
    }
}

/// The associated data: `1 | who it is for, behind its length | data key id`.
fn associated(context: KeyContext<'_>) -> Vec<u8> {
    let shown = context.shown.as_bytes();
    let mut out = Vec::with_capacity(21 + shown.len());
    out.push(CONTEXT);
    out.extend_from_slice(&u32::try_from(shown.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(shown);
    out.extend_from_slice(context.id.as_bytes());
    out
}

fn opened(answer: DecryptResponse) -> Result<Secret, Fault> {
    if answer.plaintext_crc32c != Some(i64::from(crc32c(&answer.plaintext))) {
        return Err(damaged());
    }
    Ok(Secret::new(answer.plaintext.into()))
}

fn damaged() -> Fault {
    Fault::passing(
        "a checksum did not match or was not looked at: something was damaged on its way".to_owned(),
    )
}

fn other_key() -> Fault {
    Fault::last(KmsError::Unavailable("the answer names another key than the one that was asked".to_owned()))
}

/// `opening`: the request carried a wrapped key, which is what an invalid argument then is.
fn fault(error: &Error, opening: bool) -> Fault {
    if let Some(status) = error.status() {
        let text = format!("{}: {}", status.code.name(), one_line(&status.message));
        return match status.code {
            // Google's word for a checksum that it did not find true.
            Code::InvalidArgument if status.message.contains("crc32c") => damaged(),
            Code::InvalidArgument if opening => Fault::last(KmsError::Broken(text)),
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::Unauthenticated
            | Code::Unimplemented => Fault::last(KmsError::Denied(text)),
            Code::Unavailable | Code::Internal | Code::Aborted => Fault::passing(text),
            _ => Fault::last(KmsError::Unavailable(text)),
        };
    }
    let text = told(error);
    if error.is_authentication() {
        let lasting = std::error::Error::source(error)
            .and_then(|cause| cause.downcast_ref::<CredentialsError>())
            .is_some_and(|cause| !cause.is_transient());
        let as_error = if lasting { KmsError::Denied } else { KmsError::Unavailable };
        return Fault::last(as_error(text));
    }
    match error.http_status_code() {
        Some(400) if opening => Fault::last(KmsError::Broken(text)),
        Some(400 | 401 | 403 | 404) => Fault::last(KmsError::Denied(text)),
        Some(500 | 502 | 503 | 504) => Fault::passing(text),
        None if error.is_connect() || error.is_io() => Fault::passing(text),
        _ => Fault::last(KmsError::Unavailable(text)),
    }
}
