//! `[callers]`: who may call, and for which customer. Once, or as `[[callers]]` once per issuer.
//!
//! A key family and the algorithms go together: HS256 stands alone with its one key, so that a public
//! key can never be taken for a shared one (RFC 8725 section 3.1). Without this section relay refuses
//! to start.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::super::environment::{Source, source};
use super::super::report::Place;
use super::super::written::{Table, Written};
use super::super::{Algorithm, CallerKeys, Callers, Claim, JwksAddress, JwksToken};
use super::section;
use crate::net::fetch::operators_address;

/// Claims with a meaning of their own (RFC 7519 section 4.1), which cannot name a customer or a secret.
const REGISTERED: &[&str] = &["iss", "aud", "exp", "nbf", "iat", "jti", "scope"];

const WORDS: &[(&str, Algorithm)] = &[
    ("ES256", Algorithm::Es256),
    ("RS256", Algorithm::Rs256),
    ("EdDSA", Algorithm::EdDsa),
    ("HS256", Algorithm::Hs256),
];

/// The keys that say where an issuer's keys are; one of them stands.
const ORIGINS: [&str; 3] = ["jwks", "discovery", "key"];

const ADDRESS: &str = "write https://...; http:// is for this machine alone";

/// Reads `[callers]`, or each `[[callers]]`. `None` if something was wrong or could not be had.
pub(super) fn callers(written: &mut Written<'_>, root: &Table<'_>) -> Option<Vec<Callers>> {
    let several = root.entry("callers").filter(|value| matches!(value.get_ref(), DeValue::Array(_)));
    if several.is_none() {
        let table = section(written, root, "callers", "nobody's call could be believed");
        return one(written, &table).map(|callers| vec![callers]);
    }
    let fix = "write [[callers]] on a line of its own before each issuer's keys";
    let mut tables = Vec::new();
    for member in written.list(root, "callers").unwrap_or_default() {
        tables.extend(written.member("[[callers]]".to_owned(), "callers", member, fix));
    }
    let read: Vec<Option<Callers>> = tables.iter().map(|table| one(written, table)).collect();
    if tables.is_empty() {
        let message = "callers is an empty list: nobody's call could be believed";
        written.findings.error(&root.place_of("callers"), message, fix);
    }
    let known: Vec<(&Callers, &Place)> =
        read.iter().zip(&tables).filter_map(|(one, table)| Some((one.as_ref()?, &table.place))).collect();
    for (number, (own, place)) in known.iter().enumerate() {
        for (other, _) in known.iter().take(number) {
            tell_apart(written, other, own, place);
        }
    }
    read.into_iter().collect()
}

/// A token's iss and aud name one of two issuers, and its customers are its own or meant to be shared.
fn tell_apart(written: &mut Written<'_>, other: &Callers, own: &Callers, place: &Place) {
    if other.issuer == own.issuer && other.audience == own.audience {
        let message =
            "two [[callers]] have the same issuer and audience: which rules hold for a token is unclear";
        written.findings.error(place, message, "leave one of them, or give each an audience of its own");
    }
    // An issuer without a prefix can name every customer, and is mostly meant to.
    let (one, two) = (other.customer_prefix.as_str(), own.customer_prefix.as_str());
    if one != two && !one.is_empty() && !two.is_empty() && (one.starts_with(two) || two.starts_with(one)) {
        let message =
            "one customer_prefix is the beginning of another: that issuer can name the other's customers";
        written.findings.warning(place, message, "end each in the same mark, such as \"k8s/\"");
    }
}

