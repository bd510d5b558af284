//! Asking a person for a secret's fields, one after the other, in the words of the configuration.
//!
//! A value that is secret is never echoed. What must never enter: a value in anything that is said.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::Context;
use super::exit::Failure;
use crate::config::FieldSetting;

/// A value for each field, from the terminal.
///
/// # Errors
/// If the terminal gives none.
pub(super) fn fields(
    context: &mut Context,
    fields: &[FieldSetting],
) -> Result<BTreeMap<String, Zeroizing<String>>, Failure> {
    let mut values = BTreeMap::new();
    for field in fields {
        let value = if field.spec.secret {
            Zeroizing::new(rpassword::prompt_password(question(field)).map_err(Failure::failed)?)
        } else {
            context.say(&question(field));
            let mut line = Zeroizing::new(String::new());
            std::io::stdin().read_line(&mut line).map_err(Failure::failed)?;
            Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned())
        };
        // Nothing typed is no value: what relay needs, it asks for by name.
        if !value.is_empty() {
            values.insert(field.spec.name.to_string(), value);
        }
    }
    Ok(values)
}

fn question(field: &FieldSetting) -> String {
    format!("{}{}: ", field.asked(), if field.spec.secret { " (not shown)" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FieldName, FieldSpec};

    #[test]
    fn a_person_is_asked_in_the_words_of_the_configuration() {
        let mut field = FieldSetting {
            spec: FieldSpec { name: FieldName::parse("token").unwrap(), secret: true },
            label: "Bot token".to_owned(),
            help: Some("https://api.slack.com/apps".to_owned()),
            example: Some("xoxb-...".to_owned()),
            scrub_off_danger: false,
            optional: false,
            pem: false,
            pattern: None,
        };
        let wanted = "Bot token, such as xoxb-...; see https://api.slack.com/apps (not shown): ";
        assert_eq!(question(&field), wanted);
        field.spec.secret = false;
        (field.help, field.example) = (None, None);
        assert_eq!(question(&field), "Bot token: ");
    }
}
