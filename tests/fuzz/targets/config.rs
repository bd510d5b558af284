//! relay.toml: whatever is written is judged without a panic, and a configuration that is refused says why.
//!
//! Input: the text; what stands behind a line of `%%` is the environment, a `NAME=value` a line.

use std::path::Path;

use relay::config::{Files, Severity, examine};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, environment) = text.split_once("\n%%\n").unwrap_or((text, ""));
    // Not this machine's files: what they hold is no part of the input.
    if text.contains("file:/") || environment.contains("file:/") {
        return;
    }
    let environment: Vec<(String, String)> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let folder = Path::new("/nonexistent/relay");
    let (config, report) = examine(text, "relay.toml", folder, &environment, Files::Optional);
    let errors = report.findings().iter().filter(|finding| finding.severity == Severity::Error).count();
    assert!(config.is_none() || errors == 0, "a configuration with errors is not used");
    let (plain, fancy) = (report.render(false), report.render(true));
    assert_eq!(plain.is_empty() && fancy.is_empty(), report.findings().is_empty());
    let (strict, report) = examine(text, "relay.toml", folder, &environment, Files::Required);
    assert!(strict.is_none(), "no configuration runs without its files");
    assert!(!report.findings().is_empty(), "a refused configuration says why");
    let Some(config) = config else { return };
    for integration in &config.integrations {
        let secure = integration.origin.is_secure();
        assert!(secure || (integration.plaintext_danger && !integration.private_cidrs.is_empty()));
        assert!(integration.base_path.is_empty() || integration.base_path.starts_with('/'));
        assert!(!integration.base_path.ends_with('/'));
        assert!(!integration.inject.is_empty());
    }
}
