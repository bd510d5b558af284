//! A credential that exists only in one test, and the hunt for every way it could be written.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

pub struct Canary(String);

impl Canary {
    pub fn fresh() -> Self {
        Self(format!("sk-canary-{}", uuid::Uuid::new_v4().simple()))
    }

    pub fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// Every form found in `bytes`, named with `place`.
    pub fn hunt(&self, place: &str, bytes: &[u8]) -> Vec<String> {
        let found = self.forms().into_iter().filter(|(_, form)| memchr::memmem::find(bytes, form).is_some());
        found.map(|(name, _)| format!("{name} in {place}")).collect()
    }

    fn forms(&self) -> Vec<(String, Vec<u8>)> {
        let raw = self.0.as_bytes();
        let mut forms = vec![("raw".to_owned(), raw.to_vec())];
        for skip in 0..3 {
            // Whole groups of three bytes, so that neighbours do not matter.
            let part = &raw[skip..skip + (raw.len() - skip) / 3 * 3];
            forms.push((format!("base64 ({skip})"), STANDARD_NO_PAD.encode(part).into_bytes()));
            forms.push((format!("base64url ({skip})"), URL_SAFE_NO_PAD.encode(part).into_bytes()));
        }
        let hex: String = raw.iter().map(|b| format!("{b:02x}")).collect();
        forms.push(("upper hex".to_owned(), hex.to_uppercase().into_bytes()));
        forms.push(("hex".to_owned(), hex.into_bytes()));
        let percent: String = raw.iter().map(|b| format!("%{b:02X}")).collect();
        forms.push(("percent".to_owned(), percent.to_lowercase().into_bytes()));
        forms.push(("upper percent".to_owned(), percent.into_bytes()));
        forms.push(("percent of what must be".to_owned(), self.0.replace('-', "%2D").into_bytes()));
        let escaped: String = raw.iter().map(|b| format!("\\u{b:04x}")).collect();
        forms.push(("JSON escapes".to_owned(), escaped.into_bytes()));
        forms
    }
}
