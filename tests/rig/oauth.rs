//! A vendor with a token endpoint: access tokens that expire, refresh tokens that are replaced, and reuse that
//! ends the family (RFC 9700 section 4.14.2).
//!
//! Every token has the credential that it comes from in it, so that the hunt for that one finds each of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::vendor::{self, Out, Received, Vendor};

#[derive(Default)]
pub struct OAuth {
    state: Mutex<State>,
    /// Seconds that the next tokens live.
    pub lives: AtomicU64,
    /// Answers 503 to whoever asks for a token.
    pub down: AtomicBool,
    /// How long the endpoint thinks, in milliseconds.
    pub thinks: AtomicU64,
    /// Refuses the tokens given so far, as after a revocation by the vendor.
    pub revoked: AtomicBool,
    /// Sees each request for a token once the tokens were replaced, before it is answered.
    pub replaced: Mutex<Option<Box<dyn Fn() + Send>>>,
}

#[derive(Default)]
struct State {
    root: String,
    refresh: String,
    access: Option<(String, Instant)>,
    given: u64,
    dead: bool,
    asked: Vec<Received>,
}

impl OAuth {
    /// A vendor whose tokens live `lives` seconds.
    pub fn start(lives: u64) -> (Arc<Self>, Vendor) {
        let this = Arc::new(Self { lives: AtomicU64::new(lives), ..Self::default() });
        let served = this.clone();
        (this, Vendor::start(move |request, out| served.serve(request, out)))
    }

    /// A customer has connected: this refresh token is good now.
    pub fn connect(&self, refresh: &str) {
        let mut state = self.state.lock().unwrap();
        (state.root, state.refresh) = (refresh.to_owned(), refresh.to_owned());
        (state.dead, state.access) = (false, None);
    }

    /// The customer has disconnected.
    pub fn disconnect(&self) {
        self.state.lock().unwrap().dead = true;
    }

    /// Requests for tokens so far.
    pub fn asked(&self) -> Vec<Received> {
        self.state.lock().unwrap().asked.clone()
    }

    pub fn count(&self) -> usize {
        self.asked().len()
    }

    pub fn serve(&self, request: &Received, out: &mut Out<'_>) {
        if request.target().starts_with("/oauth/") {
            std::thread::sleep(Duration::from_millis(self.thinks.load(Ordering::SeqCst)));
            self.token(request, out);
        } else {
            self.api(request, out);
        }
    }

    fn token(&self, request: &Received, out: &mut Out<'_>) {
        let answer = {
            let mut state = self.state.lock().unwrap();
            state.asked.push(request.clone());
            if self.down.load(Ordering::SeqCst) {
                Err((503, "{}".to_owned()))
            } else {
                let given = form(&request.body);
                let refresh = given.iter().find(|(name, _)| name == "refresh_token").map(|(_, v)| v.as_str());
                match refresh {
                    Some(token) if !state.dead && token == state.refresh => Ok(true),
                    // Reuse: somebody has a copy, and nobody knows who.
                    Some(token) => {
                        state.dead = true;
                        let why = format!("the refresh token\r\n{token} is not valid");
                        Err((
                            400,
                            serde_json::json!({ "error": "invalid_grant", "error_description": why })
                                .to_string(),
                        ))
                    }
                    None => Ok(false),
                }
                .map(|rotates| {
                    let lives = self.lives.load(Ordering::SeqCst);
                    state.given += 1;
                    let number = state.given;
                    if state.root.is_empty() {
                        state.root = "sk-canary-of-nobody".to_owned();
                    }
                    let access = format!("{}-access-{number}", state.root);
                    state.access = Some((access.clone(), Instant::now() + Duration::from_secs(lives)));
                    self.revoked.store(false, Ordering::SeqCst);
                    let mut answer = serde_json::json!({
                        "access_token": access, "token_type": "Bearer", "expires_in": lives.to_string(),
                    });
                    if rotates {
                        state.refresh = format!("{}-refresh-{number}", state.root);
                        answer["refresh_token"] = state.refresh.clone().into();
                    }
                    answer.to_string()
                })
            }
        };
        if let Some(seen) = &*self.replaced.lock().unwrap() {
            seen();
        }
        let json = [("content-type", "application/json")];
        match answer {
            Ok(body) => vendor::answer(out, 200, &json, body.as_bytes()),
            Err((status, body)) => vendor::answer(out, status, &json, body.as_bytes()),
        }
    }

    fn api(&self, request: &Received, out: &mut Out<'_>) {
        let sent = request.header("authorization").unwrap_or_default().to_owned();
        let state = self.state.lock().unwrap();
        let good = state.access.as_ref().is_some_and(|(token, until)| {
            sent == format!("Bearer {token}")
                && Instant::now() < *until
                && !self.revoked.load(Ordering::SeqCst)
        });
        drop(state);
        match good {
            // It gives the credential back, as some do.
            true => vendor::answer(out, 200, &[], format!("ok {sent}").as_bytes()),
            false => vendor::answer(out, 401, &[], format!("no {sent}").as_bytes()),
        }
    }
}

/// The fields of a form.
pub fn form(body: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(body).into_owned().collect()
}
