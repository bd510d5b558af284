//! The token that a transit server is called with: had by a login, renewed before it ends, had again.
//!
//! A task renews it when a third of its life is left, and logs in again where renewal ends (AppRole). A call
//! that is refused logs in once, since the token may have been taken back; whoever else waits takes that
//! login's token. A token that was given and ends is the operator's to replace: relay says so in time. What
//! must never enter: a token in a log.

use std::borrow::Cow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::TransitError;
use super::wire::{Said, Wire, header};
use crate::kms::KmsError;
use crate::secret::Secret;

/// A token younger than this is not replaced because a call was refused: the refusal is about rights.
const YOUNG: Duration = Duration::from_secs(2);
/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a token without an end is left alone.
const ENDLESS: Duration = Duration::from_secs(3600);

/// How relay logs in.
pub enum TransitLogin<'a> {
    /// A token that was given, renewed while it can be.
    Token(&'a Secret),
    /// AppRole, logged in again when its token ends.
    AppRole {
        /// Where it is mounted.
        mount: &'a str,
        /// The role's id.
        role_id: &'a str,
        /// The role's secret.
        secret_id: &'a Secret,
    },
}

pub(super) struct Session {
    wire: Wire,
    role: Option<Role>,
    /// Held during a login, so that one is under way at a time.
    token: Mutex<Option<Arc<Token>>>,
}

struct Role {
    mount: String,
    role_id: String,
    secret_id: Secret,
}

struct Token {
    value: Arc<Secret>,
    since: Instant,
    life: Life,
    renewable: bool,
    /// The life that it was given first. One that renewal shortens far is near its last end.
    first: Duration,
}

#[derive(Clone, Copy)]
enum Life {
    Unknown,
    Endless,
    For(Duration),
}

#[derive(Serialize)]
struct Credentials<'a> {
    role_id: &'a str,
    secret_id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct LoggedIn<'a> {
    #[serde(borrow)]
    auth: Auth<'a>,
}

