//! A key of AWS KMS, by AWS's own SDK; credentials and region by AWS's own chain.
//!
//! Customer and data key are the encryption context, which AWS checks, and shows in CloudTrail. Every call
//! names the KMS key, so a blob that another key made is refused and not quietly opened. What it wraps is
//! `1 | length and id of the key material | AWS's blob`: the id says which version of the key wrapped it,
//! where AWS tells. The plaintext of a data key is wiped here once it stands in a `Secret`; the copies in
//! the SDK's own buffers are wiped when they are freed, by the program's allocator. What must never enter: a
//! retry beside the SDK's own, which has one; a key's alias, which can be pointed elsewhere.

mod verdict;
mod way;

use std::collections::HashMap;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::{Builder, SharedCredentialsProvider};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use zeroize::Zeroize;

use super::{Call, DATA_KEY, KeyContext, Kms, KmsError};
use crate::secret::Secret;
use verdict::judged;
use way::Way;

/// The first byte of what [`Aws`] wraps.
const FORMAT: u8 = 1;
/// The longest blob that AWS takes.
const LONGEST: usize = 6144;
/// All of a call, its second try too: less than the 2 s that relay gives it.
const CALL: Duration = Duration::from_millis(1800);
/// One try.
const TRY: Duration = Duration::from_millis(1200);

/// A key of AWS KMS.
pub struct Aws {
    client: Client,
    key: String,
}

/// Which key, and how it is reached.
#[derive(Default)]
pub struct AwsSetup<'a> {
    /// Its ARN or id.
    pub key: &'a str,
    /// The region; else the ARN's, else that of AWS's own chain.
    pub region: Option<&'a str>,
    /// Another address than AWS's own.
    pub endpoint: Option<&'a str>,
    /// Credentials instead of those of AWS's own chain, for programs that embed relay.
    pub credentials: Option<SharedCredentialsProvider>,
}

/// Why a key of AWS cannot be called at all.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AwsError {
    /// Neither configuration nor environment names one.
    #[error("no region is known: write region = \"...\", or key as an ARN, or set AWS_REGION")]
    Region,
    /// The built-in trust roots are not usable.
    #[error("{0}")]
    Tls(String),
}

impl Aws {
    /// Reads AWS's own chain. No call is made to AWS KMS.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn open(setup: AwsSetup<'_>) -> Result<Self, AwsError> {
        let way = Way::new().map_err(|e| AwsError::Tls(e.to_string()))?;
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(way);
        if let Some(region) = setup.region.or_else(|| Name::of(setup.key).region()) {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(credentials) = setup.credentials {
            loader = loader.credentials_provider(credentials);
        }
        let shared = loader.load().await;
        shared.region().ok_or(AwsError::Region)?;
        let mut config = Builder::from(&shared)
            .retry_config(RetryConfig::standard().with_max_attempts(2).with_initial_backoff(TRY / 20))
            .timeout_config(
                TimeoutConfig::builder().operation_timeout(CALL).operation_attempt_timeout(TRY).build(),
            )
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        config.set_app_name(AppName::new("relay").ok());
        if let Some(endpoint) = setup.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Self { client: Client::from_conf(config.build()), key: setup.key.to_owned() })
    }
}

impl Kms for Aws {
    fn provider(&self) -> &'static str {
        "aws"
    }

    fn key(&self) -> String {
        self.key.clone()
    }

    /// The same key may be named by its id and by its ARN; a multi-Region key opens in every Region what a
    /// replica of it wrapped.
    fn answers_to(&self, key: &str) -> bool {
        Name::of(&self.key).is_key_of(&Name::of(key))
    }

    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> Call<'a, Vec<u8>> {
        Box::pin(async move {
            let call = self.client.encrypt().key_id(&self.key).plaintext(Blob::new(key.expose()));
            let answer = call.set_encryption_context(told(context)).send().await;
            let answer = answer.map_err(|e| judged("Encrypt", &e))?;
            // Encrypt does not say which key material it used.
            packed(None, answer.ciphertext_blob)
        })
    }

    fn generate<'a>(&'a self, context: KeyContext<'a>) -> Call<'a, (Secret, Vec<u8>)> {
        Box::pin(async move {
            let call = self.client.generate_data_key().key_id(&self.key).key_spec(DataKeySpec::Aes256);
            let answer = call.set_encryption_context(told(context)).send().await;
            let answer = answer.map_err(|e| judged("GenerateDataKey", &e))?;
            let key = plaintext(answer.plaintext)?;
            Ok((key, packed(answer.key_material_id.as_deref(), answer.ciphertext_blob)?))
        })
    }

    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret> {
        Box::pin(async move {
            let (_, blob) = unpacked(wrapped)?;
            let call = self.client.decrypt().key_id(&self.key).ciphertext_blob(Blob::new(blob));
            let answer = call.set_encryption_context(told(context)).send().await;
            plaintext(answer.map_err(|e| judged("Decrypt", &e))?.plaintext)
        })
    }

    /// Inside AWS: the data key does not leave it.
    fn rewrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Vec<u8>> {
        Box::pin(async move {
            let (_, blob) = unpacked(wrapped)?;
            let call = self.client.re_encrypt().ciphertext_blob(Blob::new(blob));
            let call = call.source_key_id(&self.key).destination_key_id(&self.key);
            let call = call.set_source_encryption_context(told(context));
            let answer = call.set_destination_encryption_context(told(context)).send().await;
            let answer = answer.map_err(|e| judged("ReEncrypt", &e))?;
            packed(answer.destination_key_material_id.as_deref(), answer.ciphertext_blob)
        })
    }

    fn version(&self, wrapped: &[u8]) -> Option<String> {
        unpacked(wrapped).ok()?.0.map(str::to_owned)
    }

    /// The key material in use, as `DescribeKey` tells it. (`ListKeyRotations` would need a walk over pages to
    /// tell the same.)
    fn newest(&self) -> Call<'_, Option<String>> {
        Box::pin(async move {
            let answer = self.client.describe_key().key_id(&self.key).send().await;
            let answer = answer.map_err(|e| judged("DescribeKey", &e))?;
            Ok(answer.key_metadata.and_then(|key| key.current_key_material_id))
        })
    }

    /// `RotateKeyOnDemand`. AWS carries it out in its own time, [`Kms::newest`] tells when it has.
    fn new_version(&self) -> Call<'_, ()> {
        Box::pin(async move {
            let answer = self.client.rotate_key_on_demand().key_id(&self.key).send().await;
            answer.map(|_| ()).map_err(|e| judged("RotateKeyOnDemand", &e))
        })
    }
}

