//! `[keys]`: which KMS key wraps data keys, and which ones did before.
//!
//! Each provider has keys of its own here; one that belongs to another provider is an error, since a
//! setting that is ignored is a belief that is wrong. What must never enter: a call to a provider.

use std::time::Duration;

use super::super::report::Place;
use super::super::written::{Given, Table, Written};
use super::super::{AzureLogin, Keys, KmsKey, TransitLogin};
use super::{GivenPath, section};
use crate::kms::Shown;
use crate::kms::cached::{Ages, Pace};
use crate::secret::Secret;

/// What `[keys]` said, and the key file for the check that no two things share a path.
pub(super) struct Read {
    pub(super) keys: Keys,
    pub(super) file: Option<GivenPath>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Provider {
    Local,
    Aws,
    Gcp,
    Azure,
    Transit,
}

const PROVIDERS: &[(&str, Provider)] = &[
    ("local", Provider::Local),
    ("aws", Provider::Aws),
    ("gcp", Provider::Gcp),
    ("azure", Provider::Azure),
    ("transit", Provider::Transit),
];

/// The keys that reach a KMS key, and whose they are.
const REACH: &[(&str, &[Provider])] = &[
    ("file", &[Provider::Local]),
    ("key", &[Provider::Aws, Provider::Gcp, Provider::Azure, Provider::Transit]),
    ("region", &[Provider::Aws]),
    ("endpoint", &[Provider::Aws, Provider::Gcp]),
    ("vault", &[Provider::Azure]),
    ("address", &[Provider::Transit]),
    ("mount", &[Provider::Transit]),
    ("namespace", &[Provider::Transit]),
    ("token", &[Provider::Transit]),
    ("role_id", &[Provider::Transit]),
    ("secret_id", &[Provider::Transit]),
    ("auth_mount", &[Provider::Transit]),
    ("ca_file", &[Provider::Azure, Provider::Transit]),
];

/// A new key file opens nothing that an old one sealed.
const KEY_FILE: &str = "put the store's own key file there; only for a store that does not exist yet, make one with `relay init`";

/// Reads `[keys]`.
pub(super) fn keys(written: &mut Written<'_>, root: &Table<'_>) -> Option<Read> {
    let table = section(written, root, "keys", "nothing could be sealed");
    let current = kms_key(written, &table);
    let shown = written.choice(&table, "context", &[("name", Shown::Name), ("hash", Shown::Hash)], &[]);
    let data_key_max_age = max_age(written, &table);
    let (ages, pace) = (ages(written, &table), pace(written, &table));
    let mut previous = Vec::new();
    for member in written.list(&table, "previous").unwrap_or_default() {
        let fix = "write { provider = \"local\", file = \"old.key\" }";
        let shown = "previous of [keys]".to_owned();
        let Some(table) = written.member(shown, "keys.previous", member, fix) else { continue };
        let Some((key, previous_file)) = kms_key(written, &table) else { continue };
        let file = current.as_ref().and_then(|(_, file)| file.as_ref());
        if let (Some(file), Some(again)) = (file, &previous_file)
            && file.value == again.value
        {
            let message = "previous of [keys] names the same file as [keys] file".to_owned();
            written.findings.error(
                &again.place,
                message,
                "leave it away: every key of one file is tried already",
            );
        }
        previous.push(key);
    }
    let (current, file) = current?;
    let shown = shown.unwrap_or_default();
    Some(Read { keys: Keys { current, previous, shown, data_key_max_age, ages, pace }, file })
}

fn max_age(written: &mut Written<'_>, table: &Table<'_>) -> Option<Duration> {
    if written.absent(table, "data_key_max_age") {
        return None;
    }
    // Ten years.
    let (day, most) = (Duration::from_secs(24 * 3600), Duration::from_secs(315_576_000));
    Some(written.duration(table, "data_key_max_age", Duration::from_secs(3600)..=most, 90 * day))
}

fn ages(written: &mut Written<'_>, table: &Table<'_>) -> Ages {
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    let soft = written.duration(table, "refresh_after", second..=day, Ages::DEFAULT.soft);
    let hard = written.duration(table, "serve_at_most", 2 * second..=day, Ages::DEFAULT.hard);
    if soft >= hard {
        let named = if written.absent(table, "serve_at_most") { "refresh_after" } else { "serve_at_most" };
        let message = format!("{} serve_at_most is not longer than refresh_after", table.shown);
        let fix = "leave time between them: it is how long an outage of the KMS is bridged";
        written.findings.error(&table.place_of(named), message, fix);
    }
    Ages { soft, hard }
}

fn pace(written: &mut Written<'_>, table: &Table<'_>) -> Pace {
    let default = Pace::DEFAULT;
    let per_second = written.whole(table, "calls_per_second", 1..=10_000, default.per_second.into());
    Pace { per_second: u32::try_from(per_second).unwrap_or(default.per_second), ..default }
}

fn kms_key(written: &mut Written<'_>, table: &Table<'_>) -> Option<(KmsKey, Option<GivenPath>)> {
    if written.absent(table, "provider") {
        written.missing(table, "provider", "write provider = \"local\", or aws, gcp, azure or transit");
        // Without a provider a file can only be the local one's.
        let file = written.path(table, "file", "relay.key");
        return file.map(|file| (KmsKey::Local { file: file.value.clone() }, Some(file)));
    }
    let provider = written.choice(table, "provider", PROVIDERS, &[])?;
    foreign(written, table, provider);
    match provider {
        Provider::Local => {
            let file = written.path(table, "file", "relay.key")?;
            written.expect_file("[keys] file", &file.value, &file.place, KEY_FILE);
            Some((KmsKey::Local { file: file.value.clone() }, Some(file)))
        }
        Provider::Aws => aws(written, table).map(|key| (key, None)),
        Provider::Gcp => gcp(written, table).map(|key| (key, None)),
        Provider::Azure => azure(written, table).map(|key| (key, None)),
        Provider::Transit => transit(written, table).map(|key| (key, None)),
    }
}

fn foreign(written: &mut Written<'_>, table: &Table<'_>, provider: Provider) {
    for (key, owners) in REACH {
        if !owners.contains(&provider) && !written.absent(table, key) {
            let word = PROVIDERS.iter().find(|(_, other)| *other == provider).map_or("", |(word, _)| *word);
            let message = format!("{} {key} means nothing to provider = \"{word}\"", table.shown);
            written.findings.error(&table.place_of(key), message, "remove it, or name another provider");
        }
    }
}

fn aws(written: &mut Written<'_>, table: &Table<'_>) -> Option<KmsKey> {
    let fix = "write key = \"arn:aws:kms:REGION:ACCOUNT:key/ID\"";
    let key = written.needed_text(table, "key", fix);
    let region = written.text(table, "region").map(|given| given.value);
    let endpoint = address(written, table, "endpoint");
    let key = key?;
    let id = key.value.rsplit_once(":key/").map_or(key.value.as_str(), |(_, id)| id);
    let is_arn = key.value.starts_with("arn:") && key.value.contains(":kms:") && key.value.contains(":key/");
    if !is_word(id) || !is_arn && key.value.contains([':', '/']) {
        let message = if key.value.contains("alias/") {
            format!("{} key is an alias, which can be pointed at another key", table.shown)
        } else {
            format!("{} key is no KMS key's ARN or id", table.shown)
        };
        written.findings.error(&key.place, message, fix);
        return None;
    }
    Some(KmsKey::Aws { key: key.value, region, endpoint })
}

fn gcp(written: &mut Written<'_>, table: &Table<'_>) -> Option<KmsKey> {
    let fix = "write key = \"projects/P/locations/L/keyRings/R/cryptoKeys/K\"";
    let key = written.needed_text(table, "key", fix);
    let endpoint = address(written, table, "endpoint");
    let key = key?;
    let parts: Vec<&str> = key.value.split('/').collect();
    let fits = matches!(
        parts.as_slice(),
        ["projects", p, "locations", l, "keyRings", r, "cryptoKeys", k]
            if is_word(p) && is_word(l) && is_word(r) && is_word(k)
    );
    if !fits {
        let message = format!("{} key is no key's resource name, without a version", table.shown);
        written.findings.error(&key.place, message, fix);
        return None;
    }
    Some(KmsKey::Gcp { key: key.value, endpoint })
}

fn azure(written: &mut Written<'_>, table: &Table<'_>) -> Option<KmsKey> {
    let fix = "write vault = \"https://NAME.vault.azure.net\"";
    if written.absent(table, "vault") {
        written.missing(table, "vault", fix);
    }
    let vault = address(written, table, "vault");
    if vault.as_ref().is_some_and(|vault| vault.starts_with("http://")) {
        let message = format!(
            "{} vault is not https://, and Azure's client shows its token over TLS alone",
            table.shown
        );
        written.findings.error(&table.place_of("vault"), message, fix);
        return None;
    }
    let key = named(written, table, "key", "write the name of an RSA key in that vault: key = \"relay\"");
    let ca_file = ca_file(written, table);
    let login = azure_login(written, table);
    let authority = variable(written, "AZURE_AUTHORITY_HOST");
    let ca_file = ca_file?.map(|file| file.value);
    Some(KmsKey::Azure { vault: vault?, key: key?, ca_file, login: login?, authority })
}

/// The order of Azure's own libraries: a client secret, the workload's token, the managed identity.
fn azure_login(written: &mut Written<'_>, table: &Table<'_>) -> Option<AzureLogin> {
    let (tenant, client) = (variable(written, "AZURE_TENANT_ID"), variable(written, "AZURE_CLIENT_ID"));
    let secret = variable(written, "AZURE_CLIENT_SECRET");
    let file = variable(written, "AZURE_FEDERATED_TOKEN_FILE");
    let given = match (&secret, &file) {
        (None, None) => return Some(AzureLogin::Managed(client)),
        (Some(_), _) => "AZURE_CLIENT_SECRET",
        (None, Some(_)) => "AZURE_FEDERATED_TOKEN_FILE",
    };
    let (Some(tenant), Some(client)) = (tenant, client) else {
        let message = format!("the environment has {given} without AZURE_TENANT_ID and AZURE_CLIENT_ID");
        let fix = "set all three, or none to use the managed identity";
        written.findings.error(&table.place_of("provider"), message, fix);
        return None;
    };
    if let Some(secret) = secret {
        let secret = Secret::new(secret.into_bytes());
        return Some(AzureLogin::Secret { tenant, client, secret });
    }
    file.map(|file| AzureLogin::Workload { tenant, client, file: file.into() })
}

/// A variable of the cloud's own; one that is empty is as good as unset.
fn variable(written: &Written<'_>, name: &str) -> Option<String> {
    let found = written.environment.iter().find(|(other, _)| other == name)?;
    Some(found.1.clone()).filter(|value| !value.is_empty())
}

fn transit(written: &mut Written<'_>, table: &Table<'_>) -> Option<KmsKey> {
    if written.absent(table, "address") {
        written.missing(table, "address", "write address = \"https://bao.internal:8200\"");
    }
    let server = address(written, table, "address");
    let key = named(written, table, "key", "write the name of a derived transit key: key = \"relay\"");
    let mount = mount(written, table, "mount", "transit");
    let namespace = written.text(table, "namespace").map(|given| given.value);
    let login = login(written, table);
    let ca_file = ca_file(written, table);
    Some(KmsKey::Transit {
        address: server?,
        mount: mount?,
        key: key?,
        login: login?,
        namespace,
        ca_file: ca_file?.map(|file| file.value),
    })
}

fn login(written: &mut Written<'_>, table: &Table<'_>) -> Option<TransitLogin> {
    let (token, role) = (!written.absent(table, "token"), !written.absent(table, "role_id"));
    match (token, role) {
        (true, false) => written.secret(table, "token", 1).map(|given| TransitLogin::Token(given.value)),
        (false, true) => {
            let role_id = written.needed_text(table, "role_id", "write the role's id");
            if written.absent(table, "secret_id") {
                written.missing(table, "secret_id", "write secret_id = \"file:secret_id\"");
            }
            let secret_id = written.secret(table, "secret_id", 1);
            let mount = mount(written, table, "auth_mount", "approle");
            let (role_id, secret_id) = (role_id?.value, secret_id?.value);
            Some(TransitLogin::AppRole { mount: mount?, role_id, secret_id })
        }
        (true, true) => {
            let message = format!("{} has both token and role_id", table.shown);
            written.findings.error(&table.place_of("token"), message, "keep one way to log in");
            None
        }
        (false, false) => {
            let fix = "write token = \"file:bao.token\", or role_id and secret_id = \"file:secret_id\"";
            written.missing(table, "token", fix);
            None
        }
    }
}

/// An address of a key service: `https://`, or `http://` on this machine.
fn address(written: &mut Written<'_>, table: &Table<'_>, key: &str) -> Option<String> {
    let given = written.text(table, key)?;
    let parsed = url::Url::parse(&given.value).ok();
    let fits = parsed.as_ref().is_some_and(|url| {
        let loopback = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            None => return false,
        };
        let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        bare && url.fragment().is_none() && (url.scheme() == "https" || (url.scheme() == "http" && loopback))
    });
    if !fits {
        let message = format!("{} {key} is no https:// address of a key service", table.shown);
        let fix = "write https://host or https://host:port; http:// is for this machine alone";
        written.findings.error(&given.place, message, fix);
        return None;
    }
    Some(given.value.trim_end_matches('/').to_owned())
}

