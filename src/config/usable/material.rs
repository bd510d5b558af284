//! Texts with fields in them, JSON pointers and the operator's own values: what `oauth2` and `login` are made of.
//!
//! What must never enter: a literal credential. It is refused and never quoted.

use super::super::renewal::Material;
use super::super::report::Place;
use super::super::template::Template;
use super::super::written::{Given, Table, Written};
use super::super::{FieldSetting, environment};
use crate::model::{FieldName, Origin};

type Fields = [(FieldSetting, Place)];

/// Where the integration's own calls go, and whether its operator opened plaintext.
pub(super) struct Around<'a> {
    pub(super) upstream: Option<&'a Origin>,
    /// Whether that is each customer's own.
    pub(super) per_customer: bool,
    pub(super) plaintext: bool,
}

/// Reads the keys of one table against the fields.
pub(super) struct Reader<'w, 'a, 'f> {
    pub(super) written: &'w mut Written<'a>,
    pub(super) fields: &'f Fields,
    pub(super) used: &'f mut Vec<FieldName>,
}

impl Reader<'_, '_, '_> {
    /// A path with fields in it.
    pub(super) fn path(&mut self, table: &Table<'_>, key: &str, given: &Given<String>) -> Option<Template> {
        let text = if given.value.is_empty() { "/" } else { &given.value };
        let clear = text.bytes().all(|b| (0x21..0x7f).contains(&b)) && !text.contains(['#', '\\', '@']);
        let dots = text.split(['/', '?']).any(|segment| segment == "." || segment == "..");
        if !text.starts_with('/') || !clear || dots {
            let message = format!("{} {key} has no clear path", table.shown);
            self.written.mask(&given.place);
            self.written.findings.error(
                &given.place,
                message,
                "write it like /oauth/token, without dot segments",
            );
            return None;
        }
        self.template(table, key, &given.place, text)
    }

    /// A JSON pointer (RFC 6901).
    pub(super) fn pointer(&mut self, table: &Table<'_>, key: &str) -> Option<String> {
        let given = self.written.text(table, key)?;
        if !given.value.starts_with('/') || given.value.chars().any(char::is_control) {
            let message = format!("{} {key} is no JSON pointer", table.shown);
            self.written.findings.error(&given.place, message, "begin it with a slash: \"/data/token\"");
            return None;
        }
        Some(given.value)
    }

    /// Every key of a table whose names people choose.
    pub(super) fn all(&mut self, table: &Table<'_>) -> Vec<(String, Material)> {
        let names: Vec<String> = table.in_order().into_iter().map(|(name, ..)| name.to_owned()).collect();
        let mut all = Vec::new();
        for name in names {
            all.extend(self.material(table, &name).map(|value| (name, value)));
        }
        all
    }

    /// What stands under `key`, else the field of that name, if it is declared.
    pub(super) fn material_or_field(&mut self, table: &Table<'_>, key: &str) -> Option<Material> {
        if table.entry(key).is_some() {
            return self.material(table, key);
        }
        // A variable may set it, too.
        if let Some(value) = self.material(table, key) {
            return Some(value);
        }
        let place = table.place.clone();
        self.declared(key)
            .then(|| self.template(table, key, &place, &format!("{{{key}}}")))?
            .map(Material::Fields)
    }

    /// The value under `key`: fields, or the operator's own from outside the text.
    pub(super) fn material(&mut self, table: &Table<'_>, key: &str) -> Option<Material> {
        let given = self.written.raw(table, key)?;
        let outside =
            environment::source(&given.value).is_some() || matches!(given.place, Place::Variable(_));
        if outside {
            return self.written.secret(table, key, 1).map(|given| Material::Owned(given.value));
        }
        let template = self.template(table, key, &given.place, &given.value)?;
        if template.fields().is_empty() && is_credential(key) {
            self.written.mask(&given.place);
            let message = format!("{} {key} is a secret and may not stand in relay.toml itself", table.shown);
            let fix = format!(
                "write {key} = \"file:PATH\", {key} = \"env:NAME\" or a field {{{key}}}, and replace this secret"
            );
            self.written.findings.error(&given.place, message, fix);
            return None;
        }
        Some(Material::Fields(template))
    }

    fn declared(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field.spec.name.as_str() == name)
    }

    /// Text with fields in it, each of them declared.
    pub(super) fn template(
        &mut self,
        table: &Table<'_>,
        key: &str,
        place: &Place,
        text: &str,
    ) -> Option<Template> {
        let template = match Template::parse(text) {
            Ok(template @ Template::Text(_)) => template,
            wrong => {
                self.written.mask(place);
                let problem = wrong.err().unwrap_or_else(|| "it is text with {field} in it".to_owned());
                self.written.findings.error(
                    place,
                    format!("{} {key}: {problem}", table.shown),
                    "write \"{field}\"",
                );
                return None;
            }
        };
        for name in template.fields() {
            if !self.declared(name.as_str()) {
                let message = format!("{} {key}: {{{name}}} is not one of its fields", table.shown);
                self.written.findings.error(place, message, format!("declare {name} in fields"));
                return None;
            }
            self.used.push(name.clone());
        }
        Some(template)
    }
}

/// Whether a name is one that credentials have.
fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "key"
        || ["secret", "password", "passwd", "token", "api_key", "apikey"]
            .iter()
            .any(|word| name.contains(word))
}
