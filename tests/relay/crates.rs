use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// One crate that is compiled into relay or runs while it is built.
struct Crate {
    name: String,
    version: String,
    licence: String,
}

/// What relay is built with: a plain build, a release, each cloud alone, and PostgreSQL alone.
const BUILDS: [&[&str]; 6] = [
    &[],
    &["--features", "full"],
    &["--no-default-features", "--features", "aws"],
    &["--no-default-features", "--features", "azure"],
    &["--no-default-features", "--features", "gcp"],
    &["--no-default-features", "--features", "postgres"],
];

/// `cargo tree` of what such a build compiles.
fn listed(build: &[&str], more: &[&str]) -> String {
    #[allow(clippy::disallowed_methods)]
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let listed = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "-e", "normal,build", "--prefix", "none", "--no-dedupe"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .args(build)
        .args(more)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8(listed.stdout).unwrap()
}

fn tree(build: &[&str]) -> Vec<Crate> {
    let text = listed(build, &["-f", "{p}|{l}"]);
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
    let (plain, crates) = (tree(BUILDS[0]), tree(BUILDS[1]));
    assert!(plain.len() > 150 && crates.len() > plain.len(), "the trees were read");
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

/// Who asks for a crate directly.
fn wrappers(build: &[&str], name: &str) -> Vec<String> {
    let text = listed(build, &["--invert", name, "--depth", "1", "-f", "{p}"]);
    let lines = text.lines().filter(|line| !line.is_empty()).skip(1);
    lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn nothing_banned_is_compiled() {
    let rules = rules();
    let mut wrapped = 0;
    for build in BUILDS {
        let crates = tree(build);
        for entry in tables(&rules, "bans", "deny") {
            let banned = entry["crate"].as_str().unwrap();
            let (name, below) = banned.split_once(":<").map_or((banned, None), |(n, v)| (n, Some(v)));
            let hit = crates.iter().find(|one| {
                let major = one.version.split('.').next().unwrap();
                let is_below = |below: &str| major.parse::<u32>().unwrap() < below.parse().unwrap();
                one.name == name && below.is_none_or(is_below)
            });
            let Some(hit) = hit else { continue };
            // Let in beneath these alone.
            let may: Vec<&str> = entry.get("wrappers").map_or_else(Vec::new, |list| {
                list.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect()
            });
            let by = if may.is_empty() { Vec::new() } else { wrappers(build, name) };
            let wanted = !by.is_empty() && by.iter().all(|one| may.contains(&one.as_str()));
            assert!(wanted, "{build:?}: {} {} by {by:?}: {}", hit.name, hit.version, entry["reason"]);
            wrapped += 1;
        }
    }
    assert_eq!(wrapped, 2, "reqwest, in a release and with Google's alone: who asks for it was looked at");
}

#[test]
fn a_second_version_has_a_reason() {
    let rules = rules();
    let skipped: Vec<&str> =
        tables(&rules, "bans", "skip").iter().map(|entry| entry["crate"].as_str().unwrap()).collect();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // A release compiles all that the other builds do.
    for one in tree(BUILDS[1]) {
        if !skipped.contains(&format!("{}@{}", one.name, one.version).as_str()) {
            versions.entry(one.name).or_default().push(one.version);
        }
    }
    let twice: Vec<_> = versions.into_iter().filter(|(_, versions)| versions.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
