//! A key of the transit engine of OpenBao or HashiCorp Vault, by relay's own small client.
//!
//! The key must be derived (`derived=true`): customer and data key are its derivation context, so the server
//! itself opens a data key for those alone. A key that is not derived is refused at first use, since the
//! server would leave the context unread and say nothing. What it wraps is the server's own text
//! (`vault:v3:...`), which says the key's version. What must never enter: a server's address out of a record;
//! a retry, beside the one behind a fresh login.

mod login;
mod wire;

use std::sync::Arc;

use base64::engine::general_purpose::STANDARD;
use base64::{Engine, encoded_len};
use http::Method;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::{Call, DATA_KEY, KeyContext, Kms, KmsError};
use crate::net::tls::{Roots, TlsError, client_config};
use crate::secret::Secret;
use login::Session;
use wire::{Said, Wire};

pub use login::TransitLogin;

/// The longest text of the server's that is sent back to it.
const LONGEST: usize = 4096;

/// A transit key.
pub struct Transit {
    session: Arc<Session>,
    namespace: Option<String>,
    mount: String,
    key: String,
    /// Filled once the server has said that the key is derived.
    derived: OnceCell<()>,
}

/// Which key, and how it is reached.
pub struct TransitSetup<'a> {
    /// `https://bao.internal:8200`
    pub address: &'a str,
    /// Where the engine is mounted.
    pub mount: &'a str,
    /// The key's name.
    pub key: &'a str,
    /// The namespace, where there are some.
    pub namespace: Option<&'a str>,
    /// How relay logs in.
    pub login: TransitLogin<'a>,
    /// Trust roots instead of the built-in ones.
    pub ca_pem: Option<&'a [u8]>,
}

/// Why a transit key cannot be called at all.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransitError {
    /// The trust roots are not usable.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// A field cannot stand in a header or a body.
    #[error("{0} has bytes that cannot be sent: write plain text")]
    Text(&'static str),
}

#[derive(Serialize, Default)]
struct Ask<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<u16>,
    context: &'a str,
}

#[derive(Deserialize)]
struct Key {
    derived: bool,
    latest_version: u64,
    #[serde(default)]
    supports_encryption: bool,
}

impl Transit {
    /// Begins to log in, and to keep what it was given, on the runtime that this is called on. A server that
    /// is away stops no start.
    ///
    /// # Errors
    /// [`TransitError`].
    pub fn open(setup: &TransitSetup<'_>) -> Result<Self, TransitError> {
        let tls: Arc<ClientConfig> = client_config(setup.ca_pem.map_or(Roots::BuiltIn, Roots::Pem))?;
        let wire = Wire::new(setup.address, setup.namespace, tls)?;
        Ok(Self {
            session: Session::begin(wire, &setup.login)?,
            namespace: setup.namespace.map(|name| name.trim_matches('/').to_owned()),
            mount: setup.mount.to_owned(),
            key: setup.key.to_owned(),
            derived: OnceCell::new(),
        })
    }

    async fn ask(&self, operation: &str, ask: &Ask<'_>) -> Result<Said, KmsError> {
        self.derived.get_or_try_init(|| self.is_derived()).await?;
        let path = format!("{}/{operation}/{}", self.mount, self.key);
        let said = self.session.call(Method::POST, &path, Some(ask)).await?;
        said.judged(&path)
    }

    async fn look(&self) -> Result<Key, KmsError> {
        let path = format!("{}/keys/{}", self.mount, self.key);
        let said = self.session.call(Method::GET, &path, None::<&()>).await?;
        said.judged(&path)?.data()
    }

    async fn is_derived(&self) -> Result<(), KmsError> {
        let key = self.look().await?;
        if key.derived && key.supports_encryption {
            return Ok(());
        }
        let (mount, name) = (&self.mount, &self.key);
        Err(KmsError::Denied(format!(
            "the transit key {name} is not a derived one for encryption, so the server would bind nothing to a customer: make one by `bao write {mount}/keys/NAME derived=true` and name it in [keys]"
        )))
    }
}

impl Kms for Transit {
    fn provider(&self) -> &'static str {
        "transit"
    }

    /// Without the server's address, which may change while the key stays.
    fn key(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}/{}", self.mount, self.key),
            None => format!("{}/{}", self.mount, self.key),
        }
    }

    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> Call<'a, Vec<u8>> {
        Box::pin(async move {
            let len = encoded_len(key.len(), true).unwrap_or_default();
            let mut plaintext = Zeroizing::new(String::with_capacity(len));
            STANDARD.encode_string(key.expose(), &mut plaintext);
            let ask = Ask { plaintext: Some(&plaintext), context: &derivation(context), ..Ask::default() };
            self.ask("encrypt", &ask).await?.ciphertext()
        })
    }

    fn generate<'a>(&'a self, context: KeyContext<'a>) -> Call<'a, (Secret, Vec<u8>)> {
        Box::pin(async move {
            let ask = Ask { bits: Some(256), context: &derivation(context), ..Ask::default() };
            let said = self.ask("datakey/plaintext", &ask).await?;
            Ok((said.plaintext(DATA_KEY)?, said.ciphertext()?))
        })
    }

    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret> {
        Box::pin(async move {
            let (text, _) = read(wrapped)?;
            let ask = Ask { ciphertext: Some(text), context: &derivation(context), ..Ask::default() };
            self.ask("decrypt", &ask).await?.plaintext(DATA_KEY)
        })
    }

    /// Inside the server: the data key does not leave it.
    fn rewrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Vec<u8>> {
        Box::pin(async move {
            let (text, _) = read(wrapped)?;
            let ask = Ask { ciphertext: Some(text), context: &derivation(context), ..Ask::default() };
            self.ask("rewrap", &ask).await?.ciphertext()
        })
    }

    fn version(&self, wrapped: &[u8]) -> Option<String> {
        Some(read(wrapped).ok()?.1.to_owned())
    }

    fn newest(&self) -> Call<'_, Option<String>> {
        Box::pin(async move { Ok(Some(format!("v{}", self.look().await?.latest_version))) })
    }

    fn new_version(&self) -> Call<'_, ()> {
        Box::pin(async move {
            let path = format!("{}/keys/{}/rotate", self.mount, self.key);
            let said = self.session.call(Method::POST, &path, Some(&serde_json::json!({}))).await?;
            said.judged(&path).map(drop)
        })
    }
}

/// `1 | length and bytes of what is shown of the customer | the data key's id`, in base64 as the API takes it.
fn derivation(context: KeyContext<'_>) -> String {
    let shown = context.shown.as_bytes();
    let mut bytes = vec![1];
    bytes.extend_from_slice(&u32::try_from(shown.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(shown);
    bytes.extend_from_slice(context.id.as_bytes());
    STANDARD.encode(bytes)
}

/// The server's text, and the version in it. What cannot be one is refused here, so that a damaged record
/// costs no call.
fn read(wrapped: &[u8]) -> Result<(&str, &str), KmsError> {
    let parts = || {
        let text = std::str::from_utf8(wrapped).ok().filter(|text| text.len() <= LONGEST)?;
        let (version, coded) = text.strip_prefix("vault:")?.split_once(':')?;
        let number = version.strip_prefix('v')?;
        let is_number = (1..=9).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        let is_base64 = coded.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
        (is_number && is_base64 && !coded.is_empty()).then_some((text, version))
    };
    parts().ok_or_else(|| KmsError::Broken("it is not what a transit engine wrapped".to_owned()))
}
