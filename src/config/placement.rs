//! Where a credential goes, ready to be used: `inject` of an integration, judged.
//!
//! What a place means for the request is `stage::inject`'s; here stands only what configuration says of it.
//! What must never enter: a place that the app could choose; plaintext.

use http::HeaderName;

use super::callers::unescaped;
use super::template::{Part, Template};

/// Where a credential goes, and how what stands there is built.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The place.
    pub at: Where,
    /// What stands there, before it is escaped for the place.
    pub value: Template,
}

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// A header field.
    Header(HeaderName),
    /// A parameter of the query, by its decoded name.
    Query(String),
    /// The first segments behind the base path.
    Path(Vec<Segment>),
    /// A cookie.
    Cookie(String),
    /// A member of a JSON body.
    Json(Pointer),
    /// A field of an `application/x-www-form-urlencoded` body, by its decoded name.
    Form(String),
}

impl Placement {
    /// The header that it is, if it is one.
    pub const fn header(&self) -> Option<&HeaderName> {
        match &self.at {
            Where::Header(name) => Some(name),
            Where::Query(_) | Where::Path(_) | Where::Cookie(_) | Where::Json(_) | Where::Form(_) => None,
        }
    }

    /// Whether the body must be whole for it.
    pub const fn is_in_body(&self) -> bool {
        matches!(self.at, Where::Json(_) | Where::Form(_))
    }
}

/// One segment of a path placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Written as it is.
    Fixed(String),
    /// Has a field in it: what stands before the first and behind the last.
    Open(String, String),
}

impl Segment {
    /// What stands at the field's place in a segment that the app wrote; `None` if it is another segment.
    pub fn filled<'a>(&self, given: &'a str) -> Option<&'a str> {
        match self {
            Self::Fixed(text) => (given == text).then_some(""),
            Self::Open(before, behind) => {
                let inner = given.strip_prefix(before.as_str())?.strip_suffix(behind.as_str())?;
                (!inner.is_empty()).then_some(inner)
            }
        }
    }

    /// The segments of a template that begins with a slash.
    ///
    /// # Errors
    /// Says what cannot stand in a path.
    pub fn all_of(template: &Template) -> Result<Vec<Self>, &'static str> {
        let Template::Text(parts) = template else {
            return Err("basic() and base64() cannot stand in a path");
        };
        let mut segments: Vec<Self> = Vec::new();
        for part in parts {
            match part {
                Part::Literal(text) => {
                    if !text.bytes().all(|byte| byte == b'/' || stands_in_segment(byte)) {
                        return Err(
                            "a path's own text is letters, digits and -._~:@!$&'()*+,= between slashes",
                        );
                    }
                    let mut pieces = text.split('/');
                    if let Some(first) = pieces.next().filter(|first| !first.is_empty()) {
                        segments.last_mut().ok_or("it does not begin with a slash")?.extend(first);
                    }
                    segments.extend(pieces.map(|piece| Self::Fixed(piece.to_owned())));
                }
                Part::Field(_) => {
                    let last = segments.last_mut().ok_or("it does not begin with a slash")?;
                    let before = match last {
                        Self::Fixed(text) | Self::Open(text, _) => std::mem::take(text),
                    };
                    *last = Self::Open(before, String::new());
                }
            }
        }
        let dots = |text: &str| matches!(text, "" | "." | "..");
        if segments.iter().any(|segment| matches!(segment, Self::Fixed(text) if dots(text))) {
            return Err("it has an empty segment or one of dots");
        }
        Ok(segments)
    }

    fn extend(&mut self, more: &str) {
        match self {
            Self::Fixed(text) | Self::Open(_, text) => text.push_str(more),
        }
    }
}

/// What stands in a segment for itself and is no path parameter (RFC 3986 section 3.3).
const fn stands_in_segment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b':'
                | b'@'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
        )
}

/// An RFC 6901 pointer through objects: the names of members, from the outermost in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    way: Vec<String>,
    member: String,
}

impl Pointer {
    /// Reads `/auth/token`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > 256 || text.chars().any(char::is_control) {
            return Err("a pointer here is at most 256 bytes without control characters");
        }
        let pointer = text.strip_prefix('/').ok_or("a pointer (RFC 6901) begins with a slash")?;
        let steps: Option<Vec<String>> = pointer.split('/').map(unescaped).collect();
        let mut way = steps.ok_or("a pointer (RFC 6901) has ~ only before 0 or 1")?;
        let member = way.pop().unwrap_or_default();
        if member.is_empty() || way.iter().any(String::is_empty) {
            return Err("a pointer here has no empty part between its slashes");
        }
        Ok(Self { way, member })
    }

    /// The members to go through.
    pub fn way(&self) -> &[String] {
        &self.way
    }

    /// The member that is set.
    pub fn member(&self) -> &str {
        &self.member
    }

    /// Whether one of the two leads to, or through, what the other sets.
    pub fn meets(&self, other: &Self) -> bool {
        let steps = |pointer: &Self| -> Vec<String> {
            pointer.way.iter().chain([&pointer.member]).cloned().collect()
        };
        let (one, other) = (steps(self), steps(other));
        one.starts_with(&other) || other.starts_with(&one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_placement_is_cut_into_segments() {
        let open = |before: &str, behind: &str| Segment::Open(before.to_owned(), behind.to_owned());
        let rows = [
            ("/bot{token}", Some(vec![open("bot", "")]), "text before"),
            ("/{token}.json", Some(vec![open("", ".json")]), "text behind"),
            ("/a{id}:{token}z", Some(vec![open("a", "z")]), "two fields"),
            (
                "/v1/{id}/x",
                Some(vec![Segment::Fixed("v1".into()), open("", ""), Segment::Fixed("x".into())]),
                "three segments",
            ),
            ("bot{token}", None, "no slash"),
            ("{token}/x", None, "a field without a slash"),
            ("/bot{token}/", None, "a slash at its end"),
            ("//{token}", None, "an empty segment"),
            ("/../{token}", None, "dots"),
            ("/a?b={token}", None, "a query"),
            ("/a;b={token}", None, "a path parameter"),
            ("/a%2F{token}", None, "an escape"),
            ("base64({token})", None, "a function"),
        ];
        for (text, wanted, mistake) in rows {
            let found = Segment::all_of(&Template::parse(text).unwrap()).ok();
            assert_eq!(found, wanted, "{mistake}");
        }
        assert_eq!(open("bot", "").filled("bot1:a"), Some("1:a"));
        assert_eq!(open("bot", "").filled("bot"), None, "nothing at the field's place");
        assert_eq!(open("ab", "bc").filled("abc"), None, "the texts may not overlap");
    }

    #[test]
    fn pointers_lead_to_a_member() {
        let parsed = |text: &str| Pointer::parse(text).ok().map(|p| (p.way, p.member));
        assert_eq!(parsed("/a~1b/~0c"), Some((vec!["a/b".to_owned()], "~c".to_owned())));
        for text in ["", "/", "a", "/a/", "//a", "/~2", "#/a"] {
            assert_eq!(parsed(text), None, "{text}");
        }
        let meets = |a: &str, b: &str| Pointer::parse(a).unwrap().meets(&Pointer::parse(b).unwrap());
        assert!(meets("/a", "/a/b") && meets("/a/b", "/a") && meets("/a", "/a"));
        assert!(!meets("/a/b", "/a/c") && !meets("/a", "/ab"));
    }
}
