//! The catalogue: every entry is good by the reader of relay.toml, and `use` lays one below an integration.

/// `relay check --effective`: what holds, and where each value comes from.
mod effective;

use std::collections::BTreeSet;
use std::path::Path;

use relay::catalog::{self, Entry};
use relay::config::{self, Config, Files, Report, Severity};

/// A relay.toml that is good but for what is put behind it.
const GENERAL: &str = r#"[server]
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
path = "relay.db"
[audit]
path = "audit.jsonl"
[admin]
token = "env:ADMIN"
"#;

fn judged(integrations: &str, variables: &[(&str, &str)]) -> (Option<Config>, Report) {
    let mut environment = vec![("ADMIN".to_owned(), "a".repeat(32))];
    environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let text = format!("{GENERAL}{integrations}");
    config::examine(&text, "relay.toml", Path::new("/nonexistent"), &environment, Files::Optional)
}

fn usable(integrations: &str) -> Config {
    let (config, report) = judged(integrations, &[]);
    config.unwrap_or_else(|| panic!("{report}"))
}

/// `line: message | fix` of each error, the line counted from the first integration.
fn errors(integrations: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let (_, report) = judged(integrations, variables);
    let errors = report.findings().iter().filter(|finding| finding.severity == Severity::Error);
    let before = GENERAL.lines().count();
    errors
        .map(|finding| {
            let place = finding
                .line
                .map_or_else(|| finding.file.clone(), |line| line.saturating_sub(before).to_string());
            format!("{place}: {} | {}", finding.message, finding.fix.as_deref().unwrap_or_default())
        })
        .collect()
}

/// What is wrong with an entry, whatever it is: nothing, for those that are built in.
fn wrong(entry: &Entry) -> Vec<String> {
    let mut wrong = Vec::new();
    let about = match entry.about() {
        Ok(about) => about,
        Err(why) => return vec![why],
    };
    let settings = entry.settings().unwrap();
    let name = entry.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !name || entry.name.len() > 40 {
        wrong.push("its name is no good name for an integration".to_owned());
    }
    if about.title.is_empty() || !about.docs.starts_with("https://") || about.words.is_empty() {
        wrong.push("title, docs or words are missing".to_owned());
    }
    if about.sdk.is_empty()
        || !about.sdk.iter().all(|line| line.contains("{jwt}") || line.contains("\"any\""))
    {
        wrong.push("no line shows where a client puts the JWT".to_owned());
    }
    if settings.contains_key("verify") == about.no_verify.is_some() {
        wrong.push("it has a verification call or says why not".to_owned());
    }
    if toml::from_str::<toml::Table>(entry.written()).ok().as_ref() != Some(&settings) {
        wrong.push("[integration] is not the last table".to_owned());
    }
    let fields = settings.get("fields").and_then(toml::Value::as_table);
    let fields = fields.cloned().unwrap_or_default();
    let labelled = |field: &toml::Value| field.get("label").is_some();
    let helped = |field: &toml::Value| {
        field.get("help").is_some() || field.get("secret") == Some(&toml::Value::Boolean(false))
    };
    if fields.is_empty() || !fields.values().all(|field| labelled(field) && helped(field)) {
        wrong.push("each field has a label, and each secret one the page where it is found".to_owned());
    }
    wrong.extend(credentials(entry.text));
    wrong
}

/// Words that look like somebody's credential: long, of letters and digits, in no address.
fn credentials(text: &str) -> Vec<String> {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c));
    let mut found = Vec::new();
    for quoted in text.split(['"', '\'', ' ']).filter(|quoted| !quoted.contains("://")) {
        for word in quoted.split(odd) {
            let digits = word.bytes().filter(u8::is_ascii_digit).count();
            let letters = word.bytes().filter(u8::is_ascii_alphabetic).count();
            if word.len() >= 16 && digits >= 4 && letters >= 4 {
                found.push(format!("{word:?} looks like a credential"));
            }
        }
    }
    found
}

