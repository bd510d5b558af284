//! A change in the audit: asked before it is made, done or not done before it is acknowledged.

use super::Admin;
use crate::audit::{Event, Kind};
use crate::model::{Customer, IntegrationName, RequestId, SecretId};
use crate::refusal::Refusal;
use crate::seal::Summary;

/// What a change is about.
#[derive(Default)]
pub(super) struct About<'a> {
    pub(super) customer: Option<&'a Customer>,
    pub(super) integration: Option<&'a IntegrationName>,
    pub(super) secret: Option<SecretId>,
    pub(super) version: Option<u32>,
}

impl About<'static> {
    /// About a secret of which nothing more is known yet.
    pub(super) const fn secret(id: SecretId) -> Self {
        Self { customer: None, integration: None, secret: Some(id), version: None }
    }
}

impl<'a> About<'a> {
    fn event(&self, trace: &Trace) -> Event<'a> {
        let mut event = Event::of(Kind::Admin);
        event.request_id = Some(trace.request_id);
        event.method = Some(trace.operation);
        event.customer = self.customer;
        event.integration = self.integration;
        event.secret = self.secret;
        event.version = self.version;
        event
    }
}

/// A change that was made, as the audit tells it.
pub(super) trait Made {
    /// What it was about.
    fn about(&self) -> About<'_>;

    /// More of what came of it.
    fn note(&self) -> Option<String> {
        None
    }
}

impl Made for Summary {
    fn about(&self) -> About<'_> {
        About {
            customer: Some(&self.customer),
            integration: Some(&self.integration),
            secret: Some(self.id),
            version: Some(self.version),
        }
    }
}

/// A change that is under way.
pub(super) struct Trace {
    pub(super) request_id: RequestId,
    operation: &'static str,
    secret: Option<SecretId>,
}

impl Admin {
    /// The change stands in the audit before it is made: no audit, no change.
    pub(super) async fn begin(&self, operation: &'static str, about: &About<'_>) -> Result<Trace, Refusal> {
        let trace = Trace { request_id: RequestId::fresh(), operation, secret: about.secret };
        let mut event = about.event(&trace);
        event.note = Some("asked");
        self.chain.record(&event).await.map_err(Refusal::from)?;
        Ok(trace)
    }

    /// And its result behind it, before it is acknowledged.
    pub(super) async fn finish<T: Made>(
        &self,
        trace: Trace,
        result: Result<T, impl Into<Refusal>>,
    ) -> Result<T, Refusal> {
        match result {
            Ok(done) => {
                let mut event = done.about().event(&trace);
                let note = done.note().map_or_else(|| "done".to_owned(), |more| format!("done: {more}"));
                event.note = Some(&note);
                self.chain.record(&event).await.map_err(Refusal::from)?;
                Ok(done)
            }
            Err(error) => {
                let refusal: Refusal = error.into();
                let asked = About { secret: trace.secret, ..About::default() };
                let mut event = asked.event(&trace);
                event.code = Some(refusal.code().as_str());
                event.note = Some("not done");
                self.chain.record(&event).await.map_err(Refusal::from)?;
                Err(refusal)
            }
        }
    }
}
