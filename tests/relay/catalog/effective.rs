//! What `relay check --effective` says holds is what holds, and it shows no secret.

use std::path::Path;

use relay::config::effective::{Origin, Setting, shown};
use relay::config::{self, Report};

use super::GENERAL;

const REFERENCE: &str = include_str!("../../../relay.toml");

fn effective(text: &str, variables: &[(&str, &str)]) -> (Vec<Setting>, Report) {
    let mut environment = vec![("ADMIN".to_owned(), "a".repeat(32))];
    environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    config::effective(text, "relay.toml", Path::new("/nonexistent"), &environment)
}

fn find<'a>(settings: &'a [Setting], table: &str, key: &str) -> &'a Setting {
    let found = settings.iter().find(|setting| setting.table == table && setting.key == key);
    found.unwrap_or_else(|| panic!("[{table}] {key} is not among {settings:#?}"))
}

#[test]
fn each_value_is_told_with_where_it_comes_from() {
    let text = format!(
        "{GENERAL}[integrations.gh]\nuse = \"catalog:github\"\nrate = 5\nfields.token.label = \"Robot\"\nfields.bare = {{}}\n"
    );
    let (settings, report) = effective(&text, &[("RELAY__SERVER__GRACE", "7s")]);
    assert_eq!(report.errors(), 0, "{report}");
    let line = |line| Origin::File { file: "relay.toml".to_owned(), line };
    let catalog = Origin::Catalog { entry: "github".to_owned() };
    let rows = [
        ("server", "listen", "\"127.0.0.1:8480\"", line(2), "written"),
        (
            "server",
            "grace",
            "\"7s\"",
            Origin::Variable { name: "RELAY__SERVER__GRACE".to_owned() },
            "a variable",
        ),
        ("server", "admin_listen", "\"127.0.0.1:8481\"", Origin::Default, "a default"),
        ("server.limits", "head_bytes", "32768", Origin::Default, "a default of a table that is not there"),
        ("callers", "jwks", "\"file:jwks.json\"", line(4), "what is fetched is not"),
        ("callers", "leeway", "\"30s\"", Origin::Default, "a default beside what is written"),
        ("store", "engine", "\"sled\"", Origin::Default, "a choice"),
        ("admin", "token", "\"env:ADMIN\"", line(17), "a secret's reference"),
        ("integrations.gh", "use", "\"catalog:github\"", line(19), "use itself"),
        ("integrations.gh", "upstream", "\"https://api.github.com\"", catalog.clone(), "the entry"),
        ("integrations.gh", "rewrite", "[\"json\"]", catalog.clone(), "a list of the entry"),
        ("integrations.gh", "rate", "5", line(20), "beside the entry"),
        ("integrations.gh", "http2", "true", Origin::Default, "neither"),
        ("integrations.gh.fields.token", "label", "\"Robot\"", line(21), "over the entry"),
        ("integrations.gh.fields.token", "example", "\"github_pat_...\"", catalog, "below it"),
        ("integrations.gh.fields.token", "secret", "true", Origin::Default, "in a table of the entry"),
        ("integrations.gh.fields.bare", "label", "\"bare\"", Origin::Default, "a field's own name"),
        ("integrations.gh.timeout", "idle", "\"5m\"", Origin::Default, "in a table that is not there"),
    ];
    for (table, key, value, origin, what) in rows {
        let found = find(&settings, table, key);
        assert_eq!((found.value.to_string().as_str(), &found.origin), (value, &origin), "{what}");
    }
    assert!(!settings.iter().any(|setting| setting.key == "public_url"), "what is not set is not said");
}

#[test]
fn no_secret_is_shown_wherever_it_comes_from() {
    let keys = "provider = \"transit\"\naddress = \"https://bao.example:8200\"\nkey = \"relay\"\ntoken = \"file:bao.token\"\n\
                previous = [{ provider = \"transit\", address = \"https://old.example:8200\", key = \"k\", token = \"env:OLD\" }]";
    let text = GENERAL.replace("provider = \"local\"\nfile = \"relay.key\"", keys);
    let secret = "canary-canary-canary-canary-canary-canary";
    let variables = [("RELAY__ADMIN__TOKEN", secret), ("OLD", secret), ("RELAY__KEYS__TOKEN", secret)];
    let (settings, report) = effective(&text, &variables);
    assert_eq!(report.errors(), 0, "{report}");
    let said = shown(&settings) + &serde_json::to_string(&settings).unwrap();
    assert!(!said.contains("canary"), "{said}");
    assert_eq!(find(&settings, "admin", "token").value, "(not shown)");
    assert_eq!(find(&settings, "keys", "token").value, "(not shown)");
    assert_eq!(find(&settings, "keys", "previous").value[0]["token"], "env:OLD");
}

