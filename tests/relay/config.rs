//! relay.toml: every mistake is reported at once, with its place and the fix, and no secret is quoted.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use relay::cli::{check, init};
use relay::config::{self, AzureLogin, CallerKeys, Config, Files, KmsKey, OnReflect, Report, StoreChoice};

/// What `relay init` and people start from; rows below change one line of it.
const GOOD: &str = r#"[server]
listen = "127.0.0.1:8480"
[callers]
jwks = "file:jwks.json"
issuer = "https://auth.saas.example"
audience = "relay"
algorithms = ["ES256"]
customer = "customer_id"
[keys]
provider = "local"
file = "relay.key"
[store]
engine = "sled"
path = "relay.db"
[audit]
path = "audit.jsonl"
[admin]
token = "env:ADMIN"
[integrations.erp]
upstream = "https://erp.example/api"
inject = [{ header = "authorization", value = "Bearer {token}" }]
"#;

const REFERENCE: &str = include_str!("../../relay.toml");

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all = vec![("ADMIN".to_owned(), "a".repeat(32))];
    all.extend(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
    all
}

/// Judges the text alone, in a folder where no file is.
fn judged(text: &str, pairs: &[(&str, &str)]) -> (Option<Config>, Report) {
    let folder = Path::new("/nonexistent");
    config::examine(text, "relay.toml", folder, &variables(pairs), Files::Optional)
}

/// Only the errors, plain.
fn errors(text: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    let (_, report) = judged(text, pairs);
    let errors = report.findings().iter().filter(|f| f.severity == config::Severity::Error);
    errors
        .map(|f| match (f.line, f.column) {
            (Some(line), Some(column)) => format!("{}:{line}:{column}: {}", f.file, f.message),
            _ => format!("{}: {}", f.file, f.message),
        })
        .collect()
}

fn usable(text: &str, pairs: &[(&str, &str)]) -> Config {
    let (config, report) = judged(text, pairs);
    config.unwrap_or_else(|| panic!("{report}"))
}

#[test]
fn a_line_that_is_no_toml_is_one_finding_and_an_empty_key_in_quotes_is_one_too() {
    let found = errors(&format!("{GOOD}[[[integrations]]]\n"), &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("no valid TOML"), "{found:?}");
    let found = errors(&format!("\"\" = 1\n{GOOD}"), &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("unknown key \"\" in relay.toml"), "{found:?}");
}

#[test]
fn a_good_file_becomes_what_it_says_with_the_defaults_of_the_rest() {
    let config = usable(GOOD, &[]);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8480");
    assert_eq!(config.server.admin_listen.to_string(), "127.0.0.1:8481");
    assert_eq!(config.server.grace, Duration::from_secs(25));
    assert_eq!(config.server.limits.head_bytes, 32 * 1024);
    assert!(config.server.workers >= 1);
    assert!(
        matches!(&config.callers[0].keys, CallerKeys::JwksFile(p) if p == Path::new("/nonexistent/jwks.json"))
    );
    assert_eq!(config.callers[0].secret.as_str(), "secret");
    assert_eq!(config.callers[0].max_lifetime, Duration::from_secs(86_400));
    assert_eq!(config.callers[0].leeway, Duration::from_secs(30));
    assert!(
        matches!(&config.keys.current, KmsKey::Local { file } if file == Path::new("/nonexistent/relay.key"))
    );
    assert!(
        matches!(&config.store, StoreChoice::Sled { path } if path == Path::new("/nonexistent/relay.db"))
    );
    assert_eq!(config.admin.token.len(), 32);
    let erp = config.integrations.first().unwrap();
    assert_eq!((erp.origin.to_string().as_str(), erp.base_path.as_str()), ("https://erp.example", "/api"));
    assert_eq!(erp.fields.first().unwrap().spec.name.as_str(), "token");
    assert!(erp.fields.first().unwrap().spec.secret && !erp.cookies && !erp.isolate_customers);
    assert_eq!(erp.on_reflect, OnReflect::Redact);
    assert!(erp.rate.is_none() && erp.allow.is_empty() && !erp.plaintext_danger);
    assert_eq!((erp.body_limit, erp.default_secret), (1024 * 1024, false));
}

#[test]
fn the_reference_is_accepted_and_names_every_key() {
    let (config, report) = judged(REFERENCE, &[("RELAY__ADMIN__TOKEN", "env:ADMIN")]);
    assert_eq!(report.errors(), 0, "{report}");
    assert_eq!(config.unwrap().integrations.len(), 4);
    for (table, key) in config::known_keys().filter(|(table, _)| !table.is_empty()) {
        assert!(named(table, key), "relay.toml does not show {key} of [{table}]");
    }
}

/// Whether the reference shows `key` in a table of that shape: on a line, commented out or not, inside
/// braces, or as a header.
fn named(table: &str, key: &str) -> bool {
    // The same keys in a list of tables: the reference says there what each is.
    let table = if table == "keys.previous" { "keys" } else { table };
    let mut here = String::new();
    REFERENCE.lines().any(|line| {
        if let Some(header) = line.strip_prefix('[') {
            let name = header.trim_end_matches(']').split('.').nth(1).unwrap_or_default();
            here = header.trim_end_matches(']').to_owned();
            if here.starts_with("integrations.") {
                here = here.replacen(name, "*", 1);
            }
            return here == format!("{table}.{key}");
        }
        let line = line.trim_start_matches(['#', ' ']);
        let begins = line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
        let inside = table.strip_prefix(&here).is_some_and(|rest| rest.starts_with('.'));
        (here == table && begins) || (inside && line.contains(&format!(" {key} = ")))
    })
}

#[test]
fn the_defaults_that_the_reference_shows_are_the_defaults() {
    let shown = usable(REFERENCE, &[("RELAY__ADMIN__TOKEN", "env:ADMIN")]);
    let bare = usable(GOOD, &[]);
    assert_eq!(format!("{:?}", shown.server.limits), format!("{:?}", bare.server.limits));
    assert_eq!(shown.server.grace, bare.server.grace);
    assert_eq!(shown.server.listen, bare.server.listen);
    assert_eq!(shown.server.admin_listen, bare.server.admin_listen);
    assert_eq!(shown.callers[0].max_lifetime, bare.callers[0].max_lifetime);
    assert_eq!(shown.callers[0].leeway, bare.callers[0].leeway);
    assert_eq!(shown.audit.durability, bare.audit.durability);
    assert_eq!(shown.retain, bare.retain);
    let timeouts = |c: &Config, name: &str| {
        format!("{:?}", c.integrations.iter().find(|i| i.name.as_str() == name).unwrap().timeout)
    };
    assert_eq!(timeouts(&shown, "erp"), timeouts(&bare, "erp"));
}

#[test]
fn a_mistake_is_said_with_its_place_its_line_and_the_fix() {
    let text = GOOD.replace("inject =", "inejct =");
    let (_, report) = judged(&text, &[]);
    let wanted = r#"relay.toml:21:1: error: unknown key "inejct" in [integrations.erp]; did you mean "inject"?
   21 | inejct = [{ header = ***************, value = **************** }]
      | ^^^^^^
  fix: write inject
"#;
    let plain = report.to_string();
    assert!(plain.ends_with(wanted), "{plain}");
    assert_eq!(plain, report.render(false), "the plain form is the uncoloured one");
    assert!(report.render(true).contains("did you mean"), "the drawn form says the same");
}

#[test]
fn five_mistakes_give_five_errors_in_the_order_of_the_file() {
    let text = GOOD
        .replace("127.0.0.1:8480", "localhost:8480")
        .replace("[\"ES256\"]", "[\"none\"]")
        .replace("\"sled\"", "\"redis\"")
        .replace("https://erp", "ftp://erp")
        .replace("{token}", "{tokn}");
    assert_eq!(
        errors(&text, &[]),
        [
            "relay.toml:2:10: [server] listen is not an IP address and a port",
            "relay.toml:7:15: this is no algorithm that relay accepts",
            "relay.toml:13:10: [store] engine is not one of those that relay has",
            "relay.toml:20:12: [integrations.erp] upstream is neither https nor http",
            "relay.toml:21:47: inject of [integrations.erp]: {tokn} is not one of its fields; did you mean {token}?",
        ]
    );
}

