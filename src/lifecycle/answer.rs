//! What a token endpoint answered: a token, a refusal for good, or something else.
//!
//! A refusal counts as for good only where the vendor says so in a way that is specified or known; anything else
//! may pass, or is the operator's to mend, and the secret stays as it is. The answer is wiped, token or not. What
//! must never enter: a token in words.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::words::Words;
use crate::clock;
use crate::config::renewal::{Grant, Material, Renewal};
use crate::envelope::{SHORTEST_SCRUBBED, check_value};
use crate::refusal::{Code, Refusal};
use crate::secret::Secret;

/// A token is not believed to live longer, in seconds: ten years.
const LONGEST_LIFE: u64 = 315_360_000;
/// What a token may be called (RFC 6749 section 7.1): what goes out as it stands, with no proof beside it.
const BEARERS: [&str; 7] = ["bearer", "token", "bot", "user", "access_token", "bearertoken", "jwt"];
/// What vendors call a refresh token, a code or an assertion that will never work again.
const DEAD: [&str; 9] = [
    "invalid_grant",
    "invalid_refresh_token",
    "bad_refresh_token",
    "refresh_token_expired",
    "token_revoked",
    "token_expired",
    "expired_token",
    "account_inactive",
    "invalid_auth",
];
/// What they call a client whose credentials are wrong.
const STRANGER: [&str; 3] = ["invalid_client", "unauthorized_client", "invalid_client_id"];

/// What came of asking.
pub(super) enum Verdict {
    /// A token, perhaps with another refresh token, and until when, in seconds since 1970.
    Given { access: Secret, refresh: Option<Secret>, expires_at: u64 },
    /// The customer has to do something; why, in words.
    Dead(String),
    /// Neither.
    Failed(Refusal),
}

/// Judges an answer to what was asked at `now`.
pub(super) fn judge(
    renewal: &Renewal,
    (status, headers, body): (StatusCode, &HeaderMap, Vec<u8>),
    words: &Words,
    now: u64,
) -> Verdict {
    let body = Zeroizing::new(body);
    let mut read = Read(serde_json::from_slice(&body).unwrap_or(Value::Null));
    let error = read.error();
    if status.is_success() && error.is_none() {
        return match given(renewal, &mut read, now) {
            Ok(verdict) => verdict,
            Err(why) => failed(
                Code::CredentialUnusable,
                format!("The vendor's token endpoint answered {status}, {why}."),
            ),
        };
    }
    let said = words.cleaned(&read.said().map_or_else(|| body.to_vec(), String::into_bytes));
    let said = if said.is_empty() { "no words".to_owned() } else { format!("{said:?}") };
    if is_dead(renewal, status, error.as_deref()) {
        return Verdict::Dead(format!("the vendor refused it ({}, {said}).", status.as_u16()));
    }
    let detail = format!("The vendor's token endpoint answered {}, {said}.", status.as_u16());
    let passes = status.is_server_error() || [408, 425, 429].contains(&status.as_u16());
    if !passes {
        return failed(Code::CredentialUnusable, detail);
    }
    let wait = headers.get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
    Verdict::Failed(Refusal::new(Code::VendorBroken, detail).after(Duration::from_secs(wait.unwrap_or(1))))
}

fn failed(code: Code, detail: String) -> Verdict {
    Verdict::Failed(Refusal::new(code, detail))
}

/// Whether this is said of a credential of the customer's that will not work again.
fn is_dead(renewal: &Renewal, status: StatusCode, error: Option<&str>) -> bool {
    let theirs = |value: &Material| matches!(value, Material::Fields(text) if !text.fields().is_empty());
    match &renewal.kind {
        // No OAuth: the status is all that there is.
        Grant::Login => [400, 401, 403].contains(&status.as_u16()),
        Grant::Assertion(made) if made.bearer => {
            [401, 404].contains(&status.as_u16()) && (theirs(&made.key) || status == StatusCode::NOT_FOUND)
        }
        Grant::Refresh(_) | Grant::ClientCredentials | Grant::Assertion(_) => {
            let secret = renewal.client.as_ref().and_then(|client| client.secret.as_ref());
            error.is_some_and(|error| {
                DEAD.contains(&error) || (STRANGER.contains(&error) && secret.is_some_and(theirs))
            })
        }
    }
}

fn given(renewal: &Renewal, read: &mut Read, now: u64) -> Result<Verdict, &'static str> {
    let at = &renewal.answer;
    let kind = read.0.pointer("/token_type").and_then(Value::as_str);
    if kind.is_some_and(|kind| !BEARERS.contains(&kind.to_ascii_lowercase().as_str())) {
        return Err("and its token_type is none that relay can send");
    }
    let life = renewal.lifetime.as_secs();
    let expires_in = at.expires_in.as_deref().and_then(|at| read.number(at)).filter(|life| *life > 0);
    let expires_at = at.expires_at.as_deref().and_then(|at| read.moment(at));
    let until = match (expires_at, expires_in) {
        (Some(moment), _) => moment,
        (None, seconds) => now.saturating_add(seconds.unwrap_or(life)),
    };
    let access = read.text(&at.token).ok_or("and there is no token where one is expected")?;
    check_value(access.expose()).map_err(|_| "and its token cannot stand in a header")?;
    if access.len() < SHORTEST_SCRUBBED {
        return Err("and its token is too short to be scrubbed from answers");
    }
    let refresh = at.refresh.as_deref().and_then(|at| read.text(at)).filter(|token| !token.is_empty());
    let expires_at = until.min(now.saturating_add(LONGEST_LIFE));
    Ok(Verdict::Given { access, refresh, expires_at })
}

/// An answer as JSON; every text in it is wiped with it.
struct Read(Value);

impl Read {
    /// What went wrong, if the answer says so: with 200 too, as some vendors do.
    fn error(&self) -> Option<String> {
        let error = self.0.get("error")?;
        let code =
            ["code", "type", "error", "message"].into_iter().find_map(|name| error.get(name)?.as_str());
        let said = error.as_str().filter(|said| !said.is_empty());
        said.or(code).map(str::to_owned).or_else(|| error.is_object().then(String::new))
    }

    /// The same in words.
    fn said(&self) -> Option<String> {
        let error = self.error().filter(|error| !error.is_empty());
        let mut more = ["error_description", "message", "detail"].into_iter();
        let more = more.find_map(|name| self.0.get(name)?.as_str());
        let more = more.or_else(|| self.0.pointer("/error/message")?.as_str());
        match (error, more) {
            (Some(error), Some(more)) if error != more => Some(format!("{error}: {more}")),
            (Some(one), _) => Some(one),
            (None, more) => more.map(str::to_owned),
        }
    }

    /// Takes a text out.
    fn text(&mut self, at: &str) -> Option<Secret> {
        match self.0.pointer_mut(at)?.take() {
            Value::String(text) => Some(Secret::new(text.into_bytes())),
            _ => None,
        }
    }

    /// A number, or one written as text.
    fn number(&self, at: &str) -> Option<u64> {
        match self.0.pointer(at)? {
            Value::Number(number) => {
                number.as_u64().or_else(|| format!("{:.0}", number.as_f64()?.floor()).parse().ok())
            }
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// A time as RFC 3339, or in seconds since 1970.
    fn moment(&self, at: &str) -> Option<u64> {
        let text = self.0.pointer(at).and_then(Value::as_str).and_then(clock::parse_rfc3339);
        text.or_else(|| self.number(at))
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(all) => all.iter_mut().for_each(wipe),
        Value::Object(all) => all.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
