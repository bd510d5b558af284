//! The issuers of callers' tokens: their rules, and their keys as they are followed.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{StartError, failed};
use crate::config::{Algorithm as Word, CallerKeys, Callers, JwksAddress, JwksToken, Told as Written};
use crate::jwks::{
    self, Address, Algorithm, Bearer, Generation, IssuerKeys, KeySet, News, Source, Times, Told, follow,
};
use crate::metrics::Metrics;
use crate::stage::authenticate::{IssuerRules, TokenRules};

/// What an issuer's keys are made of, beside what the issuer is asked for: the settings whose change reads them anew.
const KEYS_OF: [&str; 7] = ["jwks", "discovery", "ca_file", "jwks_token", "key", "issuer", "algorithms"];

/// Issuers' keys, each with the settings that they came from.
type Held = Vec<(Vec<(String, [u8; 32])>, Arc<IssuerKeys>)>;

/// The issuers, from reading to reading of relay.toml.
pub(super) struct Issuers {
    generation: Generation,
    times: Times,
    metrics: Arc<Metrics>,
    control: Handle,
    held: Held,
    editions: u32,
}

impl Issuers {
    /// None yet.
    pub(super) fn new(times: Times, metrics: &Arc<Metrics>, control: &Handle) -> Self {
        let (metrics, control) = (metrics.clone(), control.clone());
        Self { generation: Generation::default(), times, metrics, control, held: Vec::new(), editions: 0 }
    }

    /// What a token must be from now on. Keys whose settings are those of before are not read anew.
    pub(super) fn rules(&mut self, callers: Vec<Callers>, told: &Written) -> Result<TokenRules, StartError> {
        let single = callers.len() == 1 && told.below("callers").next().is_some();
        let (mut rules, mut held) = (Vec::new(), Vec::new());
        for (number, callers) in callers.into_iter().enumerate() {
            let table = if single { "callers".to_owned() } else { format!("callers[{number}]") };
            let settings = told.below(&table).filter(|(key, _)| KEYS_OF.contains(key));
            let settings: Vec<_> = settings.map(|(key, sum)| (key.to_owned(), *sum)).collect();
            let before = self.held.iter().find(|(before, _)| *before == settings && !settings.is_empty());
            let one = self.issuer(callers, before.map(|(_, keys)| keys.clone()))?;
            held.push((settings, one.keys.clone()));
            rules.push(one);
        }
        self.held = held;
        self.editions = self.editions.wrapping_add(1);
        Ok(TokenRules::new(rules, self.generation.clone(), self.editions))
    }

    /// The keys of every issuer, for whoever watches over them.
    pub(super) fn all(&self) -> Vec<Arc<IssuerKeys>> {
        self.held.iter().map(|(_, keys)| keys.clone()).collect()
    }

    fn issuer(&self, callers: Callers, kept: Option<Arc<IssuerKeys>>) -> Result<IssuerRules, StartError> {
        let algorithms = algorithms(&callers);
        let keys = match kept {
            Some(keys) => keys,
            None => self.keys(callers.keys, &callers.issuer, &algorithms)?,
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

    fn keys(
        &self,
        keys: CallerKeys,
        issuer: &str,
        algorithms: &[Algorithm],
    ) -> Result<Arc<IssuerKeys>, StartError> {
        let (pace, control) = ((self.generation.clone(), self.times), &self.control);
        let wrong = failed::<String>("[callers] jwks");
        Ok(match source(keys, issuer) {
            Keys::Fixed(set) => IssuerKeys::fixed(issuer, set.map_err(|error| wrong(error.to_string()))?),
            Keys::Given(document) => {
                let set = KeySet::parse(&document, algorithms).map_err(|error| wrong(error.to_string()))?;
                IssuerKeys::fixed(issuer, set)
            }
            Keys::Followed(source) => {
                let told = told(&self.metrics, issuer);
                follow(issuer, source, algorithms.to_vec(), pace, told, control).map_err(wrong)?
            }
        })
    }
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
