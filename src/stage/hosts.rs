//! Vendors whose host is each customer's own: a route per frozen place, made when it is first used.
//!
//! Where a secret goes was frozen when it was sealed, and authorize has proven that; here it is compared with
//! what the integration is configured for today. What must never enter: anything of a request. What would break:
//! a place kept under a key that leaves out a part of it would be another customer's.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::config::upstream::UpstreamTemplate;
use crate::model::Origin;
use crate::refusal::{Code, Refusal};
use crate::stage::route::Route;

/// Places of one integration that are kept ready, those used last. Another is made anew, with new connections.
const MOST_PLACES: u64 = 10_000;
/// How long one that is not used is kept. Its idle connections end by the pool's own time.
const UNUSED: Duration = Duration::from_secs(600);

type Place = (Origin, Option<String>);

/// The places of one integration.
pub struct Hosts {
    template: UpstreamTemplate,
    made: Cache<Place, Arc<Route>>,
}

impl Hosts {
    /// None yet.
    pub fn new(template: UpstreamTemplate) -> Self {
        let made = Cache::builder()
            .max_capacity(MOST_PLACES)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(UNUSED)
            .build();
        Self { template, made }
    }

    fn route(
        &self,
        integration: &Route,
        origin: &Origin,
        base_path: Option<&str>,
    ) -> Result<Arc<Route>, Refusal> {
        let place = (origin.clone(), base_path.map(str::to_owned));
        if let Some(route) = self.made.get(&place) {
            return Ok(route);
        }
        if !self.template.admits(origin, base_path) {
            return Err(elsewhere((origin, base_path), &self.template));
        }
        let host = HeaderValue::try_from(origin.authority())
            .map_err(|error| Refusal::from(Code::CredentialUnusable).because(error.to_string()))?;
        // Of two that come at once the second finds the first one's, so that both use the same connections.
        Ok(self.made.get_with(place, || {
            Arc::new(Route {
                origin: origin.clone(),
                origin_text: origin.to_string(),
                host,
                base_path: self.template.base_path(base_path),
                upstream: Arc::new(integration.upstream.to(origin.clone(), self.template.is_any_host())),
                hosts: None,
                ..integration.clone()
            })
        }))
    }
}

impl Route {
    /// The integration as it is for a secret that was sealed for this place: itself, unless its host or its path
    /// is each customer's own.
    ///
    /// # Errors
    /// `credential_unusable` for a place that is not of the integration's upstream as it is configured today.
    pub fn at(self: Arc<Self>, origin: &Origin, base_path: Option<&str>) -> Result<Arc<Self>, Refusal> {
        match &self.hosts {
            Some(hosts) => hosts.route(&self, origin, base_path),
            None if *origin == self.origin && base_path.is_none() => Ok(self),
            None => Err(elsewhere((origin, base_path), &self.origin)),
        }
    }
}

fn elsewhere((origin, base_path): (&Origin, Option<&str>), configured: &dyn Display) -> Refusal {
    let detail = "The secret was sealed for another origin than this integration's.";
    let shown = base_path.unwrap_or_default();
    Refusal::new(Code::CredentialUnusable, detail)
        .because(format!("sealed for {origin}{shown}, configured {configured}"))
}
