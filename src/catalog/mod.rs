//! The catalogue: what vendors' own documentation says about their APIs, a small TOML file each, built in.
//!
//! An entry's `[integration]` is what a user would write in relay.toml and is read by the same code; its
//! `[about]` is for people. What must never enter: a credential, an address that no vendor documents, a
//! setting that relay.toml does not have. An entry that is wrong sends customers' credentials to the wrong
//! place, so an entry that is not certain stays out.

mod entries;

use serde::{Deserialize, Serialize};

/// What stands before an entry's name in `use`.
pub const PREFIX: &str = "catalog:";

/// How the line begins that says what an entry needs that relay does not have yet.
const NEEDS: &str = "# needs:";

/// The header behind which the settings stand, to the end of the file.
const SETTINGS: &str = "\n[integration]\n";

/// One vendor's API.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, which is also a good name for the integration.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

/// `[about]`: what people want to know.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// What the vendor calls it.
    pub title: String,
    /// The vendor's reference of this API.
    pub docs: String,
    /// More words to find it by.
    #[serde(default)]
    pub words: Vec<String>,
    /// What points the vendor's own SDKs here. `{relay}`, `{integration}` and `{secret}` make the base URL;
    /// `{jwt}` is the caller's token, for the place of the API key.
    #[serde(default)]
    pub sdk: Vec<String>,
    /// Why no call can tell whether a credential is good.
    pub no_verify: Option<String>,
    /// What else is worth knowing.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: About,
    integration: toml::Table,
}

impl Entry {
    /// What it needs that relay does not have yet: mostly nothing.
    pub fn needs(&self) -> Vec<&'static str> {
        let first = self.text.lines().next().and_then(|line| line.strip_prefix(NEEDS));
        first.into_iter().flat_map(|list| list.split(',')).map(str::trim).collect()
    }

    /// What people want to know.
    ///
    /// # Errors
    /// Says what is wrong with the file; the tests see to it that nothing is.
    pub fn about(&self) -> Result<About, String> {
        toml::from_str::<File>(self.text).map(|file| file.about).map_err(|error| error.to_string())
    }

    /// The settings as values.
    ///
    /// # Errors
    /// As [`Entry::about`].
    pub fn settings(&self) -> Result<toml::Table, String> {
        toml::from_str::<File>(self.text).map(|file| file.integration).map_err(|error| error.to_string())
    }

    /// The settings as they are written.
    pub fn written(&self) -> &'static str {
        self.text.split_once(SETTINGS).map_or("", |(_, settings)| settings.trim_end())
    }
}

/// Every entry that can be used, by name.
pub fn usable() -> impl Iterator<Item = &'static Entry> {
    all().filter(|entry| entry.needs().is_empty())
}

/// Every entry, also those that wait for what relay does not have yet.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    entries::ENTRIES.iter()
}

/// The entry of that name, also one that waits.
pub fn find(name: &str) -> Option<&'static Entry> {
    all().find(|entry| entry.name == name)
}
