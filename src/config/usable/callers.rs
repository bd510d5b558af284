//! `[callers]`: who may call, and for which customer.
//!
//! A key family and the algorithms go together: HS256 stands alone with its one key, so that a public
//! key can never be taken for a shared one (RFC 8725 section 3.1). Without this section relay refuses
//! to start.

use std::time::Duration;

use super::super::environment::{Source, source};
use super::super::written::{Table, Written};
use super::super::{Algorithm, CallerKeys, Callers};
use super::section;

/// Claims with a meaning of their own (RFC 7519 section 4.1), which cannot name a customer or a secret.
const REGISTERED: &[&str] = &["iss", "aud", "exp", "nbf", "iat", "jti", "scope"];

const WORDS: &[(&str, Algorithm)] = &[
    ("ES256", Algorithm::Es256),
    ("RS256", Algorithm::Rs256),
    ("EdDSA", Algorithm::EdDsa),
    ("HS256", Algorithm::Hs256),
];

/// Reads `[callers]`. `None` if something was wrong or could not be had.
pub(super) fn callers(written: &mut Written<'_>, root: &Table<'_>) -> Option<Callers> {
    let table = section(written, root, "callers", "nobody's call could be believed");
    let algorithms = algorithms(written, &table);
    let keys = keys(written, &table, &algorithms);
    let issuer = written.needed_text(&table, "issuer", "write the exact iss of your tokens");
    let audience =
        written.needed_text(&table, "audience", "write the exact aud of your tokens, such as \"relay\"");
    let customer = if written.absent(&table, "customer") {
        written.missing(
            &table,
            "customer",
            "write the claim that names the customer: customer = \"customer_id\"",
        );
        None
    } else {
        claim(written, &table, "customer")
    };
    let secret = claim(written, &table, "secret").unwrap_or_else(|| "secret".to_owned());
    if customer.as_ref() == Some(&secret) {
        let message = "[callers] customer and secret name the same claim";
        written.findings.error(&table.place_of("customer"), message, "give each its own claim");
    }
    let most = Duration::from_secs(31 * 24 * 3600);
    let day = Duration::from_secs(24 * 3600);
    let leeway = Duration::ZERO..=Duration::from_secs(60);
    let max_lifetime = written.duration(&table, "max_lifetime", Duration::from_secs(1)..=most, day);
    let leeway = written.duration(&table, "leeway", leeway, Duration::from_secs(30));
    Some(Callers {
        keys: keys?,
        issuer: issuer?.value,
        audience: audience?.value,
        algorithms,
        customer: customer?,
        secret,
        max_lifetime,
        leeway,
    })
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
                written.findings.error(
                    &word.place,
                    message,
                    "relay accepts ES256, RS256, EdDSA, and HS256 alone",
                );
            }
        }
    }
    if given.value.is_empty() {
        let message = "[callers] algorithms is empty: no token could be valid";
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
    let (has_jwks, has_key) = (!written.absent(table, "jwks"), !written.absent(table, "key"));
    if has_jwks && has_key {
        let message = "[callers] has both jwks and key";
        written.findings.error(
            &table.place_of("key"),
            message,
            "keep jwks, or key with algorithms = [\"HS256\"]",
        );
    } else if has_jwks && shared {
        let message = "[callers] jwks holds public keys, but HS256 has none";
        let fix = "write key = \"file:...\" instead of jwks, or another algorithm";
        written.findings.error(&table.place_of("jwks"), message, fix);
    } else if has_key && !shared && !algorithms.is_empty() {
        let message = "[callers] key is for HS256 alone";
        let fix = "write jwks = \"file:jwks.json\" instead, or algorithms = [\"HS256\"]";
        written.findings.error(&table.place_of("key"), message, fix);
    } else if !has_jwks && !has_key {
        let fix = if shared { "write key = \"file:hs256.key\"" } else { "write jwks = \"file:jwks.json\"" };
        written.missing(table, if shared { "key" } else { "jwks" }, fix);
    }
    let key = written.secret(table, "key", 32).map(|given| CallerKeys::Hs256(given.value));
    jwks(written, table).or(key)
}

fn jwks(written: &mut Written<'_>, table: &Table<'_>) -> Option<CallerKeys> {
    let given = written.raw(table, "jwks")?;
    if let Some(Source::File(path)) = source(&given.value) {
        let path = written.folder.join(path);
        let fix = "put your issuer's JWKS document there";
        written.expect_file("[callers] jwks", &path, &given.place, fix);
        return Some(CallerKeys::JwksFile(path));
    }
    let fix = "save the document and write jwks = \"file:jwks.json\"";
    let message = if given.value.starts_with("https://") {
        "[callers] jwks from an address is not built into relay yet: give a file"
    } else {
        written.mask(&given.place);
        "[callers] jwks must be file:PATH"
    };
    written.findings.error(&given.place, message, fix);
    None
}

fn claim(written: &mut Written<'_>, table: &Table<'_>, key: &str) -> Option<String> {
    let given = written.text(table, key)?;
    let problem = if given.value.is_empty() {
        "is empty"
    } else if REGISTERED.contains(&given.value.as_str()) {
        "names a claim that has a meaning of its own"
    } else {
        return Some(given.value);
    };
    let message = format!("[callers] {key} {problem}");
    written.findings.error(
        &given.place,
        message,
        format!("name a claim that your tokens carry: {key} = \"{key}_id\""),
    );
    None
}