#[allow(clippy::unnecessary_wraps)] // as the SDK takes it
fn told(context: KeyContext<'_>) -> Option<HashMap<String, String>> {
    Some(HashMap::from([
        ("relay:customer".to_owned(), context.shown.to_owned()),
        ("relay:data-key".to_owned(), context.id.to_string()),
    ]))
}

/// The SDK's own copy is wiped where nobody else holds it.
fn plaintext(blob: Option<Blob>) -> Result<Secret, KmsError> {
    let bytes = blob.map(Blob::into_bytes).unwrap_or_default();
    let key = Secret::filled(bytes.len(), |out| -> Result<(), KmsError> {
        out.copy_from_slice(&bytes);
        Ok(())
    })?;
    if let Ok(mut own) = bytes.try_into_mut() {
        own.as_mut().zeroize();
    }
    if key.len() != DATA_KEY {
        return Err(KmsError::Broken(format!("AWS KMS gave {} bytes where a data key has 32", key.len())));
    }
    Ok(key)
}

fn packed(material: Option<&str>, blob: Option<Blob>) -> Result<Vec<u8>, KmsError> {
    let none = || KmsError::Unavailable("AWS KMS answered without a wrapped key: ask again".to_owned());
    let blob = blob.ok_or_else(none)?;
    let material = material.filter(|id| id.len() <= 255).unwrap_or_default();
    let mut out = vec![FORMAT, u8::try_from(material.len()).unwrap_or(0)];
    out.extend_from_slice(material.as_bytes());
    out.extend_from_slice(blob.as_ref());
    Ok(out)
}

/// What AWS would refuse for its length is refused here, so that a damaged record costs no call.
fn unpacked(wrapped: &[u8]) -> Result<(Option<&str>, &[u8]), KmsError> {
    let damaged = || KmsError::Broken("it is not what relay keeps of AWS KMS".to_owned());
    let (format, rest) = wrapped.split_first().ok_or_else(damaged)?;
    if *format != FORMAT {
        return Err(KmsError::Broken(format!("it has format {format}, and this relay reads {FORMAT}")));
    }
    let (len, rest) = rest.split_first().ok_or_else(damaged)?;
    let (material, blob) = rest.split_at_checked((*len).into()).ok_or_else(damaged)?;
    let material = std::str::from_utf8(material).map_err(|_| damaged())?;
    if blob.is_empty() || blob.len() > LONGEST {
        return Err(damaged());
    }
    Ok(((!material.is_empty()).then_some(material), blob))
}

/// A KMS key's name, taken apart: `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`, or the id alone.
struct Name<'a> {
    arn: Option<[&'a str; 3]>,
    id: &'a str,
}

impl<'a> Name<'a> {
    fn of(name: &'a str) -> Self {
        let parts: Vec<&str> = name.splitn(6, ':').collect();
        match parts.as_slice() {
            ["arn", partition, "kms", region, account, key] => {
                Self { arn: Some([partition, region, account]), id: key.trim_start_matches("key/") }
            }
            _ => Self { arn: None, id: name },
        }
    }

    fn region(&self) -> Option<&'a str> {
        self.arn.map(|[_, region, _]| region).filter(|region| !region.is_empty())
    }

    fn is_key_of(&self, other: &Self) -> bool {
        let same_place = match (self.arn, other.arn) {
            (Some(own), Some(others)) => {
                let ([own_partition, own_region, own_account], [partition, region, account]) = (own, others);
                (own_partition, own_account) == (partition, account)
                    && (own_region == region || self.id.starts_with("mrk-"))
            }
            _ => true,
        };
        same_place && self.id == other.id
    }
}
