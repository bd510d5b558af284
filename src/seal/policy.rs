//! A secret's own limits: checked when they are given, changed without touching what is sealed.
//!
//! They stand in the head, so whoever writes to the store can neither widen nor remove them. What must never
//! enter: a limit that could be taken for a wider one than the integration's.

use super::{SealError, Sealer, Summary, TRIES, target::SealTarget, touch};
use crate::config::rule::Rule;
use crate::envelope::Terms;
use crate::model::{Policy, SecretId};
use crate::store::Expected;

/// The most rules of one secret.
const MOST_RULES: usize = 50;
/// The longest rule, in bytes.
const LONGEST_RULE: usize = 200;
/// The largest rate, burst and concurrency, as in relay.toml.
const LARGEST: u32 = 1_000_000;
/// Room for the rules as they stand in a head, in bytes.
const LONGEST: usize = 3072;

/// Whether a secret of this integration may have these limits.
pub(super) fn check(policy: &Policy, target: &SealTarget) -> Result<(), SealError> {
    let wrong = |what: &str, why: String| Err(SealError::Invalid { field: format!("policy.{what}"), why });
    for (what, rules) in [("allow", policy.allow.as_deref().unwrap_or_default()), ("deny", &policy.deny)] {
        if rules.len() > MOST_RULES || rules.iter().map(String::len).sum::<usize>() > LONGEST / 2 {
            return wrong(
                what,
                format!("it has at most {MOST_RULES} rules of {} bytes together", LONGEST / 2),
            );
        }
        for (number, rule) in rules.iter().enumerate() {
            if rule.len() > LONGEST_RULE {
                return wrong(what, format!("rule {} is over {LONGEST_RULE} bytes", number + 1));
            }
            if let Err(why) = Rule::parse(rule) {
                return wrong(what, format!("rule {}: {why}, as in \"GET /users/*\"", number + 1));
            }
        }
    }
    if policy.allow.as_ref().is_some_and(Vec::is_empty) {
        return wrong("allow", "an empty list is unclear: leave it away, or disable the secret".to_owned());
    }
    let concurrency = target.concurrency.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
    for (what, given, integrations) in [
        ("rate", policy.rate, target.rate),
        ("burst", policy.burst, None),
        ("concurrency", policy.concurrency, concurrency),
    ] {
        let most = integrations.unwrap_or(LARGEST);
        if given.is_some_and(|number| number == 0 || number > most) {
            let whose = if integrations.is_some() { ", as the integration has" } else { "" };
            return wrong(what, format!("it is 1 to {most}{whose}"));
        }
    }
    if policy.burst.is_some() && policy.rate.is_none() {
        return wrong("burst", "it is nothing without a rate".to_owned());
    }
    Ok(())
}

impl Sealer {
    /// Gives a secret these limits in place of those that it had. What is sealed stays as it is.
    ///
    /// # Errors
    /// `NotFound`, `UnknownIntegration`, `Invalid`, `Conflict`, `Keys`, `Store`, `Unusable`.
    pub async fn set_policy(&self, id: SecretId, policy: Policy) -> Result<Summary, SealError> {
        let customer = self.owner(id).await?;
        for _ in 0..TRIES {
            let (row, mut head) = self.row(&customer, id).await?;
            if !policy.is_empty() {
                check(&policy, &*self.target(&head.integration)?)?;
            }
            let Terms { base_path, .. } = Terms::decode(&head.policy)?;
            let terms = Terms { base_path, policy: policy.clone() }.encode()?;
            if head.policy == terms {
                return Ok(head.into());
            }
            head.policy = terms;
            touch(&mut head);
            let key = self.key(&customer, head.data_key).await?;
            match self.put(&head, &key, (row.sealed, row.tokens), Expected::Head(row.head)).await {
                Err(SealError::Conflict) => {}
                written => return written.map(|()| head.into()),
            }
        }
        Err(SealError::Conflict)
    }
}
