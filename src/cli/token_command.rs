//! `relay token`: mint with the local issuer's or the running dev relay's key; inspect what a token says.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;

use super::dev::state::DevRelay;
use super::exit::{Exit, Failure};
use super::init::LOCAL_ISSUER;
use super::token::{Order, Signer, inspect, mint};
use super::{Context, Format};
use crate::clock;
use crate::config::{self, Callers, Files};
use crate::model::{Customer, SecretId};
use crate::secret::Secret;

/// The longest token read, and some white space.
const LARGEST_INPUT: u64 = 16 * 1024;

/// Callers' tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Mints a token: relay token mint --customer acme
    Mint {
        /// For which customer
        #[arg(long)]
        customer: String,
        /// Pin it to this one secret
        #[arg(long, value_name = "UUID")]
        secret: Option<String>,
        /// Limit it, as in relay:use:slack
        #[arg(long)]
        scope: Option<String>,
        /// How long it lives
        #[arg(long, default_value = "1h")]
        ttl: humantime::Duration,
        /// The relay.toml whose folder has the local issuer's issuer.key [default: relay.toml here if
        /// issuer.key is here, else the running dev relay]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Shows what the token on stdin says, without verifying it: relay token inspect < token.txt
    Inspect,
}

/// Runs one of them.
///
/// # Errors
/// Usage; no key to mint with; no token to read.
pub(super) fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Mint { customer, secret, scope, ttl, config } => {
            let usage = |why: crate::model::Malformed| Failure::new(Exit::Usage, why.to_string());
            let customer = Customer::parse(&customer).map_err(usage)?;
            let secret = secret.map(|id| SecretId::parse(&id).map_err(usage)).transpose()?;
            let order = Order { customer: &customer, secret, scope: scope.as_deref(), ttl: *ttl };
            let token = minted(context, config.as_deref(), &order)?;
            match context.format {
                Format::Text => context.line(&token),
                Format::Json => context.json(&serde_json::json!({ "token": token })),
            }
        }
        Command::Inspect => {
            let mut text = String::new();
            let read = std::io::stdin().take(LARGEST_INPUT).read_to_string(&mut text);
            read.map_err(Failure::failed)?;
            let inspected = inspect(&text, clock::unix_seconds()).map_err(Failure::failed)?;
            match context.format {
                Format::Text => context.line(inspected.to_text().trim_end()),
                Format::Json => context.json(&inspected.to_json()),
            }
        }
    }
}

fn minted(context: &Context, config: Option<&Path>, order: &Order<'_>) -> Result<String, Failure> {
    let here = Path::new("relay.toml");
    match config {
        Some(file) => by_local_issuer(context, file, order),
        // A token by a dev relay's key is of no use to the relay of this folder, and would only be refused.
        None if here.exists() && Path::new("issuer.key").exists() => by_local_issuer(context, here, order),
        None => match DevRelay::running(&context.whereabouts()) {
            Ok(relay) => relay.mint(order).map_err(Failure::failed),
            Err(_) if here.exists() => by_local_issuer(context, here, order),
            Err(none) => Err(none),
        },
    }
}

fn by_local_issuer(context: &Context, file: &Path, order: &Order<'_>) -> Result<String, Failure> {
    let (config, report) = config::examine_file(file, &context.environment, Files::Optional);
    let config = config.ok_or_else(|| context.invalid(&report))?;
    let path = file.parent().unwrap_or(Path::new("")).join("issuer.key");
    let pem = std::fs::read(&path).map_err(|error| {
        let words = format!(
            "{}: {error}. Only a relay made by `relay init --local-issuer` has a key to mint with; otherwise your own issuer mints",
            path.display()
        );
        Failure::new(Exit::Failed, words)
    })?;
    let key = Secret::new(pem);
    let (callers, name) = minting(&config.callers, order.customer)?;
    let longest = callers.max_lifetime;
    if order.ttl > longest {
        let words =
            format!("relay would refuse it: a token lives at most {}", humantime::format_duration(longest));
        return Err(Failure::new(Exit::Usage, words));
    }
    let signer = Signer {
        key: &key,
        kid: None,
        issuer: &callers.issuer,
        audience: &callers.audience,
        customer_claim: callers.customer.as_str(),
        secret_claim: callers.secret.as_str(),
    };
    let order = Order { customer: &name, ttl: order.ttl.max(Duration::from_secs(1)), ..*order };
    mint(&signer, &order, clock::unix_seconds()).map_err(Failure::failed)
}

/// The local issuer among several, and what it calls `customer`.
fn minting<'c>(all: &'c [Callers], customer: &Customer) -> Result<(&'c Callers, Customer), Failure> {
    let usage = |words: String| Failure::new(Exit::Usage, words);
    let local = all.iter().find(|callers| callers.issuer == LOCAL_ISSUER);
    let callers = match (local, all) {
        (Some(local), _) => local,
        (None, [only]) => only,
        (None, _) => {
            let words = format!(
                "none of the [[callers]] is the local issuer ({LOCAL_ISSUER}): your own issuers mint"
            );
            return Err(usage(words));
        }
    };
    let prefix = &callers.customer_prefix;
    let name = customer.as_str().strip_prefix(prefix.as_str());
    let name = name.ok_or_else(|| usage(format!("customers of this issuer begin with {prefix:?}")))?;
    Ok((callers, Customer::parse(name).map_err(|why| usage(why.to_string()))?))
}
