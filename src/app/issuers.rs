//! The issuers of callers' tokens: their rules, and their keys as they are followed.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{StartError, failed};
use crate::config::{Algorithm as Word, CallerKeys, Callers, JwksAddress, JwksToken};
use crate::jwks::{
    self, Address, Algorithm, Bearer, Generation, IssuerKeys, KeySet, News, Source, Times, Told, follow,
};
use crate::metrics::Metrics;
use crate::stage::authenticate::{IssuerRules, TokenRules};

/// What a token must be, and the keys of every issuer for whoever watches over them.
pub(super) fn open(
    callers: Vec<Callers>,
    times: Times,
    metrics: &Metrics,
    control: &Handle,
) -> Result<(TokenRules, Vec<Arc<IssuerKeys>>), StartError> {
    let generation = Generation::default();
    let mut rules = Vec::new();
    for callers in callers {
        rules.push(issuer(callers, (generation.clone(), times), metrics, control)?);
    }
    let keys = rules.iter().map(|rules: &IssuerRules| rules.keys.clone()).collect();
    Ok((TokenRules::new(rules, generation), keys))
}

fn issuer(
    callers: Callers,
    pace: (Generation, Times),
    metrics: &Metrics,
    control: &Handle,
) -> Result<IssuerRules, StartError> {
    let algorithms = algorithms(&callers);
    let wrong = failed::<String>("[callers] jwks");
    let keys = match source(callers.keys, &callers.issuer) {
        Keys::Fixed(set) => {
            IssuerKeys::fixed(&callers.issuer, set.map_err(|error| wrong(error.to_string()))?)
        }
        Keys::Given(document) => {
            let set = KeySet::parse(&document, &algorithms).map_err(|error| wrong(error.to_string()))?;
            IssuerKeys::fixed(&callers.issuer, set)
        }
        Keys::Followed(source) => {
            let told = told(metrics, &callers.issuer);
            follow(&callers.issuer, source, algorithms.clone(), pace, told, control).map_err(wrong)?
        }
    };
    Ok(IssuerRules {
        keys,
        algorithms,
        issuer: callers.issuer,
        audience: callers.audience,
        customer_claim: callers.customer,
        customer_prefix: callers.customer_prefix,
        secret_claim: callers.secret,
        secrets_claim: callers.secrets,
        max_lifetime: callers.max_lifetime,
        leeway: callers.leeway,
    })
}

/// The algorithms that these callers' tokens may be signed with.
pub(crate) fn algorithms(callers: &Callers) -> Vec<Algorithm> {
    let algorithm = |word: &Word| match word {
        Word::Es256 => Algorithm::ES256,
        Word::Rs256 => Algorithm::RS256,
        Word::EdDsa => Algorithm::EdDSA,
        Word::Hs256 => Algorithm::HS256,
    };
    callers.algorithms.iter().map(algorithm).collect()
}

enum Keys {
    Fixed(Result<KeySet, jwks::JwksError>),
    Given(String),
    Followed(Source),
}

fn source(keys: CallerKeys, issuer: &str) -> Keys {
    match keys {
        CallerKeys::Hs256(secret) => Keys::Fixed(KeySet::hs256(&secret)),
        CallerKeys::Jwks(document) => Keys::Given(document),
        CallerKeys::JwksFile(path) => Keys::Followed(Source::File(path)),
        CallerKeys::JwksAddress(at) => Keys::Followed(Source::Address(address(at, issuer))),
    }
}

/// Where the JWKS of `issuer` is.
pub(crate) fn address(at: JwksAddress, issuer: &str) -> Address {
    let bearer = at.token.map(|token| match token {
        JwksToken::File(path) => Bearer::File(path),
        JwksToken::Fixed(secret) => Bearer::Fixed(secret),
    });
    let discovery = at.discovery.then(|| issuer.to_owned());
    Address { url: at.url, discovery, ca_file: at.ca_file, bearer }
}

fn told(metrics: &Metrics, issuer: &str) -> Told {
    let metrics = metrics.issuer(issuer);
    Box::new(move |news| match news {
        News::Changed(count) => metrics.read(Some(count)),
        News::Unchanged => metrics.read(None),
        News::Failed => metrics.failed(),
        News::Emptied => metrics.emptied(),
    })
}
