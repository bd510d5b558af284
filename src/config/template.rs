//! How a placement's value is built from a secret's fields.
//!
//! `Bearer {token}`, or `basic(user, password)`, and nothing else. Parsed and checked against the
//! declared fields before relay starts; a template that names an unknown field never gets here. The
//! rendering itself is `stage::inject`'s: no plaintext enters this file.

use crate::model::FieldName;

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// Text with fields in it.
    Text(Vec<Part>),
    /// `basic(user, password)`: RFC 7617. Each argument is itself text with fields, written as in
    /// `basic({user}, {password})` or bare field names.
    Basic {
        /// Before the colon.
        user: FieldName,
        /// Behind it.
        password: FieldName,
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
            return Ok(Self::Basic { user: field(user)?, password: field(password)? });
        }
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
                _ => return Err("a header value is visible ASCII and spaces".to_owned()),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self::Text(parts))
    }

    /// The fields it names, in order.
    pub fn fields(&self) -> Vec<&FieldName> {
        match self {
            Self::Basic { user, password } => vec![user, password],
            Self::Text(parts) => parts
                .iter()
                .filter_map(|part| match part {
                    Part::Field(name) => Some(name),
                    Part::Literal(_) => None,
                })
                .collect(),
        }
    }
}

fn field(text: &str) -> Result<FieldName, String> {
    // What stands there instead may be the credential itself, so it is not repeated.
    FieldName::parse(text.trim()).map_err(|wanted| wanted.to_string())
}