#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow)]
    client_token: Cow<'a, str>,
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct Looked {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

impl Session {
    pub(super) fn begin(wire: Wire, login: &TransitLogin<'_>) -> Result<Arc<Self>, TransitError> {
        let copy = |secret: &Secret| Secret::new(secret.expose().to_vec());
        let (role, token) = match login {
            TransitLogin::Token(given) => {
                header(given).map_err(|_| TransitError::Text("token"))?;
                (None, Some(Arc::new(Token::given(copy(given)))))
            }
            TransitLogin::AppRole { mount, role_id, secret_id } => {
                std::str::from_utf8(secret_id.expose()).map_err(|_| TransitError::Text("secret_id"))?;
                let (mount, role_id) = ((*mount).to_owned(), (*role_id).to_owned());
                (Some(Role { mount, role_id, secret_id: copy(secret_id) }), None)
            }
        };
        let session = Arc::new(Self { wire, role, token: Mutex::new(token) });
        tokio::spawn(keep(Arc::downgrade(&session)));
        Ok(session)
    }

    /// One call with the token of the moment; behind a refusal once more with a fresh one, where relay can
    /// have one by itself.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Said, KmsError> {
        let token = self.token(None).await?;
        let said = self.wire.call(method.clone(), path, Some(&token.value), body).await?;
        let refused = said.status == StatusCode::FORBIDDEN;
        if !refused || self.role.is_none() || token.since.elapsed() < YOUNG {
            return Ok(said);
        }
        let token = self.token(Some(&token)).await?;
        self.wire.call(method, path, Some(&token.value), body).await
    }

    /// The token; another one if it is `refused` or has ended.
    async fn token(&self, refused: Option<&Arc<Token>>) -> Result<Arc<Token>, KmsError> {
        let mut held = self.token.lock().await;
        if let Some(token) = &*held {
            let is_refused = refused.is_some_and(|refused| Arc::ptr_eq(&refused.value, &token.value));
            if self.role.is_none() || !(is_refused || token.left().is_zero()) {
                return Ok(Arc::clone(token));
            }
        }
        let Some(role) = &self.role else { return Err(KmsError::Denied("there is no token".to_owned())) };
        let fresh = Arc::new(self.login(role).await?);
        *held = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    async fn login(&self, role: &Role) -> Result<Token, KmsError> {
        let path = format!("auth/{}/login", role.mount);
        let secret_id = String::from_utf8_lossy(role.secret_id.expose());
        let body = Credentials { role_id: &role.role_id, secret_id };
        let asked = Instant::now();
        let said = self.wire.call(Method::POST, &path, None, Some(&body)).await?.judged(&path)?;
        let auth = said.json::<LoggedIn<'_>>()?.auth;
        Ok(Token::new(&auth, asked))
    }

    /// Looks after the token; says when to look again.
    async fn tend(&self) -> Result<Duration, KmsError> {
        let token = self.token(None).await?;
        match token.life {
            Life::Endless => Ok(ENDLESS),
            Life::For(life) => {
                let left = (life * 2 / 3).saturating_sub(token.since.elapsed());
                if left.is_zero() { self.renew(&token).await.map(|()| left) } else { Ok(left) }
            }
            Life::Unknown => {
                let (path, asked) = ("auth/token/lookup-self", Instant::now());
                let said = self.wire.call(Method::GET, path, Some(&token.value), None::<&()>).await?;
                let looked: Looked = said.judged(path)?.data()?;
                // A token without an end has a time to live of nought.
                let endless = looked.ttl == 0;
                let life = if endless { Life::Endless } else { Life::For(Duration::from_secs(looked.ttl)) };
                self.replace(&token, token.renewed(life, looked.renewable, asked)).await;
                Ok(Duration::ZERO)
            }
        }
    }

    async fn renew(&self, token: &Arc<Token>) -> Result<(), KmsError> {
        if token.renewable {
            let (path, asked) = ("auth/token/renew-self", Instant::now());
            let body = serde_json::json!({});
            let said = self.wire.call(Method::POST, path, Some(&token.value), Some(&body)).await?;
            if said.status.is_success() {
                let auth = said.json::<LoggedIn<'_>>()?.auth;
                let life = Duration::from_secs(auth.lease_duration);
                if life > token.first / 2 {
                    self.replace(token, token.renewed(Life::For(life), auth.renewable, asked)).await;
                    return Ok(());
                }
            } else if said.status.is_server_error() {
                said.judged(path)?;
            }
        }
        if self.role.is_some() {
            return self.token(Some(token)).await.map(drop);
        }
        let left = token.left().as_secs();
        Err(KmsError::Denied(format!("it ends in {left} s and cannot be renewed: give relay a new one")))
    }

    /// Unless another login came in between.
    async fn replace(&self, old: &Arc<Token>, new: Token) {
        let mut held = self.token.lock().await;
        if held.as_ref().is_some_and(|token| Arc::ptr_eq(token, old)) {
            *held = Some(Arc::new(new));
        }
    }
}

impl Token {
    fn given(value: Secret) -> Self {
        let (since, first) = (Instant::now(), Duration::ZERO);
        Self { value: Arc::new(value), since, life: Life::Unknown, renewable: false, first }
    }

    fn new(auth: &Auth<'_>, since: Instant) -> Self {
        let first = Duration::from_secs(auth.lease_duration);
        let value = Arc::new(Secret::new(auth.client_token.as_bytes().to_vec()));
        let life = if first.is_zero() { Life::Endless } else { Life::For(first) };
        Self { value, since, life, renewable: auth.renewable, first }
    }

    fn renewed(&self, life: Life, renewable: bool, since: Instant) -> Self {
        let first = match life {
            Life::For(life) if self.first.is_zero() => life,
            _ => self.first,
        };
        Self { value: Arc::clone(&self.value), since, life, renewable, first }
    }

    fn left(&self) -> Duration {
        match self.life {
            Life::For(life) => life.saturating_sub(self.since.elapsed()),
            Life::Unknown | Life::Endless => ENDLESS,
        }
    }
}

/// Ends with the session. A failure that goes on is told once.
async fn keep(session: Weak<Session>) {
    let mut told = String::new();
    while let Some(held) = session.upgrade() {
        let wait = match held.tend().await {
            Ok(wait) => {
                told.clear();
                wait
            }
            Err(error) => {
                let why = error.to_string();
                if why != told {
                    tracing::warn!(why, "relay's token for the transit server is not kept up");
                    told = why;
                }
                AGAIN
            }
        };
        drop(held);
        sleep(wait).await;
    }
}
