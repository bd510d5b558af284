//! Which relay a command talks to, and one call to its admin API.
//!
//! Found by `--config`, else by `RELAY_ADDR` and `RELAY_ADMIN_TOKEN`, else by `relay.toml` in this folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;

use super::Context;
use super::exit::{Exit, Failure};
use crate::config::{self, Config, Files, Integration};
use crate::net::fetch::{FetchError, FetchRequest, Fetched, fetch, fetch_pieces};
use crate::secret::Secret;

const ANSWER_TIME: Duration = Duration::from_secs(30);
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Where the running relay is described.
#[derive(Debug, Args)]
pub struct Which {
    /// The relay.toml of the running relay [default: RELAY_ADDR and RELAY_ADMIN_TOKEN, else relay.toml here]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A relay's admin API.
pub struct Target {
    address: String,
    token: Secret,
    /// The audit file, if it was found through a relay.toml.
    pub audit: Option<PathBuf>,
    /// Its integrations, if it was found through a relay.toml.
    pub integrations: Vec<Integration>,
}

impl Target {
    /// Finds it.
    ///
    /// # Errors
    /// Usage, if nothing says where it is; invalid configuration.
    pub fn find(context: &Context, which: &Which) -> Result<Self, Failure> {
        if let Some(file) = &which.config {
            return Self::from_file(context, file);
        }
        match (context.variable("RELAY_ADDR"), context.variable("RELAY_ADMIN_TOKEN")) {
            (Some(address), Some(token)) => {
                let address = address.trim_end_matches('/');
                let address =
                    if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
                Ok(Self {
                    address,
                    token: Secret::new(token.into_bytes()),
                    audit: None,
                    integrations: Vec::new(),
                })
            }
            (None, None) if Path::new("relay.toml").exists() => {
                Self::from_file(context, Path::new("relay.toml"))
            }
            (None, None) => Err(Failure::new(
                Exit::Usage,
                "which relay? give --config relay.toml, or set RELAY_ADDR and RELAY_ADMIN_TOKEN",
            )),
            _ => Err(Failure::new(Exit::Usage, "RELAY_ADDR and RELAY_ADMIN_TOKEN belong together: set both")),
        }
    }

    /// What relay itself needs may be missing here, where another user calls it: a vendor's secret in the
    /// environment, a key file. What these commands need may not: the admin token, which would be a random one.
    fn config(context: &Context, file: &Path) -> Result<Config, Failure> {
        let (config, report) = config::examine_file(file, &context.environment, Files::Optional);
        let without_token = report.findings().iter().any(|finding| finding.message.contains("[admin] token"));
        match config {
            Some(config) if !without_token => Ok(config),
            _ => {
                let loaded = config::load(file, &context.environment);
                loaded.map(|loaded| loaded.config).map_err(|report| context.invalid(&report))
            }
        }
    }

    fn from_file(context: &Context, file: &Path) -> Result<Self, Failure> {
        let config = Self::config(context, file)?;
        let address = format!("http://{}", config.server.admin_listen);
        Ok(Self {
            address,
            token: config.admin.token,
            audit: config.audit.path,
            integrations: config.integrations,
        })
    }

    /// One call; a refusal becomes the error it names.
    ///
    /// # Errors
    /// Unreachable; denied or not found; anything else that is no success.
    pub async fn call(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Value, Failure> {
        let answer = self.ask(method, path, body).await?;
        read(&answer)
    }

    /// One call, whatever the status of its answer.
    ///
    /// # Errors
    /// Unreachable, or no answer that can be read.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Fetched, Failure> {
        let request = self.request(method, path, body)?;
        fetch(request).await.map_err(|error| self.failed(&error))
    }

    /// Asks for a stream, and gives each piece to `piece`; a refusal becomes the error it names.
    ///
    /// # Errors
    /// As [`Target::call`]; if the stream breaks, or `piece` fails.
    pub async fn stream(
        &self,
        path: &str,
        piece: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), Failure> {
        let request = self.request(Method::GET, path, None)?;
        let answer = fetch_pieces(request, piece).await.map_err(|error| self.failed(&error))?;
        read(&answer).map(drop)
    }

    fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<FetchRequest, Failure> {
        let mut bearer = b"Bearer ".to_vec();
        bearer.extend_from_slice(self.token.expose());
        let mut bearer = HeaderValue::from_bytes(&bearer)
            .map_err(|_| Failure::new(Exit::Usage, "the admin token is not visible ASCII"))?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, bearer);
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(FetchRequest {
            method,
            url: format!("{}{path}", self.address),
            headers,
            body: body.unwrap_or_default(),
            limit: LARGEST_ANSWER,
            timeout: ANSWER_TIME,
            tls: None,
        })
    }

    /// An answer that is no success, as a failure.
    pub fn refused(&self, answer: &Fetched) -> Failure {
        read(answer).err().unwrap_or_else(|| Failure::failed(format!("{} answered strangely", self.address)))
    }

    fn failed(&self, error: &FetchError) -> Failure {
        match error {
            FetchError::Unreachable(_) => Failure::new(
                Exit::Unreachable,
                format!("no relay answers at {}: {error}. Is `relay run` up?", self.address),
            ),
            _ => Failure::failed(format!("the call to {} failed: {error}", self.address)),
        }
    }
}

fn read(answer: &Fetched) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    if answer.status.is_success() {
        return Ok(value);
    }
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (code, message, id) = (text("code"), text("message"), text("request_id"));
    let said = format!("relay said {} {code}: {message} (request {id})", answer.status.as_u16());
    Err(match answer.status.as_u16() {
        401 | 403 | 404 | 410 => Failure::new(Exit::Denied, said),
        _ => Failure::failed(said),
    })
}
