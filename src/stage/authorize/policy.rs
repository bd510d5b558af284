//! A secret's own limits, read once when its record enters memory.
//!
//! They stand in the head, under its code, and are asked behind the integration's: both must allow. Limits that
//! cannot be read make the secret unusable, because what they forbade is not known.

use super::super::limits::OwnLimits;
use crate::config::rule::Rule;
use crate::envelope::EnvelopeError;
use crate::model::Policy;

/// What a secret's own limits say.
#[derive(Debug)]
pub(super) struct Narrowed {
    /// What is allowed; `None` is anything.
    pub(super) allow: Option<Vec<Rule>>,
    /// What is not.
    pub(super) deny: Vec<Rule>,
    /// How much, if that is limited.
    pub(super) limits: Option<OwnLimits>,
}

impl Narrowed {
    /// What `policy` says; `None` if that is nothing.
    pub(super) fn of(policy: &Policy) -> Result<Option<Box<Self>>, EnvelopeError> {
        if policy.is_empty() {
            return Ok(None);
        }
        let rules = |texts: &[String]| {
            let rules: Result<Vec<Rule>, String> = texts.iter().map(|text| Rule::parse(text)).collect();
            rules.map_err(|_| EnvelopeError::Damaged("a rule of its policy is none"))
        };
        let rate = policy.rate.map(|rate| (rate, policy.burst.unwrap_or(rate)));
        let most = policy.concurrency.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        let limits = (rate.is_some() || most.is_some()).then_some(OwnLimits { rate, most });
        let allow = policy.allow.as_deref().map(rules).transpose()?;
        Ok(Some(Box::new(Self { allow, deny: rules(&policy.deny)?, limits })))
    }
}
