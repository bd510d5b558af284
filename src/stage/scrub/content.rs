//! Which escapes an answer's content type can carry. When in doubt, they are looked for.
//!
//! What must never enter: a kind of content in which nothing is looked for at all.

use http::HeaderValue;

/// What may stand in a text, beyond what may stand in any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Entities of HTML and XML.
    pub(super) html: bool,
    /// Quoted-printable, with soft line breaks inside of words.
    pub(super) quoted: bool,
    /// Two bytes per character.
    pub(super) wide: bool,
}

impl Content {
    /// Anything.
    pub const fn any() -> Self {
        Self { html: true, quoted: true, wide: true }
    }

    /// By an answer's `Content-Type`.
    pub fn of(content_type: Option<&HeaderValue>) -> Self {
        let Some(text) = content_type.map(HeaderValue::as_bytes) else { return Self::any() };
        let text = text.trim_ascii();
        let begins =
            |with: &str| text.get(..with.len()).is_some_and(|t| t.eq_ignore_ascii_case(with.as_bytes()));
        if ["image/", "audio/", "video/", "font/"].into_iter().any(begins) {
            // An SVG is a text.
            let xml = memchr::memmem::find(&text.to_ascii_lowercase(), b"xml").is_some();
            return Self { html: xml, quoted: false, wide: xml };
        }
        // An event stream's lines end where they end: a soft break would hold an event back.
        let mail = ["text/", "message/", "multipart/", "application/octet-stream"];
        let quoted = mail.into_iter().any(begins) && !begins("text/event-stream");
        Self { html: true, quoted, wide: true }
    }
}
