//! `relay catalog`: list, search, show.
//!
//! Nothing runs and nothing is read: the catalogue is built in. What must never enter: a value of a secret.

use clap::Subcommand;
use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::{Context, Format};
use crate::catalog::{self, About, Entry, PREFIX};
use crate::config;

/// Where relay listens unless told otherwise, for the examples.
const RELAY: &str = "http://127.0.0.1:8480";

/// Works on the catalogue of vendors.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists every vendor that `use` can name: relay catalog list
    List,
    /// Lists those with this word in their name or description: relay catalog search crm
    Search {
        /// The word
        word: String,
    },
    /// Shows what an entry stands for, and how a vendor's SDK is pointed here: relay catalog show slack
    Show {
        /// The entry
        name: String,
    },
}

/// Runs one of them.
///
/// # Errors
/// If there is no such entry.
pub(super) fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => {
            let all = described(|_, _| true)?;
            list(context, &all)
        }
        Command::Search { word } => {
            let word = word.to_lowercase();
            let found = described(|entry, about| matches(entry, about, &word))?;
            if found.is_empty() {
                return Err(unknown(&word));
            }
            list(context, &found)
        }
        Command::Show { name } => {
            let plain = name.to_lowercase();
            let plain = plain.strip_prefix(PREFIX).unwrap_or(&plain);
            let entry = catalog::find(plain).ok_or_else(|| unknown(plain))?;
            if !entry.needs().is_empty() {
                let needs = entry.needs().join(" and ");
                let words = format!("{PREFIX}{} needs {needs}, which relay does not have yet", entry.name);
                return Err(Failure::new(Exit::Denied, words));
            }
            show(context, entry)
        }
    }
}

type Described = (&'static Entry, About);

fn described(wanted: impl Fn(&Entry, &About) -> bool) -> Result<Vec<Described>, Failure> {
    let mut found = Vec::new();
    for entry in catalog::usable() {
        let about = about(entry)?;
        if wanted(entry, &about) {
            found.push((entry, about));
        }
    }
    Ok(found)
}

fn about(entry: &Entry) -> Result<About, Failure> {
    entry.about().map_err(|why| Failure::because(&format!("the entry {} is broken", entry.name), &why))
}

fn matches(entry: &Entry, about: &About, word: &str) -> bool {
    let words = about.words.iter().map(String::as_str);
    words.chain([entry.name, about.title.as_str()]).any(|text| text.to_lowercase().contains(word))
}

fn unknown(word: &str) -> Failure {
    let near = config::nearest(word, catalog::usable().map(|entry| entry.name));
    let words = match near {
        Some(near) => format!("the catalogue has no such entry; did you mean {near}?"),
        None => "the catalogue has no such entry; `relay catalog list` shows them all".to_owned(),
    };
    Failure::new(Exit::Denied, words)
}

fn list(context: &mut Context, found: &[Described]) -> Result<(), Failure> {
    if context.format == Format::Json {
        let all = found.iter().map(|(entry, about)| {
            json!({ "name": entry.name, "use": format!("{PREFIX}{}", entry.name), "title": about.title,
                    "docs": about.docs, "words": about.words })
        });
        return context.json(&all.collect());
    }
    for (entry, about) in found {
        context.line(&format!("{:<18} {:<28} {}", entry.name, about.title, about.docs))?;
    }
    Ok(())
}

fn show(context: &mut Context, entry: &Entry) -> Result<(), Failure> {
    let about = about(entry)?;
    let settings = entry.settings().map_err(Failure::failed)?;
    let settings: Value = serde_json::to_value(settings).map_err(Failure::failed)?;
    let sdk: Vec<String> = about.sdk.iter().map(|line| filled(line, entry.name)).collect();
    if context.format == Format::Json {
        let shown = json!({ "name": entry.name, "use": format!("{PREFIX}{}", entry.name), "about": about,
                            "integration": settings, "sdk": sdk });
        return context.json(&shown);
    }
    context.line(&format!("# {}: {}", about.title, about.docs))?;
    context.line(&format!("[integrations.{}]\nuse = \"{PREFIX}{}\"\n", entry.name, entry.name))?;
    context
        .line("# What it stands for. A line of your own, without the #, takes the place of one of these:")?;
    for line in entry.written().lines() {
        context.line(format!("# {line}").trim_end())?;
    }
    context.line("")?;
    for line in fields(&settings) {
        context.line(&format!("# field {line}"))?;
    }
    let add = "relay secret add --customer CUSTOMER --integration";
    context.line(&format!("# to seal one: {add} {} < FILE", entry.name))?;
    context
        .line(&format!("# base URL in your code: {RELAY}/{}/UUID, and the JWT for the key", entry.name))?;
    for line in &sdk {
        context.line(&format!("# SDK {line}"))?;
    }
    for note in about.no_verify.iter().chain(&about.notes) {
        context.line(&format!("# note: {note}"))?;
    }
    Ok(())
}

fn filled(line: &str, name: &str) -> String {
    line.replace("{relay}", RELAY)
        .replace("{integration}", name)
        .replace("{secret}", "UUID")
        .replace("{jwt}", "JWT")
}

/// `token: Bot token, such as xoxb-...; see https://...`
fn fields(settings: &Value) -> Vec<String> {
    let text = |field: &Value, key: &str| field.get(key).and_then(Value::as_str).map(str::to_owned);
    let all = settings.get("fields").and_then(Value::as_object).into_iter().flatten();
    all.map(|(name, field)| {
        let example = text(field, "example").map(|example| format!(", such as {example}"));
        let help = text(field, "help").map(|help| format!("; see {help}"));
        let public = field.get("secret") == Some(&Value::Bool(false));
        format!(
            "{name}: {}{}{}{}",
            text(field, "label").unwrap_or_default(),
            if public { " (not secret)" } else { "" },
            example.unwrap_or_default(),
            help.unwrap_or_default()
        )
    })
    .collect()
}