#[test]
fn every_entry_is_good_by_the_reader_of_relay_toml() {
    let mut wrong_entries = Vec::new();
    for entry in catalog::usable() {
        let integration = format!("[integrations.{0}]\nuse = \"catalog:{0}\"\n", entry.name);
        // What an entry leaves to the operator's own environment is there.
        let owned = entry.text.split("\"env:").skip(1).filter_map(|rest| rest.split('"').next());
        let owned: Vec<(&str, &str)> = owned.map(|name| (name, "somebodys-own")).collect();
        let (config, report) = judged(&integration, &owned);
        // The two files that are not there are all that is worth a word.
        if config.is_none() || report.warnings() != 2 {
            wrong_entries.push(format!("{}: {report}", entry.name));
            continue;
        }
        let integration = &config.unwrap().integrations[0];
        assert_eq!(integration.name.as_str(), entry.name);
        let placed = !integration.inject.is_empty() || entry.text.contains("\nsign = ");
        assert!(integration.origin.is_secure() && placed, "{}", entry.name);
        assert!(integration.fields.iter().any(|field| field.spec.secret), "{}", entry.name);
    }
    assert!(wrong_entries.is_empty(), "{}", wrong_entries.join("\n"));
}

#[test]
fn every_entry_says_what_people_need_and_holds_no_credential() {
    for entry in catalog::all() {
        assert_eq!(wrong(entry), [""; 0], "{}", entry.name);
    }
    assert!(catalog::usable().count() >= 60, "{}", catalog::usable().count());
}

#[test]
fn names_are_sorted_and_unique_and_each_file_is_listed() {
    let names: Vec<&str> = catalog::all().map(|entry| entry.name).collect();
    let sorted: BTreeSet<&str> = names.iter().copied().collect();
    assert!(sorted.iter().copied().eq(names.iter().copied()), "sorted and unique");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catalog");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|file| file.unwrap().file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
        .collect();
    assert!(files.iter().map(String::as_str).eq(sorted), "a file without its name, or a name without");
}

#[test]
fn an_entry_that_waits_says_what_for_and_cannot_be_used() {
    for entry in catalog::all().filter(|entry| !entry.needs().is_empty()) {
        let known = ["hosts", "login", "oauth2", "placements", "sign"];
        assert!(entry.needs().iter().all(|need| known.contains(need)), "{}: {:?}", entry.name, entry.needs());
        let found = errors(&format!("[integrations.x]\nuse = \"catalog:{}\"\n", entry.name), &[]);
        let wanted = format!("catalog:{} needs {}", entry.name, entry.needs().join(" and "));
        assert!(found.len() == 1 && found[0].contains(&wanted), "{found:?}");
    }
}

#[test]
fn the_checks_of_entries_can_fail() {
    let good = catalog::find("github").unwrap().text;
    let rows = [
        ("title = \"GitHub", "titel = \"GitHub", "unknown field", "a key of [about] misspelled"),
        ("words = [", "words = []\nnotes = [", "title, docs or words", "nothing to find it by"),
        ("sdk = [", "sdk = []\nnotes = [", "puts the JWT", "no SDK"),
        ("verify =", "# verify =", "says why not", "no verification"),
        ("label = ", "scrub = ", "label", "a field without a label"),
        ("help = ", "match = ", "the page where it is found", "a secret field without a link"),
        ("github_pat_...", "github_pat_11AB22CD33EF44GH", "looks like a credential", "a whole key"),
        ("[integration]", "[integration]\n[integration.timeout]", "", "a table behind the settings"),
    ];
    for (from, to, said, mistake) in rows {
        assert!(good.contains(from), "{mistake}");
        let entry = Entry { name: "github", text: good.replacen(from, to, 1).leak() };
        let found = wrong(&entry);
        assert!(found.iter().any(|found| found.contains(said)), "{mistake}: {found:?}");
    }
    let entry = Entry { name: "Git Hub", text: good };
    assert!(wrong(&entry).iter().any(|found| found.contains("name")));
}