fn one(written: &mut Written<'_>, table: &Table<'_>) -> Option<Callers> {
    let algorithms = algorithms(written, table);
    let keys = keys(written, table, &algorithms);
    let issuer = written.needed_text(table, "issuer", "write the exact iss of your tokens");
    let audience =
        written.needed_text(table, "audience", "write the exact aud of your tokens, such as \"relay\"");
    let customer = if written.absent(table, "customer") {
        let fix = "write the claim that names the customer: customer = \"customer_id\"";
        written.missing(table, "customer", fix);
        None
    } else {
        claim(written, table, "customer")
    };
    let secret = claim(written, table, "secret").unwrap_or_else(|| Claim::named("secret"));
    if customer.as_ref().is_some_and(|customer| customer.steps() == secret.steps()) {
        let message = format!("{} customer and secret name the same claim", table.shown);
        written.findings.error(&table.place_of("customer"), message, "give each its own claim");
    }
    let secrets = claim(written, table, "secrets").unwrap_or_else(|| Claim::named("secrets"));
    if [customer.as_ref(), Some(&secret)].into_iter().flatten().any(|other| other.steps() == secrets.steps())
    {
        let message = format!("{} secrets names a claim that another of its keys names", table.shown);
        written.findings.error(&table.place_of("secrets"), message, "give each its own claim");
    }
    let customer_prefix = prefix(written, table);
    let most = Duration::from_secs(31 * 24 * 3600);
    let day = Duration::from_secs(24 * 3600);
    let leeway = Duration::ZERO..=Duration::from_secs(60);
    let max_lifetime = written.duration(table, "max_lifetime", Duration::from_secs(1)..=most, day);
    let leeway = written.duration(table, "leeway", leeway, Duration::from_secs(30));
    Some(Callers {
        keys: keys?,
        issuer: issuer?.value,
        audience: audience?.value,
        algorithms,
        customer: customer?,
        customer_prefix,
        secret,
        secrets,
        max_lifetime,
        leeway,
    })
}

fn prefix(written: &mut Written<'_>, table: &Table<'_>) -> String {
    let Some(given) = written.text(table, "customer_prefix") else { return String::new() };
    if given.value.len() > 32 || given.value.chars().any(char::is_control) {
        let message =
            format!("{} customer_prefix is at most 32 bytes without control characters", table.shown);
        written.findings.error(&given.place, message, "write a short one: customer_prefix = \"k8s/\"");
    }
    given.value
}

fn algorithms(written: &mut Written<'_>, table: &Table<'_>) -> Vec<Algorithm> {
    if table.entry("algorithms").is_none() {
        written.missing(table, "algorithms", "write what your issuer signs with: algorithms = [\"ES256\"]");
        return Vec::new();
    }
    let Some(given) = written.texts(table, "algorithms") else { return Vec::new() };
    let mut algorithms = Vec::new();
    for word in &given.value {
        match WORDS.iter().find(|(name, _)| *name == word.value) {
            Some((_, known)) if algorithms.contains(known) => {
                written.findings.error(&word.place, "this algorithm is written twice", "leave it once");
            }
            Some((_, known)) => algorithms.push(*known),
            None => {
                let lower = word.value.to_ascii_lowercase();
                let same = WORDS.iter().map(|(name, _)| *name).find(|n| n.to_ascii_lowercase() == lower);
                let hint = same.map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default();
                let message = format!("this is no algorithm that relay accepts{hint}");
                let fix = "relay accepts ES256, RS256, EdDSA, and HS256 alone";
                written.findings.error(&word.place, message, fix);
            }
        }
    }
    if given.value.is_empty() {
        let message = format!("{} algorithms is empty: no token could be valid", table.shown);
        written.findings.error(&given.place, message, "write what your issuer signs with: [\"ES256\"]");
    }
    if algorithms.contains(&Algorithm::Hs256) && algorithms.len() > 1 {
        let message = "HS256 stands only alone: with a public key beside it, that key could forge tokens";
        written.findings.error(&given.place, message, "write [\"HS256\"], or leave HS256 away");
    }
    algorithms
}

