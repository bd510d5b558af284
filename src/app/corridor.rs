//! What the corridor is built from: the integrations' routes, relay's own addresses.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use tokio::runtime::Handle;

use super::{StartError, failed};
use crate::config::upstream::UpstreamTemplate;
use crate::config::{Config, Integration, Placement};
use crate::lifecycle::Plan;
use crate::metrics::Metrics;
use crate::model::IntegrationName;
use crate::net::resolve::Resolver;
use crate::net::tls::{Roots, client_config};
use crate::net::upstream::{Upstream, UpstreamSettings};
use crate::net::vet::Egress;
use crate::stage::hosts::Hosts;
use crate::stage::limits::Share;
use crate::stage::route::{Renewing, Route, Routes, Slot};
use crate::stage::scrub::Surroundings;

/// What routes are made of, beside their integrations.
pub(super) struct Ground {
    metrics: Arc<Metrics>,
    own: Arc<[SocketAddr]>,
    resolver: Arc<Resolver>,
    /// Each integration's own, for as long as relay runs: what a customer has under way is counted by it.
    numbers: HashMap<IntegrationName, usize>,
}

/// What of the routes before stays as it is.
pub(super) enum Kept {
    /// All of it: its connections, its limits' counts.
    Whole(Arc<Route>),
    /// Its limits' counts.
    Share(Arc<Share>),
    /// Nothing.
    Nothing,
}

impl Ground {
    /// For routes that never lead to relay's `own` addresses.
    pub(super) fn new(metrics: &Arc<Metrics>, own: &Arc<[SocketAddr]>, control: &Handle) -> Self {
        let resolver = Arc::new(Resolver::new(control.clone()));
        Self { metrics: metrics.clone(), own: own.clone(), resolver, numbers: HashMap::new() }
    }

    /// The routes of these integrations.
    pub(super) fn routes(
        &mut self,
        integrations: &[Integration],
        kept: impl Fn(&Integration) -> Kept,
    ) -> Result<Routes, StartError> {
        let mut routes = Vec::new();
        for integration in integrations {
            routes.push(match kept(integration) {
                Kept::Whole(route) => route,
                Kept::Share(share) => Arc::new(route(integration, share, self)?),
                Kept::Nothing => Arc::new(route(integration, self.share(integration), self)?),
            });
        }
        Ok(Routes::new(routes))
    }

    /// How the app addresses relay, and relay's own addresses.
    pub(super) fn surroundings(&self, config: &Config) -> Surroundings {
        let public_url = config.server.public_url.clone();
        let authority =
            public_url.as_deref().and_then(|url| url.split_once("://")).map(|(_, rest)| rest.to_owned());
        let hosts = config.integrations.iter().filter_map(|integration| integration.host.as_ref());
        let hosts = hosts.map(|host| format!("{host}:*"));
        let own = self.own.iter().map(ToString::to_string).chain(authority).chain(hosts).collect();
        Surroundings { public_url, own }
    }

    fn share(&mut self, integration: &Integration) -> Arc<Share> {
        let next = self.numbers.len();
        let number = *self.numbers.entry(integration.name.clone()).or_insert(next);
        Arc::new(Share::new(number, integration.rate, integration.burst, integration.concurrency))
    }
}

fn route(integration: &Integration, share: Arc<Share>, ground: &Ground) -> Result<Route, StartError> {
    let signing = integration.sign.clone().map(Box::new);
    let signed = signing.as_ref().map(|signing| signing.headers()).unwrap_or_default();
    let placed = integration.inject.iter().filter_map(Placement::header).cloned();
    let written = placed.chain(signed.iter().cloned()).collect();
    let in_body = integration.inject.iter().any(Placement::is_in_body);
    let upstream = upstream(integration, &ground.own, &ground.resolver)?;
    Ok(Route {
        name: integration.name.clone(),
        origin: integration.origin.clone(),
        origin_text: integration
            .per_customer
            .as_ref()
            .map_or_else(|| integration.origin.to_string(), UpstreamTemplate::origin_text),
        host: HeaderValue::try_from(integration.origin.authority()).map_err(failed("an upstream"))?,
        own_host: integration.host.clone(),
        base_path: integration.base_path.clone(),
        placements: integration.inject.clone(),
        slots: Slot::all_of(&integration.inject, &integration.fields, &signed),
        collects: (in_body || signing.is_some()).then_some(integration.body_limit),
        signing,
        written,
        client_certificate: integration.client_certificate.clone(),
        fields: integration.fields.clone(),
        allow: integration.allow.clone(),
        deny: integration.deny.clone(),
        upstream: Arc::new(upstream),
        cookies: integration.cookies,
        ranges: integration.ranges,
        websocket: integration.websocket,
        rewrite_json: integration.rewrite_json,
        default_secret: integration.default_secret,
        on_reflect: integration.on_reflect,
        metrics: ground.metrics.integration(integration.name.as_str()),
        share,
        hosts: integration.per_customer.clone().map(|template| Arc::new(Hosts::new(template))),
        renewing: renewing(integration),
    })
}

fn renewing(integration: &Integration) -> Option<Renewing> {
    let renewal = integration.renewal.as_ref()?;
    Some(Renewing { token_origin: renewal.token_origin.clone() })
}

/// How tokens are had and credentials tried, of the integrations where they are.
pub(super) fn plans(integrations: &[Integration], routes: &Routes) -> Vec<Plan> {
    let plan = |integration: &Integration| {
        let route = routes.iter().find(|route| route.name == integration.name)?.clone();
        let renewal = integration.renewal.clone().map(|renewal| {
            let way = route.upstream.to(renewal.origin.clone(), false);
            (renewal, Arc::new(way))
        });
        Some(Plan { route, renewal, verify: integration.verify.clone() })
    };
    integrations.iter().filter_map(plan).collect()
}

/// The way to the vendor.
fn upstream(
    integration: &Integration,
    own: &Arc<[SocketAddr]>,
    resolver: &Arc<Resolver>,
) -> Result<Upstream, StartError> {
    let pem = match (&integration.ca_pem, &integration.ca_file) {
        (Some(pem), _) => Some(pem.clone().into_bytes()),
        (None, Some(path)) => Some(std::fs::read(path).map_err(|error| StartError {
            what: "an integration's ca_file",
            why: format!("{}: {error}", path.display()),
        })?),
        (None, None) => None,
    };
    let roots = pem.as_deref().map_or(Roots::BuiltIn, Roots::Pem);
    Ok(Upstream::new(UpstreamSettings {
        origin: integration.origin.clone(),
        tls: client_config(roots).map_err(failed("an integration's ca_file"))?,
        http2: integration.http2,
        resolver: resolver.clone(),
        egress: Egress::new(integration.private_cidrs.clone(), own.clone()),
        plaintext: integration.plaintext_danger,
        connect: integration.timeout.connect,
        first_byte: integration.timeout.first_byte,
        idle: integration.timeout.idle,
        isolate_customers: integration.isolate_customers,
    }))
}