#[test]
fn an_integrations_own_keys_take_the_place_of_the_entrys_one_by_one() {
    let own = r#"
[integrations.gh]
use = "catalog:github"
deny = ["* /gists/**"]
timeout = { connect = "1s" }
rate = 5
[integrations.gh.fields]
token = { label = "Robot's token" }
[integrations.plain]
use = "catalog:github"
"#;
    let config = usable(own);
    let [gh, plain] = &config.integrations[..] else { panic!("two") };
    let asked =
        "Robot's token, such as github_pat_...; see https://github.com/settings/personal-access-tokens";
    assert_eq!(gh.fields[0].asked(), asked, "a table merges");
    assert!(gh.fields[0].spec.secret);
    assert_eq!(gh.deny.len(), 1, "a list is replaced");
    assert_eq!((gh.timeout.connect.as_secs(), gh.timeout.idle.as_secs()), (1, 300));
    assert_eq!((gh.rate, gh.rewrite_json), (Some(5), true), "what is not written is the entry's");
    assert_eq!((gh.origin.to_string().as_str(), gh.base_path.as_str()), ("https://api.github.com", ""));
    assert!(plain.deny.len() > 1 && plain.rate.is_none(), "one integration's keys are not another's");

    let own = "[integrations.gl]\nuse = \"catalog:gitlab\"\nupstream = \"https://git.acme.example\"\n\
               rewrite = []\ninject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";
    let gl = &usable(own).integrations[0];
    assert_eq!(gl.origin.to_string(), "https://git.acme.example", "a text is replaced");
    assert!(!gl.rewrite_json, "and a list, also by an empty one");
    let inject = format!("{:?}", gl.inject);
    assert!(inject.contains("authorization") && !inject.contains("private-token"), "{inject}");
    assert_eq!(gl.allow.len(), 2, "the rest stays");
}

#[test]
fn fields_stay_in_the_entrys_order_whatever_of_them_is_written_again() {
    let names = |own: &str| -> Vec<String> {
        let config = usable(own);
        config.integrations[0].fields.iter().map(|field| field.spec.name.to_string()).collect()
    };
    let own = "[integrations.sms]\nuse = \"catalog:twilio\"\n";
    assert_eq!(names(own), ["account_sid", "auth_token"]);
    assert_eq!(names(&format!("{own}fields.account_sid.label = \"SID\"\n")), ["account_sid", "auth_token"]);
    assert_eq!(names(&format!("{own}fields.auth_token.label = \"Key\"\n")), ["account_sid", "auth_token"]);
}