fn keys(written: &mut Written<'_>, table: &Table<'_>, algorithms: &[Algorithm]) -> Option<CallerKeys> {
    let shared = algorithms == [Algorithm::Hs256];
    let given: Vec<&str> = ORIGINS.into_iter().filter(|key| !written.absent(table, key)).collect();
    let shown = &table.shown;
    match given.as_slice() {
        [first, .., last] => {
            let message = format!("{shown} has both {first} and {last}");
            let fix = "keep jwks or discovery, or key with algorithms = [\"HS256\"]";
            written.findings.error(&table.place_of(last), message, fix);
        }
        [public @ ("jwks" | "discovery")] if shared => {
            let message = format!("{shown} {public} holds public keys, but HS256 has none");
            let fix = format!("write key = \"file:...\" instead of {public}, or another algorithm");
            written.findings.error(&table.place_of(public), message, fix);
        }
        ["key"] if !shared && !algorithms.is_empty() => {
            let message = format!("{shown} key is for HS256 alone");
            let fix = "write jwks = \"file:jwks.json\" instead, or algorithms = [\"HS256\"]";
            written.findings.error(&table.place_of("key"), message, fix);
        }
        [] => {
            let fix =
                if shared { "write key = \"file:hs256.key\"" } else { "write jwks = \"file:jwks.json\"" };
            written.missing(table, if shared { "key" } else { "jwks" }, fix);
        }
        [_] => {}
    }
    let key = written.secret(table, "key", 32).map(|given| CallerKeys::Hs256(given.value));
    let reach = reach(written, table);
    let file = jwks_file(written, table);
    let address = address(written, table, "jwks").map(|url| (url, false));
    let address = address.or_else(|| Some((self::address(written, table, "discovery")?, true)));
    let called = address.is_some();
    let keys = match (file, address, key) {
        (Some(path), ..) => Some(CallerKeys::JwksFile(path)),
        (None, Some((url, discovery)), _) => {
            let (ca_file, token) = reach?;
            Some(CallerKeys::JwksAddress(JwksAddress { url, discovery, ca_file, token }))
        }
        (None, None, key) => key,
    };
    if keys.is_some() && !called {
        for word in ["ca_file", "jwks_token"].into_iter().filter(|word| table.entry(word).is_some()) {
            let message = format!("{shown} {word} is for a JWKS at an address, and there is none");
            let fix = format!("remove {word}, or write jwks = \"https://...\"");
            written.findings.error(&table.place_of(word), message, fix);
        }
    }
    keys
}

type Reach = (Option<PathBuf>, Option<JwksToken>);

/// `ca_file` and `jwks_token`; `None` if one is wrong.
fn reach(written: &mut Written<'_>, table: &Table<'_>) -> Option<Reach> {
    let mut ca_file = None;
    if !written.absent(table, "ca_file") {
        let given = written.path(table, "ca_file", "ca.pem")?;
        written.expect_file("ca_file", &given.value, &given.place, "write the roots' PEM there");
        ca_file = Some(given.value);
    }
    if written.absent(table, "jwks_token") {
        return Some((ca_file, None));
    }
    let given = written.raw(table, "jwks_token")?;
    let token = match source(&given.value) {
        Some(Source::File(path)) => {
            let path = written.folder.join(path);
            let name = format!("{} jwks_token", table.shown);
            written.expect_file(&name, &path, &given.place, "let the platform put the token there");
            JwksToken::File(path)
        }
        _ => JwksToken::Fixed(written.secret(table, "jwks_token", 1)?.value),
    };
    Some((ca_file, Some(token)))
}

fn jwks_file(written: &mut Written<'_>, table: &Table<'_>) -> Option<PathBuf> {
    let given = written.raw(table, "jwks")?;
    let Some(Source::File(path)) = source(&given.value) else { return None };
    let path = written.folder.join(path);
    let name = format!("{} jwks", table.shown);
    written.expect_file(&name, &path, &given.place, "put your issuer's JWKS document there");
    Some(path)
}

/// The address under `key`, unless a file stands there.
fn address(written: &mut Written<'_>, table: &Table<'_>, key: &str) -> Option<String> {
    let given = written.raw(table, key)?;
    if key == "jwks" && matches!(source(&given.value), Some(Source::File(_))) {
        return None;
    }
    let given = written.fetched(given, &format!("{} {key}", table.shown))?;
    if let Some(url) = operators_address(&given.value) {
        return Some(url);
    }
    let (what, fix) = match key {
        "jwks" if !given.value.starts_with("http") => (
            "is neither an https:// address nor file:PATH",
            "write jwks = \"https://...\", or save the document and write jwks = \"file:jwks.json\"",
        ),
        _ => ("is no https:// address", ADDRESS),
    };
    let message = format!("{} {key} {what}", table.shown);
    // A user and password may stand in an address, and a key where an address is wanted.
    written.mask(&given.place);
    written.findings.error(&given.place, message, fix);
    None
}

fn claim(written: &mut Written<'_>, table: &Table<'_>, key: &str) -> Option<Claim> {
    let given = written.text(table, key)?;
    let problem = match Claim::parse(&given.value) {
        Ok(claim) if claim.steps().first().is_some_and(|first| REGISTERED.contains(&first.as_str())) => {
            "names a claim that has a meaning of its own"
        }
        Ok(claim) => return Some(claim),
        Err(problem) => problem,
    };
    let message = format!("{} {key} {problem}", table.shown);
    let fix = format!("name a claim that your tokens carry: {key} = \"{key}_id\"");
    written.findings.error(&given.place, message, fix);
    None
}
