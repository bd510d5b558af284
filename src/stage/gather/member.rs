//! Where a member stands, or would stand, in the text of a JSON object.
//!
//! Only the objects on the way are read, each once; every other byte stays as it is. A name that stands twice on
//! the way is refused: vendors differ in which of the two counts. What must never enter: a value that is written
//! into the text; a reordering.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::placement::Pointer;

/// Where the member's value goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joint {
    /// In place of these bytes.
    Instead(Range<usize>),
    /// As a new member at this byte, the last one of its object; `first` if the object is empty.
    New {
        /// Just before the object's closing brace.
        at: usize,
        /// Whether no member stands before it.
        first: bool,
    },
}

/// Finds the joint of `pointer` in `text`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn joint(text: &str, pointer: &Pointer) -> Result<Joint, &'static str> {
    let mut object = text;
    for step in pointer.way() {
        let within = Object::read(object, step)?.wanted;
        object = within.ok_or("it has no object where the credential's member belongs")?;
    }
    let found = Object::read(object, pointer.member())?;
    if let Some(value) = found.wanted {
        let begin = offset(text, value);
        return Ok(Joint::Instead(begin..begin + value.len()));
    }
    let object = object.trim_end();
    Ok(Joint::New { at: offset(text, object) + object.len() - 1, first: found.is_empty })
}

/// Where `part`, a piece of `text`, begins in it.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(text.as_ptr().addr())
}

/// One object of the text.
struct Object<'t> {
    /// The wanted member's value as it is written.
    wanted: Option<&'t str>,
    is_empty: bool,
}

impl<'t> Object<'t> {
    fn read(text: &'t str, wanted: &str) -> Result<Self, &'static str> {
        if !text.trim_start().starts_with('{') {
            return Err("it is not an object where the credential's member belongs");
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let read = reader.deserialize_map(Reading(wanted)).and_then(|found| reader.end().map(|()| found));
        match read {
            Ok(Ok(object)) => Ok(object),
            Ok(Err(Twice)) => Err("one of its members stands twice"),
            Err(_) => Err("it is not valid JSON"),
        }
    }
}

struct Twice;

struct Reading<'w>(&'w str);

impl<'t> Visitor<'t> for Reading<'_> {
    type Value = Result<Object<'t>, Twice>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut wanted, mut names, mut twice) = (None, HashSet::new(), false);
        while let Some((name, value)) = members.next_entry::<String, &'t RawValue>()? {
            if name == self.0 {
                wanted = Some(value.get());
            }
            twice |= !names.insert(name);
        }
        Ok(if twice { Err(Twice) } else { Ok(Object { wanted, is_empty: names.is_empty() }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_replaced_or_added_and_no_other_byte_changes() {
        let rows = [
            (r#"{"a":1}"#, "/a", r#"{"a":X}"#, "replaced"),
            (r#"{"\u0061" : [1, {"a":2}] }"#, "/a", r#"{"\u0061" : X }"#, "an escaped name"),
            (" {\n} ", "/a", " {\nX} ", "an empty object"),
            (r#"{"b":1 }"#, "/a", r#"{"b":1 ,X}"#, "added"),
            (r#"{"b":{"a":"x","c":1},"a":0}"#, "/b/a", r#"{"b":{"a":X,"c":1},"a":0}"#, "deep"),
            (r#"{"b":{"c":{}}}"#, "/b/c/a", r#"{"b":{"c":{X}}}"#, "added deep"),
            (r#"{"b":{"a":1,"a":2},"x":{}}"#, "/x/a", r#"{"b":{"a":1,"a":2},"x":{X}}"#, "twice elsewhere"),
        ];
        for (text, pointer, wanted, what) in rows {
            let found = match joint(text, &Pointer::parse(pointer).unwrap()).unwrap() {
                Joint::Instead(place) => {
                    let (before, behind) = (text.get(..place.start).unwrap(), text.get(place.end..).unwrap());
                    format!("{before}X{behind}")
                }
                Joint::New { at, first } => {
                    let (before, behind) = text.split_at(at);
                    format!("{before}{}X{behind}", if first { "" } else { "," })
                }
            };
            assert_eq!(found, wanted, "{what}");
        }
        for (text, pointer, mistake) in [
            (r#"{"a":1,"\u0061":2}"#, "/a", "a name twice"),
            (r#"{"b":1,"b":2}"#, "/a", "another name twice"),
            (r#"{"b":{"c":1,"c":2},"a":1}"#, "/b/a", "twice on the way"),
            (r#"{"b":[{}]}"#, "/b/a", "an array on the way"),
            (r#"{"b":[{}]}"#, "/b/0/a", "an index"),
            (r#"{"b":"{}"}"#, "/b/a", "a text on the way"),
            (r#"{}"#, "/b/a", "nothing on the way"),
            ("[]", "/a", "an array"),
            ("", "/a", "nothing"),
            ("{} {}", "/a", "two objects"),
            (r#"{"a":1,}"#, "/a", "a comma too many"),
            ("\u{feff}{}", "/a", "a byte order mark"),
            (r#"{"a":01}"#, "/a", "no JSON number"),
        ] {
            assert!(joint(text, &Pointer::parse(pointer).unwrap()).is_err(), "{mistake}: {text}");
        }
    }
}