fn named(written: &mut Written<'_>, table: &Table<'_>, key: &str, fix: &str) -> Option<String> {
    let given = written.needed_text(table, key, fix)?;
    word(written, table, key, given, fix)
}

fn mount(written: &mut Written<'_>, table: &Table<'_>, key: &str, default: &str) -> Option<String> {
    let fix = format!("write {key} = \"{default}\"");
    if written.absent(table, key) {
        return Some(default.to_owned());
    }
    let given = written.text(table, key)?;
    if given.value.split('/').all(is_word) {
        return Some(given.value);
    }
    word(written, table, key, given, &fix)
}

fn word(
    written: &mut Written<'_>,
    table: &Table<'_>,
    key: &str,
    given: Given<String>,
    fix: &str,
) -> Option<String> {
    if is_word(&given.value) {
        return Some(given.value);
    }
    let message = format!("{} {key} is no name: letters, digits, - _ and . only", table.shown);
    written.findings.error(&given.place, message, fix);
    None
}

fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=255).contains(&text.len()) && text.bytes().all(plain) && text != "." && text != ".."
}

/// The outer `None` is an error that was told.
#[allow(clippy::option_option)]
fn ca_file(written: &mut Written<'_>, table: &Table<'_>) -> Option<Option<GivenPath>> {
    if written.absent(table, "ca_file") {
        return Some(None);
    }
    let file = written.path(table, "ca_file", "ca.pem")?;
    let place: Place = file.place.clone();
    written.expect_file("ca_file", &file.value, &place, "write the roots' PEM there");
    Some(Some(file))
}
