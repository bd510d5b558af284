//! How a placement's value is built from a secret's fields.
//!
//! `Bearer {token}`, `basic(user, password)` or `Basic base64({token}:)`, and nothing else. Parsed and checked against the
//! declared fields before relay starts; a template that names an unknown field never gets here. The
//! rendering itself is `stage::inject`'s: no plaintext enters this file.

use crate::model::FieldName;

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// Text with fields in it.
    Text(Vec<Part>),
    /// `basic(user, password)`: RFC 7617. The arguments are field names, bare or in braces.
    Basic {
        /// Before the colon.
        user: FieldName,
        /// Behind it.
        password: FieldName,
    },
    /// `base64(TEXT)` at the end of a text without fields: RFC 4648 section 4, with padding.
    Base64 {
        /// What stands before it, as written.
        before: String,
        /// What is encoded.
        inside: Vec<Part>,
    },
}

/// A piece of a text template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Goes out as written.
    Literal(String),
    /// The value of a field.
    Field(FieldName),
}

impl Part {
    /// What goes out as written; nothing of a field.
    pub fn literal(&self) -> &str {
        match self {
            Self::Literal(text) => text,
            Self::Field(_) => "",
        }
    }
}

impl Template {
    /// Reads a template; says what is wrong in words. `{{` and `}}` stand for the braces themselves.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(arguments) = text.strip_prefix("basic(").and_then(|t| t.strip_suffix(')')) {
            let (user, password) = arguments
                .split_once(',')
                .ok_or_else(|| "basic() takes two field names: basic(user, password)".to_owned())?;
            return Ok(Self::Basic { user: field(bare(user))?, password: field(bare(password))? });
        }
        if let Some((before, rest)) = text.split_once("base64(") {
            let inside = rest.strip_suffix(')').ok_or("base64( ends the template with its )")?;
            if inside.contains("base64(") || inside.contains("basic(") {
                return Err("base64() stands round text with fields, not round another function".to_owned());
            }
            let inside = parts(inside)?;
            return match parts(before)?.as_slice() {
                [] => Ok(Self::Base64 { before: String::new(), inside }),
                [Part::Literal(before)] => Ok(Self::Base64 { before: before.clone(), inside }),
                _ => Err("before base64() stands text without fields".to_owned()),
            };
        }
        parts(text).map(Self::Text)
    }

    /// The fields it names, in order.
    pub fn fields(&self) -> Vec<&FieldName> {
        match self {
            Self::Basic { user, password } => vec![user, password],
            Self::Text(parts) | Self::Base64 { inside: parts, .. } => parts
                .iter()
                .filter_map(|part| match part {
                    Part::Field(name) => Some(name),
                    Part::Literal(_) => None,
                })
                .collect(),
        }
    }

    /// The text that goes out as it is written.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        let (before, parts) = match self {
            Self::Basic { .. } => (Some("Basic "), None),
            Self::Base64 { before, .. } => (Some(before.as_str()), None),
            Self::Text(parts) => (None, Some(parts)),
        };
        before.into_iter().chain(parts.into_iter().flatten().filter_map(|part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Field(_) => None,
        }))
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.peek() == Some(&c) => {
                rest.next();
                literal.push(c);
            }
            '{' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(inside) => name.push(inside),
                        None => return Err("a { without its }".to_owned()),
                    }
                }
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Field(field(&name)?));
            }
            '}' => return Err("a } without its {".to_owned()),
            ' '..='~' => literal.push(c),
            _ => return Err("a value is visible ASCII and spaces".to_owned()),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// An argument without the braces round it.
fn bare(argument: &str) -> &str {
    let argument = argument.trim();
    argument.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(argument)
}

fn field(text: &str) -> Result<FieldName, String> {
    // What stands there instead may be the credential itself, so it is not repeated.
    FieldName::parse(text.trim()).map_err(|wanted| wanted.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_plainly_a_template_is_one() {
        let shown = |text: &str| match Template::parse(text) {
            Ok(template) => format!("{template:?}").replace("FieldName(\"", "").replace("\")", ""),
            Err(why) => why,
        };
        assert!(matches!(Template::parse("SSWS {token}"), Ok(Template::Text(parts)) if parts.len() == 2));
        assert_eq!(Template::parse("basic({user}, password)"), Template::parse("basic(user,password)"));
        assert!(
            matches!(Template::parse("Basic base64({token}:)"), Ok(Template::Base64 { before, inside }) if before == "Basic " && inside.len() == 2)
        );
        for (text, mistake) in [
            ("base64({token}", "not closed"),
            ("base64({token}) x", "text behind it"),
            ("base64(base64({token}))", "one in the other"),
            ("{user} base64({token})", "a field before it"),
            ("base64({token)", "a brace that is not closed"),
            ("basic({user})", "one argument"),
            ("{a}{", "a brace at the end"),
            ("a\nb", "a line break"),
        ] {
            assert!(Template::parse(text).is_err(), "{mistake}: {}", shown(text));
        }
    }
}