#[test]
fn what_is_not_valid_has_no_effect_to_show() {
    let text =
        GENERAL.replace("token = \"env:ADMIN\"", "token = \"a-secret-that-was-written-here-literally\"");
    let (settings, report) = effective(&text, &[]);
    assert!(settings.is_empty() && report.errors() == 1, "{report}");
}

#[test]
fn what_is_shown_is_itself_a_relay_toml_that_means_the_same() {
    let text = format!("{GENERAL}[integrations.sms]\nuse = \"catalog:twilio\"\nrate = 5\n");
    let (settings, _) = effective(&text, &[]);
    let printed = shown(&settings);
    let (again, report) = effective(&printed, &[]);
    assert_eq!(report.errors(), 0, "{report}\n{printed}");
    let plain = |settings: &[Setting]| -> Vec<(String, String, String)> {
        let one = |s: &Setting| (s.table.clone(), s.key.clone(), s.value.to_string());
        settings.iter().map(one).collect()
    };
    assert_eq!(plain(&settings), plain(&again));
    let several = text.replace("[callers]", "[[callers]]");
    assert_eq!(find(&effective(&several, &[]).0, "callers[0]", "leeway").value, "30s");
}

#[test]
fn the_defaults_are_those_of_the_reference() {
    let text = format!(
        "{GENERAL}[integrations.erp]\nupstream = \"https://erp.example\"\ninject = [{{ header = \"a\", value = \"{{token}}\" }}]\n"
    );
    let (settings, report) = effective(&text, &[]);
    assert_eq!(report.errors(), 0, "{report}");
    let reference: toml::Table = REFERENCE.parse().unwrap();
    let mut compared = 0;
    for setting in settings.iter().filter(|setting| setting.origin == Origin::Default) {
        // Three integrations of the reference show what one may have.
        let shown = ["slack", "erp", "intranet"].into_iter().find_map(|name| {
            let path = setting.table.replace("integrations.erp", &format!("integrations.{name}"));
            let table = path
                .split('.')
                .try_fold(&toml::Value::Table(reference.clone()), |table, part| table.get(part))
                .cloned();
            table?.get(&setting.key).cloned()
        });
        let Some(shown) = shown else { continue };
        if ["plaintext_danger", "fields"].contains(&setting.key.as_str()) {
            continue; // Examples there.
        }
        compared += 1;
        assert_eq!(
            serde_json::to_value(shown).unwrap(),
            setting.value,
            "[{}] {}",
            setting.table,
            setting.key
        );
    }
    assert!(compared >= 25, "{compared}");
}

#[test]
fn every_default_of_the_reference_is_known() {
    // A key that stands uncommented and is neither required nor an example shows its default.
    let text = format!(
        "{GENERAL}[integrations.erp]\nupstream = \"https://erp.example\"\ninject = [{{ header = \"a\", value = \"{{token}}\" }}]\n"
    );
    let (settings, _) = effective(&text, &[]);
    let (mut table, mut missing) = (String::new(), Vec::new());
    let mut example = false;
    for line in REFERENCE.lines() {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_matches(['[', ']']).to_owned();
            for name in ["slack", "intranet"] {
                table = table.replace(&format!("integrations.{name}"), "integrations.erp");
            }
        }
        if line.starts_with('#') {
            example = line.contains("xample.") || (example && !line.is_empty());
            continue;
        }
        let Some((key, _)) = line.split_once('=').filter(|(key, _)| !key.starts_with([' ', '['])) else {
            example &= !line.is_empty();
            continue;
        };
        let told = line.contains("required") || line.contains("example") || example;
        let key = key.trim();
        let known = settings.iter().any(|setting| setting.table == table && setting.key == key);
        if !told && !known && !table.contains(".fields") && key != "inject" && key != "upstream" {
            missing.push(format!("[{table}] {key}"));
        }
    }
    assert_eq!(missing, [""; 0], "defaults that src/config/defaults.rs does not have");
}