/// What stands in the good file, what is written there instead, and the one error that follows: line,
/// column, message and, behind the bar, the fix.
#[rustfmt::skip]
const MISTAKES: &[(&str, &str, &str)] = &[
    ("[store]", "[stoer]", r#"12:2: unknown key "stoer" in relay.toml; did you mean "store"? | write store"#),
    (r#"listen = "127.0.0.1:8480""#, "listen = 8480", "2:10: [server] listen must be a text in quotes, not a whole number | write a text in quotes"),
    (r#"listen = "127.0.0.1:8480""#, "upstream = 1", r#"2:1: unknown key "upstream" in [server]; it belongs to [integrations.NAME] | move it to [integrations.NAME]"#),
    (r#"listen = "127.0.0.1:8480""#, r#"bind = "x""#, r#"2:1: unknown key "bind" in [server]; did you mean "listen"? | write listen"#),
    (r#"listen = "127.0.0.1:8480""#, "workers = 0", "2:11: [server] workers must be a whole number from 1 to 1024 | write a number from 1 to 1024"),
    (r#"listen = "127.0.0.1:8480""#, "workers = -1", "2:11: [server] workers must be a whole number from 1 to 1024 | write a number from 1 to 1024"),
    (r#"listen = "127.0.0.1:8480""#, "workers = 99999999999999999999999999999999999999999999", "2:11: [server] workers must be a whole number from 1 to 1024 | write a number from 1 to 1024"),
    (r#"listen = "127.0.0.1:8480""#, r#"workers = "4""#, "2:11: [server] workers must be a whole number without quotes, not a text | write a whole number without quotes"),
    (r#"listen = "127.0.0.1:8480""#, r#"grace = "5 parsecs""#, "2:9: [server] grace is no duration | write a number and its unit: 500ms, 3s, 5m, 24h"),
    (r#"listen = "127.0.0.1:8480""#, r#"grace = "2h""#, "2:9: [server] grace must be from 0s to 1h | write a duration from 0s to 1h"),
    (r#"listen = "127.0.0.1:8480""#, r#"listen = "127.0.0.1:8481""#, "2:10: [server] listen and admin_listen are the same address | give admin_listen another port: operators and apps never share one"),
    (r#"listen = "127.0.0.1:8480""#, r#"listen = "0.0.0.0:8481""#, "2:10: [server] listen and admin_listen are the same address | give admin_listen another port: operators and apps never share one"),
    (r#"listen = "127.0.0.1:8480""#, r#"public_url = "https://h/path""#, "2:14: [server] public_url is no plain address of relay | write https://host or https://host:port, in lower case and without a path"),
    (r#"listen = "127.0.0.1:8480""#, "limits = { head_byts = 1 }", r#"2:12: unknown key "head_byts" in [server.limits]; did you mean "head_bytes"? | write head_bytes"#),
    (r#"listen = "127.0.0.1:8480""#, "limits = 5", "2:1: [server.limits] is a table, not a whole number | write [server.limits] on a line of its own"),
    (r#"listen = "127.0.0.1:8480""#, "listen = \"127.0.0.1:8480\"\nlisten = \"127.0.0.1:8480\"", "3:1: this key or table is written twice | leave one of the two"),
    (r#"jwks = "file:jwks.json""#, "", r#"3:2: [callers] has no jwks | write jwks = "file:jwks.json""#),
    (r#"jwks = "file:jwks.json""#, r#"jwks = "http://auth.example/jwks""#, "4:8: [callers] jwks is no https:// address | write https://...; http:// is for this machine alone"),
    (r#"jwks = "file:jwks.json""#, r#"jwks = "https://user@auth.example/jwks""#, "4:8: [callers] jwks is no https:// address | write https://...; http:// is for this machine alone"),
    (r#"jwks = "file:jwks.json""#, r#"jwks = "jwks.json""#, r#"4:8: [callers] jwks is neither an https:// address nor file:PATH | write jwks = "https://...", or save the document and write jwks = "file:jwks.json""#),
    (r#"jwks = "file:jwks.json""#, r#"discovery = "auth.example""#, "4:13: [callers] discovery is no https:// address | write https://...; http:// is for this machine alone"),
    (r#"jwks = "file:jwks.json""#, "jwks = \"file:jwks.json\"\ndiscovery = \"https://auth.example\"", r#"5:1: [callers] has both jwks and discovery | keep jwks or discovery, or key with algorithms = ["HS256"]"#),
    (r#"jwks = "file:jwks.json""#, "jwks = \"file:jwks.json\"\nca_file = \"ca.pem\"", r#"5:1: [callers] ca_file is for a JWKS at an address, and there is none | remove ca_file, or write jwks = "https://...""#),
    (r#"jwks = "file:jwks.json""#, "jwks = \"file:jwks.json\"\njwks_token = \"env:ADMIN\"", r#"5:1: [callers] jwks_token is for a JWKS at an address, and there is none | remove jwks_token, or write jwks = "https://...""#),
    (r#"jwks = "file:jwks.json""#, "jwks = \"https://auth.example/jwks\"\njwks_token = \"eyJliteral\"", r#"5:14: [callers] jwks_token is a secret and may not stand in relay.toml itself | write jwks_token = "file:PATH" or jwks_token = "env:NAME", and replace this secret"#),
    (r#"customer = "customer_id""#, r#"customer = "/a//b""#, r#"8:12: [callers] customer has an empty part between its slashes | name a claim that your tokens carry: customer = "customer_id""#),
    (r#"customer = "customer_id""#, r#"customer = "/~2""#, r#"8:12: [callers] customer is no pointer (RFC 6901): ~ stands only before 0 or 1 | name a claim that your tokens carry: customer = "customer_id""#),
    (r#"customer = "customer_id""#, r#"customer = "/exp""#, r#"8:12: [callers] customer names a claim that has a meaning of its own | name a claim that your tokens carry: customer = "customer_id""#),
    (r#"customer = "customer_id""#, "customer = \"customer_id\"\ncustomer_prefix = \"a-prefix-of-more-than-thirty-two-bytes/\"", r#"9:19: [callers] customer_prefix is at most 32 bytes without control characters | write a short one: customer_prefix = "k8s/""#),
    (r#"customer = "customer_id""#, r#"customer = "/secret""#, "8:1: [callers] customer and secret name the same claim | give each its own claim"),
    ("[keys]", "[[callers]]\n[keys]", "9:3: this key or table is written twice | leave one of the two"),
    (r#"jwks = "file:jwks.json""#, r#"key = "env:ADMIN""#, r#"4:1: [callers] key is for HS256 alone | write jwks = "file:jwks.json" instead, or algorithms = ["HS256"]"#),
    (r#"jwks = "file:jwks.json""#, "jwks = \"file:jwks.json\"\nkey = \"env:ADMIN\"", r#"5:1: [callers] has both jwks and key | keep jwks or discovery, or key with algorithms = ["HS256"]"#),
    (r#"algorithms = ["ES256"]"#, r#"algorithms = ["HS256"]"#, r#"4:1: [callers] jwks holds public keys, but HS256 has none | write key = "file:..." instead of jwks, or another algorithm"#),
    (r#"algorithms = ["ES256"]"#, r#"algorithms = ["ES256", "HS256"]"#, r#"7:1: HS256 stands only alone: with a public key beside it, that key could forge tokens | write ["HS256"], or leave HS256 away"#),
    (r#"algorithms = ["ES256"]"#, "algorithms = []", r#"7:1: [callers] algorithms is empty: no token could be valid | write what your issuer signs with: ["ES256"]"#),
    (r#"algorithms = ["ES256"]"#, r#"algorithms = "ES256""#, "7:14: [callers] algorithms is a list, not a text | write algorithms = [...]"),
    (r#"algorithms = ["ES256"]"#, r#"algorithms = ["es256"]"#, r#"7:15: this is no algorithm that relay accepts; did you mean "ES256"? | relay accepts ES256, RS256, EdDSA, and HS256 alone"#),
    (r#"algorithms = ["ES256"]"#, r#"algorithms = ["ES256", "ES256"]"#, "7:24: this algorithm is written twice | leave it once"),
    (r#"algorithms = ["ES256"]"#, "", r#"3:2: [callers] has no algorithms | write what your issuer signs with: algorithms = ["ES256"]"#),
    (r#"customer = "customer_id""#, r#"tenant = "customer_id""#, r#"8:1: unknown key "tenant" in [callers]; did you mean "customer"? | write customer"#),
    (r#"customer = "customer_id""#, r#"customer = "exp""#, r#"8:12: [callers] customer names a claim that has a meaning of its own | name a claim that your tokens carry: customer = "customer_id""#),
    (r#"customer = "customer_id""#, r#"customer = "secret""#, "8:1: [callers] customer and secret name the same claim | give each its own claim"),
    (r#"issuer = "https://auth.saas.example""#, r#"issuer = """#, "5:10: [callers] issuer is empty | write the exact iss of your tokens"),
    (r#"audience = "relay""#, "audience = \"relay\"\nleeway = \"61s\"", "7:10: [callers] leeway must be from 0s to 1m | write a duration from 0s to 1m"),
    (r#"audience = "relay""#, "audience = \"relay\"\nprovider = \"local\"", r#"7:1: unknown key "provider" in [callers]; it belongs to [keys] | move it to [keys]"#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"aws\"", r#"9:2: [keys] has no key | write key = "arn:aws:kms:REGION:ACCOUNT:key/ID""#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"aws\"\nkey = \"mrk-1\"\nfile = \"relay.key\"", r#"12:1: [keys] file means nothing to provider = "aws" | remove it, or name another provider"#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"aws\"\nkey = \"alias/relay\"", r#"11:7: [keys] key is an alias, which can be pointed at another key | write key = "arn:aws:kms:REGION:ACCOUNT:key/ID""#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"aws\"\nkey = \"arn:aws:s3:::bucket\"", r#"11:7: [keys] key is no KMS key's ARN or id | write key = "arn:aws:kms:REGION:ACCOUNT:key/ID""#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"aws\"\nkey = \"mrk-1\"\nendpoint = \"http://kms.internal\"", r#"12:12: [keys] endpoint is no https:// address of a key service | write https://host or https://host:port; http:// is for this machine alone"#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"gcp\"\nkey = \"projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1\"", r#"11:7: [keys] key is no key's resource name, without a version | write key = "projects/P/locations/L/keyRings/R/cryptoKeys/K""#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"azure\"\nkey = \"relay\"", r#"9:2: [keys] has no vault | write vault = "https://NAME.vault.azure.net""#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"azure\"\nvault = \"http://localhost:8443\"\nkey = \"relay\"", r#"11:1: [keys] vault is not https://, and Azure's client shows its token over TLS alone | write vault = "https://NAME.vault.azure.net""#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"azure\"\nvault = \"https://v.example\"\nkey = \"a/b\"", r#"12:7: [keys] key is no name: letters, digits, - _ and . only | write the name of an RSA key in that vault: key = "relay""#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"transit\"\naddress = \"https://bao.example:8200\"\nkey = \"relay\"", r#"9:2: [keys] has no token | write token = "file:bao.token", or role_id and secret_id = "file:secret_id""#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"transit\"\naddress = \"https://bao.example:8200\"\nkey = \"relay\"\ntoken = \"env:ADMIN\"\nrole_id = \"r\"", r#"13:1: [keys] has both token and role_id | keep one way to log in"#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"transit\"\naddress = \"https://bao.example:8200\"\nkey = \"relay\"\nmount = \"../x\"\ntoken = \"env:ADMIN\"", r#"13:9: [keys] mount is no name: letters, digits, - _ and . only | write mount = "transit""#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"transit\"\naddress = \"https://bao.example:8200\"\nkey = \"relay\"\ntoken = \"hvs.literal\"", r#"13:9: [keys] token is a secret and may not stand in relay.toml itself | write token = "file:PATH" or token = "env:NAME", and replace this secret"#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"local\"\nfile = \"relay.key\"\ncontext = \"secret\"", r#"12:11: [keys] context is not one of those that relay has | write "name" or "hash""#),
    ("path = \"relay.db\"", "path = \"relay.db\"\nretain = \"1s\"", r#"15:10: [store] retain must be from 1m to 10years | write a duration from 1m to 10years"#),
    ("engine = \"sled\"\npath = \"relay.db\"", "engine = \"postgres\"", r#"12:2: [store] has no url | write url = "env:RELAY_STORE_URL", which holds postgres://USER@HOST:5432/DATABASE"#),
    ("engine = \"sled\"", "engine = \"postgres\"\nurl = \"postgres://relay@db/relay\"", r#"15:1: [store] path means nothing to engine = "postgres" | remove it, or name another engine"#),
    ("path = \"relay.db\"", "path = \"relay.db\"\nconnections = 4", r#"15:1: [store] connections means nothing to engine = "sled" | remove it, or name another engine"#),
    ("engine = \"sled\"\npath = \"relay.db\"", "engine = \"postgres\"\nurl = \"postgres://relay:hunter2@db/relay\"", r#"14:7: [store] url holds a password and may not stand in relay.toml itself | write url = "env:NAME", and replace this password"#),
    ("engine = \"sled\"\npath = \"relay.db\"", "engine = \"postgres\"\nurl = \"postgres://db/relay?user=relay&password=hunter2\"", r#"14:7: [store] url holds a password and may not stand in relay.toml itself | write url = "env:NAME", and replace this password"#),
    ("engine = \"sled\"\npath = \"relay.db\"", "engine = \"postgres\"\nurl = \"mysql://relay@db/relay\"", r#"14:7: [store] url is no URL of PostgreSQL | write url = "env:RELAY_STORE_URL", which holds postgres://USER@HOST:5432/DATABASE"#),
    ("engine = \"sled\"\npath = \"relay.db\"", "engine = \"postgres\"\nurl = \"postgres://relay@db/relay\"\npassword = \"hunter2\"", r#"15:12: [store] password is a secret and may not stand in relay.toml itself | write password = "file:PATH" or password = "env:NAME", and replace this secret"#),
    ("engine = \"sled\"\npath = \"relay.db\"", "engine = \"postgres\"\nurl = \"postgres://relay@db/relay\"\nconnections = 0", "15:15: [store] connections must be a whole number from 1 to 1000 | write a number from 1 to 1000"),
    ("engine = \"sled\"\npath = \"relay.db\"", "engine = \"postgres\"\nurl = \"postgres://relay@db/relay\"\nca_file = \"ca.pem\"\nplaintext_danger = true", "16:20: [store] ca_file means nothing beside plaintext_danger = true | remove one of them"),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"local\"\nfile = \"relay.key\"\ndata_key_max_age = \"1s\"", r#"12:20: [keys] data_key_max_age must be from 1h to 10years | write a duration from 1h to 10years"#),
    ("file = \"relay.key\"", "file = \"relay.key\"\nrefresh_after = \"100ms\"", "12:17: [keys] refresh_after must be from 1s to 1day | write a duration from 1s to 1day"),
    ("file = \"relay.key\"", "file = \"relay.key\"\nserve_at_most = \"2days\"", "12:17: [keys] serve_at_most must be from 2s to 1day | write a duration from 2s to 1day"),
    ("file = \"relay.key\"", "file = \"relay.key\"\nrefresh_after = \"1h\"", "12:1: [keys] serve_at_most is not longer than refresh_after | leave time between them: it is how long an outage of the KMS is bridged"),
    ("file = \"relay.key\"", "file = \"relay.key\"\nrefresh_after = \"5m\"\nserve_at_most = \"5m\"", "13:1: [keys] serve_at_most is not longer than refresh_after | leave time between them: it is how long an outage of the KMS is bridged"),
    ("file = \"relay.key\"", "file = \"relay.key\"\ncalls_per_second = 0", "12:20: [keys] calls_per_second must be a whole number from 1 to 10000 | write a number from 1 to 10000"),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"local\"\nfile = \"relay.key\"\nprevious = [\"old.key\"]", r#"12:13: previous of [keys] is a list of tables; this is a text | write { provider = "local", file = "old.key" }"#),
    ("provider = \"local\"\nfile = \"relay.key\"", "provider = \"local\"\nfile = \"relay.key\"\nprevious = [{ provider = \"local\", file = \"old.key\", path = \"x\" }]", r#"12:53: unknown key "path" in previous of [keys]; it belongs to [store] or [audit] | move it to [store] or [audit]"#),
    (r#"provider = "local""#, r#"provider = "vault""#, r#"10:12: [keys] provider is not one of those that relay has | write "local" or "aws" or "gcp" or "azure" or "transit""#),
    (r#"provider = "local""#, "", r#"9:2: [keys] has no provider | write provider = "local", or aws, gcp, azure or transit"#),
    (r#"file = "relay.key""#, r#"file = "file:relay.key""#, "11:8: [keys] file is itself a path; file: would read the path out of that file | leave file: away"),
    (r#"path = "audit.jsonl""#, r#"path = "relay.db""#, "16:8: [audit] path is the same path as [store] path | give each its own"),
    (r#"path = "audit.jsonl""#, "path = \"audit.jsonl\"\ndurability = \"maybe\"", r#"17:14: [audit] durability is not one of those that relay has | write "written" or "synced""#),
    ("[admin]", "[traces]\nsample = 2\n[admin]", "18:10: [traces] sample must be a number from 0 to 1 | write a number from 0 to 1, such as 0.01"),
    ("[admin]", "[traces]\nsample = \"often\"\n[admin]", "18:10: [traces] sample must be a number from 0 to 1 without quotes, not a text | write a number from 0 to 1 without quotes"),
    ("[admin]", "[traces]\nca_file = \"ca.pem\"\n[admin]", r#"18:1: [traces] has ca_file and no endpoint | write endpoint = "https://HOST:4318/v1/traces""#),
    (r#"token = "env:ADMIN""#, r#"token = "env:SHORT""#, "18:9: [admin] token has 5 bytes; it must have at least 32 | make one with: openssl rand -base64 48"),
    (r#"token = "env:ADMIN""#, r#"token = "hunter2hunter2hunter2hunter2hunter2""#, r#"18:9: [admin] token is a secret and may not stand in relay.toml itself | write token = "file:PATH" or token = "env:NAME", and replace this secret"#),
    (r#"token = "env:ADMIN""#, "", r#"17:2: [admin] has no token | write token = "file:admin.token""#),
    ("[integrations.erp]", "[integrations.ERP]", "19:15: an integration's name is 1 to 40 of a-z, 0-9 and _ | name it like this: [integrations.my_erp]"),
    (r#"upstream = "https://erp.example/api""#, r#"upstream = "erp.example""#, "20:12: [integrations.erp] upstream has no scheme | begin it with https://"),
    (r#"upstream = "https://erp.example/api""#, r#"upstream = "http://erp.example""#, "20:12: [integrations.erp] upstream is http: the credential would go out in the clear | write https://, or for a private address plaintext_danger = true with private_cidrs"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"http://erp.example\"\nplaintext_danger = true", "20:12: [integrations.erp] upstream is http: the credential would go out in the clear | write https://, or for a private address plaintext_danger = true with private_cidrs"),
    (r#"upstream = "https://erp.example/api""#, "", r#"19:15: [integrations.erp] has no upstream | write where the vendor is: upstream = "https://api.vendor.example""#),
    ("{token}", "{token", r#"21:47: inject of [integrations.erp]: a { without its } | write how its value is built: value = "Bearer {token}""#),
    ("{token}", "{kee}", "21:47: inject of [integrations.erp]: {kee} is not one of its fields | use {token}, or declare it in fields"),
    ("authorization", "host", "21:22: inject of [integrations.erp]: the header host is relay's own to write | name the header that the vendor reads the credential from"),
    ("authorization", "Relay_Secret", "21:22: inject of [integrations.erp]: the header relay_secret is relay's own to write | name the header that the vendor reads the credential from"),
    ("authorization", "a b", "21:22: inject of [integrations.erp]: this is no name of a header | write letters, digits and -"),
    ("inject = [{", r#"inject = [{ header = "X_a", value = "{token}" }, { header = "x-A", value = "1" }, {"#, "21:61: inject of [integrations.erp] names the header x-a twice | leave one; - and _ count as the same letter"),
    (r#"header = "authorization""#, r#"header = "authorization", query = "key""#, "21:39: inject of [integrations.erp] names two places in one: header and query | write { } round each with its value"),
    (r#"header = "authorization""#, r#"query = """#, r#"21:21: inject of [integrations.erp] query is empty | write query = "api_key""#),
    (r#"header = "authorization""#, r#"query = "a\tb""#, r#"21:21: inject of [integrations.erp]: this is not a parameter's name: it is 1 to 128 bytes of ASCII without control characters | write query = "api_key""#),
    (r#"header = "authorization""#, r#"cookie = "a;b""#, r#"21:22: inject of [integrations.erp]: this is not a cookie's name: it is letters, digits, - and _ | write cookie = "session""#),
    (r#"header = "authorization""#, r#"json = "token""#, r#"21:20: inject of [integrations.erp]: this is not a pointer to a member: a pointer (RFC 6901) begins with a slash | write json = "/auth/token""#),
    (r#"header = "authorization""#, r#"header = "authorization", body = "token""#, r#"21:39: unknown key "body" in inject of [integrations.erp] | the keys here are header, query, path, cookie, json, form, value"#),
    (r#"header = "authorization""#, r#"path = "/bot{token}""#, r#"21:35: inject of [integrations.erp]: a path is its own value | write path = "/bot{token}" and leave value away"#),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"path = "bot{token}""#, r#"21:20: inject of [integrations.erp]: it does not begin with a slash | write path = "/bot{token}""#),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"path = "/v1/bot""#, "21:20: inject of [integrations.erp]: this path has no field in it | write a fixed path behind upstream"),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"path = "/../{token}""#, r#"21:20: inject of [integrations.erp]: it has an empty segment or one of dots | write path = "/bot{token}""#),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"query = "k", value = "basic(token, token)""#, "21:34: inject of [integrations.erp]: basic() is a header's | write base64({user}:{password}) for the pair alone"),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"cookie = "c", value = "a {token}""#, "21:35: inject of [integrations.erp]: a cookie's value has no space, quote, comma, semicolon or backslash in it | write base64(...) round it if the vendor reads that"),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"query = "api_key", value = "sk-live""#, r#"21:40: inject of [integrations.erp]: a credential may not stand in relay.toml itself | name a field: value = "Bearer {token}", and replace this credential"#),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"json = "/a", value = "{token}" }, { form = "b", value = "{token}""#, "21:56: inject of [integrations.erp] has json beside form: a body is only one of them | leave one"),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"json = "/a", value = "{token}" }, { json = "/a/b", value = "{token}""#, "21:56: inject of [integrations.erp] has two JSON pointers of which one leads through the other | leave one"),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"path = "/{token}" }, { path = "/a{token}""#, "21:43: inject of [integrations.erp] has two paths | write one with both in it"),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"query = "k", value = "{token}" }, { query = "k", value = "{token}""#, "21:57: inject of [integrations.erp] names the parameter k twice | leave one"),
    (r#"header = "authorization", value = "Bearer {token}""#, r#"header = "cookie", value = "a={token}" }, { cookie = "b", value = "{token}""#, "21:66: inject of [integrations.erp] has the header cookie beside a cookie | write each cookie by its name"),
    ("Bearer {token}", "base64({token}", r#"21:47: inject of [integrations.erp]: base64( ends the template with its ) | write how its value is built: value = "Bearer {token}""#),
    ("Bearer {token}", "base64(base64({token}))", r#"21:47: inject of [integrations.erp]: base64() stands round text with fields, not round another function | write how its value is built: value = "Bearer {token}""#),
    ("Bearer {token}", "{token} base64({token})", r#"21:47: inject of [integrations.erp]: before base64() stands text without fields | write how its value is built: value = "Bearer {token}""#),
    ("inject =", "default_secret = \"first\"\ninject =", r#"21:18: [integrations.erp] default_secret is not one of those that relay has | write "only""#),
    ("inject =", "body_limit = 100\ninject =", "21:14: [integrations.erp] body_limit must be a whole number from 1024 to 16777216 | write a number from 1024 to 16777216"),
    (r#"inject = [{ header = "authorization", value = "Bearer {token}" }]"#, "inject = []", r#"21:1: inject of [integrations.erp] is empty: the vendor would see no credential | write [{ header = "authorization", value = "Bearer {token}" }]"#),
    (r#"inject = [{ header = "authorization", value = "Bearer {token}" }]"#, r#"inject = { header = "authorization", value = "Bearer {token}" }"#, "21:10: [integrations.erp] inject is a list, not a table | write inject = [...]"),
    ("inject =", "allow = []\ninject =", r#"21:1: [integrations.erp] allow is an empty list: everything, or nothing? | leave allow away to allow anything below upstream, or write deny = ["* /**"] for nothing"#),
    ("inject =", "allow = [\"get /x\"]\ninject =", r#"21:10: [integrations.erp] allow: a rule's method is in capitals, or * for any | write it like "GET /users/*" or "* /files/**""#),
    ("inject =", "private_cidrs = [\"10.0.0.1/8\"]\ninject =", r#"21:18: [integrations.erp] private_cidrs: this address has bits behind its prefix | write "10.0.0.0/8", or a longer prefix"#),
    ("inject =", "private_cidrs = [\"ten\"]\ninject =", r#"21:18: [integrations.erp] private_cidrs: this is no network | write a network such as "10.1.0.0/16", or one address as "10.1.2.3/32""#),
    ("inject =", "isolate = \"tenant\"\ninject =", r#"21:11: [integrations.erp] isolate is not one of those that relay has | write "customer""#),
    ("inject =", "rewrite = [\"xml\"]\ninject =", "21:12: [integrations.erp] rewrite knows \"json\" alone | write rewrite = [\"json\"]"),
    ("inject =", "cookies = \"yes\"\ninject =", "21:11: [integrations.erp] cookies must be true or false without quotes, not a text | write true or false without quotes"),
    ("inject =", "rate = 0\ninject =", "21:8: [integrations.erp] rate must be a whole number from 1 to 1000000 | write a number from 1 to 1000000"),
    ("inject =", "timeout = { conect = \"3s\" }\ninject =", r#"21:13: unknown key "conect" in [integrations.erp.timeout]; did you mean "connect"? | write connect"#),
    ("inject =", "fields = { token = \"hunter2\" }\ninject =", "21:12: [integrations.erp.fields.token] is a table, not a text | write [integrations.erp.fields.token] on a line of its own"),
    ("inject =", "fields = { token = { scrub = \"off\" } }\ninject =", r#"21:30: [integrations.erp.fields.token] scrub is not one of those that relay has | write "off_danger""#),
    ("inject =", "fields = { token = {}, Api = {} }\ninject =", "21:24: a field's name is 1 to 40 of a-z, 0-9 and _ | name it like this: api_key"),
    ("inject =", "token = \"hunter2\"\ninject =", r#"21:1: unknown key "token" in [integrations.erp] | no credential stands in relay.toml: seal it with `relay secret add --integration NAME`"#),
    ("inject =", "sign = \"aws_sigv4\"\ninject =", "21:1: [integrations.erp.sign] is a table, not a text | write [integrations.erp.sign] on a line of its own"),
    ("inject =", "sign = { with = \"rot13\" }\ninject =", r#"21:17: [integrations.erp.sign] with is not one of those that relay has | write "aws_sigv4" or "coinbase_exchange" or "binance" or "bybit_v5" or "okx_v5" or "kucoin_v2" or "bitmex" or "slack_v0" or "standard_webhooks" or "hmac_sha256" or "hmac_sha384" or "hmac_sha512""#),
    ("inject =", "sign = { with = \"slack_v0\", secret = \"{kee}\" }\ninject =", r#"21:38: [integrations.erp.sign] secret: {kee} is not one of its fields | declare it in fields"#),
    ("inject =", "sign = { with = \"slack_v0\", secret = \"hunter2\" }\ninject =", r#"21:38: [integrations.erp.sign] secret is one field of the secret, and nothing round it | name one field of the secret: secret = "{secret}""#),
    ("inject =", "sign = { with = \"slack_v0\", secret = \"v0{token}\" }\ninject =", r#"21:38: [integrations.erp.sign] secret is one field of the secret, and nothing round it | name one field of the secret: secret = "{secret}""#),
    ("inject =", "sign = { with = \"slack_v0\" }\ninject =", r#"21:1: [integrations.erp.sign] has no secret | name the field that holds it: secret = "{secret}""#),
    ("inject =", "sign = { with = \"slack_v0\", secret = \"{token}\", key = \"{token}\" }\ninject =", r#"21:49: [integrations.erp.sign] key is not used by "slack_v0" | leave it away"#),
    ("inject =", "sign = { with = \"slack_v0\", secret = \"{token}\", region = \"x\" }\ninject =", r#"21:49: [integrations.erp.sign] region has no meaning with "slack_v0" | leave it away; the keys here are with, key, secret, passphrase"#),
    ("inject =", "sign = { with = \"aws_sigv4\", region = \"EU\", service = \"s3\", access_key = \"{token}\", secret_key = \"{token}\" }\n# inject =", r#"21:39: [integrations.erp.sign] region is lower-case letters, digits and - | write the region of the service: region = "eu-west-1", or a field that holds it: "{region}""#),
    ("inject =", "sign = { with = \"aws_sigv4\", region = \"{token}\", service = \"s3\", access_key = \"{token}\", secret_key = \"{token}\" }\n# inject =", r#"21:39: [integrations.erp.sign] region: {token} is secret, and a region is seen in every request | declare the field with secret = false"#),
    ("inject =", "sign = { with = \"aws_sigv4\", region = \"x\", access_key = \"{token}\", secret_key = \"{token}\" }\n# inject =", r#"21:1: [integrations.erp.sign] has no service | write the service's name in AWS's signatures: service = "s3""#),
    ("inject =", "sign = { with = \"aws_sigv4\", region = \"x\", service = \"s3\", access_key = \"{token}\", secret_key = \"{token}\" }\ninject =", "22:1: inject of [integrations.erp] names the header authorization, which sign writes | take it out of inject"),
    ("inject =", "sign = { with = \"hmac_sha256\", secret = \"{token}\", signature_header = \"host\", message = [\"body\"] }\ninject =", "21:71: [integrations.erp.sign]: the header host is relay's own to write | name the header that the vendor reads the credential from"),
    ("inject =", "sign = { with = \"hmac_sha256\", secret = \"{token}\", signature_header = \"x-s\", message = [\"hunter2\"] }\ninject =", r#"21:89: [integrations.erp.sign] message: this is none of method, path, path_and_query, query, body, time, nonce, key, passphrase | text of its own stands in single quotes: "'v1:'""#),
    ("inject =", "sign = { with = \"hmac_sha256\", secret = \"{token}\", signature_header = \"x-s\", time_header = \"X-S\", message = [\"body\"] }\ninject =", "21:78: [integrations.erp.sign] time_header is a header that carries something else already | name another header"),
    ("inject = [{", "sign = { with = \"binance\", key = \"{token}\", secret = \"{token}\" }\ninject = [{ query = \"k\", value = \"{token}\" }, {", "22:1: inject of [integrations.erp] writes into the query or form that sign writes anew | place the credential in a header: what sign writes anew is not wiped"),
    ("inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]", "sign = { with = \"aws_sigv4\", region = \"x\", service = \"s3\", access_key = \"{token}\", secret_key = \"{token}\" }\ninject = [{ form = \"k\", value = \"{token}\" }]", "22:1: inject of [integrations.erp] changes bodies whose hash the app has told already | leave the body placement away: \"aws_sigv4\" signs the body as it came"),
    ("inject =", "client_certificate = { certificate = \"{token}\", key = \"{token}\" }\ninject =", "21:1: [integrations.erp.client_certificate] certificate and key are the same field | keep them in two fields"),
    ("inject =", "fields = { token = {}, pem = {} }\nclient_certificate = { certificate = \"{pem}\", key = \"{token}\" }\ninject =", r#"21:12: the field "token" is part of the client certificate, and stands in a request, too | use it in client_certificate alone"#),
    ("inject =", "fields = { token = {}, pem = {}, key = { secret = false } }\nclient_certificate = { certificate = \"{pem}\", key = \"{key}\" }\ninject =", "21:34: [integrations.erp.client_certificate] key: {key} is a private key, and not secret | leave secret = false away"),
    ("inject =", "fields = { token = {}, pem = {}, key = { optional = true } }\nclient_certificate = { certificate = \"{pem}\", key = \"{key}\" }\ninject =", "22:47: [integrations.erp.client_certificate] key: {key} is optional, and every request needs it | leave optional away"),
    ("inject =", "workers = 1\ninject =", r#"21:1: unknown key "workers" in [integrations.erp]; it belongs to [server] | move it to [server]"#),
    ("inject =", "listen = \"localhost:1\"\ninject =", r#"21:10: [integrations.erp] listen is not an IP address and a port | write listen = "127.0.0.1:8480", "tls:127.0.0.1:8443" or "unix:relay.sock"; names are not looked up"#),
    ("inject =", "listen = \"127.0.0.1:8481\"\ninject =", "21:10: [integrations.erp] listen is the same address as [server] admin_listen | give it a port of its own"),
    ("inject =", "listen = \"tls:127.0.0.1:1\"\ninject =", "21:10: this listener speaks TLS, and there is no [server.tls] | add [server.tls] with certificate and key"),
    ("inject =", "host = \"Erp.internal:80\"\ninject =", r#"21:8: [integrations.erp] host is no host name in lower case, without a port | write the name that the app uses for relay: host = "slack.relay.internal""#),
    ("inject =", "http2 = \"no\"\ninject =", "21:9: [integrations.erp] http2 must be true or false without quotes, not a text | write true or false without quotes"),
    (r#"upstream = "https://erp.example/api""#, r#"upstream = "https://{shop}.erp.example""#, r#"20:12: [integrations.erp] upstream has {shop}, which is not one of its fields | declare it: shop = { secret = false, match = "[a-z0-9-]{1,40}" }"#),
    (r#"upstream = "https://erp.example/api""#, r#"upstream = "https://{tokn}.erp.example""#, r#"20:12: [integrations.erp] upstream has {tokn}, which is not one of its fields; did you mean {token}? | declare it: tokn = { secret = false, match = "[a-z0-9-]{1,40}" }"#),
    (r#"upstream = "https://erp.example/api""#, r#"upstream = "https://{token}.erp.example""#, "20:12: [integrations.erp] upstream has {token}, a secret field: an address is seen by many | write secret = false in token, or take another field"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://{shop}.erp.example\"\nfields = { shop = { secret = false }, token = {} }", r#"20:12: [integrations.erp] upstream has {shop}, of which nothing says what it may be | write match = "[a-z0-9-]{1,40}" in shop"#),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://{shop}.erp.example\"\nfields = { shop = { secret = false, match = \"[a-z.]+\" }, token = {} }", "20:12: [integrations.erp] upstream has {shop} in its host, whose match can be '.' | write a match of a-z, 0-9 and - alone, such as [a-z0-9-]{1,40}; with it a value would be more than a part of the host"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://{shop}.erp.example\"\nfields = { shop = { secret = false, match = \"a(b|(c|[^x]?))\" }, token = {} }", "20:12: [integrations.erp] upstream has {shop} in its host, whose match can be ' ' | write a match of a-z, 0-9 and - alone, such as [a-z0-9-]{1,40}; with it a value would be more than a part of the host"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://{shop}.erp.example\"\nfields = { shop = { secret = false, match = \"[A-Z]+\" }, token = {} }", "20:12: [integrations.erp] upstream has {shop} in its host, whose match can be 'A' | write a match of a-z, 0-9 and - alone, such as [a-z0-9-]{1,40}; with it a value would be more than a part of the host"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://{shop}.example\"\nfields = { shop = { secret = false, match = \"[a-z]+\" }, token = {} }", "20:12: [integrations.erp] upstream has a host that does not end in a fixed domain: a secret could go anywhere | end the host like .vendor.example; where it must be any host, any_host_danger = true"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://{shop}erp.example\"\nfields = { shop = { secret = false, match = \"[a-z]+\" }, token = {} }", "20:12: [integrations.erp] upstream has a host that does not end in a fixed domain: a secret could go anywhere | end the host like .vendor.example; where it must be any host, any_host_danger = true"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://{shop}.co.uk\"\nfields = { shop = { secret = false, match = \"[a-z]+\" }, token = {} }", "20:12: [integrations.erp] upstream has a host that does not end in a fixed domain: a secret could go anywhere | end the host like .vendor.example; where it must be any host, any_host_danger = true"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://erp.example.{shop}\"\nfields = { shop = { secret = false, match = \"[a-z]+\" }, token = {} }", "20:12: [integrations.erp] upstream has a host that does not end in a fixed domain: a secret could go anywhere | end the host like .vendor.example; where it must be any host, any_host_danger = true"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"http://{shop}.erp.example\"\nfields = { shop = { secret = false, match = \"[a-z]+\" }, token = {} }", "20:12: [integrations.erp] upstream has fields and is not https | begin it with https://"),
    (r#"upstream = "https://erp.example/api""#, r#"upstream = "https://{shop.erp.example""#, "20:12: [integrations.erp] upstream has a { or } that belongs to no field | write a field as {subdomain}"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://erp.example/{shop}/x\"\nfields = { shop = { secret = false, match = \"[a-z/]+\" }, token = {} }", "20:12: [integrations.erp] upstream has {shop} in its path, whose match can be '/' | write a match of letters, digits and - . _ ~ : @ alone, such as [A-Za-z0-9-]{1,64}"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://{host}\"\nany_host_danger = true\nfields = { host = { secret = false, match = \"[a-z.@]+\" }, token = {} }", "20:12: [integrations.erp] upstream has {host} in its host, whose match can be '@' | write a match of a-z, 0-9, - and . alone, and : where a port may be given"),
    ("inject =", "any_host_danger = true\ninject =", "21:1: [integrations.erp] any_host_danger changes nothing for a host that is fixed | leave it away"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://erp.example/{shop}\"\nany_host_danger = true\nfields = { shop = { secret = false, match = \"[a-z]+\" }, token = {} }", "21:1: [integrations.erp] any_host_danger changes nothing for a host that is fixed | leave it away"),
    (r#"upstream = "https://erp.example/api""#, "upstream = \"https://{shop}.erp.example\"\nplaintext_danger = true\nfields = { shop = { secret = false, match = \"[a-z]+\" }, token = {} }", "21:1: [integrations.erp] plaintext_danger changes nothing for an https upstream | leave it away"),
    ("inject =", "fields = { token = { match = \"^a$\" } }\ninject =", r#"21:30: [integrations.erp.fields.token] match: it has an anchor: the whole value is meant anyway, so leave ^ and $ away | write it like match = "[a-z0-9-]{2,40}""#),
    ("inject =", "burst = 5\ninject =", "21:1: [integrations.erp] burst is nothing without a rate | write rate = 50 as well, or leave burst away"),
    ("inject =", "concurrency = 0\ninject =", "21:15: [integrations.erp] concurrency must be a whole number from 1 to 1000000 | write a number from 1 to 1000000"),
    (r#"customer = "customer_id""#, "customer = \"customer_id\"\nsecrets = \"customer_id\"", "9:1: [callers] secrets names a claim that another of its keys names | give each its own claim"),
];

#[test]
fn each_mistake_gives_its_own_error_at_its_own_place() {
    for (line, mistake, wanted) in MISTAKES {
        assert!(GOOD.contains(line), "{line}");
        let (_, report) = judged(&GOOD.replacen(line, mistake, 1), &[("SHORT", "short")]);
        let errors: Vec<String> = report
            .findings()
            .iter()
            .filter(|f| f.severity == config::Severity::Error)
            .map(|f| {
                let (line, column) = (f.line.unwrap(), f.column.unwrap());
                format!("{line}:{column}: {} | {}", f.message, f.fix.as_deref().unwrap_or_default())
            })
            .collect();
        assert_eq!(errors, [*wanted], "{mistake}");
    }
}

#[test]
fn with_any_host_no_value_of_the_operators_own_is_taken() {
    let free = "upstream = \"https://{host}\"\nany_host_danger = true\n\
                fields = { host = { secret = false, match = \"[a-z.-]+\" }, token = {} }\n";
    let fixed = free.replace("{host}", "{host}.erp.example").replace("any_host_danger = true\n", "");
    let fixed = fixed.replace("[a-z.-]+", "[a-z-]+");
    for (upstream, more, wanted) in [
        (free, "oauth2 = { client_id = \"x\", client_secret = \"env:ADMIN\" }", true),
        (free, "login = { steps = [{ post = \"/login\", body = { key = \"file:key\" } }] }", true),
        (free, "oauth2 = { client_id = \"{host}\" }", false),
        (fixed.as_str(), "oauth2 = { client_secret = \"env:ADMIN\" }", false),
    ] {
        let text = GOOD.replace("upstream = \"https://erp.example/api\"", &format!("{upstream}{more}"));
        let said = errors(&text, &[]).iter().any(|error| error.contains("the customer says where it goes"));
        assert_eq!(said, wanted, "{more}");
    }
}

#[test]
fn azures_own_variables_choose_how_relay_proves_itself_to_azure() {
    let keys = "provider = \"azure\"\nvault = \"https://v.example\"\nkey = \"relay\"";
    let text = GOOD.replace("provider = \"local\"\nfile = \"relay.key\"", keys);
    let [tenant, client] = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
    let [secret, file] = [("AZURE_CLIENT_SECRET", "s"), ("AZURE_FEDERATED_TOKEN_FILE", "/f")];
    let login = |pairs: &[(&str, &str)]| match usable(&text, pairs).keys.current {
        KmsKey::Azure { login, authority, .. } => {
            let login = match login {
                AzureLogin::Secret { tenant, client, secret } if secret.equals(b"s") => {
                    format!("secret {tenant} {client}")
                }
                AzureLogin::Secret { .. } => "another secret".to_owned(),
                AzureLogin::Workload { tenant, client, file } => {
                    format!("workload {tenant} {client} {}", file.display())
                }
                AzureLogin::Managed(client) => format!("managed {client:?}"),
            };
            format!("{login} {authority:?}")
        }
        _ => panic!("no key in Azure"),
    };
    let authority = ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us");
    assert_eq!(login(&[]), "managed None None");
    assert_eq!(login(&[client]), "managed Some(\"c\") None");
    assert_eq!(login(&[tenant, client, ("AZURE_CLIENT_SECRET", "")]), "managed Some(\"c\") None");
    assert_eq!(login(&[tenant, client, file]), "workload t c /f None");
    assert_eq!(login(&[tenant, client, secret, file]), "secret t c None");
    let us = "secret t c Some(\"https://login.microsoftonline.us\")";
    assert_eq!(login(&[tenant, client, secret, authority]), us);
    for (given, pairs) in [
        ("AZURE_CLIENT_SECRET", &[secret, client][..]),
        ("AZURE_CLIENT_SECRET", &[secret, tenant, file]),
        ("AZURE_FEDERATED_TOKEN_FILE", &[file]),
    ] {
        let wanted = format!(
            "relay.toml:10:1: the environment has {given} without AZURE_TENANT_ID and AZURE_CLIENT_ID"
        );
        assert_eq!(errors(&text, pairs), [wanted]);
    }
}

#[test]
fn without_callers_relay_does_not_start() {
    let text: String = GOOD.replace("[callers]", "[unused]");
    assert!(errors(&text, &[]).iter().any(|e| e.contains("there is no [callers] section")));
}

#[test]
fn what_is_worth_a_look_is_a_warning_and_no_error() {
    let rows = [
        (
            "listen =",
            "admin_listen = \"0.0.0.0:9\"\nlisten =",
            "admin_listen can be reached from other machines",
        ),
        (
            "inject =",
            "fields = { token = {}, spare = {} }\ninject =",
            "no placement uses the field \"spare\"",
        ),
        ("inject =", "fields = { token = { secret = false } }\ninject =", "nothing is scrubbed from answers"),
        ("inject =", "private_cidrs = [\"0.0.0.0/0\"]\ninject =", "opens every private address"),
        ("inject =", "plaintext_danger = true\ninject =", "changes nothing for an https upstream"),
        ("inject =", "body_limit = 2048\ninject =", "body_limit changes nothing"),
        ("file:jwks.json", "file:other.json", "the file of [callers] jwks does not exist"),
        ("env:ADMIN", "env:UNSET", "the variable of [admin] token is not set"),
    ];
    for (line, written, wanted) in rows {
        let (config, report) = judged(&GOOD.replacen(line, written, 1), &[]);
        let warned = report.findings().iter().any(|f| f.message.contains(wanted));
        assert!(warned && report.errors() == 0 && config.is_some(), "{wanted}: {report}");
    }
}

#[test]
fn plaintext_is_taken_only_by_its_ugly_name_and_at_a_private_address() {
    let text = GOOD.replace(
        "upstream = \"https://erp.example/api\"",
        "upstream = \"http://erp.example\"\nplaintext_danger = true\nprivate_cidrs = [\"10.0.0.0/8\"]",
    );
    let config = usable(&text, &[]);
    assert!(!config.integrations.first().unwrap().origin.is_secure());
}

#[test]
fn what_could_be_a_secret_is_never_quoted() {
    let canary = "hunter2-canary-0123456789-0123456789";
    let rows: &[(&str, &str, &str)] = &[
        ("token = \"env:ADMIN\"", "token = \"C\"", "a literal secret"),
        ("token = \"env:ADMIN\"", "token = [\"C\"]", "in a list"),
        ("token = \"env:ADMIN\"", "token = { value = \"C\" }", "in a table"),
        ("token = \"env:ADMIN\"", "tokne = \"C\"", "under a misspelt key"),
        ("token = \"env:ADMIN\"", "token = \"C", "with a quote missing"),
        ("token = \"env:ADMIN\"", "token = \"\"\"\nC", "in an open text of several lines"),
        ("token = \"env:ADMIN\"", "token = C", "without quotes"),
        ("token = \"env:ADMIN\"", "token = \"env:ADMIN\"\ntoken = \"C\"", "written twice"),
        ("token = \"env:ADMIN\"", "token \"C\"", "with = missing"),
        ("[admin]", "[admn]\npassword = \"C\"\n[admin]", "in an unknown section"),
        ("[admin]", "C\n[admin]", "on a line of its own"),
        ("[admin]", "admin = { token = \"C\", token = \"C\" }\n[other]", "twice inside a line"),
        ("jwks = \"file:jwks.json\"", "key = \"C\"", "the shared key"),
        ("jwks = \"file:jwks.json\"", "jwks = \"C\"", "a key where a file is wanted"),
        ("inject =", "token = \"C\"\ninject =", "in an integration"),
        ("inject =", "fields = { token = \"C\" }\ninject =", "as a field's value"),
        ("inject =", "headers = { authorization = \"C\" }\ninject =", "as another program writes it"),
        ("Bearer {token}", "Bearer C", "in a template"),
        ("authorization\", value = \"Bearer {token}", "a b\", value = \"C", "under an unreadable header"),
        (
            "header = \"authorization\", value = \"Bearer {token}\"",
            "query = \"key\", value = \"C\"",
            "in a query",
        ),
        ("https://erp.example", "https://user:C@erp.example", "as a password in the address"),
        ("https://erp.example/api", "https://erp.example/api?key=C", "in the address's query"),
        ("listen =", "public_url = \"https://C@h\"\nlisten =", "in relay's own address"),
    ];
    for (line, written, mistake) in rows {
        assert!(GOOD.contains(line), "{mistake}");
        let text = GOOD.replacen(line, &written.replace('C', canary), 1);
        assert!(text.contains(canary), "{mistake}");
        let (_, report) = judged(&text, &[]);
        assert!(report.errors() > 0, "{mistake} is refused");
        let said = [
            report.to_string(),
            report.render(true),
            format!("{report:?}"),
            serde_json::to_string(report.findings()).unwrap(),
        ];
        for form in said {
            assert!(!form.contains("canary"), "{mistake}: {form}");
        }
    }
}

#[test]
fn a_variables_value_is_never_quoted() {
    let canary = "hunter2-canary";
    for key in ["SERVER__LISTEN", "ADMIN__TOKEN", "KEYS__PROVIDER", "INTEGRATIONS__ERP__UPSTREAM", "NOPE"] {
        let variable = format!("RELAY__{key}");
        let (_, report) = judged(GOOD, &[(&variable, canary)]);
        assert!(report.errors() > 0, "{key}");
        assert!(!format!("{report} {report:?} {}", report.render(true)).contains(canary), "{key}");
        assert!(report.findings().iter().any(|f| f.file == variable), "{key} is named");
    }
}

#[test]
fn a_variable_goes_before_the_file_and_the_file_before_the_default() {
    let pairs = [
        ("RELAY__SERVER__LISTEN", "127.0.0.1:9000"),
        ("RELAY__SERVER__LIMITS__HEAD_BYTES", "65536"),
        ("RELAY__SERVER__GRACE", "3s"),
        ("RELAY__ADMIN__TOKEN", "0123456789012345678901234567890123456789"),
        ("RELAY__INTEGRATIONS__ERP__UPSTREAM", "https://other.example"),
        ("RELAY__INTEGRATIONS__ERP__COOKIES", "true"),
        ("RELAY__INTEGRATIONS__ERP__TIMEOUT__CONNECT", "1s"),
        ("RELAY__CALLERS__ISSUER", "env:WHO"),
        ("WHO", "https://who.example"),
        ("RELAY_TOKEN", "not ours: one underscore"),
    ];
    let config = usable(&GOOD.replace("[callers]", "grace = \"9s\"\n[callers]"), &pairs);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(config.server.limits.head_bytes, 65_536);
    assert_eq!(config.server.grace, Duration::from_secs(3));
    assert_eq!(config.admin.token.len(), 40);
    assert_eq!(config.callers[0].issuer, "https://who.example");
    let erp = config.integrations.first().unwrap();
    assert_eq!(erp.origin.to_string(), "https://other.example");
    assert!(erp.cookies);
    assert_eq!(erp.timeout.connect, Duration::from_secs(1));
    assert_eq!(usable(GOOD, &[]).server.listen.to_string(), "127.0.0.1:8480");
}

#[test]
fn a_variable_that_sets_nothing_is_an_error() {
    let rows = [
        (
            "RELAY__SERVER__LISTNE",
            "x",
            "this variable names no key of relay.toml; did you mean RELAY__SERVER__LISTEN?",
        ),
        ("RELAY__NOTHING", "x", "this variable names no key of relay.toml"),
        ("RELAY__", "x", "this variable names no key of relay.toml"),
        ("RELAY__server__listen", "x", "a variable that overrides a key is written in capitals"),
        (
            "RELAY__CALLERS__ALGORITHMS",
            "x",
            "this variable names a list or a table, which only relay.toml can hold",
        ),
        (
            "RELAY__INTEGRATIONS__NOPE__UPSTREAM",
            "x",
            "this variable names no integration of relay.toml (there: erp)",
        ),
        (
            "RELAY__INTEGRATIONS__ERP__FIELDS__X__LABEL",
            "x",
            "this variable sets a key of a table that relay.toml does not have",
        ),
        ("RELAY__SERVER__LISTEN", "here", "[server] listen is not an IP address and a port"),
        ("RELAY__SERVER__WORKERS", "many", "[server] workers must be a whole number from 1 to 1024"),
        ("RELAY__INTEGRATIONS__ERP__COOKIES", "yes", "[integrations.erp] cookies must be true or false"),
    ];
    for (variable, value, wanted) in rows {
        assert_eq!(errors(GOOD, &[(variable, value)]), [format!("{variable}: {wanted}")]);
    }
}

#[test]
fn a_section_may_come_from_variables_alone_where_all_of_it_has_defaults() {
    let text = GOOD.replace("[server]\nlisten = \"127.0.0.1:8480\"\n", "");
    assert_eq!(
        usable(&text, &[("RELAY__SERVER__LISTEN", "127.0.0.1:7")]).server.listen.to_string(),
        "127.0.0.1:7"
    );
}

#[test]
fn to_run_every_file_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    std::fs::write(&path, GOOD.replace("env:ADMIN", "file:admin.token")).unwrap();
    let Err(report) = config::load(&path, &[]) else { panic!("loaded without its files") };
    let missing: Vec<_> = report.findings().iter().map(|f| f.message.as_str()).collect();
    assert_eq!(
        missing,
        [
            "the file of [callers] jwks does not exist",
            "the file of [keys] file does not exist",
            "the file of [admin] token does not exist",
        ]
    );
    std::fs::write(folder.path().join("jwks.json"), "{\"keys\":[]}").unwrap();
    std::fs::write(folder.path().join("relay.key"), "k").unwrap();
    std::fs::write(folder.path().join("admin.token"), "t".repeat(32) + "\n").unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(folder.path().join("admin.token"), private).unwrap();
    let Ok(loaded) = config::load(&path, &[]) else { panic!("not loaded with its files") };
    assert_eq!(loaded.config.admin.token.len(), 32, "the newline at the end is no part of the token");
    assert_eq!(loaded.warnings.findings().len(), 0);
}

#[test]
fn a_file_that_is_missing_empty_a_folder_or_no_text_is_said_to_be_that() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("empty"), " \n").unwrap();
    std::fs::write(at("binary"), [0xff, 0xfe, 0]).unwrap();
    std::fs::write(at("large"), vec![b'#'; 1024 * 1024 + 1]).unwrap();
    let rows = [
        ("missing", "there is no such file"),
        ("empty", "it is empty"),
        ("binary", "it is not UTF-8 text"),
        ("large", "it is larger than 1048576 bytes"),
        ("", "it is a folder"),
    ];
    for (name, wanted) in rows {
        let Err(report) = config::load(&at(name), &[]) else { panic!("{name} loaded") };
        assert_eq!(report.findings().first().unwrap().message, wanted);
        assert_eq!(report.errors(), 1);
    }
}

#[test]
fn a_shared_key_goes_with_hs256_alone_and_has_32_bytes() {
    let shared = GOOD.replace("jwks = \"file:jwks.json\"", "key = \"env:K\"").replace("ES256", "HS256");
    let config = usable(&shared, &[("K", &"k".repeat(32))]);
    assert!(matches!(&config.callers[0].keys, CallerKeys::Hs256(key) if key.len() == 32));
    let short = errors(&shared, &[("K", "k")]);
    assert_eq!(short, ["relay.toml:4:7: [callers] key has 1 bytes; it must have at least 32"]);
}

#[test]
fn several_issuers_are_several_tables_that_tokens_can_tell_apart() {
    let one = "[[callers]]\njwks = \"https://auth.example/jwks\"\nissuer = \"https://auth.example\"\naudience = \"relay\"\nalgorithms = [\"ES256\"]\ncustomer = \"customer_id\"\n";
    let (head, rest) = GOOD.split_once("[callers]").unwrap();
    let (_, rest) = rest.split_once("[keys]").unwrap();
    let of = |second: &str| format!("{head}{one}{second}[keys]{rest}");
    let told = |text: &str, pairs: &[(&str, &str)]| {
        let (config, report) = judged(text, pairs);
        let told: Vec<String> = report
            .findings()
            .iter()
            .filter(|finding| !finding.message.contains("does not exist"))
            .map(|finding| format!("{}: {}", finding.line.unwrap_or_default(), finding.message))
            .collect();
        (config.map(|config| config.callers.len()), told.join("; "))
    };
    assert_eq!(told(&of(""), &[]), (Some(1), String::new()));
    assert_eq!(
        told(&of(&one.replace("https://auth.example\"", "https://b.example\"")), &[]),
        (Some(2), String::new())
    );
    assert_eq!(told(&of(&one.replace("\"relay\"", "\"other\"")), &[]), (Some(2), String::new()));
    let same =
        "9: two [[callers]] have the same issuer and audience: which rules hold for a token is unclear";
    assert_eq!(told(&of(one), &[]), (None, same.to_owned()));
    let prefixed = |own: &str, other: &str| {
        let other = one.replace("\"relay\"", "\"other\"") + &format!("customer_prefix = \"{other}\"\n");
        of(&other).replacen("algorithms", &format!("customer_prefix = \"{own}\"\nalgorithms"), 1)
    };
    assert_eq!(told(&prefixed("a/", "b/"), &[]), (Some(2), String::new()));
    assert_eq!(told(&prefixed("", "b/"), &[]), (Some(2), String::new()));
    let (count, warned) = told(&prefixed("a", "ab"), &[]);
    assert!(
        count == Some(2) && warned.contains("one customer_prefix is the beginning of another"),
        "{warned}"
    );
    let twice = of("[callers]\n");
    assert!(told(&twice, &[]).1.contains("written twice"));
    let none = format!("callers = []\n{head}[keys]{rest}");
    assert!(told(&none, &[]).1.contains("callers is an empty list"));
    let text = format!("callers = [\"https://auth.example\"]\n{head}[keys]{rest}");
    assert!(told(&text, &[]).1.contains("[[callers]] is a list of tables; this is a text"));
    let (_, variable) = told(&of(""), &[("RELAY__CALLERS__ISSUER", "https://other.example")]);
    assert!(
        variable.contains("this variable sets a key of a table that relay.toml does not have"),
        "{variable}"
    );
}

#[test]
fn integrations_and_fields_keep_the_order_of_the_file() {
    let more = "[integrations.a]\nupstream = \"https://a.example\"\nfields = { user = { secret = false }, pass = {} }\ninject = [{ header = \"authorization\", value = \"basic(user, pass)\" }]\n";
    let config = usable(&format!("{GOOD}{more}"), &[]);
    let names: Vec<_> = config.integrations.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["erp", "a"]);
    let fields: Vec<_> =
        config.integrations.last().unwrap().fields.iter().map(|f| f.spec.name.as_str()).collect();
    assert_eq!(fields, ["user", "pass"]);
}

#[test]
fn no_damage_to_the_text_makes_relay_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        // xorshift64: the same damage each time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let mut refused = 0;
    for round in 0..600 {
        let mut bytes = REFERENCE.as_bytes().to_vec();
        if round % 2 == 0 {
            bytes.truncate(next(bytes.len()));
        }
        for _ in 0..next(6) {
            let at = next(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = if round % 3 == 0 {
                    *b"[]{}\"'=,.#\n".get(next(11)).unwrap()
                } else {
                    u8::try_from(next(256)).unwrap()
                };
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let (config, report) = judged(&text, &[]);
        assert!(config.is_some() || report.errors() > 0, "{report}");
        let drawn = report.to_string().len() + report.render(true).len();
        refused += usize::from(report.errors() > 0 && drawn > 0);
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn check_says_what_is_wrong_by_its_exit_code_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    std::fs::write(&path, GOOD).unwrap();
    let judge = |format| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check::run(&path, format, &variables(&[]), &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let (code, out, _) = judge(check::Format::Plain);
    assert_eq!(code, 0);
    assert!(out.ends_with("relay.toml: valid, errors: 0, warnings: 2\n"), "{out}");
    std::fs::write(&path, GOOD.replace("inject =", "inejct =")).unwrap();
    let (code, _, err) = judge(check::Format::Plain);
    assert_eq!(code, 3);
    assert!(err.contains("did you mean \"inject\"?"));
    assert!(judge(check::Format::Fancy).2.contains("did you mean"));
    let (code, out, err) = judge(check::Format::Json);
    assert_eq!((code, err.as_str()), (3, ""));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json.get("valid").unwrap(), false);
    let findings = json.get("findings").unwrap().as_array().unwrap();
    let unknown = findings.iter().find(|f| f.get("line").unwrap() == 21).unwrap();
    assert_eq!(unknown.get("column").unwrap(), 1);
    assert_eq!(unknown.get("severity").unwrap(), "error");
    assert_eq!(unknown.get("fix").unwrap(), "write inject");
    assert!(unknown.get("file").unwrap().as_str().unwrap().ends_with("relay.toml"));
}

fn initialised(folder: &Path, local_issuer: bool) -> (u8, String) {
    let key = |path: &Path| std::fs::write(path, "stand-in").map_err(|e| e.to_string());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = init::run(folder, local_issuer, key, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap() + &String::from_utf8(err).unwrap())
}

#[test]
fn init_writes_a_configuration_that_runs_and_secrets_that_only_their_owner_reads() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("new");
    let (code, said) = initialised(&folder, true);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("its holder is every customer"));
    let loaded = config::load(&folder.join("relay.toml"), &[]);
    let Ok(loaded) = loaded else { panic!("{}", loaded.err().unwrap()) };
    assert_eq!(loaded.warnings.findings().len(), 0, "{}", loaded.warnings);
    assert_eq!(loaded.config.integrations.len(), 1);
    assert_eq!(loaded.config.callers[0].issuer, init::LOCAL_ISSUER);
    assert_eq!(loaded.config.admin.token.len(), 43);
    for (name, mode) in [("admin.token", 0o600), ("issuer.key", 0o600)] {
        let found = std::fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
        let content = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(!said.contains(content.trim()), "{name} is not printed");
    }
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_token_signed_with_the_local_issuers_key_is_good_by_its_jwks() {
    use jsonwebtoken::jwk::JwkSet;
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(initialised(folder.path(), true).0, 0);
    let pem = std::fs::read(folder.path().join("issuer.key")).unwrap();
    let jwks: JwkSet =
        serde_json::from_slice(&std::fs::read(folder.path().join("jwks.json")).unwrap()).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ec_pem(&pem).unwrap();
    let claims = serde_json::json!({ "aud": "relay", "exp": 4_000_000_000_u64 });
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    let jwk = jwks.keys.first().unwrap();
    assert!(jwk.common.key_id.as_ref().is_some_and(|kid| kid.len() == 43));
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.set_audience(&["relay"]);
    let public = jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap();
    jsonwebtoken::decode::<serde_json::Value>(&token, &public, &rules).unwrap();
}

#[test]
fn without_a_local_issuer_init_says_where_the_real_ones_keys_go() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = initialised(folder.path(), false);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("jwks.json") && !folder.path().join("issuer.key").exists());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let file = folder.path().join("relay.toml");
    assert_eq!(check::run(&file, check::Format::Plain, &[], &mut out, &mut err), 0);
    assert_eq!(String::from_utf8(err).unwrap().matches("warning").count(), 1, "only jwks.json is missing");
}

#[test]
fn init_overwrites_nothing_and_leaves_nothing_half_done() {
    for there in ["relay.toml", "relay.key", "admin.token", "issuer.key", "jwks.json"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(there), "mine").unwrap();
        let (code, said) = initialised(folder.path(), true);
        assert_eq!(code, 1, "{there}");
        assert!(said.contains(there), "{said}");
        assert_eq!(std::fs::read_to_string(folder.path().join(there)).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{there}: nothing else is written");
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/nonexistent/elsewhere", folder.path().join("admin.token")).unwrap();
    assert_eq!(initialised(folder.path(), false).0, 1, "a dangling link counts as there");
    // Somebody else writes admin.token between the check and the writing.
    let folder = tempfile::tempdir().unwrap();
    let race = |path: &Path| {
        std::fs::write(path, "key").unwrap();
        std::fs::write(path.with_file_name("admin.token"), "theirs").map_err(|e| e.to_string())
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(init::run(folder.path(), false, race, &mut out, &mut err), 1);
    assert_eq!(std::fs::read_to_string(folder.path().join("admin.token")).unwrap(), "theirs");
    assert!(!folder.path().join("relay.key").exists(), "what the failed run wrote is gone");
}

#[test]
fn a_secret_that_others_may_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/relay.toml")).unwrap();
    let token = folder.path().join("admin.token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    for (mode, wanted) in [(0o644, true), (0o640, true), (0o600, false)] {
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
        let (_, report) = config::examine(&text, "relay.toml", folder.path(), &[], Files::Optional);
        let told = report.to_string().contains("[admin] token can be read by other users");
        assert_eq!(told, wanted, "{mode:o}: {report}");
    }
}
