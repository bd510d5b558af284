//! Secrets sealed for where an integration was: its vendor's host changed, or its own name did.
//!
//! A secret opens for the integration and origin that it was sealed for and for no other. An operator who says
//! that the new place is the old one has them sealed for it. What must never enter: a change of place that
//! nobody asked for.

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::at_hand::{AtHand, Outcome};
use super::renew::PAGE;
use super::{SealError, SealTarget, Sealer, touch};
use crate::envelope::{Head, Terms};
use crate::model::{Customer, IntegrationName, Origin};

/// For what the secrets are sealed now. What is not said is what the integration has today.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Was {
    /// The integration's name before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integration: Option<IntegrationName>,
    /// The vendor's origin before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The origin of its token endpoint before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_origin: Option<Origin>,
}

impl Was {
    fn names(&self, head: &Head, target: &SealTarget) -> bool {
        let Ok(terms) = Terms::decode(&head.policy) else { return false };
        let admitted = target.admits(&head.origin, terms.base_path.as_deref());
        let here = head.integration == target.name && admitted && head.token_origin == target.token_origin;
        let tokens = self.token_origin.as_ref().or(target.token_origin.as_ref());
        !here
            && head.token_origin.as_ref() == tokens
            && head.integration == *self.integration.as_ref().unwrap_or(&target.name)
            && self.origin.as_ref().map_or(admitted, |origin| head.origin == *origin)
    }
}

impl Sealer {
    /// Whether there is anything to ask for.
    pub(super) fn may_rebind(&self, to: &IntegrationName, from: &Was) -> Result<(), SealError> {
        let target = self.target(to)?;
        if let Some(name) = from.integration.as_ref().filter(|name| **name != *to)
            && self.target(name).is_ok()
        {
            let why = format!("relay.toml still has an integration {name}, whose secrets these are");
            return Err(SealError::Invalid { field: "from".to_owned(), why });
        }
        if target.per_customer.is_some() && from.origin.is_some() {
            let why = "the integration's host is each customer's own, and a new version of a secret freezes it: \
                       `relay secret rotate`";
            return Err(SealError::Invalid { field: "from".to_owned(), why: why.to_owned() });
        }
        let other_name = from.integration.as_ref().is_some_and(|name| *name != target.name);
        let other_origin = from.origin.as_ref().is_some_and(|origin| *origin != target.origin);
        let other_tokens = from.token_origin.is_some() && from.token_origin != target.token_origin;
        if !other_name && !other_origin && !other_tokens {
            let why = "it is what the integration has today: name what it had before".to_owned();
            return Err(SealError::Invalid { field: "from".to_owned(), why });
        }
        Ok(())
    }

    /// Whether the customer has a secret that is sealed for what `from` says.
    pub(super) async fn has_bound(
        &self,
        customer: &Customer,
        to: &IntegrationName,
        from: &Was,
    ) -> Result<bool, SealError> {
        let target = self.target(to)?;
        let mut after = None;
        loop {
            let page = self.store.secrets(customer, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(false) };
            after = Some(last.id);
            for row in &page {
                if said(&row.head, from, &target) {
                    return Ok(true);
                }
                for past in self.store.upkeep().past(customer, row.id).await? {
                    if past.head.is_some_and(|head| said(&head, from, &target)) {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Seals the customer's secrets that are sealed for what `from` says for the integration as it is today.
    pub(super) async fn rebind(
        &self,
        customer: &Customer,
        to: &IntegrationName,
        from: &Was,
        calls: &Semaphore,
    ) -> Result<Outcome, SealError> {
        let target = self.target(to)?;
        let mut at_hand = AtHand::new(self, customer, calls);
        let mut outcome = Outcome::default();
        let change = |head: &mut Head| {
            let wanted = from.names(head, &target);
            if wanted {
                head.integration = target.name.clone();
                if target.per_customer.is_none() {
                    head.origin = target.origin.clone();
                    head.policy = without_base_path(&head.policy);
                }
                head.token_origin.clone_from(&target.token_origin);
                touch(head);
            }
            wanted
        };
        let mut after = None;
        loop {
            let page = self.store.secrets(customer, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(outcome) };
            after = Some(last.id);
            for row in page {
                let id = row.id;
                if said(&row.head, from, &target) {
                    let done = at_hand.reseal(row, None, &change).await;
                    outcome.count(id, done)?;
                }
                for past in self.store.upkeep().past(customer, id).await? {
                    if past.head.as_ref().is_some_and(|head| said(head, from, &target)) {
                        let done = at_hand.reseal_past(id, past, None, &change).await;
                        outcome.count(id, done)?;
                    }
                }
            }
        }
    }
}

/// A fixed integration's base path is relay.toml's. What cannot be read stays, and is refused at use.
fn without_base_path(policy: &[u8]) -> Vec<u8> {
    let terms = Terms::decode(policy).and_then(|terms| Terms { base_path: None, ..terms }.encode());
    terms.unwrap_or_else(|_| policy.to_vec())
}

/// Whether a head says so, proven or not: what is not looked for costs no KMS call.
fn said(head: &[u8], from: &Was, target: &SealTarget) -> bool {
    Head::unproven(head).is_ok_and(|head| from.names(&head, target))
}
