use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// One crate that is compiled into relay or runs while it is built.
struct Crate {
    name: String,
    version: String,
    licence: String,
}

/// The tree that the default features compile, for `target`.
fn tree(target: &str) -> Vec<Crate> {
    #[allow(clippy::disallowed_methods)]
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let listed = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "-e", "normal,build", "--prefix", "none", "--no-dedupe"])
        .args(["--target", target, "-f", "{p}|{l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut crates: BTreeMap<String, Crate> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (package, licence) = line.split_once('|').unwrap();
        let mut words = package.split(' ');
        let (name, version) = (words.next().unwrap().to_owned(), words.next().unwrap()[1..].to_owned());
        crates.insert(package.to_owned(), Crate { name, version, licence: licence.to_owned() });
    }
    crates.into_values().collect()
}

fn rules() -> toml::Table {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo/deny.toml");
    std::fs::read_to_string(file).unwrap().parse().unwrap()
}

/// Whether an SPDX expression of `AND`, `OR` and `/` can be met by the allowed licences.
fn is_allowed(licence: &str, allowed: &[&str]) -> bool {
    let licence = licence.replace(['(', ')'], " ").replace('/', " OR ");
    licence.split(" AND ").all(|all| all.split(" OR ").any(|one| allowed.contains(&one.trim())))
}

fn tables<'a>(rules: &'a toml::Table, section: &str, list: &str) -> Vec<&'a toml::Table> {
    rules[section][list].as_array().unwrap().iter().map(|entry| entry.as_table().unwrap()).collect()
}

#[test]
fn every_licence_is_allowed() {
    let rules = rules();
    let allowed: Vec<&str> =
        rules["licenses"]["allow"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    let exceptions = tables(&rules, "licenses", "exceptions");
    let crates = tree("x86_64-unknown-linux-gnu");
    assert!(crates.len() > 150, "the tree was read");
    for one in crates {
        let excepted = exceptions.iter().any(|entry| {
            entry["crate"].as_str() == Some(&one.name)
                && is_allowed(&one.licence, &[entry["allow"][0].as_str().unwrap()])
        });
        assert!(
            excepted || is_allowed(&one.licence, &allowed),
            "{} {}: {}",
            one.name,
            one.version,
            one.licence
        );
    }
    assert!(!is_allowed("GPL-3.0 OR AGPL-3.0", &allowed) && !is_allowed("MIT AND GPL-3.0", &allowed));
}

#[test]
fn nothing_banned_is_compiled() {
    let rules = rules();
    let crates = tree("x86_64-unknown-linux-gnu");
    for entry in tables(&rules, "bans", "deny") {
        let banned = entry["crate"].as_str().unwrap();
        let (name, below) = banned.split_once(":<").map_or((banned, None), |(n, v)| (n, Some(v)));
        for one in crates.iter().filter(|one| one.name == name) {
            let major = one.version.split('.').next().unwrap();
            let hit = below.is_none_or(|below| major.parse::<u32>().unwrap() < below.parse().unwrap());
            assert!(!hit, "{} {}: {}", one.name, one.version, entry["reason"]);
        }
    }
}

#[test]
fn a_second_version_has_a_reason() {
    let rules = rules();
    let skipped: Vec<&str> =
        tables(&rules, "bans", "skip").iter().map(|entry| entry["crate"].as_str().unwrap()).collect();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in tree("x86_64-unknown-linux-gnu") {
        if !skipped.contains(&format!("{}@{}", one.name, one.version).as_str()) {
            versions.entry(one.name).or_default().push(one.version);
        }
    }
    let twice: Vec<_> = versions.into_iter().filter(|(_, versions)| versions.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
