//! A credential tried before it is sealed, with the values in hand: the vendor says whether it works.
//!
//! It goes where every request of the integration goes, by the same placements. Where access tokens are had, the
//! first one is had with it and kept with the secret: a vendor that replaces refresh tokens would not take the
//! given one again. What must never enter: a value in what is said of the vendor's answer.

use std::time::Duration;

use http::HeaderValue;
use http::header::{ACCEPT, USER_AGENT};
use serde_json::Value;
use zeroize::Zeroizing;

use super::ask::NAME;
use super::renew::{Trace, mint, unanswered};
use super::words::Words;
use super::{Lifecycle, Plan, Way};
use crate::config::renewal::{ACCESS_TOKEN, Verify};
use crate::model::{FieldName, FieldSpec};
use crate::net::fetch::{FetchRequest, Fetched, call};
use crate::refusal::{Code, Refusal};
use crate::seal::{Given, Judged};
use crate::secret::{Field, Secret};
use crate::stage::inject::own_request;
use crate::stage::route::Route;
use crate::stage::unseal::Credential;

const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Of an answer this much is read, in bytes; a longer one is no answer to a small question.
const LONGEST_ANSWER: usize = 1024 * 1024;

const HINT: &str = "`--no-verify` (`\"verify\": false`) seals it untried";

impl Lifecycle {
    /// Whether anything is tried for this integration.
    fn tried(&self, judged: &Judged) -> Option<&Plan> {
        let plan = self.plans.get(&judged.head().integration)?;
        (plan.renewal.is_some() || plan.verify.is_some()).then_some(plan)
    }

    /// Tries a credential: `Ok` if it works or the integration has no way to try it, with what the vendor gave.
    ///
    /// # Errors
    /// `credential_unusable` with what the vendor said; what kept it from saying anything; `audit_unavailable`.
    pub async fn verify(&self, judged: &Judged) -> Result<Option<Given>, Refusal> {
        let Some(plan) = self.tried(judged) else { return Ok(None) };
        let trace = Trace { parts: &self.parts, plan, operation: "secret.verify" };
        let way = plan.way(judged.head())?;
        let origin = way.renewal.as_ref().map_or(&way.route.origin, |(_, to)| to.origin()).to_string();
        trace.record(judged.head(), &origin, (None, "asked")).await?;
        let done = tried(&way, plan.verify.as_ref(), judged).await;
        let told = done.as_ref().err().map_or_else(|| "it works".to_owned(), |why| why.detail().to_owned());
        let code = done.as_ref().err().map(Refusal::code);
        trace.record(judged.head(), &origin, (code, &told)).await?;
        if plan.renewal.is_some() {
            let outcome = if done.is_ok() { "first" } else { "refused" };
            self.parts.metrics.token_refresh(plan.route.name.as_str(), outcome);
        }
        done
    }
}

async fn tried(way: &Way, verify: Option<&Verify>, judged: &Judged) -> Result<Option<Given>, Refusal> {
    let mut given = None;
    if let Some((renewal, upstream)) = &way.renewal {
        let had = mint(way, (renewal, upstream), judged.fields(), None)
            .await
            .map_err(|refusal| hinted(&refusal))?;
        if let Some(why) = &had.standing.reconnect {
            return Err(Refusal::new(Code::CredentialUnusable, format!("It was not sealed: {why}")));
        }
        given = Some(had);
    }
    let Some(verify) = verify else { return Ok(given) };
    let access = given.as_ref().and_then(|given| given.access.as_ref());
    called(&way.route, verify, judged.fields(), access).await.map_err(|refusal| {
        // What was given for it is thrown away, and the vendor may not take the old one again.
        match given.as_ref().and_then(|given| given.refresh.as_ref()) {
            Some(_) => {
                let detail = format!(
                    "{} The vendor has replaced the refresh token meanwhile: connect again for a new one.",
                    refusal.detail()
                );
                Refusal::new(refusal.code(), detail).because(refusal.cause().unwrap_or_default())
            }
            None => refusal,
        }
    })?;
    Ok(given)
}

async fn called(
    route: &Route,
    verify: &Verify,
    fields: &[Field],
    access: Option<&Secret>,
) -> Result<(), Refusal> {
    let copy = |value: &Secret| Secret::new(value.expose().to_vec());
    let mut words = Words::of(fields);
    let mut in_hand: Vec<Field> =
        fields.iter().map(|field| Field { spec: field.spec.clone(), value: copy(&field.value) }).collect();
    if let Some(access) = access {
        words.hide(access.expose());
        let name = FieldName::parse(ACCESS_TOKEN).map_err(|_| Refusal::from(Code::CredentialUnusable))?;
        in_hand.push(Field { spec: FieldSpec { name, secret: true }, value: copy(access) });
    }
    let own = own_request(route, &Credential::in_hand(in_hand), verify.method.clone(), &verify.path)?;
    let (head, _) = own.into_parts();
    let target = head.uri.to_string();
    let mut headers = head.headers;
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
    headers.entry(USER_AGENT).or_insert(NAME);
    let request = FetchRequest {
        method: verify.method.clone(),
        url: format!("{}{target}", route.origin),
        headers,
        body: Vec::new(),
        limit: LONGEST_ANSWER,
        timeout: ANSWERED_WITHIN,
        tls: None,
    };
    let answer = call(&route.upstream, request).await;
    let Fetched { status, body, .. } = answer.map_err(|error| hinted(&unanswered(&error, "API")))?;
    let body = Zeroizing::new(body);
    let right = verify.expect.map_or_else(|| status.is_success(), |wanted| status.as_u16() == wanted);
    let says = verify.says.as_ref().is_none_or(|(at, wanted)| {
        serde_json::from_slice::<Value>(&body).is_ok_and(|answer| answer.pointer(at) == Some(wanted))
    });
    if right && says {
        return Ok(());
    }
    let said = words.cleaned(&body);
    let what = match status.as_u16() {
        200..=299 | 401 | 403 => "refused the credential",
        _ => "did not say that the credential works",
    };
    let detail = format!("It was not sealed: the vendor {what} ({}): {said:?}; {HINT}.", status.as_u16());
    Err(Refusal::new(Code::CredentialUnusable, detail))
}

/// What has nothing to do with the credential says how to go on without.
fn hinted(refusal: &Refusal) -> Refusal {
    let detail = format!("It was not sealed: {} {HINT}.", refusal.detail());
    Refusal::new(refusal.code(), detail).because(refusal.cause().unwrap_or_default())
}