#[test]
fn a_variable_chooses_the_entry_and_overrides_its_keys() {
    let own = "[integrations.crm]\nuse = \"catalog:hubspot\"\n";
    let variables =
        [("RELAY__INTEGRATIONS__CRM__USE", "catalog:attio"), ("RELAY__INTEGRATIONS__CRM__HTTP2", "false")];
    let (config, report) = judged(own, &variables);
    let config = config.unwrap_or_else(|| panic!("{report}"));
    assert_eq!(config.integrations[0].origin.to_string(), "https://api.attio.com");
    assert!(!config.integrations[0].http2);
    let found = errors(own, &[("RELAY__INTEGRATIONS__CRM__USE", "attio")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("RELAY__INTEGRATIONS__CRM__USE: [integrations.crm] use names no entry"));
}

/// What is written behind `[integrations.x]`, and each error that follows.
#[rustfmt::skip]
const MISTAKES: &[(&str, &[&str], &str)] = &[
    ("use = \"slack\"", &["2: [integrations.x] use names no entry of the catalogue | write use = \"catalog:NAME\"; `relay catalog list` shows them all"], "no prefix"),
    ("use = \"catalog:slakc\"", &["2: [integrations.x] use: there is no such entry in the catalogue; did you mean catalog:slack? | write use = \"catalog:slack\""], "a slip"),
    ("use = \"catalog:zzzzzzzz\"", &["2: [integrations.x] use: there is no such entry in the catalogue | `relay catalog list` shows them all"], "another word"),
    ("use = [\"catalog:slack\"]", &["2: [integrations.x] use must be a text in quotes | write use = \"catalog:NAME\""], "a list"),
    ("use = \"env:ENTRY\"", &["2: [integrations.x] use names no entry of the catalogue | write use = \"catalog:NAME\"; `relay catalog list` shows them all"], "a reference"),
    ("use = \"catalog:slakc\"\nrate = 0", &["2: [integrations.x] use: there is no such entry in the catalogue; did you mean catalog:slack? | write use = \"catalog:slack\"", "3: [integrations.x] rate must be a whole number from 1 to 1000000 | write a number from 1 to 1000000"], "a second mistake is said as well"),
    ("use = \"catalog:slack\"\nfields.token = 5", &["3: [integrations.x.fields.token] is a table, not a whole number | write [integrations.x.fields.token] on a line of its own"], "a scalar over a table"),
    ("use = \"catalog:slack\"\nfields = { key = { label = \"Key\" } }\ninject = [{ header = \"x-key\", value = \"{kee}\" }]", &["4: inject of [integrations.x]: {kee} is not one of its fields; did you mean {key}? | write {key}"], "a field of neither"),
    ("use = \"catalog:slack\"\ninejct = []", &["3: unknown key \"inejct\" in [integrations.x]; did you mean \"inject\"? | write inject"], "an unknown key beside use"),
    ("use = \"catalog:slack\"\nfields.token.secret = false\nfields.token.example = \"xoxb\"", &[], "an example of what is no secret may be whole"),
    ("use = \"catalog:slack\"\nfields.token.help = \"http://slack.example\"", &["3: [integrations.x.fields.token] help is no https:// address of at most 300 bytes | write where a person finds the value: help = \"https://vendor.example/settings/keys\""], "help without TLS"),
    ("use = \"catalog:slack\"\nfields.token.help = \"https://u@slack.example\"", &["3: [integrations.x.fields.token] help is no https:// address of at most 300 bytes | write where a person finds the value: help = \"https://vendor.example/settings/keys\""], "help with a user in it"),
    ("use = \"catalog:slack\"\nfields.token.example = \"xoxb-whole\"", &["3: [integrations.x.fields.token] example of a secret must be cut off visibly | write how it begins: example = \"xoxb-...\""], "a whole example of a secret"),
    ("use = \"catalog:slack\"\nfields.token.example = \"...\\u0007\"", &["3: [integrations.x.fields.token] example is 1 to 80 bytes without control characters | write what a value looks like"], "a control character"),
];

#[test]
fn each_mistake_beside_use_is_said_where_it_is() {
    for (own, wanted, mistake) in MISTAKES {
        let found = errors(&format!("[integrations.x]\n{own}\n"), &[]);
        assert_eq!(found, *wanted, "{mistake}");
    }
}

#[test]
fn what_does_not_fit_an_entry_any_more_is_said_at_its_use() {
    // The entry's own template names a field that the integration has made something else of.
    let own = "[integrations.x]\nuse = \"catalog:slack\"\nplaintext_danger = true\n";
    let (_, report) = judged(own, &[]);
    let said = report.to_string();
    assert!(said.contains("plaintext_danger changes nothing"), "{said}");
    let own = "[integrations.x]\nuse = \"catalog:twilio\"\ninject = [{ header = \"a\", value = \"{auth_token}\" }]\n";
    let (_, report) = judged(own, &[]);
    let said = report.to_string();
    let wanted = "warning: no placement uses the field \"account_sid\" (from catalog:twilio: account_sid)\n   19 | use = \"catalog:twilio\"";
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn a_whole_example_of_a_secret_is_not_quoted() {
    let own = "[integrations.x]\nuse = \"catalog:slack\"\nfields.token = { example = \"xoxb-somebodys\" }\n";
    let (_, report) = judged(own, &[]);
    assert!(!report.to_string().contains("somebodys"), "{report}");
}
